#include "core/trace.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <thread>

namespace mobula::core {
namespace {

std::set<std::uint32_t> threads_seen() {
  std::set<std::uint32_t> threads;
  const std::uint64_t kept = std::min<std::uint64_t>(trace_ring.count(), TraceRing::kEvents);
  for (std::uint64_t n = trace_ring.count() - kept; n != trace_ring.count(); ++n) {
    threads.insert(trace_ring.at(n).thread);
  }
  return threads;
}

void trace_one(std::uint32_t detail) { trace(Event::started, now(), {}, 0, 1, detail); }

TEST(Trace, WhatThreadsThatAreGoneDidIsKept) {
  const std::uint64_t before = trace_ring.count();
  std::set<std::uint32_t> threads;
  for (std::uint32_t i = 0; i < 3; ++i) {
    std::thread([&] {
      trace_one(100 + i);
      threads.insert(trace_thread());
    }).join();
  }
  ASSERT_EQ(trace_ring.count(), before + 3);
  for (std::uint32_t i = 0; i < 3; ++i) EXPECT_EQ(trace_ring.at(before + i).detail, 100 + i);
  const std::set<std::uint32_t> seen = threads_seen();
  EXPECT_TRUE(std::includes(seen.begin(), seen.end(), threads.begin(), threads.end()));
}

TEST(Trace, TheNewestEventsAreKept) {
  for (std::uint32_t i = 0; i < 2 * TraceRing::kEvents; ++i) trace_one(i);
  EXPECT_EQ(trace_ring.at(trace_ring.count() - 1).detail, 2 * TraceRing::kEvents - 1);
  EXPECT_EQ(trace_ring.at(trace_ring.count() - TraceRing::kEvents).detail, TraceRing::kEvents);
}

}  // namespace
}  // namespace mobula::core
