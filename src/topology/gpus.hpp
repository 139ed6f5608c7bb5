// The GPUs of this machine that this process may use, and which of them each rank of a node has.
#pragma once

#include <string>
#include <vector>

#include "topology/topology.hpp"

namespace mobula::topology {

struct Gpu {
  std::string name;       // by which its libraries are told to use it
  std::string bus;        // its PCI address
  std::string uuid;       // empty: not known
  std::vector<int> cpus;  // OS indexes of those beside it; empty: not known
};

struct Gpus {
  std::string variable;    // of the environment, which names those to be used
  std::vector<Gpu> found;  // in the order of their numbers
};

// What the driver of NVIDIA lists, or else that of AMD, and this process may open. `root` stands before /proc, /sys and
// /dev. Reads files only, and those not at all where there is no driver.
Gpus find_gpus(const std::string& root = "");

// Those that the variable's value names, in its order; all if it is not set (nullptr).
std::vector<Gpu> named_gpus(const std::vector<Gpu>& found, const char* value);

// Whether one of the CPUs lies beside it.
bool is_near(const Gpu& gpu, const std::vector<int>& cpus);

// Divides GPUs among ranks that see the same ones, each rank's near its cores where that can be. None has more than one
// above another. Returns the indexes of those of rank `mine`.
std::vector<std::size_t> divide_gpus(const std::vector<Gpu>& gpus, const std::vector<Cores>& ranks, std::size_t mine);

}  // namespace mobula::topology
