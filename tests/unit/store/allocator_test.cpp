#include "store/allocator.hpp"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace mobula::store {
namespace {

std::optional<std::size_t> allocate_or_grow(Allocator& a, std::size_t n) {
  auto at = a.allocate(n);
  if (!at && a.grow(a.shortfall(n)) != 0) at = a.allocate(n);
  return at;
}

TEST(Allocator, GivesNothingBeforeItGrows) {
  Allocator a(1 << 20);
  EXPECT_FALSE(a.allocate(1));
  EXPECT_EQ(a.grow(1000), 1024);
  EXPECT_EQ(a.allocate(1), 0);
  EXPECT_EQ(a.allocate(64), 64);
}

TEST(Allocator, TakesTheWholeRangeAndNoMore) {
  Allocator a(1 << 20);
  const auto all = allocate_or_grow(a, 1 << 20);
  ASSERT_TRUE(all);
  EXPECT_FALSE(allocate_or_grow(a, 1));
  EXPECT_FALSE(allocate_or_grow(a, (1 << 20) + 1));
  a.free(*all);
  EXPECT_TRUE(allocate_or_grow(a, 1 << 20));
}

TEST(Allocator, UsesWarmMemoryFirst) {
  Allocator a(1 << 20);
  const auto first = allocate_or_grow(a, 1000);
  const auto second = allocate_or_grow(a, 1000);
  ASSERT_TRUE(first && second);
  const std::size_t grown = a.grown();
  a.free(*first);
  EXPECT_EQ(allocate_or_grow(a, 900), first);
  EXPECT_EQ(a.grown(), grown);
}

TEST(Allocator, MergesNeighboursInAnyOrder) {
  for (const auto& order : {std::array{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}) {
    Allocator a(4096 * 3);
    std::array<std::size_t, 3> at{};
    for (auto& offset : at) offset = *allocate_or_grow(a, 4096);
    for (const int i : order) {
      a.free(at[static_cast<std::size_t>(i)]);
      a.check_invariants();
    }
    EXPECT_EQ(a.largest_free(), 4096 * 3);
    EXPECT_EQ(a.blocks(), 1);
  }
}

TEST(Allocator, LargestFreeCanBeHad) {
  std::mt19937_64 random(3);
  for (int round = 0; round < 50; ++round) {
    Allocator a(1 << 20);
    std::vector<std::size_t> held;
    while (const auto at = allocate_or_grow(a, 1 + random() % 60'000)) held.push_back(*at);
    for (std::size_t i = 0; i < held.size(); i += 1 + random() % 3) a.free(held[i]);
    const std::size_t most = a.largest_free();
    if (most != 0) {
      EXPECT_TRUE(allocate_or_grow(a, most));
    }
  }
}

// Against a model: blocks never overlap, stay in range, and what is freed can be had again.
TEST(Allocator, RandomTraces) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    Allocator a(std::size_t{16} << 20);
    std::map<std::size_t, std::size_t> held;
    for (int step = 0; step < 5'000; ++step) {
      if (held.empty() || random() % 100 < 55) {
        const std::size_t n = random() % 10 == 0 ? random() % (1 << 20) : random() % 2000;
        const auto at = allocate_or_grow(a, n);
        if (!at) continue;
        EXPECT_EQ(*at % Allocator::kAlign, 0);
        ASSERT_LE(*at + n, a.capacity());
        const auto after = held.lower_bound(*at);
        ASSERT_TRUE(after == held.end() || *at + n <= after->first);
        ASSERT_TRUE(after == held.begin() || std::prev(after)->first + std::prev(after)->second <= *at);
        held[*at] = std::max<std::size_t>(n, 1);
      } else {
        auto victim = std::next(held.begin(), static_cast<std::ptrdiff_t>(random() % held.size()));
        a.free(victim->first);
        held.erase(victim);
      }
      if (step % 100 == 0) a.check_invariants();
    }
    for (const auto& [at, n] : held) a.free(at);
    a.check_invariants();
    EXPECT_EQ(a.used(), 0);
  }
}

}  // namespace
}  // namespace mobula::store
