#include "core/trace.hpp"

#include <algorithm>
#include <memory>
#include <mutex>
#include <vector>

#include "core/error.hpp"
#include "core/functions.hpp"

namespace mobula::core {
namespace {

struct Rings {
  std::mutex mutex;
  std::vector<std::unique_ptr<TraceRing>> all;  // outlive their threads, so that the end of a job can be read
};
Rings& rings() {
  static Rings* const instance = new Rings;  // never destroyed: threads may trace until the process ends
  return *instance;
}

const char* name_of(Event event) {
  static constexpr const char* kNames[] = {"submitted", "queued",  "assigned", "started", "finished",
                                           "failed",    "blocked", "resumed",  "lost",    "freed"};
  return kNames[static_cast<std::size_t>(event)];
}

struct Seen {
  std::size_t thread;
  TraceEvent event;
};

std::vector<Seen> collect(std::size_t newest_per_thread) {
  std::vector<Seen> seen;
  Rings& all = rings();
  const std::lock_guard lock(all.mutex);
  for (std::size_t t = 0; t < all.all.size(); ++t) {
    const TraceRing& ring = *all.all[t];
    const std::uint64_t count = ring.count();
    const std::uint64_t kept = std::min<std::uint64_t>({count, TraceRing::kEvents, newest_per_thread});
    for (std::uint64_t n = count - kept; n < count; ++n) seen.push_back({t, ring.at(n)});
  }
  std::stable_sort(seen.begin(), seen.end(), [](const Seen& a, const Seen& b) { return a.event.time < b.event.time; });
  return seen;
}

}  // namespace

bool trace_enabled = true;

TraceRing& trace_ring() {
  thread_local TraceRing* const ring = [] {
    Rings& all = rings();
    const std::lock_guard lock(all.mutex);
    all.all.push_back(std::make_unique<TraceRing>());
    return all.all.back().get();
  }();
  return *ring;
}

void trace_dump_recent(std::FILE* to) {
  std::vector<Seen> seen = collect(64);
  if (seen.size() > 64) seen.erase(seen.begin(), seen.end() - 64);
  for (const auto& [thread, e] : seen) {
    std::fprintf(to, "mobula trace: %lld ns thread %zu %s %s..%u (%u)\n", static_cast<long long>(e.time), thread,
                 name_of(e.event), to_string({e.span, e.begin}).c_str(), e.end, e.detail);
  }
}

void trace_write(const std::string& path, std::uint32_t rank) {
  std::FILE* file = std::fopen(path.c_str(), "w");
  if (file == nullptr) {
    std::fprintf(stderr, "mobula: can't write the trace to %s\n", path.c_str());
    return;
  }
  std::fputs("[", file);
  const char* separator = "\n";
  for (const auto& [thread, e] : collect(TraceRing::kEvents)) {
    const bool runs = e.event == Event::started || e.event == Event::finished;
    const char* phase = e.event == Event::started ? "B" : e.event == Event::finished ? "E" : "i";
    const std::string name = runs ? std::string(function_name(e.detail)) : name_of(e.event);
    std::fprintf(file,
                 "%s{\"name\":\"%s\",\"ph\":\"%s\",\"ts\":%.3f,\"pid\":%u,\"tid\":%zu,\"s\":\"t\",\"args\":{\"span\":"
                 "\"%s\",\"end\":%u,\"detail\":%u}}",
                 separator, name.c_str(), phase, static_cast<double>(e.time) / 1000.0, rank, thread,
                 to_string({e.span, e.begin}).c_str(), e.end, e.detail);
    separator = ",\n";
  }
  std::fputs("\n]\n", file);
  std::fclose(file);
}

}  // namespace mobula::core
