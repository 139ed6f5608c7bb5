// What this rank has submitted and does not keep: the head holds it, or ranks to which the head gave it. As the owner
// of its results the rank hears of each end, of some twice, where a task has run again. So what is on its way is known
// here, and submissions can wait for its end without a word of the head's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>

#include "core/messages.hpp"

namespace mobula::worker {

class Sent {
 public:
  // `bytes`: of its tasks' arguments. REQUIRES: none of the range is in it.
  void add(const core::Range& range, std::size_t bytes);
  // Takes out what of the range is in it.
  void ended(const core::Range& range);

  std::uint64_t tasks() const { return tasks_; }
  std::size_t bytes() const { return bytes_; }  // that they take at the head, arguments and books
  std::uint64_t ends() const { return ends_; }  // tasks that have ended, so far

 private:
  struct Stretch {
    std::uint32_t end = 0;
    std::size_t weight = 0;  // bytes of each task
  };
  std::map<detail::ObjectId, Stretch> stretches_;  // by their first task; no two of them overlap
  std::uint64_t tasks_ = 0;
  std::size_t bytes_ = 0;
  std::uint64_t ends_ = 0;
};

}  // namespace mobula::worker
