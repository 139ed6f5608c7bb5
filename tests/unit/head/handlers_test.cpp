// What the head does with each message: what it sends, and what it answers afterwards.
#include <cmath>
#include <limits>

#include "core/cluster.hpp"
#include "head/head.hpp"
#include "unit/handlers/handler_test.hpp"
#include "unit/handlers/recorder.hpp"
#include "unit/handlers/tasks.hpp"

namespace mobula::head {

using core::MemberState;
using core::Question;
using detail::kNoRank;
using tests::counter;
using tests::gang;
using tests::object_of;
using tests::Tasks;
using tests::tasks;
using tests::thrown_by;

constexpr Time kMs = 1'000'000;
constexpr std::uint64_t kLarge = 100'000;  // bytes of a value that does not go inline

// A head without slots, and two ranks with one each, on nodes of their own. Rank 3 has not joined.
class HeadHandlers : public ::testing::Test {
 protected:
  HeadHandlers() {
    for (const RankId rank : {0U, 1U, 2U}) head.handle(rank, join(rank, rank == 0 ? 0 : 1));
    EXPECT_EQ(step(), "");
  }
  ~HeadHandlers() override {
    EXPECT_EQ(head.why_not_sums(), "");
    head.check_invariants();
  }

  static Settings settings() {
    Settings settings;
    settings.ranks = 4;
    settings.version = "1";
    settings.digest = 5;
    settings.leave_hold = 0;
    settings.recent_limit = 64 << 10;
    return settings;
  }
  static core::Join join(RankId rank, std::uint32_t slots) {
    core::Join join;
    join.digest = 5;
    join.version = "1";
    join.host = "host" + std::to_string(rank);
    join.node = rank;
    join.slots = slots;
    join.offers.cpus = slots;
    join.offers.memory = 100;
    return join;
  }
  // A task that takes all that the rank has.
  static Tasks filling(RankId rank, RankId owner, std::uint64_t sequence) {
    return tasks().by(owner, sequence).on_rank(rank).demand({1, 0, 100, {}});
  }
  core::Ask ask(Question question, ObjectId id = {}, const core::WireOptions& options = {}) {
    return {++token, question, id, options, false};
  }
  core::Ask ask_for_name(Question question, ObjectId id, const std::string& name) {
    core::WireOptions options;
    options.is_actor = true;
    options.actor.name = name;
    options.actor.klass = tests::kMakeCounter.klass->index;
    return ask(question, id, options);
  }

  // What the head sends in its next step, by receiver.
  std::string step(Time later = kMs) {
    now += later;
    head.step(now);
    return recorder.take();
  }
  // What it sends on the message and in the step behind it.
  template <class Message>
  std::string on(RankId from, const Message& message) {
    head.handle(from, message);
    return step();
  }
  template <class Message>
  Message sent() const {
    return recorder.only<Message>();
  }
  // Who has the task.
  RankId rank_of(ObjectId task) {
    for (RankId rank = 0; rank < 3; ++rank) {
      if (head.explain(task).find("at rank " + std::to_string(rank)) != std::string::npos) return rank;
    }
    ADD_FAILURE() << head.explain(task);
    return kNoRank;
  }
  // Submits them, and says who got the first.
  RankId start(const Tasks& some) {
    head.handle(some.range().span.owner(), some.submit());
    step();
    return rank_of(some.id(some.range().begin));
  }
  // The actor is made; says where it lives.
  RankId make(const Tasks& actor) {
    const RankId rank = start(actor);
    core::Done done = actor.stored(0);
    head.handle(rank, done);
    EXPECT_EQ(step(), "");
    return rank;
  }
  // An object of rank 1, of which the head knows.
  ObjectId made(std::uint64_t sequence, std::uint64_t size = kLarge) {
    const ObjectId id = object_of(1, sequence);
    head.handle(1, core::Made{id, size, {}});
    return id;
  }
  std::string where_is(ObjectId id, RankId asker = 0) {
    EXPECT_EQ(on(asker, core::Locate{id}), std::to_string(asker) + ": Located");
    const auto located = sent<core::Located>();
    EXPECT_EQ(located.id, id);
    return located.rank == kNoRank ? located.error.message : "rank " + std::to_string(located.rank);
  }

