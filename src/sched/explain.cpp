// What the scheduler says to people: why something can never run, and what it waits for.
#include <set>

#include "sched/scheduler.hpp"

namespace mobula::sched {
namespace {

std::string describe_demand(const core::WireDemand& d, std::uint64_t more_memory = 0) {
  std::string text;
  const auto add = [&text](const std::string& name, double amount) {
    if (amount == 0) return;
    std::string number = std::to_string(amount);
    number.erase(number.find_last_not_of('0') + 1);
    if (number.ends_with('.')) number.pop_back();
    text += (text.empty() ? "" : ", ") + number + " " + name;
  };
  add("cpus", d.cpus);
  add("gpus", d.gpus);
  add("bytes of memory", static_cast<double>(d.memory + more_memory));
  for (const auto& [name, amount] : d.resources) add(name, amount);
  return text.empty() ? "nothing" : text;
}

}  // namespace

std::optional<std::string> Scheduler::why_infeasible(const Holding& holding) const {
  return why_infeasible(class_of(holding), holding.memory);
}

std::optional<std::string> Scheduler::why_infeasible(const Class& klass, std::uint64_t memory) const {
  if (klass.wide) return std::nullopt;
  core::WireDemand largest;
  largest.cpus = 0;
  bool any_place = false;
  std::map<std::uint32_t, double> cpus;  // by node
  std::vector<RankId> fit;
  std::set<std::uint32_t> nodes;  // of those
  const bool by_node = klass.placement == Placement::Kind::one_per_node;
  for (const RankId rank : ranks_of(klass)) {
    if (allowed(klass, rank) && memory <= workers_[rank].offers.memory) {
      fit.push_back(rank);
      if (klass.gang == 0) return std::nullopt;
    }
    const Worker& worker = workers_[rank];
    if (worker.slots == 0 || !is_at(klass, rank)) continue;
    any_place = true;
    cpus[worker.node] += worker.slots;
    largest.cpus = std::max(largest.cpus, worker.offers.cpus);
    largest.gpus = std::max(largest.gpus, worker.offers.gpus);
    largest.memory = std::max(largest.memory, worker.offers.memory);
    for (const auto& [name, amount] : worker.offers.resources) {
      largest.resources[name] = std::max(largest.resources[name], amount);
    }
  }
  if (members_.empty()) return "there is no worker rank";
  fit = within_nodes(klass, std::move(fit), &Worker::offers);
  for (const RankId rank : fit) nodes.insert(workers_[rank].node);
  const std::size_t have = by_node ? nodes.size() : fit.size();
  if (have != 0) {
    if (have >= klass.gang) return std::nullopt;
    return "a gang of " + std::to_string(klass.gang) + " needs as many " + (by_node ? "nodes" : "ranks") +
           " with slots, each with " + describe_demand(klass.demands.front()) + "; there are " + std::to_string(have) +
           (by_node ? "" : ": start the program with more, as in mpirun -n " + std::to_string(klass.gang + 1));
  }
  if (!any_place && !klass.needs.empty()) return "no rank where the task may run has " + klass.needs;
  if (!any_place) {
    const std::string place = klass.placement == Placement::Kind::on_rank ? "rank " : "node ";
    return "the task is to run on " + place + std::to_string(klass.place_index) +
           ", which is not there or has no slots";
  }
  std::string text = "no rank can ever meet the demand: asked for " + describe_demand(klass.demands.front());
  for (std::size_t i = 1; i < klass.demands.size(); ++i) text += ", or " + describe_demand(klass.demands[i]);
  text += "; of each, the largest rank has " + describe_demand(largest);
  if (klass.gang != 0 || members_.size() == 1) return text;
  core::WireDemand widest;
  for (const auto& [node, sum] : cpus) widest.cpus = std::max(widest.cpus, sum);
  return text + ", and the ranks of one node together " + describe_demand(widest);
}

std::optional<std::string> Scheduler::why_infeasible(const Holding& holding, const core::WireDemand& bundle) const {
  const auto& demands = class_of(holding).demands;
  if (std::any_of(demands.begin(), demands.end(),
                  [&](const auto& demand) { return offers(bundle, demand, holding.memory); })) {
    return std::nullopt;
  }
  return "the task asks for more than its bundle has";
}

std::optional<std::string> Scheduler::why_infeasible(const std::vector<core::WireDemand>& bundles,
                                                     Strategy strategy) const {
  std::vector<Site> sites;
  for (const RankId rank : members_) {
    if (workers_[rank].slots != 0 && !workers_[rank].closed) sites.push_back({rank, workers_[rank].offers});
  }
  std::vector<const core::WireDemand*> wanted;
  wanted.reserve(bundles.size());
  for (const auto& bundle : bundles) wanted.push_back(&bundle);
  if (!arrange(wanted, strategy, std::move(sites), {}).empty()) return std::nullopt;
  const bool strict = strategy == Strategy::strict_pack || strategy == Strategy::strict_spread;
  return "the job can never set aside the " + std::to_string(bundles.size()) +
         " bundles of the placement group at once" + (strict ? " in that way" : "") +
         ": each bundle is on one rank, and what the ranks offer is in cluster()";
}

std::string Scheduler::describe(const Piece& piece) const {
  const Class& klass = class_of(piece);
  const std::string asks = "it asks for " + describe_demand(klass.demands.front(), piece.memory);
  if (piece.pool != 0) {
    return asks +
           (is_placed(piece.pool) ? ", and others hold what its bundle has" : ", and its bundle is not set aside yet");
  }
  std::uint32_t busy = 0;
  std::uint32_t unfit = 0;
  for (const RankId rank : members_) {
    if (workers_[rank].slots == 0) continue;
    ++(allowed(klass, rank) && piece.memory <= workers_[rank].offers.memory ? busy : unfit);
  }
  if (klass.wide) {
    return asks + ", which no rank has alone: it waits until enough ranks of one node are idle at once";
  }
  std::string text = asks +
                     (klass.gang != 0 ? " on each of " + std::to_string(klass.gang) + " ranks at once; " : "; ") +
                     std::to_string(busy) + " ranks can run it and have no room now";
  if (unfit != 0) text += ", " + std::to_string(unfit) + " ranks can never run it";
  std::size_t ahead = 0;
  for (const auto& [level, queue] : klass.queues) {
    for (const Piece& other : queue) {
      if (&other == &piece) return text + "; " + std::to_string(ahead) + " tasks are before it in its queue";
      ahead += other.size();
    }
  }
  return text;
}

}  // namespace mobula::sched
