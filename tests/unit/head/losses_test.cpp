// What the head takes for lost: it is handed what ranks would send, at times of the test's.
#include <gtest/gtest.h>

#include "head/head.hpp"
#include "transport/local_wire.hpp"
#include "transport/transport.hpp"

namespace mobula::head {
namespace {

using core::Time;

constexpr Time kMs = 1'000'000;
constexpr Time kLostAfter = 2'000 * kMs;

// A head, and a worker on each of two nodes.
class Losses : public ::testing::Test {
 protected:
  Losses() {
    for (detail::RankId rank = 0; rank < 3; ++rank) {
      core::Join join;
      join.node = rank;
      head.handle(rank, join);
    }
  }

  static Settings settings() {
    Settings settings;
    settings.ranks = 3;
    settings.lost_after = kLostAfter;
    return settings;
  }
  // Steps of 10 ms, in which the ranks speak every second.
  void run(Time span, std::initializer_list<detail::RankId> speak) {
    for (const Time end = now + span; now < end; now += 10 * kMs) {
      if (now % (1000 * kMs) == 0) {
        for (const detail::RankId rank : speak) head.handle(rank, core::Pulse{});
      }
      head.step(now);
    }
  }

  transport::LocalHub hub{3};
  transport::Transport transport{hub.at(0)};
  store::Store store{store::Store::Settings{}};
  store::ObjectTable objects{0, store};
  Head head{transport, objects, settings()};
  Time now = 70'000'000 * kMs;  // the clock does not begin with the job
};

TEST_F(Losses, ANodeThatFallsSilent) {
  run(5000 * kMs, {0, 1, 2});
  EXPECT_EQ(head.lost(), 0U);
  run(kLostAfter + 1500 * kMs, {0, 1});
  EXPECT_EQ(head.lost(), 1U);
}

TEST_F(Losses, ANodeThatFallsSilentAtOnce) {
  run(500 * kMs, {0, 1, 2});
  run(kLostAfter + 1500 * kMs, {0, 1});
  EXPECT_EQ(head.lost(), 1U);
}

TEST_F(Losses, ANodeThatNeverSpeaks) {
  run(kLostAfter + 1500 * kMs, {0, 1});
  EXPECT_EQ(head.lost(), 1U);
}

TEST_F(Losses, AHeadThatWasAsleepBlamesNobody) {
  run(500 * kMs, {0, 1, 2});
  now += 60'000 * kMs;
  run(1500 * kMs, {});
  EXPECT_EQ(head.lost(), 0U);
  run(1500 * kMs, {0, 1});
  EXPECT_EQ(head.lost(), 1U);
}

// What had come meanwhile is read before the time is seen.
TEST_F(Losses, WhoSpokeToASleepingHeadIsNotHeardForLonger) {
  run(500 * kMs, {0, 1, 2});
  now += 60'000 * kMs;
  head.step(now);
  for (const detail::RankId rank : {1U, 2U}) head.handle(rank, core::Pulse{});
  now += 5'000 * kMs;
  run(kLostAfter + 1500 * kMs, {0, 1});
  EXPECT_EQ(head.lost(), 1U);
}

}  // namespace
}  // namespace mobula::head
