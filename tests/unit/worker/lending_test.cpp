// Cpus that runs lend while they wait, and actors that take them for good: each run goes on in the end.
#include <gtest/gtest.h>

#include "core/functions.hpp"
#include "mobula/mobula.hpp"
#include "transport/local_wire.hpp"
#include "worker/worker.hpp"

namespace mobula::worker {
namespace {

int task() { return 1; }
struct Holder {
  int touch() { return 1; }
};

const FunctionInfo& kTask = detail::Function<task>::info;
const FunctionInfo kMember{"F = lending::member", &detail::Function<task>::invoke, 0, sizeof(int),
                           FunctionInfo::Kind::member};
const FunctionInfo& kMake = detail::Constructor<std::tuple<>, Holder>::info;
const FunctionInfo& kTouch = detail::Method<Holder, &Holder::touch>::info;

using RunPtr = std::unique_ptr<Run>;

// A worker with one slot. Its tasks are another rank's.
class Lending : public testing::Test {
 protected:
  static Settings settings() {
    Settings settings;
    settings.slots = 1;
    settings.offers.cpus = 1;
    return settings;
  }

  core::Assign assignment(const FunctionInfo& function, ObjectId id, double cpus) {
    core::Assign message;
    message.range = {id.span, id.index, id.index + 1};
    message.attempt = 1;
    message.body.function = function.index;
    message.body.has_options = true;
    message.body.options.demands.push_back({cpus, 0, 0, {}});
    return message;
  }
  void assign(const FunctionInfo& function, ObjectId id, double cpus, bool is_actor) {
    core::Assign message = assignment(function, id, cpus);
    message.body.options.is_actor = is_actor;
    message.body.options.actor.concurrency = 1;
    worker.handle(kOther, message);
  }
  // The next run, which has begun; nullptr: none may.
  RunPtr next() { return worker.next_run(++now); }
  RunPtr start(double cpus) {
    assign(kTask, {SpanId::make(kOther, 1), index_++}, cpus, false);
    return next();
  }
  // A member of a gang of its own.
  RunPtr start_member() {
    const ObjectId id{SpanId::make(kOther, 1), index_++};
    core::Assign message = assignment(kMember, id, 1);
    message.body.options.gang = 2;
    message.gang = {id.index + 1, 1, 0, {}};
    worker.handle(0, message);
    return next();
  }
  void end(RunPtr run) {
    ASSERT_NE(run, nullptr);
    if (run->body->function->kind != FunctionInfo::Kind::destructor) run->body->function->invoke(run->task);
    worker.finish(std::move(run), ++now);
  }
  // Its id.
  ObjectId make_actor(double cpus) {
    const ObjectId id{SpanId::make(kOther, 1), index_++};
    assign(kMake, id, cpus, true);
    end(next());
    return id;
  }
  RunPtr call(ObjectId actor) {
    core::Call message;
    message.actor = actor;
    message.range = {SpanId::make(kOther, 2), index_, index_ + 1};
    message.caller = {SpanId::make(kOther, 3), 0};
    ++index_;
    message.body.function = kTouch.index;
    worker.handle(kOther, message);
    return next();
  }
  void end_actor(ObjectId id) {
    worker.handle(0, core::EndActor{id, 0, {}});
    end(next());
  }
  void expect_all_free() {
    EXPECT_EQ(worker.cpus_in_use(), 0);
    EXPECT_EQ(worker.what_is_left().find("slots"), std::string::npos) << worker.what_is_left();
    EXPECT_EQ(worker.what_is_left().find("cpus"), std::string::npos) << worker.what_is_left();
  }

  static constexpr RankId kOther = 1;
  transport::LocalHub hub{2};
  transport::Transport transport{hub.at(0)};
  Store store{Store::Settings{}};
  store::ObjectTable objects{0, store};
  Worker worker{transport, objects, settings()};
  Time now = 1;

