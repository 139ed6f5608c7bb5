// The worker's side of gangs.
#include <algorithm>

#include "core/mark.hpp"
#include "worker/worker.hpp"

namespace mobula::worker {

using core::MemberState;
using detail::kHeadRank;

std::size_t Worker::running_members() const {
  return static_cast<std::size_t>(
      std::count_if(members_.begin(), members_.end(), [](const auto& entry) { return entry.second.run != nullptr; }));
}

std::size_t Worker::stuck() const {
  return static_cast<std::size_t>(
      std::count_if(members_.begin(), members_.end(), [](const auto& entry) { return entry.second.stuck; }));
}

void Worker::tell_member(const Member& member, std::uint64_t gang, MemberState state, const core::ErrorRecord& error) {
  tell_less_lent();
  transport_.send(kHeadRank, core::Member{gang, member.place, state, error});
}

// The member's function has returned or thrown.
void Worker::member_ended(const Run& run, Report report) {
  const auto found = members_.find(run.body->gang->gang);
  auto& [gang, member] = *found;
  member.run = nullptr;
  if (member.broken_at != 0) {
    MOBULA_MARK("worker: a member comes back whose gang is broken");
    tell_member(member, gang, member.stuck ? MemberState::freed : MemberState::dropped);
    erase_member(found);
    redirect({run.range.span, run.range.begin});
    return;
  }
  if (run.expired) return;  // the head hears that it is back when it says that the gang is over
  if (!report.errors.empty()) {
    member.told = true;
    tell_member(member, gang, MemberState::failed, report.errors.front().error);
    return;
  }
  if (objects_.has_holds()) tell_holds();  // what the result holds is known before its giver may be gone
  member.report = std::move(report);
  member.cpus = cpus_of(run);
  lend_ended(member);
  tell_member(member, gang, MemberState::ended);
}

// To be called whenever the member may have ended well, its gang may have begun or ceased to wait, or is over.
void Worker::lend_ended(Member& member) {
  const double cpus = member.report && member.gang_waits ? member.cpus : 0;
  lent_changed_ = unused_.set(member.unused, cpus) || lent_changed_;
  lent_changed_ = unused_of_members_.set(member.unused_of_member, cpus) || lent_changed_;
}

void Worker::erase_member(std::map<std::uint64_t, Member>::iterator of) {
  of->second.gang_waits = false;
  lend_ended(of->second);
  members_.erase(of);
}

void Worker::handle(RankId, const core::GangOver& m) {
  const auto found = members_.find(m.gang);
  if (found == members_.end()) return;
  Member& member = found->second;
  if (m.good) {
    if (!member.report) detail::throw_damaged("a gang has ended before its members");
    Report report = std::move(*member.report);
    erase_member(found);
    tell_less_lent();
    send_report(std::move(report));
    return;
  }
  const ObjectId id{member.range.span, member.range.begin};
  if (member.run != nullptr) {
    member.run->broken = true;
    member.broken_at = std::max<Time>(now_, 1);
    redirect(id);
    return;
  }
  const bool said = member.told || member.report;
  if (!said) {
    MOBULA_MARK("worker: a member has not begun when its gang breaks");
    if (Piece* piece = piece_with(id)) erase_piece(*piece);
    tell_member(member, m.gang, MemberState::dropped);
  }
  erase_member(found);
  redirect(id);
}

void Worker::handle(RankId, const core::GangWaits& m) {
  const auto found = members_.find(m.gang);
  if (found == members_.end()) return;
  Member& member = found->second;
  member.gang_waits = m.waits;
  if (member.run != nullptr && member.broken_at == 0) set_gang_waits(*member.run, m.waits);
  lend_ended(member);
}

// Has a member lend its cpus, as if it waited, or take them back where it does not wait itself.
void Worker::set_gang_waits(Run& run, bool waits) {
  if (std::exchange(run.gang_waits, waits) == waits) return;
  if (waits) {
    give_up_place(run);
    in_store_ -= std::exchange(run.in_store, 0);
  }
  if (cpus_of(run) == 0) return;
  if (waits && !run.lends) lend_cpus(run);
  if (!waits && run.lends && run.waiting == 0) take_cpus_back(run, due_cpus(run));
}

// The others are told of a member that waits for long. And those who wait for a member whose gang is over wait no
// longer than the grace: its cpus go to others, as those of a task that waits; what else it holds it keeps, since it
// may be using it.
void Worker::check_members(Time now) {
  for (auto& [gang, member] : members_) {
    if (member.run == nullptr || member.stuck) continue;
    Run& run = *member.run;
    if (member.broken_at == 0) {
      if (run.waits_since == 0 || run.wait_is_told || now - run.waits_since < kGangWaitsAfter) continue;
      run.wait_is_told = true;
      transport_.send(kHeadRank, core::Waits{run.first_task(), true});
    } else if (now - member.broken_at >= settings_.gang_grace) {
      MOBULA_MARK("worker: a member does not come back");
      member.stuck = true;
      run.left_behind = true;
      set_gang_waits(run, true);
      count_cpus(run);
      settings_.give_way_inside();
      tell_member(member, gang, MemberState::stuck);
    }
  }
}

}  // namespace mobula::worker