  tests::Recorder recorder{0, 4};
  store::Store store{store::Store::Settings{}};
  store::ObjectTable objects{0, store};
  Head head{recorder.transport(), objects, settings()};
  Time now = 1'000 * kMs;
  std::uint64_t token = 100;
};

#define EXPECT_DAMAGED(statement) EXPECT_THROW(statement, ProtocolError)

// ---- ranks -------------------------------------------------------------------------------------------------------

HANDLER_TEST(HeadHandlers, Join, MakesARankReadyForWork) {
  EXPECT_FALSE(head.all_joined());
  EXPECT_EQ(on(1, tasks().on_rank(3).submit()), "1: Result");
  EXPECT_EQ(sent<core::Result>().errors.front().error.kind, core::ErrorKind::infeasible);
  EXPECT_EQ(on(3, join(3, 2)), "");
  EXPECT_TRUE(head.all_joined());
  EXPECT_EQ(head.join_error(), "");
  EXPECT_EQ(head.ranks()[3].host, "host3");
  EXPECT_EQ(on(1, tasks().by(1, 2).on_rank(3).submit()), "3: Assign");
}

HANDLER_TEST(HeadHandlers, Join, OfAnotherProgramIsNamed) {
  core::Join other = join(3, 1);
  other.digest = 6;
  EXPECT_EQ(on(3, other), "");
  EXPECT_TRUE(head.all_joined());
  EXPECT_TRUE(head.join_error().starts_with("rank 3 on host3 runs another program than rank 0")) << head.join_error();
}

HANDLER_TEST(HeadHandlers, Join, CountsOnce) {
  EXPECT_EQ(on(1, join(1, 7)), "");
  EXPECT_EQ(head.ranks()[1].slots, 1U);
  EXPECT_FALSE(head.all_joined());
}

HANDLER_TEST(HeadHandlers, Join, WithLessThanNothingIsDamaged) {
  core::Join join3 = join(3, 1);
  join3.offers.cpus = -1;
  EXPECT_DAMAGED(head.handle(3, join3));
  EXPECT_FALSE(head.all_joined());
}

HANDLER_TEST(HeadHandlers, Leave, IsFollowedByDrainAndDismiss) {
  const ObjectId value = made(1);
  EXPECT_EQ(on(1, core::Leave{1'000 * kMs}), "1: TakeBack, Drain");
  EXPECT_TRUE(sent<core::Drain>().leaves);
  EXPECT_EQ(sent<core::TakeBack>().tasks, std::numeric_limits<std::uint32_t>::max());
  EXPECT_TRUE(sent<core::TakeBack>().waiting);
  EXPECT_EQ(head.complaint(now),
            "rank 1 on host1 was told to end: it gets no more work, and leaves when what it has is done");
  EXPECT_EQ(on(2, tasks().by(2).from(0, 2).submit()), "2: Assign, Assign") << "rank 1 gets no work";
  EXPECT_EQ(on(1, core::Saved{}), "2: Adopt") << "the only one that stays and has slots";
  EXPECT_EQ(sent<core::Adopt>().id, value);
  EXPECT_EQ(sent<core::Adopt>().from, 1U);
  EXPECT_EQ(on(2, core::Copied{value, true}), "1: Dismiss");
  EXPECT_EQ(on(1, core::Leave{1'000 * kMs}), "") << "once is enough";
}

HANDLER_TEST(HeadHandlers, Leave, WaitsForTheTasksOfTheRankUntilItsTimeIsUp) {
  start(tasks().on_rank(1));
  EXPECT_EQ(on(1, core::Leave{50 * kMs}), "1: TakeBack");
  EXPECT_EQ(step(40 * kMs), "");
  EXPECT_EQ(step(20 * kMs), "1: Drain, Dismiss");
}

HANDLER_TEST(HeadHandlers, Leave, WithAnyTime) {
  start(tasks().on_rank(1));
  EXPECT_EQ(on(1, core::Leave{std::numeric_limits<Time>::max()}), "1: TakeBack");
  EXPECT_EQ(step(1'000 * kMs), "") << "that is long";
  start(tasks().by(2).on_rank(2));
  EXPECT_EQ(on(2, core::Leave{std::numeric_limits<Time>::min()}), "2: TakeBack, Drain, Dismiss");
}

HANDLER_TEST(HeadHandlers, Leave, OfTheHeadIsNothing) {
  EXPECT_EQ(on(0, core::Leave{1'000 * kMs}), "");
  EXPECT_EQ(head.left(), 0U);
}

HANDLER_TEST(HeadHandlers, Saved, OfAllRanksEndsADrain) {
  head.drain("the time is up");
  EXPECT_EQ(recorder.take(), "1: TakeBack, Drain; 2: TakeBack, Drain");
  for (const auto& drain : recorder.all<core::Drain>()) EXPECT_FALSE(drain.leaves);
  EXPECT_EQ(on(1, core::Saved{}), "");
  EXPECT_FALSE(head.drained());
  EXPECT_EQ(on(1, core::Saved{}), "");
  EXPECT_FALSE(head.drained()) << "that was the same rank";
  EXPECT_EQ(on(2, core::Saved{}), "");
  EXPECT_TRUE(head.drained());
}

HANDLER_TEST(HeadHandlers, Left, IsToldWithWhatWasSent) {
  EXPECT_EQ(on(1, core::Left{{{0, 3}, {2, 5}}}), "0: RankLost; 2: RankLost");
  for (const auto& lost : recorder.all<core::RankLost>()) {
    EXPECT_EQ(lost.rank, 1U);
    EXPECT_TRUE(lost.left);
  }
  EXPECT_EQ(recorder.all<core::RankLost>()[0].frames, 3U);
  EXPECT_EQ(recorder.all<core::RankLost>()[1].frames, 5U);
  EXPECT_EQ(head.left(), 1U);
  EXPECT_EQ(head.lost(), 1U);
  EXPECT_EQ(on(1, core::Left{}), "");
  EXPECT_EQ(head.lost(), 1U);
}

HANDLER_TEST(HeadHandlers, Pulse, IsAnswered) {
  EXPECT_EQ(on(1, core::Pulse{}), "1: PulseBack");
  EXPECT_EQ(head.lost(), 0U);
}

HANDLER_TEST(HeadHandlers, Pulse, TellsOfAProcessThatHasEnded) {
  const ObjectId at = tasks().by(1).id();
  ASSERT_EQ(start(tasks().by(1).on_rank(2)), 2U);
  EXPECT_EQ(on(1, core::Pulse{{{2, "killed by signal 9", true, {{at.span, 0, 1}}}}, {}}),
            "0: RankLost; 1: PulseBack, RankLost, Result");
  const auto result = sent<core::Result>();
  EXPECT_EQ(result.errors.front().error.kind, core::ErrorKind::infeasible) << "the place that it was to run at is gone";
  EXPECT_EQ(head.complaint(now), "rank 2 on host2 was lost (killed by signal 9); the job goes on without it");
  EXPECT_EQ(head.lost(), 1U);
  EXPECT_EQ(on(1, core::Pulse{{{2, "again", false, {}}}, {}}), "1: PulseBack");
  EXPECT_EQ(head.lost(), 1U);
}

HANDLER_TEST(HeadHandlers, Pulse, TellsOfARankThatIsSilentForTooLong) {
  EXPECT_EQ(on(1, core::Pulse{{}, {{2, 9'000 * kMs}}}), "1: PulseBack");
  EXPECT_EQ(on(1, core::Pulse{{}, {{2, 11'000 * kMs}, {77, 11'000 * kMs}, {0, 11'000 * kMs}}}),
            "0: RankLost; 1: PulseBack, RankLost");
  EXPECT_EQ(head.lost(), 1U);
}

HANDLER_TEST(HeadHandlers, Pulse, OfARankThatIsNoneIsDamaged) {
  EXPECT_DAMAGED(head.handle(1, core::Pulse{{{4, "", false, {}}}, {}}));
  EXPECT_DAMAGED(head.handle(1, core::Pulse{{{0, "", false, {}}}, {}})) << "the head";
  EXPECT_EQ(head.lost(), 0U);
}

// ---- tasks -------------------------------------------------------------------------------------------------------

HANDLER_TEST(HeadHandlers, Submit, GoesToARankWithRoom) {
  Tasks one = tasks().by(2, 7);
  const std::string words = on(2, one.submit());
  EXPECT_TRUE(words == "1: Assign" || words == "2: Assign") << words;
  const auto assign = sent<core::Assign>();
  EXPECT_EQ(assign.range.span, one.range().span);
  EXPECT_EQ(assign.range.begin, 0U);
  EXPECT_EQ(assign.range.end, 1U);
  EXPECT_EQ(assign.attempt, 1U);
  EXPECT_EQ(assign.body.function, tests::kTwice.index);
  int argument = 0;
  ASSERT_EQ(assign.body.args.size(), sizeof argument);
  std::memcpy(&argument, assign.body.args.data(), sizeof argument);
  EXPECT_EQ(argument, 1);
  EXPECT_EQ(head.unfinished(), 1U);
}

HANDLER_TEST(HeadHandlers, Submit, ThatNoRankCanMeetFails) {
  EXPECT_EQ(on(2, tasks().by(2).demand({64, 0, 0, {}}).submit()), "2: Result");
  const auto result = sent<core::Result>();
  ASSERT_EQ(result.errors.size(), 1U);
  EXPECT_EQ(result.errors[0].error.kind, core::ErrorKind::infeasible);
  EXPECT_EQ(head.what_is_left(), "");
}

HANDLER_TEST(HeadHandlers, Submit, OfWhatWaitsGoesAheadToWhereItsInputIsMade) {
  const Tasks first = tasks().by(1, 1);
  const RankId rank = start(first);
  const std::string assigned = std::to_string(rank) + ": Assign";
  EXPECT_EQ(on(1, tasks(tests::kAdd).by(1, 2).after(first.id()).submit()), assigned);
  const auto assign = sent<core::Assign>();
  ASSERT_EQ(assign.deps.size(), 1U);
  EXPECT_EQ(assign.deps[0].where, core::Where::maker);
  EXPECT_EQ(assign.deps[0].rank, rank);
}

HANDLER_TEST(HeadHandlers, Submit, OfKeptTasksCountsThemAtTheirRank) {
  EXPECT_EQ(on(1, tasks().from(0, 3).kept().submit()), "1: TakeBack") << "rank 2 has nothing to do";
  EXPECT_EQ(head.assigned_to(1), 3U);
  EXPECT_EQ(on(1, tasks().from(0, 3).done()), "");
  EXPECT_EQ(head.what_is_left(), "");
}

HANDLER_TEST(HeadHandlers, Submit, OfAnActorIsLocatedOnceItIsMade) {
  const Tasks actor = counter().by(2);
  const RankId rank = start(actor);
  EXPECT_EQ(on(1, core::Locate{actor.id()}), "");
  EXPECT_EQ(on(rank, actor.stored(0)), "1: Located");
  EXPECT_EQ(sent<core::Located>().rank, rank);
  EXPECT_EQ(head.actors(), 1U);
}

HANDLER_TEST(HeadHandlers, Submit, OfAGangGoesToAllItsRanks) {
  EXPECT_EQ(on(1, gang(2).by(1).submit()), "1: Assign; 2: Assign");
  const auto assigns = recorder.all<core::Assign>();
  EXPECT_EQ(assigns[0].gang.gang, assigns[1].gang.gang);
  EXPECT_EQ(assigns[0].gang.place + assigns[1].gang.place, 1U);
  EXPECT_EQ(assigns[0].gang.members, (std::vector<RankId>{1, 3})) << "a stretch of ranks";
}

HANDLER_TEST(HeadHandlers, Submit, WhenTheJobEndsFailsForTheDriver) {
  head.drain("the time is up");
  recorder.take();
  EXPECT_EQ(on(0, tasks().by(0).submit()), "0: Result");
  EXPECT_EQ(sent<core::Result>().errors.front().error.message, "the time is up, and the task had not begun");
}

HANDLER_TEST(HeadHandlers, Submit, ThatCannotBeIsDamaged) {
  EXPECT_DAMAGED(head.handle(1, tasks().by(2).submit())) << "of another rank's";
  EXPECT_DAMAGED(head.handle(1, tasks().from(3, 3).submit())) << "of none";
  core::Submit unknown = tasks().submit();
  unknown.body.function = 1'000'000;
  EXPECT_DAMAGED(head.handle(1, unknown));
  EXPECT_DAMAGED(head.handle(1, gang(2).from(0, 3).submit())) << "of another number than members";
  EXPECT_DAMAGED(head.handle(1, tasks().demand({-1, 0, 0, {}}).submit())) << "of less than nothing";
  EXPECT_DAMAGED(head.handle(1, tasks().demand({1, 0, 0, {{"lamp", std::nan("")}}}).submit()));
  EXPECT_DAMAGED(head.handle(1, tasks().holding(object_of(4, 1)).submit())) << "of a ref to nowhere";
  EXPECT_EQ(head.what_is_left(), "") << head.describe_entries();
}

HANDLER_TEST(HeadHandlers, Submit, OfWhatIsThereIsDamaged) {
  const RankId rank = start(tasks().from(0, 3));
  EXPECT_DAMAGED(head.handle(1, tasks().from(0, 3).submit()));
  EXPECT_DAMAGED(head.handle(1, tasks().from(2, 5).submit()));
  start(tasks().by(1, 2).from(4, 5));
  EXPECT_DAMAGED(head.handle(1, tasks().by(1, 2).from(3, 6).submit()));
  EXPECT_EQ(head.unfinished(), 4U);
  head.worker_lost(rank);
}

// The rank that has sent it is lost then, and what it had submitted is dropped.
HANDLER_TEST(HeadHandlers, Submit, OfAnActorThatIsSeveralTasksIsDamaged) {
  EXPECT_DAMAGED(head.handle(1, counter().from(0, 2).submit()));
  head.worker_lost(1);
  EXPECT_EQ(step(), "0: RankLost; 2: RankLost");
  EXPECT_EQ(head.what_is_left(), "");
}

HANDLER_TEST(HeadHandlers, Submit, OfAnActorThatLivesIsDamaged) {
  make(counter());
  EXPECT_DAMAGED(head.handle(1, counter().submit()));
}

HANDLER_TEST(HeadHandlers, Done, EndsTheTask) {
  const Tasks one = tasks();
  const RankId rank = start(one);
  EXPECT_EQ(on(rank, one.done()), "");
  EXPECT_EQ(head.ended(), 1U);
  EXPECT_EQ(head.what_is_left(), "");
  EXPECT_EQ(on(rank, one.done()), "");
  EXPECT_EQ(head.ended(), 1U) << "it came twice";
}

HANDLER_TEST(HeadHandlers, Done, OfSomeTasksLeavesTheRest) {
  ASSERT_EQ(on(1, tasks().from(0, 5).kept().submit()), "1: TakeBack");
  EXPECT_EQ(on(1, tasks().from(1, 3).done()), "");
  EXPECT_EQ(head.unfinished(), 3U);
  EXPECT_EQ(head.assigned_to(1), 3U);
}

HANDLER_TEST(HeadHandlers, Done, LetsOthersBegin) {
  const Tasks first = tasks().by(1, 1);
  Tasks second = tasks(tests::kAdd).by(1, 2).after(first.id());
  second.demand({1, 0, 0, {}}).options().name = "second";
  ASSERT_EQ(on(1, first.submit()).substr(1), ": Assign");
  const RankId rank = rank_of(first.id());
  EXPECT_EQ(on(2, tasks(tests::kAdd).by(2, 1).after(first.id()).on_rank(3 - rank).submit()), "");
  EXPECT_EQ(on(rank, first.done()), std::to_string(3 - rank) + ": Assign");
  EXPECT_EQ(sent<core::Assign>().deps[0].where, core::Where::rank);
  EXPECT_EQ(sent<core::Assign>().deps[0].rank, 1U) << "a small result is with its owner";
}

HANDLER_TEST(HeadHandlers, Done, TellsWhereALargeResultStays) {
  const Tasks one = tasks().by(1).on_rank(2);
  ASSERT_EQ(start(one), 2U);
  EXPECT_EQ(on(2, one.stored(kLarge)), "");
  EXPECT_EQ(head.entries(), 1U);
  EXPECT_EQ(where_is(one.id()), "rank 2");
}

HANDLER_TEST(HeadHandlers, Done, WithAnErrorFailsWhatWaits) {
  const Tasks first = tasks().by(1).on_rank(1);
  ASSERT_EQ(start(first), 1U);
  ASSERT_EQ(on(2, tasks(tests::kAdd).by(2).after(first.id()).on_rank(2).submit()), "");
  EXPECT_EQ(on(1, first.failed(thrown_by(first.id()))), "2: Result");
  EXPECT_EQ(sent<core::Result>().errors.front().error.message, "thrown");
  EXPECT_EQ(head.unfinished(), 0U);
}

HANDLER_TEST(HeadHandlers, Done, WithAnErrorRunsAgainIfItMay) {
  const Tasks one = tasks().by(1).on_rank(1).retries(1, true);
  ASSERT_EQ(start(one), 1U);
  EXPECT_EQ(on(1, one.failed(thrown_by(one.id()))), "1: Assign");
  EXPECT_EQ(sent<core::Assign>().attempt, 2U);
  EXPECT_EQ(head.retried(), 1U);
  EXPECT_EQ(on(1, one.failed(thrown_by(one.id()))), "");
  EXPECT_EQ(head.unfinished(), 0U);
}

HANDLER_TEST(HeadHandlers, Done, OfATaskThatGoesOnKeepsWhatItHolds) {
  const Tasks one = tasks().by(1).on_rank(1).retries(1, true);
  const Tasks next = tasks().by(1, 2).on_rank(1);
  ASSERT_EQ(start(one), 1U);
  core::Done done = one.failed(thrown_by(one.id()));
  done.overtime = 3;
  EXPECT_EQ(on(1, done), "") << "it is not tried again";
  EXPECT_EQ(head.unfinished(), 0U);
  EXPECT_EQ(head.why_not_sums(), "");
  EXPECT_NE(head.what_is_left(), "");
  EXPECT_EQ(head.scheduler().free().cpus, 1) << "of two ranks with a slot each";
  EXPECT_EQ(on(1, next.submit()), "");
  EXPECT_EQ(on(1, core::Waits{one.id(), true, 3}), "") << "of a plain task Lending tells";
  EXPECT_EQ(on(1, core::OvertimeEnded{3}), "1: Assign");
  EXPECT_EQ(head.why_not_sums(), "");
}

// Its input came to its rank before the word of that came to the head.
HANDLER_TEST(HeadHandlers, Done, OfATaskThatGoesOnAheadOfItsInputs) {
  const Tasks input = tasks().by(1).on_rank(1);
  ASSERT_EQ(start(input), 1U);
  const Tasks one = tasks(tests::kAdd).by(1, 2).after(input.id());
  ASSERT_EQ(start(one), 1U);
  core::Done done = one.failed(thrown_by(one.id()));
  done.overtime = 1;
  EXPECT_EQ(on(1, done), "1: TakeBack") << "of what may begin elsewhere sooner";
  EXPECT_EQ(head.why_not_sums(), "");
  EXPECT_EQ(on(1, input.done()), "");
  EXPECT_EQ(head.scheduler().free().cpus, 1);
  EXPECT_EQ(on(1, core::OvertimeEnded{1}), "");
  EXPECT_EQ(head.scheduler().free().cpus, 2);
}

HANDLER_TEST(HeadHandlers, Done, OfATaskThatGoesOnAsAnotherIsDamaged) {
  const Tasks one = tasks().by(1).on_rank(1);
  core::Done done = one.done();
  done.overtime = 3;
  ASSERT_EQ(start(one), 1U);
  ASSERT_EQ(on(1, done), "");
  const Tasks next = tasks().by(1, 2);
  ASSERT_EQ(start(next), 2U);
  done = next.done();
  done.overtime = 3;
  EXPECT_EQ(on(2, done), "") << "that is another rank's";
  EXPECT_EQ(on(1, core::OvertimeEnded{3}), "");
  const Tasks several = tasks().by(1, 3).from(0, 2);
  ASSERT_EQ(start(several), 1U);
  done = several.done();
  done.overtime = 4;
  EXPECT_DAMAGED(head.handle(1, done));
}

HANDLER_TEST(HeadHandlers, OvertimeEnded, FreesItsCpus) {
  const Tasks one = tasks().by(1).on_rank(1);
  ASSERT_EQ(start(one), 1U);
  core::Done done = one.done();
  done.overtime = 1;
  ASSERT_EQ(on(1, done), "");
  EXPECT_EQ(head.scheduler().free().cpus, 1);
  EXPECT_EQ(on(1, core::OvertimeEnded{1}), "");
  EXPECT_EQ(head.scheduler().free().cpus, 2);
  EXPECT_EQ(head.what_is_left(), "");
}

HANDLER_TEST(HeadHandlers, OvertimeEnded, OfNothingIsDamaged) {
  EXPECT_DAMAGED(head.handle(1, core::OvertimeEnded{1}));
}

HANDLER_TEST(HeadHandlers, Done, WithTheErrorOfAnInputFailsAtOnce) {
  const Tasks one = tasks().by(1).on_rank(1).retries(1, true);
  ASSERT_EQ(start(one), 1U);
  EXPECT_EQ(on(1, one.failed(thrown_by(object_of(2, 9)))), "1: Result");
  EXPECT_EQ(sent<core::Result>().errors.front().error.message, "thrown");
}

HANDLER_TEST(HeadHandlers, Done, HoldsWhatTheResultHolds) {
  const ObjectId inner = made(5);
  const Tasks one = tasks().by(1).on_rank(2);
  ASSERT_EQ(start(one), 2U);
  core::Done done = one.done();
  done.refs = {{0, inner}};
  EXPECT_EQ(on(2, done), "");
  EXPECT_EQ(on(1, core::Holds{{}, {inner}, {}}), "") << "the result still holds it";
  EXPECT_EQ(on(1, core::Holds{{}, {one.id()}, {}}), "1: Free");
  EXPECT_EQ(sent<core::Free>().ids.size(), 2U);
  EXPECT_EQ(head.entries(), 0U);
}

HANDLER_TEST(HeadHandlers, Done, OfARankThatDoesNotHaveItIsPassedOver) {
  const Tasks one = tasks().by(1).on_rank(2);
  ASSERT_EQ(start(one), 2U);
  EXPECT_EQ(on(1, one.done()), "");
  EXPECT_EQ(head.unfinished(), 1U);
  EXPECT_EQ(on(1, tasks().by(1, 99).done()), "") << "nobody knows that task";
}

HANDLER_TEST(HeadHandlers, Done, OfNoTaskIsDamaged) { EXPECT_DAMAGED(head.handle(1, tasks().from(2, 2).done())); }

// Nothing of it is done then: when its rank is lost, the task runs elsewhere.
HANDLER_TEST(HeadHandlers, Done, WithARefToNowhereIsDamaged) {
  const Tasks one = tasks().by(1);
  const RankId rank = start(one);
  core::Done done = one.done();
  done.refs = {{0, object_of(4, 1)}};
  EXPECT_DAMAGED(head.handle(rank, done));
  EXPECT_EQ(head.unfinished(), 1U);
}

HANDLER_TEST(HeadHandlers, Done, OfSeveralThatRunAgainOneByOneIsDamaged) {
  const Tasks two = tasks().from(0, 2).retries(1, true).kept();
  ASSERT_EQ(on(1, two.submit()), "1: TakeBack");
  EXPECT_DAMAGED(head.handle(1, two.failed(thrown_by(two.id()))));
  EXPECT_EQ(head.unfinished(), 2U);
}

HANDLER_TEST(HeadHandlers, GaveBack, QueuesTheTasksAnew) {
  const Tasks one = tasks();
  const RankId rank = start(one);
  const std::string words = on(rank, core::GaveBack{{one.range()}});
  EXPECT_EQ(words.substr(1), ": Assign");
  EXPECT_EQ(sent<core::Assign>().range.span, one.range().span);
  EXPECT_EQ(sent<core::Assign>().attempt, 1U) << "it has not run";
  EXPECT_EQ(head.unfinished(), 1U);
}

// It is not made any more, and who killed it does not wait until there would be room for it.
HANDLER_TEST(HeadHandlers, GaveBack, OfAnActorThatWasKilled) {
  const Tasks actor = counter().by(2);
  const RankId rank = start(actor);
  EXPECT_EQ(on(1, ask(Question::kill, actor.id())), "");
  EXPECT_EQ(on(rank, core::GaveBack{{actor.range()}}), "1: Answer; 2: Result");
  EXPECT_TRUE(sent<core::Answer>().yes);
  EXPECT_EQ(head.unfinished(), 0U);
}

HANDLER_TEST(HeadHandlers, GaveBack, OfNothing) {
  const Tasks one = tasks().on_rank(1);
  ASSERT_EQ(start(one), 1U);
  EXPECT_EQ(on(1, core::GaveBack{}), "");
  EXPECT_EQ(on(2, core::GaveBack{{one.range(), {SpanId::make(3, 3), 0, 9}}}), "") << "it does not have them";
  EXPECT_EQ(rank_of(one.id()), 1U);
}

HANDLER_TEST(HeadHandlers, GaveBack, OfWhatTheRankMustKeepIsDamaged) {
  head.handle(1, core::Promised{object_of(1, 9), tests::kStep.index});
  EXPECT_DAMAGED(head.handle(1, core::GaveBack{{{SpanId::make(1, 9), 0, 1}}}));
  EXPECT_EQ(head.assigned_to(1), 1U);
}

HANDLER_TEST(HeadHandlers, Lending, MakesRoomForOthers) {
  for (const RankId rank : {1U, 2U}) ASSERT_EQ(start(filling(rank, rank, 1)), rank);
  const Tasks half = tasks().by(2, 2).demand({0.5, 0, 0, {}});
  ASSERT_EQ(on(2, half.submit()), "");
  EXPECT_EQ(on(1, core::Lending{1}), "1: Assign");
  EXPECT_EQ(sent<core::Assign>().range.span, half.range().span);
}

HANDLER_TEST(HeadHandlers, Lending, OfMoreByMembersThanByAllIsDamaged) {
  EXPECT_DAMAGED(head.handle(1, core::Lending{1, 2, 0}));
  EXPECT_DAMAGED(head.handle(1, core::Lending{1, std::nan(""), 0}));
}

HANDLER_TEST(HeadHandlers, Lending, OfWhatIsNoNumberOfCpusIsDamaged) {
  EXPECT_DAMAGED(head.handle(1, core::Lending{-1}));
  EXPECT_DAMAGED(head.handle(1, core::Lending{std::nan("")}));
  EXPECT_DAMAGED(head.handle(1, core::Lending{std::numeric_limits<double>::infinity()}));
}

HANDLER_TEST(HeadHandlers, Waits, OfAMemberIsToldToItsGang) {
  ASSERT_EQ(on(1, gang(2).by(1).submit()), "1: Assign; 2: Assign");
  const auto assigns = recorder.all<core::Assign>();
  const auto waits = [&assigns](std::size_t place, bool says) {
    return core::Waits{{assigns[place].range.span, assigns[place].range.begin}, says};
  };
  EXPECT_EQ(on(2, waits(0, true)), "") << "that rank does not have it";
  EXPECT_EQ(on(1, waits(0, true)), "1: GangWaits; 2: GangWaits");
  EXPECT_TRUE(recorder.all<core::GangWaits>().back().waits);
  EXPECT_EQ(on(1, waits(0, true)), "");
  EXPECT_EQ(on(2, waits(1, true)), "");
  EXPECT_EQ(on(1, waits(0, false)), "") << "the other one waits still";
  EXPECT_EQ(on(2, waits(1, false)), "1: GangWaits; 2: GangWaits");
  EXPECT_FALSE(recorder.all<core::GangWaits>().back().waits);
  EXPECT_EQ(on(2, waits(1, false)), "");
}

HANDLER_TEST(HeadHandlers, Waits, MakesRoomInABundle) {
  const ObjectId group = object_of(1, 50);
  core::WireOptions bundles;
  bundles.demands = {{1, 0, 0, {}}};
  ASSERT_EQ(on(1, ask(Question::bundles, group, bundles)), "1: Result, Answer");
  const Tasks first = tasks().by(1, 1).in_bundle(group).holding(group);
  const Tasks second = tasks().by(1, 2).in_bundle(group).holding(group);
  const RankId rank = start(first);
  ASSERT_EQ(on(1, second.submit()), "");
  EXPECT_EQ(on(3 - rank, core::Waits{first.id(), true}), "") << "that rank does not have it";
  EXPECT_EQ(on(rank, core::Waits{object_of(3, 3), true}), "") << "nobody knows that one";
  EXPECT_EQ(on(rank, core::Waits{first.id(), true}), std::to_string(rank) + ": Assign");
  EXPECT_EQ(sent<core::Assign>().range.span, second.range().span);
}

HANDLER_TEST(HeadHandlers, CancelResult, FailsTheTask) {
  const Tasks one = tasks().by(2).on_rank(1);
  ASSERT_EQ(start(one), 1U);
  ASSERT_EQ(on(3, ask(Question::cancel, one.id())), "1: CancelTask");
  EXPECT_EQ(on(1, core::CancelResult{sent<core::CancelTask>().token, one.id(), true}), "2: Result; 3: Answer");
  EXPECT_EQ(sent<core::Result>().errors.front().error.kind, core::ErrorKind::cancelled);
  EXPECT_EQ(sent<core::Answer>().token, token);
  EXPECT_TRUE(sent<core::Answer>().yes);
  EXPECT_EQ(head.what_is_left(), "");
}

HANDLER_TEST(HeadHandlers, CancelResult, ThatItRunsAlready) {
  const Tasks one = tasks().by(2).on_rank(1);
  ASSERT_EQ(start(one), 1U);
  ASSERT_EQ(on(2, ask(Question::cancel, one.id())), "1: CancelTask");
  EXPECT_EQ(on(1, core::CancelResult{sent<core::CancelTask>().token, one.id(), false}), "2: Answer");
  EXPECT_FALSE(sent<core::Answer>().yes);
  EXPECT_EQ(head.unfinished(), 1U);
}

// It gave the task back before it was asked to cancel it.
HANDLER_TEST(HeadHandlers, CancelResult, ThatTheRankHasItNoMore) {
  const Tasks one = tasks().by(2);
  const RankId rank = start(one);
  ASSERT_EQ(on(3, ask(Question::cancel, one.id())), std::to_string(rank) + ": CancelTask");
  const core::CancelResult no{sent<core::CancelTask>().token, one.id(), false};
  head.handle(rank, core::GaveBack{{one.range()}});
  EXPECT_EQ(on(rank, no), "2: Result; 3: Answer");
  EXPECT_EQ(sent<core::Result>().errors.front().error.kind, core::ErrorKind::cancelled);
  EXPECT_TRUE(sent<core::Answer>().yes);
  EXPECT_EQ(head.what_is_left(), "");
}

HANDLER_TEST(HeadHandlers, CancelResult, OfWhatWasNotAskedIsPassedOver) {
  const Tasks one = tasks().by(2).on_rank(1);
  ASSERT_EQ(start(one), 1U);
  EXPECT_EQ(on(1, core::CancelResult{77, one.id(), true}), "");
  EXPECT_EQ(head.unfinished(), 1U);
}

// ---- gangs -------------------------------------------------------------------------------------------------------

class HeadGangs : public HeadHandlers {
 protected:
  // A gang on ranks 1 and 2, submitted by rank 1.
  HeadGangs() {
    EXPECT_EQ(on(1, two.submit()), "1: Assign; 2: Assign");
    id = recorder.all<core::Assign>().front().gang.gang;
  }
  // On ranks 1 and 2 in that order.
  core::Member member(RankId rank, MemberState state) const { return {id, rank - 1, state, {}}; }

  const Tasks two = gang(2).by(1).retries(0);
  std::uint64_t id = 0;
};

HANDLER_TEST(HeadGangs, Member, OfWhichAllEndedWell) {
  EXPECT_EQ(on(1, member(1, MemberState::ended)), "");
  EXPECT_EQ(on(2, member(2, MemberState::ended)), "1: GangOver; 2: GangOver");
  for (const auto& over : recorder.all<core::GangOver>()) EXPECT_TRUE(over.good && over.gang == id);
  EXPECT_EQ(head.gangs(), 0U);
  EXPECT_EQ(on(1, tasks().from(0, 1).done()), "");
  EXPECT_EQ(on(2, tasks().from(1, 2).done()), "");
  EXPECT_EQ(head.unfinished(), 0U);
}

HANDLER_TEST(HeadGangs, Member, ThatFailsBreaksTheGang) {
  core::Member failed = member(2, MemberState::failed);
  failed.error = thrown_by(two.id(1));
  EXPECT_EQ(on(2, failed), "1: GangOver; 2: GangOver");
  for (const auto& over : recorder.all<core::GangOver>()) EXPECT_FALSE(over.good);
  EXPECT_EQ(on(1, member(1, MemberState::dropped)), "1: DropCommunicator, Result; 2: DropCommunicator");
  ASSERT_EQ(sent<core::Result>().errors.size(), 2U);
  EXPECT_EQ(sent<core::Result>().errors[0].error.message, "thrown");
  EXPECT_EQ(head.what_is_left(), "");
}

HANDLER_TEST(HeadGangs, Member, ThatTimesOutSaysMoreWhenItComesBack) {
  EXPECT_EQ(on(1, member(1, MemberState::timed_out)), "1: GangOver; 2: GangOver");
  EXPECT_EQ(on(2, member(2, MemberState::dropped)), "");
  EXPECT_EQ(on(1, member(1, MemberState::dropped)), "1: DropCommunicator, Result; 2: DropCommunicator");
  EXPECT_EQ(head.gangs(), 0U);
}

HANDLER_TEST(HeadGangs, Member, ThatIsStuckKeepsWhatItHoldsUntilItIsFreed) {
  ASSERT_EQ(on(1, member(1, MemberState::failed)), "1: GangOver; 2: GangOver");
  EXPECT_EQ(on(2, member(2, MemberState::stuck)), "1: Result");
  EXPECT_EQ(head.stuck(), 1U);
  EXPECT_EQ(on(2, member(2, MemberState::freed)), "1: DropCommunicator; 2: DropCommunicator");
  EXPECT_TRUE(recorder.all<core::DropCommunicator>().front().broken);
  EXPECT_EQ(head.stuck(), 0U);
  EXPECT_EQ(on(2, member(2, MemberState::freed)), "");
  EXPECT_EQ(head.what_is_left(), "");
}

HANDLER_TEST(HeadGangs, Member, ThatIsStuckMayTimeOut) {
  ASSERT_EQ(on(1, member(1, MemberState::timed_out)), "1: GangOver; 2: GangOver");
  ASSERT_EQ(on(2, member(2, MemberState::stuck)), "");
  EXPECT_EQ(on(2, member(2, MemberState::timed_out)), "");
  EXPECT_EQ(on(1, member(1, MemberState::dropped)), "1: Result");
  EXPECT_EQ(head.stuck(), 1U);
}

HANDLER_TEST(HeadGangs, Member, OfAGangThatIsOverIsPassedOver) {
  EXPECT_EQ(on(1, core::Member{id + 1, 0, MemberState::failed, {}}), "");
  EXPECT_EQ(head.gangs(), 1U);
}

HANDLER_TEST(HeadGangs, Member, OfAnotherRankIsDamaged) {
  EXPECT_DAMAGED(head.handle(2, member(1, MemberState::ended)));
  EXPECT_DAMAGED(head.handle(1, core::Member{id, 2, MemberState::ended, {}})) << "there is no such place";
}

HANDLER_TEST(HeadGangs, Member, ThatSpeaksTwiceIsDamaged) {
  EXPECT_EQ(on(1, member(1, MemberState::ended)), "");
  EXPECT_DAMAGED(head.handle(1, member(1, MemberState::ended)));
  EXPECT_EQ(head.gangs(), 1U) << "the other one has not ended";
  ASSERT_EQ(on(2, member(2, MemberState::failed)),
            "1: GangOver, DropCommunicator, Result; 2: GangOver, DropCommunicator");
}

HANDLER_TEST(HeadGangs, Member, ThatIsDroppedTwiceIsDamaged) {
  ASSERT_EQ(on(1, member(1, MemberState::failed)), "1: GangOver; 2: GangOver");
  EXPECT_DAMAGED(head.handle(1, member(1, MemberState::dropped)));
  EXPECT_EQ(head.gangs(), 1U);
}

HANDLER_TEST(HeadGangs, Member, ThatGivesUpUntoldIsDamaged) {
  EXPECT_DAMAGED(head.handle(1, member(1, MemberState::dropped)));
  EXPECT_DAMAGED(head.handle(1, member(1, MemberState::stuck)));
  EXPECT_DAMAGED(head.handle(1, member(1, MemberState::runs)));
  EXPECT_EQ(head.unfinished(), 2U);
}

HANDLER_TEST(HeadGangs, Done, OfAMemberBeforeTheGangIsOverIsDamaged) {
  EXPECT_DAMAGED(head.handle(1, tasks().from(0, 1).done()));
  EXPECT_EQ(on(2, member(2, MemberState::failed)), "1: GangOver; 2: GangOver");
  EXPECT_EQ(on(1, member(1, MemberState::dropped)), "1: DropCommunicator, Result; 2: DropCommunicator");
  EXPECT_EQ(head.unfinished(), 0U);
}

HANDLER_TEST(HeadGangs, GaveBack, OfAMemberIsDamaged) {
  EXPECT_DAMAGED(head.handle(1, core::GaveBack{{two.range()}}));
  EXPECT_EQ(head.assigned_to(1), 1U);
}

class HeadDrains : public HeadHandlers {
 protected:
  // The job is told to end while a gang of the driver's on ranks 1 and 2 waits for the word of its first member: the
  // second one has failed.
  void drain_a_broken(const Tasks& two) {
    ASSERT_EQ(on(0, two.submit()), "1: Assign; 2: Assign");
    id = recorder.all<core::Assign>().front().gang.gang;
    ASSERT_EQ(on(2, core::Member{id, 1, MemberState::failed, thrown_by(two.id(1))}), "1: GangOver; 2: GangOver");
    head.drain("the time is up");
    EXPECT_EQ(recorder.take(), "1: TakeBack, Drain; 2: TakeBack, Drain") << "nothing of the gang: it ends as a whole";
    EXPECT_EQ(head.unfinished(), 2U);
  }
  void expect_drained() {
    EXPECT_EQ(on(1, core::Saved{}), "");
    EXPECT_EQ(on(2, core::Saved{}), "");
    EXPECT_TRUE(head.drained());
    EXPECT_EQ(head.what_is_left(), "");
  }

  std::uint64_t id = 0;
};

HANDLER_TEST(HeadDrains, Member, OfABrokenGangSpeaksAfterAll) {
  drain_a_broken(gang(2).by(0).retries(0));
  EXPECT_EQ(on(1, core::Member{id, 0, MemberState::dropped, {}}),
            "0: Result; 1: DropCommunicator; 2: DropCommunicator");
  ASSERT_EQ(sent<core::Result>().errors.size(), 2U);
  EXPECT_EQ(sent<core::Result>().errors[0].error.message, "thrown");
  expect_drained();
}

HANDLER_TEST(HeadDrains, Member, OfABrokenGangIsStuck) {
  drain_a_broken(gang(2).by(0).retries(0));
  EXPECT_EQ(on(1, core::Member{id, 0, MemberState::stuck, {}}), "0: Result");
  EXPECT_EQ(on(1, core::Member{id, 0, MemberState::freed, {}}), "1: DropCommunicator; 2: DropCommunicator");
  expect_drained();
}

HANDLER_TEST(HeadDrains, Member, OfAGangThatWouldRunAgain) {
  drain_a_broken(gang(2).by(0).retries(1, true));
  EXPECT_EQ(on(1, core::Member{id, 0, MemberState::dropped, {}}),
            "0: Result; 1: DropCommunicator; 2: DropCommunicator");
  ASSERT_EQ(sent<core::Result>().errors.size(), 2U);
  EXPECT_EQ(sent<core::Result>().errors[0].error.kind, core::ErrorKind::cancelled);
  EXPECT_EQ(sent<core::Result>().errors[0].error.message, "the time is up, and the task had not begun");
  expect_drained();
}

// ---- objects -----------------------------------------------------------------------------------------------------

HANDLER_TEST(HeadHandlers, Made, IsFoundAtItsOwner) {
  EXPECT_EQ(on(1, core::Made{object_of(1, 1), kLarge, {}}), "");
  EXPECT_EQ(head.entries(), 1U);
  EXPECT_EQ(where_is(object_of(1, 1)), "rank 1");
}

HANDLER_TEST(HeadHandlers, Made, MayStayAtAnotherRank) {
  EXPECT_EQ(on(1, core::Made{object_of(1, 1), kLarge, {}, 2}), "");
  EXPECT_EQ(where_is(object_of(1, 1)), "rank 2");
}

HANDLER_TEST(HeadHandlers, Made, AtARankThatIsLostIsGone) {
  head.worker_lost(2);
  step();
  EXPECT_EQ(on(1, core::Made{object_of(1, 1), kLarge, {}, 2}), "");
  EXPECT_NE(where_is(object_of(1, 1)).find("was on rank 2, which is gone"), std::string::npos);
}

HANDLER_TEST(HeadHandlers, Made, HoldsWhatItContains) {
  const ObjectId inner = made(1);
  EXPECT_EQ(on(1, core::Made{object_of(1, 2), kLarge, {inner}}), "");
  EXPECT_EQ(on(1, core::Holds{{}, {inner}, {}}), "");
  EXPECT_EQ(on(1, core::Holds{{}, {object_of(1, 2)}, {}}), "1: Free");
  EXPECT_EQ(sent<core::Free>().ids.size(), 2U);
}

HANDLER_TEST(HeadHandlers, Made, ThatCannotBeIsDamaged) {
  EXPECT_DAMAGED(head.handle(2, core::Made{object_of(1, 1), 1, {}})) << "of another's";
  EXPECT_DAMAGED(head.handle(1, core::Made{object_of(1, 1), 1, {}, 4})) << "at no rank";
  EXPECT_DAMAGED(head.handle(1, core::Made{object_of(1, 1), 1, {made(2), object_of(4, 1)}})) << "holds what is nowhere";
  EXPECT_EQ(on(1, core::Holds{{}, {object_of(1, 2)}, {}}), "1: Free") << "nothing was done of that";
}

HANDLER_TEST(HeadHandlers, Holds, KeepAnObjectUntilTheLastIsDropped) {
  const ObjectId id = made(1);
  EXPECT_EQ(on(2, core::Holds{{id}, {}, {}}), "");
  EXPECT_EQ(on(1, core::Holds{{}, {id}, {}}), "");
  EXPECT_EQ(on(2, core::Holds{{}, {id}, {}}), "1: Free");
  ASSERT_EQ(sent<core::Free>().ids.size(), 1U);
  EXPECT_EQ(sent<core::Free>().ids[0], id);
  EXPECT_EQ(head.what_is_left(), "");
}

HANDLER_TEST(HeadHandlers, Holds, MayComeAfterTheDrop) {
  const ObjectId id = made(1);
  EXPECT_EQ(on(2, core::Holds{{}, {id}, {}}), "");
  EXPECT_EQ(on(2, core::Holds{{id}, {}, {}}), "") << "the owner holds it";
  EXPECT_EQ(on(1, core::Holds{{}, {id}, {}}), "1: Free");
}

HANDLER_TEST(HeadHandlers, Holds, OfWhatNobodyKnowsTellsTheOwner) {
  EXPECT_EQ(on(1, core::Holds{{}, {object_of(1, 3)}, {}}), "1: Free");
  EXPECT_EQ(head.what_is_left(), "");
}

HANDLER_TEST(HeadHandlers, Holds, DropAWholeSpan) {
  const ObjectId id = made(1);
  EXPECT_EQ(on(1, core::Holds{{}, {}, {id.span, SpanId::make(1, 44)}}), "1: Free");
  EXPECT_EQ(head.what_is_left(), "");
}

HANDLER_TEST(HeadHandlers, Holds, ThatCannotBeAreDamagedAsAWhole) {
  const ObjectId id = made(1);
  EXPECT_DAMAGED(head.handle(2, core::Holds{{id, object_of(4, 1)}, {}, {}}));
  EXPECT_DAMAGED(head.handle(1, core::Holds{{}, {id, object_of(4, 1)}, {}}));
  EXPECT_DAMAGED(head.handle(1, core::Holds{{}, {id}, {SpanId::make(2, 1)}})) << "a span of another";
  EXPECT_EQ(step(), "");
  EXPECT_EQ(on(1, core::Holds{{}, {id}, {}}), "1: Free");
}

HANDLER_TEST(HeadHandlers, Locate, NamesTheRankThatMakesIt) {
  const Tasks one = tasks().by(1).on_rank(2);
  ASSERT_EQ(start(one), 2U);
  EXPECT_EQ(where_is(one.id()), "rank 2");
  EXPECT_EQ(sent<core::Located>().turn, 0U);
}

HANDLER_TEST(HeadHandlers, Locate, WaitsUntilThereIsARank) {
  ASSERT_EQ(start(filling(2, 1, 1)), 2U);
  const Tasks second = filling(2, 1, 2);
  ASSERT_EQ(on(1, second.submit()), "");
  EXPECT_EQ(on(0, core::Locate{second.id()}), "0: Located") << "its result comes to its owner";
  EXPECT_EQ(sent<core::Located>().rank, 1U);
  ASSERT_EQ(on(0, core::Holds{{second.id()}, {}, {}}), "");
  EXPECT_EQ(on(0, core::Locate{second.id()}), "");
  EXPECT_EQ(on(2, tasks().by(1, 1).done()), "0: Located; 2: Assign");
  EXPECT_EQ(sent<core::Located>().rank, 2U);
}

HANDLER_TEST(HeadHandlers, Locate, ForATaskTakesBackWhatHoldsUpTheMaker) {
  ASSERT_EQ(start(filling(2, 1, 1)), 2U);
  const Tasks second = filling(2, 1, 2);
  ASSERT_EQ(on(1, second.submit()), "");
  ASSERT_EQ(on(2, core::Holds{{second.id()}, {}, {}}), "");
  EXPECT_EQ(on(2, core::Locate{second.id(), kNoRank, true}), "2: TakeBack");
  EXPECT_TRUE(sent<core::TakeBack>().waiting);
}

HANDLER_TEST(HeadHandlers, Locate, OfWhatFailed) {
  const Tasks one = tasks().by(1).on_rank(2);
  ASSERT_EQ(start(one), 2U);
  ASSERT_EQ(on(2, core::Holds{{one.id()}, {}, {}}), "");
  ASSERT_EQ(on(2, one.failed(thrown_by(one.id()))), "");
  EXPECT_EQ(where_is(one.id()), "thrown");
}

HANDLER_TEST(HeadHandlers, Locate, OfWhatIsNowhere) {
  EXPECT_NE(where_is(object_of(4, 1)).find("was on a rank that is gone"), std::string::npos);
  EXPECT_EQ(where_is(object_of(2, 1)), "rank 2") << "of an object that nobody told of its owner knows";
  EXPECT_EQ(head.entries(), 0U);
}

// Who asks for it learns that it is gone, and does not ask the two of them in turns for ever.
HANDLER_TEST(HeadHandlers, Locate, OfWhatItsOwnerHasForgotten) {
  EXPECT_EQ(on(1, core::Locate{object_of(2, 1), 2}), "1: Located") << "there it is only on its way";
  EXPECT_EQ(sent<core::Located>().rank, 2U);
  EXPECT_EQ(on(1, core::Locate{object_of(2, 1), 2, false, true}), "1: Located");
  EXPECT_EQ(sent<core::Located>().rank, kNoRank);
  EXPECT_NE(sent<core::Located>().error.message.find("was freed"), std::string::npos);
}

// Of much that has just ended, what ended first is forgotten. Its owner is asked all the same, and told.
HANDLER_TEST(HeadHandlers, Unheard, OfWhatIsForgottenFails) {
  constexpr std::uint64_t kTasks = 1'000;
  const auto task = [](std::uint64_t i) { return tasks().by(2, i + 1); };
  for (std::uint64_t i = 0; i != kTasks; ++i) {
    ASSERT_EQ(start(task(i)), 1U);
    head.handle(1, task(i).done());
  }
  head.worker_lost(1);
  ASSERT_EQ(step(), "0: RankLost; 2: RankLost");
  EXPECT_EQ(recorder.all<core::RankLost>()[1].ended.size(), kTasks);
  EXPECT_EQ(on(2, core::Unheard{1, {task(0).id(), task(kTasks - 1).id()}}), "2: Result, Assign");
  EXPECT_EQ(sent<core::Result>().errors.front().error.kind, core::ErrorKind::object_lost);
  EXPECT_EQ(sent<core::Assign>().range.span, task(kTasks - 1).range().span);
}

HANDLER_TEST(HeadHandlers, Copied, IsTakenForTheValueWhenThatIsLost) {
  const ObjectId id = made(1);
  ASSERT_EQ(on(2, core::Holds{{id}, {}, {}}), "");
  EXPECT_EQ(on(2, core::Copied{id}), "");
  head.worker_lost(1);
  EXPECT_EQ(step(), "0: RankLost; 2: RankLost, Keep");
  EXPECT_EQ(sent<core::Keep>().id, id);
  EXPECT_EQ(where_is(id), "rank 2");
}

HANDLER_TEST(HeadHandlers, Copied, IsFreedWithTheValue) {
  const ObjectId id = made(1);
  ASSERT_EQ(on(2, core::Copied{id}), "");
  EXPECT_EQ(on(1, core::Holds{{}, {id}, {}}), "1: Free; 2: Free");
}

HANDLER_TEST(HeadHandlers, Copied, OfWhatWasFreedIsFreed) {
  EXPECT_EQ(on(2, core::Copied{object_of(1, 1)}), "2: Free");
  EXPECT_EQ(sent<core::Free>().ids[0], object_of(1, 1));
  EXPECT_EQ(head.entries(), 0U);
}

HANDLER_TEST(HeadHandlers, Uncopied, IsNoCopyAnyMore) {
  const ObjectId id = made(1);
  ASSERT_EQ(on(2, core::Holds{{id}, {}, {}}), "");
  ASSERT_EQ(on(2, core::Copied{id}), "");
  EXPECT_EQ(on(2, core::Uncopied{{id, object_of(1, 99)}}), "");
  head.worker_lost(1);
  EXPECT_EQ(step(), "0: RankLost; 2: RankLost");
  EXPECT_NE(where_is(id).find("was on rank 1, which is gone"), std::string::npos);
}

// Keep was on its way.
HANDLER_TEST(HeadHandlers, Uncopied, OfWhatHasBecomeTheValueLosesIt) {
  const ObjectId id = made(1);
  ASSERT_EQ(on(2, core::Holds{{id}, {}, {}}), "");
  ASSERT_EQ(on(2, core::Copied{id}), "");
  head.worker_lost(1);
  ASSERT_EQ(step(), "0: RankLost; 2: RankLost, Keep");
  EXPECT_EQ(on(2, core::Uncopied{{id}}), "");
  EXPECT_NE(where_is(id).find("was on rank 2, which is gone"), std::string::npos);
}

class HeadLosses : public HeadHandlers {
 protected:
  // Rank 1 has said that the task of rank 2's is done, and is lost.
  HeadLosses() {
    EXPECT_EQ(start(one), 1U);
    EXPECT_EQ(on(1, one.done()), "");
    head.worker_lost(1);
    EXPECT_EQ(step(), "0: RankLost; 2: RankLost");
    const auto lost = recorder.all<core::RankLost>();
    EXPECT_TRUE(lost[0].ended.empty());
    EXPECT_EQ(lost[1].ended.size(), 1U);
  }
  // It may run anywhere, and where there is nothing else to do it goes to rank 1 first.
  Tasks one = tasks().by(2);
};

HANDLER_TEST(HeadLosses, Unheard, ResultsAreMadeAgain) {
  EXPECT_EQ(on(2, core::Unheard{1, {one.id()}}), "2: Assign");
  EXPECT_EQ(sent<core::Assign>().range.span, one.range().span);
  EXPECT_EQ(sent<core::Assign>().attempt, 2U);
  EXPECT_EQ(on(2, core::Unheard{1, {one.id()}}), "") << "that is being made";
  EXPECT_EQ(on(2, one.done()), "");
  EXPECT_EQ(head.unfinished(), 0U);
}

HANDLER_TEST(HeadLosses, Unheard, NoneIsFine) {
  EXPECT_EQ(on(2, core::Unheard{1, {}}), "");
  EXPECT_EQ(head.unfinished(), 0U);
  EXPECT_EQ(on(2, core::Unheard{1, {one.id()}}), "2: Result") << "what made it is forgotten";
  EXPECT_EQ(sent<core::Result>().errors.front().error.kind, core::ErrorKind::object_lost);
}

HANDLER_TEST(HeadLosses, Unheard, OfAnothersIsDamaged) {
  EXPECT_DAMAGED(head.handle(2, core::Unheard{1, {object_of(3, 1)}}));
}

// ---- questions ---------------------------------------------------------------------------------------------------

HANDLER_TEST(HeadHandlers, Ask, ToCancelWhatIsQueued) {
  ASSERT_EQ(start(filling(2, 1, 1)), 2U);
  const Tasks three = filling(2, 1, 2).from(0, 3);
  ASSERT_EQ(on(1, three.submit()), "");
  EXPECT_EQ(on(0, ask(Question::cancel, three.id(1))), "0: Answer; 1: Result");
  EXPECT_TRUE(sent<core::Answer>().yes);
  EXPECT_EQ(sent<core::Result>().range.begin, 1U);
  EXPECT_EQ(sent<core::Result>().range.end, 2U);
  EXPECT_EQ(sent<core::Result>().errors.front().error.kind, core::ErrorKind::cancelled);
  EXPECT_EQ(head.unfinished(), 3U);
}

HANDLER_TEST(HeadHandlers, Ask, ToCancelWhatIsNot) {
  EXPECT_EQ(on(1, ask(Question::cancel, object_of(4, 1))), "1: Answer");
  EXPECT_FALSE(sent<core::Answer>().yes);
  EXPECT_EQ(sent<core::Answer>().token, token);
}

HANDLER_TEST(HeadHandlers, Ask, ToExplain) {
  ASSERT_EQ(start(tasks().on_rank(2)), 2U);
  EXPECT_EQ(on(1, ask(Question::explain, tasks().id())), "1: Answer");
  EXPECT_EQ(sent<core::Answer>().text, head.explain(tasks().id()));
  EXPECT_NE(sent<core::Answer>().text.find("is at rank 2 on host2"), std::string::npos);
}

HANDLER_TEST(HeadHandlers, Ask, ForTheCluster) {
  EXPECT_EQ(on(2, ask(Question::cluster)), "2: Answer");
  const ClusterInfo info = core::decode_cluster(sent<core::Answer>().text);
  EXPECT_EQ(info.slots, 2);
  EXPECT_EQ(info.ranks.size(), 4U);
}

HANDLER_TEST(HeadHandlers, Ask, WhetherItIsFeasible) {
  EXPECT_EQ(on(1, ask(Question::feasible, {}, tasks().demand({1, 0, 0, {}}).options())), "1: Answer");
  EXPECT_TRUE(sent<core::Answer>().yes);
  EXPECT_EQ(on(1, ask(Question::feasible, {}, tasks().demand({9, 0, 0, {}}).options())), "1: Answer");
  EXPECT_FALSE(sent<core::Answer>().yes);
  EXPECT_NE(sent<core::Answer>().text.find("asked for 9 cpus"), std::string::npos);
  EXPECT_DAMAGED(head.handle(1, ask(Question::feasible))) << "of no demand";
  EXPECT_DAMAGED(head.handle(1, ask(Question::feasible, {}, tasks().demand({1, 1.5, 0, {}}).options())));
}

HANDLER_TEST(HeadHandlers, Ask, ForANameOfAnActor) {
  const ObjectId id = object_of(1, 1);
  EXPECT_EQ(on(1, ask_for_name(Question::reserve, id, "clock")), "1: Answer");
  EXPECT_TRUE(sent<core::Answer>().yes);
  EXPECT_EQ(sent<core::Answer>().text, "");
  EXPECT_EQ(on(2, ask_for_name(Question::reserve, object_of(2, 1), "clock")), "2: Answer");
  EXPECT_FALSE(sent<core::Answer>().yes) << "it is taken";
  EXPECT_EQ(on(2, ask_for_name(Question::find, {}, "clock")), "2: Answer");
  EXPECT_TRUE(sent<core::Answer>().yes);
  core::FoundActor found;
  core::WireReader(tests::bytes_of(sent<core::Answer>().text))(found);
  EXPECT_EQ(found.id, id);
  EXPECT_EQ(on(1, core::Holds{{}, {id}, {}}), "") << "who found it holds it";
  EXPECT_EQ(on(2, core::Holds{{}, {id}, {}}), "1: Free");
  EXPECT_EQ(on(2, ask_for_name(Question::find, {}, "clock")), "2: Answer");
  EXPECT_FALSE(sent<core::Answer>().yes);
  EXPECT_EQ(head.what_is_left(), "");
}

HANDLER_TEST(HeadHandlers, Ask, ForANameOfAnothersIsDamaged) {
  EXPECT_DAMAGED(head.handle(1, ask_for_name(Question::reserve, object_of(2, 1), "clock")));
  EXPECT_DAMAGED(head.handle(1, ask(Question::reserve, object_of(1, 1)))) << "of no actor";
}

HANDLER_TEST(HeadHandlers, Ask, ToKillWhatIsNoActor) {
  EXPECT_EQ(on(1, ask(Question::kill, object_of(4, 4))), "1: Answer");
  EXPECT_FALSE(sent<core::Answer>().yes);
}

// Somebody has found it by its name, before the head has heard what makes it.
HANDLER_TEST(HeadHandlers, Ask, ToKillAnActorThatIsNotSubmittedYet) {
  const Tasks actor = counter().by(1);
  ASSERT_EQ(on(1, ask_for_name(Question::reserve, actor.id(), "clock")), "1: Answer");
  ASSERT_EQ(on(2, ask_for_name(Question::find, {}, "clock")), "2: Answer");
  EXPECT_EQ(on(2, ask(Question::kill, actor.id())), "2: Answer");
  EXPECT_TRUE(sent<core::Answer>().yes);
  EXPECT_EQ(on(1, actor.submit()), "1: Result") << "it fails";
  EXPECT_EQ(head.unfinished(), 0U);
  on(1, core::Holds{{}, {actor.id()}, {}});
  on(2, core::Holds{{}, {actor.id()}, {}});
  EXPECT_EQ(head.what_is_left(), "");
}

// It is not made elsewhere.
HANDLER_TEST(HeadHandlers, Ask, ToKillAnActorWhoseRankIsLostWhileItIsMade) {
  const Tasks actor = counter().by(0);
  const RankId rank = start(actor);
  ASSERT_EQ(on(0, ask(Question::kill, actor.id())), "");
  head.worker_lost(rank);
  EXPECT_EQ(step(), "0: RankLost, Answer, Result; " + std::to_string(3 - rank) + ": RankLost");
  EXPECT_TRUE(sent<core::Answer>().yes);
  EXPECT_EQ(head.unfinished(), 0U);
  EXPECT_EQ(on(0, core::Holds{{}, {actor.id()}, {}}), "0: Free");
  EXPECT_EQ(head.what_is_left(), "");
}

HANDLER_TEST(HeadHandlers, Ask, ForBundles) {
  core::WireOptions bundles;
  bundles.demands = {{1, 0, 0, {}}, {1, 0, 0, {}}};
  EXPECT_EQ(on(1, ask(Question::bundles, object_of(1, 1), bundles)), "1: Result, Answer");
  EXPECT_TRUE(sent<core::Answer>().yes);
  EXPECT_EQ(sent<core::Result>().range.span, SpanId::make(1, 1));
  EXPECT_EQ(head.scheduler().free().cpus, 0);
  EXPECT_DAMAGED(head.handle(1, ask(Question::bundles, object_of(1, 1), bundles))) << "twice";
  EXPECT_EQ(on(1, core::Holds{{}, {object_of(1, 1)}, {}}), "1: Free");
  EXPECT_EQ(head.scheduler().free().cpus, 2);
  EXPECT_EQ(on(1, ask(Question::bundles, object_of(1, 2), tasks().demand({9, 0, 0, {}}).options())), "1: Answer");
  EXPECT_FALSE(sent<core::Answer>().yes) << "there is no such room";
  EXPECT_DAMAGED(head.handle(1, ask(Question::bundles, object_of(1, 3)))) << "none";
}

HANDLER_TEST(HeadHandlers, StoreReport, OfAllRanksIsTheAnswer) {
  const ObjectId id = made(1);
  ASSERT_EQ(on(2, ask(Question::store, {{}, 1})), "0: AskStore; 1: AskStore; 2: AskStore");
  const auto asked = recorder.all<core::AskStore>();
  EXPECT_EQ(asked[0].largest, 1U);
  StoreStats stats;
  stats.ranks.emplace_back().rank = 1;
  stats.largest.push_back({core::to_string(id), kLarge, 1, true, false, {}, {}, 0});
  const core::StoreReport report{asked[0].token, core::encode_stats(stats)};
  EXPECT_EQ(on(1, report), "");
  EXPECT_EQ(on(1, report), "") << "twice";
  stats.largest.clear();
  stats.ranks[0].rank = 0;
  EXPECT_EQ(on(0, core::StoreReport{asked[0].token, core::encode_stats(stats)}), "");
  EXPECT_EQ(on(2, core::StoreReport{asked[0].token, core::encode_stats({})}), "2: Answer");
  EXPECT_EQ(sent<core::Answer>().token, token);
  const StoreStats all = core::decode_stats(sent<core::Answer>().text);
  ASSERT_EQ(all.ranks.size(), 2U);
  EXPECT_EQ(all.ranks[0].rank, 0U);
  ASSERT_EQ(all.largest.size(), 1U);
  EXPECT_EQ(all.largest[0].holders, (std::vector<std::uint32_t>{1}));
  EXPECT_EQ(on(2, report), "") << "nobody asks any more";
}

// The others are not kept waiting.
HANDLER_TEST(HeadHandlers, StoreReport, ThatIsDamagedCountsAsSaid) {
  ASSERT_EQ(on(2, ask(Question::store, {{}, 1})), "0: AskStore; 1: AskStore; 2: AskStore");
  const std::uint64_t asked = recorder.all<core::AskStore>()[0].token;
  EXPECT_DAMAGED(head.handle(1, core::StoreReport{asked, "?"}));
  EXPECT_EQ(on(0, core::StoreReport{asked, core::encode_stats({})}), "");
  EXPECT_EQ(on(2, core::StoreReport{asked, core::encode_stats({})}), "2: Answer");
}

// ---- actors and calls --------------------------------------------------------------------------------------------

HANDLER_TEST(HeadHandlers, Counted, IsPassedToTheGiver) {
  EXPECT_EQ(on(1, core::Counted{2, object_of(1, 5), true}), "2: Returned");
  EXPECT_EQ(sent<core::Returned>().call, object_of(1, 5));
  EXPECT_TRUE(sent<core::Returned>().result);
  EXPECT_DAMAGED(head.handle(1, core::Counted{4, object_of(1, 5), true}));
  head.worker_lost(2);
  step();
  EXPECT_EQ(on(1, core::Counted{2, object_of(1, 5), true}), "");
}

HANDLER_TEST(HeadHandlers, Promised, IsLocatedAtWhoPromised) {
  const Tasks result = tasks().by(1, 5);
  EXPECT_EQ(on(1, core::Promised{result.id(), tests::kStep.index}), "");
  EXPECT_EQ(head.unfinished(), 1U);
  EXPECT_EQ(where_is(result.id(), 2), "rank 1");
  EXPECT_EQ(on(2, tasks(tests::kAdd).by(2).after(result.id()).on_rank(2).submit()), "");
  EXPECT_EQ(on(1, result.done()), "2: Assign");
  EXPECT_EQ(head.unfinished(), 1U);
}

HANDLER_TEST(HeadHandlers, Promised, MayBeSubmittedInstead) {
  const Tasks result = tasks().by(1, 5);
  ASSERT_EQ(on(1, core::Promised{result.id(), tests::kStep.index}), "");
  EXPECT_EQ(on(1, result.submit()).substr(1), ": Assign");
  EXPECT_EQ(head.unfinished(), 1U);
  EXPECT_DAMAGED(head.handle(1, result.submit())) << "twice";
}

HANDLER_TEST(HeadHandlers, Promised, FailsWithItsRank) {
  ASSERT_EQ(on(2, core::Holds{{object_of(1, 5)}, {}, {}}), "");
  ASSERT_EQ(on(1, core::Promised{object_of(1, 5), tests::kStep.index}), "");
  head.worker_lost(1);
  step();
  EXPECT_NE(where_is(object_of(1, 5), 2).find("while a call or a reduce that it made was pending"), std::string::npos);
}

HANDLER_TEST(HeadHandlers, Promised, ThatCannotBeIsDamaged) {
  EXPECT_DAMAGED(head.handle(1, core::Promised{object_of(2, 5), tests::kStep.index})) << "of another's";
  EXPECT_DAMAGED(head.handle(1, core::Promised{object_of(1, 5), 1'000'000})) << "of no function";
  ASSERT_EQ(on(1, core::Promised{object_of(1, 5), tests::kStep.index}), "");
  EXPECT_DAMAGED(head.handle(1, core::Promised{object_of(1, 5), tests::kStep.index})) << "twice";
  EXPECT_EQ(head.unfinished(), 1U);
}

HANDLER_TEST(HeadHandlers, ActorEnded, GivesBackWhatItHeld) {
  const Tasks actor = counter();
  const RankId rank = make(actor);
  EXPECT_EQ(head.scheduler().free().cpus, 1) << "of two";
  const std::string freed = on(1, core::Holds{{}, {actor.id()}, {}});
  EXPECT_EQ(freed, rank == 1 ? "1: Free" : "1: Free; 2: Free");
  EXPECT_EQ(on(3 - rank, core::ActorEnded{actor.id()}), "") << "it does not live there";
  EXPECT_EQ(head.actors(), 1U);
  EXPECT_EQ(on(rank, core::ActorEnded{actor.id()}), "");
  EXPECT_EQ(head.actors(), 0U);
  EXPECT_EQ(head.scheduler().free().cpus, 2);
  EXPECT_EQ(on(rank, core::ActorEnded{actor.id()}), "");
  EXPECT_EQ(head.what_is_left(), "");
}

HANDLER_TEST(HeadHandlers, ActorEnded, OfOneThatIsHeldIsDamaged) {
  const Tasks actor = counter();
  const RankId rank = make(actor);
  EXPECT_DAMAGED(head.handle(rank, core::ActorEnded{actor.id()}));
  EXPECT_EQ(where_is(actor.id()), "rank " + std::to_string(rank));
}

HANDLER_TEST(HeadHandlers, Checkpoint, IsWhatTheActorIsMadeOfAgain) {
  core::ActorTraits traits;
  traits.restarts = 1;
  traits.checkpoint_every = 1;
  const Tasks actor = counter(traits).by(0);
  const RankId rank = make(actor);
  EXPECT_EQ(on(3 - rank, core::Checkpoint{actor.id(), tests::bytes_of("other"), {}}), "") << "it does not live there";
  EXPECT_EQ(on(rank, core::Checkpoint{actor.id(), tests::bytes_of("older"), {}}), "");
  EXPECT_EQ(on(rank, core::Checkpoint{actor.id(), tests::bytes_of("state"), {}}), "");
  head.worker_lost(rank);
  const std::string other = std::to_string(3 - rank);
  EXPECT_EQ(step(), "0: RankLost; " + other + ": RankLost, Assign");
  const auto assign = sent<core::Assign>();
  EXPECT_EQ(assign.attempt, 2U);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(assign.checkpoint.data()), assign.checkpoint.size()), "state");
}

HANDLER_TEST(HeadHandlers, Checkpoint, HoldsItsRefsUntilTheNext) {
  const ObjectId inner = object_of(0, 9);
  core::ActorTraits traits;
  traits.restarts = 1;
  traits.checkpoint_every = 1;
  const Tasks actor = counter(traits).by(0);
  const RankId rank = make(actor);
  ASSERT_EQ(on(0, core::Made{inner, kLarge, {}}), "");
  EXPECT_EQ(on(rank, core::Checkpoint{actor.id(), {}, {inner}}), "");
  EXPECT_EQ(on(0, core::Holds{{}, {inner}, {}}), "");
  EXPECT_DAMAGED(head.handle(rank, core::Checkpoint{actor.id(), {}, {inner, object_of(4, 4)}}));
  EXPECT_EQ(on(rank, core::Checkpoint{actor.id(), {}, {}}), "0: Free");
}

HANDLER_TEST(HeadHandlers, KillDone, AnswersWhoKilled) {
  const Tasks actor = counter();
  const RankId rank = make(actor);
  ASSERT_EQ(on(2, ask(Question::kill, actor.id())), std::to_string(rank) + ": EndActor");
  EXPECT_EQ(sent<core::EndActor>().id, actor.id());
  EXPECT_EQ(sent<core::EndActor>().error.kind, core::ErrorKind::actor_died);
  const core::KillDone done{sent<core::EndActor>().token};
  EXPECT_EQ(on(rank, core::KillDone{done.token + 1}), "");
  EXPECT_EQ(on(3 - rank, done), "") << "that rank did not kill it";
  EXPECT_EQ(on(rank, done), "2: Answer");
  EXPECT_TRUE(sent<core::Answer>().yes);
  EXPECT_EQ(sent<core::Answer>().token, token);
  EXPECT_EQ(on(rank, done), "");
  EXPECT_EQ(on(rank, core::ActorEnded{actor.id()}), "");
  EXPECT_NE(where_is(actor.id()).find("was killed"), std::string::npos);
}

HANDLER_TEST(HeadHandlers, Blocked, RoundACircleIsADeadlock) {
  const ObjectId first = object_of(1, 1);
  const ObjectId second = object_of(1, 2);
  EXPECT_EQ(on(1, core::Blocked{first, second, 11, true}), "");
  EXPECT_EQ(on(2, core::Blocked{second, first, 12, true}), "");
  EXPECT_EQ(step(400 * kMs), "") << "the end of a wait may be on its way";
  EXPECT_EQ(step(200 * kMs), "1: Deadlock");
  EXPECT_EQ(sent<core::Deadlock>().token, 11U);
  EXPECT_EQ(sent<core::Deadlock>().text, core::to_string(first) + " waits for a call on " + core::to_string(second) +
                                             " waits for a call on " + core::to_string(first));
  EXPECT_EQ(step(1'000 * kMs), "") << "the other goes on then";
}

HANDLER_TEST(HeadHandlers, Blocked, NoMoreIsNoDeadlock) {
  const ObjectId first = object_of(1, 1);
  const ObjectId second = object_of(1, 2);
  ASSERT_EQ(on(1, core::Blocked{first, second, 11, true}), "");
  ASSERT_EQ(on(2, core::Blocked{second, first, 12, true}), "");
  EXPECT_EQ(on(1, core::Blocked{first, {}, 10, false}), "") << "that was an earlier wait";
  EXPECT_EQ(on(2, core::Blocked{second, {}, 12, false}), "");
  EXPECT_EQ(step(1'000 * kMs), "");
  ASSERT_EQ(on(2, core::Blocked{second, first, 13, true}), "");
  EXPECT_EQ(step(1'000 * kMs).substr(1), ": Deadlock");
  EXPECT_EQ(on(2, core::Blocked{second, {}, 13, false}), "");
  EXPECT_EQ(on(1, core::Blocked{first, {}, 11, false}), "");
  EXPECT_EQ(head.what_is_left(), "");
}

// A task in a bundle of rank 2's waits for an input while the group loses that rank, and no other has room.
TEST_F(HeadHandlers, WhatWaitsForAnInputHearsThatItsGroupIsGoneForGood) {
  const ObjectId group = object_of(1, 50);
  core::WireOptions bundles;
  bundles.demands = {{1, 0, 60, {}}, {1, 0, 60, {}}};  // no rank has room for two
  ASSERT_EQ(on(1, ask(Question::bundles, group, bundles)), "1: Result, Answer");
  const Tasks before = tasks().by(1, 1).in_bundle(group, 0).holding(group);
  const Tasks waits = tasks(tests::kAdd).by(1, 2).after(before.id()).in_bundle(group, 1).holding(group);
  head.handle(1, before.submit());
  head.handle(1, waits.submit());
  step();
  const RankId rank = rank_of(before.id());
  head.worker_lost(3 - rank);
  step();
  if (rank == 1) {
    EXPECT_EQ(on(rank, before.done()), "1: Result") << head.explain(waits.id());
  } else {
    on(rank, before.done());
  }
  EXPECT_EQ(head.unfinished(), 0U) << head.explain(waits.id());
}

// A gang fails with a rank, and with it a batch that the rank has submitted, of which one task is wanted by another.
TEST_F(HeadHandlers, ABatchThatIsToFailMayBeTakenApart) {
  const Tasks two = gang(2).by(1).retries(0);
  EXPECT_EQ(on(1, two.submit()), "1: Assign; 2: Assign");
  const std::uint64_t id = recorder.all<core::Assign>().front().gang.gang;
  const Tasks three = tasks(tests::kAdd).by(2, 5).from(0, 3).after(two.id(0)).demand({1, 0, 1, {}});
  ASSERT_EQ(on(2, three.submit()), "");
  on(1, core::Holds{{three.id(1)}, {}, {}});
  on(1, core::Member{id, 0, MemberState::ended, {}});
  head.worker_lost(2);
  step();
  EXPECT_EQ(head.unfinished(), 0U) << head.describe_pieces();
}

EVERY_HANDLER_HAS_A_TEST(Head);

}  // namespace mobula::head
