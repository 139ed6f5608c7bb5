// At rest everything is free: what must hold once a program has let go of all it had.
#pragma once

#include <chrono>
#include <map>
#include <string>

#include "random/values.hpp"

namespace random_programs {

// Waits until all resources are free and no value is in any store. Returns what is not so after that time; "" if all
// is.
std::string wait_for_rest(std::chrono::milliseconds time);

// What each rank's process has, in numbers.
struct Figures {
  Number threads = 0;
  Number resident_kib = 0;
  std::int32_t process = 0;
};
// Each of them looks after its waits from the first time on; `driver` and the patience are as in watch.hpp.
std::map<std::uint32_t, Figures> figures_of_ranks(std::int32_t driver, std::chrono::milliseconds patience);

}  // namespace random_programs
