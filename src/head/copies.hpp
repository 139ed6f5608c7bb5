// The copies of one large value at ranks of other nodes than the one it was made on, those on their way among them.
// Whatever is asked of them costs the logarithm of their number: a value that all tasks read may have one on each of
// thousands of nodes.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <utility>

#include "mobula/detail/ids.hpp"

namespace mobula::head {

using detail::RankId;

struct Copy {
  RankId rank = detail::kNoRank;
  std::uint32_t node = 0;  // of that rank
  bool here = false;       // complete; otherwise the rank was told where to fetch it
  RankId from = detail::kNoRank;
  std::uint32_t depth = 0;    // transfers, one after the other, until it is complete
  std::uint32_t serving = 0;  // transfers that start there
  std::uint32_t misses = 0;   // times that others asked there before it had begun

  // Transfers, one after the other, after which another one from there can begin.
  std::uint32_t cost() const { return (here ? 0 : depth) + serving; }
};

class Copies {
 public:
  bool empty() const { return by_rank_.empty(); }
  std::size_t size() const { return by_rank_.size(); }
  auto begin() const { return by_rank_.begin(); }
  auto end() const { return by_rank_.end(); }

  const Copy* find(RankId rank) const;
  const Copy* any_complete() const;
  // The first at that rank or behind it, round the end; for walking over a few of many.
  const Copy* next(RankId rank) const;
  // One that another rank of the node has; `complete`: not one on its way. Neither `but` nor `nor` is taken.
  const Copy* on_node(std::uint32_t node, bool complete, RankId but, RankId nor) const;
  // The one from which a transfer can begin soonest.
  const Copy* soonest(RankId but) const;

  void add(const Copy& copy);  // in place of one at the same rank
  void erase(RankId rank);     // if there is one
  // Calls change(copy) with the copy at the rank, if there is one. It may change all but rank and node.
  template <class F>
  void change(RankId rank, F&& change) {
    const auto found = by_rank_.find(rank);
    if (found == by_rank_.end()) return;
    const std::uint32_t before = found->second.cost();
    change(found->second);
    move(found->second, before);
  }

 private:
  void move(const Copy& copy, std::uint32_t cost_before);

  std::map<RankId, Copy> by_rank_;
  std::set<std::pair<std::uint32_t, RankId>> by_node_;
  std::set<std::pair<std::uint32_t, RankId>> by_cost_;
  std::set<RankId> complete_;
};

}  // namespace mobula::head
