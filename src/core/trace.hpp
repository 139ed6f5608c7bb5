// Every state change of tasks and objects, in a ring buffer of the process: a few tens of nanoseconds an event, always
// on. The newest events are kept, whichever threads they are of, so that threads may come and go. Written under the
// rank's lock, read by anyone: readers may see a torn newest event.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>

#include "mobula/detail/ids.hpp"

namespace mobula::core {

// Nanoseconds of the steady clock.
using Time = std::int64_t;
inline Time now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

enum class Event : std::uint8_t {
  submitted,
  queued,
  assigned,
  started,
  finished,
  failed,
  blocked,
  resumed,
  lost,
  freed
};

struct TraceEvent {
  static constexpr std::uint32_t kThreads = 1 << 24;  // the system's numbers have at most 22 bits
  Time time = 0;
  detail::SpanId span;
  std::uint32_t begin = 0;
  std::uint32_t end = 0;
  std::uint32_t detail = 0;  // a rank, or a function's index
  std::uint32_t thread : 24 = 0;
  Event event : 8 = Event::submitted;
};
static_assert(sizeof(TraceEvent) == 32);

class TraceRing {
 public:
  static constexpr std::uint32_t kEvents = 1 << 15;
  void add(const TraceEvent& event) {
    const std::uint64_t n = count_.load(std::memory_order_relaxed);
    events_[n % kEvents] = event;
    count_.store(n + 1, std::memory_order_release);
  }
  std::uint64_t count() const { return count_.load(std::memory_order_acquire); }
  const TraceEvent& at(std::uint64_t n) const { return events_[n % kEvents]; }

 private:
  std::atomic<std::uint64_t> count_{0};
  TraceEvent events_[kEvents];
};

extern TraceRing trace_ring;   // its pages are there when they are written to
std::uint32_t trace_thread();  // the number of this thread

// Switched off only to measure what it costs (MOBULA_TRACE_EVENTS=0).
extern bool trace_enabled;

inline void trace(Event event, Time time, detail::SpanId span, std::uint32_t begin, std::uint32_t end,
                  std::uint32_t detail) {
  if (trace_enabled) trace_ring.add({time, span, begin, end, detail, trace_thread() % TraceEvent::kThreads, event});
}

void trace_dump_recent(std::FILE* to);                          // the last events, for people
void trace_write(const std::string& path, std::uint32_t rank);  // all that is kept, in Chrome's trace format

}  // namespace mobula::core
