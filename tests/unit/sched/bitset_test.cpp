#include "sched/bitset.hpp"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace mobula::sched {
namespace {

TEST(BitSet, AgreesWithASet) {
  for (const std::uint32_t size : {1U, 63U, 64U, 65U, 4096U, 4097U, 10'000U}) {
    BitSet bits;
    bits.resize(size);
    std::set<std::uint32_t> model;
    std::mt19937 random(size);
    for (int i = 0; i < 5000; ++i) {
      const auto x = static_cast<std::uint32_t>(random() % size);
      if (random() % 2 == 0) {
        bits.set(x);
        model.insert(x);
      } else {
        bits.reset(x);
        model.erase(x);
      }
      const auto from = static_cast<std::uint32_t>(random() % (size + 1));
      auto expected = model.lower_bound(from);
      if (expected == model.end()) expected = model.begin();
      const auto found = bits.next(from);
      ASSERT_EQ(found.has_value(), !model.empty());
      if (found) {
        ASSERT_EQ(*found, *expected);
      }
      ASSERT_EQ(bits.count(), model.size());
    }
  }
}

}  // namespace
}  // namespace mobula::sched
