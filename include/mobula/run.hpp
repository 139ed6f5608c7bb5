// Starting a program, and asking where one is.
#pragma once

#include <concepts>
#include <cstdint>
#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "mobula/config.hpp"
#include "mobula/detail/core.hpp"

namespace mobula {

namespace detail {

template <class Driver>
auto as_main(Driver& driver) {
  return [&driver]() -> int {
    if constexpr (std::is_void_v<std::invoke_result_t<Driver&>>) {
      driver();
      return 0;
    } else {
      return static_cast<int>(driver());
    }
  };
}

}  // namespace detail

// Turns this process into the head (rank 0, or the only process) or a worker (any other rank). On the head it calls
// `driver()`, which returns void or int, and returns its code; on workers it serves until the job ends and returns 0.
// An exception that leaves the driver is printed and makes the code 1. `--mobula-*` flags are taken out of argc/argv
// before the driver sees them; a bad setting prints a ConfigError and makes the code 2. To be called from the main
// thread, once.
template <std::convertible_to<int> Count, class Driver>
int run(Count&& argc, char** argv, Driver driver, const Config& config = {}) {
  int copy = argc;
  const auto start = [&](int& count) { return detail::run(count, argv, detail::as_main(driver), config); };
  // Where argc is a variable, it sees the flags go too.
  if constexpr (std::is_same_v<Count, int&>) {
    return start(argc);
  } else {
    return start(copy);
  }
}

struct RankInfo {
  std::uint32_t rank = 0;
  std::uint32_t node = 0;  // ranks of one node share memory
  std::string host;
  std::string name;  // "head", or "worker N"
  int slots = 0;     // 0 for a head that runs no tasks
  bool alive = true;
};

struct NodeInfo {
  std::uint32_t node = 0;
  std::string host;
  std::vector<std::uint32_t> ranks;
};

struct ClusterInfo {
  std::vector<NodeInfo> nodes;
  std::vector<RankInfo> ranks;
  int slots = 0;                        // of all live ranks
  std::map<std::string, double> total;  // resources by name: cpus, gpus, memory (bytes), custom ones
  std::map<std::string, double> free;   // what no running task holds now
};
ClusterInfo cluster();

// Where the calling code runs.
struct Context {
  std::uint32_t rank = 0;
  std::uint32_t node = 0;
  std::string host;
  int slot = -1;           // -1 outside a task
  std::vector<int> cores;  // OS indexes of the cores that this thread may use
  std::vector<int> gpus;   // that the task or actor has or shares: indexes as cudaSetDevice takes them
  std::string task;        // name; empty outside a task
  std::string id;
  int attempt = 0;  // 1 for the first run; 0 outside a task
};
Context here();

// How long the job may still run, by what Slurm told at its start or the setting time_limit; none: no limit is known.
Duration time_left();

}  // namespace mobula
