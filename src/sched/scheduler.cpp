#include "sched/scheduler.hpp"

#include <algorithm>
#include <cmath>
#include <set>

#include "core/mark.hpp"

namespace mobula::sched {
namespace {

constexpr double kSlack = 1e-9;
constexpr std::size_t kLevels = 8;      // priorities that keep their queues
constexpr int kLevelsLook = 16;         // queues looked at for what has waited longest
constexpr Time kRestLeast = 100'000;    // ns until a rank is asked again that had nothing to give,
constexpr Time kRestMost = 10'000'000;  // each time twice as long

}  // namespace

Scheduler::Scheduler(std::uint32_t ranks, std::uint32_t functions) : workers_(ranks), estimates_(functions, 0) {
  for (BitSet* set : {&idle_, &hungry_, &low_, &rich_, &fresh_, &unfinished_}) set->resize(ranks);
  for (News& news : news_) news.resize(ranks);
  plain_.demands.emplace_back();
  queued_.emplace(plain_.order, &plain_);
}

void Scheduler::add_worker(RankId rank, std::uint32_t node, const core::WireDemand& offer,
                           const std::vector<std::string>& node_resources, const std::vector<std::string>& features) {
  node_resources_.insert(node_resources.begin(), node_resources.end());
  Worker& worker = workers_[rank];
  worker = Worker();
  worker.alive = true;
  worker.node = node;
  worker.offers = worker.free = offer;
  worker.slots = offer.cpus;
  worker.features = features;
  slots_ += offer.cpus;
  members_.push_back(rank);
  nodes_[node].push_back(rank);
  rank_changed(rank);
  update(rank);
}

void Scheduler::remove_worker(RankId rank) {
  Worker& worker = workers_[rank];
  MOBULA_CHECK(worker.tasks == 0 && worker.ahead == 0, "a worker is removed with tasks assigned to it");
  slots_ -= worker.slots;
  // What its bundles have of the node's goes back to the other ranks there.
  for (auto& [id, pool] : pools_) {
    if (pool.worker == rank) vacate(id);
  }
  worker.alive = false;
  std::erase(members_, rank);
  std::erase(nodes_[worker.node], rank);
  rank_changed(rank);
  if (worker.reserved) end_reservation();
  update(rank);
}

void Scheduler::close(RankId rank) {
  Worker& worker = workers_[rank];
  worker.closed = true;
  rank_changed(rank);
  if (worker.reserved) end_reservation();
  update(rank);
}

void Scheduler::set_lent(RankId rank, const core::Lending& lending) {
  Worker& worker = workers_[rank];
  worker.lent = lending.cpus;
  worker.lent_by_members = lending.of_members;
  worker.beside = lending.beside;
  look_at_again(rank);
}

Scheduler::Room Scheduler::room(const Worker& worker) const {
  if (!worker.alive || worker.closed || is_kept_free(worker) || worker.slots == 0) return Room::none;
  const double capacity = worker.capacity();
  if (capacity + kSlack < 1) return Room::none;  // an actor has left too little for any task to begin
  if (worker.busy + 1 <= capacity + kSlack) return Room::idle;
  if (worker.busy + kSlack < 2 * capacity ||
      (static_cast<double>(worker.load_ns) < static_cast<double>(kTarget) * capacity && worker.tasks < kAhead * 32)) {
    return Room::low;
  }
  return Room::none;
}

void Scheduler::update(RankId rank) {
  const Worker& worker = workers_[rank];
  const Room r = room(worker);
  idle_.set(rank, r == Room::idle);
  hungry_.set(rank, r == Room::idle && worker.ahead == 0);
  low_.set(rank, r == Room::low);
  rich_.set(rank, worker.alive && !worker.taking && worker.lends == 0 && worker.busy > worker.capacity() + kSlack);
}

Queue& Scheduler::queue_of(const Piece& piece) {
  if (piece.pool != 0) return pools_.at(piece.pool).queues[piece.priority];
  return class_of(piece).queues[{piece.priority, piece.memory}];
}

void Scheduler::count_queued(Piece& piece) {
  piece.become(State::queued);
  queued_tasks_ += piece.size();
  if (piece.pool != 0) {
    eager_.insert(piece.pool);
    return;
  }
  Class& klass = class_of(piece);
  if (&klass != &plain_) queued_more(klass, piece);
  klass.tasks += piece.size();
  set_turn(klass);
}

void Scheduler::enqueue(Piece& piece, bool first) {
  if (!first || piece.queued_at == 0) piece.queued_at = now_;
  auto& queue = queue_of(piece);
  if (first) {
    queue.push_front(piece);
  } else {
    queue.push_back(piece);
  }
  count_queued(piece);
}

void Scheduler::enqueue_behind(Piece& piece, Piece& other) {
  piece.queued_at = other.queued_at;
  queue_of(piece).insert_behind(piece, other);
  count_queued(piece);
}

void Scheduler::dequeue(Piece& piece) {
  auto& queue = queue_of(piece);
  queue.erase(piece);
  queued_tasks_ -= piece.size();
  piece.become(State::waiting);
  if (piece.pool != 0) {
    Pool& pool = pools_.at(piece.pool);
    if (queue.empty()) pool.queues.erase(piece.priority);
    if (!pool.queues.empty()) eager_.insert(piece.pool);  // what was behind it may ask for less
    return;
  }
  Class& klass = class_of(piece);
  klass.tasks -= piece.size();
  if (!queue.empty()) return;
  if (klass.tasks == 0 && &klass == reserver_) end_reservation();
  // A level of plain tasks stays when it is empty: most are filled again at once.
  if (&klass != &plain_ || klass.queues.size() > kLevels) klass.queues.erase({piece.priority, piece.memory});
  set_turn(klass);
}

void Scheduler::resized(Piece& piece, std::int64_t change) {
  if (piece.pool == 0) class_of(piece).tasks += static_cast<std::size_t>(change);
  queued_tasks_ += static_cast<std::size_t>(change);
}

// Which of its demands the worker can meet now. `takes_lent`: an actor may have for good what a task lends that waits.
std::optional<std::uint32_t> Scheduler::fits(const Class& klass, const Worker& worker, bool takes_lent) const {
  if (is_kept_free(worker)) return std::nullopt;
  if (klass.ordinary) return room(worker) != Room::none ? std::optional<std::uint32_t>(0) : std::nullopt;
  for (std::uint32_t i = 0; i < klass.demands.size(); ++i) {
    const auto& demand = klass.demands[i];
    if (klass.stays && !takes_lent && demand.cpus > 0 && demand.cpus > worker.lasting() + kSlack) continue;
    // What asks for no cpus has room beside any tasks, also where more are held for a while than there are.
    const bool has_cpus = demand.cpus == 0 || demand.cpus <= worker.free.cpus + worker.lent + kSlack;
    if (has_cpus && offers_besides_cpus(worker.free, demand)) return i;
  }
  return std::nullopt;
}

// What of the class the rank can have now: the piece, or where that is nullptr the one of the highest priority that it
// has room for, and of those the one that asks for most memory.
std::optional<Scheduler::Choice> Scheduler::look_at(const Class& klass, RankId rank, Piece* only,
                                                    bool takes_lent) const {
  const Worker& worker = workers_[rank];
  const auto demand = fits(klass, worker, takes_lent);
  if (!demand) return std::nullopt;
  const std::uint64_t left = worker.free.memory;
  if (only != nullptr) {
    return only->memory <= left ? std::optional(Choice{only, rank, *demand}) : std::nullopt;
  }
  auto level = klass.queues.begin();
  for (int looked = 0; level != klass.queues.end() && looked < kLook; ++looked) {
    const int priority = level->first.priority;
    level = klass.queues.lower_bound({priority, left});
    if (level != klass.queues.end() && level->first.priority == priority)
      return Choice{level->second.front(), rank, *demand};
  }
  return std::nullopt;
}

// A rank for an actor that no rank can ever have beside the tasks that wait there, and members of gangs: these may wait
// for just that actor. The rank lets such a task go on even where the actor has its cpus.
std::optional<Scheduler::Choice> Scheduler::choose_lent(Class& klass, Piece* only) const {
  std::optional<Choice> found;
  if (only == nullptr) klass.counts_on = detail::kNoRank;
  for (const RankId rank : ranks_of(klass)) {
    if (!allowed(klass, rank)) continue;
    if (klass.demands.front().cpus <= workers_[rank].lasting_beside_members() + kSlack) {
      if (only == nullptr) klass.counts_on = rank;
      return std::nullopt;
    }
    if (!found) found = look_at(klass, rank, only, true);
  }
  return found;
}

// With as many tasks more the worker has no more to do than one message is worth.
bool Scheduler::stays_little(const Worker& worker, std::uint32_t function, std::uint32_t tasks) const {
  const std::uint64_t known = estimates_[function];
  return known != 0 && static_cast<double>(worker.load_ns + known * tasks) <= kTogether * worker.slots;
}

std::optional<RankId> Scheduler::choose_plain(const Piece& piece) {
  // A message costs more than a short task: some of them go together.
  if (filling_ < workers_.size() && stays_little(workers_[filling_], piece.function, 1) &&
      room(workers_[filling_]) != Room::none)
    return filling_;
  const auto found = next_plain();
  if (found) filling_ = *found;
  return found;
}

std::optional<RankId> Scheduler::next_plain() {
  while (!freed_.empty()) {
    const RankId rank = freed_.back();
    freed_.pop_back();
    if (idle_.test(rank)) return rank;
  }
  auto found = idle_.next(cursor_);
  if (!found) found = low_.next(cursor_);
  if (found) cursor_ = *found + 1;
  return found;
}

// Where the piece can go, or where that is nullptr, any that is queued.
std::optional<Scheduler::Choice> Scheduler::choose(Class& klass, Piece* only) {
  Piece& first = only != nullptr ? *only : *klass.first();
  if (first.preferred < workers_.size()) {
    // That rank or one beside it, which reads the same memory: an idle one first.
    const auto& beside = nodes_[workers_[first.preferred].node];
    const auto at = static_cast<std::size_t>(std::find(beside.begin(), beside.end(), first.preferred) - beside.begin());
    const std::size_t most = std::min<std::size_t>(beside.size(), kLook);
    std::optional<Choice> any;
    for (std::size_t i = 0; i < most; ++i) {
      const RankId rank = beside[(at + i) % beside.size()];
      if (!allowed(klass, rank)) continue;
      const auto found = look_at(klass, rank, &first);
      if (found && room(workers_[rank]) == Room::idle) return found;
      if (!any) any = found;
    }
    if (any) return any;
  }
  if (&klass == &plain_) {
    const auto rank = choose_plain(first);
    return rank ? std::optional(Choice{&first, *rank, 0}) : std::nullopt;
  }
  if (only == nullptr) look_at_news(klass);
  std::optional<Choice> best = klass.is_anywhere() ? choose_anywhere(klass, only) : choose_at_place(klass, only);
  if (!best && klass.stays) best = choose_lent(klass, only);
  if (best) cursor_ = best->rank + 1;
  return best;
}

std::optional<Scheduler::Choice> Scheduler::choose_anywhere(Class& klass, Piece* only) {
  // That the ranks have no room for what comes first says nothing of a piece that has waited long behind it.
  const BitSet& candidates = only != nullptr ? klass.allowed : klass.candidates;
  RankId from = klass.placement == Placement::Kind::pack ? 0 : cursor_;
  std::optional<Choice> best;
  std::optional<RankId> first;
  for (int looked = 0; looked < kLook; ++looked) {
    const auto rank = candidates.next(from);
    if (!rank) break;
    if (first == rank || (best && *rank < from)) break;  // once round
    from = *rank + 1;
    const auto found = look_at(klass, *rank, only);
    if (!found) {
      if (only == nullptr) {
        has_no_room(klass, *rank);
        --looked;
      } else if (!first) {
        first = rank;
      }
      continue;
    }
    if (!best || workers_[*rank].load() < workers_[best->rank].load()) best = found;
    if (klass.placement == Placement::Kind::pack) break;
    if (klass.placement != Placement::Kind::spread && workers_[*rank].load() == 0) break;
  }
  return best;
}

std::optional<Scheduler::Choice> Scheduler::choose_at_place(Class& klass, Piece* only) {
  std::optional<Choice> best;
  for (const RankId rank : ranks_of(klass)) {
    if (!allowed(klass, rank)) continue;
    const auto found = look_at(klass, rank, only);
    if (!found && only == nullptr) has_no_room(klass, rank);
    if (found && (!best || workers_[rank].load() < workers_[best->rank].load())) best = found;
  }
  return best;
}

// Nothing of the class that is queued fits there.
void Scheduler::has_no_room(Class& klass, RankId rank) {
  if (klass.is_anywhere()) klass.candidates.reset(rank);
  if (klass.by_memory && fits(klass, workers_[rank], klass.stays)) {
    klass.most_left = std::max(klass.most_left, workers_[rank].free.memory);
  }
}

// How many tasks of the piece the worker gets now.
std::uint32_t Scheduler::share(const Class& klass, const Piece& piece, const Worker& worker) const {
  if (!klass.ordinary) return 1;
  const std::uint64_t known = estimates_[piece.function];
  const std::uint64_t estimate = known != 0 ? known : kUnknown;
  const auto by_time = static_cast<std::uint64_t>(
      std::max(1.0, static_cast<double>(kTarget) * worker.slots / static_cast<double>(estimate)));
  // Towards the end parts get smaller, so that all slots end together, but not less than a message is worth.
  const auto together = known != 0 ? static_cast<std::uint64_t>(kTogether * worker.slots) / known : 0;
  const double its_part = worker.slots / std::max(slots_, 1.0);
  const auto by_rest =
      std::max(static_cast<std::uint64_t>(static_cast<double>(klass.tasks) * its_part / 2) + 1, together);
  const std::uint64_t by_size = std::max<std::uint64_t>(1, kBytes / std::max<std::uint32_t>(piece.bytes, 1));
  return static_cast<std::uint32_t>(std::min<std::uint64_t>({by_time, by_rest, by_size, piece.size()}));
}

// The piece that was queued before all others that are first in their queues, if that is kPatience ago. Where there are
// very many queues, of those that it is the turn of.
Piece* Scheduler::longest_waiting() {
  Piece* found = nullptr;
  Time since = now_ - kPatience;
  auto klass = queued_.lower_bound(patience_class_);
  if (klass == queued_.end()) klass = queued_.begin();
  auto level = klass->second->queues.begin();
  if (klass->first == patience_class_ && patience_level_) level = klass->second->queues.upper_bound(*patience_level_);
  std::size_t rounds = 0;
  for (int looked = 0; looked < kLevelsLook;) {
    if (level == klass->second->queues.end()) {
      if (++klass == queued_.end()) klass = queued_.begin();
      if (++rounds > queued_.size()) break;  // all have been looked at
      level = klass->second->queues.begin();
      patience_level_.reset();
      continue;
    }
    Piece* const piece = level->second.front();
    if (piece != nullptr && piece->queued_at <= since) {
      since = piece->queued_at;
      found = piece;
    }
    patience_level_ = level->first;
    ++level;
    ++looked;
  }
  patience_class_ = klass->first;
  return found;
}

std::optional<Scheduler::Decision> Scheduler::place(Time now) {
  now_ = now;
  if (queued_tasks_ == 0) return std::nullopt;
  if (!eager_.empty()) {
    if (auto decision = place_in_pools()) return decision;
  }
  if (++turn_ % kTurn == 0) {
    if (Piece* const piece = longest_waiting(); piece != nullptr) {
      MOBULA_MARK("sched: what has waited long has its turn");
      if (auto decision = place_in(class_of(*piece), piece)) return decision;
    }
  }
  return place_first();
}

// Classes in order of what is first in their queues.
std::optional<Scheduler::Decision> Scheduler::place_first() {
  constexpr int kEnded = 4;
  for (int round = 0, ended = 0; round < kLook && ended < kEnded; ++round) {
    reservation_ended_ = false;
    if (!fresh_.empty() || !unfinished_.empty()) wake_parked();
    const Piece* const plain = plain_.tasks != 0 ? plain_.first() : nullptr;
    bool plain_is_next = plain != nullptr;
    for (auto turn = turns_.begin(); turn != turns_.end();) {
      // Trying one gives no other one a turn; its own may go.
      Class& klass = *(turn++)->second;
      if (plain_is_next && plain->priority > klass.queues.begin()->first.priority) {
        plain_is_next = false;
        if (auto decision = place_in(plain_)) return decision;
      }
      if (auto decision = place_in(klass)) return decision;
      park(klass);
    }
    if (plain_is_next) {
      if (auto decision = place_in(plain_)) return decision;
    }
    if (fresh_.empty() && !reservation_ended_) break;
    if (reservation_ended_) ++ended;
  }
  return std::nullopt;
}

// The piece, or where that is nullptr, one of the class that it is the turn of.
std::optional<Scheduler::Decision> Scheduler::place_in(Class& klass, Piece* only) {
  if (klass.is_together()) {
    Piece& piece = only != nullptr ? *only : *klass.first();
    auto members = choose_together(klass, piece);
    if (!members) return std::nullopt;
    if (klass.gang != 0) return Decision{&piece, piece.size(), detail::kNoRank, 0, std::move(*members), {}};
    Decision one{&piece, 1, members->front().first, members->front().second, {}, {}};
    for (auto lender = members->begin() + 1; lender != members->end(); ++lender) one.lenders.push_back(lender->first);
    return one;
  }
  const auto choice = choose(klass, only);
  if (!choice) return std::nullopt;
  Worker& worker = workers_[choice->rank];
  const Piece& piece = *choice->piece;
  const std::uint32_t tasks = share(klass, piece, worker);
  if (stays_little(worker, piece.function, tasks)) worker.rest_until = std::max(worker.rest_until, now_ + kSettle);
  return Decision{choice->piece, tasks, choice->rank, choice->demand, {}, {}};
}

// What it holds of its worker's cpus.
double Scheduler::cpus_of(const Holding& holding) const {
  return std::min(class_of(holding).demands[holding.demand].cpus, workers_[holding.worker].slots);
}

// Takes what as many tasks hold from what their worker has free, or, if negative, gives it back.
void Scheduler::charge(const Holding& holding, double tasks) {
  const Class& klass = class_of(holding);
  if (klass.ordinary) return;
  const core::WireDemand& demand = klass.demands[holding.demand];
  change_free(holding.worker, demand, -tasks);
  change_memory(workers_[holding.worker].free, holding.memory, -tasks);
  workers_[holding.worker].free.cpus += tasks * (demand.cpus - cpus_of(holding));
}

// Of what the ranks of a node have together, the others have as much more or less.
void Scheduler::change_free(RankId rank, const core::WireDemand& by, double sign) {
  change(workers_[rank].free, by, sign);
  if (node_resources_.empty()) return;
  for (const auto& [name, amount] : by.resources) {
    if (!node_resources_.contains(name)) continue;
    for (const RankId other : nodes_[workers_[rank].node]) {
      if (other == rank) continue;
      workers_[other].free.resources[name] += sign * amount;
      if (sign > 0) look_at_again(other);
    }
  }
}

void Scheduler::assigned(Piece& piece, RankId rank, std::uint32_t demand, std::vector<RankId> lenders) {
  piece.become(State::assigned);
  piece.worker = rank;
  piece.demand = demand;
  piece.lenders = std::move(lenders);
  piece.waits = false;
  load(piece);
}

void Scheduler::sent_ahead(Piece& piece, RankId rank) {
  piece.become(State::ahead);
  piece.worker = rank;
  piece.demand = 0;
  workers_[rank].ahead += piece.size();
  update(rank);
  ask_reserved(rank);
}

void Scheduler::inputs_came(Piece& piece) {
  piece.become(State::assigned);
  workers_[piece.worker].ahead -= piece.size();
  load(piece);
}

// Counts the piece, which has just become assigned, with its rank or pool.
void Scheduler::load(Piece& piece) {
  const std::uint64_t known = estimates_[piece.function];
  piece.estimate_ns = known != 0 ? known : kUnknown;
  if (piece.pool != 0) {
    change_pool(piece, piece.size());
    return;
  }
  Worker& worker = workers_[piece.worker];
  worker.tasks += piece.size();
  worker.busy += cpus_of(piece) * piece.size();
  worker.load_ns += piece.estimate_ns * piece.size();
  charge(piece, piece.size());
  for (const RankId lender : piece.lenders) lend_rank(lender, 1);
  if (class_of(piece).gang != 0) count_member(piece, 1);
  update(piece.worker);
  ask_reserved(piece.worker);
}

// Something has come to the rank, as what its tasks have submitted. Where it is kept free for others, it is asked for
// that too.
void Scheduler::ask_reserved(RankId rank) {
  if (is_kept_free(workers_[rank])) fresh_reserved_.push_back(rank);
}

std::vector<RankId> Scheduler::take_reserved() {
  std::vector<RankId> ranks = std::exchange(fresh_reserved_, {});
  std::sort(ranks.begin(), ranks.end());
  ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
  return ranks;
}

void Scheduler::lend_rank(RankId rank, int times) {
  Worker& worker = workers_[rank];
  worker.lends += static_cast<std::uint32_t>(times);
  worker.free.cpus -= times * worker.slots;
  look_at_again(rank);
}

void Scheduler::set_waits(Holding& holding, bool waits) {
  if (std::exchange(holding.waits, waits) == waits) return;
  for (const RankId lender : holding.lenders) lend_rank(lender, waits ? -1 : 1);
  if (holding.pool == 0) return;
  Pool& pool = pools_.at(holding.pool);
  const double cpus = class_of(holding).demands[holding.demand].cpus;
  pool.free.cpus += waits ? cpus : -cpus;
  if (!pool.queues.empty()) eager_.insert(holding.pool);
}

void Scheduler::ended(Piece& piece) {
  const std::uint32_t tasks = piece.size();
  if (piece.state == State::ahead) {
    piece.become(State::waiting);
    workers_[piece.worker].ahead -= tasks;
    update(piece.worker);
    return;
  }
  piece.become(State::waiting);
  set_waits(piece, false);
  if (piece.pool != 0) {
    change_pool(piece, -static_cast<double>(tasks));
    return;
  }
  unload(piece, tasks);
  give_back(piece, tasks);
  look_at_again(piece.worker, class_of(piece).ordinary);
  if (!idle_.test(piece.worker)) return;
  if (freed_.size() == kFreed) freed_.erase(freed_.begin(), freed_.begin() + kFreed / 2);
  freed_.push_back(piece.worker);
}

void Scheduler::stays(const Piece& piece) {
  if (piece.pool != 0) return;  // as while it was made
  unload(piece, 1);
  Worker& worker = workers_[piece.worker];
  worker.held += cpus_of(piece);
  if (class_of(piece).ordinary) worker.free.cpus -= cpus_of(piece);  // of others that is counted already
  ++worker.actors;
  if (worker.reserved) reserved_checked_.reset();
  look_at_again(piece.worker);  // there may be room, since one without cpus is no load
}

void Scheduler::left(Holding holding) {
  set_waits(holding, false);
  if (holding.pool != 0) {
    change_pool(holding, -1);
    return;
  }
  Worker& worker = workers_[holding.worker];
  worker.held -= cpus_of(holding);
  if (class_of(holding).ordinary) worker.free.cpus += cpus_of(holding);
  --worker.actors;
  give_back(holding, 1);
  look_at_again(holding.worker);  // there are more cpus for good, also where it was a plain task
}

void Scheduler::unload(const Piece& piece, std::uint32_t tasks) {
  Worker& worker = workers_[piece.worker];
  worker.tasks -= tasks;
  worker.busy = worker.tasks != 0 ? worker.busy - cpus_of(piece) * tasks : 0;
  worker.load_ns -= piece.estimate_ns * tasks;
  if (class_of(piece).gang != 0) count_member(piece, -1);
}

// A member of a gang has come to the rank, or gone. While one is on a rank that is reserved, tasks and actors have
// those ranks too: it may be inside MPI, and wait there for another member that waits for just such a one.
void Scheduler::count_member(const Holding& holding, int change) {
  Worker& worker = workers_[holding.worker];
  worker.members += static_cast<std::uint32_t>(change);
  worker.by_members = worker.members != 0 ? worker.by_members + change * cpus_of(holding) : 0;
  if (change > 0) look_at_again(holding.worker);  // actors that count on it are to have what others lend
  if (!worker.reserved) return;
  members_in_way_ += static_cast<std::uint32_t>(change);
  if (members_in_way_ == 0) keep_free({});
}

// What is reserved gets no other work from now on, and gives back what it has not begun: all but those that were asked
// for that before.
void Scheduler::keep_free(const std::set<RankId>& asked) {
  for (const RankId rank : reserved_) {
    const Worker& worker = workers_[rank];
    if (!asked.contains(rank) && worker.tasks + worker.ahead != 0) fresh_reserved_.push_back(rank);
    update(rank);
  }
}

void Scheduler::give_back(const Holding& holding, std::uint32_t tasks) {
  charge(holding, -static_cast<double>(tasks));
  for (const RankId lender : holding.lenders) lend_rank(lender, -1);
}

void Scheduler::measured(std::uint32_t function, std::uint64_t elapsed_ns, std::uint32_t tasks) {
  const std::uint64_t each = std::max<std::uint64_t>(elapsed_ns / std::max<std::uint32_t>(tasks, 1), 1);
  std::uint64_t& estimate = estimates_[function];
  estimate = estimate == 0 ? each : std::max<std::uint64_t>((estimate * 7 + each) / 8, 1);
}

std::optional<Scheduler::TakeBack> Scheduler::rebalance(Time now) {
  if (!may_rebalance() || plain_.tasks != 0) return std::nullopt;
  const std::uint32_t most = std::min<std::uint32_t>(kLook, rich_.count());
  for (std::uint32_t looked = 0; looked < most; ++looked) {
    const RankId rank = rich_.next(rich_cursor_).value();
    rich_cursor_ = rank + 1;
    Worker& worker = workers_[rank];
    if (now >= worker.rest_until) {
      const auto excess = static_cast<std::uint32_t>(std::ceil(worker.busy - worker.capacity()));
      worker.taking = true;
      update(rank);
      const std::uint32_t hungry = idle_.count();
      // One that has given only what came back to it is asked for more: what others can run may be behind that.
      const auto times = static_cast<std::uint32_t>(1 + worker.rest / kRestLeast);
      const std::uint64_t wanted = std::uint64_t{std::max(excess / 2, std::min(excess, hungry))} * times;
      return TakeBack{rank,
                      std::max<std::uint32_t>(1, static_cast<std::uint32_t>(std::min<std::uint64_t>(excess, wanted)))};
    }
  }
  return std::nullopt;
}

void Scheduler::gave_back(RankId rank, std::uint32_t tasks, Time now) {
  Worker& worker = workers_[rank];
  worker.taking = false;
  if (filling_ == rank) filling_ = detail::kNoRank;  // it takes longer than was thought
  // One that had nothing to give is left in peace for a while, longer each time.
  if (tasks == 0) MOBULA_MARK("sched: a rank has nothing to give back");
  worker.rest = tasks != 0 ? 0 : std::clamp<Time>(worker.rest * 2, kRestLeast, kRestMost);
  worker.rest_until = now + worker.rest;
  update(rank);
}

bool Scheduler::starved() const {
  bool any_held = false;
  for (const RankId rank : members_) {
    const Worker& worker = workers_[rank];
    if (worker.closed) continue;
    // Less than the cpu that a task asks for as a rule, where nothing runs that gives some back.
    const bool has_little = worker.capacity() <= kSlack || (worker.busy <= kSlack && worker.capacity() + kSlack < 1);
    if (worker.lends != 0 || !has_little) return false;
    any_held = any_held || worker.held > 0;
  }
  return queued_tasks_ != 0 && any_held;
}

core::WireDemand Scheduler::sum_of(core::WireDemand Worker::*has) const {
  core::WireDemand sum;
  sum.cpus = 0;
  std::set<std::uint32_t> seen;
  for (const RankId rank : members_) {
    const core::WireDemand& of = workers_[rank].*has;
    sum.cpus += of.cpus;
    sum.gpus += of.gpus;
    sum.memory += of.memory;
    const bool first = seen.insert(workers_[rank].node).second;
    for (const auto& [name, amount] : of.resources) {
      if (first || !node_resources_.contains(name)) sum.resources[name] += amount;
    }
  }
  return sum;
}

core::WireDemand Scheduler::total() const { return sum_of(&Worker::offers); }

core::WireDemand Scheduler::free() const {
  core::WireDemand sum = sum_of(&Worker::free);
  sum.cpus = 0;
  for (const RankId rank : members_) sum.cpus += std::max(0.0, workers_[rank].capacity() - workers_[rank].busy);
  return sum;
}

void Scheduler::check_invariants() const {
  std::size_t queued = 0;
  const auto check = [&](const Class& klass) {
    std::size_t tasks = 0;
    for (const auto& [level, queue] : klass.queues) {
      MOBULA_CHECK(&klass == &plain_ || !queue.empty(), "a queue that is empty goes");
      for (const Piece& piece : queue) {
        MOBULA_CHECK(piece.state == State::queued, "a piece in a queue is in state queued");
        MOBULA_CHECK((level == Level{piece.priority, piece.memory}), "a piece is in the queue that is its own");
        tasks += piece.size();
      }
    }
    MOBULA_CHECK(tasks == klass.tasks, "a class counts its queued tasks");
    MOBULA_CHECK(&klass == &plain_ || klass.turn.has_value() == (tasks != 0),
                 "a class that has something queued has its turn, or is parked");
    MOBULA_CHECK(!klass.turn || turns_.contains(*klass.turn) != klass.parked, "it is tried, or is parked");
    queued += tasks;
  };
  check(plain_);
  for (const auto& [key, klass] : classes_) check(*klass);
  for (const auto& [id, pool] : pools_) {
    for (const auto& [priority, queue] : pool.queues) {
      for (const Piece& piece : queue) queued += piece.size();
    }
  }
  MOBULA_CHECK(queued == queued_tasks_, "the queued tasks are counted");
  for (const Worker& worker : workers_) {
    if (!worker.alive) continue;
    MOBULA_CHECK(worker.free.gpus > -1e-6, "gpus never go negative");
    MOBULA_CHECK(worker.free.memory <= worker.offers.memory, "memory never goes negative");
    for (const auto& [name, amount] : worker.free.resources) {
      MOBULA_CHECK(amount > -1e-6, "resource " + name + " never goes negative");
      if (!node_resources_.contains(name)) continue;
      const Worker& first = workers_[nodes_.at(worker.node).front()];
      MOBULA_CHECK(std::abs(first.free.resources.at(name) - amount) < 1e-6, "a node has one amount of " + name);
    }
  }
}

}  // namespace mobula::sched
