// What `mobula doctor` looks at, and what it makes of it. Facts of a rank, or of this process alone, are gathered where
// it runs; findings are made from those, so that a test can make them of facts that no machine here has.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/launch.hpp"
#include "core/messages.hpp"

namespace mobula::cli {

struct Finding {
  enum class Level : std::uint8_t { good, note, warning, fault };
  Level level = Level::good;
  std::string what;
  std::string remedy;  // what to do; "" where there is nothing
};

struct Facts {
  std::string host;
  std::string version;  // of Mobula
  std::string program;  // the digest of the program that is asked about, or of this command
  std::string mpi;      // the library's text
  std::string kernel;
  std::string container;           // this runs in one of this kind; "": in none
  std::string user_namespace;      // as the kernel names it
  std::uint32_t world = 1;         // ranks that this one sees
  std::uint32_t hwloc = 0;         // API version at run time
  std::uint64_t shared_bytes = 0;  // of /dev/shm; 0: there is none
  std::uint64_t shared_free = 0;
  std::uint64_t memory = 0;         // bytes that this process may use
  std::uint64_t address_limit = 0;  // 0: none
  std::uint64_t locked_limit = 0;   // 0: none
  std::uint64_t files_limit = 0;
  std::uint32_t cores = 0;  // that this process may use
  std::uint32_t machine_cores = 0;
  bool reads_siblings = false;  // cross-memory attach works
  bool copies_once = true;      // Open MPI is to use it
  bool has_infiniband = false;
  bool forks_safely = false;  // its libraries were told that processes fork
  std::string scratch;        // "": none can be written
  std::uint64_t scratch_free = 0;
  std::vector<std::string> runtimes;    // of containers
  std::vector<std::string> interfaces;  // of the network, but the loopback
  double clock = 0;                     // seconds
  template <class V>
  void fields(V&& visit) {
    visit(host, version, program, mpi, kernel, container, user_namespace, world, hwloc, shared_bytes, shared_free,
          memory, address_limit, locked_limit, files_limit, cores, machine_cores, reads_siblings, copies_once,
          has_infiniband, forks_safely, scratch, scratch_free, runtimes, interfaces, clock);
  }
};

// `program`: the path of the one that is asked about; "": this command.
Facts facts_here(const std::string& program, std::uint32_t world);
// Of one process and its machine.
std::vector<Finding> findings_of(const Facts& facts);
// Of the launchers that are there.
std::vector<Finding> findings_of(const Surroundings& at, const std::string& mpirun_version);
// What ranks have to be alike in, by their ranks; `tasks`: as many as the launcher says that it started.
std::vector<Finding> findings_of(const std::vector<Facts>& ranks, std::uint32_t tasks);

}  // namespace mobula::cli
