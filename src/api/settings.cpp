#include "api/settings.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <sstream>

#include "core/host.hpp"
#include "programs/container.hpp"
#include "topology/gpus.hpp"
#include "topology/topology.hpp"

namespace mobula::api {
namespace {

// The ranks of this node, as they tell each other.
struct Node {
  std::size_t mine = 0;
  std::vector<bool> runs_tasks;
  std::vector<topology::Cores> masks;
  std::vector<std::string> gpus;  // the PCI addresses of those that each may use
};

Node gather(transport::MpiWire* mpi, bool runs_tasks, const std::vector<topology::Gpu>& gpus) {
  std::string text = (runs_tasks ? "1\n" : "0\n") + topology::encode(topology::allowed_cores()) + "\n";
  for (const topology::Gpu& gpu : gpus) text += gpu.bus + " ";
  Node node;
  if (mpi != nullptr) node.mine = mpi->node_rank();
  for (const std::string& of : mpi != nullptr ? mpi->gather_on_node(text) : std::vector{text}) {
    std::istringstream in(of);
    std::string runs;
    std::string mask;
    std::getline(in, runs);
    std::getline(in, mask);
    node.runs_tasks.push_back(runs == "1");
    node.masks.push_back(topology::decode(mask));
    std::getline(in, node.gpus.emplace_back());
  }
  return node;
}

double slurm_seconds_left() {
  const char* end = std::getenv("SLURM_JOB_END_TIME");
  if (end == nullptr) return 0;
  const double left = std::atof(end) - static_cast<double>(std::time(nullptr));
  return left > 0 ? left : 0;
}

// Slots beyond the cores share them; with fewer slots than cores each has several.
void place_slots(exec::Settings& settings, const topology::Cores& cores, const std::string& pin) {
  const std::size_t slots = settings.worker.slots;
  const auto numa = pin == "numa" ? topology::numa_nodes() : std::vector<std::vector<int>>();
  for (std::size_t slot = 0; slot < slots; ++slot) {
    std::vector<int> cpus;
    const std::size_t from = slots <= cores.size() ? cores.size() * slot / slots : slot % cores.size();
    const std::size_t to = slots <= cores.size() ? cores.size() * (slot + 1) / slots : from + 1;
    for (std::size_t i = from; i < to; ++i) cpus.insert(cpus.end(), cores[i].begin(), cores[i].end());
    settings.slot_cpus.push_back(topology::widen(cpus, cores, numa));
    settings.slot_cores.push_back(static_cast<int>(to - from));
  }
}

// Where the slots of the node's ranks are, for tasks that have their cores lent.
void tell_slots(exec::Settings& settings, transport::MpiWire& mpi) {
  const auto slots = mpi.gather_on_node(topology::encode(settings.slot_cpus));
  for (std::size_t i = 0; i < slots.size(); ++i)
    settings.node_slots[mpi.node_members()[i]] = topology::decode(slots[i]);
}

// What is started in this process, and libraries that have not looked yet, see these only.
void show_gpus(const std::string& variable, const std::vector<std::string>& names) {
  std::string mine;
  for (const std::string& name : names) mine += (mine.empty() ? "" : ",") + name;
  setenv(variable.c_str(), mine.c_str(), 1);
}

// As many as the setting says for each rank: ranks of a node that run tasks have its GPUs in turn, of those that this
// process was shown if they are enough for all.
void offer_gpus(exec::Settings& settings, const Node& node, double gpus) {
  settings.worker.offers.gpus = gpus;
  const auto each = static_cast<std::size_t>(std::ceil(gpus));
  const auto end_before = node.runs_tasks.begin() + static_cast<std::ptrdiff_t>(node.mine);
  const auto before = static_cast<std::size_t>(std::count(node.runs_tasks.begin(), end_before, true));
  for (const std::string variable : {"CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"}) {
    std::vector<std::string> shown;
    if (const char* value = std::getenv(variable.c_str()); value != nullptr) {
      std::istringstream in(value);
      for (std::string id; std::getline(in, id, ',');) shown.push_back(id);
    }
    std::vector<std::string> mine;
    for (std::size_t i = before * each; i < (before + 1) * each; ++i) {
      // A launcher that gives each rank its own shows each as many as it needs.
      mine.push_back(shown.size() == each ? shown[i % each] : i < shown.size() ? shown[i] : std::to_string(i));
    }
    show_gpus(variable, mine);
  }
}

// Those that were found: ranks that see the same ones share them.
void offer_found_gpus(exec::Settings& settings, const Node& node, const std::string& variable,
                      const std::vector<topology::Gpu>& gpus) {
  if (gpus.empty()) return;
  std::vector<topology::Cores> ranks;
  std::size_t mine = 0;
  for (std::size_t i = 0; i < node.masks.size(); ++i) {
    if (!node.runs_tasks[i] || node.gpus[i] != node.gpus[node.mine]) continue;
    if (i == node.mine) mine = ranks.size();
    ranks.push_back(topology::divide(node.masks, node.runs_tasks, i));
  }
  std::vector<std::string> names;
  for (const std::size_t index : topology::divide_gpus(gpus, ranks, mine)) {
    const topology::Gpu& gpu = gpus[index];
    names.push_back(gpu.name);
    std::set<int>& near = settings.worker.near_gpus.emplace_back();
    for (std::size_t slot = 0; slot < settings.slot_cpus.size(); ++slot) {
      if (topology::is_near(gpu, settings.slot_cpus[slot])) near.insert(static_cast<int>(slot));
    }
  }
  settings.worker.offers.gpus = static_cast<double>(names.size());
  show_gpus(variable, names);
  setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID", 0);  // by which they were counted
}

}  // namespace

exec::Settings make_settings(const Config& config, transport::MpiWire* mpi, bool is_head) {
  exec::Settings settings;
  if (mpi != nullptr) {
    settings.host = mpi->host();
    settings.node = settings.worker.node = mpi->node();
  } else {
    settings.host = core::host_name();
  }
  settings.worker.host = settings.host;
  const bool has_slots = mpi == nullptr || !is_head || mpi->size() == 1;
  topology::Gpus gpus;
  if (config.gpus < 0 && has_slots) {
    gpus = topology::find_gpus();
    gpus.found = topology::named_gpus(gpus.found, std::getenv(gpus.variable.c_str()));
  }
  const Node node = gather(mpi, has_slots, gpus.found);
  const topology::Cores cores = topology::divide(node.masks, node.runs_tasks, node.mine);
  const auto slots = static_cast<std::uint32_t>(!has_slots         ? 0
                                                : config.slots > 0 ? config.slots
                                                                   : static_cast<int>(cores.size()));
  settings.worker.slots = slots;
  settings.worker.inline_limit = config.inline_limit;
  if (config.pin != "off") place_slots(settings, cores, config.pin);
  if (mpi != nullptr) tell_slots(settings, *mpi);
  if (has_slots) {
    core::WireDemand& offers = settings.worker.offers;
    offers.cpus = slots;
    offers.memory = config.memory != 0 ? config.memory : topology::usable_memory() / node.masks.size();
    offers.resources = config.resources;
    for (const auto& [name, amount] : config.node_resources) {
      offers.resources[name] = amount;
      settings.worker.node_resources.push_back(name);
    }
    for (const std::string& runtime : programs::runtimes_here()) {
      settings.worker.features.push_back(core::runtime_feature(runtime));
    }
    if (!settings.worker.features.empty()) settings.worker.features.push_back(core::runtime_feature(""));
    if (config.gpus > 0) offer_gpus(settings, node, config.gpus);
    if (config.gpus < 0) offer_found_gpus(settings, node, gpus.variable, gpus.found);
  } else {
    settings.worker.offers.cpus = 0;
  }
  // A thread that polls takes a core from one that computes, where there are more of them than cores. A head without
  // slots is the first to give way: its driver mostly waits.
  const topology::Cores& mask = node.masks[node.mine];
  std::size_t sharers = 0;
  for (std::size_t i = 0; i < node.masks.size(); ++i) sharers += node.masks[i] == mask && node.runs_tasks[i] ? 1 : 0;
  const std::size_t threads = sharers * std::max<std::size_t>(slots, 1) + (has_slots ? 0 : 1);
  if (config.spin_us >= 0) {
    settings.spin_ns = std::int64_t{config.spin_us} * 1000;
    settings.yield_ns = settings.spin_ns;
  } else if (threads > mask.size() || slots > cores.size()) {
    settings.spin_ns = 0;
    settings.yield_ns = 20'000;
  }
  settings.stop_grace = config.stop_grace;
  settings.time_limit_s = config.time_limit > 0 ? config.time_limit : slurm_seconds_left();
  return settings;
}

}  // namespace mobula::api
