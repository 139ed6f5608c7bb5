// What tests ask of the head: whether all that it knew of is gone, and what the scheduler counts is there.
#include "head/head.hpp"

namespace mobula::head {

std::string Head::why_not_sums() const {
  std::vector<const sched::Piece*> pieces;
  std::vector<const sched::Holding*> held;
  for (const auto& [id, span] : spans_) {
    for (const auto& [begin, piece] : span.pieces) {
      if (piece->is_at_rank() && !piece->promised) pieces.push_back(piece.get());
    }
  }
  for (const auto& [id, actor] : actors_) {
    if (actor.holding.worker != detail::kNoRank) held.push_back(&actor.holding);
  }
  for (const auto& [member, holding] : stuck_) held.push_back(&holding);
  for (const auto& [number, holding] : overtime_) held.push_back(&holding);
  return scheduler_.why_not_sums(pieces, held);
}

std::string Head::what_is_left() const {
  std::string text;
  const auto name = [&text](std::size_t n, const char* what) {
    if (n != 0) text += std::to_string(n) + " " + what + ", ";
  };
  name(unfinished_, "unfinished tasks");
  // Of each rank the one in which its next single tasks will be may be known.
  std::map<RankId, std::size_t> spans;
  for (const auto& [id, span] : spans_) {
    const bool is_open = span.pieces.empty() && span.entries.empty() && !span.owner_gone && spans[id.owner()]++ == 0;
    name(is_open ? 0 : 1, "span");
  }
  name(entries_.size(), "entries");
  name(actors_.size(), "actors");
  name(names_.size(), "names");
  name(groups_.size() + waiting_groups_.size(), "placement groups");
  name(gangs_.size() + stuck_.size(), "gangs or stuck members");
  name(broken_.size(), "communicators of broken gangs");
  name(overtime_.size(), "tasks that go on past their time");
  name(cancels_.size() + kills_.size() + surveys_.size() + waits_.size(), "questions or waits of actors");
  name(lineage_.size() + lineage_bytes_ + late_.size(), "of lineage");
  name(to_free_.size() + to_tell_.size() + failing_.size() + to_place_ahead_.size(), "things to do in a step");
  name(queued_bytes_, "bytes of arguments");
  for (RankId rank = 0; rank < ranks_.size(); ++rank) {
    name(assigned_[rank].size(), "pieces at ranks");
    name(deferred_[rank].size(), "pieces that wait for a rank");
    name(owned_pieces_[rank], "pieces of spans");
  }
  return text + scheduler_.what_is_held();
}

}  // namespace mobula::head
