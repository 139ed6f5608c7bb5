// The cores that a rank may use, and how they are shared among its slots. Never leaves the mask that the launcher gave.
#pragma once

#include <string>
#include <vector>

namespace mobula::topology {

// The cores of this process's mask, each as the OS indexes of its hardware threads that are in the mask.
using Cores = std::vector<std::vector<int>>;
Cores allowed_cores();

// The CPUs of each NUMA node of this machine.
std::vector<std::vector<int>> numa_nodes();
// The CPUs, and those of `cores` that lie on the same NUMA nodes.
std::vector<int> widen(const std::vector<int>& cpus, const Cores& cores, const std::vector<std::vector<int>>& nodes);

// Divides what the ranks of one node may use. `masks[i]` are the cores of the node's rank i, `slots[i]` whether it runs
// tasks. Ranks whose masks are equal share those cores evenly; a rank that runs no tasks takes one, if there are more
// cores than ranks that do. Returns the cores of rank `mine`; at least one.
Cores divide(const std::vector<Cores>& masks, const std::vector<bool>& runs_tasks, std::size_t mine);

// Binds the calling thread; false if the system refuses.
bool bind_thread(const std::vector<int>& cpus);
std::vector<int> thread_cpus();

std::string encode(const Cores& cores);
Cores decode(const std::string& text);

// Bytes that this job may use on this node: of the machine, within what control groups, Slurm and ulimit -v allow.
std::size_t usable_memory();
// Bytes that are free in the file system of shared memory.
std::size_t free_shared_memory();

}  // namespace mobula::topology
