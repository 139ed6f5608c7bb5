// The head's side of placement groups.
#include <algorithm>

#include "core/functions.hpp"
#include "core/mark.hpp"
#include "head/head.hpp"

namespace mobula::head {

using core::ErrorKind;
using core::make_error;
using detail::kHeadRank;
using detail::kNoRank;
using detail::kVariable;

void Head::reserve_bundles(RankId from, const core::Ask& ask) {
  core::check_demands(ask.options.demands);
  if (ask.id.span.owner() != from || groups_.contains(ask.id) ||
      ask.options.place_index > static_cast<std::uint32_t>(Strategy::strict_spread)) {
    detail::throw_damaged("a placement group makes no sense");
  }
  const auto strategy = static_cast<Strategy>(ask.options.place_index);
  entry(ask.id);
  if (auto why = scheduler_.why_infeasible(ask.options.demands, strategy)) {
    answer(from, ask.token, false, *why);
    return;
  }
  Group& group = groups_[ask.id];
  group.bundles = ask.options.demands;
  group.strategy = strategy;
  group.nested = ask.nested;
  for (const core::WireDemand& bundle : group.bundles) group.pools.push_back(scheduler_.open_pool(bundle));
  waiting_groups_.push_back(ask.id);
  place_groups();
  answer(from, ask.token, true);
}

void Head::place_groups() {
  using Turn = sched::Scheduler::GroupTurn;
  while (!waiting_groups_.empty()) {
    const ObjectId id = waiting_groups_.front();
    Group& group = groups_.at(id);
    if (!scheduler_.may_look_for(group.pools.front(), now_)) return;
    place_nested_groups();
    const Turn turn = group.nested ? Turn::of_nested : Turn::of_others;
    if (!scheduler_.place_pools(group.pools, group.strategy, now_, turn)) {
      // Groups that lost a rank must not wait for what others of them hold, and one that has to be together or apart
      // not for room beside what is left of it.
      bool any = false;
      for (const ObjectId other : waiting_groups_) {
        if (!groups_.at(other).ready) continue;
        MOBULA_MARK("head: a group that lost a rank gives way to another");
        scheduler_.vacate_unused(groups_.at(other).pools);
        any = true;
      }
      if (!any || !scheduler_.place_pools(group.pools, group.strategy, now_, turn)) return;
    }
    waiting_groups_.pop_front();
    group_placed(id);
  }
}

// Of those behind the first, which may need what a task, a bundle or an actor holds that waits for one of these. So
// they come before it: what such a task lends the first one could take for good. Some at a time, in turns.
void Head::place_nested_groups() {
  constexpr std::size_t kLook = 16;
  const std::size_t looks = std::min(kLook, waiting_groups_.size() - 1);
  for (std::size_t i = 0; i != looks && waiting_groups_.size() > 1; ++i) {
    next_nested_group_ = next_nested_group_ % (waiting_groups_.size() - 1) + 1;
    const auto at = waiting_groups_.begin() + static_cast<std::ptrdiff_t>(next_nested_group_);
    const ObjectId id = *at;
    const Group& group = groups_.at(id);
    const auto turn = sched::Scheduler::GroupTurn::before_others;
    if (!group.nested || !scheduler_.place_pools(group.pools, group.strategy, now_, turn)) continue;
    MOBULA_MARK("head: a nested group overtakes another");
    waiting_groups_.erase(at);
    group_placed(id);
  }
}

// All its bundles are set aside, for the first time or again.
void Head::group_placed(ObjectId id) {
  if (std::exchange(groups_.at(id).ready, true)) return;
  const RankId owner = id.span.owner();
  core::Result result;
  result.range = {id.span, id.index, id.index + 1};
  result.fixed = kVariable;
  result.ends = {0};
  result.rank = kHeadRank;
  if (ranks_[owner].alive) transport_.send(owner, result);
  elements_ended(result.range, nullptr);
}

// The piece is to hold part of a bundle. False: it has failed.
bool Head::give_pool(Piece& piece) {
  const core::WireOptions& options = *piece.work->options;
  const auto found = groups_.find(options.near);
  std::string why;
  if (found == groups_.end()) {
    why = "its placement group is gone";
  } else if (found->second.error != nullptr) {
    why = found->second.error->message;
  } else if (options.place_index >= found->second.pools.size()) {
    why = "its placement group has no such bundle";
  } else {
    why = scheduler_.why_infeasible(piece, found->second.bundles[options.place_index]).value_or("");
  }
  if (!why.empty()) {
    fail(piece, make_error(ErrorKind::infeasible, why, task_name(*piece.work), {piece.range.span, piece.range.begin},
                           kNoRank, 0));
    return false;
  }
  piece.pool = found->second.pools[options.place_index];
  return true;
}

// Bundles at a rank that closes are set aside elsewhere. Those of a group that has no room elsewhere stay until the
// rank is gone, so that what runs in them ends as it would.
void Head::groups_leave(RankId rank) {
  for (auto& [id, group] : groups_) {
    const bool is_there = std::any_of(group.pools.begin(), group.pools.end(),
                                      [&](const auto pool) { return scheduler_.rank_of(pool) == rank; });
    if (!is_there || group.error != nullptr || scheduler_.why_infeasible(group.bundles, group.strategy)) continue;
    scheduler_.move_away(group.pools, rank);
  }
  groups_lost();
}

// Bundles that have no rank any more are set aside anew.
void Head::groups_lost() {
  for (auto& [id, group] : groups_) {
    const bool whole = std::all_of(group.pools.begin(), group.pools.end(),
                                   [this](const auto pool) { return scheduler_.is_placed(pool); });
    if (whole || group.error != nullptr) continue;
    if (const auto why = scheduler_.why_infeasible(group.bundles, group.strategy)) {
      MOBULA_MARK("head: a group has lost its ranks for good");
      group.error = make_error(ErrorKind::infeasible, "ranks were lost: " + *why, "", id, kNoRank, 0);
      std::erase(waiting_groups_, id);
      scheduler_.give_up(group.pools.front());
      std::vector<Piece*> queued;
      for (const auto pool : group.pools)
        scheduler_.for_each_queued(pool, [&](sched::Piece& p) { queued.push_back(static_cast<Piece*>(&p)); });
      for (Piece* piece : queued) {
        fail_later(*piece, group.error);
      }
      if (!std::exchange(group.ready, true)) {
        send_error({id.span, id.index, id.index + 1}, group.error);
        elements_ended({id.span, id.index, id.index + 1}, group.error);
      }
    } else if (std::find(waiting_groups_.begin(), waiting_groups_.end(), id) == waiting_groups_.end()) {
      MOBULA_MARK("head: bundles are set aside anew");
      waiting_groups_.push_back(id);
    }
  }
}

void Head::group_forgotten(ObjectId id) {
  const auto node = groups_.extract(id);
  std::erase(waiting_groups_, id);
  for (const auto pool : node.mapped().pools) scheduler_.close_pool(pool);
}

}  // namespace mobula::head
