// Jobs with a journal.
//   durable many LOG N     N durable tasks. LOG gets a line for each that runs, and for each whose result was seen.
//   durable kinds LOG      one of each kind; LOG gets a line for each that runs
//   durable steps N        an actor counts N calls on from where an earlier job has left off, and prints the count
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mobula/mobula.hpp>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "note.hpp"

namespace {

using mobula::get;
using mobula::remote;
using mobula::TaskOptions;

void check(bool good, const char* what) {
  if (good) return;
  std::printf("FAILED: %s\n", what);
  throw std::runtime_error(what);
}

long square(long x, const std::string& log) {
  note(log, "ran " + std::to_string(x));
  std::this_thread::sleep_for(std::chrono::microseconds(50));
  return x * x;
}

void many(const std::string& log, long n) {
  note(log, "head " + std::to_string(getpid()));
  std::vector<long> xs(static_cast<std::size_t>(n));
  std::iota(xs.begin(), xs.end(), 0L);
  const auto squares = remote<square>.with({.durable = true}).map(xs, mobula::same(log));
  long sum = 0;
  long seen = 0;
  for (const auto& ref : mobula::as_completed(squares)) {
    const long value = get(ref);
    sum += value;
    ++seen;
    note(log, "seen " + std::to_string(value));
  }
  check(seen == n && sum == (n - 1) * n * (2 * n - 1) / 6, "the sum of squares");
  std::printf("right\n");
}

long small(long x, const std::string& log) {
  note(log, "small");
  return x + 1;
}
std::vector<long> large(long x, const std::string& log) {
  note(log, "large");
  return std::vector<long>(300'000, x);
}
long sum_of(const std::vector<long>& values, const std::string& log) {
  note(log, "sum_of");
  return std::accumulate(values.begin(), values.end(), 0L);
}
void nothing(const std::string& log) { note(log, "nothing"); }
long fails(const std::string& log) {
  note(log, "fails");
  throw std::runtime_error("as meant");
}
long asks(const std::string& log) {
  note(log, "asks");
  return get(remote<small>.with({.durable = true})(10, log));
}
mobula::Ref<long> gives_ref(const std::string& log) {
  note(log, "gives_ref");
  return remote<small>(20, log);
}
long takes_refs(const std::vector<mobula::Ref<long>>& refs) { return get(refs.front()); }

template <class Act>
bool throws_invalid(Act act) {
  try {
    act();
  } catch (const std::invalid_argument&) {
    return true;
  }
  return false;
}

void kinds(const std::string& log) {
  const TaskOptions durable{.durable = true};
  TaskOptions version = durable;
  version.version = "2";
  check(get(remote<small>.with(durable)(1, log)) == 2, "a small value");
  check(get(remote<small>.with(version)(1, log)) == 2, "another version");
  check(get(remote<small>(1, log)) == 2, "one that is not durable");
  const auto values = remote<large>.with(durable)(7, log);
  check(get(remote<sum_of>.with(durable)(values, log)) == 2'100'000, "of a large value");
  get(remote<nothing>.with(durable)(log));
  check(get(remote<asks>.with(durable)(log)) == 11, "one in another");
  check(get(get(remote<gives_ref>.with(durable)(log))) == 21, "one that gives a Ref");
  try {
    get(remote<fails>.with(durable)(log));
    check(false, "an exception");
  } catch (const std::runtime_error&) {
  }
  TaskOptions boxed = durable;
  boxed.isolation = mobula::sandbox{};
  check(get(remote<small>.with(boxed)(5, log)) == 6, "a sandbox");
  const auto said = mobula::command({"sh", "-c", "echo command >>\"$0\"; echo said", log}, {.durable = true});
  check(get(said).out == "said\n", "a command");
  const auto failed = mobula::command({"sh", "-c", "echo failed >>\"$0\"; exit 3", log}, {.durable = true});
  check(get(failed).exit_code == 3, "a command that fails");
  std::vector<long> xs{100, 200, 300};
  const auto all = remote<small>.with(durable).map(xs, mobula::same(log));
  check(get(all) == std::vector<long>{101, 201, 301}, "a map");
  check(throws_invalid([&] { remote<takes_refs>.with(durable)(std::vector{remote<small>.with(durable)(1, log)}); }),
        "Refs in arguments");
  check(throws_invalid([&] {
          remote<[](int x) { return x; }>.with(durable)(1);
          remote<[](int x) { return x + 1; }>.with(durable)(1);
        }),
        "functions that can't be told apart");
  check(throws_invalid([&] { mobula::keep("ref", remote<small>.with(durable)(1, log)); }), "a Ref by name");

  const auto before = mobula::kept<std::vector<std::string>>("days");
  std::printf("%s\n", before ? ("kept " + std::to_string(before->size())).c_str() : "none kept");
  auto days = before.value_or(std::vector<std::string>{});
  days.push_back("one more");
  mobula::keep("days", days);
  check(mobula::kept<std::vector<std::string>>("days") == days, "what this job has kept");
}

class Counter {
 public:
  int step() { return ++count_; }
  template <class Archive>
  void serialize(Archive& archive, unsigned) {
    archive& count_;
  }

 private:
  int count_ = 0;
};

void steps(int n) {
  const auto counter = mobula::actor<Counter>.with({.name = "steps", .checkpoint_every = 1, .durable = true})();
  int count = 0;
  for (int i = 0; i < n; ++i) count = get(remote<&Counter::step>(counter));
  std::printf("count %d\n", count);
}

}  // namespace

int main(int argc, char** argv) {
  return mobula::run(argc, argv, [&] {
    const std::string what = argc > 1 ? argv[1] : "";
    if (what == "many" && argc == 4) return many(argv[2], std::atol(argv[3]));
    if (what == "kinds" && argc == 3) return kinds(argv[2]);
    if (what == "steps" && argc == 3) return steps(std::atoi(argv[2]));
    throw std::invalid_argument("durable many LOG N | kinds LOG | steps N");
  });
}
