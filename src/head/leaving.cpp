// Ranks that leave the job in order: told to end while the others go on, as by a signal or a node that is taken away.
//
// Such a rank gets no work any more, and what it has not begun goes back. When its tasks have ended, and nobody works
// for it, its actors stop between two calls and are saved, and other ranks adopt the values that it has. Then it is
// dismissed: it lets all that it has sent go out, says how much that was, and ends. The others take it for lost once
// they have handled as much; calls that are pending there then have not begun, and are made again at no cost. What has
// not come about by the end of its time is lost as with any rank.
#include <algorithm>

#include "core/mark.hpp"
#include "head/head.hpp"

namespace mobula::head {

using detail::kHeadRank;
using detail::kNoRank;

void Head::handle(RankId from, const core::Leave& m) {
  if (from == kHeadRank || leaving_.contains(from)) return;
  constexpr Time kMostGrace = 1'000'000'000'000'000'000;  // far enough from what a Time can hold
  Leaving& of = leaving_[from];
  of.since = now_;
  of.until = now_ + std::clamp<Time>(m.grace_ns, 0, kMostGrace);
}

void Head::handle(RankId from, const core::Saved&) {
  unsaved_.erase(from);
  if (const auto of = leaving_.find(from); of != leaving_.end()) of->second.saved = of->second.stopped;
}

void Head::handle(RankId from, const core::Left& m) {
  RankState& rank = ranks_[from];
  if (!rank.alive) return;
  rank.left = true;
  frames_of_left_.clear();
  for (const auto& [to, frames] : m.frames) frames_of_left_[to] = frames;
  worker_lost(from, "it was told to");
}

std::uint32_t Head::left() const {
  return static_cast<std::uint32_t>(
      std::count_if(ranks_.begin(), ranks_.end(), [](const RankState& rank) { return rank.left; }));
}

// Tasks run there or run for it, or actors live there that can't go on elsewhere.
bool Head::is_busy(RankId rank) {
  if (!assigned_[rank].empty() || owned_pieces_[rank] != 0) return true;
  return std::any_of(actors_.begin(), actors_.end(), [rank](const auto& entry) {
    const Actor& actor = entry.second;
    return actor.holding.worker == rank && actor.state == Actor::State::alive && actor.traits.checkpoint_every == 0;
  });
}

// Where the next value goes: to ranks in turn that stay.
RankId Head::next_heir() {
  for (std::size_t i = 0; i < ranks_.size(); ++i) {
    next_heir_ = (next_heir_ + 1) % static_cast<RankId>(ranks_.size());
    const RankState& rank = ranks_[next_heir_];
    if (rank.alive && rank.slots != 0 && !leaving_.contains(next_heir_)) return next_heir_;
  }
  return kHeadRank;
}

// Has others adopt what the rank has; true if they have all.
bool Head::hand_over(RankId rank, Leaving& leaving) {
  const auto stays = [this](RankId other) { return ranks_[other].alive && !leaving_.contains(other); };
  std::erase_if(leaving.moving, [&](const auto& move) {
    const Entry* of = find_entry(move.first);
    return of == nullptr || of->gone || of->error != nullptr || !stays(move.second);
  });
  if (!leaving.moving.empty()) return false;
  std::vector<ObjectId> ids;
  for (auto& [id, of] : entries_) {
    if (location(id, &of) != rank || of.gone || of.error != nullptr || !(of.held() || !of.dependents.empty())) continue;
    const auto moved = leaving.moved.find(id);
    const bool is_moved = moved != leaving.moved.end() && stays(moved->second);
    if (is_moved || find_actor(id) != nullptr || groups_.contains(id) || standing(id) != Standing::ended) continue;
    ids.push_back(id);
  }
  std::sort(ids.begin(), ids.end());
  for (const ObjectId& id : ids) {
    // One that has a copy only has to keep it.
    RankId heir = kNoRank;
    if (const auto& copies = find_entry(id)->copies; copies != nullptr) {
      const auto copy = std::find_if(copies->begin(), copies->end(),
                                     [&](const auto& c) { return c.second.here && stays(c.second.rank); });
      if (copy != copies->end()) heir = copy->first;
    }
    if (heir == kNoRank) heir = next_heir();
    MOBULA_MARK("head: a value of a rank that leaves is adopted");
    leaving.moving.emplace(id, heir);
    transport_.send(heir, core::Adopt{id, rank});
  }
  return ids.empty();
}

void Head::let_leave() {
  for (auto& [rank, of] : leaving_) {
    if (of.dismissed || !ranks_[rank].alive || now_ - of.since < settings_.leave_hold) continue;
    if (!of.closed) {
      if (!draining_.empty()) continue;
      of.closed = true;
      scheduler_.close(rank);
      take_all_back(rank);
      groups_leave(rank);
      fail_hopeless();
      settle();
      news_.push_back("rank " + std::to_string(rank) + " on " + ranks_[rank].host +
                      " was told to end: it gets no more work, and leaves when what it has is done");
    }
    const bool overdue = now_ > of.until;
    if (is_busy(rank) && !overdue) continue;
    if (!of.stopped) {
      of.stopped = true;
      transport_.send(rank, core::Drain{true});
    }
    if (!of.saved && !overdue) continue;
    // One after the other, since who goes may be the one that keeps something of the one before.
    const bool others = std::any_of(leaving_.begin(), leaving_.end(), [](const auto& o) { return o.second.dismissed; });
    if ((others || !hand_over(rank, of)) && !overdue) continue;
    of.dismissed = true;
    transport_.send(rank, core::Dismiss{});
  }
}

}  // namespace mobula::head
