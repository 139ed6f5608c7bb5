#include "sched/scheduler.hpp"

#include <gtest/gtest.h>

#include <deque>
#include <list>

#include "growth.hpp"

namespace mobula::sched {
namespace {

class SchedulerTest : public testing::Test {
 protected:
  explicit SchedulerTest(std::uint32_t ranks = 8) : scheduler(ranks, 4) {}
  void worker(RankId rank, double slots = 1, std::map<std::string, double> resources = {}, std::uint32_t node = 0) {
    core::WireDemand offers;
    offers.cpus = slots;
    offers.resources = std::move(resources);
    scheduler.add_worker(rank, node, offers);
  }
  Piece& tasks(std::uint32_t n, int priority = 0, const core::WireOptions* options = nullptr, bool nested = false) {
    Piece& piece = pieces.emplace_back();
    piece.range = {detail::SpanId::make(0, pieces.size()), 0, n};
    piece.priority = priority;
    piece.nested = nested;
    scheduler.classify(piece, options, nested);
    scheduler.enqueue(piece);
    return piece;
  }
  std::optional<std::string> why_infeasible(const core::WireOptions& options) {
    Holding holding;
    scheduler.classify(holding, &options);
    return scheduler.why_infeasible(holding);
  }
  // Carries out one decision; the part assigned is a new piece.
  Piece* place() {
    Piece* const piece = place_one();
    scheduler.check_invariants();
    return piece;
  }
  // The same where looking at everything would take too long.
  Piece* place_one() {
    const auto decision = scheduler.place(now);
    if (!decision) return nullptr;
    Piece& from = *decision->piece;
    Piece& part = pieces.emplace_back(from);
    part.range.end = from.range.begin + decision->tasks;
    part.state = State::waiting;
    if (decision->tasks == from.size()) {
      scheduler.dequeue(from);
    } else {
      scheduler.resized(from, -static_cast<std::int64_t>(decision->tasks));
      from.range.begin += decision->tasks;
    }
    scheduler.assigned(part, decision->worker, decision->demand, decision->lenders);
    return &part;
  }
  // The same, of a gang of one.
  Piece* place_gang() {
    const auto decision = scheduler.place(now);
    if (!decision || decision->members.size() != 1) return nullptr;
    scheduler.dequeue(*decision->piece);
    scheduler.assigned(*decision->piece, decision->members[0].first, decision->members[0].second);
    return static_cast<Piece*>(decision->piece);
  }
  Time now = 0;
  Scheduler scheduler;
  std::list<Piece> pieces;
};

core::WireOptions asks(core::WireDemand demand) {
  core::WireOptions options;
  options.demands = {std::move(demand)};
  return options;
}

core::WireOptions gang_of(std::uint32_t members) {
  core::WireOptions options = asks({1, 0, 0, {}});
  options.gang = members;
  return options;
}

TEST_F(SchedulerTest, SpreadsOverIdleWorkers) {
  for (RankId r = 1; r <= 4; ++r) worker(r);
  for (int i = 0; i < 4; ++i) tasks(1);
  std::set<RankId> used;
  while (const Piece* p = place()) used.insert(p->worker);
  EXPECT_EQ(used.size(), 4U);
}

TEST_F(SchedulerTest, LongTasksArePrefetchedOnceASlot) {
  worker(1, 2);
  scheduler.measured(0, 50'000'000, 1);
  tasks(100);
  std::uint32_t assigned = 0;
  while (const Piece* p = place()) assigned += p->size();
  EXPECT_EQ(assigned, 4U);
}

TEST_F(SchedulerTest, WhatWaitsLongGetsItsTurn) {
  worker(1);
  scheduler.measured(0, 10'000'000, 1);
  const Piece& low = tasks(1, -5);
  int before = 0;
  for (; low.state == Piece::State::queued && before < 1000; ++before) {
    tasks(1, 5);
    Piece* running = place();
    ASSERT_NE(running, nullptr);
    scheduler.ended(*running);
    now += Scheduler::kPatience / 100;
    if (now < Scheduler::kPatience) {
      ASSERT_EQ(running->priority, 5);
    }
  }
  EXPECT_GE(before, 100);
  EXPECT_LE(before, 100 + static_cast<int>(Scheduler::kTurn) + 1);
}

TEST_F(SchedulerTest, ShortTasksGoInStretchesOfAboutAMillisecond) {
  worker(1);
  worker(2);
  scheduler.measured(0, 1'000, 1);
  tasks(1'000'000);
  const Piece* first = place();
  ASSERT_NE(first, nullptr);
  EXPECT_EQ(first->size(), 1000U);
}

TEST_F(SchedulerTest, SeveralShortTasksShareAMessage) {
  for (RankId r = 1; r <= 4; ++r) worker(r);
  scheduler.measured(0, 1'000, 1);
  for (int i = 0; i < 20; ++i) tasks(1);
  std::map<RankId, int> got;
  while (const Piece* p = place()) ++got[p->worker];
  EXPECT_EQ(got.size(), 2U);
  for (const auto& [rank, n] : got) EXPECT_EQ(n, 10) << rank;
  tasks(25);
  const Piece* stretch = place();
  ASSERT_NE(stretch, nullptr);
  EXPECT_GE(stretch->size(), 10U);
}

// Nor are they asked for at once; but where they turn out to be long, they go elsewhere.
TEST_F(SchedulerTest, ShortTasksThatAreNotShortAreTakenBack) {
  worker(1);
  worker(2);
  scheduler.measured(0, 1'000, 1);
  std::vector<Piece*> at;
  for (int i = 0; i < 5; ++i) tasks(1);
  while (Piece* p = place()) at.push_back(p);
  ASSERT_EQ(at.size(), 5U);
  const RankId first = at[0]->worker;
  for (const Piece* p : at) EXPECT_EQ(p->worker, first);
  EXPECT_FALSE(scheduler.rebalance(now));
  now += 1'000'000;
  const auto take = scheduler.rebalance(now);
  ASSERT_TRUE(take);
  EXPECT_EQ(take->worker, first);
  scheduler.ended(*at.back());
  scheduler.enqueue(*at.back());
  scheduler.gave_back(first, 1, now);
  const Piece* again = place();
  ASSERT_NE(again, nullptr);
  EXPECT_NE(again->worker, first);
}

TEST_F(SchedulerTest, WhatIsGivenBackKeepsItsTurn) {
  worker(1);
  scheduler.place(now = 1'000'000);
  tasks(1);
  Piece* const given = place();
  ASSERT_NE(given, nullptr);
  Piece& early = *given;
  scheduler.place(now = 2'000'000);
  Piece& late = tasks(4);
  scheduler.ended(early);
  scheduler.enqueue(early, true);
  EXPECT_EQ(early.queued_at, 1'000'000);
  // The second half of `late` becomes a piece of its own.
  const Piece& last = tasks(1);
  Piece& half = pieces.emplace_back(late);
  half.state = State::waiting;
  scheduler.resized(late, -2);
  half.range.begin = late.range.end = late.range.begin + 2;
  scheduler.enqueue_behind(half, late);
  scheduler.check_invariants();
  std::vector<std::pair<detail::SpanId, std::uint32_t>> order;
  while (Piece* p = place()) {
    for (std::uint32_t i = p->range.begin; i < p->range.end; ++i) order.emplace_back(p->range.span, i);
    scheduler.ended(*p);
  }
  const auto of = [](const Piece& piece, std::uint32_t i) { return std::pair(piece.range.span, i); };
  EXPECT_EQ(order, (std::vector{of(early, 0), of(late, 0), of(late, 1), of(late, 2), of(late, 3), of(last, 0)}));
}

TEST_F(SchedulerTest, WhoEndedATaskLastIsAskedFirst) {
  for (RankId r = 1; r <= 6; ++r) worker(r);
  std::vector<Piece*> at;
  for (int i = 0; i < 6; ++i) tasks(1);
  while (Piece* p = place()) at.push_back(p);
  ASSERT_EQ(at.size(), 6U);
  scheduler.ended(*at[1]);
  scheduler.ended(*at[4]);
  scheduler.ended(*at[2]);
  for (const std::size_t last : {2U, 4U, 1U}) {
    tasks(1);
    const Piece* next = place();
    ASSERT_NE(next, nullptr);
    EXPECT_EQ(next->worker, at[last]->worker);
  }
}

// A graph sent ahead to a rank does not keep tasks out that could begin.
TEST_F(SchedulerTest, WhatWasSentAheadLeavesRoom) {
  worker(1);
  scheduler.measured(0, 5'000'000, 1);
  for (int i = 0; i < 100; ++i) {
    Piece& piece = tasks(1);
    scheduler.dequeue(piece);
    scheduler.sent_ahead(piece, 1);
  }
  EXPECT_FALSE(scheduler.hungry());
  tasks(3);
  std::uint32_t assigned = 0;
  while (const Piece* p = place()) assigned += p->size();
  EXPECT_EQ(assigned, 2U);
}

TEST_F(SchedulerTest, WhatWaitsForInputsHoldsNothing) {
  for (RankId r = 1; r <= 2; ++r) worker(r);
  std::vector<Piece*> ahead;
  for (RankId r = 1; r <= 2; ++r) {
    Piece& piece = *ahead.emplace_back(&tasks(1));
    scheduler.dequeue(piece);
    scheduler.sent_ahead(piece, r);
  }
  EXPECT_EQ(scheduler.free().cpus, 2);
  const core::WireOptions both = gang_of(2);
  tasks(2, 0, &both);
  const auto decision = scheduler.place(now);
  ASSERT_TRUE(decision) << "the gang may be what the tasks wait for";
  EXPECT_EQ(decision->members.size(), 2U);
  for (Piece* piece : ahead) scheduler.inputs_came(*piece);
  EXPECT_EQ(scheduler.free().cpus, 0);
  EXPECT_FALSE(scheduler.place(now)) << "now they run";
  for (Piece* piece : ahead) scheduler.ended(*piece);
  EXPECT_EQ(scheduler.free().cpus, 2);
  EXPECT_TRUE(scheduler.place(now));
}

// Whoever is first in the queue goes on with what another of the queue has reserved.
TEST_F(SchedulerTest, AReservationIsTheQueues) {
  for (RankId r = 1; r <= 2; ++r) worker(r);
  tasks(1);
  Piece* const running = place();
  ASSERT_NE(running, nullptr);
  const core::WireOptions both = gang_of(2);
  Piece& first = tasks(2, 0, &both);
  EXPECT_FALSE(scheduler.place(now));
  EXPECT_EQ(scheduler.take_reserved(), std::vector<RankId>{running->worker});
  // It is given back, and another is before it.
  Piece& second = pieces.emplace_back(first);
  second.state = State::waiting;
  second.range.span = detail::SpanId::make(0, 1000);
  scheduler.enqueue(second, true);
  scheduler.ended(*running);
  const auto decision = scheduler.place(now);
  ASSERT_TRUE(decision);
  EXPECT_EQ(decision->piece, &second);
}

TEST_F(SchedulerTest, AReservationIsThatOfAllPrioritiesOfAClass) {
  for (RankId r = 1; r <= 2; ++r) worker(r);
  tasks(1);
  Piece* const running = place();
  const core::WireOptions both = gang_of(2);
  tasks(2, -1, &both);
  EXPECT_FALSE(scheduler.place(now));
  const Piece& urgent = tasks(2, 1, &both);
  EXPECT_FALSE(scheduler.place(now));
  scheduler.ended(*running);
  const auto decision = scheduler.place(now);
  ASSERT_TRUE(decision);
  EXPECT_EQ(decision->piece, &urgent);
}

// A member that is inside MPI may wait for one that waits for a task.
TEST_F(SchedulerTest, TasksHaveReservedRanksToo_WhileAMemberIsThere) {
  for (RankId r = 1; r <= 2; ++r) worker(r);
  const core::WireOptions alone = gang_of(1);
  tasks(1, 0, &alone);
  Piece* const member = place_gang();
  ASSERT_NE(member, nullptr);
  const core::WireOptions both = gang_of(2);
  tasks(2, 0, &both);
  EXPECT_FALSE(scheduler.place(now));
  tasks(1);
  Piece* const task = place();
  ASSERT_NE(task, nullptr);
  EXPECT_TRUE(scheduler.take_reserved().empty());
  core::WireOptions constructor = asks({1, 0, 0, {}});
  constructor.is_actor = true;
  tasks(1, 0, &constructor);
  Piece* const actor = place();
  ASSERT_NE(actor, nullptr);
  scheduler.stays(*actor);
  scheduler.left(*actor);
  scheduler.ended(*member);
  EXPECT_EQ(scheduler.take_reserved(), std::vector<RankId>{task->worker});
  tasks(1);
  EXPECT_FALSE(scheduler.place(now)) << "now they are kept free";
  scheduler.ended(*task);
  const auto decision = scheduler.place(now);
  ASSERT_TRUE(decision);
  EXPECT_EQ(decision->members.size(), 2U);
}

// The rank that has no more to lend than its member's cpu may never be free: that one may wait inside MPI for another
// that waits for the actor.
TEST_F(SchedulerTest, AnActorDoesNotWaitForMembers) {
  for (RankId r = 1; r <= 2; ++r) worker(r);
  const core::WireOptions alone = gang_of(1);
  for (int i = 0; i < 2; ++i) tasks(1, 0, &alone);
  const Piece* const waits = place_gang();
  ASSERT_TRUE(waits != nullptr && place_gang() != nullptr);
  core::WireOptions constructor = asks({1, 0, 0, {}});
  constructor.is_actor = true;
  tasks(1, 0, &constructor);
  EXPECT_FALSE(scheduler.place(now));
  scheduler.set_lent(waits->worker, {.cpus = 1});
  const Piece* const actor = place();
  ASSERT_NE(actor, nullptr);
  EXPECT_EQ(actor->worker, waits->worker);
}

// A member inside MPI waits for another one, and that one for a gang that its rank has room for.
TEST_F(SchedulerTest, AGangOfAMemberHasReservedRanksToo) {
  for (RankId r = 1; r <= 2; ++r) worker(r);
  const core::WireOptions alone = gang_of(1);
  for (int i = 0; i < 2; ++i) tasks(1, 0, &alone);
  const Piece* const waits = place_gang();
  ASSERT_TRUE(waits != nullptr && place_gang() != nullptr);
  const core::WireOptions both = gang_of(2);
  tasks(2, 0, &both);
  EXPECT_FALSE(scheduler.place(now));
  scheduler.set_lent(waits->worker, {.cpus = 1});
  tasks(1, 0, &alone);
  EXPECT_FALSE(scheduler.place(now)) << "the first of the queue has reserved the rank";
  tasks(1, 0, &alone, true);
  const Piece* const nested = place_gang();
  ASSERT_NE(nested, nullptr) << "though the driver's is before it";
  EXPECT_EQ(nested->worker, waits->worker);
}

// One that waits may wait for the next, and no more of them run on what it lends than one.
TEST_F(SchedulerTest, MembersBesideTasksThatWaitAreOneAtATime) {
  worker(1);
  tasks(1);
  ASSERT_NE(place(), nullptr);
  scheduler.set_lent(1, {.cpus = 1});
  const core::WireOptions alone = gang_of(1);
  for (int i = 0; i < 4; ++i) tasks(1, 0, &alone);
  ASSERT_NE(place_gang(), nullptr);
  EXPECT_FALSE(scheduler.place(now)) << "it is not known yet that it holds nothing";
  scheduler.set_lent(1, {.cpus = 2, .beside = 1});
  EXPECT_FALSE(scheduler.place(now));
  tasks(1);
  Piece* const task = place();
  ASSERT_NE(task, nullptr) << "what the first one lends is for tasks";
  scheduler.ended(*task);
  scheduler.set_lent(1, {.cpus = 2});
  EXPECT_NE(place_gang(), nullptr) << "the first one waits, perhaps for this one";
}

// What is sent to a rank again as soon as it has been given back does not hide what others could run.
TEST_F(SchedulerTest, ARankThatGivesOnlyWhatComesBackIsAskedForMore) {
  for (RankId r = 1; r <= 2; ++r) worker(r);
  core::WireOptions here = asks({1, 0, 0, {}});
  here.placement = Placement::Kind::on_rank;
  here.place_index = 1;
  scheduler.measured(0, 1'000, 1);
  for (int i = 0; i < 40; ++i) tasks(1, 0, &here);
  while (place() != nullptr) {
  }
  std::uint32_t most = 0;
  for (int i = 0; i < 10; ++i) {
    now += 20'000'000;
    const auto take = scheduler.rebalance(now);
    ASSERT_TRUE(take);
    EXPECT_EQ(take->worker, 1U);
    EXPECT_GE(take->tasks, most);
    most = take->tasks;
    scheduler.gave_back(1, 0, now);
  }
  EXPECT_EQ(most, 39U) << "all but what it may run";
}

// What comes to a rank that is kept free, as the children of a task there, is asked for as well.
TEST_F(SchedulerTest, AReservedRankIsAskedForWhatComesLater) {
  for (RankId r = 1; r <= 2; ++r) worker(r);
  tasks(1);
  const Piece* running = place();
  ASSERT_NE(running, nullptr);
  const core::WireOptions both = gang_of(2);
  tasks(2, 0, &both);
  EXPECT_FALSE(scheduler.place(now));
  scheduler.take_reserved();
  EXPECT_TRUE(scheduler.take_reserved().empty());
  Piece& child = tasks(1);
  scheduler.dequeue(child);
  scheduler.assigned(child, running->worker, 0);
  EXPECT_EQ(scheduler.take_reserved(), std::vector<RankId>{running->worker});
}

// An actor that was being made there has its cpu for good. What it waits for may have to run where it is waited for.
TEST_F(SchedulerTest, ARankThatAnActorHasIsNotReservedAnyMore) {
  for (const bool wide : {false, true}) {
    SCOPED_TRACE(wide);
    const RankId first = wide ? 3 : 1;
    for (RankId r = first; r < first + 2; ++r) worker(r, 1, {}, wide ? 1 : 0);
    core::WireOptions constructor = asks({1, 0, 0, {}});
    constructor.is_actor = true;
    tasks(1, 0, &constructor);
    Piece* const actor = place();
    ASSERT_NE(actor, nullptr);
    core::WireOptions both = asks({wide ? 2.0 : 1.0, 0, 0, {}});
    both.gang = wide ? 0 : 2;
    Piece& together = tasks(wide ? 1 : 2, 0, &both);
    EXPECT_FALSE(scheduler.place(now));
    scheduler.stays(*actor);
    EXPECT_FALSE(scheduler.place(now));
    tasks(1);
    const Piece* const other = place();
    ASSERT_NE(other, nullptr) << "the other rank is nobody's";
    EXPECT_NE(other->worker, actor->worker);
    scheduler.dequeue(together);
    for (RankId r = first; r < first + 2; ++r) scheduler.close(r);
  }
}

TEST_F(SchedulerTest, AnActorLeavesToTasksWhatTheyLend) {
  for (RankId r = 1; r <= 2; ++r) worker(r);
  tasks(2);
  const Piece* waits = place();
  Piece* runs = place();
  ASSERT_TRUE(waits != nullptr && runs != nullptr);
  scheduler.set_lent(waits->worker, {.cpus = 1});
  core::WireOptions actor = asks({1, 0, 0, {}});
  actor.is_actor = true;
  tasks(1, 0, &actor);
  const Piece* made = place();
  ASSERT_NE(made, nullptr) << "the other rank is free when its task has ended";
  EXPECT_EQ(made->worker, runs->worker);
  scheduler.stays(*made);
  // Where no rank can have it beside those who wait, it takes what they lend: they may wait for just that.
  tasks(1, 0, &actor);
  made = place();
  ASSERT_NE(made, nullptr);
  EXPECT_EQ(made->worker, waits->worker);
}

// A task of one cpu could wait for ever where an actor leaves it less.
TEST_F(SchedulerTest, WhatAnActorLeavesMayBeTooLittle) {
  for (RankId r = 1; r <= 2; ++r) worker(r);
  core::WireOptions half = asks({0.5, 0, 0, {}});
  half.is_actor = true;
  tasks(1, 0, &half);
  const Piece* made = place();
  ASSERT_NE(made, nullptr);
  scheduler.stays(*made);
  core::WireOptions somewhere = asks({1, 0, 0, {}});
  somewhere.placement = Placement::Kind::spread;
  tasks(2);
  tasks(2, 0, &somewhere);
  while (const Piece* piece = place()) EXPECT_NE(piece->worker, made->worker);
}

// A look for room for a group glances at each rank: so not each step may have one.
TEST_F(SchedulerTest, AGroupIsLookedForNowAndThen) {
  for (RankId r = 1; r <= 4; ++r) worker(r);
  tasks(4);
  std::vector<Piece*> running;
  while (Piece* p = place()) running.push_back(p);
  core::WireDemand bundle;
  bundle.cpus = 1;
  const Scheduler::PoolId pool = scheduler.open_pool(bundle);
  int looks = 0;
  for (int step = 0; step < 1000; ++step) {
    now += 100;
    if (!scheduler.may_look_for(pool, now)) continue;
    ++looks;
    EXPECT_FALSE(scheduler.place_pools({pool}, Strategy::pack, now));
  }
  EXPECT_LE(looks, 4);
  // Once it has a rank kept free, it is looked for as soon as that has something back.
  const std::vector<RankId> reserved = scheduler.take_reserved();
  ASSERT_EQ(reserved.size(), 1U);
  EXPECT_FALSE(scheduler.may_look_for(pool, now));
  for (Piece* piece : running) {
    if (piece->worker == reserved.front()) scheduler.ended(*piece);
  }
  EXPECT_TRUE(scheduler.may_look_for(pool, now));
  EXPECT_TRUE(scheduler.place_pools({pool}, Strategy::pack, now));
}

TEST_F(SchedulerTest, StretchesShrinkTowardsTheEnd) {
  worker(1);
  worker(2);
  scheduler.measured(0, 1'000, 1);
  tasks(100);
  const Piece* first = place();
  ASSERT_NE(first, nullptr);
  EXPECT_LE(first->size(), 30U);
}

TEST_F(SchedulerTest, HigherPriorityFirst) {
  worker(1);
  tasks(1, 0);
  Piece& urgent = tasks(1, 5);
  const Piece* first = place();
  EXPECT_EQ(first->range.span, urgent.range.span);
}

TEST_F(SchedulerTest, ResourcesAreNeverOverdrawn) {
  worker(1, 4, {{"x", 2}});
  const auto options = asks({0, 0, 0, {{"x", 1}}});
  tasks(5, 0, &options);
  std::vector<Piece*> running;
  while (Piece* p = place()) running.push_back(p);
  EXPECT_EQ(running.size(), 2U);
  scheduler.ended(*running[0]);
  EXPECT_NE(place(), nullptr);
  EXPECT_EQ(place(), nullptr);
}

TEST_F(SchedulerTest, WhatANodeHasIsTakenByItsRanksTogether) {
  core::WireDemand offers;
  offers.resources["disk"] = 2;
  for (RankId r = 1; r <= 6; ++r) scheduler.add_worker(r, (r - 1) / 3, offers, {"disk"});
  EXPECT_EQ(scheduler.total().resources.at("disk"), 4);
  const auto one = asks({0, 0, 0, {{"disk", 1}}});
  tasks(6, 0, &one);
  std::vector<Piece*> running;
  while (Piece* p = place()) running.push_back(p);
  EXPECT_EQ(running.size(), 4U);
  EXPECT_EQ(scheduler.free().resources.at("disk"), 0);
  scheduler.ended(*running[0]);
  EXPECT_NE(place(), nullptr);
  EXPECT_EQ(place(), nullptr);

  auto gang = asks({0, 0, 0, {{"disk", 1}}});
  gang.gang = 4;
  EXPECT_FALSE(why_infeasible(gang).has_value());
  gang.gang = 5;
  EXPECT_TRUE(why_infeasible(gang).has_value()) << "six ranks, but disks for four";
  const core::WireDemand bundle{0, 0, 0, {{"disk", 1}}};
  EXPECT_FALSE(scheduler.why_infeasible(std::vector(4, bundle), Strategy::pack).has_value());
  EXPECT_TRUE(scheduler.why_infeasible(std::vector(5, bundle), Strategy::pack).has_value());
  EXPECT_TRUE(scheduler.why_infeasible(std::vector(3, bundle), Strategy::strict_pack).has_value());
}

TEST_F(SchedulerTest, InfeasibleSaysWhatTheLargestHas) {
  worker(1, 2, {{"x", 2}});
  const auto options = asks({1, 0, 0, {{"x", 3}}});
  const auto why = why_infeasible(options);
  ASSERT_TRUE(why.has_value());
  EXPECT_NE(why->find("3 x"), std::string::npos) << *why;
  EXPECT_NE(why->find("2 x"), std::string::npos) << *why;
  const auto fine = asks({2, 0, 0, {{"x", 2}}});
  EXPECT_FALSE(why_infeasible(fine).has_value());
}

TEST_F(SchedulerTest, MoreCpusThanARankHasAreThoseOfItsNode) {
  worker(1, 1, {}, 0);
  worker(2, 1, {}, 1);
  worker(3, 1, {{"x", 1}}, 1);
  worker(4, 1, {}, 1);
  const auto three = asks({3, 0, 0, {}});
  tasks(2, 0, &three);
  Piece* wide = place();
  ASSERT_NE(wide, nullptr);
  EXPECT_EQ(wide->worker, 2U);
  EXPECT_EQ(wide->lenders, (std::vector<RankId>{3, 4}));
  EXPECT_EQ(place(), nullptr);
  // The rest of the cluster goes on, and the lenders get nothing.
  tasks(1);
  EXPECT_EQ(place()->worker, 1U);
  const auto special = asks({1, 0, 0, {{"x", 1}}});
  tasks(1, 0, &special);
  EXPECT_EQ(place(), nullptr);
  scheduler.ended(*wide);
  Piece* next = place();
  ASSERT_NE(next, nullptr);
  EXPECT_EQ(next->lenders.size(), 2U) << "the ranks were kept free for it";
  scheduler.stays(*next);  // it made an actor
  EXPECT_EQ(place(), nullptr);
  // While a method of it waits, others have the cores.
  scheduler.set_waits(*next, true);
  Piece* other = place();
  ASSERT_NE(other, nullptr);
  EXPECT_EQ(other->worker, 3U);
  scheduler.ended(*other);
  scheduler.set_waits(*next, false);
  tasks(1, 0, &special);
  EXPECT_EQ(place(), nullptr);
  scheduler.left(*next);
  scheduler.ended(*place());
  EXPECT_EQ(scheduler.free().cpus, 3);

  const auto both = asks({2, 0, 0, {{"x", 1}}});
  tasks(1, 0, &both);
  next = place();
  ASSERT_NE(next, nullptr);
  EXPECT_EQ(next->worker, 3U) << "the rank that has what else is asked for";
  const auto four = asks({4, 0, 0, {}});
  const auto why = why_infeasible(four);
  ASSERT_TRUE(why.has_value()) << "no node has four";
  EXPECT_NE(why->find("together 3 cpus"), std::string::npos) << *why;
}

TEST_F(SchedulerTest, AFlowOfSmallTasksDoesNotStarveAWideOne) {
  for (RankId r = 1; r <= 3; ++r) worker(r);
  scheduler.measured(0, 10'000'000, 1);
  std::deque<Piece*> running;
  const auto fill = [&] {
    tasks(3);
    while (Piece* p = place()) running.push_back(p);
  };
  fill();
  const auto three = asks({3, 0, 0, {}});
  const Piece& wide = tasks(1, 0, &three);
  int rounds = 0;
  for (; wide.state == Piece::State::queued && rounds < 100; ++rounds) {
    now += 10'000'000;
    ASSERT_FALSE(running.empty());
    scheduler.ended(*running.front());
    running.pop_front();
    fill();
  }
  EXPECT_LT(rounds, 20);
}

TEST_F(SchedulerTest, ARankLostMakesWhatNeededItHopeless) {
  worker(1);
  worker(2);
  const auto two = asks({2, 0, 0, {}});
  Piece* wide = nullptr;
  tasks(1, 0, &two);
  ASSERT_NE(wide = place(), nullptr);
  const Piece& waits = tasks(1, 0, &two);
  scheduler.remove_worker(wide->lenders.front());
  ASSERT_EQ(scheduler.hopeless().size(), 1U);
  EXPECT_EQ(scheduler.hopeless().front(), &waits);
  EXPECT_FALSE(scheduler.can_run(waits));
  scheduler.ended(*wide);
  scheduler.check_invariants();
}

TEST_F(SchedulerTest, NothingWaitsBehindATaskThatHasAllSlots) {
  worker(1, 2);
  worker(2, 1);
  scheduler.measured(0, 10'000'000, 1);
  const auto two = asks({2, 0, 0, {}});
  tasks(1, 0, &two);
  EXPECT_EQ(place()->worker, 1U);
  tasks(1);
  EXPECT_EQ(place()->worker, 2U);
}

TEST_F(SchedulerTest, PlacementIsStrict) {
  worker(1, 1, {}, 0);
  worker(2, 1, {}, 1);
  core::WireOptions options;
  options.demands.emplace_back();
  options.placement = Placement::Kind::on_rank;
  options.place_index = 2;
  tasks(1, 0, &options);
  EXPECT_EQ(place()->worker, 2U);
  options.placement = Placement::Kind::on_node;
  options.place_index = 0;
  tasks(1, 0, &options);
  EXPECT_EQ(place()->worker, 1U);
}

TEST_F(SchedulerTest, WorkIsTakenBackForIdleWorkers) {
  worker(1);
  scheduler.measured(0, 1'000, 1);
  tasks(100);
  while (place() != nullptr) {
  }
  EXPECT_FALSE(scheduler.rebalance(0).has_value());
  worker(2);
  const auto take = scheduler.rebalance(0);
  ASSERT_TRUE(take.has_value());
  EXPECT_EQ(take->worker, 1U);
  EXPECT_GE(take->tasks, 40U);
  EXPECT_FALSE(scheduler.rebalance(0).has_value()) << "one request at a time";
  scheduler.gave_back(1, 0, 0);
  EXPECT_FALSE(scheduler.rebalance(0).has_value()) << "one that had nothing is left in peace";
  EXPECT_TRUE(scheduler.rebalance(1'000'000'000).has_value());
}

// ---- classes -----------------------------------------------------------------------------------------------------

core::WireDemand with_memory(std::uint64_t memory, double cpus = 1) {
  core::WireDemand demand;
  demand.cpus = cpus;
  demand.memory = memory;
  return demand;
}

class ClassesTest : public SchedulerTest {
 protected:
  ClassesTest() : SchedulerTest(64) {}
  void worker_with_memory(RankId rank, std::uint64_t memory, double cpus = 8) {
    scheduler.add_worker(rank, 0, with_memory(memory, cpus));
  }
  Piece& asking(std::uint64_t memory, int priority = 0) {
    const auto options = asks(with_memory(memory));
    return tasks(1, priority, &options);
  }
};

TEST_F(ClassesTest, WhatDiffersInMemoryAloneIsOneClass) {
  worker_with_memory(1, 1'000);
  for (std::uint64_t memory = 1; memory <= 1'000; ++memory) asking(memory);
  EXPECT_EQ(scheduler.classes(), 1U);
}

TEST_F(ClassesTest, TheLargestThatFitsGoesFirst) {
  worker_with_memory(1, 1'000);
  Piece& first = asking(400);
  asking(100);
  asking(700);
  EXPECT_EQ(place()->memory, 700U);
  EXPECT_EQ(place()->memory, 100U);
  EXPECT_EQ(place(), nullptr) << "400 are not left";
  EXPECT_EQ(first.state, State::queued);
  EXPECT_EQ(scheduler.what_stays_idle(), "");
  EXPECT_EQ(scheduler.free().memory, 200U);
}

TEST_F(ClassesTest, HigherPrioritiesGoFirstAndDontBlockWhatFits) {
  worker_with_memory(1, 1'000);
  asking(900);
  place();
  Piece& large = asking(500, 3);
  Piece& small = asking(50, -3);
  asking(80, 1);
  EXPECT_EQ(place()->memory, 80U);
  EXPECT_EQ(place(), nullptr);
  EXPECT_EQ(large.state, State::queued);
  EXPECT_EQ(small.state, State::queued);
}

TEST_F(ClassesTest, WhatFoundNoRoomIsTriedAgainWhenSomethingSmallerComes) {
  worker_with_memory(1, 1'000);
  worker_with_memory(2, 1'000);
  asking(950);
  asking(900);
  Piece* const one = place();
  place();
  asking(500);
  EXPECT_EQ(place(), nullptr);
  asking(200);
  EXPECT_EQ(place(), nullptr);
  asking(100);
  EXPECT_EQ(place()->memory, 100U);
  EXPECT_EQ(place(), nullptr);
  scheduler.ended(*one);
  EXPECT_EQ(place()->memory, 500U);
  EXPECT_EQ(place()->memory, 200U);
}

// What an actor holds does not come back, and what waits for it has more priorities than one look sees.
TEST_F(ClassesTest, WhatFitsHasItsTurnBehindAllThatDoesNot) {
  worker_with_memory(1, 1'000);
  auto holder = asks(with_memory(500, 0));
  holder.is_actor = true;
  tasks(1, 0, &holder);
  scheduler.stays(*place());
  for (int priority = 1; priority <= 200; ++priority) asking(900, priority);
  const Piece& small = asking(100);
  for (int turns = 0; turns < 2'000 && small.state == State::queued; ++turns) {
    now += Scheduler::kPatience / 100;
    place();
  }
  EXPECT_NE(small.state, State::queued);
}

TEST_F(ClassesTest, WhatNothingIsOfIsDropped) {
  worker(1, 1, {{"x", 1'000'000}});
  for (int i = 1; i <= 10'000; ++i) {
    const auto options = asks({1, 0, 0, {{"x", i}}});
    tasks(1, 0, &options);
    Piece* const piece = place();
    ASSERT_NE(piece, nullptr);
    scheduler.ended(*piece);
    pieces.clear();
  }
  EXPECT_LE(scheduler.classes(), 128U);
  EXPECT_EQ(scheduler.what_is_held(), "");
}

TEST_F(ClassesTest, WhatIsHeldIsGivenBackAfterItsClassCouldBeDropped) {
  worker(1, 1, {{"x", 1'000}});
  auto options = asks({0, 0, 0, {{"x", 7}}});
  options.is_actor = true;
  tasks(1, 0, &options);
  Piece* const made = place();
  scheduler.stays(*made);
  const Holding held = *made;
  pieces.clear();
  for (int i = 1; i <= 500; ++i) {
    const auto other = asks({1, 0, 0, {{"x", i}}});
    why_infeasible(other);
  }
  EXPECT_EQ(scheduler.free().resources.at("x"), 993);
  scheduler.left(held);
  EXPECT_EQ(scheduler.what_is_held(), "");
}

TEST_F(ClassesTest, AnAmountOfMemoryThatNoRankHasAnyMoreIsHopeless) {
  worker_with_memory(1, 1'000);
  worker_with_memory(2, 5'000);
  asking(5'000);
  Piece* const runs = place();
  Piece& large = asking(4'000);
  Piece& small = asking(900);
  scheduler.ended(*runs);
  scheduler.remove_worker(2);
  ASSERT_EQ(scheduler.hopeless().size(), 1U);
  EXPECT_EQ(scheduler.hopeless().front(), &large);
  EXPECT_FALSE(scheduler.can_run(large));
  EXPECT_TRUE(scheduler.can_run(small));
  const std::string why = scheduler.why_infeasible(large).value_or("");
  EXPECT_NE(why.find("the largest rank has 8 cpus, 1000 bytes"), std::string::npos) << why;
  scheduler.dequeue(large);
  EXPECT_EQ(place()->memory, 900U);
}

// A rank of the node has the memory, and another one the cpus.
TEST_F(ClassesTest, WhatNoRankCanRunAloneStillRunsWide) {
  scheduler.add_worker(1, 0, with_memory(100, 2));
  scheduler.add_worker(2, 0, with_memory(5'000, 1));
  const auto options = asks(with_memory(4'000, 2));
  EXPECT_FALSE(why_infeasible(options).has_value());
  tasks(1, 0, &options);
  const Piece* const runs = place();
  ASSERT_NE(runs, nullptr);
  EXPECT_EQ(runs->worker, 2U);
  EXPECT_EQ(runs->lenders, std::vector<RankId>{1});
}

// Tasks of as many places as there are ranks: each is placed once its rank has room, and others are not looked at.
TEST_F(ClassesTest, EachPlaceIsLookedAtWhenItsRankHasRoom) {
  for (RankId rank = 0; rank < 64; ++rank) scheduler.add_worker(rank, rank / 4, with_memory(100, 1));
  std::vector<Piece*> running;
  for (int round = 0; round < 2; ++round) {
    for (RankId rank = 0; rank < 64; ++rank) {
      auto options = asks(with_memory(100));
      options.placement = Placement::Kind::on_rank;
      options.place_index = rank;
      tasks(1, 0, &options);
    }
  }
  while (Piece* const piece = place()) running.push_back(piece);
  EXPECT_EQ(running.size(), 64U);
  EXPECT_EQ(scheduler.classes(), 64U);
  for (Piece* const piece : running) {
    const RankId rank = piece->worker;
    scheduler.ended(*piece);
    const Piece* const next = place();
    ASSERT_NE(next, nullptr);
    EXPECT_EQ(next->worker, rank);
    EXPECT_EQ(place(), nullptr);
  }
}

// The first in a bundle's queue has no room, and is cancelled.
TEST_F(SchedulerTest, WhatWasBehindItInABundleAsksForLess) {
  worker(1, 2);
  const auto pool = scheduler.open_pool({1, 0, 0, {}});
  ASSERT_TRUE(scheduler.place_pools({pool}, Strategy::pack, now));
  const auto half = asks({0.5, 0, 0, {}});
  const auto whole = asks({1, 0, 0, {}});
  std::list<Piece> in_bundle;
  const auto queue = [&](const core::WireOptions& options) -> Piece& {
    Piece& piece = in_bundle.emplace_back();
    piece.range = {detail::SpanId::make(0, 90), static_cast<std::uint32_t>(in_bundle.size()),
                   static_cast<std::uint32_t>(in_bundle.size()) + 1};
    scheduler.classify(piece, &options);
    piece.pool = pool;
    scheduler.enqueue(piece);
    return piece;
  };
  queue(half);
  ASSERT_NE(place(), nullptr);
  Piece& first = queue(whole);
  queue(half);
  EXPECT_EQ(place(), nullptr);
  EXPECT_EQ(scheduler.what_stays_idle(), "");
  scheduler.dequeue(first);
  EXPECT_NE(place(), nullptr);
}

// What a plain task that stays holds is not there for a task that asks for more than one cpu, until it leaves.
TEST_F(SchedulerTest, APlainTaskThatStaysHasItsCpu) {
  worker(1, 2);
  tasks(1);
  Piece* const stays = place();
  ASSERT_NE(stays, nullptr);
  const Holding holding = *stays;
  scheduler.stays(*stays);
  const auto two = asks({2, 0, 0, {}});
  tasks(1, 0, &two);
  EXPECT_EQ(place(), nullptr);
  EXPECT_EQ(scheduler.what_stays_idle(), "");
  scheduler.left(holding);
  EXPECT_NE(place(), nullptr);
}

// Ranks that become idle one after the other take the place of those that were reserved, and are busy for long.
TEST_F(SchedulerTest, AGangHasRanksReservedThatBecomeIdleOneByOne) {
  for (RankId rank = 1; rank <= 4; ++rank) worker(rank, 1);
  std::map<RankId, Piece*> running;
  for (int i = 0; i < 4; ++i) {
    tasks(1);
    Piece* const piece = place();
    ASSERT_NE(piece, nullptr);
    running[piece->worker] = piece;
  }
  core::WireOptions options;
  options.demands.emplace_back();
  options.gang = 2;
  tasks(2, 0, &options);
  EXPECT_FALSE(scheduler.place(now));
  const std::vector<RankId> reserved = scheduler.take_reserved();
  ASSERT_EQ(reserved.size(), 2U);
  std::vector<RankId> others;
  for (RankId rank = 1; rank <= 4; ++rank) {
    if (std::find(reserved.begin(), reserved.end(), rank) == reserved.end()) others.push_back(rank);
  }
  for (const RankId rank : others) {
    scheduler.ended(*running[rank]);
    now += 10'000'000;
    const auto decision = scheduler.place(now);
    EXPECT_EQ(decision && decision->members.size() == 2, rank == others.back());
    if (rank == others.back()) break;
    tasks(1);  // which would have it otherwise
    const auto next = scheduler.place(now);
    EXPECT_TRUE(!next || next->worker != rank);
  }
}

// What placement groups have left is less than a task asks for, and nothing will give more back.
TEST_F(SchedulerTest, ItIsSeenThatWhatStaysLeavesTooLittle) {
  worker(1, 2);
  const auto pool = scheduler.open_pool({1.5, 0, 0, {}});
  ASSERT_TRUE(scheduler.place_pools({pool}, Strategy::pack, now));
  const auto half = asks({0.5, 0, 0, {}});
  tasks(1, 0, &half);
  Piece* const runs = place();
  ASSERT_NE(runs, nullptr);
  tasks(1);
  EXPECT_EQ(place(), nullptr);
  EXPECT_FALSE(scheduler.starved()) << "one that runs will end";
  scheduler.ended(*runs);
  EXPECT_EQ(place(), nullptr);
  EXPECT_TRUE(scheduler.starved());
  scheduler.close(1);
  EXPECT_FALSE(scheduler.starved()) << "the rank takes nothing any more";
}

class ManyRanksTest : public SchedulerTest {
 protected:
  ManyRanksTest() : SchedulerTest(256) {}
};

// Ranks that may have room for a class, and have none, don't hide the one that has.
TEST_F(ManyRanksTest, TheOneRankWithRoomIsFoundAtOnce) {
  for (RankId rank = 0; rank < 200; ++rank) worker(rank, 1, {{"gpu", 1}});
  const auto whole = asks({1, 0, 0, {{"gpu", 1}}});
  std::vector<Piece*> running;
  for (int i = 0; i < 200; ++i) {
    tasks(1, 0, &whole);
    running.push_back(place());
    ASSERT_NE(running.back(), nullptr);
  }
  scheduler.ended(*running[150]);
  const auto half = asks({1, 0, 0, {{"gpu", 0.5}}});
  tasks(1, 0, &half);
  EXPECT_EQ(scheduler.what_stays_idle() == "", false);
  EXPECT_NE(place(), nullptr);
  EXPECT_EQ(scheduler.what_stays_idle(), "");
}

// It is not looked for at all its ranks whenever a task there ends.
TEST(ManyRanks, AGangThatWaitsForAllOfThemCostsEachEndTheSame) {
  const auto seconds = [](int n) {
    const auto ranks = static_cast<std::uint32_t>(n);
    Scheduler scheduler(ranks, 4);
    core::WireDemand offers;
    offers.cpus = 1;
    for (RankId rank = 0; rank < ranks; ++rank) scheduler.add_worker(rank, 0, offers);
    std::vector<Piece> busy(ranks);
    for (RankId rank = 0; rank < ranks; ++rank) {
      busy[rank].range = {detail::SpanId::make(0, 1), rank, rank + 1};
      scheduler.classify(busy[rank], nullptr);
      scheduler.assigned(busy[rank], rank, 0);
    }
    core::WireOptions options;
    options.demands.emplace_back();
    options.gang = ranks;
    Piece gang;
    gang.range = {detail::SpanId::make(0, 2), 0, ranks};
    scheduler.classify(gang, &options);
    scheduler.enqueue(gang);
    Time now = 1'000'000'000;
    EXPECT_FALSE(scheduler.place(now));
    const double begin = tests::seconds_of_this_thread();
    for (Piece& piece : busy) {
      EXPECT_FALSE(scheduler.place(now += 10'000));
      scheduler.ended(piece);
    }
    const auto decision = scheduler.place(now);
    EXPECT_TRUE(decision && decision->members.size() == ranks);
    return tests::seconds_of_this_thread() - begin;
  };
  EXPECT_LT(tests::growth(1'000, seconds).times(), 2.5);
}

// A bundle's queues of priorities that nothing is of any more.
TEST_F(ManyRanksTest, PrioritiesInABundleCostADecisionNothing) {
  worker(1, 1);
  const auto seconds = [this](int n) {
    const auto pool = scheduler.open_pool({1, 0, 0, {}});
    EXPECT_TRUE(scheduler.place_pools({pool}, Strategy::pack, now));
    Piece piece;
    piece.range = {detail::SpanId::make(0, 1), 0, 1};
    const double begin = tests::seconds_of_this_thread();
    for (int i = 0; i < n; ++i) {
      piece.priority = n - i;
      piece.pool = pool;
      scheduler.enqueue(piece);
      const auto decision = scheduler.place(now);
      EXPECT_TRUE(decision.has_value());
      scheduler.dequeue(piece);
      scheduler.assigned(piece, decision->worker, decision->demand);
      scheduler.ended(piece);
    }
    const double took = tests::seconds_of_this_thread() - begin;
    scheduler.close_pool(pool);
    return took;
  };
  EXPECT_LT(tests::growth(20'000, seconds).times(), 2.5);
}

// The rank lends its only cpu. An actor that asks for more memory than it has left is tried first.
TEST_F(ClassesTest, AnActorThatFitsIsNotKeptOutByOneThatDoesNot) {
  scheduler.add_worker(1, 0, with_memory(100, 1));
  const auto holds_half = asks(with_memory(50, 1));
  tasks(1, 0, &holds_half);
  ASSERT_NE(place(), nullptr);
  scheduler.set_lent(1, {.cpus = 1});
  auto large = asks(with_memory(90, 1));
  large.is_actor = true;
  tasks(1, 0, &large);
  EXPECT_EQ(place(), nullptr);
  auto small = asks(with_memory(10, 1));
  small.is_actor = true;
  tasks(1, 0, &small);
  EXPECT_NE(place(), nullptr);
}

// What a decision costs does not depend on how many other demands are queued.
class ManyDemandsTest : public ClassesTest {
 protected:
  ManyDemandsTest() {
    core::WireDemand offers;
    offers.cpus = 4;
    offers.gpus = 4;
    offers.memory = 1'000'000;
    offers.resources = {{"x", 4}, {"y", 4}};
    for (RankId rank = 1; rank <= 2; ++rank) scheduler.add_worker(rank, 0, offers);
  }
  // Of n tasks that ask for other parts of something each; until all have ended, one after the other.
  template <class F>
  double seconds(int n, F&& ask) {
    const double begin = tests::seconds_of_this_thread();
    for (int i = 0; i < n; ++i) {
      core::WireOptions options = asks({1, 0, 0, {}});
      int priority = 0;
      ask(options, static_cast<double>(1 + std::int64_t{i} * 7919 % n) / n, priority);
      tasks(1, priority, &options);
    }
    std::deque<Piece*> running;
    int ended = 0;
    for (int turns = 0; ended < n && turns < 10 * n; ++turns) {
      now += 1'000;
      while (Piece* const piece = place_one()) running.push_back(piece);
      if (running.empty()) continue;
      scheduler.ended(*running.front());
      running.pop_front();
      ++ended;
    }
    EXPECT_EQ(ended, n);
    scheduler.check_invariants();
    EXPECT_EQ(scheduler.what_is_held(), "");
    pieces.clear();
    return tests::seconds_of_this_thread() - begin;
  }
  template <class F>
  void expect_linear(F&& ask) {
    const tests::Growth cost = tests::growth(400, [&](int n) { return seconds(n, ask); });
    std::printf("%.0f ms, %.1f times that for twice as many\n", cost.once * 1e3, cost.times());
    EXPECT_LT(cost.times(), 3) << "4, if each looked at all others; and more of them fit into no cache";
  }
};

TEST_F(ManyDemandsTest, OfAResource) {
  expect_linear([](core::WireOptions& options, double part, int&) { options.demands[0].resources["x"] = part; });
}

TEST_F(ManyDemandsTest, OfCpus) {
  expect_linear([](core::WireOptions& options, double part, int&) { options.demands[0].cpus = 4 * part; });
}

TEST_F(ManyDemandsTest, OfGpusAndPriorities) {
  expect_linear([](core::WireOptions& options, double part, int& priority) {
    options.demands[0].gpus = part;
    priority = static_cast<int>(part * 100'000) % 1'000;
  });
}

TEST_F(ManyDemandsTest, OfAResourceAndMemory) {
  expect_linear([](core::WireOptions& options, double part, int&) {
    options.demands[0].resources["x"] = 4 * part;
    options.demands[0].memory = static_cast<std::uint64_t>(1'000'000 * (1 - part));
  });
}

TEST_F(ManyDemandsTest, OfTwoResources) {
  expect_linear([](core::WireOptions& options, double part, int&) {
    options.demands[0].resources["x"] = 4 * part;
    options.demands[0].resources["y"] = 4 * (1 - part);
  });
}

TEST_F(ManyDemandsTest, OfAResourceAtARank) {
  expect_linear([](core::WireOptions& options, double part, int&) {
    options.demands[0].resources["x"] = part;
    options.placement = Placement::Kind::on_rank;
    options.place_index = 2;
  });
}

TEST_F(ManyDemandsTest, OfAResourceWithAnotherChoice) {
  expect_linear([](core::WireOptions& options, double part, int&) {
    options.demands[0].resources["x"] = 4 * part;
    options.demands.push_back({4 * part, 0, 0, {}});
  });
}

// Whatever bounds a search has, what fits is found without other news.
TEST_F(ManyDemandsTest, ALongSearchGoesOn) {
  const auto queue = [this](double x, double y) {
    const auto options = asks({0, 0, 0, {{"x", x}, {"y", y}}});
    return &tasks(1, 0, &options);
  };
  for (int i = 0; i < 4; ++i) queue(2, 2);
  std::vector<Piece*> running;
  while (Piece* const piece = place()) running.push_back(piece);
  ASSERT_EQ(running.size(), 4U);
  const Piece* const fits = queue(1.5, 1.5);
  // Newer ones come first. Each asks for too much of one of them, and for little of the other.
  for (int i = 1; i <= 200; ++i) {
    queue(3, i / 200.0);
    queue(i / 200.0, 3);
  }
  ASSERT_EQ(place(), nullptr);
  scheduler.ended(*running.front());
  EXPECT_EQ(place(), nullptr) << "not at once";
  int steps = 0;
  for (; fits->state == State::queued && steps < 100; ++steps) {
    now += 10'000;
    place();
  }
  EXPECT_EQ(fits->state, State::waiting) << "it was placed";
}

TEST_F(ManyDemandsTest, TheFirstThatFitsGoesFirst) {
  const auto queue = [this](double x, int priority) {
    const auto options = asks({0, 0, 0, {{"x", x}}});
    tasks(1, priority, &options);
  };
  for (int i = 0; i < 4; ++i) queue(2, 0);
  std::vector<Piece*> running;
  while (Piece* const piece = place()) running.push_back(piece);
  ASSERT_EQ(running.size(), 4U);
  for (int i = 0; i < 100; ++i) queue(2.01 + i / 100.0, 7);
  queue(0.25, 1);
  queue(0.5, 2);
  queue(1.5, 3);
  queue(1, 5);
  EXPECT_EQ(place(), nullptr);
  scheduler.ended(*running.front());
  std::vector<int> order;
  while (const Piece* const piece = place()) order.push_back(piece->priority);
  EXPECT_EQ(order, (std::vector<int>{5, 2, 1}));
  EXPECT_EQ(scheduler.what_stays_idle(), "");
}

// It waits for a rank that will have the cpus, and then has less. What another one lends is its own then.
TEST_F(ManyDemandsTest, AnActorTakesWhatIsLentOnceWhatItCountsOnIsLessToo) {
  for (RankId rank = 1; rank <= 2; ++rank) scheduler.close(rank);
  for (RankId rank = 11; rank <= 12; ++rank) worker(rank, 1, {{"x", 4}});
  tasks(2);
  const Piece* const waits = place();
  const Piece* const runs = place();
  ASSERT_TRUE(waits != nullptr && runs != nullptr);
  scheduler.set_lent(waits->worker, {.cpus = 1});
  auto holder = asks({0, 0, 0, {{"x", 4}}});
  holder.placement = Placement::Kind::on_rank;
  holder.place_index = runs->worker;
  tasks(1, 0, &holder);
  ASSERT_NE(place(), nullptr);
  auto actor = asks({1, 0, 0, {{"x", 2}}});
  actor.is_actor = true;
  tasks(1, 0, &actor);
  EXPECT_EQ(place(), nullptr) << "the other rank has the cpu for it when its task has ended";
  scheduler.set_lent(runs->worker, {.cpus = 1});
  const Piece* const made = place();
  ASSERT_NE(made, nullptr);
  EXPECT_EQ(made->worker, waits->worker);
}

}  // namespace
}  // namespace mobula::sched
