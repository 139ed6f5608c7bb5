// Results of tasks whose owner, the rank that has submitted them, is lost: others may have been given their refs.
#include "core/functions.hpp"
#include "mobula/mobula.hpp"
#include "unit/head/with_ranks.hpp"

namespace mobula::head {
namespace {

int one() { return 1; }
int next(int x) { return x + 1; }
const detail::FunctionInfo& kOne = detail::Function<one>::info;
const detail::FunctionInfo& kNext = detail::Function<next>::info;

// A head, a rank that submits, and one that runs what that submits.
class LostOwner : public WithRanks {
 protected:
  LostOwner() : WithRanks(one_a_node({0, 0, 1})) {}
  ~LostOwner() override { EXPECT_EQ(head.what_is_left(), "") << head.describe_entries(); }

  // As the owner's task, with retries.
  void submit(RankId owner, ObjectId id, const detail::FunctionInfo& function, std::vector<ObjectId> deps = {},
              int retries = 3) {
    core::Submit message;
    message.range = {id.span, id.index, id.index + 1};
    message.body.function = function.index;
    message.body.has_options = true;
    message.body.options.demands.emplace_back();
    message.body.options.retries = retries;
    if (!deps.empty()) {
      message.body.dep_mask = 1;
      message.body.ends = {0};
    }
    for (const ObjectId& dep : deps) message.deps.push_back(dep);
    head.handle(owner, message);
    step();
  }
  void hold(RankId rank, ObjectId id, bool more = true) {
    core::Holds message;
    (more ? message.holds : message.drops).push_back(id);
    head.handle(rank, message);
    step();
  }
  // The runner has ended the task, and kept the result where `stays`.
  void end(ObjectId id, bool stays = false) {
    core::Done message;
    message.range = {id.span, id.index, id.index + 1};
    if (stays) message.stored.push_back({id.index, 8});
    head.handle(kRunner, message);
    step();
  }
  void lose_owner() {
    head.worker_lost(kOwner);
    step();
  }

  static constexpr RankId kOwner = 1;
  static constexpr RankId kRunner = 2;
  static constexpr ObjectId kId{SpanId::make(kOwner, 1), 0};
};

TEST_F(LostOwner, ASmallResultThatWasSentToItIsMadeAgainForWhoAsks) {
  submit(kOwner, kId, kOne);
  hold(0, kId);
  lose_owner();
  end(kId);
  EXPECT_EQ(head.unfinished(), 0U) << "nobody has asked for it yet";
  head.handle(0, core::Locate{kId});
  step();
  EXPECT_EQ(head.unfinished(), 1U);
  end(kId, true);
  hold(0, kId, false);
}

TEST_F(LostOwner, ItIsMadeAgainForATaskThatWaitsForIt) {
  submit(kOwner, kId, kOne);
  const ObjectId other{SpanId::make(0, 1), 0};
  submit(0, other, kNext, {kId});
  lose_owner();
  end(kId);
  EXPECT_EQ(head.unfinished(), 2U);
  end(kId, true);
  EXPECT_EQ(head.unfinished(), 1U);
  end(other);
  EXPECT_EQ(head.unfinished(), 0U);
  head.handle(0, [] {
    core::Holds message;
    message.spans.push_back(SpanId::make(0, 1));
    return message;
  }());
  step();
}

TEST_F(LostOwner, WhatMayNotRunAgainFailsForWhoWaits) {
  submit(kOwner, kId, kOne, {}, 0);
  const ObjectId other{SpanId::make(0, 1), 0};
  submit(0, other, kNext, {kId});
  lose_owner();
  end(kId);
  // What waited at its rank is told when it asks.
  head.handle(kRunner, core::Locate{kId});
  step();
  EXPECT_NE(head.explain(kId).find("may not run again"), std::string::npos) << head.explain(kId);
  core::Done failed;
  failed.range = {other.span, 0, 1};
  failed.errors.emplace_back();
  head.handle(kRunner, failed);
  core::Holds drop;
  drop.spans.push_back(other.span);
  head.handle(0, drop);
  step();
}

// The owner lives, and has let go of all that it had submitted at once.
TEST_F(LostOwner, WhatAResultHoldsIsFreedWhereItsOwnerHasDroppedIt) {
  submit(kOwner, kId, kOne);
  core::Holds drop;
  drop.spans.push_back(kId.span);
  head.handle(kOwner, drop);
  step();
  const ObjectId inside{SpanId::make(kRunner, 1), 0};
  submit(kRunner, inside, kOne);
  core::Done done;
  done.range = {kId.span, 0, 1};
  done.refs.push_back({0, inside});
  head.handle(kRunner, done);
  hold(kRunner, inside, false);
  end(inside, true);
  EXPECT_EQ(head.entries(), 0U) << head.describe_entries();
}

TEST_F(LostOwner, WhatNobodyElseHoldsIsFreed) {
  submit(kOwner, kId, kOne);
  lose_owner();
  end(kId);
  EXPECT_EQ(head.entries(), 0U);
}

}  // namespace
}  // namespace mobula::head
