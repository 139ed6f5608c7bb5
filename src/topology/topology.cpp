#include "topology/topology.hpp"

#include <hwloc.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <sstream>

namespace mobula::topology {

namespace {

// Calls visit(the CPUs of the object) for each object of that type; false if hwloc can't tell.
template <class F>
bool for_each(hwloc_obj_type_t type, F&& visit) {
  hwloc_topology_t topology = nullptr;
  if (hwloc_topology_init(&topology) != 0) return false;
  // Only what is asked for: reading everything takes long on large nodes.
  hwloc_topology_set_all_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_NONE);
  hwloc_topology_set_type_filter(topology, HWLOC_OBJ_CORE, HWLOC_TYPE_FILTER_KEEP_ALL);
  hwloc_topology_set_flags(
      topology, HWLOC_TOPOLOGY_FLAG_NO_DISTANCES | HWLOC_TOPOLOGY_FLAG_NO_MEMATTRS | HWLOC_TOPOLOGY_FLAG_NO_CPUKINDS);
  const bool loaded = hwloc_topology_load(topology) == 0;
  const int n = loaded ? hwloc_get_nbobjs_by_type(topology, type) : 0;
  for (int i = 0; i < n; ++i) {
    const hwloc_obj_t object = hwloc_get_obj_by_type(topology, type, static_cast<unsigned>(i));
    std::vector<int> cpus;
    for (int cpu = hwloc_bitmap_first(object->cpuset); cpu != -1; cpu = hwloc_bitmap_next(object->cpuset, cpu)) {
      cpus.push_back(cpu);
    }
    visit(std::move(cpus));
  }
  hwloc_topology_destroy(topology);
  return loaded;
}

}  // namespace

Cores allowed_cores() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  sched_getaffinity(0, sizeof mask, &mask);
  Cores cores;
  for_each(HWLOC_OBJ_CORE, [&](std::vector<int> cpus) {
    std::erase_if(cpus, [&mask](int cpu) { return cpu >= CPU_SETSIZE || !CPU_ISSET(cpu, &mask); });
    if (!cpus.empty()) cores.push_back(std::move(cpus));
  });
  if (cores.empty()) {  // no core objects known: take each CPU for one
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &mask)) cores.push_back({cpu});
    }
  }
  return cores;
}

std::vector<std::vector<int>> numa_nodes() {
  std::vector<std::vector<int>> nodes;
  for_each(HWLOC_OBJ_NUMANODE, [&nodes](std::vector<int> cpus) { nodes.push_back(std::move(cpus)); });
  return nodes;
}

std::vector<int> widen(const std::vector<int>& cpus, const Cores& cores, const std::vector<std::vector<int>>& nodes) {
  const auto holds = [](const std::vector<int>& set, int cpu) {
    return std::find(set.begin(), set.end(), cpu) != set.end();
  };
  std::vector<int> wide = cpus;
  for (const auto& node : nodes) {
    if (std::none_of(cpus.begin(), cpus.end(), [&](int cpu) { return holds(node, cpu); })) continue;
    for (const auto& core : cores) {
      for (const int cpu : core) {
        if (holds(node, cpu) && !holds(wide, cpu)) wide.push_back(cpu);
      }
    }
  }
  std::sort(wide.begin(), wide.end());
  return wide;
}

Cores divide(const std::vector<Cores>& masks, const std::vector<bool>& runs_tasks, std::size_t mine) {
  const Cores& cores = masks[mine];
  std::vector<std::size_t> workers;
  std::size_t others = 0;
  for (std::size_t i = 0; i < masks.size(); ++i) {
    if (masks[i] != cores) continue;
    if (runs_tasks[i]) {
      workers.push_back(i);
    } else {
      ++others;
    }
  }
  const std::size_t spared = cores.size() > workers.size() ? std::min(others, cores.size() - workers.size()) : 0;
  if (!runs_tasks[mine]) return {cores.front()};
  const std::size_t shared = cores.size() - spared;
  const auto position = static_cast<std::size_t>(std::find(workers.begin(), workers.end(), mine) - workers.begin());
  if (shared < workers.size()) return {cores[spared + position % shared]};
  const std::size_t from = spared + shared * position / workers.size();
  const std::size_t to = spared + shared * (position + 1) / workers.size();
  return {cores.begin() + static_cast<std::ptrdiff_t>(from), cores.begin() + static_cast<std::ptrdiff_t>(to)};
}

bool bind_thread(const std::vector<int>& cpus) {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  for (const int cpu : cpus) CPU_SET(cpu, &mask);
  return sched_setaffinity(0, sizeof mask, &mask) == 0;
}

std::vector<int> thread_cpus() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  sched_getaffinity(0, sizeof mask, &mask);
  std::vector<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &mask)) cpus.push_back(cpu);
  }
  return cpus;
}

std::string encode(const Cores& cores) {
  std::ostringstream out;
  for (const auto& core : cores) {
    for (const int cpu : core) out << cpu << ' ';
    out << "; ";
  }
  return out.str();
}

Cores decode(const std::string& text) {
  Cores cores;
  std::istringstream in(text);
  std::string word;
  std::vector<int> core;
  while (in >> word) {
    if (word == ";") {
      cores.push_back(std::move(core));
      core.clear();
    } else {
      core.push_back(std::stoi(word));
    }
  }
  return cores;
}

std::size_t usable_memory() {
  std::size_t bytes =
      static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(sysconf(_SC_PAGE_SIZE));
  const auto at_most = [&bytes](const std::string& path) {
    std::size_t limit = 0;
    if (std::ifstream(path) >> limit && limit != 0) bytes = std::min(bytes, limit);
  };
  at_most("/sys/fs/cgroup/memory.max");
  at_most("/sys/fs/cgroup/memory/memory.limit_in_bytes");
  // The limits of this process's group and of those above it.
  std::ifstream groups("/proc/self/cgroup");
  std::string line;
  while (std::getline(groups, line)) {
    const std::size_t path_at = line.rfind(':');
    if (path_at == std::string::npos) continue;
    const bool unified = line.starts_with("0::");
    if (!unified && line.find(":memory:") == std::string::npos) continue;
    for (std::string path = line.substr(path_at + 1); path.size() > 1; path.resize(path.rfind('/'))) {
      at_most(unified ? "/sys/fs/cgroup" + path + "/memory.max"
                      : "/sys/fs/cgroup/memory" + path + "/memory.limit_in_bytes");
    }
  }
  struct rlimit space {};
  if (getrlimit(RLIMIT_AS, &space) == 0 && space.rlim_cur != RLIM_INFINITY) {
    bytes = std::min<std::size_t>(bytes, space.rlim_cur);
  }
  constexpr std::size_t kMiB = 1 << 20;
  const auto number = [](const char* name) -> std::size_t {
    const char* text = std::getenv(name);
    return text != nullptr ? std::strtoull(text, nullptr, 10) : 0;
  };
  if (const std::size_t node = number("SLURM_MEM_PER_NODE"); node != 0) bytes = std::min(bytes, node * kMiB);
  if (const std::size_t cpu = number("SLURM_MEM_PER_CPU"), n = number("SLURM_CPUS_ON_NODE"); cpu != 0 && n != 0) {
    bytes = std::min(bytes, cpu * n * kMiB);
  }
  return bytes;
}

std::size_t free_shared_memory() {
  struct statvfs info {};
  if (statvfs("/dev/shm", &info) != 0) return 0;
  return info.f_bavail * info.f_frsize;
}

}  // namespace mobula::topology
