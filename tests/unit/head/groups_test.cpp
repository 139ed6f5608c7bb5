// Placement groups, as the head sees them.
#include "unit/handlers/tasks.hpp"
#include "unit/head/with_ranks.hpp"

namespace mobula::head {
namespace {

constexpr Time kMs = 1'000'000;

// A head, two nodes of two ranks with a cpu each, and the owner on a node of its own.
class Groups : public WithRanks {
 protected:
  static constexpr RankId kOwner = 5;

  Groups() : WithRanks({{0, 0}, {1, 1}, {1, 1}, {2, 1}, {2, 1}, {3, 0}}) {}
  double free_cpus() { return head.scheduler().free().cpus; }
};

// What is left of it holds half of its node, and the other half is gone for good.
TEST_F(Groups, OneThatIsToBeTogetherMovesWhenItLosesARank) {
  core::Ask ask;
  ask.question = core::Question::bundles;
  ask.id = {SpanId::make(kOwner, 1), 0};
  ask.options.demands = {{1, 0, 0, {}}, {1, 0, 0, {}}};
  ask.options.place_index = static_cast<std::uint32_t>(Strategy::strict_pack);
  head.handle(kOwner, ask);
  step(kMs);
  ASSERT_EQ(free_cpus(), 2);
  // The first node is as good as the second, so it is that one.
  head.worker_lost(1);
  for (int i = 0; i < 3; ++i) step(kMs);
  EXPECT_EQ(free_cpus(), 1) << "only the rank beside the lost one has nothing";
  head.worker_lost(2);
  step(kMs);
  EXPECT_EQ(free_cpus(), 0) << "nothing of the group was there any more";
}

// A head, and three nodes of one rank with a cpu each.
class GroupsApart : public WithRanks {
 protected:
  static constexpr RankId kOwner = 4;

  GroupsApart() : WithRanks({{0, 0}, {1, 1}, {2, 1}, {3, 1}, {4, 0}}) {}
};

// It waits for the third rank in place of the first, and is told that the second is lost too.
TEST_F(GroupsApart, OneThatFailsKeepsNoRankFree) {
  const tests::Tasks first = tests::tasks().by(kOwner, 2).on_rank(3);
  head.handle(kOwner, first.submit());
  step(kMs);
  core::Ask ask;
  ask.question = core::Question::bundles;
  ask.id = {SpanId::make(kOwner, 1), 0};
  ask.options.demands = {{1, 0, 0, {}}, {1, 0, 0, {}}};
  ask.options.place_index = static_cast<std::uint32_t>(Strategy::strict_spread);
  head.handle(kOwner, ask);
  for (const std::uint32_t bundle : {0U, 1U}) {  // what is used stays where it is
    head.handle(kOwner, tests::tasks().by(kOwner, 10 + bundle).in_bundle(ask.id, bundle).submit());
  }
  step(kMs);
  head.worker_lost(1);
  for (int i = 0; i < 3; ++i) step(kMs);
  EXPECT_NE(head.scheduler().what_is_held().find("is reserved"), std::string::npos);
  head.worker_lost(2);
  head.handle(3, first.done());
  const tests::Tasks second = tests::tasks().by(kOwner, 3);
  head.handle(kOwner, second.submit());
  step(kMs);
  EXPECT_NE(head.explain(second.id()).find("is at rank 3"), std::string::npos) << head.explain(second.id());
}

}  // namespace
}  // namespace mobula::head
