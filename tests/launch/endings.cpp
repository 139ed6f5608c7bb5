// Ends in the way that is asked for, for endings.sh.
#include <csignal>
#include <cstdio>
#include <mobula/mobula.hpp>
#include <thread>

static void sleep_s(int s) { std::this_thread::sleep_for(std::chrono::seconds(s)); }
static long read_for_long(mobula::Ref<std::vector<int>> ref) {
  const auto view = mobula::view(ref);
  long sum = 0;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (std::chrono::steady_clock::now() < end) {
    for (const int i : view) sum += i;
  }
  return sum;
}
static int thrower() { throw std::invalid_argument("from a task"); }

int main(int argc, char** argv) {
  const std::string how = argc > 1 ? argv[1] : "";
  mobula::Ref<std::vector<int>> kept;
  const int code = mobula::run(argc, argv, [&]() -> int {
    mobula::remote<sleep_s>(0);
    if (how == "return3") return 3;
    if (how == "throw") throw std::runtime_error("the driver is unhappy");
    if (how == "task") mobula::get(mobula::remote<thrower>());
    if (how == "exit5") std::exit(5);
    if (how == "running") {
      for (int i = 0; i < 20; ++i) mobula::remote<sleep_s>(30);
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      return 4;
    }
    if (how == "reading") {  // tasks look at shared memory when the job ends
      kept = mobula::put(std::vector<int>(1'000'000, 1));
      for (int i = 0; i < 20; ++i) mobula::remote<read_for_long>(kept);
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
      return 6;
    }
    if (how == "late") kept = mobula::put(std::vector<int>(1'000'000, 1));
    if (how == "wait") {
      std::puts("ready");
      std::fflush(stdout);
      mobula::get(mobula::remote<sleep_s>(60));
    }
    if (how == "busy") {  // a driver that does not come back to the runtime
      std::puts("ready");
      std::fflush(stdout);
      sleep_s(60);
    }
    return 0;
  });
  if (kept && how == "late") {
    try {
      mobula::get(kept);
    } catch (const mobula::Error& e) {
      std::puts(e.what());
      return code;
    }
    return 9;
  }
  return code;
}
