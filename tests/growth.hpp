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

struct Growth {
  double once = std::numeric_limits<double>::max();   // seconds for n
  double twice = std::numeric_limits<double>::max();  // for twice as many
  double times() const { return twice / once; }
};

// Of the best of some tries each, as the machine is not quiet. `seconds(n)` says what n of them take.
template <class F>
Growth growth(int n, F&& seconds) {
  constexpr int kTries = 20;
  constexpr double kWell = 2.3;
  Growth best;
  for (int i = 0; i < kTries && (i < 2 || best.times() > kWell); ++i) {
    best.once = std::min(best.once, seconds(n));
    best.twice = std::min(best.twice, seconds(2 * n));
  }
  return best;
}

}  // namespace mobula::tests
