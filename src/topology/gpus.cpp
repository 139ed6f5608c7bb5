#include "topology/gpus.hpp"

#include <fcntl.h>
#include <hwloc.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <tuple>

namespace mobula::topology {
namespace {

namespace fs = std::filesystem;

// The folder's entries, in order of their names.
std::vector<fs::path> list(const fs::path& folder) {
  std::error_code error;
  std::vector<fs::path> entries;
  for (const auto& entry : fs::directory_iterator(folder, error)) entries.push_back(entry.path());
  std::sort(entries.begin(), entries.end());
  return entries;
}

// Permissions don't tell: a control group may forbid a device that everyone may read.
bool can_open(const fs::path& device) {
  const int file = open(device.c_str(), O_RDWR | O_CLOEXEC);
  if (file >= 0) close(file);
  return file >= 0;
}

std::string trimmed(const std::string& text) {
  const auto from = text.find_first_not_of(" \t");
  return from == std::string::npos ? "" : text.substr(from, text.find_last_not_of(" \t\n") - from + 1);
}

// Sets what lies beside each, as far as hwloc can tell.
void find_cpus(std::vector<Gpu>& gpus) {
  hwloc_topology_t topology = nullptr;
  if (hwloc_topology_init(&topology) != 0) return;
  hwloc_topology_set_all_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_NONE);
  hwloc_topology_set_type_filter(topology, HWLOC_OBJ_PACKAGE, HWLOC_TYPE_FILTER_KEEP_ALL);
  hwloc_topology_set_type_filter(topology, HWLOC_OBJ_PCI_DEVICE, HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
  hwloc_topology_set_type_filter(topology, HWLOC_OBJ_BRIDGE, HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
  if (hwloc_topology_load(topology) == 0) {
    for (Gpu& gpu : gpus) {
      const hwloc_obj_t device = hwloc_get_pcidev_by_busidstring(topology, gpu.bus.c_str());
      if (device == nullptr) continue;
      const hwloc_obj_t place = hwloc_get_non_io_ancestor_obj(topology, device);
      for (int cpu = hwloc_bitmap_first(place->cpuset); cpu != -1; cpu = hwloc_bitmap_next(place->cpuset, cpu)) {
        gpu.cpus.push_back(cpu);
      }
    }
  }
  hwloc_topology_destroy(topology);
}

std::vector<Gpu> find_nvidia(const std::string& root) {
  std::vector<Gpu> gpus;
  for (const fs::path& folder : list(root + "/proc/driver/nvidia/gpus")) {
    std::ifstream in(folder / "information");
    Gpu gpu{"", folder.filename().string(), "", {}};
    std::string minor;
    for (std::string line; std::getline(in, line);) {
      const std::size_t colon = line.find(':');
      if (colon == std::string::npos) continue;
      if (line.starts_with("Device Minor")) minor = trimmed(line.substr(colon + 1));
      if (line.starts_with("GPU UUID")) gpu.uuid = trimmed(line.substr(colon + 1));
    }
    if (!minor.empty() && can_open(root + "/dev/nvidia" + minor)) gpus.push_back(std::move(gpu));
  }
  return gpus;
}

std::vector<Gpu> find_amd(const std::string& root) {
  std::map<int, Gpu> gpus;  // by the driver's number
  for (const fs::path& folder : list(root + "/sys/class/kfd/kfd/topology/nodes")) {
    std::ifstream in(folder / "properties");
    std::map<std::string, std::uint64_t> properties;
    std::string name;
    for (std::uint64_t value = 0; in >> name >> value;) properties[name] = value;
    if (properties["simd_count"] == 0) continue;  // a CPU
    if (!can_open(root + "/dev/dri/renderD" + std::to_string(properties["drm_render_minor"]))) continue;
    const std::uint64_t at = properties["location_id"];
    char bus[32];
    std::snprintf(bus, sizeof bus, "%04x:%02x:%02x.%x", static_cast<unsigned>(properties["domain"]),
                  static_cast<unsigned>(at >> 8 & 0xff), static_cast<unsigned>(at >> 3 & 0x1f),
                  static_cast<unsigned>(at & 7));
    gpus[std::atoi(folder.filename().c_str())] = {"", bus, "", {}};
  }
  std::vector<Gpu> sorted;
  sorted.reserve(gpus.size());
  for (auto& [number, gpu] : gpus) sorted.push_back(std::move(gpu));
  return sorted;
}

}  // namespace

Gpus find_gpus(const std::string& root) {
  Gpus gpus{"CUDA_VISIBLE_DEVICES", find_nvidia(root)};
  if (gpus.found.empty()) gpus = {"ROCR_VISIBLE_DEVICES", find_amd(root)};
  for (std::size_t i = 0; i < gpus.found.size(); ++i) gpus.found[i].name = std::to_string(i);
  if (!gpus.found.empty()) find_cpus(gpus.found);
  return gpus;
}

std::vector<Gpu> named_gpus(const std::vector<Gpu>& found, const char* value) {
  if (value == nullptr) return found;
  std::vector<Gpu> named;
  std::istringstream in(value);
  for (std::string token; std::getline(in, token, ',');) {
    token = trimmed(token);
    std::size_t index = 0;
    const auto [end, error] = std::from_chars(token.data(), token.data() + token.size(), index);
    auto gpu = found.end();
    if (error == std::errc() && end == token.data() + token.size()) {
      if (index < found.size()) gpu = found.begin() + static_cast<std::ptrdiff_t>(index);
    } else if (token.starts_with("GPU-")) {
      gpu = std::find_if(found.begin(), found.end(), [&](const Gpu& g) { return g.uuid.starts_with(token); });
    } else if (token.starts_with("MIG-")) {  // part of one
      named.push_back({token, token, "", {}});
      continue;
    }
    if (gpu == found.end()) break;  // as the libraries do: what follows is not used either
    named.push_back(*gpu);
    named.back().name = token;
  }
  return named;
}

bool is_near(const Gpu& gpu, const std::vector<int>& cpus) {
  return std::find_first_of(cpus.begin(), cpus.end(), gpu.cpus.begin(), gpu.cpus.end()) != cpus.end();
}

std::vector<std::size_t> divide_gpus(const std::vector<Gpu>& gpus, const std::vector<Cores>& ranks, std::size_t mine) {
  const std::size_t most = (gpus.size() + ranks.size() - 1) / ranks.size();
  std::vector<std::vector<std::size_t>> of(ranks.size());
  for (std::size_t g = 0; g < gpus.size(); ++g) {
    const auto key = [&](std::size_t r) {
      const bool near =
          std::any_of(ranks[r].begin(), ranks[r].end(), [&](const auto& core) { return is_near(gpus[g], core); });
      return std::tuple(of[r].size() >= most, !near, of[r].size());
    };
    std::size_t best = 0;
    for (std::size_t r = 1; r < ranks.size(); ++r) {
      if (key(r) < key(best)) best = r;
    }
    of[best].push_back(g);
  }
  return of[mine];
}

}  // namespace mobula::topology
