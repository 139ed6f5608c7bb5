#include "exec/watch.hpp"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace mobula::exec {

using keeper::End;

namespace {

constexpr Time kLook = 5'000'000;             // ns between looks at the board
constexpr Time kPulse = 1'000'000'000;        // and between messages, where nothing happens, at most
constexpr Time kFresh = 3'000'000'000;        // after which a rank does not speak for its node, at the latest
constexpr Time kQuiet = 2'000'000'000;        // after which the head is told, at the latest
constexpr Time kDeaf = 1'000'000'000;         // without a look, after which what came meanwhile is still to be heard
constexpr Time kGraceOfHead = 2'000'000'000;  // that a rank waits longer for the head than the head for it

std::uint64_t pid_space() {
  struct stat info {};
  return stat("/proc/self/ns/pid", &info) == 0 ? info.st_ino : 0;
}

// A node whose first rank is silent is to be heard of, by the next one, before it counts as lost.
Time within(Time lost_after, int parts, Time most) {
  return lost_after == 0 ? most : std::min(most, lost_after / parts);
}

}  // namespace

Watch::Watch(std::shared_ptr<keeper::Board> board, std::vector<RankId> ranks, RankId mine, Time lost_after,
             bool has_keeper, Time now)
    : board_(std::move(board)),
      ranks_(std::move(ranks)),
      mine_(static_cast<std::size_t>(std::find(ranks_.begin(), ranks_.end(), mine) - ranks_.begin())),
      lost_after_(lost_after),
      pulse_(within(lost_after, 4, kPulse)),
      fresh_(within(lost_after, 3, kFresh)),
      quiet_(within(lost_after, 4, kQuiet)),
      began_(now),
      listens_since_(now) {
  if (!has_keeper) {
    place(mine_).pid_space.store(pid_space());
    place(mine_).pid.store(getpid());
  }
  beat(now);
  place(mine_).looked.store(now);
  for (std::size_t cell = keeper::Place::kRunning; cell-- != 0;) free_cells_.push_back(cell);
}

std::size_t Watch::began(const core::Range& tasks) {
  keeper::Place& mine = place(mine_);
  if (free_cells_.empty()) {
    mine.untold.fetch_add(1);
    return keeper::Place::kRunning;
  }
  const std::size_t cell = free_cells_.back();
  free_cells_.pop_back();
  keeper::Running& running = mine.running.at(cell);
  running.begin.store(tasks.begin, std::memory_order_relaxed);
  running.end.store(tasks.end, std::memory_order_relaxed);
  running.span.store(tasks.span.value, std::memory_order_release);
  return cell;
}

void Watch::ended(std::size_t cell) {
  if (cell == keeper::Place::kRunning) {
    place(mine_).untold.fetch_sub(1);
    return;
  }
  place(mine_).running.at(cell).span.store(0, std::memory_order_relaxed);
  free_cells_.push_back(cell);
}

bool Watch::lives(std::size_t i) const {
  return place(i).end.load() == static_cast<std::uint32_t>(End::none) && place(i).lost.load() == 0;
}

// A rank without a keeper: whether its process is still there.
void Watch::find_ended(std::size_t i) {
  const int pid = place(i).pid.load();
  if (pid == 0 || !lives(i) || place(i).pid_space.load() != pid_space()) return;
  if (kill(pid, 0) != 0 && errno == ESRCH) place(i).end.store(static_cast<std::uint32_t>(End::died));
}

void Watch::beat(Time now) {
  place(mine_).beat.store(now);
  if (ranks_[mine_] == detail::kHeadRank) head_answered(now);
}

std::optional<core::Pulse> Watch::look(Time now) {
  if (now - last_look_ < kLook) return std::nullopt;
  if (now - last_look_ > kDeaf) listens_since_.store(now);
  last_look_ = now;
  beat(now);
  place(mine_).looked.store(now);
  for (std::size_t i = 0; i < mine_; ++i) {
    if (lives(i) && now - place(i).looked.load() < fresh_) return std::nullopt;  // it speaks
  }
  core::Pulse pulse;
  for (std::size_t i = 0; i < ranks_.size(); ++i) {
    if (i == mine_ || told_.contains(i)) continue;
    find_ended(i);
    if (place(i).end.load() == static_cast<std::uint32_t>(End::died)) {
      told_.insert(i);
      if (ranks_[i] == detail::kHeadRank) continue;
      const int status = place(i).status.load();
      core::EndedRank ended{ranks_[i], status != 0 ? keeper::describe_status(status) : "its process is gone", {}, {}};
      ended.tells = place(i).untold.load() == 0;
      for (const keeper::Running& running : place(i).running) {
        const detail::SpanId span{running.span.load(std::memory_order_acquire)};
        if (span.value != 0) ended.begun.push_back({span, running.begin.load(), running.end.load()});
      }
      pulse.ended.push_back(std::move(ended));
    } else if (const Time quiet = now - std::max(place(i).beat.load(), began_); lives(i) && quiet > quiet_) {
      pulse.quiet.push_back({ranks_[i], quiet});
    }
  }
  if (pulse.ended.empty() && now - last_pulse_ < pulse_) return std::nullopt;
  last_pulse_ = now;
  return pulse;
}

void Watch::declared_lost(RankId rank) {
  const auto at = std::find(ranks_.begin(), ranks_.end(), rank);
  if (at != ranks_.end()) place(static_cast<std::size_t>(at - ranks_.begin())).lost.store(1);
}

std::optional<std::string> Watch::must_end(Time now) const {
  if (place(mine_).lost.load() != 0) return "the head has declared this rank lost";
  if (ranks_[mine_] == detail::kHeadRank) return std::nullopt;
  const auto head = std::find(ranks_.begin(), ranks_.end(), detail::kHeadRank);
  if (head != ranks_.end()) {
    const keeper::Place& of = place(static_cast<std::size_t>(head - ranks_.begin()));
    if (of.end.load() == static_cast<std::uint32_t>(End::died)) {
      return keeper::describe_end_of_head(of.status.load());
    }
  }
  const Time silent = now - std::max<Time>(board_->head_heard().load(), listens_since_.load());
  if (lost_after_ == 0 || silent < lost_after_ + kGraceOfHead) return std::nullopt;
  return "nothing was heard of the head for " + std::to_string(silent / 1'000'000'000) + " s";
}

}  // namespace mobula::exec