 private:
  std::uint32_t index_ = 0;
};

TEST_F(Lending, WhoLentGetsItBackWhenOthersEnd) {
  RunPtr waits = start(1);
  worker.lend(*waits);
  RunPtr other = start(1);
  ASSERT_NE(other, nullptr);
  EXPECT_FALSE(worker.resume(*waits));
  end(std::move(other));
  EXPECT_TRUE(worker.resume(*waits));
  EXPECT_EQ(worker.cpus_in_use(), 1);
  end(std::move(waits));
  expect_all_free();
}

TEST_F(Lending, AnActorTakesAllThatATaskLends) {
  RunPtr waits = start(1);
  worker.lend(*waits);
  const ObjectId actor = make_actor(1);
  EXPECT_TRUE(worker.resume(*waits));
  EXPECT_EQ(worker.cpus_in_use(), 1);
  end(std::move(waits));
  EXPECT_EQ(worker.cpus_in_use(), 1);
  end_actor(actor);
  expect_all_free();
}

TEST_F(Lending, AnActorTakesAPartOfWhatATaskLends) {
  RunPtr waits = start(1);
  worker.lend(*waits);
  const ObjectId actor = make_actor(0.5);
  EXPECT_TRUE(worker.resume(*waits)) << "it goes on with the other half";
  EXPECT_EQ(worker.cpus_in_use(), 1);
  // Again, and this time it has less to lend.
  worker.lend(*waits);
  RunPtr small = start(0.5);
  ASSERT_NE(small, nullptr);
  EXPECT_FALSE(worker.resume(*waits)) << "others have their turn";
  end(std::move(small));
  EXPECT_TRUE(worker.resume(*waits));
  end(std::move(waits));
  EXPECT_EQ(worker.cpus_in_use(), 0.5);
  end_actor(actor);
  expect_all_free();
}

TEST_F(Lending, WhatWentOnWithoutTakesNobodysTurn) {
  RunPtr waits = start(1);
  worker.lend(*waits);
  const ObjectId actor = make_actor(0.5);
  RunPtr first = start(0.5);
  worker.lend(*first);
  RunPtr second = start(0.5);
  ASSERT_NE(second, nullptr);
  const bool goes_on = worker.resume(*first);
  end(std::move(second));
  EXPECT_TRUE(goes_on || worker.resume(*first));
  end(std::move(first));
  EXPECT_TRUE(worker.resume(*waits));
  end(std::move(waits));
  end_actor(actor);
  expect_all_free();
}

TEST_F(Lending, AnActorsMethodTakesBackWhatItLentToATaskThatWaits) {
  const ObjectId actor = make_actor(1);
  RunPtr method = call(actor);
  worker.lend(*method);
  RunPtr task = start(1);
  ASSERT_NE(task, nullptr);
  worker.lend(*task);
  EXPECT_TRUE(worker.resume(*method));
  end(std::move(method));
  EXPECT_TRUE(worker.resume(*task)) << "the actor has its cpu for good";
  end(std::move(task));
  end_actor(actor);
  expect_all_free();
}

TEST_F(Lending, AnActorTakesWhatAnotherOnesMethodLends) {
  const ObjectId first = make_actor(1);
  RunPtr method = call(first);
  worker.lend(*method);
  const ObjectId second = make_actor(1);
  EXPECT_TRUE(worker.resume(*method));
  end(std::move(method));
  EXPECT_EQ(worker.cpus_in_use(), 1);
  // It has it back when it waits the next time.
  end_actor(second);
  method = call(first);
  worker.lend(*method);
  EXPECT_TRUE(worker.resume(*method));
  EXPECT_EQ(worker.cpus_in_use(), 1);
  end(std::move(method));
  end_actor(first);
  expect_all_free();
}

// A thread that it has started waits still.
TEST_F(Lending, AConstructorEndsWhileItLends) {
  const ObjectId id{SpanId::make(kOther, 4), 0};
  assign(kMake, id, 1, true);
  RunPtr run = next();
  ASSERT_NE(run, nullptr);
  worker.lend(*run, false);
  end(std::move(run));
  EXPECT_EQ(worker.cpus_in_use(), 1);
  end_actor(id);
  expect_all_free();
}

// What a task lends is for tasks: those who wait for it may be inside MPI, where nobody takes it from them.
TEST_F(Lending, AMemberBeginsBesideATaskThatWaitsAndHoldsNothing) {
  RunPtr waits = start(1);
  EXPECT_EQ(start_member(), nullptr) << "the cpu is in use";
  worker.lend(*waits);
  RunPtr member = next();
  ASSERT_NE(member, nullptr);
  EXPECT_EQ(worker.cpus_in_use(), 0);
  RunPtr another = start_member();
  ASSERT_NE(another, nullptr) << "the head has seen to it that there are few";
  RunPtr task = start(1);
  ASSERT_NE(task, nullptr);
  EXPECT_FALSE(worker.resume(*waits));
  worker.lend(*member);
  EXPECT_TRUE(worker.resume(*member)) << "it takes nothing";
  end(std::move(task));
  EXPECT_TRUE(worker.resume(*waits));
  EXPECT_EQ(worker.cpus_in_use(), 1);
  end(std::move(waits));
  EXPECT_EQ(worker.cpus_in_use(), 0);
  end(std::move(member));
  end(std::move(another));
  expect_all_free();
}

// Another member may wait for it inside MPI, and that one for a task that waits for the cpu.
TEST_F(Lending, AMemberTakesItsCpuBackAtOnceAndNobodyWaitsForThat) {
  RunPtr member = start_member();
  ASSERT_NE(member, nullptr);
  EXPECT_EQ(worker.member_cpus(), 1);
  worker.lend(*member);
  EXPECT_EQ(worker.member_cpus(), 0);
  RunPtr runs = start(1);
  ASSERT_NE(runs, nullptr);
  EXPECT_TRUE(worker.resume(*member));
  EXPECT_EQ(worker.cpus_in_use(), 2);
  EXPECT_EQ(start(1), nullptr);
  worker.lend(*runs);
  EXPECT_EQ(next(), nullptr) << "the member has the cpu";
  EXPECT_TRUE(worker.resume(*runs)) << "the member may wait for it";
  EXPECT_EQ(worker.cpus_in_use(), 2);
  end(std::move(runs));
  EXPECT_EQ(worker.cpus_in_use(), 1);
  end(std::move(member));
  end(next());
  expect_all_free();
}

// It takes nothing that those have lent, and what they wait for may be its gang.
TEST_F(Lending, AMemberBeginsWhileThreadsWantTheirCpusBack) {
  RunPtr waits = start(1);
  worker.lend(*waits);
  RunPtr runs = start(1);
  EXPECT_FALSE(worker.resume(*waits));
  worker.want_resume(1);
  RunPtr member = start_member();
  EXPECT_NE(member, nullptr);
  EXPECT_EQ(start(1), nullptr);
  end(std::move(runs));
  EXPECT_TRUE(worker.resume(*waits));
  worker.want_resume(-1);
  end(std::move(waits));
  end(std::move(member));
  end(next());
  expect_all_free();
}

TEST_F(Lending, AMemberAndAnActorThatTakesWhatItLends) {
  RunPtr member = start_member();
  worker.lend(*member);
  const ObjectId actor = make_actor(1);
  EXPECT_TRUE(worker.resume(*member));
  EXPECT_EQ(worker.cpus_in_use(), 1) << "those of the actor";
  worker.lend(*member);
  EXPECT_TRUE(worker.resume(*member));
  end(std::move(member));
  EXPECT_EQ(worker.cpus_in_use(), 1);
  end_actor(actor);
  expect_all_free();
}

TEST_F(Lending, WhatAMemberLeftBehindHasHadGoesToOthers) {
  RunPtr left = start_member();
  ASSERT_NE(left, nullptr);
  worker.handle(0, core::GangOver{left->body->gang->gang, false});
  worker.tick(now += 10'000'000'000);
  EXPECT_EQ(worker.stuck(), 1U);
  RunPtr member = start_member();
  ASSERT_NE(member, nullptr);
  EXPECT_EQ(worker.member_cpus(), 1) << "nobody wants that back";
  EXPECT_EQ(start(1), nullptr);
  end(std::move(member));
  end(next());
  end(std::move(left));
  expect_all_free();
}

// The head took the first one for one that waits. It may wait inside MPI for another that waits for the second one.
TEST_F(Lending, AMemberBeginsBesideOneThatRuns) {
  RunPtr first = start_member();
  RunPtr second = start_member();
  ASSERT_TRUE(first != nullptr && second != nullptr);
  EXPECT_EQ(worker.member_cpus(), 1);
  end(std::move(second));
  end(std::move(first));
  expect_all_free();
}

}  // namespace
}  // namespace mobula::worker
