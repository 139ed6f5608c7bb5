// Futures that are also handles to shared values, and what can be done with them.
#pragma once

#include <cstddef>
#include <iterator>
#include <memory>
#include <optional>
#include <ranges>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "mobula/detail/core.hpp"

namespace mobula {

// A value that is, or will be, somewhere in the job. Copyable, comparable and hashable; may be an argument, a result,
// or part of a value. The value lives as long as any Ref to it does. Thread-safe like std::shared_ptr.
template <class T>
class Ref : public detail::RefBase {
 public:
  using value_type = T;
  Ref() = default;
  explicit Ref(detail::Handle handle) : RefBase(std::move(handle)) {}
  explicit operator bool() const { return static_cast<bool>(handle_); }
  bool operator==(const Ref& other) const { return handle_ == other.handle_; }
};

// The results of one `map`: a random-access range of Ref<T>, held as one span of ids.
template <class T>
class Batch {
 public:
  using value_type = Ref<T>;

  class iterator {
   public:
    using iterator_concept = std::random_access_iterator_tag;
    using iterator_category = std::input_iterator_tag;
    using value_type = Ref<T>;
    using difference_type = std::ptrdiff_t;
    using reference = Ref<T>;
    using pointer = void;

    iterator() = default;
    iterator(const Batch* batch, difference_type at) : batch_(batch), at_(at) {}
    Ref<T> operator*() const { return (*batch_)[static_cast<std::size_t>(at_)]; }
    Ref<T> operator[](difference_type n) const { return *(*this + n); }
    iterator& operator++() {
      ++at_;
      return *this;
    }
    iterator operator++(int) {
      iterator old = *this;
      ++at_;
      return old;
    }
    iterator& operator--() {
      --at_;
      return *this;
    }
    iterator operator--(int) {
      iterator old = *this;
      --at_;
      return old;
    }
    iterator& operator+=(difference_type n) {
      at_ += n;
      return *this;
    }
    iterator& operator-=(difference_type n) {
      at_ -= n;
      return *this;
    }
    friend iterator operator+(iterator i, difference_type n) { return i += n; }
    friend iterator operator+(difference_type n, iterator i) { return i += n; }
    friend iterator operator-(iterator i, difference_type n) { return i -= n; }
    friend difference_type operator-(const iterator& a, const iterator& b) { return a.at_ - b.at_; }
    bool operator==(const iterator& other) const { return at_ == other.at_; }
    auto operator<=>(const iterator& other) const { return at_ <=> other.at_; }

   private:
    const Batch* batch_ = nullptr;
    difference_type at_ = 0;
  };
  using const_iterator = iterator;

  Batch() = default;
  explicit Batch(detail::BatchHandle handle) : handle_(std::move(handle)) {}

  std::size_t size() const { return handle_.count(); }
  bool empty() const { return handle_.count() == 0; }
  Ref<T> operator[](std::size_t i) const { return Ref<T>(handle_.element(static_cast<std::uint32_t>(i))); }
  iterator begin() const { return {this, 0}; }
  iterator end() const { return {this, static_cast<std::ptrdiff_t>(size())}; }
  const detail::BatchHandle& handle() const { return handle_; }
  bool operator==(const Batch&) const = default;

