// Giving the core away while something may come soon. Ranks that wait as well give it back at once. But whoever
// computes keeps it for all of its turn, which is a thousand times as long; beside such a thread it is better to sleep,
// since one that is woken comes before those that have computed.
#pragma once

#include <sched.h>

#include <algorithm>
#include <atomic>

#include "core/trace.hpp"

namespace mobula::exec {

using core::Time;

// Of one rank, used by any thread of it.
class Yields {
 public:
  // Whether a yield is likely to end soon.
  bool are_cheap(Time now) const { return now >= tries_again_.load(std::memory_order_relaxed); }
  // Yields, and notes what came of it. To be called without locks that others need.
  void yield() {
    const Time before = core::now();
    sched_yield();
    took(before, core::now());
  }
  void took(Time before, Time after) {
    if (after - before < kDear) {
      pause_.store(kPauseLeast, std::memory_order_relaxed);
      return;
    }
    const Time pause = pause_.load(std::memory_order_relaxed);
    tries_again_.store(after + pause, std::memory_order_relaxed);
    pause_.store(std::min(2 * pause, kPauseMost), std::memory_order_relaxed);
  }

 private:
  static constexpr Time kDear = 500'000;
  static constexpr Time kPauseLeast = 100'000'000;
  static constexpr Time kPauseMost = 1'600'000'000;
  std::atomic<Time> tries_again_{0};
  std::atomic<Time> pause_{kPauseLeast};
};

}  // namespace mobula::exec
