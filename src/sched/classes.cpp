// Classes: which there are, where they may run, and which of them are to be tried.
#include "sched/classes.hpp"

#include <algorithm>

#include "core/mark.hpp"
#include "sched/scheduler.hpp"

namespace mobula::sched {
namespace {

constexpr double kSlack = 1e-9;

}  // namespace

void Scheduler::classify(Holding& holding, const core::WireOptions* options, bool nested) {
  holding.klass = nullptr;
  holding.memory = 0;
  if (core::is_plain(options)) return;
  const core::WireDemand& demand = options->demands.front();
  if (options->gang == 0 && options->demands.size() == 1 && demand.memory != 0) {
    holding.klass = class_with(*options, true, nested);
    holding.memory = demand.memory;
    if (can_run(holding)) return;
    holding.memory = 0;
  }
  holding.klass = class_with(*options, false, nested);
}

ClassRef Scheduler::class_with(const core::WireOptions& options, bool by_memory, bool nested) {
  std::vector<core::WireDemand> demands = options.demands;
  if (by_memory) demands.front().memory = 0;
  const core::WireDemand& first = demands.front();
  const bool ordinary = !by_memory && !options.is_actor && options.needs.empty() && options.gang == 0 &&
                        demands.size() == 1 && first.cpus == 1 && first.gpus == 0 && first.memory == 0 &&
                        first.resources.empty();
  // `near` is a preference of the piece, and a bundle has its own queue.
  const bool elsewhere = options.placement == Placement::Kind::near || options.placement == Placement::Kind::bundle;
  const auto placement = elsewhere ? Placement::Kind::any : options.placement;
  const bool at_place = placement == Placement::Kind::on_rank || placement == Placement::Kind::on_node;
  const std::uint32_t place_index = at_place ? options.place_index : 0;
  // What needs several ranks waits in a queue, and those behind it may be what somebody waits for on one of these
  // ranks.
  const bool stands_apart = nested && (options.gang != 0 || first.cpus > 1);
  detail::Buffer bytes;
  core::WireWriter write(bytes);
  write(demands, placement, place_index, options.is_actor, options.gang, options.needs, by_memory, stands_apart);
  std::string key(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const auto found = classes_.find(key);
  if (found != classes_.end()) return found->second;

  if (classes_.size() >= drop_at_) drop_unused_classes();
  auto klass = std::make_shared<Class>();
  klass->demands = std::move(demands);
  klass->placement = placement;
  klass->place_index = place_index;
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

// The class's family, which may be new.
void Scheduler::list(Class& klass) {
  auto& families = families_at(klass);
  Family::Asks asks = asks_of(klass);
  const auto found =
      std::find_if(families.begin(), families.end(), [&](const FamilyRef& family) { return family->asks == asks; });
  if (found != families.end()) {
    klass.family = *found;
  } else {
    klass.family = families.emplace_back(std::make_shared<Family>());
    klass.family->asks = std::move(asks);
  }
}

std::vector<FamilyRef>& Scheduler::families_at(const Class& klass) {
  if (klass.is_anywhere()) return anywhere_;
  return (klass.placement == Placement::Kind::on_rank ? at_rank_ : at_node_)[klass.place_index];
}

// The ones that nothing is of. So seldom that each class pays for it once.
void Scheduler::drop_unused_classes() {
  std::erase_if(classes_, [](const auto& entry) { return entry.second.use_count() == 1; });
  const auto drop = [](std::vector<FamilyRef>& families) {
    std::erase_if(families, [](const FamilyRef& family) { return family.use_count() == 1; });
  };
  drop(anywhere_);
  for (auto* const places : {&at_rank_, &at_node_}) {
    for (auto& [place, families] : *places) drop(families);
    std::erase_if(*places, [](const auto& entry) { return entry.second.empty(); });
  }
  drop_at_ = std::max(kFewClasses, 2 * classes_.size());
  MOBULA_MARK("sched: classes are dropped that nothing is of");
}

// The families whose classes may run on the rank, and others.
template <class F>
void Scheduler::for_each_family_at(RankId rank, F&& visit) {
  for (const FamilyRef& family : anywhere_) visit(*family);
  if (const auto found = at_rank_.find(rank); found != at_rank_.end()) {
    for (const FamilyRef& family : found->second) visit(*family);
  }
  if (const auto found = at_node_.find(workers_[rank].node); found != at_node_.end()) {
    for (const FamilyRef& family : found->second) visit(*family);
  }
}

Family::Asks Scheduler::asks_of(const Class& klass) {
  const auto all_ask = [&klass](auto&& amount) {
    return std::all_of(klass.demands.begin(), klass.demands.end(),
                       [&](const auto& demand) { return amount(demand) > 0; });
  };
  Family::Asks asks;
  asks.needs = klass.needs;
  asks.ordinary = klass.ordinary;
  if (klass.ordinary) return asks;
  asks.cpus = all_ask([](const auto& demand) { return demand.cpus; });
  asks.gpus = all_ask([](const auto& demand) { return demand.gpus; });
  asks.memory = klass.by_memory || all_ask([](const auto& demand) { return demand.memory; });
  for (const auto& [name, amount] : klass.demands.front().resources) {
    const bool all = all_ask([&resource = name](const auto& demand) {
      const auto found = demand.resources.find(resource);
      return found != demand.resources.end() ? found->second : 0;
    });
    if (all) asks.resources.push_back(name);
  }
  return asks;
}

// Of the demand, and as much memory more.
Amounts Scheduler::amounts_of(const core::WireDemand& demand, std::uint64_t memory, const Family::Asks& asks) {
  Amounts amounts{};
  std::size_t n = 0;
  const auto add = [&](double amount) {
    if (n != amounts.size()) amounts[n++] = amount;
  };
  if (asks.cpus) add(demand.cpus);
  if (asks.gpus) add(demand.gpus);
  if (asks.memory) add(static_cast<double>(demand.memory + memory));
  for (const std::string& name : asks.resources) {
    const auto found = demand.resources.find(name);
    add(found != demand.resources.end() ? found->second : 0);
  }
  return amounts;
}

// The least that any task of it which is queued asks for, whichever demand of its class is met.
Amounts Scheduler::amounts_of(const Class& klass) {
  const std::uint64_t memory = klass.by_memory ? klass.least_memory : 0;
  Amounts least = amounts_of(klass.demands.front(), memory, klass.family->asks);
  for (const auto& demand : klass.demands) lower(least, amounts_of(demand, memory, klass.family->asks));
  return least;
}

// What the worker has of that.
Amounts Scheduler::amounts_of(const Worker& worker, const Family::Asks& asks) {
  Amounts amounts = amounts_of(worker.free, 0, asks);
  if (asks.cpus) amounts[0] += worker.lent;
  for (double& amount : amounts) amount += kSlack;
  return amounts;
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
  klass.seen = news_[klass.ordinary].end();
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
  const auto look = [this](Class& klass) {
    find_width(klass);
    klass.feasible = !why_infeasible(klass, 0);
    set_parked(klass, false);
  };
  look(plain_);
  for (const auto& [key, klass] : classes_) {
    const bool is_allowed = allowed(*klass, rank);
    if (klass->is_anywhere()) {
      klass->allowed.set(rank, is_allowed);
      klass->candidates.set(rank, is_allowed);
    }
    const std::uint64_t memory = workers_[rank].offers.memory;
    if (is_allowed) {
      klass->most_memory = std::max(klass->most_memory, memory);
    } else if (memory == klass->most_memory) {
      find_most_memory(*klass);
    }
    look(*klass);
  }
}

// There may be room at the rank for classes that found none; if `ordinary`, for none but ordinary ones.
void Scheduler::look_at_again(RankId rank, bool ordinary) {
  Worker& worker = workers_[rank];
  reserved_news_ += worker.reserved ? 1 : 0;
  if (!classes_.empty()) {
    news_[true].add(rank);
    if (!ordinary) news_[false].add(rank);
    if (parked_[true] != 0 || (!ordinary && parked_[false] != 0)) {
      worker.asks_all = worker.asks_all || !ordinary;
      worker.asks_again = worker.asked.has_value();
      fresh_.set(rank);
    }
  }
  update(rank);
}

// At all its ranks: what is queued now asks for less than what found no room.
void Scheduler::look_at_all_again(Class& klass) {
  klass.candidates = klass.allowed;
  klass.most_left = 0;
  set_parked(klass, false);
}

// At those that had something back since it was tried.
void Scheduler::look_at_news(Class& klass) {
  const News& news = news_[klass.ordinary];
  if (klass.is_anywhere()) {
    const bool all = news.for_each_since(klass.seen, [&klass](RankId rank) {
      if (klass.allowed.test(rank)) klass.candidates.set(rank);
    });
    if (!all) klass.candidates = klass.allowed;
  }
  klass.seen = news.end();
}

// Before the piece is counted, which is in its queue. What was found about the ranks may say nothing of it.
void Scheduler::queued_more(Class& klass, const Piece& piece) {
  const bool was_empty = klass.tasks == 0;
  const bool less = was_empty || piece.memory < klass.least_memory;
  if (less) klass.least_memory = piece.memory;
  if (klass.by_memory && piece.memory <= klass.most_left) {
    look_at_all_again(klass);
  } else if (klass.parked) {
    const bool has_news = klass.seen != news_[klass.ordinary].end();
    if (klass.by_memory ? less || has_news : was_empty && has_news) set_parked(klass, false);
  }
}

// It was tried at all its ranks, and none had room.
void Scheduler::park(Class& klass) {
  if (klass.is_together() || (klass.is_anywhere() && !klass.candidates.empty())) return;
  set_parked(klass, true);
}

void Scheduler::set_parked(Class& klass, bool parked) {
  if (klass.parked == parked) return;
  if (klass.turn) leave_turn(klass);
  klass.parked = parked;
  if (klass.turn) enter_turn(klass);
  if (parked) look_for_others(klass);
}

// After anything that its turn depends on has changed.
void Scheduler::set_turn(Class& klass) {
  if (&klass == &plain_) return;
  std::optional<Turn> turn;
  // Newer ones first where priorities are equal, and plain tasks last, which fit anywhere.
  if (!klass.queues.empty()) turn = Turn{-std::int64_t{klass.queues.begin()->first.priority}, ~klass.order};
  if (turn == klass.turn) return;
  if (klass.turn) leave_turn(klass);
  if (!turn) queued_.erase(klass.order);
  if (!klass.turn) queued_.emplace(klass.order, &klass);
  klass.turn = turn;
  if (turn) {
    enter_turn(klass);
  } else {
    look_for_others(klass);
  }
}

// The ranks that have woken it look for others.
void Scheduler::look_for_others(Class& klass) {
  for (const RankId rank : klass.woken_by) fresh_.set(rank);
  klass.woken_by.clear();
}

// REQUIRES: it has its turn, and is nowhere.
void Scheduler::enter_turn(Class& klass) {
  if (!klass.parked) {
    turns_.emplace(*klass.turn, &klass);
    return;
  }
  if (klass.spot.klass == nullptr || klass.by_memory) klass.spot.asks = amounts_of(klass);
  klass.spot.klass = &klass;
  klass.spot.turn = *klass.turn;
  klass.family->parked.insert(klass.spot);
  ++parked_[klass.ordinary];
  if (klass.counts_on != detail::kNoRank) counting_on(klass).emplace(klass.demands.front().cpus, klass.order);
}

// REQUIRES: it has its turn. It is nowhere then.
void Scheduler::leave_turn(Class& klass) {
  if (!klass.parked) {
    turns_.erase(*klass.turn);
    return;
  }
  klass.family->parked.erase(klass.spot);
  --parked_[klass.ordinary];
  if (klass.counts_on != detail::kNoRank) counting_on(klass).erase({klass.demands.front().cpus, klass.order});
}

// What the rank has for good has become less. Those that are parked since it would have had the cpus for them are to
// take what is lent, if none has.
void Scheduler::wake_those_counting_on(RankId rank) {
  const Worker& worker = workers_[rank];
  while (!worker.counting.empty() && worker.counting.begin()->first > worker.lasting_beside_members() + kSlack) {
    MOBULA_MARK("sched: a rank that an actor counted on has other actors");
    set_parked(*queued_.at(worker.counting.begin()->second), false);
  }
}

// Wakes the first of the parked classes that the rank has room for, behind those that it has asked. It is the rank's
// turn again when that class is settled, or where `looks` were not enough. Returns how many classes it looked at.
int Scheduler::wake_first(RankId rank, int looks) {
  Worker& worker = workers_[rank];
  fresh_.reset(rank);
  unfinished_.reset(rank);
  if (worker.asks_all) wake_those_counting_on(rank);
  const bool may_run_any = worker.alive && !worker.closed && !is_kept_free(worker);
  const auto fits = [&](const Class& klass) {
    const bool may_run = klass.is_anywhere() ? klass.allowed.test(rank) : allowed(klass, rank);
    return may_run && look_at(klass, rank, nullptr, klass.stays && klass.counts_on == detail::kNoRank);
  };
  int looked = 0;
  do {
    const Spot* first = nullptr;
    std::optional<Turn> reached;  // by the search that got least far, of those that did not end
    for_each_family_at(rank, [&](const Family& family) {
      if (!may_run_any || family.parked.empty() || (!family.asks.ordinary && !worker.asks_all)) return;
      ParkedTree::Search search{worker.asked, looks};
      family.parked.search(
          search, [&] { return amounts_of(worker, family.asks); }, fits);
      looked += looks - search.looks;
      if (search.out && (!reached || *search.after < *reached)) reached = search.after;
      if (search.found != nullptr && (first == nullptr || search.found->turn < first->turn)) first = search.found;
    });
    if (reached && (first == nullptr || *reached < first->turn)) {
      MOBULA_MARK("sched: a search for a class goes on later");
      worker.asked = reached;
      unfinished_.set(rank);
      return looked;
    }
    if (first != nullptr) {
      worker.asked = first->turn;
      first->klass->woken_by.push_back(rank);
      set_parked(*first->klass, false);
      return looked;
    }
    worker.asked.reset();
  } while (std::exchange(worker.asks_again, false));
  worker.asks_all = false;
  return looked;
}

// Of those that had something back, each looks for the first. Long searches go on as time goes by.
void Scheduler::wake_parked() {
  while (const auto rank = fresh_.next(0)) wake_first(*rank, kLook);
  looks_ = std::clamp<std::int64_t>(looks_ + (now_ - looks_at_) / kLookEvery, 0, std::ssize(queued_));
  looks_at_ = now_;
  while (looks_ > 0) {
    const auto rank = unfinished_.next(unfinished_cursor_);
    if (!rank) return;
    unfinished_cursor_ = *rank + 1;
    looks_ -= wake_first(*rank, static_cast<int>(looks_));
  }
}

}  // namespace mobula::sched
