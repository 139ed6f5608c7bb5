// The worker's side of tasks: stretches of them that wait and queue, runs that threads execute, and their results.
#include <algorithm>
#include <cstring>

#include "core/mark.hpp"
#include "sched/scheduler.hpp"
#include "worker/worker.hpp"

namespace mobula::worker {

using core::ErrorRecord;
using core::Event;
using detail::kHeadRank;
using detail::kNoRank;
using detail::kVariable;

namespace {

constexpr Time kRunTarget = 200'000;  // ns that one run should take
constexpr std::size_t kLevels = 8;    // priorities that keep their queues
constexpr int kScan = 16;             // queued pieces looked at for one that fits
constexpr double kSlack = 1e-9;       // cpus

std::uint64_t elapsed_per_task(Time elapsed, std::uint32_t n) {
  return static_cast<std::uint64_t>(std::max<Time>(elapsed / std::max<std::uint32_t>(n, 1), 1));
}

}  // namespace

ByteView Body::args_of(std::uint32_t begin, std::uint32_t end) const {
  if (ends.empty()) {
    const std::size_t size = function->fixed_args == kVariable || dep_mask != 0 ? 0 : function->fixed_args;
    return args.view().subspan((begin - base) * size, (end - begin) * size);
  }
  const std::size_t from = begin == base ? 0 : ends[begin - base - 1];
  return args.view().subspan(from, ends[end - base - 1] - from);
}

// ---- pieces ------------------------------------------------------------------------------------------------------

Piece& Worker::add_piece(const Range& range, std::shared_ptr<Body> body) {
  auto piece = std::make_unique<Piece>();
  piece->range = range;
  piece->body = std::move(body);
  Piece& added = *piece;
  const bool fresh = pieces_[range.span].emplace(range.begin, std::move(piece)).second;
  MOBULA_CHECK(fresh, "a task was given to the same rank twice");
  return added;
}

Piece* Worker::piece_with(ObjectId id) {
  const auto span = pieces_.find(id.span);
  if (span == pieces_.end()) return nullptr;
  auto after = span->second.upper_bound(id.index);
  if (after == span->second.begin()) return nullptr;
  Piece* piece = std::prev(after)->second.get();
  return id.index < piece->range.end ? piece : nullptr;
}

// Some task of the range waits or is queued here.
bool Worker::any_piece(const Range& range) const {
  const auto span = pieces_.find(range.span);
  if (span == pieces_.end()) return false;
  const auto next = span->second.lower_bound(range.begin);
  if (next != span->second.end() && next->first < range.end) return true;
  return next != span->second.begin() && std::prev(next)->second->range.end > range.begin;
}

// The object will be made here, by a task that is queued or runs, or come here from one that this rank will submit. A
// task that has timed out or was cancelled may still run, but what it returns is nobody's.
bool Worker::will_come(ObjectId id) const {
  if (const_cast<Worker*>(this)->piece_with(id) != nullptr || folds_.has(id)) return true;
  return running_.any_with(id, [](const Run& run) { return !run.broken && !run.expired; }) ||
         std::any_of(members_.begin(), members_.end(), [id](const auto& entry) {
           const Member& member = entry.second;  // one whose result is not given out yet
           return member.report && member.range.span == id.span && member.range.begin == id.index;
         });
}

void Worker::enqueue(Piece& piece, bool front) {
  if (piece.body->actor != nullptr) {
    call_ready(piece, front);
    return;
  }
  piece.queued = true;
  piece.queued_at = now_;
  if (piece.body->begins_without_cpus()) ++queued_without_cpus_;
  queued_tasks_ += piece.range.end - piece.range.begin;
  auto& queue = ready_[piece.body->priority()];
  if (front) {
    queue.push_front(piece);
  } else {
    queue.push_back(piece);
  }
}

void Worker::dequeue(Piece& piece) {
  if (!piece.queued) return;
  piece.queued = false;
  if (piece.body->begins_without_cpus()) --queued_without_cpus_;
  queued_tasks_ -= piece.range.end - piece.range.begin;
  PieceQueue& queue = *piece.list;
  queue.erase(piece);
  if (queue.empty() && ready_.size() > kLevels) ready_.erase(piece.body->priority());  // most are filled again at once
}

void Worker::erase_piece(Piece& piece) {
  if (piece.body->actor != nullptr) {
    call_gone(piece);
  } else {
    dequeue(piece);
  }
  if (piece.parked) std::erase(parked_, &piece);
  if (!piece.announced) {
    unannounced_[piece.unannounced_at] = unannounced_.back();
    unannounced_[piece.unannounced_at]->unannounced_at = piece.unannounced_at;
    unannounced_.pop_back();
  }
  if (piece.missing != 0) {
    for (const ObjectId& dep : piece.body->deps) {
      if (const auto found = interests_.find(dep); found != interests_.end()) core::erase(found->second.pieces, &piece);
    }
  }
  const auto span = pieces_.find(piece.range.span);
  span->second.erase(piece.range.begin);
  if (span->second.empty()) pieces_.erase(span);
}

void Worker::resolve(Piece& piece, std::size_t dep, const core::DepSource* source) {
  if (piece.body->values[dep] != nullptr) return;  // it was parked, and has kept this one
  const ObjectId id = piece.body->deps[dep];
  if (source != nullptr && source->where == core::Where::inlined) {
    piece.body->values[dep] = std::make_shared<Buffer>(source->value);
    --piece.missing;
    return;
  }
  if (ValuePtr value = value_here(id)) {
    piece.body->values[dep] = std::move(value);
    --piece.missing;
    return;
  }
  auto& pieces = interests_[id].pieces;
  if (pieces.empty() || pieces.back() != &piece) pieces.push_back(&piece);
  const bool named = source != nullptr && source->where != core::Where::unknown;
  ask_for(id, named ? source->rank : kNoRank, named ? source->turn : 0);
}

// A dependency of the piece has come; with no value: the piece is set up. Queues it when it was the last. Pieces that
// were one share their body: the value may be there already, for another of them, but each counts for itself.
void Worker::dep_ready(Piece& piece, ObjectId id, const ValuePtr& value) {
  Body& body = *piece.body;
  if (value == nullptr) {
    --piece.missing;
  } else {
    for (std::size_t i = 0; i < body.deps.size(); ++i) {
      if (body.deps[i] != id) continue;
      if (body.values[i] == nullptr) body.values[i] = value;
      --piece.missing;
    }
  }
  if (piece.missing != 0) return;
  if (body.views.size() != body.values.size()) {
    body.in_store = 0;
    for (const ValuePtr& v : body.values) {
      body.views.push_back(v->view());
      if (store_.contains(v->data())) body.in_store += v->size();
    }
  }
  enqueue(piece, piece.kept);
}

void Worker::park() {
  std::vector<Piece*> chosen;
  const auto is_in_store = [this](const ValuePtr& value) { return store_.contains(value->data()); };
  for (const auto& [priority, queue] : ready_) {
    for (Piece* piece = queue.front(); piece != nullptr; piece = piece->behind) {
      const Body& body = *piece->body;  // another thread may run a part of the same piece
      const bool holds = std::any_of(body.values.begin(), body.values.end(), is_in_store);
      if (holds && piece->body.use_count() == 1) chosen.push_back(piece);
    }
  }
  for (Piece* piece : chosen) {
    dequeue(*piece);
    piece->missing = 1;
    piece->body->views.clear();
    for (ValuePtr& value : piece->body->values) {
      if (!is_in_store(value)) continue;
      value.reset();
      ++piece->missing;
    }
    MOBULA_MARK("worker: a queued task gives up its inputs");
    piece->parked = true;
    parked_.push_back(piece);
  }
}

void Worker::unpark() {
  // One that fails meanwhile may take others with it.
  while (!parked_.empty()) {
    Piece& piece = *parked_.back();
    parked_.pop_back();
    piece.parked = false;
    set_up(piece, {});
  }
}

void Worker::fail_piece(Piece& piece, const ErrorPtr& error) {
  MOBULA_MARK("worker: a task fails before it begins");
  const Range range = piece.range;
  const bool announced = piece.announced;
  if (piece.body->actor != nullptr) {
    const bool holding = piece.body->holding;
    erase_piece(piece);
    refuse_calls(range, holding, error);
    return;
  }
  if (const auto& part = piece.body->gang) {
    Member& member = members_.at(part->gang);
    member.told = true;
    tell_member(member, part->gang, core::MemberState::failed, *error);
    erase_piece(piece);
    return;
  }
  erase_piece(piece);
  Report report = failed(range, *error);
  report.announced = announced;
  send_report(std::move(report));
}

// Fails what was found to depend on what failed, or to be in the queue of an actor that ends. One at a time, and by id:
// the failure of one piece may find others, and erases pieces.
void Worker::fail_pieces() {
  if (failing_now_) return;
  failing_now_ = true;
  while (!failing_.empty()) {
    const auto [first, error] = std::move(failing_.back());
    failing_.pop_back();
    Piece* piece = piece_with(first);
    if (piece != nullptr && piece->range.begin == first.index) fail_piece(*piece, error);
  }
  failing_now_ = false;
}

// ---- execution ---------------------------------------------------------------------------------------------------

bool Worker::fits(const Body& body) const {
  // Tasks that run leave half of the memory to what they make.
  if (body.in_store != 0 && in_store_ != 0 && in_store_ + body.in_store > store_.capacity() / 2) return false;
  if (!body.options) return free_.cpus >= 1 - kSlack;
  const core::WireDemand& d = body.options->demands.front();
  if (d.cpus == 0 && places_.size() >= kPlaces) {
    refused_place_ = true;
    return false;
  }
  // A member waits for tasks only: another one that runs may wait for it inside MPI.
  const double cpus = body.gang != nullptr ? for_member() + spoken_for_ + member_cpus_ : free_.cpus;
  if ((d.cpus != 0 && own_cpus(d) > cpus + kSlack) || d.gpus > free_.gpus + kSlack || d.memory > free_.memory)
    return false;
  if (d.gpus != 0) {  // enough of them, with enough left of each
    const auto n = std::count_if(free_gpus_.begin(), free_gpus_.end(),
                                 [&d](double free) { return free + kSlack >= std::min(d.gpus, 1.0); });
    if (static_cast<double>(n) < d.gpus) return false;
  }
  return std::all_of(d.resources.begin(), d.resources.end(), [this](const auto& entry) {
    const auto found = free_.resources.find(entry.first);
    return found != free_.resources.end() && entry.second <= found->second + kSlack;
  });
}

// Of a demand above what this rank has, the rest is with its lenders.
double Worker::own_cpus(const core::WireDemand& demand) const {
  return std::min(demand.cpus, static_cast<double>(settings_.slots));
}

void Worker::take(const core::WireOptions* options, double sign) {
  if (options == nullptr) {
    free_.cpus -= sign;
    return;
  }
  const auto& d = options->demands.front();
  free_.cpus -= sign * own_cpus(d);
  free_.gpus -= sign * d.gpus;
  if (sign > 0) free_.memory -= d.memory;
  if (sign < 0) free_.memory += d.memory;
  for (const auto& [name, amount] : d.resources) free_.resources[name] -= sign * amount;
}

// Something is queued for which there are cpus, as far as that can be told without a look at it.
bool Worker::may_begin() const {
  if (queued_tasks_ == 0) return false;
  return resuming_ != 0 ? !members_.empty() : free_.cpus > kSlack || queued_without_cpus_ != 0;
}

// Where threads want their cpus back, what has not begun is behind them; but members take nothing that those have lent.
bool Worker::may_begin(const Body& body) const { return (resuming_ == 0 || body.gang != nullptr) && fits(body); }

bool Worker::has_runnable() const {
  if (may_call(false) || may_call(true)) return true;
  if (!may_begin()) return false;
  for (const auto& [priority, queue] : ready_) {
    int looked = 0;
    for (const Piece* piece = queue.front(); piece != nullptr && looked != kScan; piece = piece->behind, ++looked) {
      if (may_begin(*piece->body)) return true;
    }
  }
  return false;
}

std::unique_ptr<Run> Worker::next_run(Time now) {
  if (auto run = next_call(now)) return run;
  now_ = now;
  if (!may_begin()) return nullptr;
  // As at the head: what has waited long gets its turn.
  if (ready_.size() > 1 && ++turn_ % sched::Scheduler::kTurn == 0) {
    const PieceQueue* oldest = nullptr;
    Time since = now - sched::Scheduler::kPatience;
    for (auto& [priority, queue] : ready_) {
      if (queue.empty() || queue.front()->queued_at > since) continue;
      since = queue.front()->queued_at;
      oldest = &queue;
    }
    if (oldest != nullptr) {
      if (auto run = run_from(*oldest, now)) return run;
    }
  }
  for (auto& [priority, queue] : ready_) {
    if (auto run = run_from(queue, now)) return run;
  }
  return nullptr;
}

// Of the first piece in the queue that fits.
std::unique_ptr<Run> Worker::run_from(const PieceQueue& queue, Time now) {
  int looked = 0;
  for (Piece* piece = queue.front(); piece != nullptr && looked != kScan; piece = piece->behind, ++looked) {
    if (may_begin(*piece->body)) {
      const Body& body = *piece->body;
      const std::uint32_t size = piece->range.end - piece->range.begin;
      std::uint32_t n = 1;
      // Tasks of a lost rank too: if one of them was the cause, it is the only one with it next time.
      const bool one_by_one = body.attempt > 1 || waits_in_threads_[body.function->index] || body.stops() ||
                              body.is_durable() ||
                              (body.options && (body.options->timeout_ns >= 0 || body.options->retry_exceptions));
      const std::uint64_t estimate = estimates_[body.function->index];
      if (size > 1 && !one_by_one && estimate != 0) {
        n = static_cast<std::uint32_t>(std::clamp<std::uint64_t>(kRunTarget / estimate, 1, size));
        // Other slots that are free take their share.
        const auto share = static_cast<std::uint32_t>(std::max<std::size_t>(free_slots_.size(), 1));
        n = std::max<std::uint32_t>(1, std::min(n, (size + share - 1) / share));
      }
      return carve(*piece, {piece->range.span, piece->range.begin, piece->range.begin + n}, true, now);
    }
  }
  return nullptr;
}

// Whether a thread of the waiter may run what is queued in the piece with nothing but what the waiter holds.
bool Worker::may_claim(const Piece& piece, const Run& waiter) const {
  const Run& lender = waiter.lender != nullptr ? *waiter.lender : waiter;
  const Body& body = *piece.body;
  if (!piece.queued || body.actor != nullptr || body.gang != nullptr || body.cpus() > waiter.body->cpus() ||
      lender.lends) {
    return false;
  }
  if (!body.options) return true;
  const auto& d = body.options->demands.front();
  // Who waits for a task with a limit is told when that is over, and so can't be the one who runs it.
  return d.gpus == 0 && d.memory == 0 && d.resources.empty() && body.options->timeout_ns < 0;
}

// REQUIRES: may_claim, and the range is the front of the piece. May erase the piece.
std::unique_ptr<Run> Worker::run_for(Run& waiter, Piece& piece, const Range& range, Time now, bool executes) {
  Run& lender = waiter.lender != nullptr ? *waiter.lender : waiter;
  auto run = carve(piece, range, false, now);
  run->slot = waiter.slot;
  run->lender = &lender;
  lender.helped = lender.helped || !executes;
  count_cpus(*run);
  return run;
}

std::unique_ptr<Run> Worker::claim(const Handle& handle, Run& waiter, Time now, bool executes) {
  Piece* piece = piece_with(handle.id());
  if (piece == nullptr || !may_claim(*piece, waiter)) return nullptr;
  split_off(*piece, handle.index());
  piece = piece_with(handle.id());
  return run_for(waiter, *piece, piece->range, now, executes);
}

std::unique_ptr<Run> Worker::claim_any(Run& waiter, Time now, bool executes) {
  for (const auto& [priority, queue] : ready_) {
    int looked = 0;
    for (Piece* piece = queue.front(); piece != nullptr && looked != kScan; piece = piece->behind, ++looked) {
      if (!piece->kept || !may_claim(*piece, waiter)) continue;
      const Range first{piece->range.span, piece->range.begin, piece->range.begin + 1};
      return run_for(waiter, *piece, first, now, executes);
    }
  }
  return nullptr;
}

// The next call of an actor that may run one. Actors take turns.
std::unique_ptr<Run> Worker::next_call(Time now) {
  while (may_call(false) || may_call(true)) {
    const bool shares = !may_call(false);
    auto& queue = callable_[shares ? 1 : 0];
    LocalActor& actor = *queue.front();
    queue.pop_front();
    actor.listed = false;
    if (!actor.has_next()) continue;  // its calls have gone since it was listed
    std::unique_ptr<Run> run;
    if (actor.ending || actor.save_now) {
      run = std::make_unique<Run>();
      run->range = {actor.id.span, actor.id.index, actor.id.index};
      run->body = std::make_shared<Body>();
      run->body->function = actor.klass;
      run->body->actor = &actor;
      run->started = now;
      running_.add(*run);
      run->saves = actor.save_now;
      run->task.actor = run->saves ? actor.object : std::exchange(actor.object, nullptr);
    } else {
      Piece& piece = *actor.ready.front();
      const std::uint32_t first = piece.range.begin;
      const bool one_by_one = actor.options->actor.concurrency != 1 || actor.options->is_sandboxed;
      std::uint32_t end = one_by_one ? first + 1 : piece.range.end;
      const std::uint32_t every = actor.save_every;
      if (every != 0) end = std::min(end, first + every - actor.since_saved);
      run = carve(piece, {piece.range.span, first, end}, false, now);
      run->first = first;
      if (every != 0 && actor.since_saved + (end - first) == every) run->save_at = end;
      run->task.actor = actor.object;
    }
    run->slots = actor.slots;
    run->gpus = actor.gpus;
    run->slot = actor.slots.empty() ? -1 : actor.slots.front();
    if (actor.options->actor.concurrency == 1) {
      run->missing_cpus = actor.missing_cpus;
      // A member of a gang may have taken a slot that the last call had lent.
      const auto due = static_cast<std::size_t>(held_cpus(*run) + kSlack);
      if (due > run->slots.size()) take_slots(*run, due - run->slots.size());
    }
    ++actor.active;
    if (shares) take_place(*run);
    list(actor);
    return run;
  }
  return nullptr;
}

std::vector<Range> Worker::begun() const {
  std::vector<Range> ranges;
  for (const Run* run : running_.all()) {
    if (run->body->actor == nullptr) ranges.push_back(run->range);
  }
  return ranges;
}

double Worker::cpus_of(const Body& body) const { return body.options ? own_cpus(body.options->demands.front()) : 1; }

double Worker::held_cpus(const Run& run) const { return cpus_of(run) - run.missing_cpus; }

// What a member that begins now may hold: nothing of what is another's who waits.
double Worker::for_member() const { return std::max(0.0, free_.cpus - spoken_for_); }

// The cpus that a run which has waited goes on with: all of its own, or what actors have left of the rank's since it
// began, as those keep theirs for good. It may have waited for just such an actor; and an actor's method may take back
// what it had lent to a task that waits by now. A member goes on with what it had.
double Worker::due_cpus(const Run& run) const {
  const double cpus = run.is_member() ? held_cpus(run) : cpus_of(run);
  const auto* options = run.body->options.get();
  const bool is_actors = run.body->actor != nullptr || (options != nullptr && options->is_actor);
  return std::min(cpus, std::max(0.0, lasting_cpus() + (is_actors ? cpus : 0)));
}

// The cpus that a run itself asks for, not those of one that lends to it.
double Worker::cpus_of(const Run& run) const {
  if (const LocalActor* actor = run.body->actor) {
    return actor->options->actor.concurrency == 1 ? own_cpus(actor->options->demands.front()) : 0;
  }
  return cpus_of(*run.body);
}

// To be called whenever the run may have begun or ceased to wait, or to hold cpus.
void Worker::count_cpus(Run& run) {
  const bool may_be_inside = run.is_member() && run.holds && !run.lends;  // MPI
  const double missing = may_be_inside ? run.missing_cpus : 0;
  // The head takes a task that it knows for one that uses cpus of its own: those of one that waits, or that runs on the
  // cpus of one that waits for it, are free, and those that a member runs without.
  const bool is_free = run.announced && (run.lends || run.lender != nullptr || run.orphan);
  bool is_news = unused_.set(run.unused, is_free ? cpus_of(run) : missing);
  const bool is_members = run.is_member() && !run.left_behind;
  is_news = unused_of_members_.set(run.unused_of_member, is_members ? run.unused : 0) || is_news;
  spoken_for_.set(run.spoken_for, !run.lends ? missing : run.left_behind ? 0 : cpus_of(run));
  member_cpus_.set(run.as_member, may_be_inside ? held_cpus(run) : 0);
  const bool was_beside = std::exchange(run.is_beside, missing != 0);
  if (run.is_beside != was_beside) beside_ += run.is_beside ? 1U : ~0U;
  lent_changed_ = lent_changed_ || is_news || run.is_beside != was_beside;
}

// Actors hold so many cpus for good more, or less.
void Worker::actors_hold(double cpus) {
  actor_cpus_ += cpus;
  if (actor_cpus_ < 1e-9) actor_cpus_ = 0;
}

// Those first that are near its GPUs.
void Worker::take_slots(Run& run, std::size_t n) {
  const auto far = [&](int slot) {
    return std::none_of(run.gpus.begin(), run.gpus.end(), [&](int gpu) { return is_near(slot, gpu); });
  };
  if (!run.gpus.empty()) std::stable_partition(free_slots_.begin(), free_slots_.end(), far);
  for (; n != 0 && !free_slots_.empty(); --n) {
    run.slots.push_back(free_slots_.back());
    free_slots_.pop_back();
  }
  run.slot = run.slots.empty() ? -1 : run.slots.front();
}

bool Worker::is_near(int slot, int gpu) const {
  const auto& near = settings_.near_gpus;
  return static_cast<std::size_t>(gpu) < near.size() && near[static_cast<std::size_t>(gpu)].contains(slot);
}

// Whole ones, or a part of the one that has least left of those that have enough; of equal ones, one with a slot beside
// it that is free.
std::vector<int> Worker::take_gpus(double gpus) {
  std::vector<int> taken;
  if (gpus == 0) return taken;
  const double each = std::min(gpus, 1.0);
  const auto rank = [this](int gpu) {
    const bool far = std::none_of(free_slots_.begin(), free_slots_.end(), [&](int slot) { return is_near(slot, gpu); });
    return std::pair(free_gpus_[static_cast<std::size_t>(gpu)], far);
  };
  for (int n = std::max(1, static_cast<int>(gpus)); n > 0; --n) {
    int best = -1;
    for (std::size_t i = 0; i < free_gpus_.size(); ++i) {
      if (free_gpus_[i] + kSlack < each) continue;
      const int gpu = static_cast<int>(i);
      if (best == -1 || rank(gpu) < rank(best)) best = gpu;
    }
    MOBULA_CHECK(best != -1, "a task that fits finds its GPUs");
    free_gpus_[static_cast<std::size_t>(best)] -= each;
    taken.push_back(best);
  }
  return taken;
}

void Worker::give_gpus(const std::vector<int>& gpus, double amount) {
  for (const int gpu : gpus) free_gpus_[static_cast<std::size_t>(gpu)] += std::min(amount, 1.0);
}

// Takes the range, which is the front of the piece, out as a run.
std::unique_ptr<Run> Worker::carve(Piece& piece, Range range, bool holds, Time now) {
  auto run = std::make_unique<Run>();
  run->range = range;
  run->body = piece.body;
  run->announced = piece.announced;
  run->kept = piece.kept;
  run->holds = holds;
  if (run->body->gang) members_.at(run->body->gang->gang).run = run.get();
  run->started = now;
  const Body& body = *run->body;
  if (holds) {
    const double missing = body.gang ? cpus_of(*run) - for_member() : 0;
    if (missing > kSlack) run->missing_cpus = missing;
    take(body.options.get(), 1);
    free_.cpus += run->missing_cpus;
    if (body.options && body.options->is_actor) actors_hold(cpus_of(*run));
    if (body.options) run->gpus = take_gpus(body.options->demands.front().gpus);
    if (cpus_of(*run) == 0) take_place(*run);
    take_slots(*run, static_cast<std::size_t>(held_cpus(*run)));
    if (body.gang) {
      count_cpus(*run);
      set_gang_waits(*run, members_.at(body.gang->gang).gang_waits);
    }
  }
  run->in_store = body.in_store;
  in_store_ += run->in_store;
  run->task.checkpoint = body.checkpoint.view();
  if (body.options && body.options->timeout_ns >= 0) run->deadline = now + body.options->timeout_ns;
  run->task.next = range.begin;
  run->task.end = range.end;
  run->task.fixed_result = body.function->fixed_result;
  run->task.inline_limit = settings_.inline_limit;
  run->task.args = detail::Decoder(body.args_of(range.begin, range.end));
  run->task.dep_mask = body.dep_mask;
  run->task.deps = body.views;
  if (body.function->fixed_result != kVariable) {
    run->task.out.buffer.reserve(std::size_t{range.end - range.begin} * body.function->fixed_result);
  }
  running_.add(*run);

  const std::uint32_t n = range.end - range.begin;
  if (range.end == piece.range.end) {
    erase_piece(piece);
  } else {
    if (body.actor == nullptr) queued_tasks_ -= n;
    auto& of_span = pieces_[range.span];
    auto node = of_span.extract(range.begin);
    node.key() = range.end;
    node.mapped()->range.begin = range.end;
    of_span.insert(std::move(node));
  }
  core::trace(Event::started, now, range.span, range.begin, range.end, body.function->index);
  return run;
}

Failure Worker::where(const Run& run, std::uint32_t index) const {
  return {task_name(*run.body), core::to_string({run.range.span, index}), objects_.rank(), settings_.host,
          static_cast<int>(run.body->attempt)};
}

std::string Worker::task_name(const Body& body) const {
  return body.options && !body.options->name.empty() ? body.options->name : body.function->name;
}

void Worker::take_place(Run& run) {
  if (run.place_at != Run::kNoPlace) return;
  run.place_at = places_.size();
  places_.push_back(&run);
}

void Worker::give_up_place(Run& run) {
  if (run.place_at == Run::kNoPlace) return;
  places_.back()->place_at = run.place_at;
  places_[run.place_at] = places_.back();
  places_.pop_back();
  run.place_at = Run::kNoPlace;
  refused_place_ = false;
}

// Of what an actor keeps: other threads of the run may wait still when it ends, and have nothing to give back to.
void Worker::stop_waiting(Run& run) {
  if (!run.lends) return;
  run.waiting = 1;
  resume(run, true);
}

void Worker::release(Run& run) {
  if (LocalActor* actor = run.body->actor) {
    stop_waiting(run);
    --actor->active;
    if (actor->options->actor.concurrency != 1) return;
    actor->slots = run.slots;
    actor->missing_cpus = run.missing_cpus;
    return;
  }
  run.lender = nullptr;
  run.orphan = false;
  if (std::exchange(run.lends, false)) free_.cpus -= held_cpus(run);  // they are free already
  const bool held = std::exchange(run.holds, false);
  count_cpus(run);
  if (!held) return;
  take(run.body->options.get(), -1);
  free_.cpus -= std::exchange(run.missing_cpus, 0);
  if (run.body->options && run.body->options->is_actor) actors_hold(-cpus_of(run));
  free_slots_.insert(free_slots_.end(), run.slots.begin(), run.slots.end());
  run.slots.clear();
  if (!run.gpus.empty()) give_gpus(run.gpus, run.body->options->demands.front().gpus);
}

void Worker::finish(std::unique_ptr<Run> run, Time now) {
  running_.remove(*run);
  give_up_place(*run);
  if (run->helped) {
    for (Run* other : running_.all()) {
      if (other->lender != run.get()) continue;
      other->lender = nullptr;
      other->orphan = true;
    }
  }
  detail::TaskRun& task = run->task;
  in_store_ -= run->in_store;
  LocalActor* const actor = run->body->actor;
  bool made = false;
  if (run->body->options && run->body->options->is_actor && task.actor != nullptr) {
    stop_waiting(*run);
    start_actor(*run);
    made = true;
  } else {
    release(*run);
  }
  if (actor != nullptr && actor->save_every != 0) tell_state(*run);
  task.actor.reset();
  if (run->body->function->kind == FunctionInfo::Kind::destructor) {
    if (run->saves) {
      list(*actor);
    } else {
      erase_actor(*actor);
    }
    tell_saved();
    return;
  }
  // What was cancelled, has timed out or was killed is nobody's work any more.
  if (task.next != run->range.end && !run->expired && (actor == nullptr || actor->dead == nullptr)) {
    give_back_rest(*run, task.next);
  }
  if (actor != nullptr) list(*actor);
  tell_saved();
  if (run->expired && run->body->holding) tell_counted(run->range);
  if (run->overtime != 0) {
    tell_less_lent();
    transport_.send(kHeadRank, core::OvertimeEnded{run->overtime});
  }
  if (task.next == run->range.begin || (run->expired && !run->body->gang)) return;
  task.from = task.out.buffer.size();
  Report all = take_results(*run, task.next, now);
  if (made) all.stored.emplace_back(run->range.begin, nullptr);
  if (run->body->gang) {
    if (!unannounced_.empty()) announce_all();
    member_ended(*run, std::move(all));
  } else {
    report(*run, std::move(all));
  }
}

// Queues what the run has not begun, from `from` on.
void Worker::give_back_rest(Run& run, std::uint32_t from) {
  MOBULA_MARK("worker: the rest of a run goes back into the queue");
  Piece& rest = add_piece({run.range.span, from, run.range.end}, run.body);
  run.range.end = from;
  rest.kept = run.kept;
  if (!run.announced) {
    rest.announced = false;
    rest.submitted = run.started;
    rest.unannounced_at = unannounced_.size();
    unannounced_.push_back(&rest);
  }
  enqueue(rest, true);
}

// The results of the tasks before `end`, all of which have ended.
Worker::Report Worker::take_results(Run& run, std::uint32_t end, Time now) {
  detail::TaskRun& task = run.task;
  Report results;
  results.range = {run.range.span, run.range.begin, end};
  const std::uint32_t n = end - run.range.begin;
  core::trace(Event::finished, now, run.range.span, run.range.begin, end, run.body->function->index);
  tasks_run_ += n;
  const Time elapsed = now - run.started;
  std::uint64_t& estimate = estimates_[run.body->function->index];
  estimate = estimate == 0 ? elapsed_per_task(elapsed, n) : (estimate * 3 + elapsed_per_task(elapsed, n)) / 4;
  if (estimate == 0) estimate = 1;

  results.is_call = run.body->actor != nullptr;
  results.holding = run.body->holding;
  results.elapsed_ns = static_cast<std::uint64_t>(elapsed);
  results.fixed = task.fixed_result;
  for (auto& oddity : task.oddities) {
    if (oddity.error) {
      results.errors.push_back({oddity.index, core::capture(oddity.error, where(run, oddity.index))});
    } else if (oddity.is_stored) {
      results.stored.emplace_back(oddity.index, std::make_shared<Buffer>(std::move(oddity.stored)));
    }
    if (!oddity.refs.empty()) results.refs.emplace_back(oddity.index, std::move(oddity.refs));
  }
  task.oddities.clear();
  Buffer begun(task.out.buffer.view().subspan(task.from));
  task.out.buffer.shrink(task.from);
  results.values = std::make_shared<Buffer>(std::exchange(task.out.buffer, std::move(begun)));
  results.ends = std::exchange(task.ends, {});
  task.from = 0;
  return results;
}

void Worker::report(Run& run, Report report) {
  const core::WireOptions* options = run.body->options.get();
  const bool retry = !report.errors.empty() && options != nullptr && options->retry_exceptions &&
                     static_cast<int>(run.body->attempt) <= options->retries;
  if (!run.announced && (retry || !report.refs.empty())) announce_run(run);
  report.announced = run.announced;
  // Kept tasks of one that ends must be known before its end is: the rank may be gone the moment after.
  if (report.announced && !unannounced_.empty()) announce_all();
  if (!retry) {
    send_report(std::move(report));
    return;
  }
  core::Done done;
  done.range = report.range;
  done.elapsed_ns = report.elapsed_ns;
  done.errors = std::move(report.errors);
  send_done(done);
  if (interests_.empty()) return;
  for (const ObjectId& id : interested_in(done.range)) redirect(id);  // it runs again, perhaps elsewhere
}

// Leaves the run with the one task that waits: what was done before it is reported, and what comes behind it queued,
// since it may wait for just that.
void Worker::leave_alone(Run& run, Time now) {
  detail::TaskRun& task = run.task;
  if (run.expired) return;
  if (run.range.end - task.next > 1) {
    task.stop.store(true, std::memory_order_relaxed);
    give_back_rest(run, task.next + 1);
  }
  if (task.next == run.range.begin) return;
  MOBULA_MARK("worker: a task waits, and those before it in its run are reported");
  Report before = take_results(run, task.next, now);
  report(run, std::move(before));
  run.range.begin = task.next;
  running_.starts_anew(run, now);
}

// A task that waits gives others at once what it had from elsewhere: what it waits for may need just that. When it goes
// on, its lenders get no more work until it ends.
void Worker::tell_waits(const Run& run, bool waits) {
  const LocalActor* actor = run.body->actor;
  const auto* options = actor != nullptr ? actor->options.get() : run.body->options.get();
  const bool in_bundle = options != nullptr && options->placement == Placement::Kind::bundle;
  if (!in_bundle && run.body->all_lenders().empty()) return;
  transport_.send(kHeadRank, core::Waits{actor != nullptr ? actor->id : run.first_task(), waits, run.overtime});
}

// REQUIRES: the run lends nothing yet.
void Worker::lend_cpus(Run& run) {
  run.lends = true;
  tell_waits(run, true);
  free_.cpus += held_cpus(run);
  free_slots_.insert(free_slots_.end(), run.slots.begin(), run.slots.end());
  run.lent_slots = std::max(run.lent_slots, run.slots.size());
  run.slots.clear();
  count_cpus(run);
}

// REQUIRES: the run lends. `cpus`: with which it goes on, whether they are free or not.
void Worker::take_cpus_back(Run& run, double cpus) {
  run.lends = false;
  tell_waits(run, false);
  if (cpus < held_cpus(run)) MOBULA_MARK("worker: a run goes on with less cpus, since actors have them");
  run.missing_cpus = cpus_of(run) - cpus;
  free_.cpus -= cpus;
  count_cpus(run);
  take_slots(run, std::min(run.lent_slots, static_cast<std::size_t>(cpus + kSlack)));
}

void Worker::lend(Run& of, bool executes) {
  Run& run = of.lender != nullptr ? *of.lender : of;
  if (executes) {
    leave_alone(of, now_);
    // The lender's own thread may be at work on its run.
    if (&run != &of && run.helped) {
      end_early(run);
    } else if (&run != &of) {
      leave_alone(run, now_);
    }
  } else {
    // What came before it in its run is reported only when that ends; so it is the only one there from now on.
    waits_in_threads_[run.body->function->index] = true;
    end_early(run);
  }
  ++of.waiting;
  if (&run != &of) ++run.waiting;
  if (run.is_member() && run.waiting == 1) run.waits_since = std::max<Time>(now_, 1);
  // What it waits for may need the memory.
  in_store_ -= std::exchange(of.in_store, 0);
  if (&run != &of) in_store_ -= std::exchange(run.in_store, 0);
  give_up_place(run);
  if (!run.lends && !run.orphan && cpus_of(run) != 0) lend_cpus(run);
}

bool Worker::resume(Run& of, bool force) {
  Run& run = of.lender != nullptr ? *of.lender : of;
  const bool last = run.waiting == 1;
  const double cpus = run.lends && last && !run.gang_waits ? due_cpus(run) : 0;
  // Members go on at once, and nobody waits for what they have: one may be inside MPI, and wait there for another one
  // that waits for just this run.
  if (!force && !run.is_member() && cpus > 0 && free_.cpus + member_cpus_ + kSlack < cpus) return false;
  tell_unblocked(of);
  --of.waiting;
  if (&run != &of) --run.waiting;
  if (!last) return true;
  const bool is_call = run.body->actor != nullptr;
  if (run.orphan) return true;
  if (is_call ? run.body->actor->cpus() == 0 : cpus_of(run) == 0) take_place(run);
  run.waits_since = 0;
  if (std::exchange(run.wait_is_told, false)) transport_.send(kHeadRank, core::Waits{run.first_task(), false});
  if (run.lends && !run.gang_waits) take_cpus_back(run, cpus);
  return true;
}

// ---- results -----------------------------------------------------------------------------------------------------

// Results of tasks that ended here go to the owner of their span, to those who wait for them, and, as Done, to the
// head.
void Worker::send_report(Report report) {
  if (report.is_call) {
    send_call_report(report);
    return;
  }
  const Range range = report.range;
  const RankId owner = range.span.owner();
  const auto value_at = [&report](std::uint32_t index) { return report.value_at(index); };
  std::vector<std::uint32_t> odd;
  for (const auto& e : report.errors) odd.push_back(e.index);
  for (const auto& s : report.stored) odd.push_back(s.first);
  std::sort(odd.begin(), odd.end());
  const auto is_odd = [&odd](std::uint32_t index) { return std::binary_search(odd.begin(), odd.end(), index); };

  if (lost_.contains(owner)) {
    MOBULA_MARK("worker: results come whose owner is lost");
    // Nobody is there to take small results: they stay here, for those who were given the refs.
    for (std::uint32_t i = range.begin; i < range.end; ++i) {
      if (!is_odd(i)) report.stored.emplace_back(i, std::make_shared<Buffer>(value_at(i)));
    }
  }

  core::Done done;
  done.range = range;
  done.elapsed_ns = report.elapsed_ns;
  done.overtime = report.overtime;
  if (!report.refs.empty()) {
    MOBULA_CHECK(report.announced, "a result that holds refs is known to the head");
    for (const auto& [index, handles] : report.refs) {
      for (const ObjectId& id : pass_on_all(handles)) done.refs.push_back({index, id});
    }
  }
  for (const auto& [index, value] : report.stored) done.stored.push_back({index, value ? value->size() : 0});

  if (owner == objects_.rank()) {
    sent_.ended(range);
    if (Record* record = objects_.find({range.span, range.begin})) {
      if (odd.empty() && record->packed != kVariable && record->packed == report.fixed) {
        objects_.set_packed(*record, range.begin, range.end - range.begin, report.values->data());
      } else {
        for (std::uint32_t i = range.begin; i < range.end; ++i) {
          if (!is_odd(i)) objects_.set_value(*record, i, value_at(i));
        }
      }
      for (const auto& e : report.errors) objects_.set_error(*record, e.index, std::make_shared<ErrorRecord>(e.error));
      for (auto& [index, value] : report.stored) {
        if (report.announced) objects_.track_made(*record, index);
        const bool wanted = objects_.set_large(*record, index, objects_.rank());
        if (value != nullptr && (wanted || report.announced)) {
          value = store_.add({range.span, index}, std::move(value), Store::Role::own);
        }
      }
      if (report.announced) {
        for (const auto& hold : report.refs) objects_.track_made(*record, hold.first);
      } else {
        for (std::uint32_t i = range.begin; i < range.end; ++i) objects_.set_secret(*record, i);
      }
    } else if (report.announced) {
      add_stored(report);
    }
  } else {
    add_stored(report);
    if (!lost_.contains(owner)) {
      core::Result result;
      result.range = range;
      result.fixed = report.fixed;
      result.values = report.values->view();
      result.ends = report.ends;
      result.errors = report.errors;
      result.stored = done.stored;
      for (const auto& hold : report.refs) result.holding.push_back(hold.first);
      result.rank = objects_.rank();
      transport_.send(owner, result);
    }
  }
  if (report.announced) {
    done.errors = report.errors;
    send_done(done);
  }
  deliver_results(report);
  if (owner == objects_.rank() && !remotes_.empty()) actors_made(range);
  if (owner != objects_.rank() && range.end - range.begin == 1 && odd.empty() && !report.values->empty()) {
    retain({range.span, range.begin}, std::move(report.values));
  }
}

// All of them with the same error.
Worker::Report Worker::failed(const Range& range, const ErrorRecord& error) {
  Report report;
  report.range = range;
  report.fixed = kVariable;
  report.values = std::make_shared<Buffer>();
  report.ends.assign(range.end - range.begin, 0);
  for (std::uint32_t i = range.begin; i != range.end; ++i) report.errors.push_back({i, error});
  return report;
}

ByteView Worker::Report::value_at(std::uint32_t index) const {
  const std::uint32_t i = index - range.begin;
  if (fixed != kVariable) return values->view().subspan(std::size_t{i} * fixed, fixed);
  const std::size_t from = i == 0 ? 0 : ends[i - 1];
  return values->view().subspan(from, ends[i] - from);
}

void Worker::add_stored(Report& report) {
  for (auto& [index, value] : report.stored) {
    if (value != nullptr) value = store_.add({report.range.span, index}, std::move(value), Store::Role::own);
  }
}

// To those who wait for them on this rank, or asked here.
void Worker::deliver_results(const Report& report) {
  if (interests_.empty()) return;
  for (const ObjectId& id : interested_in(report.range)) {
    const auto error =
        std::find_if(report.errors.begin(), report.errors.end(), [id](const auto& e) { return e.index == id.index; });
    const auto stored =
        std::find_if(report.stored.begin(), report.stored.end(), [id](const auto& s) { return s.first == id.index; });
    if (error != report.errors.end()) {
      deliver(id, nullptr, std::make_shared<ErrorRecord>(error->error), kNoRank);
    } else if (stored != report.stored.end()) {
      deliver(id, stored->second, nullptr, kNoRank);
    } else {
      deliver(id, std::make_shared<Buffer>(report.value_at(id.index)), nullptr, kNoRank);
    }
  }
}

// The end of a task ends its hold on what it was given: what this rank holds of that must be known before. So must what
// is not lent any more: else the head takes the cpus of the task for free and for lent, and may place a gang or an
// actor where there is none.
void Worker::send_done(const core::Done& done) {
  if (objects_.has_holds()) tell_holds();
  tell_less_lent();
  transport_.send(kHeadRank, done);
}

void Worker::tell_holds() {
  core::Holds holds;
  objects_.drain(holds);
  if (!holds.holds.empty() || !holds.drops.empty() || !holds.spans.empty()) transport_.send(kHeadRank, holds);
}

// Objects of the range that someone here waits for.
core::Ids Worker::interested_in(const Range& range) const {
  core::Ids ids;
  if (range.end - range.begin <= interests_.size()) {
    for (std::uint32_t i = range.begin; i < range.end; ++i) {
      if (interests_.contains({range.span, i})) ids.push_back({range.span, i});
    }
  } else {
    for (const auto& entry : interests_) {
      const ObjectId id = entry.first;
      if (id.span == range.span && range.begin <= id.index && id.index < range.end) ids.push_back(id);
    }
  }
  return ids;
}

}  // namespace mobula::worker
