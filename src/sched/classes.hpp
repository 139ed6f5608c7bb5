// Tasks with equal demands and wishes form a class: what one of them found no room for, another need not look for.
//
// Amounts of memory are as many as there are tasks where each asks for what it needs. So one class has all that differ
// in memory alone, and its queues are ordered by it: a rank that has something back takes the largest that it has room
// for. Gangs, tasks with several demands, and those that no rank can run alone have a class for each amount: which
// ranks are right for them may depend on it.
//
// Of other things there is one for each amount. What a decision costs does not grow with their number (parked.hpp), but
// for gangs, and for those that no rank can run alone.
//
// A class is parked when it was tried and no rank had room. It is tried again when it is the first of those for which a
// rank has room that has something back, or when something is queued for which a rank that was looked at has enough. It
// lives as long as a task or an actor is of it; one that nothing is of goes when there are twice as many as are needed.
#pragma once

#include <compare>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/list.hpp"
#include "core/messages.hpp"
#include "mobula/placement_group.hpp"
#include "sched/bitset.hpp"
#include "sched/parked.hpp"

namespace mobula::sched {

struct Piece;
struct Class;
using ClassRef = std::shared_ptr<Class>;  // nullptr: plain tasks, one cpu anywhere
using Queue = core::List<Piece>;

// A queue of a class: the highest priority first, and of that what asks for most memory.
struct Level {
  int priority = 0;
  std::uint64_t memory = 0;  // beside that of the class's demand
  std::strong_ordering operator<=>(const Level& other) const {
    const auto by_priority = other.priority <=> priority;
    return by_priority != 0 ? by_priority : other.memory <=> memory;
  }
  bool operator==(const Level&) const = default;
};

struct Class {
  std::vector<core::WireDemand> demands;
  Placement::Kind placement = Placement::Kind::any;
  std::uint32_t place_index = 0;
  std::uint32_t gang = 0;   // ranks of each; 0: tasks
  std::string needs;        // a feature of the rank; empty: none
  bool ordinary = true;     // the demand is that of a plain task
  bool stays = false;       // what it holds is held after it has ended: by an actor
  bool by_memory = false;   // the pieces say how much memory they ask for
  bool wide = false;        // no rank has as many cpus, but some ranks of one node have together
  bool feasible = true;     // on the ranks that there are
  std::uint64_t order = 0;  // newer ones have more

  std::map<Level, Queue> queues;  // those of plain tasks may be empty
  std::size_t tasks = 0;          // in those

  // Of classes that may run anywhere: their ranks, and those of them that may have room, beside the ones of which there
  // were news after `seen`; unset when found not to.
  BitSet allowed;
  BitSet candidates;
  std::uint64_t seen = 0;
  bool parked = false;
  std::uint64_t most_left = 0;     // memory that a rank had which had too little for all that was queued
  std::uint64_t most_memory = 0;   // that any of its ranks offers; only where `by_memory`
  std::uint64_t least_memory = 0;  // that was queued since nothing was
  std::optional<Turn> turn;        // its key among those that are to be tried, or that are parked
  FamilyRef family;
  Spot spot;  // in that, while it is parked and something is queued
  // Ranks with something back for which it was the first that had room there. They look further when it is settled.
  std::vector<detail::RankId> woken_by;
  // Of an actor that found no room: this rank has the cpus once the tasks there have ended.
  detail::RankId counts_on = detail::kNoRank;

  bool is_together() const { return gang != 0 || wide; }
  bool is_anywhere() const { return placement != Placement::Kind::on_rank && placement != Placement::Kind::on_node; }
  Piece* first() const {
    for (const auto& [level, queue] : queues) {
      if (!queue.empty()) return queue.front();
    }
    return nullptr;
  }
};

}  // namespace mobula::sched
