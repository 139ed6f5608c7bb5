// The reductions of this rank that run: `reduce` has given a handle to their result, which the last of the tasks that
// are submitted here will make.
//
// What is computed depends on the number n of values alone. The value of a node of the aligned binary tree over the
// positions 0 to n - 1 is F(left, right), or that of its only child: F is applied to neighbours, then to the results of
// neighbours, and what is left over at the end of a row goes up as it is. A task that folds an aligned range of 2^k
// positions, or the rest of one, finds the same value as 2^k - 1 tasks of two would. So how many values go into one
// task is free: it depends on how large they are and where they lie.
//
// The rows of the tree at which tasks end are *levels*. A level's values are cut into *blocks*, aligned ranges of at
// most kMostInputs; each block gives one value of the next level, and that of the last level is the result. A block is
// folded once all its values are ready, as far as this rank is told of that (values of other ranks are dependencies):
//
//   values here, small    are the argument, as they lie here, of one task for the block; tasks of blocks side by side
//                         are submitted as one stretch
//   large ones, and Refs  are dependencies of tasks of two where their size is not fixed, each of which goes where its
//   of other ranks        inputs lie
//
// Invariants: a level's block is folded at most once, when `missing` is 0 for it. What has been submitted and has not
// come back is at most kWindow bytes and one block more for each reduction. A reduction is in the table until its last
// task is submitted, it has failed, or nobody wants its result.
//
// Knows the object table, and of the rank what Submitter says. Is told of values by the table, and notes only what
// there is to do; `step` does it. Must never wait, look at a clock, or fetch a value.
#pragma once

#include <deque>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/messages.hpp"
#include "mobula/detail/task.hpp"
#include "store/objects.hpp"

namespace mobula::worker {

// Values in the order of their positions: all elements of a batch, one by one too where they are to be let go of as
// they are folded; or any objects.
struct FoldValues {
  detail::BatchHandle batch;
  std::vector<detail::Handle> elements;

  std::uint32_t count() const {
    return batch.record() != nullptr ? batch.count() : static_cast<std::uint32_t>(elements.size());
  }
};

// Tasks to be submitted, one for each object in `results`.
struct FoldTasks {
  core::Range results;
  std::uint64_t dep_mask = 0;
  std::vector<detail::Handle> deps;
  detail::Buffer args;
  std::vector<std::uint32_t> ends;  // where the arguments of each task end
};

// What all tasks of a reduction share.
struct FoldKind {
  const detail::FunctionInfo* function = nullptr;  // as made by detail::Fold
  std::shared_ptr<const core::WireOptions> options;
  detail::Handle near;   // what the options name
  bool in_task = false;  // a task of this rank has asked for it
};

class Folds {
 public:
  static constexpr std::uint32_t kMostInputs = 64;        // of a task: as many may be dependencies
  static constexpr std::size_t kMostBytes = 256 << 10;    // of values that are one task's argument, if more than two
  static constexpr std::size_t kStretchBytes = 32 << 10;  // of arguments, after which tasks are submitted
  static constexpr std::size_t kWindow = 4 << 20;         // bytes under way, for each reduction
  static constexpr std::size_t kTaskBytes = 256;          // what a task costs besides its arguments

  // The rank's part. Neither may call Folds, but for telling it of values through the table.
  class Submitter {
   public:
    virtual void submit(const FoldKind& kind, FoldTasks tasks) = 0;
    // The object will not be made. `promised`: the head waits for it.
    virtual void fail(detail::ObjectId id, bool promised, const core::ErrorPtr& error) = 0;

   protected:
    ~Submitter() = default;
  };

  Folds(store::ObjectTable& objects, Submitter& submitter);
  ~Folds();
  Folds(const Folds&) = delete;
  Folds& operator=(const Folds&) = delete;

  // The result's handle. Submits nothing before `step`. REQUIRES: there are values, and no handle is empty.
  detail::Handle start(FoldKind kind, FoldValues values);

  bool has_work() const { return !work_.empty() || objects_.has_unwanted(); }
  // Submits what can be, and ends what has failed or is not wanted.
  void step();

  // The object is the result of a reduction here whose last task has not been submitted.
  bool has(detail::ObjectId id) const { return reductions_.contains(id); }
  // The head is told that the object will be made. Its function; nullptr: it is none of these, or the head knows.
  const detail::FunctionInfo* promise(detail::ObjectId id);
  // True if the reduction was here and is no more; its result is made by nobody, and has no error either.
  bool cancel(detail::ObjectId id);
  // Where it stands, for people; none if it is not here.
  std::optional<std::string> explain(detail::ObjectId id) const;
  std::size_t size() const { return reductions_.size(); }

  // How many bits of the position each level takes off, from the first on. They sum up to those that n positions need.
  static std::vector<std::uint32_t> plan(std::uint32_t n, std::uint32_t value_size);

 private:
  class Level;
  struct Reduction;
  // A value that goes into a task: its bytes, or the object as a dependency.
  struct Input {
    detail::ByteView bytes;
    detail::Handle object;
    bool is_dependency() const { return static_cast<bool>(object); }
  };

  void note(Reduction& reduction);
  void advance(Reduction& reduction);
  void fold(Reduction& reduction, std::size_t level);
  void fold_apart(Reduction& reduction, std::span<Input> inputs, const core::Range& result, std::size_t& cost);
  void submit(Reduction& reduction, FoldTasks tasks);
  Input input_at(Reduction& reduction, const Level& level, std::uint32_t position);
  void end(detail::ObjectId id);

  store::ObjectTable& objects_;
  Submitter& submitter_;
  std::unordered_map<detail::ObjectId, std::unique_ptr<Reduction>> reductions_;  // by result
  std::vector<detail::ObjectId> work_;
};

}  // namespace mobula::worker
