// Which ranks those get that need several: gangs, and tasks with more cpus than a rank has.
#include <algorithm>
#include <map>
#include <set>

#include "core/mark.hpp"
#include "sched/scheduler.hpp"

namespace mobula::sched {
namespace {

constexpr double kSlack = 1e-9;
constexpr Time kReserveAgain = 1'000'000;   // ns; it looks at all ranks
constexpr Time kReserveEach = 1'000;        // ns, for each rank that such a look has to do with
constexpr Time kReserveRest = 100'000'000;  // ns, at most, in which other work has the ranks

}  // namespace

// Which of its demands the rank could meet at once, with nothing else in the way.
std::optional<std::uint32_t> Scheduler::fits_now(const Class& klass, RankId rank, bool nested) const {
  const Worker& worker = workers_[rank];
  if (!allowed(klass, rank)) return std::nullopt;
  for (std::uint32_t i = 0; i < klass.demands.size(); ++i) {
    const auto& demand = klass.demands[i];
    const double busy = worker.busy + demand.cpus;
    // Members that would begin on cpus of tasks which wait have none of their own, so these are for one of them that
    // runs. But that one may wait inside MPI for another which waits for a gang.
    const bool is_beside = busy > worker.slots - worker.held + kSlack;
    const bool has_cpus =
        demand.cpus == 0 || (busy <= worker.capacity() + kSlack && (!is_beside || worker.beside == 0 || nested));
    // The cpus of tasks that wait are free for others, what else they hold is not.
    if (has_cpus && offers_besides_cpus(worker.free, demand)) return i;
  }
  return std::nullopt;
}

// As many of the ranks, the first ones preferred, as the gang has members: as its placement wants them. In order, so
// that gangs of the same ranks have the same communicator. Empty if there are too few. For a task of a class that is
// wide: its rank, and its lenders.
Scheduler::Members Scheduler::pick(const Class& klass, RankId preferred, const std::vector<RankId>& from) const {
  if (klass.wide) return pick_wide(klass, preferred, from, &Worker::free);
  std::vector<RankId> chosen;
  if (klass.placement == Placement::Kind::any && preferred == detail::kNoRank) {
    chosen.assign(from.begin(), from.begin() + std::min<std::ptrdiff_t>(klass.gang, std::ssize(from)));
  } else {
    std::map<std::uint32_t, std::vector<RankId>> nodes;
    for (const RankId rank : from) nodes[workers_[rank].node].push_back(rank);
    std::vector<const std::vector<RankId>*> order;
    order.reserve(nodes.size());
    for (const auto& [node, ranks] : nodes) order.push_back(&ranks);
    const std::uint32_t best = preferred < workers_.size() ? workers_[preferred].node : ~0U;
    std::stable_sort(order.begin(), order.end(), [&](const auto* a, const auto* b) {
      const bool first = workers_[a->front()].node == best;
      return first != (workers_[b->front()].node == best) ? first : a->size() > b->size();
    });
    const bool wide = klass.placement == Placement::Kind::spread || klass.placement == Placement::Kind::one_per_node;
    const std::size_t most = klass.placement == Placement::Kind::one_per_node ? 1 : from.size();
    if (wide) {
      for (std::size_t round = 0; round < most && chosen.size() < klass.gang; ++round) {
        for (const auto* ranks : order) {
          if (round < ranks->size() && chosen.size() < klass.gang) chosen.push_back((*ranks)[round]);
        }
      }
    } else {
      for (const auto* ranks : order) {
        for (const RankId rank : *ranks) {
          if (chosen.size() < klass.gang) chosen.push_back(rank);
        }
      }
    }
  }
  if (chosen.size() < klass.gang) return {};
  std::sort(chosen.begin(), chosen.end());
  Members members;
  for (const RankId rank : chosen) members.emplace_back(rank, fits_now(klass, rank, true).value_or(0));
  return members;
}

// Whether the rank's cores may ever go to tasks of a class that is wide.
bool Scheduler::may_lend(const Class& klass, RankId rank) const {
  const Worker& worker = workers_[rank];
  if (!worker.alive || worker.closed || worker.slots == 0) return false;
  if (klass.placement != Placement::Kind::on_rank) return is_at(klass, rank);
  return klass.place_index < workers_.size() && workers_[klass.place_index].node == worker.node;
}

void Scheduler::find_width(Class& klass) {
  klass.wide = false;
  if (klass.ordinary || klass.gang != 0 || klass.by_memory) return;
  std::vector<RankId> ranks;
  for (const RankId rank : ranks_of(klass)) {
    if (allowed(klass, rank)) return;
    if (may_lend(klass, rank)) ranks.push_back(rank);
  }
  klass.wide = !pick_wide(klass, detail::kNoRank, std::move(ranks), &Worker::offers).empty();
}

// Whether the rank could take part in it at once, with nothing else in the way.
bool Scheduler::may_take_part(const Class& klass, const Piece& piece, RankId rank) const {
  if (!klass.wide) return fits_now(klass, rank, piece.nested).has_value();
  const Worker& worker = workers_[rank];
  return may_lend(klass, rank) && worker.busy + worker.slots <= worker.capacity() + kSlack;
}

// The rank that is to run a task of a class that is wide, and those that are to lend it their cores: of the node whose
// ranks, the first ones preferred, are enough first. `has`: what the former must have of the rest of the demand.
Scheduler::Members Scheduler::pick_wide(const Class& klass, RankId preferred, std::vector<RankId> from,
                                        core::WireDemand Worker::*has) const {
  if (preferred < workers_.size()) {
    std::stable_partition(from.begin(), from.end(),
                          [&](RankId rank) { return workers_[rank].node == workers_[preferred].node; });
  }
  for (std::uint32_t i = 0; i < klass.demands.size(); ++i) {
    const core::WireDemand& demand = klass.demands[i];
    struct Node {
      std::vector<RankId> ranks;
      double cpus = 0;
    };
    std::map<std::uint32_t, Node> nodes;
    for (const RankId rank : from) {
      Node& node = nodes[workers_[rank].node];
      node.ranks.push_back(rank);
      node.cpus += workers_[rank].slots;
      if (node.cpus + kSlack < demand.cpus) continue;
      const auto main = std::find_if(node.ranks.begin(), node.ranks.end(), [&](RankId r) {
        return is_at(klass, r) && offers_besides_cpus(workers_[r].*has, demand);
      });
      if (main == node.ranks.end()) continue;
      std::rotate(node.ranks.begin(), main, main + 1);
      Members members;
      double cpus = 0;
      for (const RankId r : node.ranks) {
        if (cpus + kSlack >= demand.cpus) break;
        members.emplace_back(r, i);
        cpus += workers_[r].slots;
      }
      return members;
    }
  }
  return {};
}

// Those of the ranks that can run a member each, for all that their nodes have together.
std::vector<RankId> Scheduler::within_nodes(const Class& klass, std::vector<RankId> ranks,
                                            core::WireDemand Worker::*has) const {
  if (klass.gang == 0 || node_resources_.empty()) return ranks;
  for (const auto& [name, amount] : klass.demands.front().resources) {
    if (!node_resources_.contains(name)) continue;
    std::map<std::uint32_t, double> left;
    std::erase_if(ranks, [&, &resource = name, n = amount](RankId rank) {
      const Worker& worker = workers_[rank];
      double& of_node = left.try_emplace(worker.node, (worker.*has).resources.at(resource)).first->second;
      if (of_node + kSlack < n) return true;
      of_node -= n;
      return false;
    });
  }
  return ranks;
}

// Reserved ranks are kept from other gangs; but while a member is on one it may wait there for another member, and that
// one for such a gang.
bool Scheduler::is_open_to(const Piece& piece, const Worker& worker) const {
  return !worker.reserved || (reserver_ != &class_of(piece) && piece.nested && members_in_way_ != 0);
}

// Ranks are reserved for it, and too few of them have had something back since it was looked for, or one of all that it
// needs has too little: then a look, which costs a glance at each rank, would find no room. Where others are idle, it
// may find better ones to reserve, and is due now and then.
bool Scheduler::is_too_early_for(const Class& klass, const Piece& piece) const {
  if (!idle_.empty() && now_ - reserved_looked_ >= reserve_pause()) return false;
  if (reserved_could_ + (reserved_news_ - reserved_seen_) + idle_.count() < klass.gang) return true;
  return idle_.empty() && reserved_.size() == klass.gang && reserved_lacks_ != detail::kNoRank &&
         !may_take_part(klass, piece, reserved_lacks_);
}

std::optional<Scheduler::Members> Scheduler::choose_together(Class& klass, Piece& piece) {
  // Whatever of the class is first goes on with what the one before has reserved.
  const bool reserves = reserver_ == &klass;
  if (reserves) reserver_priority_ = piece.priority;
  if (reserves && is_too_early_for(klass, piece)) {
    if (give_up_reservation()) return std::nullopt;
    if (reserved_checked_ && now_ - *reserved_checked_ < reserve_pause()) return std::nullopt;
    reserved_checked_ = now_;
    if (reserved_in_vain(klass, piece)) give_up_in_vain();
    return std::nullopt;
  }
  std::vector<RankId> idle;
  bool fresh = false;  // some of them are not reserved yet
  if (reserves) {
    reserved_lacks_ = detail::kNoRank;
    for (const RankId rank : reserved_) {
      if (may_take_part(klass, piece, rank)) {
        idle.push_back(rank);
      } else {
        reserved_lacks_ = rank;
      }
    }
    reserved_could_ = idle.size();
    reserved_seen_ = reserved_news_;
    reserved_looked_ = now_;
  }
  if (!idle_.empty()) {
    for (std::optional<RankId> rank = idle_.next(0); rank;) {
      if (is_open_to(piece, workers_[*rank]) && may_take_part(klass, piece, *rank)) {
        idle.push_back(*rank);
        fresh = true;
      }
      const auto next = idle_.next(*rank + 1);
      rank = next && *next > *rank ? next : std::nullopt;
    }
  }
  if (idle.size() >= klass.gang) {
    std::sort(idle.begin(), idle.end());
    // Those first on which members have cpus of their own.
    std::stable_partition(idle.begin(), idle.end(), [this](RankId rank) { return workers_[rank].lent == 0; });
    idle = within_nodes(klass, std::move(idle), &Worker::free);
    Members members = pick(klass, piece.preferred, idle);
    if (!members.empty()) {
      if (reserves) {
        MOBULA_MARK("sched: those start for whom ranks were reserved");
        no_reserving_until_ = now_ + std::min(now_ - reserved_since_, kReserveRest);
        end_reservation();
      }
      return members;
    }
  }
  if (reserver_ != nullptr && !reserves && piece.priority <= reserver_priority_) return std::nullopt;
  if (reserves && give_up_reservation()) return std::nullopt;
  if (reserves && reserved_in_vain(klass, piece)) {
    give_up_in_vain();
    return std::nullopt;
  }
  if (reserves && (!fresh || now_ - reserved_anew_ < reserve_pause())) return std::nullopt;
  if (reserver_ == nullptr && now_ < no_reserving_until_) return std::nullopt;
  reserve(klass, piece);
  return std::nullopt;
}

// Whether it could start on the rank once the tasks there have ended. What actors hold of the cpus does not come back
// by waiting; what else is not there may be held by a task that waits for others, and those for the ranks.
bool Scheduler::could_take_part(const Class& klass, RankId rank) const {
  const Worker& worker = workers_[rank];
  if (klass.wide) return worker.held <= kSlack && may_lend(klass, rank);
  const double cpus = worker.slots - worker.held;
  return allowed(klass, rank) && std::any_of(klass.demands.begin(), klass.demands.end(), [&](const auto& demand) {
           return demand.cpus <= cpus + kSlack && offers_besides_cpus(worker.free, demand);
         });
}

// Some of the ranks can't take part any more: since they were reserved an actor was made there, or what else the piece
// asks for has gone.
bool Scheduler::reserved_in_vain(const Class& klass, const Piece& piece) const {
  const bool all_could =
      std::all_of(reserved_.begin(), reserved_.end(), [&](RankId rank) { return could_take_part(klass, rank); });
  if (!all_could) return true;
  if (klass.wide) return pick(klass, piece.preferred, reserved_).empty();
  return within_nodes(klass, reserved_, &Worker::free).size() != reserved_.size();
}

void Scheduler::give_up_in_vain() {
  MOBULA_MARK("sched: ranks were reserved in vain");
  end_reservation();
  no_reserving_until_ = now_ + kReserveRest;
}

// Between looks at all that is reserved.
Time Scheduler::reserve_pause() const { return std::max(kReserveAgain, kReserveEach * std::ssize(reserved_)); }

// Keeps those ranks free for it that will be so soonest, as far as one can see.
void Scheduler::reserve(const Class& klass, Piece& piece) {
  std::vector<RankId> ranks;
  for (const RankId rank : members_) {
    if (could_take_part(klass, rank)) ranks.push_back(rank);
  }
  std::sort(ranks.begin(), ranks.end(), [this](RankId a, RankId b) {
    const auto key = [this](RankId rank) {
      const Worker& w = workers_[rank];
      return std::tuple(w.busy + 1 > w.capacity() + kSlack, w.tasks, rank);
    };
    return key(a) < key(b);
  });
  ranks = within_nodes(klass, std::move(ranks), &Worker::free);
  std::vector<RankId> chosen;
  for (const auto& [rank, demand] : pick(klass, piece.preferred, ranks)) chosen.push_back(rank);
  if (!chosen.empty()) reserve_for(&klass, chosen, piece.priority);
}

void Scheduler::reserve_for(const void* who, const std::vector<RankId>& workers, int priority) {
  const Time since = reserver_ == who ? reserved_since_ : now_;
  reserved_anew_ = now_;
  const std::set<RankId> before(reserved_.begin(), reserved_.end());
  const bool were_free = members_in_way_ == 0;
  end_reservation();
  reserver_ = who;
  reserver_priority_ = priority;
  reserved_since_ = since;
  reserved_lacks_ = detail::kNoRank;
  reserved_could_ = workers.size();  // as far as is known
  for (const RankId rank : workers) {
    reserved_.push_back(rank);
    if (!before.contains(rank) && workers_[rank].tasks != 0) MOBULA_MARK("sched: a rank is reserved that has work");
    members_in_way_ += workers_[rank].members;
    workers_[rank].reserved = true;
  }
  if (members_in_way_ == 0) keep_free(were_free ? before : std::set<RankId>());
}

// If it has taken too long.
bool Scheduler::give_up_reservation() {
  if (now_ - reserved_since_ <= kReserveMost) return false;
  end_reservation();
  no_reserving_until_ = now_ + kReserveMost;
  return true;
}

void Scheduler::end_reservation() {
  reserver_ = nullptr;
  reservation_ended_ = true;
  members_in_way_ = 0;
  for (const RankId rank : std::exchange(reserved_, {})) {
    workers_[rank].reserved = false;
    look_at_again(rank);
  }
}

std::vector<Piece*> Scheduler::hopeless() const {
  std::vector<Piece*> found;
  for (const auto& [order, klass] : queued_) {
    for (const auto& [level, queue] : klass->queues) {
      for (Piece& piece : queue) {
        if (can_run(piece)) break;  // as all that is in that queue
        found.push_back(&piece);
      }
    }
  }
  return found;
}

}  // namespace mobula::sched
