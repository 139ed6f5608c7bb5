#include "core/trace.hpp"

#include <unistd.h>

#include <algorithm>

#include "core/error.hpp"
#include "core/functions.hpp"

namespace mobula::core {
namespace {

const char* name_of(Event event) {
  static constexpr const char* kNames[] = {"submitted", "queued",  "assigned", "started", "finished",
                                           "failed",    "blocked", "resumed",  "lost",    "freed"};
  return kNames[static_cast<std::size_t>(event)];
}

template <class Act>
void for_newest(std::uint64_t most, Act act) {
  const std::uint64_t count = trace_ring.count();
  for (std::uint64_t n = count - std::min(count, most); n < count; ++n) act(trace_ring.at(n));
}

}  // namespace

bool trace_enabled = true;

constinit TraceRing trace_ring;

std::uint32_t trace_thread() {
  thread_local const auto number = static_cast<std::uint32_t>(gettid());
  return number;
}

void trace_dump_recent(std::FILE* to) {
  for_newest(64, [to](const TraceEvent& e) {
    std::fprintf(to, "mobula trace: %lld ns thread %u %s %s..%u (%u)\n", static_cast<long long>(e.time),
                 static_cast<unsigned>(e.thread), name_of(e.event), to_string({e.span, e.begin}).c_str(), e.end,
                 e.detail);
  });
}

void trace_write(const std::string& path, std::uint32_t rank) {
  std::FILE* file = std::fopen(path.c_str(), "w");
  if (file == nullptr) {
    std::fprintf(stderr, "mobula: can't write the trace to %s\n", path.c_str());
    return;
  }
  std::fputs("[", file);
  const char* separator = "\n";
  for_newest(TraceRing::kEvents, [&](const TraceEvent& e) {
    const bool runs = e.event == Event::started || e.event == Event::finished;
    const char* phase = e.event == Event::started ? "B" : e.event == Event::finished ? "E" : "i";
    const std::string name = runs ? std::string(function_name(e.detail)) : name_of(e.event);
    std::fprintf(file,
                 "%s{\"name\":\"%s\",\"ph\":\"%s\",\"ts\":%.3f,\"pid\":%u,\"tid\":%u,\"s\":\"t\",\"args\":{\"span\":"
                 "\"%s\",\"end\":%u,\"detail\":%u}}",
                 separator, name.c_str(), phase, static_cast<double>(e.time) / 1000.0, rank,
                 static_cast<unsigned>(e.thread), to_string({e.span, e.begin}).c_str(), e.end, e.detail);
    separator = ",\n";
  });
  std::fputs("\n]\n", file);
  std::fclose(file);
}

}  // namespace mobula::core
