// Who speaks for a node, and when, at times of the test's.
#include "exec/watch.hpp"

#include <gtest/gtest.h>

#include <deque>

namespace mobula::exec {
namespace {

constexpr Time kMs = 1'000'000;

// Three ranks of a node: 4, 5 and 6, which give signs of life but where `silent`.
class WatchTest : public ::testing::TestWithParam<Time> {
 protected:
  WatchTest() {
    board = std::make_shared<keeper::Board>(core::SharedMemory::alone(keeper::Board::bytes(3)));
    for (const RankId rank : ranks) watches.emplace_back(board, ranks, rank, lost_after, true, now);
  }
  // The longest time without a pulse; a head takes the node for lost after `lost_after`.
  Time longest_silence(Time span, std::size_t silent) {
    Time longest = 0;
    Time last = now;
    for (const Time end = now + span; now < end; now += 5 * kMs) {
      for (std::size_t i = silent; i < watches.size(); ++i) {
        const auto pulse = watches[i].look(now);
        if (!pulse) continue;
        speaker = ranks[i];
        told_quiet = told_quiet || !pulse->quiet.empty();
        longest = std::max(longest, now - last);
        last = now;
      }
    }
    return std::max(longest, now - last);
  }

  const Time lost_after = GetParam();
  const std::vector<RankId> ranks{4, 5, 6};
  Time now = 70'000'000 * kMs;
  std::shared_ptr<keeper::Board> board;
  std::deque<Watch> watches;
  RankId speaker = 0;
  bool told_quiet = false;
};

TEST_P(WatchTest, TheFirstSpeaks) {
  EXPECT_LT(longest_silence(3 * lost_after, 0), lost_after / 2);
  EXPECT_EQ(speaker, 4U);
  EXPECT_FALSE(told_quiet);
}

TEST_P(WatchTest, ThenTheNextOneThatLives) {
  longest_silence(lost_after, 0);
  EXPECT_LT(longest_silence(3 * lost_after, 2), lost_after * 3 / 4);
  EXPECT_EQ(speaker, 6U);
  EXPECT_TRUE(told_quiet);
}

// Its step takes long: it says nothing, but lives.
TEST_P(WatchTest, OneThatIsBusyIsNotQuiet) {
  longest_silence(lost_after, 0);
  const Time pace = std::min(lost_after / 20, 250 * kMs);
  Time silence = 0;
  for (Time busy = 0; busy < 3 * lost_after; busy += pace) {
    watches[0].beat(now);
    watches[1].beat(now);
    silence = std::max(silence, longest_silence(pace, 2));
  }
  EXPECT_LT(silence, lost_after);
  EXPECT_EQ(speaker, 6U);
  EXPECT_FALSE(told_quiet);
}

// What the head has said meanwhile is still to be heard.
TEST_P(WatchTest, OneThatWasBusyDoesNotBlameTheHead) {
  longest_silence(lost_after, 0);
  now += 2 * lost_after + 5000 * kMs;
  watches[0].look(now);
  EXPECT_EQ(watches[0].must_end(now), std::nullopt);
  for (const Time end = now + lost_after + 2100 * kMs; now < end; now += 5 * kMs) watches[0].look(now);
  EXPECT_NE(watches[0].must_end(now), std::nullopt);
}

TEST_P(WatchTest, ABusyHeadIsNotLostToItsNode) {
  const auto shared = std::make_shared<keeper::Board>(core::SharedMemory::alone(keeper::Board::bytes(2)));
  Watch head(shared, {0, 1}, 0, lost_after, true, now);
  Watch worker(shared, {0, 1}, 1, lost_after, true, now);
  for (const Time end = now + 2 * lost_after + 5000 * kMs; now < end; now += 5 * kMs) {
    head.beat(now);
    worker.look(now);
    ASSERT_EQ(worker.must_end(now), std::nullopt);
  }
}

INSTANTIATE_TEST_SUITE_P(LostAfter, WatchTest, ::testing::Values(200 * kMs, 1000 * kMs, 10'000 * kMs, 60'000 * kMs));

}  // namespace
}  // namespace mobula::exec
