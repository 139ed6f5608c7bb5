// What disturbs a job from outside: ranks that are killed, and other busy processes.
#pragma once

#include <sys/types.h>

#include <thread>
#include <vector>

#include "random/values.hpp"

namespace random_programs {

// Kills some of the processes, one after the other, at random times.
class Killer {
 public:
  Killer(Number seed, std::vector<pid_t> processes, Number kills);
  Killer(const Killer&) = delete;
  Killer& operator=(const Killer&) = delete;
  ~Killer();

 private:
  std::jthread thread_;
};

// Two processes that do nothing but compute, until this object goes, or this process.
class BusyNeighbours {
 public:
  BusyNeighbours();
  BusyNeighbours(const BusyNeighbours&) = delete;
  BusyNeighbours& operator=(const BusyNeighbours&) = delete;
  ~BusyNeighbours();

  // What such a process does.
  [[noreturn]] static void compute();
  static constexpr const char* kWord = "--be-busy";

 private:
  std::vector<pid_t> processes_;
};

}  // namespace random_programs
