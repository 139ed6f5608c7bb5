// Jobs that are asked to end while they run.
//   drain tasks LOG N      N durable tasks of 50 ms, each in halves by two others. LOG gets a line for each that
//   begins,
//                          and for each that ends.
//   drain saves            keeps what it has seen, and returns 7
//   drain actor N          counts N steps, or till it is asked to end
//   drain long             a task that takes for ever
//   drain nap              the driver does
//   drain says N           a task that prints N lines
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <mobula/mobula.hpp>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "note.hpp"

namespace {

using namespace std::chrono_literals;
using mobula::get;
using mobula::remote;

long half(long x) {
  std::this_thread::sleep_for(25ms);
  return x;
}
long task(long x, const std::string& log) {
  note(log, "begins " + std::to_string(x));
  const long first = get(remote<half>(x));
  const long second = get(remote<half>(x));
  note(log, "ends " + std::to_string(x));
  return first + second;
}

void tasks(const std::string& log, long n) {
  std::vector<long> xs(static_cast<std::size_t>(n));
  std::iota(xs.begin(), xs.end(), 0L);
  std::puts("ready");
  std::fflush(stdout);
  const auto all = get(remote<task>.with({.durable = true}).map(xs, mobula::same(log)));
  std::printf("sum %ld\n", std::accumulate(all.begin(), all.end(), 0L));
}

int saves() {
  long seen = mobula::kept<long>("seen").value_or(0);
  std::printf("ready, seen %ld\n", seen);
  std::fflush(stdout);
  try {
    while (true) {
      get(remote<half>(seen));
      ++seen;
    }
  } catch (const mobula::Cancelled& e) {
    std::printf("asked to end, with time left: %s\n", mobula::time_left().nanoseconds > 0 ? "yes" : "no");
    mobula::keep("seen", seen);
    std::printf("kept %ld\n", seen);
    return 7;
  }
}

class Counter {
 public:
  long step() {
    std::this_thread::sleep_for(1ms);
    return ++count_;
  }
  template <class Archive>
  void serialize(Archive& archive, unsigned) {
    archive& count_;
  }

 private:
  long count_ = 0;
};

void actor(long n) {
  const auto counter =
      mobula::actor<Counter>.with({.name = "counter", .checkpoint_every = 1'000'000, .durable = true})();
  std::printf("ready, from %ld\n", get(remote<&Counter::step>(counter)));
  std::fflush(stdout);
  long count = 0;
  for (long i = 0; i < n; ++i) {
    count = get(remote<&Counter::step>(counter));
    if (mobula::time_left() != mobula::none) break;  // calls go on; the driver looks
  }
  std::printf("count %ld\n", count);
}

void say(long n) {
  for (long i = 0; i < n; ++i) std::printf("line %ld\n", i);
}

void endless() { std::this_thread::sleep_for(1000s); }

}  // namespace

int main(int argc, char** argv) {
  return mobula::run(argc, argv, [&]() -> int {
    const std::string what = argc > 1 ? argv[1] : "";
    if (what == "tasks" && argc == 4) {
      tasks(argv[2], std::atol(argv[3]));
    } else if (what == "saves") {
      return saves();
    } else if (what == "actor" && argc == 3) {
      actor(std::atol(argv[2]));
    } else if (what == "long") {
      const auto done = remote<endless>();
      std::puts("ready");
      std::fflush(stdout);
      get(done);
    } else if (what == "says" && argc == 3) {
      get(remote<say>(std::atol(argv[2])));
    } else if (what == "nap") {
      std::puts("ready");
      std::fflush(stdout);
      endless();
    } else {
      throw std::invalid_argument("drain tasks LOG N | saves | actor N | long | nap | says N");
    }
    return 0;
  });
}
