#include "sched/scheduler.hpp"

#include <algorithm>
#include <cmath>
#include <set>

#include "core/mark.hpp"

namespace mobula::sched {
namespace {

constexpr double kSlack = 1e-9;
constexpr int kLook = 64;           // candidates looked at for the emptiest
constexpr std::size_t kLevels = 8;  // priorities that keep their queues

std::string describe_demand(const core::WireDemand& d) {
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
  add("bytes of memory", static_cast<double>(d.memory));
  for (const auto& [name, amount] : d.resources) add(name, amount);
  return text.empty() ? "nothing" : text;
}

}  // namespace

Scheduler::Scheduler(std::uint32_t ranks, std::uint32_t functions) : workers_(ranks), estimates_(functions, 0) {
  for (BitSet* set : {&idle_, &hungry_, &low_, &rich_}) set->resize(ranks);
  classes_.emplace_back();
  classes_[kPlain].demands.emplace_back();
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
  for (Class& klass : classes_) {
    if (klass.candidates.size() != 0) klass.candidates.set(rank, allowed(klass, rank));
  }
  ranks_changed();
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
  for (Class& klass : classes_) {
    if (klass.candidates.size() != 0) klass.candidates.reset(rank);
  }
  ranks_changed();
  if (worker.reserved) end_reservation();
  update(rank);
}

void Scheduler::close(RankId rank) {
  Worker& worker = workers_[rank];
  worker.closed = true;
  for (Class& klass : classes_) {
    if (klass.candidates.size() != 0) klass.candidates.reset(rank);
  }
  ranks_changed();
  if (worker.reserved) end_reservation();
  update(rank);
}

void Scheduler::ranks_changed() {
  for (ClassId id = 0; id < classes_.size(); ++id) {
    find_width(classes_[id]);
    classes_[id].feasible = !why_infeasible(id);
  }
}

void Scheduler::set_lent(RankId rank, double cpus) {
  workers_[rank].lent = cpus;
  look_at_again(rank);
}

Scheduler::Room Scheduler::room(const Worker& worker) const {
  if (!worker.alive || worker.closed || worker.reserved || worker.slots == 0) return Room::none;
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

ClassId Scheduler::classify(const core::WireOptions* options) {
  if (core::is_plain(options)) return kPlain;
  const auto& first = options->demands.front();
  const bool ordinary = !options->is_actor && options->needs.empty() && options->gang == 0 &&
                        options->demands.size() == 1 && first.cpus == 1 && first.gpus == 0 && first.memory == 0 &&
                        first.resources.empty();
  // `near` is a preference of the piece, and a bundle has its own queue.
  const bool elsewhere = options->placement == Placement::Kind::near || options->placement == Placement::Kind::bundle;
  const auto placement = elsewhere ? Placement::Kind::any : options->placement;
  detail::Buffer key;
  core::WireWriter write(key);
  write(options->demands, placement, options->place_index, options->is_actor, options->gang, options->needs);
  const std::string text(reinterpret_cast<const char*>(key.data()), key.size());
  const auto [found, fresh] = class_ids_.emplace(text, static_cast<ClassId>(classes_.size()));
  if (fresh) {
    Class klass;
    klass.demands = options->demands;
    klass.placement = placement;
    klass.place_index = options->place_index;
    klass.gang = options->gang;
    klass.needs = options->needs;
    klass.ordinary = ordinary;
    klass.stays = options->is_actor;
    klass.candidates.resize(static_cast<std::uint32_t>(workers_.size()));
    for (const RankId rank : members_) klass.candidates.set(rank, allowed(klass, rank));
    find_width(klass);
    classes_.push_back(std::move(klass));
    classes_.back().feasible = !why_infeasible(found->second);
  }
  return found->second;
}

bool Scheduler::offers(const core::WireDemand& offer, const core::WireDemand& demand) {
  return demand.cpus <= offer.cpus + kSlack && offers_besides_cpus(offer, demand);
}

bool Scheduler::offers_besides_cpus(const core::WireDemand& offer, const core::WireDemand& demand) {
  if (demand.gpus > offer.gpus + kSlack || demand.memory > offer.memory) return false;
  return std::all_of(demand.resources.begin(), demand.resources.end(), [&offer](const auto& entry) {
    const auto found = offer.resources.find(entry.first);
    return entry.second <= (found != offer.resources.end() ? found->second : 0) + kSlack;
  });
}

// Whether the rank is where tasks of the class are to run.
bool Scheduler::is_at(const Class& klass, RankId rank) const {
  const auto& features = workers_[rank].features;
  if (!klass.needs.empty() && std::find(features.begin(), features.end(), klass.needs) == features.end()) return false;
  if (klass.placement == Placement::Kind::on_rank) return klass.place_index == rank;
  if (klass.placement == Placement::Kind::on_node) return klass.place_index == workers_[rank].node;
  return true;
}

// Whether the rank can ever run tasks of the class.
bool Scheduler::allowed(const Class& klass, RankId rank) const {
  const Worker& worker = workers_[rank];
  if (!worker.alive || worker.closed || worker.slots == 0 || !is_at(klass, rank)) return false;
  return std::any_of(klass.demands.begin(), klass.demands.end(),
                     [&worker](const auto& demand) { return offers(worker.offers, demand); });
}

std::optional<std::string> Scheduler::why_infeasible(ClassId id) const {
  const Class& klass = classes_[id];
  if (klass.wide) return std::nullopt;
  core::WireDemand largest;
  largest.cpus = 0;
  bool any_place = false;
  std::map<std::uint32_t, double> cpus;  // by node
  std::vector<RankId> fit;
  std::set<std::uint32_t> nodes;  // of those
  const bool by_node = klass.placement == Placement::Kind::one_per_node;
  for (const RankId rank : members_) {
    if (allowed(klass, rank)) {
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

std::string Scheduler::describe(const Piece& piece) const {
  const Class& klass = classes_[piece.klass];
  if (piece.pool != 0) {
    return "it asks for " + describe_demand(klass.demands.front()) +
           (is_placed(piece.pool) ? ", and others hold what its bundle has" : ", and its bundle is not set aside yet");
  }
  std::uint32_t busy = 0;
  std::uint32_t unfit = 0;
  for (const RankId rank : members_) {
    if (workers_[rank].slots == 0) continue;
    ++(allowed(klass, rank) ? busy : unfit);
  }
  if (klass.wide) {
    return "it asks for " + describe_demand(klass.demands.front()) +
           ", which no rank has alone: it waits until enough ranks of one node are idle at once";
  }
  std::string text = "it asks for " + describe_demand(klass.demands.front()) +
                     (klass.gang != 0 ? " on each of " + std::to_string(klass.gang) + " ranks at once; " : "; ") +
                     std::to_string(busy) + " ranks can run it and have no room now";
  if (unfit != 0) text += ", " + std::to_string(unfit) + " ranks can never run it";
  std::size_t ahead = 0;
  for (const auto& [priority, queue] : klass.queues) {
    for (const Piece& other : queue) {
      if (&other == &piece) return text + "; " + std::to_string(ahead) + " tasks are before it in its queue";
      ahead += other.size();
    }
  }
  return text;
}

Queue& Scheduler::queue_of(const Piece& piece) {
  auto& queues = piece.pool != 0 ? pools_.at(piece.pool).queues : classes_[piece.klass].queues;
  return queues[piece.priority];
}

void Scheduler::count_queued(Piece& piece) {
  piece.become(State::queued);
  queued_tasks_ += piece.size();
  if (piece.pool != 0) {
    eager_.insert(piece.pool);
  } else {
    classes_[piece.klass].tasks += piece.size();
  }
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
  if (piece.pool != 0) return;
  Class& klass = classes_[piece.klass];
  klass.tasks -= piece.size();
  if (!queue.empty()) return;
  if (&queue == reserver_) end_reservation();
  // A level stays when it is empty: most are filled again at once.
  if (klass.queues.size() > kLevels) klass.queues.erase(piece.priority);
}

void Scheduler::resized(Piece& piece, std::int64_t change) {
  if (piece.pool == 0) classes_[piece.klass].tasks += static_cast<std::size_t>(change);
  queued_tasks_ += static_cast<std::size_t>(change);
}

// Which of its demands the worker can meet now. `takes_lent`: an actor may have for good what a task lends that waits.
std::optional<std::uint32_t> Scheduler::fits(const Class& klass, const Worker& worker, bool takes_lent) const {
  if (worker.reserved) return std::nullopt;
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

// A rank for an actor that no rank can ever have beside the tasks that wait there: these may wait for just that actor.
// The rank lets such a task go on even where the actor has its cpus.
std::optional<std::pair<RankId, std::uint32_t>> Scheduler::choose_lent(const Class& klass) const {
  std::optional<std::pair<RankId, std::uint32_t>> found;
  for (const RankId rank : members_) {
    if (!allowed(klass, rank)) continue;
    if (klass.demands.front().cpus <= workers_[rank].lasting() + kSlack) return std::nullopt;
    if (found) continue;
    if (const auto demand = fits(klass, workers_[rank], true)) found = {rank, *demand};
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

std::optional<std::pair<RankId, std::uint32_t>> Scheduler::choose(Class& klass, const Piece& piece) {
  const RankId preferred = piece.preferred;
  if (preferred < workers_.size()) {
    // That rank or one beside it, which reads the same memory: an idle one first.
    const auto& beside = nodes_[workers_[preferred].node];
    const auto at = static_cast<std::size_t>(std::find(beside.begin(), beside.end(), preferred) - beside.begin());
    const std::size_t most = std::min<std::size_t>(beside.size(), kLook);
    std::optional<std::pair<RankId, std::uint32_t>> first;
    for (std::size_t i = 0; i < most; ++i) {
      const RankId rank = beside[(at + i) % beside.size()];
      if (!allowed(klass, rank)) continue;
      const auto demand = fits(klass, workers_[rank]);
      if (demand && room(workers_[rank]) == Room::idle) return std::pair{rank, *demand};
      if (demand && !first) first = {rank, *demand};
    }
    if (first) return first;
  }
  if (&klass == &classes_[kPlain]) {
    const auto rank = choose_plain(piece);
    return rank ? std::optional(std::pair{*rank, std::uint32_t{0}}) : std::nullopt;
  }
  RankId from = klass.placement == Placement::Kind::pack ? 0 : cursor_;
  std::optional<std::pair<RankId, std::uint32_t>> best;
  for (int looked = 0; looked < kLook; ++looked) {
    const auto rank = klass.candidates.next(from);
    if (!rank) break;
    if (best && *rank < from) break;  // once round
    from = *rank + 1;
    const auto demand = fits(klass, workers_[*rank]);
    if (!demand) {
      klass.candidates.reset(*rank);
      continue;
    }
    if (!best || workers_[*rank].load() < workers_[best->first].load()) best = {*rank, *demand};
    if (klass.placement == Placement::Kind::pack) break;
    if (klass.placement != Placement::Kind::spread && workers_[*rank].load() == 0) break;
  }
  if (!best && klass.stays) best = choose_lent(klass);
  if (best) cursor_ = best->first + 1;
  return best;
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

// The class and level whose first piece was queued before all others, if that is kPatience ago.
std::pair<Scheduler::Class*, int> Scheduler::longest_waiting() {
  std::pair<Class*, int> found{nullptr, 0};
  Time since = now_ - kPatience;
  for (Class& klass : classes_) {
    for (const auto& [priority, queue] : klass.queues) {
      if (queue.empty() || queue.front()->queued_at > since) continue;
      since = queue.front()->queued_at;
      found = {&klass, priority};
    }
  }
  return found;
}

std::optional<Scheduler::Decision> Scheduler::place(Time now) {
  now_ = now;
  if (queued_tasks_ == 0) return std::nullopt;
  if (!eager_.empty()) {
    if (auto decision = place_in_pools()) return decision;
  }
  // Classes in order of what is first in their queues. There are few; most programs have one.
  const auto place_in = [this](Class& klass, int priority) -> std::optional<Decision> {
    const auto level = klass.queues.find(priority);
    Piece& piece = *level->second.front();
    if (klass.gang != 0 || klass.wide) {
      auto members = choose_together(klass, piece);
      if (!members) return std::nullopt;
      if (klass.gang != 0) return Decision{&piece, piece.size(), detail::kNoRank, 0, std::move(*members), {}};
      Decision one{&piece, 1, members->front().first, members->front().second, {}, {}};
      for (auto lender = members->begin() + 1; lender != members->end(); ++lender) one.lenders.push_back(lender->first);
      return one;
    }
    const auto chosen = choose(klass, piece);
    if (!chosen) return std::nullopt;
    Worker& worker = workers_[chosen->first];
    const std::uint32_t tasks = share(klass, piece, worker);
    if (stays_little(worker, piece.function, tasks)) worker.rest_until = std::max(worker.rest_until, now_ + kSettle);
    return Decision{&piece, tasks, chosen->first, chosen->second, {}, {}};
  };
  const auto first_level = [](const Class& klass) {
    return std::find_if(klass.queues.begin(), klass.queues.end(),
                        [](const auto& level) { return !level.second.empty(); });
  };
  if (++turn_ % kTurn == 0) {
    if (const auto [klass, priority] = longest_waiting(); klass != nullptr) {
      MOBULA_MARK("sched: what has waited long has its turn");
      if (auto decision = place_in(*klass, priority)) return decision;
    }
  }
  if (classes_.size() == 1) {
    if (classes_[kPlain].tasks == 0) return std::nullopt;
    return place_in(classes_[kPlain], first_level(classes_[kPlain])->first);
  }
  std::vector<std::pair<int, ClassId>> order;
  for (ClassId id = 0; id < classes_.size(); ++id) {
    // Scarce resources first where priorities are equal: a plain task fits anywhere.
    if (classes_[id].tasks == 0) continue;
    order.emplace_back(-first_level(classes_[id])->first, static_cast<ClassId>(classes_.size() - id));
  }
  std::sort(order.begin(), order.end());
  for (const auto& [priority, reversed] : order) {
    if (auto decision = place_in(classes_[classes_.size() - reversed], -priority)) return decision;
  }
  return std::nullopt;
}

// What it holds of its worker's cpus.
double Scheduler::cpus_of(const Holding& holding) const {
  return std::min(classes_[holding.klass].demands[holding.demand].cpus, workers_[holding.worker].slots);
}

// Takes what as many tasks hold from what their worker has free, or, if negative, gives it back.
void Scheduler::charge(const Holding& holding, double tasks) {
  const Class& klass = classes_[holding.klass];
  if (klass.ordinary) return;
  const core::WireDemand& demand = klass.demands[holding.demand];
  change_free(holding.worker, demand, -tasks);
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
    change_pool(piece.pool, piece.klass, piece.demand, piece.size());
    return;
  }
  Worker& worker = workers_[piece.worker];
  worker.tasks += piece.size();
  worker.busy += cpus_of(piece) * piece.size();
  worker.load_ns += piece.estimate_ns * piece.size();
  charge(piece, piece.size());
  for (const RankId lender : piece.lenders) lend_rank(lender, 1);
  update(piece.worker);
  ask_reserved(piece.worker);
}

// Something has come to the rank, as what its tasks have submitted. Where it is kept free for others, it is asked for
// that too.
void Scheduler::ask_reserved(RankId rank) {
  if (workers_[rank].reserved) fresh_reserved_.push_back(rank);
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
  const double cpus = classes_[holding.klass].demands[holding.demand].cpus;
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
    change_pool(piece.pool, piece.klass, piece.demand, -static_cast<double>(tasks));
    return;
  }
  unload(piece, tasks);
  give_back(piece, tasks);
  if (!idle_.test(piece.worker)) return;
  if (freed_.size() == kFreed) freed_.erase(freed_.begin(), freed_.begin() + kFreed / 2);
  freed_.push_back(piece.worker);
}

void Scheduler::stays(const Piece& piece) {
  if (piece.pool != 0) return;  // as while it was made
  unload(piece, 1);
  Worker& worker = workers_[piece.worker];
  worker.held += cpus_of(piece);
  ++worker.actors;
  look_at_again(piece.worker);  // there may be room, since one without cpus is no load
}

void Scheduler::left(Holding holding) {
  set_waits(holding, false);
  if (holding.pool != 0) {
    change_pool(holding.pool, holding.klass, holding.demand, -1);
    return;
  }
  Worker& worker = workers_[holding.worker];
  worker.held -= cpus_of(holding);
  --worker.actors;
  give_back(holding, 1);
}

void Scheduler::unload(const Piece& piece, std::uint32_t tasks) {
  Worker& worker = workers_[piece.worker];
  worker.tasks -= tasks;
  worker.busy = worker.tasks != 0 ? worker.busy - cpus_of(piece) * tasks : 0;
  worker.load_ns -= piece.estimate_ns * tasks;
}

void Scheduler::give_back(const Holding& holding, std::uint32_t tasks) {
  charge(holding, -static_cast<double>(tasks));
  for (const RankId lender : holding.lenders) lend_rank(lender, -1);
  look_at_again(holding.worker);
}

// There may be room at the worker for classes that found none.
void Scheduler::look_at_again(RankId rank) {
  reserved_freed_ = reserved_freed_ || workers_[rank].reserved;
  for (std::size_t i = 1; i < classes_.size(); ++i) classes_[i].candidates.set(rank, allowed(classes_[i], rank));
  update(rank);
}

void Scheduler::measured(std::uint32_t function, std::uint64_t elapsed_ns, std::uint32_t tasks) {
  const std::uint64_t each = std::max<std::uint64_t>(elapsed_ns / std::max<std::uint32_t>(tasks, 1), 1);
  std::uint64_t& estimate = estimates_[function];
  estimate = estimate == 0 ? each : std::max<std::uint64_t>((estimate * 7 + each) / 8, 1);
}

std::optional<Scheduler::TakeBack> Scheduler::rebalance(Time now) {
  if (!may_rebalance() || classes_[kPlain].tasks != 0) return std::nullopt;
  const RankId first = rich_.next(rich_cursor_).value();
  RankId rank = first;
  do {
    rich_cursor_ = rank + 1;
    Worker& worker = workers_[rank];
    if (now >= worker.rest_until) {
      const auto excess = static_cast<std::uint32_t>(std::ceil(worker.busy - worker.capacity()));
      worker.taking = true;
      update(rank);
      const std::uint32_t hungry = idle_.count();
      return TakeBack{rank,
                      std::max<std::uint32_t>(1, std::min(excess, std::max(excess / 2, std::min(excess, hungry))))};
    }
    rank = rich_.next(rich_cursor_).value();
  } while (rank != first && rich_cursor_ < first + kLook);
  return std::nullopt;
}

void Scheduler::gave_back(RankId rank, std::uint32_t tasks, Time now) {
  Worker& worker = workers_[rank];
  worker.taking = false;
  if (filling_ == rank) filling_ = detail::kNoRank;  // it takes longer than was thought
  // One that had nothing to give is left in peace for a while, longer each time.
  if (tasks == 0) MOBULA_MARK("sched: a rank has nothing to give back");
  worker.rest = tasks != 0 ? 0 : std::clamp<Time>(worker.rest * 2, 100'000, 10'000'000);
  worker.rest_until = now + worker.rest;
  update(rank);
}

bool Scheduler::starved() const {
  bool any_held = false;
  for (const RankId rank : members_) {
    if (workers_[rank].lends != 0 || workers_[rank].capacity() > kSlack) return false;
    any_held = any_held || workers_[rank].held > 0;
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
  for (const Class& klass : classes_) {
    std::size_t tasks = 0;
    for (const auto& [priority, queue] : klass.queues) {
      for (const Piece& piece : queue) {
        MOBULA_CHECK(piece.state == State::queued, "a piece in a queue is in state queued");
        tasks += piece.size();
      }
    }
    MOBULA_CHECK(tasks == klass.tasks, "a class counts its queued tasks");
    queued += tasks;
  }
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
