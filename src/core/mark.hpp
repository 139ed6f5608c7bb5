// Marks on paths that are seldom taken, so that tests can say which of them they never reached.
//
//   MOBULA_MARK("head: a gang is given out again");
//
// A mark costs an increment of a counter, and is known by its name from the start of the program, reached or not. Only
// for what is rare: a retry, a loss, an answer that comes too late.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

namespace mobula::core {

class Mark {
 public:
  explicit Mark(const char* name) : name_(name), next_(first_) { first_ = this; }
  Mark(const Mark&) = delete;
  Mark& operator=(const Mark&) = delete;

  // Threads that come at once may count as one: that any came is what matters.
  void reach() { times_.store(times_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed); }

  // How often each was reached since the start.
  static std::map<std::string, std::uint64_t> all() {
    std::map<std::string, std::uint64_t> times;
    for (const Mark* mark = first_; mark != nullptr; mark = mark->next_) {
      times[mark->name_] += mark->times_.load(std::memory_order_relaxed);
    }
    return times;
  }

 private:
  static inline constinit Mark* first_ = nullptr;  // those of before main, which is all of them
  const char* const name_;
  Mark* const next_;
  std::atomic<std::uint64_t> times_{0};
};

template <std::size_t kSize>
struct MarkName {
  // NOLINTNEXTLINE: so that a text can be a template's argument
  constexpr MarkName(const char (&name)[kSize]) { std::copy_n(name, kSize, text); }
  char text[kSize] = {};
};

// One for each name, which is made before main begins wherever the code that reaches it is part of the program.
template <MarkName kName>
inline Mark mark{kName.text};

}  // namespace mobula::core

#define MOBULA_MARK(name) ::mobula::core::mark<name>.reach()
