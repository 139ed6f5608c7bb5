// What the ranks of a node and their keepers tell each other, in memory that they share: a place for each rank, with
// signs of life and, at last, how it ended. Everything is a number that one side writes and others read.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "core/shared_memory.hpp"

namespace mobula::keeper {

// Of a place. Written by the rank itself, and by its keeper once the process has ended.
enum class End : std::uint32_t { none, left, died };

// A stretch of tasks that a thread of the rank is at.
struct Running {
  std::atomic<std::uint64_t> span{0};  // 0: none
  std::atomic<std::uint32_t> begin{0};
  std::atomic<std::uint32_t> end{0};
};

struct alignas(64) Place {
  static constexpr std::size_t kRunning = 64;
  std::atomic<std::int64_t> beat{0};    // ns, CLOCK_MONOTONIC: when the rank last gave a sign of life
  std::atomic<std::int64_t> looked{0};  // the same: when it last could say something, as a rank in a long step can't
  std::atomic<std::uint32_t> end{0};    // an End
  std::atomic<std::int32_t> status{0};  // as waitpid tells, if it died under a keeper
  std::atomic<std::uint32_t> lost{0};   // was declared lost: it is to end itself
  // Of a rank without a keeper, which others look after: its process, and in which name space that number counts.
  std::atomic<std::int32_t> pid{0};
  std::atomic<std::uint64_t> pid_space{0};
  // What the rank is at. Threads beyond these have not told.
  std::atomic<std::uint32_t> untold{0};
  std::array<Running, kRunning> running{};
};

class Board {
 public:
  static std::size_t bytes(std::uint32_t places) { return sizeof(Shared) + places * sizeof(Place); }
  // Over memory of that many bytes, which are 0 at first; ranks and keepers each have a board over the same.
  explicit Board(std::unique_ptr<core::SharedMemory> memory) : memory_(std::move(memory)) {}

  std::uint32_t places() const {
    return static_cast<std::uint32_t>((memory_->memory().size() - sizeof(Shared)) / sizeof(Place));
  }
  Place& place(std::uint32_t i) { return reinterpret_cast<Place*>(&shared() + 1)[i]; }
  // ns, CLOCK_MONOTONIC: when the head was last heard of on this node.
  std::atomic<std::int64_t>& head_heard() { return shared().head_heard; }
  // The job ends: keepers whose ranks died may go.
  std::atomic<std::uint32_t>& over() const { return shared().over; }
  int file() const { return memory_->file(); }

 private:
  struct alignas(64) Shared {
    std::atomic<std::uint32_t> over{0};
    std::atomic<std::int64_t> head_heard{0};
  };
  Shared& shared() const { return *reinterpret_cast<Shared*>(memory_->memory().data()); }

  std::unique_ptr<core::SharedMemory> memory_;
};

// For people: "killed by signal 9 (Killed)".
std::string describe_status(int status);
// The same of the head, as a sentence: "rank 0, the head, was killed by signal 9 (Killed)". 0: nobody knows how it
// ended.
std::string describe_end_of_head(int status);

}  // namespace mobula::keeper
