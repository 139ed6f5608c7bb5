// How a cost grows.
#pragma once

#include <time.h>

#include <algorithm>
#include <limits>

namespace mobula::tests {

inline double seconds_of_this_thread() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

// How many times the cost of n that of twice as many is: of the best of some tries each, as the machine is not quiet.
// `seconds(n)` says what n of them take.
template <class F>
double growth(int n, F&& seconds) {
  constexpr int kTries = 6;
  constexpr double kWell = 2.3;
  double once = std::numeric_limits<double>::max();
  double twice = once;
  for (int i = 0; i < kTries && (i < 2 || twice > kWell * once); ++i) {
    once = std::min(once, seconds(n));
    twice = std::min(twice, seconds(2 * n));
  }
  return twice / once;
}

}  // namespace mobula::tests
