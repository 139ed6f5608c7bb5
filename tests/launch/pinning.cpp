// Where do the threads of tasks and actors run, and where does their memory lie? Run under several bindings of the
// launcher, which must not be left.
//   pinning             looks at all slots, or at the GPUs where there are two for each rank
//   pinning devices N   N tasks at once have a GPU each, and no two the same
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <mobula/mobula.hpp>
#include <set>
#include <sstream>
#include <thread>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

std::set<int> mask_of_thread() {
  cpu_set_t set;
  sched_getaffinity(0, sizeof set, &set);
  std::set<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.insert(cpu);
  }
  return cpus;
}

const std::set<int> g_given = mask_of_thread();  // by the launcher

bool within(const std::set<int>& inner, const std::set<int>& outer) {
  return std::includes(outer.begin(), outer.end(), inner.begin(), inner.end());
}

struct Report {
  std::uint32_t rank = 0;
  int slot = -1;
  std::set<int> cpus;
  std::set<int> said;           // by here()
  bool in_mask = false;         // of the launcher
  bool memory_is_near = false;  // pages that the thread touches first
  int threads = 1;              // that OpenMP takes
  bool threads_in_mask = true;

  template <class Archive>
  void serialize(Archive& archive, unsigned) {
    archive& rank& slot& cpus& said& in_mask& memory_is_near& threads& threads_in_mask;
  }
};

bool touched_memory_is_near() {
  constexpr std::size_t kPage = 4096;
  std::vector<char> memory(64 * kPage);
  unsigned cpu = 0;
  unsigned node = 0;
  syscall(SYS_getcpu, &cpu, &node, nullptr);
  void* page = &memory[32 * kPage];
  *static_cast<char*>(page) = 1;
  int status = -1;
  if (syscall(SYS_move_pages, 0, 1UL, &page, nullptr, &status, 0) != 0) return true;  // this kernel doesn't tell
  return status < 0 || static_cast<unsigned>(status) == node;
}

Report look() {
  Report report;
  const mobula::Context here = mobula::here();
  report.rank = here.rank;
  report.slot = here.slot;
  report.cpus = mask_of_thread();
  report.said.insert(here.cores.begin(), here.cores.end());
  report.in_mask = within(report.cpus, g_given);
  report.memory_is_near = touched_memory_is_near();
#ifdef _OPENMP
#pragma omp parallel
  {
    const bool mine = within(mask_of_thread(), report.cpus);
#pragma omp critical
    report.threads_in_mask = report.threads_in_mask && mine;
#pragma omp single
    report.threads = omp_get_num_threads();
  }
#endif
  return report;
}

Report look_later() {
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  return look();
}

struct Seat {
  Report report() { return look(); }
  std::vector<int> gpus() { return mobula::here().gpus; }
};

std::vector<int> gpus_for(int ms) {
  std::this_thread::sleep_for(std::chrono::milliseconds(ms));
  return mobula::here().gpus;
}
std::string shown() {
  const char* value = std::getenv("CUDA_VISIBLE_DEVICES");
  return value != nullptr ? value : "";
}

int g_wrong = 0;
void check(bool good, const char* what, const Report& r) {
  if (good) return;
  ++g_wrong;
  std::fprintf(stderr, "pinning: %s: rank %u slot %d has %zu cpus from %d, here() says %zu, %d threads\n", what, r.rank,
               r.slot, r.cpus.size(), r.cpus.empty() ? -1 : *r.cpus.begin(), r.said.size(), r.threads);
}

// `cpus` of the cores that a slot has each.
void check_one(const Report& r, int slots, int cores, bool pinned) {
  const int cpus = slots * (pinned ? cores : 1);
  check(r.in_mask, "the launcher's mask was left", r);
  check(r.memory_is_near, "memory is on another NUMA node", r);
  check(r.said == r.cpus, "here() tells something else", r);
  if (pinned) check(static_cast<int>(r.cpus.size()) == cpus, "not as many cpus as asked for", r);
#ifdef _OPENMP
  check(r.threads == cpus, "OpenMP takes not as many threads as there are cpus", r);
  check(r.threads_in_mask, "a thread of OpenMP is elsewhere", r);
#endif
}

// With two GPUs a rank.
int gpus() {
  const auto expect = [](bool good, int line) {
    if (good) return;
    ++g_wrong;
    std::fprintf(stderr, "pinning: line %d: GPUs are not handed out as they should be\n", line);
  };
  for (const auto& rank : mobula::cluster().ranks) {
    if (rank.slots == 0) continue;
    const auto place = mobula::on_rank(rank.rank);
    const auto ask = [&](double n, int ms) {
      return mobula::remote<gpus_for>.with({.cpus = 0, .gpus = n, .placement = place})(ms);
    };
    expect(mobula::get(ask(2, 0)) == std::vector{0, 1}, __LINE__);
    expect(mobula::get(ask(0, 0)).empty(), __LINE__);
    const auto a = ask(1, 100);
    const auto b = ask(1, 100);
    expect(mobula::get(a).size() == 1 && mobula::get(b).size() == 1 && mobula::get(a) != mobula::get(b), __LINE__);
    const auto c = ask(0.5, 100);
    const auto d = ask(0.5, 100);
    const auto whole = ask(1, 0);
    expect(mobula::get(c) == mobula::get(d) && mobula::get(whole) != mobula::get(c), __LINE__);
    {
      const auto seat = mobula::actor<Seat>.with({.gpus = 1, .placement = place})();
      const auto held = mobula::get(mobula::remote<&Seat::gpus>(seat));
      expect(held.size() == 1, __LINE__);
      for (int i = 0; i < 3; ++i) expect(mobula::get(ask(1, 0)) != held, __LINE__);
    }
    expect(mobula::get(ask(2, 0)) == std::vector{0, 1}, __LINE__);
    const std::string first = std::to_string(2 * (mobula::cluster().ranks.size() > 1 ? rank.rank - 1 : 0));
    expect(mobula::get(mobula::remote<shown>.with({.placement = place})()).starts_with(first + ","), __LINE__);
  }
  try {
    mobula::remote<shown>.with({.gpus = 1.5})();
    expect(false, __LINE__);
  } catch (const std::invalid_argument&) {
  }
  return g_wrong == 0 ? 0 : 1;
}

