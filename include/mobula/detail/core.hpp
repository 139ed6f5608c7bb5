// The type-erased core that the public templates call. Callable from the driver and from any task of this process,
// on any thread, while `run` is going on; otherwise these throw Error.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "mobula/config.hpp"
#include "mobula/detail/task.hpp"
#include "mobula/options.hpp"

namespace mobula::detail {

// A counted reference to all elements of a span.
class BatchHandle {
 public:
  BatchHandle() = default;
  BatchHandle(Record* record, std::uint32_t count) : record_(record), count_(count) {}  // takes over one count
  BatchHandle(const BatchHandle& other) noexcept;
  BatchHandle(BatchHandle&& other) noexcept
      : record_(std::exchange(other.record_, nullptr)), count_(std::exchange(other.count_, 0)) {}
  BatchHandle& operator=(BatchHandle other) noexcept {
    std::swap(record_, other.record_);
    std::swap(count_, other.count_);
    return *this;
  }
  ~BatchHandle();

  Record* record() const { return record_; }
  std::uint32_t count() const { return count_; }
  Handle element(std::uint32_t index) const;
  bool operator==(const BatchHandle&) const = default;

 private:
  Record* record_ = nullptr;
  std::uint32_t count_ = 0;
};

// The arguments of one task while they are encoded. Taken from a pool of the thread.
class Draft {
 public:
  Draft();
  ~Draft();
  Draft(const Draft&) = delete;
  Draft& operator=(const Draft&) = delete;

  struct State {
    Encoder args;
    std::uint64_t dep_mask = 0;
    std::vector<Handle> deps;
  };
  State& operator*() { return *state_; }
  State* operator->() { return state_; }

 private:
  State* state_;
};

std::size_t inline_limit();

// Adds argument i as a value; a large one is put once and becomes a dependency.
template <class T>
void add_value(Draft::State& draft, std::size_t i, const T& value);
[[noreturn]] void throw_empty_argument();
inline void add_dep(Draft::State& draft, std::size_t i, const Handle& handle) {
  if (!handle) throw_empty_argument();
  draft.dep_mask |= std::uint64_t{1} << i;
  draft.deps.push_back(handle);
}

// Submits one task. `options` nullptr: the default ones. Throws Infeasible.
Handle submit(const FunctionInfo& function, const TaskOptions* options, Draft::State& draft);

// Submits the tasks of one batch, one item after the other; waits where there is no room.
class BatchWriter {
 public:
  BatchWriter(const FunctionInfo& function, const TaskOptions* options);
  ~BatchWriter();
  BatchWriter(const BatchWriter&) = delete;
  BatchWriter& operator=(const BatchWriter&) = delete;

  // Dependencies that every item shares: set before the first item.
  void share(std::size_t i, Handle handle);
  // The encoder for the arguments of the next item that are no dependencies.
  Draft::State& item() { return draft_; }
  // Closes the item.
  void next() {
    ++count_;
    const bool alone = draft_.dep_mask != 0 || !draft_.args.refs.empty();
    if (!alone) alone_from_ = draft_.args.buffer.size();
    if (variable_) ends_.push_back(static_cast<std::uint32_t>(draft_.args.buffer.size()));
    if (draft_.args.buffer.size() >= kBlock || count_ == kItems || alone) flush();
  }
  BatchHandle finish();

 private:
  static constexpr std::size_t kBlock = 64 << 10;
  static constexpr std::uint32_t kItems = 1 << 16;
  void flush();

  const FunctionInfo& function_;
  const TaskOptions* options_;
  bool variable_;
  std::uint64_t shared_mask_ = 0;
  std::vector<Handle> shared_;
  Draft::State draft_;
  std::vector<std::uint32_t> ends_;
  std::uint32_t count_ = 0;
  std::uint32_t total_ = 0;
  std::size_t alone_from_ = 0;  // where the arguments of the item in hand begin
  BatchHandle batch_;
};

// Folds the values by tasks of `fold`, a Fold's (task.hpp); the result's handle. Returns at once. Of a batch, or of any
// objects; at least two. Throws Infeasible, std::invalid_argument.
Handle reduce(const FunctionInfo& fold, const BatchHandle& batch, const TaskOptions& options);
Handle reduce(const FunctionInfo& fold, std::vector<Handle> values, const TaskOptions& options);

// Makes an actor, or finds one (ActorOptions::get_if_exists). `options` nullptr: the default ones. Throws Infeasible;
// Error if the name is taken.
ActorBase create_actor(const FunctionInfo& constructor, const ActorOptions* options, Draft::State& draft);
// Throws NoSuchActor.
ActorBase find_actor(const std::string& name, const FunctionInfo& klass);
// Throws Backpressure.
Handle call(const ActorBase& actor, const FunctionInfo& method, Draft::State& draft);
void kill(const Handle& actor);

// Puts an encoded value into this rank's memory. Throws StoreFull.
Handle put(Encoder&& value);

// The bytes of a value, which live as long as a handle to the object and `keep` do.
struct Value {
  ByteView bytes;
  std::shared_ptr<const void> keep;
};
// Waits for the value. Throws the task's error, TimedOut, ObjectLost.
Value await(const Handle& handle, Duration timeout = {});
// Asks for all values that are not here, so that they come side by side.
void request_all(std::span<const Handle> handles);
void await_all(const BatchHandle& batch);
// The results of a complete batch of fixed size, back to back.
void copy_packed(const BatchHandle& batch, std::uint32_t size, std::byte* to);

bool cancel(const Handle& handle);
std::string explain(const Handle& handle);

// Objects in the order in which they complete.
class Completions {
 public:
  Completions();
  ~Completions();
  Completions(const Completions&) = delete;
  Completions& operator=(const Completions&) = delete;

  void add(const Handle& handle, std::size_t position);
  // The next position; none when the time is over or nothing is left.
  std::optional<std::size_t> next(Duration timeout = {});

  struct State;

 private:
  std::unique_ptr<State> state_;
};

// Sorts positions into ready and pending once `count` are ready or the time is over.
void wait_for(std::span<const Handle> handles, std::size_t count, Duration timeout, std::vector<std::size_t>& ready,
              std::vector<std::size_t>& pending);

int run(int& argc, char** argv, const std::function<int()>& driver, const Config& config);

template <class T>
void add_value(Draft::State& draft, std::size_t i, const T& value) {
  if (const std::size_t size = encoded_size(value); size > inline_limit()) {
    Encoder out;
    out.buffer = room_for(size);
    encode(out, value);
    add_dep(draft, i, put(std::move(out)));
    return;
  }
  const std::size_t from = draft.args.buffer.size();
  const std::size_t refs = draft.args.refs.size();
  encode(draft.args, value);
  if constexpr (fixed_size<T> == kVariable) {
    const std::size_t size = draft.args.buffer.size() - from;
    if (size > inline_limit()) {
      Encoder out;
      out.bytes(draft.args.buffer.data() + from, size);
      out.refs.assign(draft.args.refs.begin() + static_cast<std::ptrdiff_t>(refs), draft.args.refs.end());
      draft.args.buffer.shrink(from);
      draft.args.refs.resize(refs);
      add_dep(draft, i, put(std::move(out)));
    }
  }
}

}  // namespace mobula::detail
