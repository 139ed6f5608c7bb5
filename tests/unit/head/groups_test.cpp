// Placement groups, as the head sees them.
#include "unit/handlers/tasks.hpp"
#include "unit/head/with_ranks.hpp"

namespace mobula::head {
namespace {

constexpr Time kMs = 1'000'000;

class WithGroups : public WithRanks {
 protected:
  using WithRanks::WithRanks;
  // A group of so many bundles of a cpu each; its id.
  ObjectId ask_for(RankId owner, std::uint64_t sequence, std::size_t bundles, Strategy strategy, bool nested = false) {
    core::Ask ask;
    ask.question = core::Question::bundles;
    ask.id = {SpanId::make(owner, sequence), 0};
    ask.options.demands.assign(bundles, {1, 0, 0, {}});
    ask.options.place_index = static_cast<std::uint32_t>(strategy);
    ask.nested = nested;
    head.handle(owner, ask);
    return ask.id;
  }
};

// A head, two nodes of two ranks with a cpu each, and the owner on a node of its own.
class Groups : public WithGroups {
 protected:
  static constexpr RankId kOwner = 5;

  Groups() : WithGroups({{0, 0}, {1, 1}, {1, 1}, {2, 1}, {2, 1}, {3, 0}}) {}
  double free_cpus() { return head.scheduler().free().cpus; }
};

// What is left of it holds half of its node, and the other half is gone for good.
TEST_F(Groups, OneThatIsToBeTogetherMovesWhenItLosesARank) {
  ask_for(kOwner, 1, 2, Strategy::strict_pack);
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
class GroupsApart : public WithGroups {
 protected:
  static constexpr RankId kOwner = 4;

  GroupsApart() : WithGroups({{0, 0}, {1, 1}, {2, 1}, {3, 1}, {4, 0}}) {}
};

// It waits for the third rank in place of the first, and is told that the second is lost too.
TEST_F(GroupsApart, OneThatFailsKeepsNoRankFree) {
  const tests::Tasks first = tests::tasks().by(kOwner, 2).on_rank(3);
  head.handle(kOwner, first.submit());
  step(kMs);
  const ObjectId group = ask_for(kOwner, 1, 2, Strategy::strict_spread);
  for (const std::uint32_t bundle : {0U, 1U}) {  // what is used stays where it is
    head.handle(kOwner, tests::tasks().by(kOwner, 10 + bundle).in_bundle(group, bundle).submit());
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

// A task in a bundle waits for a group that it asks for. What it lends meanwhile is not for the group that its owner
// has asked for before that: the cpu that this one would need besides is the only one that is left.
TEST_F(GroupsApart, OneThatATaskAsksForComesBeforeThoseOfOthers) {
  const ObjectId first = ask_for(kOwner, 1, 2, Strategy::pack);
  head.handle(kOwner, tests::tasks().by(kOwner, 10).in_bundle(first).submit());
  step(kMs);
  ask_for(kOwner, 2, 2, Strategy::pack);
  step(kMs);
  const ObjectId nested = ask_for(1, 1, 1, Strategy::pack, true);
  const tests::Tasks inside = tests::tasks().by(1, 2).in_bundle(nested);
  head.handle(1, inside.submit());
  head.handle(1, core::Lending{1, 0, 0});
  for (int i = 0; i < 3; ++i) step(kMs);
  EXPECT_NE(head.explain(inside.id()).find("is at rank"), std::string::npos) << head.explain(inside.id());
}

// What is queued in them goes where they are then.
TEST_F(GroupsApart, BundlesOfARankThatLeavesMove) {
  const auto rank_of = [this](const tests::Tasks& task) {
    for (const RankId rank : {1U, 2U, 3U}) {
      if (head.explain(task.id()).find("is at rank " + std::to_string(rank)) != std::string::npos) return rank;
    }
    return detail::kNoRank;
  };
  const ObjectId group = ask_for(kOwner, 1, 1, Strategy::pack);
  const tests::Tasks first = tests::tasks().by(kOwner, 10).in_bundle(group);
  const tests::Tasks second = tests::tasks().by(kOwner, 11).in_bundle(group);
  head.handle(kOwner, first.submit());
  step(kMs);
  const RankId leaves = rank_of(first);
  ASSERT_NE(leaves, detail::kNoRank);
  head.handle(leaves, core::Leave{60'000 * kMs});
  for (int i = 0; i < 3; ++i) step(400 * kMs);
  head.handle(kOwner, second.submit());
  step(kMs);
  EXPECT_EQ(rank_of(second), detail::kNoRank) << "the first one holds all of the bundle";
  head.handle(leaves, core::Waits{first.id(), true});
  step(kMs);
  EXPECT_NE(rank_of(second), detail::kNoRank) << head.explain(second.id());
  EXPECT_NE(rank_of(second), leaves) << head.explain(second.id());
  EXPECT_EQ(head.why_not_sums(), "");
}

// What runs there, and what that asks for, ends as it would.
TEST_F(GroupsApart, BundlesThatFindNoRoomElsewhereStayWithARankThatLeaves) {
  const ObjectId group = ask_for(kOwner, 1, 3, Strategy::strict_spread);
  const tests::Tasks first = tests::tasks().by(kOwner, 10).in_bundle(group, 0);
  const tests::Tasks queued = tests::tasks().by(kOwner, 11).in_bundle(group, 0);
  head.handle(kOwner, first.submit());
  head.handle(kOwner, queued.submit());
  step(kMs);
  const std::string place = head.explain(first.id());
  const auto leaves = static_cast<RankId>(place.at(place.find("is at rank ") + 11) - '0');
  head.handle(leaves, core::Leave{60'000 * kMs});
  for (int i = 0; i < 3; ++i) step(400 * kMs);
  EXPECT_EQ(head.unfinished(), 2U);
  head.handle(leaves, first.done());
  step(kMs);
  EXPECT_NE(head.explain(queued.id()).find("is at rank " + std::to_string(leaves)), std::string::npos)
      << head.explain(queued.id());
}

}  // namespace
}  // namespace mobula::head
