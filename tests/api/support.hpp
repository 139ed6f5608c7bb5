#pragma once

#include <gtest/gtest.h>

#include <mobula/mobula.hpp>
#include <thread>

// Without these, tests of the standard library's views are left out.
#if !defined(__clang__) || __clang_major__ >= 16
#define HAS_VIEWS
#endif

namespace support {

using namespace std::chrono_literals;

// [from, to), as std::views::iota gives it: Clang before 16 can't compile the standard library's views.
template <class T>
class Numbers {
 public:
  class iterator {
   public:
    using value_type = T;
    using difference_type = std::ptrdiff_t;
    explicit iterator(T at = {}) : at_(at) {}
    T operator*() const { return at_; }
    iterator& operator++() {
      ++at_;
      return *this;
    }
    void operator++(int) { ++at_; }
    bool operator==(const iterator&) const = default;

   private:
    T at_;
  };
  Numbers(T from, T to) : from_(from), to_(to) {}
  iterator begin() const { return iterator(from_); }
  iterator end() const { return iterator(to_); }

 private:
  T from_;
  T to_;
};
template <class T>
Numbers<T> numbers(T from, T to) {
  return {from, to};
}

inline int twice(int x) { return 2 * x; }
inline int plus(int a, int b) { return a + b; }
inline void nothing() {}
inline void sleep_ms(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }
inline int sleep_and_return(int ms, int value) {
  sleep_ms(ms);
  return value;
}
inline std::uint32_t where() { return mobula::here().rank; }

inline std::size_t workers() {
  std::size_t n = 0;
  for (const auto& rank : mobula::cluster().ranks) n += rank.slots > 0 ? 1 : 0;
  return n;
}

// Tasks that keep all ranks busy for far longer than a test takes.
class Flow {
 public:
  Flow() {
    for (int i = 0; i < 300 * mobula::cluster().slots; ++i) {
      tasks_.push_back(mobula::remote<sleep_and_return>(10, i));
    }
  }
  // That some have not ended, so that what began meanwhile did not have to wait for all. The first fifth ends all the
  // same; the rest need not be waited for.
  void expect_goes_on() const {
    std::size_t ended = 0;
    for (const auto& ref : tasks_) ended += mobula::explain(ref).starts_with("it is there") ? 1 : 0;
    // With more ranks than that on few cores, handing out takes longer than the tasks.
    if (workers() <= 8) {
      EXPECT_LT(ended, tasks_.size()) << "it had to wait for all tasks";
    }
    for (std::size_t i = 0; i < tasks_.size(); ++i) {
      if (i < tasks_.size() / 5) {
        get(tasks_[i]);
      } else {
        mobula::cancel(tasks_[i]);
      }
    }
  }

 private:
  std::vector<mobula::Ref<int>> tasks_;
};

// True once no large value is left in any rank's store but those of `live` Refs. What was let go of takes a moment.
inline bool store_settles(std::size_t live = 0) {
  for (int i = 0; i < 1000; ++i) {
    if (mobula::store_stats(0).objects() == live) return true;
    sleep_ms(5);
  }
  return false;
}

}  // namespace support
