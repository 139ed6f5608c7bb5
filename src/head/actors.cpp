// The head's side of actors: where they are, what they are called, when they end, and who waits for whom.
#include <algorithm>
#include <limits>

#include "core/functions.hpp"
#include "core/mark.hpp"
#include "head/head.hpp"

namespace mobula::head {

using core::ErrorKind;
using core::make_error;
using detail::kNoRank;

namespace {

constexpr Time kCheckWaits = 50'000'000;  // ns between two looks for deadlocks,
constexpr Time kCheckEach = 10'000;       // and more where very many wait: so many for each, many times what that takes
// ns after which what is waited for is no news on its way: a method that goes on has said so long before.
constexpr Time kOldWait = 500'000'000;

}  // namespace

Head::Actor* Head::find_actor(ObjectId id) {
  const auto found = actors_.find(id);
  return found != actors_.end() ? &found->second : nullptr;
}

std::string Head::actor_name(ObjectId id, const Actor& actor) const {
  return std::string(core::function_name(actor.traits.klass)) + " " +
         (actor.traits.name.empty() ? core::to_string(id) : "'" + actor.traits.name + "'");
}

void Head::actor_submitted(const Piece& piece) {
  const ObjectId id{piece.range.span, piece.range.begin};
  const core::ActorTraits& traits = piece.work->options->actor;
  Actor& actor = actors_[id];
  if (actor.state == Actor::State::ended) {
    entry(id).error = actor.error;
    return;
  }
  actor.state = Actor::State::pending;
  actor.traits = traits;
  if (traits.restarts > 0 || traits.checkpoint_every != 0) actor.work = piece.work;
  entry(id);
  if (traits.detached) hold(id);
}

// The object is made: it keeps what the task held.
void Head::actor_made(Piece& piece) {
  const ObjectId id{piece.range.span, piece.range.begin};
  Actor& actor = *find_actor(id);
  actor.holding = piece;
  scheduler_.stays(piece);
  unlist_assigned(piece);
  if (actor.state == Actor::State::ended) {  // killed meanwhile
    MOBULA_MARK("head: an actor is made that was killed meanwhile");
    end_here(actor, id, std::exchange(actor.killing, 0));
  } else {
    actor.state = Actor::State::alive;
  }
}

// It could not be made, or is gone for good.
void Head::actor_failed(ObjectId id, const ErrorPtr& error) {
  Actor& actor = *find_actor(id);
  killed(std::exchange(actor.killing, 0));
  if (std::exchange(actor.state, Actor::State::ended) == Actor::State::ended) return;
  actor.error = error;
  drop_checkpoint(actor);
  free_name(id, actor);
  if (actor.work != nullptr) {
    const std::shared_ptr<Work> work = std::exchange(actor.work, nullptr);
    if (work->unfinished == 0) release_work(*work);
  }
  if (Entry* of = find_entry(id)) {
    of->error = actor.error;
    for (const RankId locator : std::exchange(of->locators, {})) {
      transport_.send(locator, core::Located{id, kNoRank, *actor.error});
    }
    if (actor.traits.detached) unhold(id);
  }
}

// The last handle is gone. The worker hears of it by Free.
void Head::actor_forgotten(ObjectId id) {
  Actor& actor = *find_actor(id);
  const RankId worker = actor.holding.worker;
  drop_checkpoint(actor);
  free_name(id, actor);
  if (actor.work != nullptr) release_work(*std::exchange(actor.work, nullptr));
  actor.forgotten = true;
  if (worker == kNoRank) actors_.erase(id);
}

void Head::drop_checkpoint(Actor& actor) {
  actor.checkpoint = Buffer();
  for (const ObjectId& id : std::exchange(actor.checkpoint_refs, {})) unhold(id);
}

void Head::handle(RankId from, const core::Checkpoint& m) {
  ++messages_;
  Actor* actor = find_actor(m.id);
  const bool lives = actor != nullptr && actor->state == Actor::State::alive && !actor->forgotten;
  if (!lives || actor->holding.worker != from) return;
  check_ids(m.refs);
  for (const ObjectId& id : m.refs) hold(id);
  drop_checkpoint(*actor);
  actor->checkpoint = Buffer(m.state);
  actor->checkpoint_refs = m.refs;
  settle();
}

void Head::handle(RankId from, const core::ActorEnded& m) {
  ++messages_;
  Actor* actor = find_actor(m.id);
  if (actor == nullptr || actor->holding.worker != from) return;
  if (actor->state == Actor::State::alive && !actor->forgotten)
    detail::throw_damaged("an actor ends that nobody has ended");
  scheduler_.left(std::exchange(actor->holding, {}));
  waits_.erase(m.id);
  if (actor->forgotten) actors_.erase(m.id);
}

void Head::end_here(Actor& actor, ObjectId id, std::uint64_t token) {
  transport_.send(actor.holding.worker, core::EndActor{id, token, *actor.error});
}

// Actors of the rank are made again elsewhere, or are gone.
void Head::actors_lost(RankId rank) {
  std::vector<ObjectId> hit;
  for (const auto& [id, actor] : actors_) {
    const bool never_submitted = actor.state == Actor::State::reserved && actor.asker == rank;
    if (actor.holding.worker == rank || never_submitted) hit.push_back(id);
  }
  std::sort(hit.begin(), hit.end());
  for (const ObjectId& id : hit) {
    Actor& actor = *find_actor(id);
    if (actor.holding.worker == rank) scheduler_.left(std::exchange(actor.holding, {}));
    waits_.erase(id);
    if (actor.forgotten) {
      actors_.erase(id);
      continue;
    }
    if (actor.state == Actor::State::ended) continue;
    const bool moves = ranks_[rank].left && actor.traits.checkpoint_every != 0;
    if (actor.state == Actor::State::alive && (moves || actor.restarts < actor.traits.restarts)) {
      MOBULA_MARK("head: an actor is made again");
      ++(moves ? actor.moves : actor.restarts);
      actor.state = Actor::State::pending;
      entry(id).stored = false;
      const auto attempt = static_cast<std::uint32_t>(actor.restarts + actor.moves) + 1;
      start_again(add_again({id.span, id.index, id.index + 1}, actor.work, attempt));
      continue;
    }
    actor_failed(id,
                 make_error(ErrorKind::actor_died,
                            "actor " + actor_name(id, actor) + " was on rank " + std::to_string(rank) +
                                ", which was lost, and may not be restarted" + (actor.restarts > 0 ? " once more" : ""),
                            "", id, rank, actor.restarts + actor.moves + 1, ranks_[rank].host));
  }
  std::vector<std::uint64_t> done;
  for (const auto& [key, killing] : kills_) {
    if (killing.worker == rank) done.push_back(key);
  }
  for (const std::uint64_t key : done) killed(key);
  std::erase_if(waits_, [rank](const auto& wait) { return wait.second.rank == rank; });
}

void Head::locate_actor(RankId from, ObjectId id, const Actor& actor) {
  if (actor.state == Actor::State::ended) {
    transport_.send(from, core::Located{id, kNoRank, *actor.error});
  } else if (actor.state == Actor::State::alive) {
    transport_.send(from, core::Located{id, actor.holding.worker, {}});
  } else {
    entry(id).locators.push_back(from);
  }
}

void Head::free_name(ObjectId id, const Actor& actor) {
  if (const auto name = names_.find(actor.traits.name); name != names_.end() && name->second == id) names_.erase(name);
}

// ---- names -------------------------------------------------------------------------------------------------------

// With the actor of that name, if it is of the class that is asked for.
void Head::answer_found(RankId to, const core::Ask& ask, ObjectId id) {
  const core::ActorTraits& asked = ask.options.actor;
  const core::ActorTraits& there = find_actor(id)->traits;
  if (there.klass != asked.klass) {
    answer(to, ask.token, false,
           "the actor named '" + asked.name + "' is a " + std::string(core::function_name(there.klass)) + ", not a " +
               std::string(core::function_name(asked.klass)));
    return;
  }
  change(id, to, 1);
  Buffer text;
  core::WireWriter out(text);
  core::FoundActor{id, there.limits}.fields(out);
  answer(to, ask.token, true, std::string(reinterpret_cast<const char*>(text.data()), text.size()));
}

// Who has the name. An actor that nobody holds any more has lost it, though it may still be being made, or be ending.
std::unordered_map<std::string, ObjectId>::iterator Head::find_name(const std::string& name) {
  const auto found = names_.find(name);
  if (found == names_.end()) return found;
  const Entry* of = find_entry(found->second);
  if (of != nullptr && of->held()) return found;
  names_.erase(found);
  return names_.end();
}

void Head::reserve(RankId from, const core::Ask& ask) {
  const core::ActorTraits& traits = ask.options.actor;
  if (ask.id.span.owner() != from || !ask.options.is_actor) detail::throw_damaged("a name is asked for no actor");
  const auto found = find_name(traits.name);
  if (found == names_.end()) {
    names_.emplace(traits.name, ask.id);
    Actor& actor = actors_[ask.id];
    actor.traits = traits;
    actor.asker = from;
    entry(ask.id);
    answer(from, ask.token, true);
    return;
  }
  if (traits.get_if_exists) {
    answer_found(from, ask, found->second);
  } else {
    answer(from, ask.token, false,
           "there is an actor named '" + traits.name + "' already (" +
               actor_name(found->second, *find_actor(found->second)) +
               "): choose another name, or set get_if_exists to take that one");
  }
}

void Head::find(RankId from, const core::Ask& ask) {
  const auto found = find_name(ask.options.actor.name);
  if (found != names_.end()) {
    answer_found(from, ask, found->second);
  } else {
    answer(from, ask.token, false, "there is no actor named '" + ask.options.actor.name + "'");
  }
}

// ---- ends --------------------------------------------------------------------------------------------------------

// The piece was to make an actor that has been killed: it is not made any more, and who killed it is told without
// waiting for room.
bool Head::fail_if_killed(Piece& piece) {
  const Actor* const actor = find_actor({piece.range.span, piece.range.begin});
  if (actor == nullptr || actor->state != Actor::State::ended) return false;
  const ErrorPtr error = actor->error;
  fail(piece, error);
  return true;
}

void Head::kill(RankId from, std::uint64_t token, ObjectId id) {
  Actor* actor = find_actor(id);
  if (actor == nullptr || actor->state == Actor::State::ended) {
    answer(from, token, false);
    return;
  }
  const bool lives = actor->state == Actor::State::alive;
  const RankId worker = actor->holding.worker;
  actor_failed(id, make_error(ErrorKind::actor_died, "actor " + actor_name(id, *actor) + " was killed", "", id, worker,
                              actor->restarts + actor->moves + 1));
  if (lives) {
    kills_.emplace(next_token_, Killing{from, token, worker});
    end_here(*actor, id, next_token_++);
    return;
  }
  Piece* piece = piece_with(id);
  if (piece != nullptr && piece->is_at_rank()) {
    MOBULA_MARK("head: an actor is killed while it is made");
    actor->killing = next_token_++;
    kills_.emplace(actor->killing, Killing{from, token, piece->worker});
    return;
  }
  if (piece != nullptr) {
    MOBULA_MARK("head: an actor is killed before it has a rank");
    fail(*piece, actor->error);
    settle();
  }
  answer(from, token, true);
}

void Head::killed(std::uint64_t key) {
  const auto found = kills_.find(key);
  if (found == kills_.end()) return;
  if (ranks_[found->second.from].alive) answer(found->second.from, found->second.token, true);
  kills_.erase(found);
}

void Head::handle(RankId from, const core::KillDone& m) {
  ++messages_;
  if (const auto found = kills_.find(m.token); found != kills_.end() && found->second.worker == from) killed(m.token);
}

// ---- what goes past the head -------------------------------------------------------------------------------------

void Head::handle(RankId, const core::Counted& m) {
  ++messages_;
  if (m.giver >= ranks_.size()) detail::throw_damaged("a ref came from a rank that does not exist");
  if (ranks_[m.giver].alive) transport_.send(m.giver, core::Returned{m.call, m.result});
}

void Head::handle(RankId from, const core::Promised& m) {
  ++messages_;
  const detail::FunctionInfo* method = core::function_at(m.function);
  if (m.id.span.owner() != from || method == nullptr) detail::throw_damaged("a rank promises what is not its own");
  if (piece_with(m.id) != nullptr) detail::throw_damaged("a rank promises what is being made");
  auto work = std::make_shared<Work>();
  work->function = m.function;
  work->base = m.id.index;
  work->unfinished = 1;
  ++unfinished_;
  Piece& piece = add_piece({m.id.span, m.id.index, m.id.index + 1}, std::move(work));
  piece.promised = true;
  piece.become(sched::State::assigned);
  piece.worker = from;
  list_assigned(piece);
  placed(piece);
  settle();
}

std::optional<std::string> Head::complaint(Time now) {
  constexpr Time kCheck = 1'000'000'000;
  constexpr Time kPatience = 5'000'000'000;
  if (!news_.empty()) {
    std::string text = std::move(news_.front());
    news_.pop_front();
    return text;
  }
  if (now - starved_checked_ < kCheck) return std::nullopt;
  starved_checked_ = now;
  if (!scheduler_.starved()) {
    starved_since_ = 0;
    return std::nullopt;
  }
  if (starved_since_ == 0) starved_since_ = now;
  if (now - starved_since_ < kPatience) return std::nullopt;
  starved_since_ = std::numeric_limits<Time>::max() / 2;  // said
  return std::to_string(scheduler_.queued_tasks()) +
         " tasks wait, and actors, placement groups and tasks whose time is up hold the cpus: give actors and groups "
         "fewer, or start more ranks";
}

// ---- deadlocks ---------------------------------------------------------------------------------------------------

void Head::handle(RankId from, const core::Blocked& m) {
  ++messages_;
  if (m.waits) {
    waits_[m.actor] = {m.on, from, m.token, now_};
  } else if (const auto wait = waits_.find(m.actor); wait != waits_.end() && wait->second.token == m.token) {
    waits_.erase(wait);
  }
}

// Each of these actors runs one method at a time, and that one waits for a call on another: round a circle, nobody ever
// goes on. Only waits that have been known for a while count, so that the end of one is not on its way here.
void Head::find_deadlocks() {
  if (now_ - waits_checked_ < std::max(kCheckWaits, kCheckEach * std::ssize(waits_))) return;
  waits_checked_ = now_;
  const auto old = [this](ObjectId id) {
    const auto wait = waits_.find(id);
    return wait != waits_.end() && now_ - wait->second.since >= kOldWait ? wait : waits_.end();
  };
  // Each waits for one other, so each walk ends, meets what an earlier one has seen, or goes round.
  std::unordered_map<ObjectId, std::size_t> seen;  // in which walk
  std::size_t walk = 0;
  for (auto from = waits_.begin(); from != waits_.end(); ++from) {
    ++walk;
    auto at = old(from->first);
    while (at != waits_.end() && seen.emplace(at->first, walk).second) at = old(at->second.on);
    if (at == waits_.end() || seen[at->first] != walk) continue;
    const auto name = [this](ObjectId id) {
      const Actor* actor = find_actor(id);
      return actor != nullptr ? actor_name(id, *actor) : core::to_string(id);
    };
    std::string text = name(at->first);
    auto next = at;
    do {
      next = old(next->second.on);
      text += " waits for a call on " + name(next->first);
    } while (next != at);
    transport_.send(at->second.rank, core::Deadlock{at->second.token, text});
    waits_.erase(at);
    return;
  }
}

}  // namespace mobula::head
