// Classes: which there are, where they may run, and which of them are to be tried.
#include "sched/classes.hpp"

#include <algorithm>

#include "core/mark.hpp"
#include "sched/scheduler.hpp"

namespace mobula::sched {
namespace {

constexpr double kSlack = 1e-9;

}  // namespace

void Scheduler::classify(Holding& holding, const core::WireOptions* options) {
  holding.klass = nullptr;
  holding.memory = 0;
  if (core::is_plain(options)) return;
  const core::WireDemand& demand = options->demands.front();
  if (options->gang == 0 && options->demands.size() == 1 && demand.memory != 0) {
    holding.klass = class_with(*options, true);
    holding.memory = demand.memory;
    if (can_run(holding)) return;
    holding.memory = 0;
  }
  holding.klass = class_with(*options, false);
}

ClassRef Scheduler::class_with(const core::WireOptions& options, bool by_memory) {
  std::vector<core::WireDemand> demands = options.demands;
  if (by_memory) demands.front().memory = 0;
  const core::WireDemand& first = demands.front();
  const bool ordinary = !by_memory && !options.is_actor && options.needs.empty() && options.gang == 0 &&
                        demands.size() == 1 && first.cpus == 1 && first.gpus == 0 && first.memory == 0 &&
                        first.resources.empty();
  // `near` is a preference of the piece, and a bundle has its own queue.
  const bool elsewhere = options.placement == Placement::Kind::near || options.placement == Placement::Kind::bundle;
  const auto placement = elsewhere ? Placement::Kind::any : options.placement;
  detail::Buffer bytes;
  core::WireWriter write(bytes);
  write(demands, placement, options.place_index, options.is_actor, options.gang, options.needs, by_memory);
  std::string key(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const auto found = classes_.find(key);
  if (found != classes_.end()) return found->second;

  if (classes_.size() >= drop_at_) drop_unused_classes();
  auto klass = std::make_shared<Class>();
  klass->demands = std::move(demands);
  klass->placement = placement;
  klass->place_index = options.place_index;
  klass->gang = options.gang;
  klass->needs = options.needs;
  klass->ordinary = ordinary;
  klass->stays = options.is_actor;
  klass->by_memory = by_memory;
  klass->order = next_order_++;
  find_ranks(*klass);
  find_width(*klass);
  klass->feasible = !why_infeasible(*klass, 0);
  list(*klass);
  classes_.emplace(std::move(key), klass);
  return klass;
}

void Scheduler::list(Class& klass) {
  if (klass.is_anywhere()) {
    anywhere_.push_back(&klass);
  } else {
    (klass.placement == Placement::Kind::on_rank ? at_rank_ : at_node_)[klass.place_index].push_back(&klass);
  }
}

// The ones that nothing is of. So seldom that each class pays for it once.
void Scheduler::drop_unused_classes() {
  std::erase_if(classes_, [](const auto& entry) { return entry.second.use_count() == 1; });
  anywhere_.clear();
  at_rank_.clear();
  at_node_.clear();
  for (const auto& [key, klass] : classes_) list(*klass);
  drop_at_ = std::max(kFewClasses, 2 * classes_.size());
  MOBULA_MARK("sched: classes are dropped that nothing is of");
}

// The classes that may run on the rank, and others.
template <class F>
void Scheduler::for_each_class_at(RankId rank, F&& visit) {
  for (Class* const klass : anywhere_) visit(*klass);
  if (const auto found = at_rank_.find(rank); found != at_rank_.end()) {
    for (Class* const klass : found->second) visit(*klass);
  }
  if (const auto found = at_node_.find(workers_[rank].node); found != at_node_.end()) {
    for (Class* const klass : found->second) visit(*klass);
  }
}

bool Scheduler::offers(const core::WireDemand& offer, const core::WireDemand& demand, std::uint64_t memory) {
  return demand.cpus <= offer.cpus + kSlack && memory <= offer.memory && offers_besides_cpus(offer, demand);
}

bool Scheduler::offers_besides_cpus(const core::WireDemand& offer, const core::WireDemand& demand) {
  if (demand.gpus > offer.gpus + kSlack || demand.memory > offer.memory) return false;
  return std::all_of(demand.resources.begin(), demand.resources.end(), [&offer](const auto& entry) {
    const auto found = offer.resources.find(entry.first);
    return entry.second <= (found != offer.resources.end() ? found->second : 0) + kSlack;
  });
}

// The ranks that tasks of the class may have to do with, as those they run on or that lend them cores, and others.
const std::vector<RankId>& Scheduler::ranks_of(const Class& klass) const {
  static const std::vector<RankId> none;
  if (klass.is_anywhere()) return members_;
  std::uint32_t node = klass.place_index;
  if (klass.placement == Placement::Kind::on_rank) {
    if (klass.place_index >= workers_.size()) return none;
    node = workers_[klass.place_index].node;
  }
  const auto found = nodes_.find(node);
  return found != nodes_.end() ? found->second : none;
}

// Whether the rank is where tasks of the class are to run.
bool Scheduler::is_at(const Class& klass, RankId rank) const {
  const auto& features = workers_[rank].features;
  if (!klass.needs.empty() && std::find(features.begin(), features.end(), klass.needs) == features.end()) return false;
  if (klass.placement == Placement::Kind::on_rank) return klass.place_index == rank;
  if (klass.placement == Placement::Kind::on_node) return klass.place_index == workers_[rank].node;
  return true;
}

// Whether the rank can ever run tasks of the class; where those differ in memory, some of them.
bool Scheduler::allowed(const Class& klass, RankId rank) const {
  const Worker& worker = workers_[rank];
  if (!worker.alive || worker.closed || worker.slots == 0 || !is_at(klass, rank)) return false;
  return std::any_of(klass.demands.begin(), klass.demands.end(),
                     [&worker](const auto& demand) { return offers(worker.offers, demand); });
}

bool Scheduler::can_run(const Holding& holding) const {
  const Class& klass = class_of(holding);
  return klass.feasible && (!klass.by_memory || holding.memory <= klass.most_memory);
}

void Scheduler::find_ranks(Class& klass) {
  if (klass.is_anywhere()) {
    klass.allowed.resize(static_cast<std::uint32_t>(workers_.size()));
    for (const RankId rank : members_) klass.allowed.set(rank, allowed(klass, rank));
    klass.candidates = klass.allowed;
  }
  find_most_memory(klass);
}

void Scheduler::find_most_memory(Class& klass) {
  if (!klass.by_memory) return;
  klass.most_memory = 0;
  for (const RankId rank : ranks_of(klass)) {
    if (allowed(klass, rank)) klass.most_memory = std::max(klass.most_memory, workers_[rank].offers.memory);
  }
}

// A rank has come, has gone, or gets nothing more.
void Scheduler::rank_changed(RankId rank) {
  for_each_class_at(rank, [&](Class& klass) {
    const bool is_allowed = allowed(klass, rank);
    if (klass.is_anywhere()) {
      klass.allowed.set(rank, is_allowed);
      klass.candidates.set(rank, is_allowed);
    }
    const std::uint64_t memory = workers_[rank].offers.memory;
    if (is_allowed) {
      klass.most_memory = std::max(klass.most_memory, memory);
    } else if (memory == klass.most_memory) {
      find_most_memory(klass);
    }
  });
  const auto look = [this](Class& klass) {
    find_width(klass);
    klass.feasible = !why_infeasible(klass, 0);
    klass.parked = false;
    set_turn(klass);
  };
  look(plain_);
  for (const auto& [key, klass] : classes_) look(*klass);
}

// There may be room at the rank for classes that found none.
void Scheduler::look_at_again(RankId rank) {
  reserved_freed_ = reserved_freed_ || workers_[rank].reserved;
  for_each_class_at(rank, [&](Class& klass) {
    if (klass.is_anywhere()) {
      if (!klass.allowed.test(rank)) return;
      klass.candidates.set(rank);
    }
    klass.parked = false;
    set_turn(klass);
  });
  update(rank);
}

// At all its ranks: what is queued now asks for less than what found no room.
void Scheduler::look_at_all_again(Class& klass) {
  klass.candidates = klass.allowed;
  klass.most_left = 0;
  klass.parked = false;
}

// It was tried at all its ranks, and none had room.
void Scheduler::park(Class& klass) {
  if (klass.is_together() || (klass.is_anywhere() && !klass.candidates.empty())) return;
  klass.parked = true;
  set_turn(klass);
}

// After anything that its turn depends on has changed.
void Scheduler::set_turn(Class& klass) {
  if (&klass == &plain_) return;
  using Turn = decltype(klass.turn)::value_type;
  if (klass.queues.empty()) {
    queued_.erase(klass.order);
  } else if (!klass.turn) {
    queued_.emplace(klass.order, &klass);
  }
  std::optional<Turn> turn;
  // Newer ones first where priorities are equal, and plain tasks last, which fit anywhere.
  if (!klass.queues.empty() && !klass.parked)
    turn = Turn{-std::int64_t{klass.queues.begin()->first.priority}, ~klass.order};
  if (turn == klass.turn) return;
  if (klass.turn) turns_.erase(*klass.turn);
  if (turn) turns_.emplace(*turn, &klass);
  news_ = news_ || !klass.turn;
  klass.turn = turn;
}

}  // namespace mobula::sched