// The cores of all ranks of a node for one task, and for an actor. `slots`: the cpus of each of the job's slots.
void check_lending(const std::map<std::uint32_t, std::vector<std::set<int>>>& slots) {
  const mobula::ClusterInfo cluster = mobula::cluster();
  for (const auto& node : cluster.nodes) {
    double cpus = 0;
    std::set<int> all;
    for (const std::uint32_t rank : node.ranks) {
      cpus += cluster.ranks[rank].slots;
      if (!slots.contains(rank)) continue;
      for (const auto& of : slots.at(rank)) all.insert(of.begin(), of.end());
    }
    const auto check_all = [&](const Report& r) {
      check(r.cpus == all, "the cores of the whole node were asked for", r);
      check(r.said == r.cpus, "here() tells something else", r);
      check(r.threads_in_mask, "a thread of OpenMP is elsewhere", r);
#ifdef _OPENMP
      check(r.threads >= static_cast<int>(cpus), "OpenMP takes fewer threads than there are cpus", r);
#endif
    };
    const auto place = mobula::on_node(node.node);
    check_all(mobula::get(mobula::remote<look>.with({.cpus = cpus, .placement = place})()));
    const auto seat = mobula::actor<Seat>.with({.cpus = cpus, .placement = place})();
    check_all(mobula::get(mobula::remote<&Seat::report>(seat)));
  }
}

// "host:device"
std::string held_device() {
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  std::vector<std::string> visible;
  std::istringstream in(shown());
  for (std::string name; std::getline(in, name, ',');) visible.push_back(name);
  const auto mine = mobula::here().gpus;
  if (mine.size() != 1 || static_cast<std::size_t>(mine[0]) >= visible.size()) return "";
  return mobula::here().host + ":" + visible[static_cast<std::size_t>(mine[0])];
}

int devices(int n) {
  std::vector<mobula::Ref<std::string>> tasks;
  for (int i = 0; i < n; ++i) tasks.push_back(mobula::remote<held_device>.with({.cpus = 0, .gpus = 1})());
  std::set<std::string> held;
  for (const auto& task : tasks) held.insert(mobula::get(task));
  for (const std::string& device : held) std::printf("%s ", device.c_str());
  std::printf("\n");
  return static_cast<int>(held.size()) == n && !held.contains("") ? 0 : 1;
}

int driver(bool pinned) {
  if (mobula::cluster().total.at("gpus") > 0) return gpus();
  int workers = 0;
  std::map<std::uint32_t, std::vector<std::set<int>>> all_slots;
  for (const auto& rank : mobula::cluster().ranks) {
    if (rank.slots == 0) continue;
    ++workers;
    const auto place = mobula::on_rank(rank.rank);
    std::vector<mobula::Ref<Report>> tasks;
    for (int i = 0; i < 2 * rank.slots; ++i) tasks.push_back(mobula::remote<look_later>.with({.placement = place})());
    std::map<int, std::set<int>> by_slot;
    const int cores = static_cast<int>(mobula::get(tasks[0]).cpus.size());
    for (const auto& task : tasks) {
      const Report r = mobula::get(task);
      check_one(r, 1, cores, pinned);
      const auto [known, fresh] = by_slot.emplace(r.slot, r.cpus);
      check(known->second == r.cpus, "a slot has moved", r);
    }
    std::set<int> together;
    for (const auto& [slot, cpus] : by_slot) {
      together.insert(cpus.begin(), cpus.end());
      all_slots[rank.rank].push_back(cpus);
    }
    if (pinned && together.size() != by_slot.size() * static_cast<std::size_t>(cores)) {
      std::fprintf(stderr, "pinning: slots of rank %u share cores\n", rank.rank);
      ++g_wrong;
    }
    check_one(mobula::get(mobula::remote<look>.with({.cpus = static_cast<double>(rank.slots), .placement = place})()),
              rank.slots, cores, pinned);
    check_one(mobula::get(mobula::remote<look>.with({.placement = place})()), 1, cores, pinned);  // and one again
    {
      const auto seat = mobula::actor<Seat>.with({.cpus = static_cast<double>(rank.slots), .placement = place})();
      check_one(mobula::get(mobula::remote<&Seat::report>(seat)), rank.slots, cores, pinned);
    }
    const auto shares = mobula::actor<Seat>.with({.placement = place})();
    check(mobula::get(mobula::remote<&Seat::report>(shares)).in_mask, "an actor has left the launcher's mask", {});
  }
  if (pinned) check_lending(all_slots);
  std::printf("%d workers looked at\n", workers);
  return g_wrong == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  const char* pin = std::getenv("MOBULA_PIN");
  const bool pinned = pin == nullptr || std::string(pin) != "off";
  return mobula::run(argc, argv, [&] {
    return argc == 3 && std::string(argv[1]) == "devices" ? devices(std::atoi(argv[2])) : driver(pinned);
  });
}
