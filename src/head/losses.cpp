// The head's side of losses: ranks of which nothing is heard any more, what becomes of their tasks, and values that are
// made again.
//
// What made a value that may be lost is kept while the value is wanted: its lineage. That is the Work, and with it its
// inputs: small ones stay held, and so do those that no task has made, as large arguments; other large ones are freed
// as if nothing was, but their Entries stay, with what made those in turn. A lost value is made again when somebody
// asks for it. Works above the limit are forgotten, the oldest first.
#include <algorithm>
#include <limits>
#include <unordered_set>

#include "core/mark.hpp"
#include "head/head.hpp"

namespace mobula::head {

using core::ErrorKind;
using core::Event;
using core::make_error;
using detail::kHeadRank;
using detail::kNoRank;

namespace {

bool is_in(const std::vector<Range>& ranges, const Range& range) {
  return std::any_of(ranges.begin(), ranges.end(), [&range](const Range& r) {
    return r.span == range.span && r.begin <= range.begin && range.end <= r.end;
  });
}

}  // namespace

// The rank, and how it was lost, for people.
std::string Head::lost_text(RankId rank) const {
  const RankState& of = ranks_[rank];
  return "rank " + std::to_string(rank) + " on " + of.host + (of.left ? " has left" : " was lost") +
         (of.end.empty() ? "" : " (" + of.end + ")");
}

void Head::handle(RankId from, const core::Pulse& m) {
  ++messages_;
  heard_[ranks_[from].node] = now_;
  transport_.send(from, core::PulseBack{});
  for (const core::EndedRank& ended : m.ended) {
    if (ended.rank >= ranks_.size() || ended.rank == kHeadRank)
      detail::throw_damaged("the end of a rank is told that is none");
    worker_lost(ended.rank, ended.how, ended.tells ? &ended.begun : nullptr);
  }
  for (const core::QuietRank& quiet : m.quiet) {
    if (quiet.rank >= ranks_.size() || quiet.rank == kHeadRank || settings_.lost_after == 0) continue;
    if (quiet.quiet_ns > settings_.lost_after) worker_lost(quiet.rank, "it gave no sign of life");
  }
  settle();
}

bool Head::lost_a_node() const {
  std::map<std::uint32_t, bool> alive;
  for (const RankState& rank : ranks_) alive[rank.node] = alive[rank.node] || rank.alive;
  return std::any_of(alive.begin(), alive.end(), [](const auto& node) { return !node.second; });
}

// Nodes of which nothing has been heard.
void Head::check_nodes() {
  constexpr Time kCheck = 100'000'000;
  const Time since = now_ - nodes_checked_;
  if (settings_.lost_after == 0 || since < kCheck) return;
  nodes_checked_ = now_;
  // Where this rank has not run for a while itself, as before the first check, it has not heard of others for as long.
  const Time asleep = since > std::min(10 * kCheck, settings_.lost_after / 2) ? since : 0;
  std::vector<RankId> silent;
  for (RankId rank = 1; rank < ranks_.size(); ++rank) {
    if (!ranks_[rank].alive) continue;
    Time& heard = heard_.try_emplace(ranks_[rank].node, now_).first->second;
    if (now_ - heard - asleep > settings_.lost_after) silent.push_back(rank);
  }
  if (asleep != 0) {
    for (auto& [node, heard] : heard_) heard = std::min(heard + asleep, now_);
  }
  for (const RankId rank : silent) worker_lost(rank, "nothing was heard of its node");
}

void Head::worker_lost(RankId lost, const std::string& how, const std::vector<Range>* begun) {
  if (!ranks_[lost].joined) {  // it died before it could join: the others start without it
    ranks_[lost].joined = true;
    ++joined_;
    ++lost_;
    news_.push_back("rank " + std::to_string(lost) + " was lost before it could join" +
                    (how.empty() ? "" : ": " + how));
    transport_.abandon(lost);
    return;
  }
  if (!ranks_[lost].alive) return;
  ranks_[lost].alive = false;
  ranks_[lost].end = how;
  ++lost_;
  if (!how.empty()) news_.push_back(lost_text(lost) + "; the job goes on without it");
  core::trace(Event::lost, now_, {}, 0, 0, lost);

  std::vector<Piece*> pieces(assigned_[lost].begin(), assigned_[lost].end());
  // In a fixed order, so that a simulated run repeats exactly.
  std::sort(pieces.begin(), pieces.end(), [](const Piece* a, const Piece* b) {
    return std::pair(a->range.span, a->range.begin) < std::pair(b->range.span, b->range.begin);
  });
  std::erase_if(pieces, [this](Piece* piece) {
    if (!gangs_.contains(piece->gang)) return false;
    lose_member(*piece);
    return true;
  });
  // Those that it was at are pieces of their own.
  for (std::size_t i = 0; begun != nullptr && i < pieces.size(); ++i) {
    for (const Range& at : *begun) {
      for (const std::uint32_t cut : {at.begin, at.end}) {
        Piece& piece = *pieces[i];
        if (at.span == piece.range.span && piece.range.begin < cut && cut < piece.range.end) {
          MOBULA_MARK("head: a lost rank was at a part of a piece");
          pieces.push_back(&split(piece, cut));
        }
      }
    }
  }
  for (Piece* piece : pieces) {
    unassign(*piece);
  }
  scheduler_.remove_worker(lost);
  unsaved_.erase(lost);
  leaving_.erase(lost);
  transport_.abandon(lost);
  for (const Recent& recent : std::exchange(recent_[lost], {}).all) {
    if (recent.work != nullptr) recent_bytes_ -= recent.bytes;
    const RankId owner = recent.range.span.owner();
    if (ranks_[owner].alive) unheard_[{lost, owner}].push_back(recent);
  }
  for (RankId rank = 0; rank < ranks_.size(); ++rank) {
    if (!ranks_[rank].alive) continue;
    core::RankLost message{lost, {}, ranks_[lost].left, 0};
    if (const auto sent = frames_of_left_.find(rank); message.left && sent != frames_of_left_.end())
      message.frames = sent->second;
    if (const auto unheard = unheard_.find({lost, rank}); unheard != unheard_.end()) {
      for (const Recent& recent : unheard->second) message.ended.push_back(recent.range);
    }
    transport_.send(rank, message);
  }
  std::erase_if(unheard_, [lost](const auto& entry) { return entry.first.second == lost; });

  // What only the lost rank held goes; tasks that nobody else wants with it: their parent's retry makes them anew.
  const auto was_at = [lost](ObjectId id, const Entry& of) {
    return of.stored ? of.at == lost : id.span.owner() == lost;
  };
  std::vector<ObjectId> ids;  // of many that it may have had nothing to do with
  for (const auto& [id, of] : entries_) {
    const bool asked = std::find(of.locators.begin(), of.locators.end(), lost) != of.locators.end();
    const bool held =
        std::any_of(of.ranks.begin(), of.ranks.end(), [lost](const auto& holder) { return holder.first == lost; });
    if (asked || held || was_at(id, of) || of.copy_at(lost) != nullptr) ids.push_back(id);
  }
  std::sort(ids.begin(), ids.end());
  for (const ObjectId& id : ids) {
    Entry* entry = find_entry(id);
    if (entry == nullptr) continue;
    if (const Copy* const copy = entry->copy_at(lost); copy != nullptr && !copy->here) fetched(*entry, *copy);
    entry->erase_copy(lost);
    std::erase(entry->locators, lost);
    if (was_at(id, *entry) && standing(id) == Standing::ended && entry->error == nullptr && find_actor(id) == nullptr) {
      value_gone(id, *entry, lost);
    }
    core::erase_if(entry->ranks, [lost](const auto& holder) { return holder.first == lost; });
    maybe_free(id);
  }
  // Of the pieces that the rank had, those that are left: parts of them may be split off, or fail.
  std::unordered_set<Piece*> had(pieces.begin(), pieces.end());
  const auto part_from = [&](Piece& piece, std::uint32_t index) -> Piece& {
    if (piece.range.begin == index || piece.range.end == index) return piece;
    Piece& rest = split(piece, index);
    if (had.contains(&piece)) had.insert(&rest);
    return rest;
  };
  std::vector<SpanId> orphaned;
  for (const auto& [id, span] : spans_) {
    if (id.owner() == lost) orphaned.push_back(id);
  }
  std::sort(orphaned.begin(), orphaned.end());
  for (const SpanId& id : orphaned) {
    owner_dropped(id);
    const auto span = spans_.find(id);
    if (span == spans_.end()) continue;
    std::vector<ObjectId> unwanted;
    for (const auto& [begin, piece] : span->second.pieces) {
      for (std::uint32_t i = piece->range.begin; i < piece->range.end; ++i) {
        const Entry* entry = find_entry({id, i});
        if (entry == nullptr || !entry->held()) unwanted.push_back({id, i});
      }
    }
    for (const ObjectId& task : unwanted) {
      Piece* piece = piece_with(task);
      if (piece == nullptr) continue;
      // Runs elsewhere; its result is dropped. Gangs are not taken apart.
      if (piece->is_at_rank() || piece->work->is_gang()) continue;
      piece = &part_from(*piece, task.index);
      MOBULA_MARK("head: a task is dropped that only a lost rank wanted");
      part_from(*piece, task.index + 1);
      had.erase(piece);
      fail(*piece, make_error(ErrorKind::cancelled, "the task that made it was lost", task_name(*piece->work), task,
                              lost, static_cast<int>(piece->attempt)));
    }
  }
  pieces.assign(had.begin(), had.end());
  std::sort(pieces.begin(), pieces.end(), [](const Piece* a, const Piece* b) {
    return std::pair(a->range.span, a->range.begin) < std::pair(b->range.span, b->range.begin);
  });
  for (Piece* piece : pieces) {
    if (piece->promised) {
      const ObjectId id{piece->range.span, piece->range.begin};
      fail(*piece,
           make_error(ErrorKind::worker_lost, lost_text(lost) + " while a call or a reduce that it made was pending",
                      task_name(*piece->work), id, lost, 1));
      continue;
    }
    if (piece->gang != 0) {  // the gang has ended, and the result is lost: the whole gang is to run again
      const ObjectId id{piece->range.span, piece->range.begin};
      Entry& of = entry(id);
      of.gone = true;
      of.gone_with = lost;
      keep_maker(of, piece->work);
      MOBULA_MARK("head: a member is lost after the good end of its gang");
      finish_tasks(*piece, 1);
      erase_piece(*piece);
      late_.push_back(id);
      continue;
    }
    if (fail_if_killed(*piece)) continue;
    // Others it may have run to their ends, of which nothing has been heard.
    if (begun != nullptr && is_in(*begun, piece->range)) ++piece->crashes;
    const int retries = piece->work->options ? piece->work->options->retries : core::WireOptions().retries;
    const bool is_cause = piece->crashes >= settings_.crash_limit;
    if (static_cast<int>(piece->attempt) > retries || is_cause) {
      MOBULA_MARK("head: the retries of a lost task are used up");
      const std::string why = is_cause ? ", as others were before: it is taken for the cause"
                                       : ", and its " + std::to_string(retries) + " retries are used up";
      fail(*piece,
           make_error(ErrorKind::worker_lost, lost_text(lost) + " while it ran the task" + why, task_name(*piece->work),
                      {piece->range.span, piece->range.begin}, lost, static_cast<int>(piece->attempt)));
    } else {
      retried_ += piece->size();
      ++piece->attempt;
      set_up(*piece);
    }
  }
  while (!deferred_[lost].empty()) {
    MOBULA_MARK("head: the rank is lost that a task waited to be sent ahead to");
    auto& piece = static_cast<Piece&>(*deferred_[lost].front());
    undefer(piece);
    consider(piece);
  }
  groups_lost();
  actors_lost(lost);
  gangs_lost(lost);
  overtime_lost(lost);
  fail_hopeless();
  settle();
  for (auto it = surveys_.begin(); it != surveys_.end();) {
    it->second.missing.erase(lost);
    it = finish_survey(it->second) ? surveys_.erase(it) : std::next(it);
  }
  // Cancels that the lost rank was to carry out.
  for (auto it = cancels_.begin(); it != cancels_.end();) {
    const Asked asked = it->second;
    it = asked.worker == lost ? cancels_.erase(it) : std::next(it);
    if (asked.worker == lost) MOBULA_MARK("head: the rank is lost that was to cancel a task");
    if (asked.worker == lost && ranks_[asked.from].alive) cancel(asked.from, asked.token, asked.id);
  }
}

// ---- lineage -----------------------------------------------------------------------------------------------------

// The rank that had the value of an ended object has it no more: a copy takes its place, or it is gone.
void Head::value_gone(ObjectId id, Entry& of, RankId rank) {
  const Copy* copy = of.copies != nullptr ? of.copies->any_complete() : nullptr;
  if (copy == nullptr) {
    of.gone = true;
    of.gone_with = rank;
    return;
  }
  MOBULA_MARK("head: a copy takes the place of a lost value");
  of.stored = true;
  of.at = copy->rank;
  of.serving = copy->serving;
  of.erase_copy(of.at);
  transport_.send(of.at, core::Keep{id});
}

void Head::keep_maker(Entry& of, const std::shared_ptr<Work>& work) {
  if (of.maker == work || (work->options && work->options->is_actor)) return;
  forget_maker(of);
  of.maker = work;
  ++work->makes;
}

void Head::forget_maker(Entry& of) {
  if (of.maker == nullptr) return;
  const std::shared_ptr<Work> work = std::exchange(of.maker, nullptr);
  if (--work->makes == 0 && work->in_lineage) drop_lineage(*work);
}

// Its tasks have ended: lets go of what they were given, but for what is needed to run them again.
void Head::release_work(Work& work) {
  queued_bytes_ -= work.args.size();
  if (work.makes == 0) {
    for (const ObjectId& id : work.holds) unhold(id);
    return;
  }
  work.weight = sizeof(Work) + work.args.size() + work.holds.size() * (sizeof(ObjectId) + sizeof(Entry));
  for (const ObjectId& id : work.holds) {
    Entry& of = entry(id);
    Tie tie = Tie::holds;
    if (find_actor(id) != nullptr || groups_.contains(id)) {
      tie = Tie::none;  // it ends with the last who wants it
    } else if (of.gone || of.maker != nullptr || standing(id) != Standing::ended) {
      tie = Tie::way;
      ++of.lineage;
    } else if (of.stored) {
      work.weight += of.size;
    }
    if (tie != Tie::holds) unhold(id);
    work.ties.push_back(tie);
  }
  work.in_lineage = true;
  work.kept_at = lineage_.insert(lineage_.end(), &work);
  lineage_bytes_ += work.weight;
  while (lineage_bytes_ > settings_.lineage_limit) {
    Work& oldest = *lineage_.front();
    drop_lineage(oldest);
    oldest.forgotten = true;
    oldest.args = Buffer();
  }
}

void Head::drop_lineage(Work& work) {
  lineage_bytes_ -= work.weight;
  lineage_.erase(work.kept_at);
  work.in_lineage = false;
  for (std::size_t i = 0; i < work.holds.size(); ++i) {
    if (work.ties[i] == Tie::holds) unhold(work.holds[i]);
    if (work.ties[i] == Tie::way) {
      --find_entry(work.holds[i])->lineage;
      to_free_.push_back(work.holds[i]);
    }
  }
  work.ties.clear();
}

// Nobody holds the object, but it may be needed to make others again: its value goes, its Entry stays.
void Head::forget_value(Entry& of) {
  of.stored = false;
  of.at = kNoRank;
  of.copies.reset();
  of.gone = true;
  of.freed = true;
  of.gone_with = kNoRank;
}

// Why a value that is gone can't be made again; empty: it can.
std::string Head::why_not_again(const Entry& of) {
  if (of.maker == nullptr)
    return "no task that can run again has made it (it was put, or a call of an actor or a task of that rank gave it), "
           "or what made it is forgotten";
  Work& work = *of.maker;
  if (work.forgotten) return "what made it is forgotten (setting lineage_limit)";
  if (work.options && work.options->retries == 0) return "its task may not run again (retries = 0)";
  if (work.unfinished != 0) return "";
  const bool complete =
      std::all_of(work.holds.begin(), work.holds.end(), [this](const ObjectId& input) { return find_entry(input); });
  if (complete) return "";
  // Of a small result nobody keeps what it was made of once its task has ended.
  return work.in_lineage ? "what its task was given has ended"
                         : "it was lost on its way, and what its task was given has ended";
}

// All that the rank has not begun, since some of it waits for what nobody makes yet, and holds the room that the making
// of it needs.
void Head::take_all_back(RankId rank, bool keeps_wide) {
  transport_.send(rank, core::TakeBack{std::numeric_limits<std::uint32_t>::max(), true, keeps_wide});
}

// Sees to it that a value that is gone is made again, and what that takes, as far as possible: what can't be has an
// error then.
void Head::make_again(ObjectId wanted) {
  std::vector<ObjectId> todo{wanted};
  std::vector<Piece*> pieces;
  while (!todo.empty()) {
    const ObjectId id = todo.back();
    todo.pop_back();
    Entry* of = find_entry(id);
    if (of == nullptr || !of->gone || of->error != nullptr || piece_with(id) != nullptr) continue;
    if (const std::string why = why_not_again(*of); !why.empty()) {
      MOBULA_MARK("head: a lost value can't be made again");
      const std::string where = of->gone_with == kNoRank
                                    ? " was freed, and is needed again since a rank was lost: it can't be made again, "
                                    : " was on rank " + std::to_string(of->gone_with) +
                                          ", which is gone, and there is no copy: it can't be made again, ";
      of->error = make_error(ErrorKind::object_lost, "the value of object " + core::to_string(id) + where + why, "", id,
                             of->gone_with, 0);
      continue;
    }
    const std::shared_ptr<Work> work = of->maker;
    const Range range = work->is_gang() ? Range{id.span, work->base, work->base + work->options->gang}
                                        : Range{id.span, id.index, id.index + 1};
    if (any_unfinished(range)) {  // other members of the gang
      MOBULA_MARK("head: a lost value waits for the end of its gang");
      late_.push_back(id);
      continue;
    }
    MOBULA_MARK("head: a lost value is made again");
    revive(*work);
    Piece& piece = add_again(range, work, 2);
    retried_ += piece.size();
    pieces.push_back(&piece);
    todo.insert(todo.end(), work->deps().begin(), work->deps().end());
  }
  for (Piece* piece : pieces) start_again(*piece);
}

// Tasks that have ended before, or an actor.
Head::Piece& Head::add_again(const Range& range, const std::shared_ptr<Work>& work, std::uint32_t attempt) {
  Piece& piece = add_piece(range, work);
  piece.attempt = attempt;
  piece.again = true;
  scheduler_.classify(piece, work->options.get(), piece.nested);
  piece.bytes = static_cast<std::uint32_t>(work->args_of(range.begin, range.end).size() / piece.size());
  work->unfinished += piece.size();
  unfinished_ += piece.size();
  return piece;
}

void Head::start_again(Piece& piece) {
  const auto& options = piece.work->options;
  const bool in_bundle = options && options->placement == Placement::Kind::bundle;
  if (!in_bundle || give_pool(piece)) set_up(piece);
}

bool Head::any_unfinished(const Range& range) const {
  const auto span = spans_.find(range.span);
  if (span == spans_.end()) return false;
  const auto& pieces = span->second.pieces;
  const auto next = pieces.lower_bound(range.begin);
  if (next != pieces.end() && next->first < range.end) return true;
  return next != pieces.begin() && std::prev(next)->second->range.end > range.begin;
}

// Makes values again that had to wait for the rest of their gangs to end.
void Head::make_late_again() {
  for (const ObjectId& id : std::exchange(late_, {})) {
    make_again_or_fail(id);
    if (find_entry(id) != nullptr || piece_with(id) != nullptr) continue;
    // Nobody wants it, and no result of it will come to its owner, who waits for its end.
    send_error({id.span, id.index, id.index + 1},
               make_error(ErrorKind::worker_lost, "the rank that had made it was lost", "", id, kNoRank, 1));
  }
  settle();
}

// As make_again; those who wait are told what can't be.
void Head::make_again_or_fail(ObjectId id) {
  make_again(id);
  const Entry* of = find_entry(id);
  if (of == nullptr || of->error == nullptr) return;
  const ErrorPtr error = of->error;
  send_error({id.span, id.index, id.index + 1}, error);
  elements_ended({id.span, id.index, id.index + 1}, error);
}

// A small result goes to the owner of its span, unless the rank that makes it has heard that this one is lost.
bool Head::went_nowhere(ObjectId id, const Entry& of) const {
  const bool is_there = of.stored && !of.gone;
  return !is_there && !ranks_[id.span.owner()].alive && !groups_.contains(id);
}

// The task has ended, and nobody has its result: it is made again once somebody asks for it, as those do who wait.
void Head::result_lost(ObjectId id, Entry& of) {
  MOBULA_MARK("head: a result was sent to a lost rank");
  of.stored = false;
  of.gone = true;
  of.gone_with = id.span.owner();
  to_free_.push_back(id);
  if (!of.dependents.empty() || !of.locators.empty()) make_again_or_fail(id);
}

// All that its tasks were given is held again, as before they ran.
void Head::revive(Work& work) {
  if (work.unfinished != 0) return;
  queued_bytes_ += work.args.size();
  for (const ObjectId& id : work.holds) hold(id);
  if (work.in_lineage) drop_lineage(work);
}

// It was made again, and this time it is small: its owner, who is alive, has it, if it has a place for it.
void Head::settle_again(ObjectId id, Entry& of) {
  of.stored = false;
  const RankId owner = id.span.owner();
  const bool holds = std::any_of(of.ranks.begin(), of.ranks.end(),
                                 [owner](const auto& holder) { return holder.first == owner && holder.second > 0; });
  if (holds || !of.freed) return;
  of.error = make_error(ErrorKind::object_lost,
                        "the value of object " + core::to_string(id) +
                            " was lost, and its task, run again, made a small one in place of a large one",
                        "", id, owner, 0);
}

// Results of a lost rank that did not come to their owner: the tasks run again.
void Head::handle(RankId from, const core::Unheard& m) {
  ++messages_;
  const auto found = unheard_.extract({m.lost, from});
  for (const ObjectId& id : m.ids) {
    if (id.span.owner() != from) detail::throw_damaged("a rank misses results of another");
    if (piece_with(id) != nullptr) MOBULA_MARK("head: a result that was lost on its way is made again already");
    if (piece_with(id) != nullptr) continue;  // it runs again anyway
    Entry& of = entry(id);
    if (of.error == nullptr && of.stored && !of.gone) {
      MOBULA_MARK("head: a result was lost on its way, and is there");
      transport_.send(from, core::Located{id, of.at, {}});
      continue;
    }
    MOBULA_MARK("head: a result was lost on its way");
    of.gone = true;
    of.gone_with = m.lost;
    if (of.maker == nullptr && !found.empty()) {
      for (const Recent& recent : found.mapped()) {
        const Range& range = recent.range;
        const bool is_it = range.span == id.span && range.begin <= id.index && id.index < range.end;
        if (is_it && recent.work != nullptr) keep_maker(of, recent.work);
      }
    }
    make_again(id);
    if (of.error != nullptr) send_error({id.span, id.index, id.index + 1}, of.error);
    to_free_.push_back(id);
  }
  settle();
}

}  // namespace mobula::head
