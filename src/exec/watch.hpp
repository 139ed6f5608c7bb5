// Watches, by the node's board, over the other ranks of the node and over the head. Of the ranks that look about the
// first one speaks for the node: it tells the head of those that ended or are quiet, and hears from it; the others read
// on the board when that was. A rank whose step takes long does not look about, but gives signs of life. Called under
// the rank's lock, but for `beat` and `must_end`; reads no clock.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/messages.hpp"
#include "core/trace.hpp"
#include "keeper/board.hpp"

namespace mobula::exec {

using core::Time;
using detail::RankId;

class Watch {
 public:
  // `ranks`: those of the node, by place. `lost_after`: ns without a sign of life.
  Watch(std::shared_ptr<keeper::Board> board, std::vector<RankId> ranks, RankId mine, Time lost_after, bool has_keeper,
        Time now);

  // Gives a sign of life. Without the rank's lock, from any thread.
  void beat(Time now);
  // Gives one as well. What is to be told the head now, if anything.
  std::optional<core::Pulse> look(Time now);
  void head_answered(Time now) { board_->head_heard().store(now); }
  void declared_lost(RankId rank);
  // Why this rank must end, if it must.
  std::optional<std::string> must_end(Time now) const;
  // A thread is at these tasks from here on, until `ended` with what this gave.
  std::size_t began(const core::Range& tasks);
  void ended(std::size_t cell);

 private:
  keeper::Place& place(std::size_t i) const { return board_->place(static_cast<std::uint32_t>(i)); }
  bool lives(std::size_t i) const;
  void find_ended(std::size_t i);

  std::shared_ptr<keeper::Board> board_;
  std::vector<RankId> ranks_;
  std::size_t mine_;
  Time lost_after_;
  Time pulse_;
  Time fresh_;
  Time quiet_;
  Time last_look_ = 0;
  Time last_pulse_ = 0;
  Time began_;
  std::atomic<Time> listens_since_;  // when it last came back to listening to the head
  std::set<std::size_t> told_;       // places
  std::vector<std::size_t> free_cells_;
};

}  // namespace mobula::exec
