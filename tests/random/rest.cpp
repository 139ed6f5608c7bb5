#include "random/rest.hpp"

#include <unistd.h>

#include <cmath>
#include <fstream>
#include <mobula/mobula.hpp>
#include <thread>

#include "random/watch.hpp"

namespace random_programs {
namespace {

Figures figures_here() {
  Figures figures;
  figures.process = getpid();
  std::ifstream status("/proc/self/status");
  for (std::string name; status >> name;) {
    if (name == "Threads:") status >> figures.threads;
    if (name == "VmRSS:") status >> figures.resident_kib;
  }
  return figures;
}

Figures watched_figures(std::int32_t driver, std::int64_t patience) {
  start_watch(driver, std::chrono::milliseconds(patience));
  return figures_here();
}

std::string what_is_held() {
  std::string text;
  const mobula::ClusterInfo info = mobula::cluster();
  for (const auto& [name, total] : info.total) {
    const auto found = info.free.find(name);
    const double free = found == info.free.end() ? 0 : found->second;
    if (std::abs(free - total) > 1e-6) {
      text += "\n  " + std::to_string(free) + " of " + std::to_string(total) + " " + name + " are free";
    }
  }
  const mobula::StoreStats stats = mobula::store_stats();
  if (stats.objects() != 0) text += "\n  " + std::to_string(stats.objects()) + " values are left";
  for (const auto& object : stats.largest) {
    text += "\n    " + object.id + " of " + std::to_string(object.size) + " bytes on rank " +
            std::to_string(object.rank) + ", held by";
    for (const std::uint32_t holder : object.holders) text += " rank " + std::to_string(holder) + ",";
    text += " " + std::to_string(object.inner_holders) + " tasks or values" + (object.in_use ? ", in use" : "");
  }
  return text;
}

}  // namespace

std::string wait_for_rest(std::chrono::milliseconds time) {
  const auto end = std::chrono::steady_clock::now() + time;
  for (;;) {
    const std::string held = what_is_held();
    if (held.empty() || std::chrono::steady_clock::now() > end) return held;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

std::map<std::uint32_t, Figures> figures_of_ranks(std::int32_t driver, std::chrono::milliseconds patience) {
  std::map<std::uint32_t, Figures> figures;
  figures[0] = figures_here();
  std::map<std::uint32_t, mobula::Ref<Figures>> refs;
  for (const auto& rank : mobula::cluster().ranks) {
    if (rank.rank == 0 || rank.slots == 0 || !rank.alive) continue;
    try {
      refs[rank.rank] = mobula::remote<watched_figures>.with({.cpus = 0, .placement = mobula::on_rank(rank.rank)})(
          driver, patience.count());
    } catch (const mobula::Infeasible&) {
      // It has been lost meanwhile.
    }
  }
  for (const auto& [rank, ref] : refs) {
    try {
      figures[rank] = mobula::get(ref);
    } catch (const mobula::Error&) {
      // The same.
    }
  }
  return figures;
}

}  // namespace random_programs
