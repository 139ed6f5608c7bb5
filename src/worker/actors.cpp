// The worker's side of actors: calls that this rank makes, and actors that live here.
//
// What a call or its result holds goes past the head. Who sends it keeps handles of its own (a Loan) until the receiver
// has told the head what it holds by now, and the head has passed the word back (Counted, Returned).
#include <algorithm>

#include "core/functions.hpp"
#include "core/mark.hpp"
#include "worker/worker.hpp"

namespace mobula::worker {

using core::ErrorKind;
using core::ErrorRecord;
using detail::kHeadRank;
using detail::kNoRank;

namespace {

ErrorPtr died(ObjectId actor, const std::string& why) {
  return core::make_error(ErrorKind::actor_died, "actor " + core::to_string(actor) + " " + why, "", actor, kNoRank, 0);
}

// What callers are told of an actor that could not be made.
ErrorPtr as_death(ObjectId actor, const ErrorPtr& error) {
  if (error->kind == ErrorKind::actor_died || error->kind == ErrorKind::infeasible) return error;
  auto death = std::make_shared<ErrorRecord>(*error);
  death->kind = ErrorKind::actor_died;
  death->message = "actor " + core::to_string(actor) +
                   " could not be made: " + (error->type.empty() ? "" : error->type + ": ") + error->message;
  return death;
}

}  // namespace

// ---- the caller's side -------------------------------------------------------------------------------------------

Handle Worker::mint_actor() {
  if (open_.count != 0) close_open();
  Handle handle = objects_.mint();
  objects_.track(*handle.record(), handle.index());
  return handle;
}

void Worker::create(const Handle& handle, const FunctionInfo& constructor, const core::WireOptions& options,
                    const detail::Draft::State& draft, bool in_task) {
  has_sent_last_ = true;
  if (open_.count != 0) close_open();
  submit_alone(handle, constructor, &options, draft, in_task);
}

Handle Worker::adopt(ObjectId id) {
  Handle handle = objects_.handle_of(id);
  objects_.drop_extra(id);
  return handle;
}

ObjectId Worker::current_caller(const Run& run) const {
  if (run.body->actor != nullptr) return run.body->actor->id;
  return {run.range.span, run.task.next};
}

Handle Worker::call(const detail::ActorBase& actor, const FunctionInfo& method, detail::Draft::State& draft,
                    ObjectId caller) {
  has_sent_last_ = false;
  const ObjectId id = actor.handle().id();
  const detail::CallLimits& limits = actor.limits();
  RemoteActor& remote = remotes_[id];
  if (limits.max_pending != 0 && remote.pending >= limits.max_pending) {
    throw Backpressure("mobula: " + std::to_string(remote.pending) + " calls of this rank are pending at actor " +
                       core::to_string(id) + ", and its max_pending allows no more: wait for some of them first");
  }
  // What may have to be sent again goes one by one.
  const bool simple = draft.dep_mask == 0 && draft.args.refs.empty() && limits.retries == 0 && limits.moves == 0;
  const bool fits = simple && open_.is_call && open_.function == &method && open_.actor == id && open_.caller == caller;
  if (!fits && open_.count != 0) close_open();
  std::vector<Handle> refs;
  if (!simple) {
    for (const Handle& ref : draft.args.refs) pass_on(ref);
    refs = draft.args.refs;
  }
  Handle result = objects_.mint();
  const ObjectId first = result.id();
  close_open_unless_before(first);
  ++remotes_[id].pending;
  ++calls_pending_;
  if (open_.count != 0) {
    add_to_open(first, draft);
    return result;
  }
  PendingCall& call = calls_[first];
  call.range = {first.span, first.index, first.index + 1};
  call.left = 1;
  call.actor = id;
  call.caller = caller;
  call.method = &method;
  call.self = actor.handle();
  call.first = result;
  call.retries = limits.retries;
  call.moves = limits.moves != 0;
  if (simple) {
    open_.is_call = true;
    open_.function = &method;
    open_.actor = id;
    open_.caller = caller;
    open_.range = {first.span, first.index, first.index};
    add_to_open(first, draft);
    return result;
  }
  call.deps = draft.deps;
  call.refs = std::move(refs);
  call.dep_mask = draft.dep_mask;
  dispatch_call(call, draft.args.buffer.view(), ends_of(method, draft));
  return result;
}

// Where the actor is, as far as this rank knows; `dead` if it is known to have ended.
RankId Worker::actor_rank(ObjectId id, ErrorPtr& dead) {
  Record* record = objects_.find(id);
  if (record == nullptr || !record->ready(id.index)) return kNoRank;
  const store::Slot* slot = record->slot(id.index);
  if (slot->kind == store::Slot::Kind::error) dead = as_death(id, *slot->error);
  if (slot->kind != store::Slot::Kind::large || lost_.contains(slot->at)) return kNoRank;
  return slot->at;
}

// Sends what has just been submitted, or keeps it until the actor is found.
void Worker::dispatch_call(PendingCall& call, ByteView args, std::span<const std::uint32_t> ends) {
  ErrorPtr dead;
  RemoteActor& remote = remotes_[call.actor];
  const RankId at = actor_rank(call.actor, dead);
  if (dead != nullptr) {
    fail_call(call, dead);
    return;
  }
  if (at != kNoRank && remote.unsent.empty()) {
    send_call(call, at, args, ends);
    if (!call.may_go_again()) return;
  } else {
    remote.unsent.push_back({call.range.span, call.range.begin});
  }
  call.args = Buffer(args);
  call.ends.assign(ends.begin(), ends.end());
  if (call.at == kUnsent) find_actor(call.actor, remote);
}

// The actor's owner is told when it has been made; others ask.
void Worker::find_actor(ObjectId id, RemoteActor& remote) {
  if (remote.asked) return;
  const Record* record = objects_.find(id);
  if (record != nullptr && record->mine && !record->ready(id.index)) return;
  remote.asked = true;
  transport_.send(kHeadRank, core::Locate{id});
}

void Worker::send_call(PendingCall& call, RankId to, ByteView args, std::span<const std::uint32_t> ends) {
  core::Call message;
  message.range = call.range;
  message.actor = call.actor;
  message.caller = call.caller;
  message.holding = !call.refs.empty();
  message.body.function = call.method->index;
  message.body.dep_mask = call.dep_mask;
  message.body.args = args;
  message.body.ends.assign(ends.begin(), ends.end());
  std::vector<ValuePtr> keep;
  for (const Handle& dep : call.deps) {
    const Record& record = *dep.record();
    core::DepSource source{dep.id(), core::Where::maker, dep.id().span.owner(), {}};
    if (source.rank == to) source.where = core::Where::unknown;  // it knows itself
    if (record.ready(dep.index())) {
      const store::Slot* slot = record.slot(dep.index());
      const bool large = slot != nullptr && slot->kind == store::Slot::Kind::large;
      if (large && slot->at != objects_.rank()) {
        source.where = core::Where::unknown;  // the head knows who has it nearest by
      } else if (!large && (slot == nullptr || slot->kind != store::Slot::Kind::error)) {
        keep.push_back(objects_.value_of(record, dep.index()));
        source.where = core::Where::inlined;
        source.value = keep.back()->view();
      }
    }
    message.deps.push_back(source);
  }
  call.at = to;
  transport_.send(to, message);
}

// The actor has been found, or will never be.
void Worker::actor_located(ObjectId id, RankId at, const ErrorPtr& error) {
  Record* record = objects_.find(id);
  ErrorPtr dead = error != nullptr ? as_death(id, error) : nullptr;
  if (record != nullptr && dead != nullptr) objects_.set_error(*record, id.index, dead);
  if (record != nullptr && dead == nullptr) objects_.set_large(*record, id.index, at);
  const auto remote = remotes_.find(id);
  if (remote == remotes_.end()) return;
  for (const ObjectId& first : std::exchange(remote->second.unsent, {})) {
    const auto call = calls_.find(first);
    if (call == calls_.end()) continue;
    if (dead != nullptr) {
      fail_call(call->second, dead);
    } else {
      send_call(call->second, at, call->second.args.view(), call->second.ends);
      if (!call->second.may_go_again()) call->second.args = Buffer();
    }
  }
}

// Actors of this rank's that calls here wait for are made now, or have failed.
void Worker::actors_made(const Range& range) {
  for (std::uint32_t index = range.begin; index != range.end; ++index) {
    const ObjectId id{range.span, index};
    if (!remotes_.contains(id)) continue;
    ErrorPtr dead;
    const RankId at = actor_rank(id, dead);
    if (at != kNoRank || dead != nullptr) actor_located(id, at, dead);
  }
}

std::map<ObjectId, Worker::PendingCall>::iterator Worker::find_call(ObjectId id) {
  auto after = calls_.upper_bound(id);
  if (after == calls_.begin()) return calls_.end();
  --after;
  const Range& range = after->second.range;
  return range.span == id.span && id.index < range.end ? after : calls_.end();
}

void Worker::announce_call(PendingCall& call, std::uint32_t index) {
  if (!call.announced.insert(index).second) return;
  transport_.send(kHeadRank, core::Promised{{call.range.span, index}, call.method->index});
}

void Worker::fail_call(PendingCall& call, const ErrorPtr& error) {
  Record& record = *call.first.record();
  const Range range = call.range;
  const auto place = calls_.find({range.span, range.begin});
  for (std::uint32_t i = range.begin; i != range.end; ++i) {
    if (!record.ready(i)) fail_own({range.span, i}, call.announced.contains(i), error);
  }
  end_call(place);
}

void Worker::end_call(std::map<ObjectId, PendingCall>::iterator place) {
  PendingCall& call = place->second;
  const auto remote = remotes_.find(call.actor);
  remote->second.pending -= call.range.end - call.range.begin;
  calls_pending_ -= call.range.end - call.range.begin;
  if (remote->second.pending == 0) remotes_.erase(remote);
  if (!call.refs.empty() && call.at != kUnsent && !lost_.contains(call.at)) {
    const auto loan = loans_.find({place->first, false});
    if (loan == loans_.end()) {
      loans_[{place->first, false}] = {call.at, std::move(call.refs), {}};
    } else {
      MOBULA_MARK("worker: a loan was returned before its call ended");
      loans_.erase(loan);  // it was returned already
    }
  }
  calls_.erase(place);
}

// Results of calls of this rank have been taken in.
void Worker::call_results(const core::Result& m) {
  const auto place = find_call({m.range.span, m.range.begin});
  if (place == calls_.end()) return;
  PendingCall& call = place->second;
  if (m.range.end > call.range.end) detail::throw_damaged("results of calls that were not made");
  Record& record = *call.first.record();
  std::map<std::uint32_t, core::Made> made;
  for (const auto& [index, size] : m.stored) {
    core::Made& of = made[index];
    of.size = size;
    of.at = m.rank;
  }
  for (const core::Hold& hold : m.refs) made[hold.index].refs.push_back(hold.object);
  for (auto& [index, of] : made) {
    of.id = {m.range.span, index};
    transport_.send(kHeadRank, of);
  }
  if (!made.empty()) transport_.send(kHeadRank, core::Counted{m.rank, {m.range.span, m.range.begin}, true});
  for (std::uint32_t i = m.range.begin; i != m.range.end; ++i) {
    if (call.announced.contains(i)) {
      core::Done done;
      done.range = {m.range.span, i, i + 1};
      for (const auto& error : m.errors) {
        if (error.index == i) done.errors.push_back(error);
      }
      send_done(done);
    } else if (!made.contains(i)) {
      objects_.set_secret(record, i);
    }
  }
  call.left -= m.range.end - m.range.begin;
  if (call.left == 0) end_call(place);
}

void Worker::handle(RankId, const core::Returned& m) {
  if (loans_.erase({m.call, m.result}) != 0 || m.result) return;
  // The word came round before the call's result: there is nothing to keep once that has come.
  if (const auto call = calls_.find(m.call); call != calls_.end()) loans_[{m.call, false}] = {call->second.at, {}, {}};
}

// A rank is lost: calls that it had are made again, or have failed.
void Worker::actors_lost(RankId rank, bool left) {
  std::vector<ObjectId> hit;
  for (const auto& [first, call] : calls_) {
    if (call.at == rank) hit.push_back(first);
  }
  for (const ObjectId& first : hit) {
    const auto place = calls_.find(first);
    if (place == calls_.end()) continue;
    PendingCall& call = place->second;
    const bool moves = left && call.moves;
    if (moves || call.retries > 0) {
      if (!moves) --call.retries;
      call.at = kUnsent;
      MOBULA_MARK("worker: a pending call is made again");
      remotes_[call.actor].unsent.push_back(first);
    } else {
      fail_call(call, died(call.actor, "was on rank " + std::to_string(rank) +
                                           ", which was lost while the call was pending; call_retries allow no more "
                                           "runs of it"));
    }
  }
  for (auto& [id, remote] : remotes_) {
    std::sort(remote.unsent.begin(), remote.unsent.end());
    if (!remote.unsent.empty()) find_actor(id, remote);
  }
}

std::optional<std::string> Worker::explain_own(ObjectId id) {
  if (auto text = folds_.explain(id)) return text;
  const auto call = find_call(id);
  if (call == calls_.end()) return std::nullopt;
  const PendingCall& of = call->second;
  const auto pending = remotes_.at(of.actor).pending;
  return "call of " + of.method->name + " on actor " + core::to_string(of.actor) +
         (of.at == kUnsent ? ", which has no rank yet: it waits for cpus or other resources, or for its constructor"
                           : " at rank " + std::to_string(of.at) +
                                 ": it runs, or waits there for earlier calls or an "
                                 "input") +
         "; " + std::to_string(pending) + " calls of this rank to that actor have not ended";
}

// ---- the actor's side --------------------------------------------------------------------------------------------

// Calls of an actor that is saved now and then have ended. What the head has of it is as old as `checkpoint_every`
// calls at most, unless its state could not be saved.
void Worker::tell_state(const Run& run) {
  LocalActor& actor = *run.body->actor;
  actor.since_saved += run.task.next - run.first;
  actor.save_now = false;
  if (!run.saved) {
    if (run.saves || run.save_at != 0) actor.since_saved = 0;
    actor.save_now = actor.is_unsaved(draining_);
    return;
  }
  actor.since_saved = 0;
  core::Checkpoint checkpoint;
  checkpoint.id = actor.id;
  checkpoint.state = run.saved->buffer.view();
  checkpoint.refs = pass_on_all(run.saved->refs);
  if (objects_.has_holds()) tell_holds();
  transport_.send(kHeadRank, checkpoint);
}

void Worker::handle(RankId, const core::Drain& m) {
  draining_ = true;
  leaves_ = leaves_ || m.leaves;
  saved_all_ = false;
  for (auto& [id, actor] : actors_) {
    actor->stopped = leaves_;
    if (actor->save_every == 0) continue;
    actor->save_every = 1;
    actor->save_now = actor->is_unsaved(true);
    list(*actor);
  }
  tell_saved();
}

void Worker::tell_saved() {
  if (!draining_ || saved_all_) return;
  // One that leaves keeps nothing for others, and waits for nobody. A function that goes on past its time, or was left
  // behind in MPI, may do so for ever, and gives nobody anything.
  const auto gives = [](const Run* run) { return !run->expired && !run->left_behind; };
  const std::vector<Run*>& runs = running_.all();
  if (leaves_ && (!loans_.empty() || !calls_.empty() || folds_.size() != 0 || queued_tasks_ != 0 ||
                  std::any_of(runs.begin(), runs.end(), gives)))
    return;
  saved_all_ = std::all_of(actors_.begin(), actors_.end(), [this](const auto& of) {
    const LocalActor& actor = *of.second;
    const bool idle = actor.active == 0 || (actor.save_every == 0 && !leaves_);
    return (actor.ending && !actor.save_now) || (actor.since_saved == 0 && idle);
  });
  if (saved_all_) transport_.send(kHeadRank, core::Saved{});
}

// The run has made an actor, which keeps what the run held.
void Worker::start_actor(Run& run) {
  stop_waiting(run);
  auto actor = std::make_unique<LocalActor>();
  actor->id = {run.range.span, run.range.begin};
  actor->options = run.body->options;
  actor->klass = run.body->function->klass;
  actor->object = std::move(run.task.actor);
  actor->lenders = run.body->lenders;
  actor->save_every =
      draining_ ? std::min(1U, actor->options->actor.checkpoint_every) : actor->options->actor.checkpoint_every;
  actor->slots = std::move(run.slots);
  actor->missing_cpus = run.missing_cpus;
  actor->gpus = std::move(run.gpus);
  actors_[actor->id] = std::move(actor);
}

void Worker::handle(RankId from, const core::Call& m) {
  auto body = body_of(m.body, m.range, m.deps, FunctionInfo::Kind::method);
  if (m.range.span.owner() != from) detail::throw_damaged("a rank calls in the name of another");
  if (any_piece(m.range)) detail::throw_damaged("a call comes twice");
  const auto found = actors_.find(m.actor);
  if (found == actors_.end() || found->second->ending) {
    const ErrorPtr dead = found != actors_.end() ? found->second->dead : nullptr;
    MOBULA_MARK("worker: a call comes for an actor that has ended");
    refuse_calls(m.range, m.holding, dead != nullptr ? dead : died(m.actor, "has ended"));
    return;
  }
  LocalActor& actor = *found->second;
  if (body->function->klass != actor.klass) detail::throw_damaged("a method of another class is called on an actor");
  body->actor = &actor;
  body->caller = m.caller;
  body->holding = m.holding;
  Piece& piece = add_piece(m.range, std::move(body));
  if (!m.deps.empty() || actor.lines.contains(m.caller)) actor.lines[m.caller].push_back(piece);
  piece.missing = static_cast<std::uint32_t>(m.deps.size()) + 1;
  set_up(piece, m.deps);
}

// The call has all its inputs. It runs after the earlier ones of its caller; `front`: it has begun before.
void Worker::call_ready(Piece& piece, bool front) {
  LocalActor& actor = *piece.body->actor;
  piece.queued = true;
  const auto line = actor.lines.find(piece.body->caller);
  if (front) {
    actor.ready.push_front(piece);
  } else if (line == actor.lines.end()) {
    actor.ready.push_back(piece);
  } else {
    advance_line(actor, line->first);
  }
  list(actor);
}

void Worker::advance_line(LocalActor& actor, ObjectId caller) {
  const auto line = actor.lines.find(caller);
  while (!line->second.empty() && line->second.front()->missing == 0) {
    Piece& piece = *line->second.front();
    line->second.erase(piece);
    actor.ready.push_back(piece);
  }
  if (line->second.empty()) actor.lines.erase(line);
}

// The call leaves the actor's queues.
void Worker::call_gone(Piece& piece) {
  LocalActor& actor = *piece.body->actor;
  const bool in_line = piece.list != &actor.ready;
  if (piece.list != nullptr) piece.list->erase(piece);
  if (!in_line) return;
  const auto line = actor.lines.find(piece.body->caller);
  if (line == actor.lines.end()) return;
  advance_line(actor, line->first);
  list(actor);
}

bool LocalActor::has_next() const {
  if (ending || save_now) return active == 0 && object != nullptr;
  if (stopped) return false;
  return !ready.empty() && active < options->actor.concurrency;
}

// Of one that ends without having been killed a later job may want the last state.
bool LocalActor::is_unsaved(bool job_ends) const {
  if (since_saved == 0 || save_every == 0 || object == nullptr) return false;
  return ending ? options->actor.durable && dead == nullptr : job_ends;
}

std::vector<Piece*> LocalActor::calls() const {
  std::vector<Piece*> all;
  const auto add = [&all](const PieceQueue& queue) {
    for (Piece* piece = queue.front(); piece != nullptr; piece = piece->behind) all.push_back(piece);
  };
  add(ready);
  for (const auto& [caller, line] : lines) add(line);
  return all;
}

// Has the actor's next call run, if it may.
void Worker::list(LocalActor& actor) {
  if (actor.listed || !actor.has_next()) return;
  actor.listed = true;
  callable_[actor.cpus() == 0 ? 1 : 0].push_back(&actor);
}

bool Worker::may_call(bool shares) const {
  return !callable_[shares ? 1 : 0].empty() && (!shares || places_.size() < kPlaces);
}

// Calls that will not run.
void Worker::refuse_calls(const Range& range, bool holding, const ErrorPtr& error) {
  Report report = failed(range, *error);
  report.is_call = true;
  report.holding = holding;
  send_call_report(report);
}

// What the call's arguments held is released, or held by this rank.
void Worker::tell_counted(const Range& range) {
  tell_holds();
  transport_.send(kHeadRank, core::Counted{range.span.owner(), {range.span, range.begin}, false});
}

// The results of calls go to the caller, who tells the head what that must know.
void Worker::send_call_report(Report& report) {
  const Range range = report.range;
  const RankId caller = range.span.owner();
  if (lost_.contains(caller)) return;
  const ObjectId first{range.span, range.begin};
  if (report.holding) tell_counted(range);
  core::Result result;
  result.range = range;
  result.fixed = report.fixed;
  result.values = report.values->view();
  result.ends = report.ends;
  result.errors = std::move(report.errors);
  result.rank = objects_.rank();
  Loan loan{caller, {}, {}};
  for (auto& [index, handles] : report.refs) {
    result.holding.push_back(index);
    for (const ObjectId& id : pass_on_all(handles)) result.refs.push_back({index, id});
    std::move(handles.begin(), handles.end(), std::back_inserter(loan.keep));
  }
  add_stored(report);
  for (const auto& [index, value] : report.stored) {
    result.stored.push_back({index, value->size()});
    loan.made.push_back({range.span, index});
  }
  if (!loan.keep.empty() || !loan.made.empty()) loans_[{first, true}] = std::move(loan);
  transport_.send(caller, result);
  report.errors = std::move(result.errors);
  deliver_results(report);
}

void Worker::callers_lost(RankId rank) {
  for (auto& [id, actor] : actors_) {
    for (Piece* piece : actor->calls()) {
      const Range range = piece->range;
      if (range.span.owner() != rank) continue;
      erase_piece(*piece);
      for (const ObjectId& result : interested_in(range)) redirect(result);
    }
  }
  for (auto it = loans_.begin(); it != loans_.end();) {
    if (it->second.to == rank) {
      for (const ObjectId& id : it->second.made) store_.erase(id);
      it = loans_.erase(it);
    } else {
      ++it;
    }
  }
}

// The failure of one call may fail others of the actor that depend on it.
void Worker::fail_calls(LocalActor& actor, const ErrorPtr& error) {
  for (const Piece* piece : actor.calls())
    failing_.emplace_back(ObjectId{piece->range.span, piece->range.begin}, error);
  fail_pieces();
}

// No more calls come: the object is destroyed after those that run.
void Worker::end_actor(LocalActor& actor) {
  if (actor.ending) return;
  actor.ending = true;
  actor.save_now = actor.is_unsaved(draining_);
  fail_calls(actor, died(actor.id, "has ended"));
  list(actor);
}

void Worker::handle(RankId, const core::EndActor& m) {
  const auto found = actors_.find(m.id);
  if (found != actors_.end() && !found->second->ending) {
    LocalActor& actor = *found->second;
    actor.dead = std::make_shared<ErrorRecord>(m.error);
    fail_calls(actor, actor.dead);
    for (Run* run : running_.all()) {
      if (run->body->actor != &actor || std::exchange(run->expired, true)) continue;
      run->task.stop.store(true, std::memory_order_relaxed);
      MOBULA_MARK("worker: an actor is killed while it runs a call");
      refuse_calls(run->range, false, actor.dead);  // what its arguments hold is counted when it ends
    }
    end_actor(actor);
  }
  if (m.token != 0) transport_.send(kHeadRank, core::KillDone{m.token});
}

// The object is destroyed. Of one that was killed the error stays, for late calls, as long as there are handles; the
// head knows that too, so that nothing is kept here.
void Worker::erase_actor(LocalActor& actor) {
  take(actor.options.get(), -1);
  free_.cpus -= actor.missing_cpus;
  actors_hold(-own_cpus(actor.options->demands.front()));
  free_slots_.insert(free_slots_.end(), actor.slots.begin(), actor.slots.end());
  give_gpus(actor.gpus, actor.options->demands.front().gpus);
  transport_.send(kHeadRank, core::ActorEnded{actor.id});
  actors_.erase(actor.id);
}

void Worker::destroy_actors() {
  for (auto& [id, actor] : actors_) actor->object.reset();
}

// ---- deadlocks ---------------------------------------------------------------------------------------------------

// Once the call has ended, its value is on its way, or the cpus to go on with are still with others: that is no wait
// for the other actor, which may wait for this one by now.
const Worker::PendingCall* Worker::awaited_call(const Run& run) {
  const auto call = find_call(run.awaits);
  const bool waits = call != calls_.end() && !call->second.first.record()->ready(run.awaits.index);
  return waits ? &call->second : nullptr;
}

// The head finds actors that wait for each other; one that waits for itself is found here.
void Worker::tell_blocked(Run& run, Time now) {
  const LocalActor& actor = *run.body->actor;
  const PendingCall* const call = awaited_call(run);
  if (call == nullptr) {
    tell_unblocked(run);
    return;
  }
  if (run.blocked != 0 || run.deadlock != nullptr || now - run.awaits_since < kBlockedAfter) return;
  if (actor.options->actor.concurrency != 1) return;
  run.blocked = next_token_++;
  if (call->actor == actor.id) {
    handle(objects_.rank(), core::Deadlock{run.blocked, "the actor waits for a call on itself"});
    return;
  }
  transport_.send(kHeadRank, core::Blocked{actor.id, call->actor, run.blocked, true});
}

// Its method waits for no other actor any more.
void Worker::tell_unblocked(Run& run) {
  // NOLINTNEXTLINE(clang-analyzer-core.NonNullParamChecker)
  if (run.blocked != 0) transport_.send(kHeadRank, core::Blocked{run.body->actor->id, {}, run.blocked, false});
  run.blocked = 0;
}

void Worker::handle(RankId, const core::Deadlock& m) {
  if (m.token == 0) detail::throw_damaged("a deadlock is told of no method");  // those that are not blocked have none
  for (Run* run : running_.all()) {
    if (run->blocked != m.token) continue;
    if (awaited_call(*run) == nullptr) {  // the call has ended since the head was told
      tell_unblocked(*run);
      return;
    }
    run->deadlock = core::make_error(ErrorKind::deadlock, "deadlock: " + m.text, task_name(*run->body), run->awaits,
                                     objects_.rank(), 1, settings_.host);
    if (run->told != nullptr) run->told->ready(0);
  }
}

}  // namespace mobula::worker