 private:
  detail::BatchHandle handle_;
};

namespace detail {

template <class R>
inline constexpr bool is_batch = false;
template <class T>
inline constexpr bool is_batch<Batch<T>> = true;

template <class T>
T decode_value(ByteView bytes) {
  Decoder in(bytes);
  T value = decode<T>(in);
  in.finish();
  return value;
}

template <class R>
concept RefRange = std::ranges::input_range<R> && is_ref<std::remove_cvref_t<std::ranges::range_reference_t<R>>>;

template <class R>
using RefValue = typename std::remove_cvref_t<std::ranges::range_reference_t<R>>::value_type;

template <class T>
using GotAll = std::conditional_t<std::is_void_v<T>, void, std::vector<std::conditional_t<std::is_void_v<T>, char, T>>>;

// Handles of a range, once: the range may be single-pass.
template <RefRange R>
std::vector<Handle> handles_of(R&& range) {
  std::vector<Handle> handles;
  if constexpr (std::ranges::sized_range<R>) handles.reserve(std::ranges::size(range));
  for (auto&& ref : range) handles.push_back(ref.handle());
  return handles;
}

}  // namespace detail

// Waits for the value and returns a copy of its own. Throws what the task threw, TaskError, WorkerLost, ObjectLost,
// Cancelled; TimedOut if it takes longer than `timeout`. A task that waits here lends its slot to others.
template <class T>
T get(const Ref<T>& ref, Duration timeout = none) {
  const detail::Value value = detail::await(ref.handle(), timeout);
  if constexpr (!std::is_void_v<T>) return detail::decode_value<T>(value.bytes);
}

// All values, in order. Throws the error of the first element that failed.
template <class T>
detail::GotAll<T> get(const Batch<T>& batch) {
  detail::await_all(batch.handle());
  if constexpr (!std::is_void_v<T>) {
    if constexpr (detail::fixed_size<T> != detail::kVariable && !std::is_same_v<T, bool>) {
      std::vector<T> values(batch.size());
      detail::copy_packed(batch.handle(), sizeof(T), reinterpret_cast<std::byte*>(values.data()));
      return values;
    } else {
      std::vector<T> values;
      values.reserve(batch.size());
      for (const auto& ref : batch) values.push_back(get(ref));
      return values;
    }
  } else {
    detail::copy_packed(batch.handle(), 0, nullptr);  // throws the first error
  }
}

template <detail::RefRange R>
requires(!detail::is_batch<std::remove_cvref_t<R>>) detail::GotAll<detail::RefValue<R>> get(R&& range) {
  using T = detail::RefValue<R>;
  const std::vector<detail::Handle> handles = detail::handles_of(range);
  detail::request_all(handles);
  if constexpr (std::is_void_v<T>) {
    for (const auto& handle : handles) detail::await(handle);
  } else {
    std::vector<T> values;
    values.reserve(handles.size());
    for (const auto& handle : handles) values.push_back(detail::decode_value<T>(detail::await(handle).bytes));
    return values;
  }
}

template <class A, class B, class... C>
std::tuple<A, B, C...> get(const Ref<A>& a, const Ref<B>& b, const Ref<C>&... c) {
  return std::tuple<A, B, C...>{get(a), get(b), get(c)...};
}

// Puts a value into the job's memory, so that it is sent to each place that needs it at most once.
template <class T>
Ref<std::decay_t<T>> put(T&& value) {
  detail::Encoder out;
  out.buffer = detail::room_for(detail::encoded_size(value));
  detail::encode<std::decay_t<T>>(out, value);
  return Ref<std::decay_t<T>>(detail::put(std::move(out)));
}

struct WaitOptions {
  std::optional<std::size_t> count = {};  // enough are ready; default: all
  Duration timeout = none;
};

template <class T>
struct WaitResult {
  std::vector<std::size_t> ready;    // positions in the range, ascending; failed and cancelled ones are ready too
  std::vector<std::size_t> pending;  // the others, ascending
};

// Waits until `count` elements of the range are ready or the time is over. Throws nothing for failed elements.
template <detail::RefRange R>
WaitResult<detail::RefValue<R>> wait(R&& range, WaitOptions options = {}) {
  const std::vector<detail::Handle> handles = detail::handles_of(range);
  WaitResult<detail::RefValue<R>> result;
  detail::wait_for(handles, options.count.value_or(handles.size()), options.timeout, result.ready, result.pending);
  return result;
}

// An input range that yields the Refs in order of completion.
template <class T>
class AsCompleted {
 public:
  explicit AsCompleted(std::vector<detail::Handle> handles)
      : handles_(std::move(handles)), completions_(std::make_unique<detail::Completions>()) {
    for (std::size_t i = 0; i < handles_.size(); ++i) completions_->add(handles_[i], i);
  }

  class iterator {
   public:
    using iterator_concept = std::input_iterator_tag;
    using value_type = Ref<T>;
    using difference_type = std::ptrdiff_t;

    iterator() = default;
    explicit iterator(AsCompleted* all) : all_(all) { ++*this; }
    const Ref<T>& operator*() const { return current_; }
    iterator& operator++() {
      current_ = {};
      if (const auto position = all_->completions_->next()) {
        current_ = Ref<T>(std::move(all_->handles_[*position]));
      } else {
        all_ = nullptr;
      }
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(std::default_sentinel_t) const { return all_ == nullptr; }

   private:
    AsCompleted* all_ = nullptr;
    Ref<T> current_;
  };

  iterator begin() { return iterator(this); }
  std::default_sentinel_t end() const { return {}; }

 private:
  std::vector<detail::Handle> handles_;
  std::unique_ptr<detail::Completions> completions_;
};

template <detail::RefRange R>
AsCompleted<detail::RefValue<R>> as_completed(R&& range) {
  return AsCompleted<detail::RefValue<R>>(detail::handles_of(range));
}

// True if the task will not run, or was stopped: its Ref then throws Cancelled. A task that runs in its rank's process
// can't be stopped: false.
template <class T>
bool cancel(const Ref<T>& ref) {
  return detail::cancel(ref.handle());
}

// Why the task has not run yet: what it waits for, what each kind of rank lacks.
template <class T>
std::string explain(const Ref<T>& ref) {
  return detail::explain(ref.handle());
}

}  // namespace mobula

template <class T>
struct std::hash<mobula::Ref<T>> {
  std::size_t operator()(const mobula::Ref<T>& ref) const noexcept { return ref.handle().hash(); }
};
