// Handles to objects: the untyped half of Ref and Batch.
#pragma once

#include <cstdint>
#include <utility>

#include "mobula/detail/ids.hpp"

namespace mobula::detail {

class Record;  // what this rank knows of a span of objects

// One counted reference to one object. Copies may be made and dropped by any thread.
class Handle {
 public:
  Handle() = default;
  // Takes over one count that the caller has already added.
  Handle(Record* record, std::uint32_t index) noexcept : record_(record), index_(index) {}
  Handle(const Handle& other) noexcept : record_(other.record_), index_(other.index_) {
    if (record_ != nullptr) acquire();
  }
  Handle(Handle&& other) noexcept : record_(std::exchange(other.record_, nullptr)), index_(other.index_) {}
  Handle& operator=(Handle other) noexcept {
    std::swap(record_, other.record_);
    std::swap(index_, other.index_);
    return *this;
  }
  ~Handle() {
    if (record_ != nullptr) release();
  }

  explicit operator bool() const { return record_ != nullptr; }
  Record* record() const { return record_; }
  std::uint32_t index() const { return index_; }
  ObjectId id() const;
  // A rank has at most one record for a span, so equal handles are equal objects.
  bool operator==(const Handle& other) const { return record_ == other.record_ && index_ == other.index_; }
  std::size_t hash() const noexcept { return std::hash<const void*>{}(record_) ^ (index_ * 0x9E37'79B9'7F4A'7C15ULL); }

 private:
  void acquire() const noexcept;
  void release() const noexcept;

  Record* record_ = nullptr;
  std::uint32_t index_ = 0;
};

class RefBase {
 public:
  RefBase() = default;
  explicit RefBase(Handle handle) : handle_(std::move(handle)) {}
  const Handle& handle() const { return handle_; }

 protected:
  Handle handle_;
};

// What a caller keeps to.
struct CallLimits {
  std::uint32_t max_pending = 0;  // 0: none
  std::int32_t retries = 0;       // of a call whose rank was lost
  std::uint32_t moves = 0;        // 1: the actor may go to another rank, and calls that have not begun with it
};

// A handle to an actor: it is held like a value, and ends like one.
class ActorBase : public RefBase {
 public:
  ActorBase() = default;
  ActorBase(Handle handle, CallLimits limits) : RefBase(std::move(handle)), limits_(limits) {}
  const CallLimits& limits() const { return limits_; }

 private:
  CallLimits limits_;
};

}  // namespace mobula::detail
