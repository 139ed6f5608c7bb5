// Commands, tasks and actors in containers: contained IMAGE RUNTIME
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <mobula/mobula.hpp>
#include <span>
#include <string>
#include <thread>

namespace {

using namespace std::chrono_literals;

// The image has a file that says so.
std::string where() {
  std::string text;
  std::getline(std::ifstream("/etc/of-the-image"), text);
  const char* word = std::getenv("OF_IMAGE");
  return text + " " + (word != nullptr ? word : "") + " " + std::to_string(mobula::here().rank);
}
long sum(std::span<const long> values) {
  long s = 0;
  for (const long v : values) s += v;
  return s;
}
std::vector<long> ones(long n) { return std::vector<long>(static_cast<std::size_t>(n), 1); }
int crash() {
  std::printf("on the way down\n");
  std::abort();
}
int endless() {
  while (getpid() != 0) std::this_thread::yield();
  return 0;
}
struct Counter {
  long total = 0;
  long add(long n) { return total += n; }
  std::string where() { return ::where(); }
};

int g_wrong = 0;
void expect(bool good, const std::string& what) {
  if (good) return;
  ++g_wrong;
  std::printf("wrong: %s\n", what.c_str());
}

void try_commands(const mobula::container& image) {
  using mobula::command;
  const auto as_it_should = [](bool good, const char* what, const mobula::CommandResult& result) {
    expect(good, std::string(what) + ": code " + std::to_string(result.exit_code) + ", out " + result.out + ", err " +
                     result.err);
  };
  const auto seen = mobula::get(
      command({"/bin/sh", "-c", "echo $OF_IMAGE $OF_COMMAND; pwd; test -d /mnt/bin && cat"},
              {.isolation = image, .stdin_bytes = "input", .cwd = "/home", .env = {{"OF_COMMAND", "two"}}}));
  as_it_should(seen.exit_code == 0 && seen.out == "one two\n/home\ninput", "what it sees", seen);
  const auto five = mobula::get(command({"/bin/sh", "-c", "exit 5"}, {.isolation = image}));
  as_it_should(five.exit_code == 5, "exit code", five);
  std::vector<mobula::Ref<mobula::CommandResult>> many;
  for (int i = 0; i < 20; ++i) many.push_back(command({"/bin/echo", i}, {.isolation = image}));
  for (int i = 0; i < 20; ++i) {
    const auto result = mobula::get(many[static_cast<std::size_t>(i)]);
    as_it_should(result.out == std::to_string(i) + "\n", "one of many", result);
  }
  try {
    mobula::get(command({"/bin/sleep", 100}, {.timeout = 300ms, .isolation = image}));
    expect(false, "a command that sleeps has ended");
  } catch (const mobula::TimedOut&) {
  }
  mobula::container missing = image;
  missing.image = "/no/such/image.tar";
  try {
    mobula::get(command({"/bin/true"}, {.isolation = missing}));
    expect(false, "an image that is not there has run");
  } catch (const mobula::CommandFailed& e) {
    expect(std::string(e.what()).find("/no/such/image.tar is not on") != std::string::npos, e.what());
  }
}

void try_tasks(const mobula::container& image) {
  using mobula::get;
  using mobula::remote;
  const mobula::TaskOptions inside{.isolation = image};
  const std::string from = get(remote<where>.with(inside)());
  expect(from.starts_with("inside one "), "a task ran somewhere else: " + from);
  expect(get(remote<where>()).starts_with("  "), "a task ran in a container");
  expect(get(remote<sum>.with(inside)(remote<ones>(1'000'000))) == 1'000'000, "a large value");
  expect(get(remote<ones>.with(inside)(100'000)).size() == 100'000, "a large result");
  std::vector<long> xs(30, 7);
  for (const auto& values : get(remote<ones>.with(inside).map(xs))) expect(values.size() == 7, "one of many");
  try {
    get(remote<crash>.with(inside)());
    expect(false, "a crash was survived");
  } catch (const mobula::TaskCrashed& e) {
    expect(std::string(e.what()).find("on the way down") != std::string::npos, e.what());
  }
  try {
    get(remote<endless>.with({.timeout = 500ms, .isolation = image})());
    expect(false, "an endless task has ended");
  } catch (const mobula::TimedOut&) {
  }
  const auto counter = mobula::actor<Counter>.with({.restarts = 1, .isolation = image})();
  for (int i = 0; i < 10; ++i) remote<&Counter::add>(counter, i);
  expect(get(remote<&Counter::add>(counter, 0)) == 45, "an actor in a container");
  expect(get(remote<&Counter::where>(counter)).starts_with("inside one "), "an actor is somewhere else");
}

}  // namespace

int main(int argc, char** argv) {
  return mobula::run(argc, argv, [&] {
    const mobula::container image{
        .image = argv[1], .binds = {"/usr:/mnt"}, .env = {{"OF_IMAGE", "one"}}, .runtime = argv[2]};
    try_commands(image);
    try_tasks(image);
    return g_wrong == 0 ? 0 : 1;
  });
}
