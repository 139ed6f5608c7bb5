// The head's side of gangs.
#include <algorithm>

#include "core/mark.hpp"
#include "head/head.hpp"

namespace mobula::head {

using core::ErrorKind;
using core::ErrorRecord;
using core::make_error;
using core::MemberState;
using detail::kNoRank;

namespace {

constexpr std::size_t kSpares = 256;  // communicators that are kept

}  // namespace

void Head::start_gang(Piece& piece, std::span<const std::pair<RankId, std::uint32_t>> members) {
  const std::uint64_t id = next_token_++;
  Gang& gang = gangs_[id];
  gang.span = piece.range.span;
  gang.base = piece.range.begin;
  for (const auto& [rank, demand] : members) gang.members.push_back(rank);
  gang.states.assign(members.size(), MemberState::runs);
  bool fresh = false;
  gang.communicator = take_communicator(gang.members, fresh);
  core::GangPart part{id, gang.communicator, 0, {}};
  if (fresh) {
    for (const RankId rank : gang.members) {
      if (part.members.empty() || part.members.back() != rank) part.members.insert(part.members.end(), {rank, rank});
      part.members.back() = rank + 1;
    }
  }
  Piece* next = &piece;
  for (const auto& [rank, demand] : members) {
    Piece& member = *next;
    if (member.size() > 1) next = &split(member, member.range.begin + 1);
    member.gang = id;
    assign(member, rank, demand, inputs_of(member), part);
    ++part.place;
  }
}

// A communicator of these ranks that no gang uses.
std::uint64_t Head::take_communicator(const std::vector<RankId>& members, bool& fresh) {
  const auto spare =
      std::find_if(spares_.begin(), spares_.end(), [&](const Communicator& s) { return s.members == members; });
  fresh = spare == spares_.end();
  if (fresh) return next_token_++;
  MOBULA_MARK("head: a communicator is used again");
  const std::uint64_t communicator = spare->id;
  spares_.erase(spare);
  return communicator;
}

void Head::drop_communicator(std::uint64_t communicator, std::span<const RankId> members, bool broken) {
  for (const RankId rank : members) {
    if (ranks_[rank].alive) transport_.send(rank, core::DropCommunicator{communicator, broken});
  }
}

// It goes once the gang is over, and none of its members is stuck.
void Head::see_to_communicator(std::uint64_t id) {
  const auto broken = broken_.find(id);
  const auto stuck = stuck_.lower_bound({id, 0});
  if (broken == broken_.end() || (stuck != stuck_.end() && stuck->first.first == id)) return;
  drop_communicator(broken->second.id, broken->second.members, true);
  broken_.erase(broken);
}

void Head::handle(RankId from, const core::Member& m) {
  ++messages_;
  if (m.state == MemberState::freed) {
    const auto stuck = stuck_.find({m.gang, m.place});
    if (stuck == stuck_.end()) return;
    MOBULA_MARK("head: a stuck member has come back");
    scheduler_.left(stuck->second);
    stuck_.erase(stuck);
    see_to_communicator(m.gang);
    return;
  }
  const auto found = gangs_.find(m.gang);
  if (found == gangs_.end()) return;
  Gang& gang = found->second;
  if (m.place >= gang.members.size() || gang.members[m.place] != from) {
    detail::throw_damaged("a rank speaks for a member of a gang that it is not");
  }
  // Each says once how it stands; that it was dropped or is stuck, only of a gang that it knows is broken. The time of
  // one that is stuck may be up as well.
  MemberState& state = gang.states[m.place];
  if (state == MemberState::stuck && m.state == MemberState::timed_out) return;
  const bool is_of_broken = m.state == MemberState::dropped || m.state == MemberState::stuck;
  if (state != MemberState::runs || m.state == MemberState::runs || (is_of_broken && !gang.broken)) {
    detail::throw_damaged("a member of a gang does not stand so");
  }
  if (m.state == MemberState::ended && !gang.broken) {
    state = MemberState::ended;
    if (++gang.ended < gang.members.size()) return;
    for (const RankId rank : gang.members) transport_.send(rank, core::GangOver{m.gang, true});
    spares_.push_front({std::move(gang.members), gang.communicator});
    if (spares_.size() > kSpares) {
      drop_communicator(spares_.back().id, spares_.back().members);
      spares_.pop_back();
    }
    gangs_.erase(found);
    return;
  }
  if (m.state == MemberState::failed || m.state == MemberState::timed_out) {
    if (gang.error == nullptr && !gang.again) {
      const ObjectId id{gang.span, gang.base + m.place};
      const Piece& piece = *piece_with(id);
      const auto& options = *piece.work->options;
      gang.error = std::make_shared<ErrorRecord>(m.error);
      gang.again = options.retry_exceptions && m.error.failure.id == core::to_string(id) &&
                   static_cast<int>(piece.attempt) <= options.retries;
    }
    if (!gang.broken) break_gang(m.gang, gang);
    if (m.state == MemberState::timed_out) MOBULA_MARK("head: a member has timed out");
    if (m.state == MemberState::timed_out) return;  // it says more when it comes back
  }
  settle_member(m.gang, m.place, m.state);
  settle();
}

// Where the first one waits, or none does any more, all are told.
void Head::member_waits(const Piece& piece, bool waits) {
  const auto found = gangs_.find(piece.gang);
  if (found == gangs_.end()) return;  // it has ended well
  Gang& gang = found->second;
  const std::uint32_t place = piece.range.begin - gang.base;
  if (gang.broken || !(waits ? gang.waiting.insert(place).second : gang.waiting.erase(place) != 0)) return;
  if (gang.waiting.size() != (waits ? 1U : 0U)) return;
  if (waits) MOBULA_MARK("head: a gang waits, since a member does");
  for (const RankId rank : gang.members) {
    if (ranks_[rank].alive) transport_.send(rank, core::GangWaits{piece.gang, waits});
  }
}

// The gang will not end well: tells all members. Those that had ended have said what they had to say.
void Head::break_gang(std::uint64_t id, Gang& gang) {
  gang.broken = true;
  std::vector<std::uint32_t> ended;
  for (std::uint32_t place = 0; place < gang.members.size(); ++place) {
    if (ranks_[gang.members[place]].alive) transport_.send(gang.members[place], core::GangOver{id, false});
    if (gang.states[place] == MemberState::ended) ended.push_back(place);
  }
  for (const std::uint32_t place : ended) settle_member(id, place, MemberState::ended);  // not the last one
}

// The member of a broken gang is rid of its task, or stuck in it.
void Head::settle_member(std::uint64_t id, std::uint32_t place, MemberState state) {
  Gang& gang = gangs_.at(id);
  const ObjectId task{gang.span, gang.base + place};
  Piece& piece = *piece_with(task);
  if (state == MemberState::stuck) {
    MOBULA_MARK("head: a member is stuck");
    const RankId rank = piece.worker;
    stuck_.emplace(std::pair(id, place), piece);
    scheduler_.stays(piece);
    unlist_assigned(piece);
    piece.become(sched::State::waiting);
    piece.worker = kNoRank;
    news_.push_back("task " + task_name(*piece.work) + " is still blocked on rank " + std::to_string(rank) + " on " +
                    ranks_[rank].host +
                    " after its gang broke, probably in MPI, where it can't be reached: its cpus go to others, while "
                    "it keeps its memory, its GPUs and a thread that yields to others until it comes back");
  } else {
    unassign(piece);
  }
  piece.missing = 1;  // the end of the gang
  gang.states[place] = state;
  if (++gang.settled == gang.members.size()) close_gang(id);
}

// The rank of a member is lost.
void Head::lose_member(Piece& piece) {
  const std::uint64_t id = piece.gang;
  Gang& gang = gangs_.at(id);
  const std::uint32_t place = piece.range.begin - gang.base;
  const int retries = piece.work->options->retries;
  if (gang.error == nullptr) {
    const RankId lost = gang.members[place];
    gang.again = static_cast<int>(piece.attempt) <= retries;
    gang.error = make_error(ErrorKind::worker_lost,
                            lost_text(lost) + " while it ran a member of the gang, and the gang's " +
                                std::to_string(retries) + " retries are used up",
                            task_name(*piece.work), {piece.range.span, piece.range.begin}, lost,
                            static_cast<int>(piece.attempt));
  }
  // One that had ended, of a gang that broke, is settled; this one is not.
  if (gang.states[place] == MemberState::ended) MOBULA_MARK("head: a member is lost that had ended");
  if (gang.states[place] == MemberState::ended) gang.states[place] = MemberState::runs;
  if (!gang.broken) break_gang(id, gang);
  settle_member(id, place, MemberState::dropped);
}

// All members of a broken gang have said how they stand.
void Head::close_gang(std::uint64_t id) {
  const auto node = gangs_.extract(id);
  Gang& gang = node.mapped();
  const auto k = static_cast<std::uint32_t>(gang.members.size());
  broken_.emplace(id, Communicator{std::move(gang.members), gang.communicator});
  see_to_communicator(id);
  for (std::uint32_t i = 1; i < k; ++i) erase_piece(*piece_with({gang.span, gang.base + i}));
  Piece& whole = *piece_with({gang.span, gang.base});
  whole.range.end = gang.base + k;
  whole.missing = 0;
  whole.gang = 0;
  if (gang.again) {
    MOBULA_MARK("head: a gang runs again");
    ++whole.attempt;
    retried_ += k;
    set_up(whole);
  } else {
    MOBULA_MARK("head: a gang fails as a whole");
    fail(whole, gang.error);
  }
}

// After the scheduler knows that the rank is lost.
void Head::gangs_lost(RankId lost) {
  for (auto stuck = stuck_.begin(); stuck != stuck_.end();) {
    if (stuck->second.worker != lost) {
      ++stuck;
      continue;
    }
    scheduler_.left(stuck->second);  // what it had of its node
    const std::uint64_t gang = stuck->first.first;
    stuck = stuck_.erase(stuck);
    see_to_communicator(gang);
  }
  for (auto spare = spares_.begin(); spare != spares_.end();) {
    const bool gone = std::binary_search(spare->members.begin(), spare->members.end(), lost);
    if (gone) drop_communicator(spare->id, spare->members);
    spare = gone ? spares_.erase(spare) : std::next(spare);
  }
}

}  // namespace mobula::head
