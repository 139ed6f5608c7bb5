#include "head/copies.hpp"

namespace mobula::head {

const Copy* Copies::find(RankId rank) const {
  const auto found = by_rank_.find(rank);
  return found != by_rank_.end() ? &found->second : nullptr;
}

const Copy* Copies::any_complete() const { return complete_.empty() ? nullptr : find(*complete_.begin()); }

const Copy* Copies::next(RankId rank) const {
  if (by_rank_.empty()) return nullptr;
  const auto found = by_rank_.lower_bound(rank);
  return found != by_rank_.end() ? &found->second : &by_rank_.begin()->second;
}

const Copy* Copies::on_node(std::uint32_t node, bool complete, RankId but, RankId nor) const {
  for (auto place = by_node_.lower_bound({node, 0}); place != by_node_.end() && place->first == node; ++place) {
    const Copy* copy = find(place->second);
    if (copy->rank != but && copy->rank != nor && (copy->here || !complete)) return copy;
  }
  return nullptr;
}

const Copy* Copies::soonest(RankId but) const {
  auto first = by_cost_.begin();
  if (first != by_cost_.end() && first->second == but) ++first;
  return first != by_cost_.end() ? find(first->second) : nullptr;
}

void Copies::add(const Copy& copy) {
  erase(copy.rank);
  by_rank_.emplace(copy.rank, copy);
  by_node_.emplace(copy.node, copy.rank);
  by_cost_.emplace(copy.cost(), copy.rank);
  if (copy.here) complete_.insert(copy.rank);
}

void Copies::erase(RankId rank) {
  const auto found = by_rank_.find(rank);
  if (found == by_rank_.end()) return;
  by_node_.erase({found->second.node, rank});
  by_cost_.erase({found->second.cost(), rank});
  complete_.erase(rank);
  by_rank_.erase(found);
}

void Copies::move(const Copy& copy, std::uint32_t cost_before) {
  if (copy.cost() != cost_before) {
    by_cost_.erase({cost_before, copy.rank});
    by_cost_.emplace(copy.cost(), copy.rank);
  }
  if (copy.here) complete_.insert(copy.rank);
}

}  // namespace mobula::head
