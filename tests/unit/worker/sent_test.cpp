#include "worker/sent.hpp"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace mobula::worker {
namespace {

using core::Range;
using detail::SpanId;

const SpanId kSpan = SpanId::make(1, 1);
const SpanId kLater = SpanId::make(1, 2);

TEST(Sent, EachTaskEndsOnce) {
  Sent sent;
  sent.add({kSpan, 10, 20}, 1000);
  EXPECT_EQ(sent.tasks(), 10);
  EXPECT_GE(sent.bytes(), 1000);
  sent.ended({kSpan, 12, 14});
  sent.ended({kSpan, 13, 15});  // of a task that ran again
  EXPECT_EQ(sent.tasks(), 7);
  EXPECT_EQ(sent.ends(), 3);
  sent.ended({kLater, 10, 20});
  sent.ended({kSpan, 0, 10});
  sent.ended({kSpan, 20, 30});
  EXPECT_EQ(sent.tasks(), 7);
  sent.ended({kSpan, 0, 30});
  EXPECT_EQ(sent.tasks(), 0);
  EXPECT_EQ(sent.bytes(), 0);
  EXPECT_EQ(sent.ends(), 10);
}

TEST(Sent, CountsLikeASetWhateverTheOrderOfEnds) {
  for (unsigned seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    const auto below = [&random](std::uint32_t n) { return static_cast<std::uint32_t>(random() % n); };
    Sent sent;
    std::set<std::pair<std::uint64_t, std::uint32_t>> model;
    for (const SpanId span : {kSpan, kLater}) {
      for (std::uint32_t begin = 0; begin < 100;) {
        const std::uint32_t end = begin + 1 + below(10);
        if (below(3) != 0) {
          sent.add({span, begin, end}, below(1000));
          for (std::uint32_t i = begin; i < end; ++i) model.emplace(span.value, i);
        }
        begin = end;
      }
    }
    for (int step = 0; step < 100; ++step) {
      const SpanId span = below(2) == 0 ? kSpan : kLater;
      const std::uint32_t begin = below(100);
      const std::uint32_t end = begin + 1 + below(step < 60 ? 4 : 50);
      sent.ended({span, begin, end});
      for (std::uint32_t i = begin; i < end; ++i) model.erase({span.value, i});
      ASSERT_EQ(sent.tasks(), model.size()) << "seed " << seed;
    }
    sent.ended({kSpan, 0, 200});
    sent.ended({kLater, 0, 200});
    EXPECT_EQ(sent.tasks(), 0) << "seed " << seed;
    EXPECT_EQ(sent.bytes(), 0) << "seed " << seed;
  }
}

}  // namespace
}  // namespace mobula::worker
