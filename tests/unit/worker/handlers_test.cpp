// What a worker does with each message: what it sends, and how what it runs and keeps stands afterwards.
#include <algorithm>
#include <cstring>

#include "core/cluster.hpp"
#include "growth.hpp"
#include "head/head.hpp"
#include "unit/handlers/handler_test.hpp"
#include "unit/handlers/recorder.hpp"
#include "unit/handlers/tasks.hpp"
#include "worker/worker.hpp"

namespace mobula::worker {

using core::MemberState;
using core::Where;
using detail::kNoRank;
using tests::bytes_of;
using tests::counter;
using tests::gang;
using tests::object_of;
using tests::Tasks;
using tests::tasks;

constexpr Time kMs = 1'000'000;

// As a thread does. A test is no thread: it says when the run has ended.
void execute(Run& run) {
  if (run.saves || run.save_at != 0) {
    run.saved.emplace();
    tests::kMakeCounter.klass->save(*run.saved, run.task.actor.get());
  }
  if (!run.saves) run.body->function->invoke(run.task);
}

// Rank 1 of four, with two slots. Its node is that of rank 2: both read each other's memory.
class WorkerHandlers : public ::testing::Test {
 protected:
  static constexpr std::size_t kMemory = 128 << 10;

  static Settings settings() {
    Settings settings;
    settings.slots = 2;
    settings.offers.cpus = 2;
    settings.host = "host1";
    return settings;
  }
  Store::Settings store_settings() {
    Store::Settings settings;
    settings.memory = {memory.get(), kMemory};
    settings.segment_of = [this](RankId rank) {
      return rank == 1 ? ByteView(memory.get(), kMemory) : rank == 2 ? ByteView(beside.get(), kMemory) : ByteView();
    };
    return settings;
  }

  // What the worker sends next, by receiver.
  std::string step() {
    worker.flush(now);
    for (const Store::Order& order : store.take_orders()) {
      if (const auto* prepare = std::get_if<Store::Prepare>(&order)) worker.prepared(prepare->token, true);
    }
    return recorder.take();
  }
  // What it sends on the message.
  template <class Message>
  std::string on(RankId from, const Message& message) {
    worker.handle(from, message);
    return step();
  }
  template <class Message>
  Message sent() const {
    return recorder.only<Message>();
  }
  // Runs all that may run, and says what the worker sends then.
  std::string run() {
    while (auto next = worker.next_run(now)) {
      execute(*next);
      worker.finish(std::move(next), now);
    }
    return step();
  }
  // A thread takes it.
  std::unique_ptr<mobula::worker::Run> begin(const Tasks& tasks) {
    EXPECT_EQ(on(0, tasks.assign()), "");
    return worker.next_run(now);
  }
  // A counter that lives here, made by rank 0.
  ObjectId make_actor(const core::ActorTraits& traits = {}) {
    const Tasks actor = counter(traits).by(0, 77);
    EXPECT_EQ(on(0, actor.assign()), "");
    EXPECT_EQ(run(), "0: Result, Done");
    EXPECT_EQ(worker.actors(), 1U);
    return actor.id();
  }
  // A handle to an object of another rank, of which the head has been told.
  Handle foreign(ObjectId id) {
    Handle handle = objects.handle_of(id);
    step();
    return handle;
  }
  // The results of that many tasks that this rank has submitted.
  detail::BatchHandle batch_of(std::uint32_t n) {
    store::Record* const record = objects.new_batch(sizeof(int));
    detail::BatchHandle batch(record, n);
    objects.append(*record, n);
    objects.close(*record);
    return batch;
  }
  // A handle to the result of a task that this rank has submitted.
  Handle own() { return objects.mint(); }
  Handle put(std::size_t size) {
    detail::Encoder value;
    value.buffer.extend(size);
    return worker.put(std::move(value));
  }
  static core::Data data(ObjectId id, ByteView value) {
    core::Data data;
    data.id = id;
    data.value = value;
    return data;
  }
  // A result with one number.
  static core::Result result(const Tasks& of_task, const int& number) {
    core::Result result;
    result.range = of_task.range();
    result.fixed = sizeof number;
    result.values = {reinterpret_cast<const std::byte*>(&number), sizeof number};
    result.rank = 2;
    return result;
  }
  static int number(ByteView bytes) {
    int value = 0;
    EXPECT_EQ(bytes.size(), sizeof value);
    if (bytes.size() == sizeof value) std::memcpy(&value, bytes.data(), sizeof value);
    return value;
  }
  static int number(const Handle& handle) { return number(handle.record()->value(handle.index()).value()); }
  static bool is_ready(const Handle& handle) { return handle.record()->ready(handle.index()); }
  static std::string error_of(const Handle& handle) {
    const store::Slot* slot = is_ready(handle) ? handle.record()->slot(handle.index()) : nullptr;
    return slot != nullptr && slot->kind == store::Slot::Kind::error ? (*slot->error)->message : "none";
  }
  static core::ErrorRecord error(const std::string& text) {
    core::ErrorRecord error;
    error.message = text;
    return error;
  }
  // Threads wait for the value.
  struct Ignorer final : store::Watcher {
    void ready(std::size_t) override {}
  };

  std::unique_ptr<std::byte[]> memory = std::make_unique<std::byte[]>(kMemory);
  std::unique_ptr<std::byte[]> beside = std::make_unique<std::byte[]>(kMemory);
  Store store{store_settings()};
  store::ObjectTable objects{1, store};
  tests::Recorder recorder{1, 4};  // may have values of the store on loan
  Worker worker{recorder.transport(), objects, settings()};
  Time now = 1'000 * kMs;
};

#define EXPECT_DAMAGED(statement) EXPECT_THROW(statement, ProtocolError)

// ---- tasks -------------------------------------------------------------------------------------------------------

HANDLER_TEST(WorkerHandlers, Assign, IsRunAndItsResultGoesToTheOwner) {
  const Tasks one = tasks().by(2);
  EXPECT_EQ(on(0, one.assign()), "");
  EXPECT_EQ(worker.queued_tasks(), 1U);
  EXPECT_EQ(run(), "0: Done; 2: Result");
  EXPECT_EQ(number(sent<core::Result>().values), 2);
  EXPECT_EQ(sent<core::Result>().range.span, one.range().span);
  EXPECT_EQ(sent<core::Done>().range.end, 1U);
  EXPECT_TRUE(sent<core::Done>().errors.empty());
  EXPECT_EQ(worker.what_is_left(), "");
}

HANDLER_TEST(WorkerHandlers, Assign, OfThisRanksOwn) {
  const Handle handle = own();
  EXPECT_EQ(on(0, tasks().by(1).assign()), "");
  EXPECT_EQ(run(), "0: Done");
  EXPECT_EQ(number(handle), 2);
}

HANDLER_TEST(WorkerHandlers, Assign, WithAnInputInIt) {
  const int input = 40;
  const ByteView bytes(reinterpret_cast<const std::byte*>(&input), sizeof input);
  EXPECT_EQ(on(0, tasks(tests::kAdd).by(2).after({object_of(3, 1), Where::inlined, kNoRank, bytes}).assign()), "");
  EXPECT_EQ(run(), "0: Done; 2: Result");
  EXPECT_EQ(number(sent<core::Result>().values), 41);
}

HANDLER_TEST(WorkerHandlers, Assign, FetchesItsInputs) {
  const ObjectId there = object_of(3, 1);
  EXPECT_EQ(on(0, tasks(tests::kAdd).by(2).after({there, Where::rank, 3, {}, 9}).assign()), "3: Fetch");
  EXPECT_EQ(sent<core::Fetch>().id, there);
  EXPECT_EQ(sent<core::Fetch>().turn, 9U);
  EXPECT_FALSE(sent<core::Fetch>().word);
  EXPECT_EQ(run(), "") << "it waits";
  const int input = 40;
  EXPECT_EQ(on(3, data(there, {reinterpret_cast<const std::byte*>(&input), sizeof input})), "");
  EXPECT_EQ(run(), "0: Done; 2: Result");
  EXPECT_EQ(number(sent<core::Result>().values), 41);
  EXPECT_EQ(worker.what_is_left(), "");
}

HANDLER_TEST(WorkerHandlers, Assign, AsksWhereItsInputsAre) {
  EXPECT_EQ(on(0, tasks(tests::kAdd).by(2).after(object_of(3, 1)).assign()), "0: Locate");
  EXPECT_EQ(sent<core::Locate>().id, object_of(3, 1));
  EXPECT_TRUE(sent<core::Locate>().for_task);
}

HANDLER_TEST(WorkerHandlers, Assign, WithAnInputAtARankThatIsNoneAsks) {
  EXPECT_EQ(on(0, tasks(tests::kAdd).by(2).after({object_of(3, 1), Where::rank, 4, {}, 9}).assign()), "0: Locate");
}

HANDLER_TEST(WorkerHandlers, Assign, OfWhatThrowsGivesTheError) {
  EXPECT_EQ(on(0, tasks(tests::kRefuse).by(2).assign()), "");
  EXPECT_EQ(run(), "0: Done; 2: Result");
  ASSERT_EQ(sent<core::Done>().errors.size(), 1U);
  EXPECT_EQ(sent<core::Done>().errors[0].error.message, "it refuses");
  ASSERT_EQ(sent<core::Result>().errors.size(), 1U);
  EXPECT_EQ(sent<core::Result>().errors[0].error.failure.rank, 1U);
}

HANDLER_TEST(WorkerHandlers, Assign, OfALargeResultKeepsIt) {
  const Tasks one = tasks(tests::kLarge).by(2);
  EXPECT_EQ(on(0, one.assign()), "");
  EXPECT_EQ(run(), "0: Done; 2: Result");
  ASSERT_EQ(sent<core::Done>().stored.size(), 1U);
  EXPECT_EQ(sent<core::Done>().stored[0].size, tests::kLargeSize);
  EXPECT_EQ(sent<core::Result>().rank, 1U);
  EXPECT_TRUE(store.has(one.id()));
}

HANDLER_TEST(WorkerHandlers, Assign, OfAnActorLetsItLiveHere) {
  make_actor();
  EXPECT_EQ(sent<core::Done>().stored.size(), 1U);
  EXPECT_EQ(worker.cpus_in_use(), 1);
}

HANDLER_TEST(WorkerHandlers, Assign, OfAMemberTellsHowItEnds) {
  EXPECT_EQ(on(0, gang(2).by(2).from(1, 2).assign({3, 4, 1, {}})), "");
  EXPECT_EQ(run(), "0: Member");
  EXPECT_EQ(sent<core::Member>().gang, 3U);
  EXPECT_EQ(sent<core::Member>().place, 1U);
  EXPECT_EQ(sent<core::Member>().state, MemberState::ended);
}

// Its rank was idle when the gang was placed; what came since might hold for good what the others of the gang wait for.
HANDLER_TEST(WorkerHandlers, Assign, OfAMemberComesFirst) {
  core::Assign urgent = tasks().by(3).demand({}).assign();
  urgent.body.options.priority = 5;
  ASSERT_EQ(on(0, urgent), "");
  ASSERT_EQ(on(0, gang(2).by(2).from(1, 2).assign({3, 4, 1, {}})), "");
  const auto first = worker.next_run(now);
  ASSERT_NE(first, nullptr);
  EXPECT_NE(first->body->gang, nullptr);
  const auto second = worker.next_run(now);
  ASSERT_NE(second, nullptr);
  EXPECT_EQ(second->body->priority(), 5);
}

HANDLER_TEST(WorkerHandlers, Assign, ThatCannotBeIsDamaged) {
  core::Assign unknown = tasks().by(2).assign();
  unknown.body.function = 1'000'000;
  EXPECT_DAMAGED(worker.handle(0, unknown));
  EXPECT_DAMAGED(worker.handle(0, gang(2).by(2).assign({3, 4, 0, {}}))) << "of two members";
  EXPECT_EQ(worker.what_is_left(), "");
  EXPECT_EQ(on(0, gang(2).by(2).from(0, 1).assign({3, 4, 0, {}})), "");
  EXPECT_DAMAGED(worker.handle(0, gang(2).by(2).from(1, 2).assign({3, 4, 1, {}}))) << "of the same gang";
  EXPECT_EQ(worker.members(), 1U);
}

HANDLER_TEST(WorkerHandlers, TakeBack, GivesWhatWouldRunLast) {
  ASSERT_EQ(on(0, tasks().by(2).from(0, 5).assign()), "");
  EXPECT_EQ(on(0, core::TakeBack{2, false}), "0: GaveBack");
  const auto back = sent<core::GaveBack>().ranges;
  ASSERT_EQ(back.size(), 1U);
  EXPECT_EQ(back[0].begin, 3U);
  EXPECT_EQ(back[0].end, 5U);
  EXPECT_EQ(worker.queued_tasks(), 3U);
}

// It was placed where a task lent its cpu, which has gone on.
HANDLER_TEST(WorkerHandlers, TakeBack, GivesWhatHasNoCpusHereAnyMore) {
  const core::WireDemand with_memory{1, 0, 7, {}};
  ASSERT_EQ(on(0, tasks().by(2, 1).demand(with_memory).assign()), "");
  EXPECT_EQ(on(0, core::TakeBack{5, false}), "0: GaveBack");
  EXPECT_TRUE(sent<core::GaveBack>().ranges.empty()) << "it has";
  ASSERT_EQ(on(0, tasks().by(2, 2).from(0, 2).assign()), "");
  std::vector<std::unique_ptr<mobula::worker::Run>> busy;
  while (auto run = worker.next_run(now)) busy.push_back(std::move(run));
  ASSERT_EQ(on(0, tasks().by(2, 3).demand(with_memory).assign()), "");
  EXPECT_EQ(on(0, core::TakeBack{5, false}), "0: GaveBack");
  EXPECT_FALSE(sent<core::GaveBack>().ranges.empty());
}

HANDLER_TEST(WorkerHandlers, TakeBack, IsAnsweredWhereThereIsNothing) {
  EXPECT_EQ(on(0, core::TakeBack{5, true}), "0: GaveBack");
  EXPECT_TRUE(sent<core::GaveBack>().ranges.empty());
}

HANDLER_TEST(WorkerHandlers, TakeBack, OfWhatWaitsForInputs) {
  ASSERT_EQ(on(0, tasks(tests::kAdd).by(2).after(object_of(3, 1)).assign()), "0: Locate");
  EXPECT_EQ(on(0, core::TakeBack{5, false}), "0: GaveBack");
  EXPECT_TRUE(sent<core::GaveBack>().ranges.empty());
  EXPECT_EQ(on(0, core::TakeBack{5, true}), "0: GaveBack");
  EXPECT_EQ(sent<core::GaveBack>().ranges.size(), 1U);
  EXPECT_EQ(on(0, core::Located{object_of(3, 1), 3, {}, 1, true}), "") << "nobody wants it any more";
  EXPECT_EQ(worker.what_is_left(), "");
}

// Only where what it waits for is nobody's yet, or this rank leaves.
HANDLER_TEST(WorkerHandlers, TakeBack, OfAWideTaskThatWaitsForInputs) {
  core::Assign wide = tasks(tests::kAdd).by(2).after(object_of(3, 1)).assign();
  wide.lenders = {3};
  ASSERT_EQ(on(0, wide), "0: Locate");
  EXPECT_EQ(on(0, core::TakeBack{5, true, true}), "0: GaveBack");
  EXPECT_TRUE(sent<core::GaveBack>().ranges.empty());
  EXPECT_EQ(on(0, core::TakeBack{5, true}), "0: GaveBack");
  EXPECT_EQ(sent<core::GaveBack>().ranges.size(), 1U);
}

HANDLER_TEST(WorkerHandlers, TakeBack, LeavesActorsCallsAndMembers) {
  const ObjectId actor = make_actor();
  ASSERT_EQ(on(2, tasks(tests::kStep).by(2).call(actor)), "");
  ASSERT_EQ(on(0, gang(2).by(2, 2).from(0, 1).assign({3, 4, 0, {}})), "");
  EXPECT_EQ(on(0, core::TakeBack{5, true}), "0: GaveBack");
  EXPECT_TRUE(sent<core::GaveBack>().ranges.empty());
  EXPECT_EQ(run(), "0: Member; 2: Result");
}

HANDLER_TEST(WorkerHandlers, CancelTask, OfWhatIsQueued) {
  const Tasks three = tasks().by(2).from(0, 3);
  ASSERT_EQ(on(0, three.assign()), "");
  EXPECT_EQ(on(0, core::CancelTask{8, three.id(1)}), "0: CancelResult");
  EXPECT_EQ(sent<core::CancelResult>().token, 8U);
  EXPECT_EQ(sent<core::CancelResult>().id, three.id(1));
  EXPECT_TRUE(sent<core::CancelResult>().cancelled);
  EXPECT_EQ(worker.queued_tasks(), 2U);
  EXPECT_EQ(run(), "0: Done, Done; 2: Result, Result");
  EXPECT_EQ(number(recorder.all<core::Result>()[1].values), 6) << "of the third argument";
}

// What was one piece shares its arguments and the values that have come; each part counts for itself what it misses.
HANDLER_TEST(WorkerHandlers, CancelTask, OfSomeThatWaitLeavesTheOthersTheirInput) {
  const ObjectId input = object_of(3, 1);
  const Tasks six = tasks(tests::kAdd).by(2).from(0, 6).after({input, Where::rank, 3, {}, 9});
  ASSERT_EQ(on(0, six.assign()), "3: Fetch");
  for (const std::uint32_t index : {1U, 4U}) {
    EXPECT_EQ(on(0, core::CancelTask{8, six.id(index)}), "0: CancelResult");
    EXPECT_TRUE(sent<core::CancelResult>().cancelled);
  }
  EXPECT_EQ(run(), "") << "they wait";
  const int forty = 40;
  EXPECT_EQ(on(3, data(input, {reinterpret_cast<const std::byte*>(&forty), sizeof forty})), "");
  EXPECT_EQ(worker.queued_tasks(), 4U);
  run();
  std::map<std::uint32_t, int> sums;
  for (const auto& result : recorder.all<core::Result>()) {
    const std::uint32_t n = result.range.end - result.range.begin;
    ASSERT_EQ(result.values.size(), n * sizeof(int));
    for (std::uint32_t i = 0; i != n; ++i)
      sums[result.range.begin + i] = number(result.values.subspan(i * sizeof(int), sizeof(int)));
  }
  EXPECT_EQ(sums, (std::map<std::uint32_t, int>{{0, 41}, {2, 43}, {3, 44}, {5, 46}}));
  EXPECT_EQ(worker.what_is_left(), "");
}

// One of the inputs has come before the piece is taken apart, the other one comes after.
HANDLER_TEST(WorkerHandlers, CancelTask, OfOneBetweenTwoInputs) {
  const ObjectId here = object_of(3, 1);
  const ObjectId late = object_of(3, 2);
  const Tasks three =
      tasks(tests::kAdd).by(2).from(0, 3).after({here, Where::rank, 3, {}, 9}).after({late, Where::rank, 3, {}, 9});
  ASSERT_EQ(on(0, three.assign()), "3: Fetch, Fetch");
  const int forty = 40;
  const ByteView bytes(reinterpret_cast<const std::byte*>(&forty), sizeof forty);
  EXPECT_EQ(on(3, data(here, bytes)), "");
  EXPECT_EQ(on(0, core::CancelTask{8, three.id(1)}), "0: CancelResult");
  EXPECT_EQ(run(), "") << "they wait";
  EXPECT_EQ(on(3, data(late, bytes)), "");
  EXPECT_EQ(worker.queued_tasks(), 2U);
  EXPECT_EQ(run(), "0: Done, Done; 2: Result, Result");
  for (const auto& result : recorder.all<core::Result>()) EXPECT_EQ(number(result.values), 80);
  EXPECT_EQ(worker.what_is_left(), "");
}

HANDLER_TEST(WorkerHandlers, CancelTask, OfWhatRunsOrIsNotHere) {
  const Tasks one = tasks().by(2);
  ASSERT_EQ(on(0, one.assign()), "");
  auto running = worker.next_run(now);
  EXPECT_EQ(on(0, core::CancelTask{8, one.id()}), "0: CancelResult");
  EXPECT_FALSE(sent<core::CancelResult>().cancelled);
  execute(*running);
  worker.finish(std::move(running), now);
  EXPECT_EQ(step(), "0: Done; 2: Result");
  EXPECT_EQ(on(0, core::CancelTask{9, object_of(9, 9)}), "0: CancelResult");
  EXPECT_FALSE(sent<core::CancelResult>().cancelled);
}

// A thread has taken it, and has not come to it: it does not run, and goes back into no queue.
HANDLER_TEST(WorkerHandlers, CancelTask, OfACommandThatIsAboutToBegin) {
  const Tasks one = tasks(tests::kCommand).by(2);
  auto running = begin(one);
  ASSERT_NE(running, nullptr);
  EXPECT_EQ(on(0, core::CancelTask{8, one.id()}), "0: CancelResult");
  EXPECT_TRUE(sent<core::CancelResult>().cancelled);
  execute(*running);
  worker.finish(std::move(running), now);
  EXPECT_EQ(worker.queued_tasks(), 0U);
  EXPECT_EQ(run(), "");
  EXPECT_EQ(worker.what_is_left(), "");
}

HANDLER_TEST(WorkerHandlers, CancelTask, OfACommandThatRuns) {
  const Tasks one = tasks(tests::kCommand).by(2);
  auto running = begin(one);
  ASSERT_NE(running, nullptr);
  execute(*running);
  EXPECT_EQ(on(0, core::CancelTask{8, one.id()}), "0: CancelResult");
  EXPECT_TRUE(sent<core::CancelResult>().cancelled);
  EXPECT_EQ(on(0, core::CancelTask{9, one.id()}), "0: CancelResult");
  EXPECT_FALSE(sent<core::CancelResult>().cancelled) << "it was";
  worker.finish(std::move(running), now);
  EXPECT_EQ(run(), "") << "nobody has its result";
  EXPECT_EQ(worker.what_is_left(), "");
}

// The ranks that wait for it here ask the head.
HANDLER_TEST(WorkerHandlers, CancelTask, SendsThoseWhoWaitAway) {
  const Tasks one = tasks().by(2);
  ASSERT_EQ(on(0, one.assign()), "");
  ASSERT_EQ(on(3, core::Fetch{one.id(), 1, false}), "");
  EXPECT_EQ(on(0, core::CancelTask{8, one.id()}), "0: CancelResult; 3: NotHere");
  EXPECT_EQ(worker.what_is_left(), "");
}

HANDLER_TEST(WorkerHandlers, Answer, IsTakenOnce) {
  EXPECT_EQ(on(0, core::Answer{5, true, "text"}), "");
  EXPECT_FALSE(worker.take_answer(6));
  const auto answer = worker.take_answer(5);
  ASSERT_TRUE(answer);
  EXPECT_TRUE(answer->yes);
  EXPECT_EQ(answer->text, "text");
  EXPECT_FALSE(worker.take_answer(5));
}

HANDLER_TEST(WorkerHandlers, Result, IsTheValueOfTheHandle) {
  const Handle handle = own();
  const int seven = 7;
  EXPECT_EQ(on(2, result(tasks().by(1), seven)), "");
  EXPECT_EQ(number(handle), 7);
  const int eight = 8;
  EXPECT_EQ(on(2, result(tasks().by(1), eight)), "");
  EXPECT_EQ(number(handle), 7) << "the first counts";
}

HANDLER_TEST(WorkerHandlers, Result, MayBeAnError) {
  const Handle handle = own();
  core::Result failed = result(tasks().by(1), 0);
  failed.errors.push_back({0, error("it failed")});
  EXPECT_EQ(on(2, failed), "");
  EXPECT_EQ(error_of(handle), "it failed");
}

HANDLER_TEST(WorkerHandlers, Result, MayStayWhereItWasMade) {
  const Handle handle = own();
  core::Result stored = result(tasks().by(1), 0);
  stored.stored.push_back({0, tests::kLargeSize});
  EXPECT_EQ(on(2, stored), "");
  ASSERT_TRUE(is_ready(handle));
  EXPECT_EQ(handle.record()->slot(0)->kind, store::Slot::Kind::large);
  EXPECT_EQ(handle.record()->slot(0)->at, 2U);
  worker.request(handle);
  EXPECT_EQ(step(), "2: Fetch");
}

HANDLER_TEST(WorkerHandlers, Result, GoesOnToThoseWhoWait) {
  const Handle handle = own();
  ASSERT_EQ(on(3, core::Fetch{handle.id(), 1, false}), "");
  const int seven = 7;
  EXPECT_EQ(on(2, result(tasks().by(1), seven)), "3: Data");
  EXPECT_EQ(number(sent<core::Data>().value), 7);
  EXPECT_EQ(worker.what_is_left(), "");
}

HANDLER_TEST(WorkerHandlers, Result, OfWhatNobodyHoldsIsDropped) {
  const int seven = 7;
  EXPECT_EQ(on(2, result(tasks().by(1, 55), seven)), "");
  EXPECT_EQ(objects.records(), 0U);
}

HANDLER_TEST(WorkerHandlers, Result, ThatCannotBeIsDamaged) {
  const Handle handle = own();
  const Tasks one = tasks().by(1);
  const int seven = 7;
  EXPECT_DAMAGED(worker.handle(2, result(tasks().by(1).from(1, 1), seven))) << "of none";
  EXPECT_DAMAGED(worker.handle(2, result(tasks().by(1).from(0, 2), seven))) << "of another size";
  core::Result wrong = result(tasks().by(1).from(0, 2), seven);
  wrong.fixed = 2;
  EXPECT_DAMAGED(worker.handle(2, wrong)) << "of what was not submitted";
  wrong = result(one, seven);
  wrong.errors.push_back({1, error("")});
  EXPECT_DAMAGED(worker.handle(2, wrong));
  wrong = result(one, seven);
  wrong.stored.push_back({1, 1});
  EXPECT_DAMAGED(worker.handle(2, wrong));
  wrong = result(one, seven);
  wrong.holding.push_back(1);
  EXPECT_DAMAGED(worker.handle(2, wrong));
  EXPECT_FALSE(is_ready(handle)) << "nothing of these was done";
}

// ---- where values are --------------------------------------------------------------------------------------------

HANDLER_TEST(WorkerHandlers, Located, IsFetchedFromThere) {
  const Handle handle = foreign(object_of(3, 1));
  worker.request(handle);
  ASSERT_EQ(step(), "0: Locate");
  EXPECT_EQ(on(0, core::Located{handle.id(), 2, {}, 9, false}), "2: Fetch");
  EXPECT_EQ(sent<core::Fetch>().turn, 9U);
  EXPECT_FALSE(sent<core::Fetch>().word);
}

HANDLER_TEST(WorkerHandlers, Located, IsEnoughForWhoWaitsForTheWord) {
  const Handle handle = foreign(object_of(3, 1));
  worker.hear_of(handle);
  ASSERT_EQ(step(), "0: Locate");
  EXPECT_EQ(on(0, core::Located{handle.id(), 2, {}, 9, false}), "");
  EXPECT_TRUE(is_ready(handle));
  EXPECT_EQ(worker.what_is_left(), "");
}

// The head has heard of the end of a task before its result has come to this rank, which owns it.
HANDLER_TEST(WorkerHandlers, Located, HereIsNotKnownBeforeTheResultHasCome) {
  const detail::BatchHandle batch = batch_of(2);
  const Handle first = batch.element(0);
  const Tasks after = tasks().by(2).after({first.id(), core::Where::rank, 1, {}, 1});
  EXPECT_EQ(on(0, after.assign()), "0: Locate");
  EXPECT_EQ(on(0, core::TakeBack{8, true}), "0: GaveBack");
  EXPECT_EQ(on(0, core::Located{first.id(), 1, {}, 2, false}), "");
  EXPECT_FALSE(is_ready(first));
  core::Result both;
  const std::array values{7, 8};
  both.range = {first.id().span, 0, 2};
  both.fixed = sizeof(int);
  both.values = {reinterpret_cast<const std::byte*>(values.data()), sizeof values};
  both.rank = 3;
  EXPECT_EQ(on(3, both), "");
  EXPECT_EQ(number(first), 7);
  std::array<int, 2> copied{};
  batch.record()->copy_packed(2, reinterpret_cast<std::byte*>(copied.data()));
  EXPECT_EQ(copied, values);
}

// The same, while a task here waits for it.
HANDLER_TEST(WorkerHandlers, Located, HereGoesToWhoWaitsWithTheResult) {
  const detail::BatchHandle batch = batch_of(1);
  const Handle first = batch.element(0);
  const Tasks after = tasks().by(2).after({first.id(), core::Where::rank, 1, {}, 1});
  EXPECT_EQ(on(0, after.assign()), "0: Locate");
  EXPECT_EQ(on(0, core::Located{first.id(), 1, {}, 2, false}), "");
  const int value = 7;
  core::Result one;
  one.range = {first.id().span, 0, 1};
  one.fixed = sizeof value;
  one.values = {reinterpret_cast<const std::byte*>(&value), sizeof value};
  one.rank = 3;
  EXPECT_EQ(on(3, one), "");
  EXPECT_EQ(run(), "0: Done; 2: Result");
  EXPECT_EQ(number(sent<core::Result>().values), 14);
}

HANDLER_TEST(WorkerHandlers, Located, NowhereIsAnError) {
  const Handle handle = foreign(object_of(3, 1));
  worker.request(handle);
  ASSERT_EQ(step(), "0: Locate");
  EXPECT_EQ(on(0, core::Located{handle.id(), kNoRank, error("it is lost")}), "");
  EXPECT_EQ(error_of(handle), "it is lost");
  EXPECT_EQ(worker.what_is_left(), "");
}

HANDLER_TEST(WorkerHandlers, Located, SendsCallsToTheActor) {
  const Handle actor = foreign(object_of(0, 9));
  detail::Draft::State draft;
  draft.args.put(5);
  const Handle called = worker.call(detail::ActorBase(actor, {}), tests::kStep, draft, {});
  ASSERT_EQ(step(), "0: Locate");
  EXPECT_EQ(on(0, core::Located{actor.id(), 3, {}}), "3: Call");
  EXPECT_EQ(sent<core::Call>().actor, actor.id());
  EXPECT_EQ(sent<core::Call>().range.span, called.id().span);
  EXPECT_EQ(number(sent<core::Call>().body.args), 5);
  EXPECT_EQ(worker.pending_calls(), 1U);
}

HANDLER_TEST(WorkerHandlers, Located, OfAnActorThatIsGoneFailsItsCalls) {
  const Handle actor = foreign(object_of(0, 9));
  detail::Draft::State draft;
  draft.args.put(5);
  const Handle called = worker.call(detail::ActorBase(actor, {}), tests::kStep, draft, {});
  ASSERT_EQ(step(), "0: Locate");
  EXPECT_EQ(on(0, core::Located{actor.id(), kNoRank, error("thrown")}), "");
  EXPECT_EQ(error_of(called), "actor 0.9.0 could not be made: thrown");
  EXPECT_EQ(worker.what_is_left(), "");
}

HANDLER_TEST(WorkerHandlers, Located, OfWhatNobodyAskedForIsNothing) {
  EXPECT_EQ(on(0, core::Located{object_of(3, 1), 2, {}, 9, true}), "");
  EXPECT_EQ(worker.what_is_left(), "");
}

HANDLER_TEST(WorkerHandlers, Located, AtARankThatIsNoneIsDamaged) {
  const Handle handle = foreign(object_of(3, 1));
  worker.request(handle);
  ASSERT_EQ(step(), "0: Locate");
  EXPECT_DAMAGED(worker.handle(0, core::Located{handle.id(), 4, {}, 9, false}));
}

HANDLER_TEST(WorkerHandlers, Fetch, OfASmallValue) {
  const Handle handle = put(10);
  EXPECT_EQ(on(3, core::Fetch{handle.id(), 0, false}), "3: Data");
  EXPECT_EQ(sent<core::Data>().value.size(), 10U);
  EXPECT_EQ(sent<core::Data>().block, 0U);
}

HANDLER_TEST(WorkerHandlers, Fetch, OfALargeValueOnTheNode) {
  const Tasks one = tasks(tests::kLarge).by(2);
  const Handle handle = foreign(one.id());
  Store::Room room;
  ASSERT_EQ(store.take(tests::kLargeSize, room), Store::Verdict::given);
  room.buffer.extend(tests::kLargeSize);
  store.add(handle.id(), std::make_shared<Buffer>(std::move(room.buffer)), Store::Role::own);
  EXPECT_EQ(on(2, core::Fetch{handle.id(), 0, false}), "2: Data");
  EXPECT_TRUE(sent<core::Data>().mapped);
  EXPECT_EQ(sent<core::Data>().size, tests::kLargeSize);
  ASSERT_EQ(store.largest(1).size(), 1U);
  EXPECT_EQ(store.largest(1)[0].pins, (std::vector<RankId>{2}));
  EXPECT_EQ(on(3, core::Fetch{handle.id(), 0, false}), "3: Data") << "on another node";
  EXPECT_FALSE(sent<core::Data>().mapped);
  EXPECT_EQ(sent<core::Data>().size, tests::kLargeSize);
  EXPECT_NE(sent<core::Data>().block, 0U);
  EXPECT_EQ(on(3, core::Fetch{handle.id(), 0, true}), "3: Located") << "the word is enough";
  EXPECT_EQ(sent<core::Located>().rank, 1U);
  EXPECT_TRUE(sent<core::Located>().exists);
}

HANDLER_TEST(WorkerHandlers, Fetch, OfWhatIsBeingMadeWaits) {
  const Tasks one = tasks().by(2);
  ASSERT_EQ(on(0, one.assign()), "");
  EXPECT_EQ(on(3, core::Fetch{one.id(), 0, false}), "");
  EXPECT_EQ(run(), "0: Done; 2: Result; 3: Data");
  EXPECT_EQ(number(sent<core::Data>().value), 2);
  EXPECT_EQ(on(3, core::Fetch{one.id(), 0, false}), "3: Data") << "a small result stays for a while";
  EXPECT_EQ(worker.what_is_left(), "");
}

HANDLER_TEST(WorkerHandlers, Fetch, OfWhatFailed) {
  const Handle handle = own();
  core::Result failed = result(tasks().by(1), 0);
  failed.errors.push_back({0, error("it failed")});
  ASSERT_EQ(on(2, failed), "");
  EXPECT_EQ(on(3, core::Fetch{handle.id(), 0, false}), "3: Data");
  EXPECT_TRUE(sent<core::Data>().failed);
  EXPECT_EQ(sent<core::Data>().error.message, "it failed");
}

HANDLER_TEST(WorkerHandlers, Fetch, OfWhatIsElsewhere) {
  const Handle handle = own();
  core::Result stored = result(tasks().by(1), 0);
  stored.stored.push_back({0, tests::kLargeSize});
  ASSERT_EQ(on(2, stored), "");
  EXPECT_EQ(on(3, core::Fetch{handle.id(), 0, false}), "3: Located");
  EXPECT_EQ(sent<core::Located>().rank, 2U);
}

HANDLER_TEST(WorkerHandlers, Fetch, OfWhatIsNotHere) {
  EXPECT_EQ(on(3, core::Fetch{object_of(1, 99), 0, false}), "3: NotHere");
  EXPECT_TRUE(sent<core::NotHere>().forgotten) << "nobody held it";
  EXPECT_EQ(on(3, core::Fetch{object_of(4, 1), 0, true}), "3: NotHere");
  EXPECT_EQ(worker.what_is_left(), "");
}

// Others of its record live.
HANDLER_TEST(WorkerHandlers, Fetch, OfWhatItsOwnerHasForgotten) {
  const Handle kept = put(10);
  const ObjectId let_go = put(10).id();
  ASSERT_EQ(kept.id().span, let_go.span);
  step();
  on(0, core::Free{{let_go}});
  EXPECT_EQ(on(3, core::Fetch{kept.id(), 0, false}), "3: Data");
  EXPECT_EQ(on(3, core::Fetch{let_go, 0, false}), "3: NotHere");
  EXPECT_TRUE(sent<core::NotHere>().forgotten);
}

// One fetch serves all who ask; who asks waits only for a rank that was told its place before.
HANDLER_TEST(WorkerHandlers, Fetch, OfWhatIsOnItsWay) {
  const Handle handle = foreign(object_of(3, 1));
  worker.request(handle);
  ASSERT_EQ(step(), "0: Locate");
  ASSERT_EQ(on(0, core::Located{handle.id(), 3, {}, 9, false}), "3: Fetch");
  EXPECT_EQ(on(2, core::Fetch{handle.id(), 8, false}), "2: NotHere");
  EXPECT_EQ(on(2, core::Fetch{handle.id(), 10, false}), "");
  EXPECT_EQ(on(3, data(handle.id(), bytes_of("value"))), "2: Data");
  EXPECT_EQ(sent<core::Data>().value.size(), 5U);
}

HANDLER_TEST(WorkerHandlers, Data, IsTheValueOfTheHandle) {
  const Handle handle = foreign(object_of(3, 1));
  worker.request(handle);
  ASSERT_EQ(step(), "0: Locate");
  const int seven = 7;
  EXPECT_EQ(on(3, data(handle.id(), {reinterpret_cast<const std::byte*>(&seven), sizeof seven})), "");
  EXPECT_EQ(number(handle), 7);
  EXPECT_EQ(worker.what_is_left(), "");
}

HANDLER_TEST(WorkerHandlers, Data, MayBeAnError) {
  const Handle handle = foreign(object_of(3, 1));
  worker.request(handle);
  ASSERT_EQ(step(), "0: Locate");
  core::Data failed;
  failed.id = handle.id();
  failed.failed = true;
  failed.error = error("it failed");
  EXPECT_EQ(on(3, failed), "");
  EXPECT_EQ(error_of(handle), "it failed");
  EXPECT_EQ(worker.what_is_left(), "");
}

HANDLER_TEST(WorkerHandlers, Data, ThatIsLargeIsACopyOfWhichTheHeadHears) {
  const Handle handle = foreign(object_of(3, 1));
  worker.request(handle);
  ASSERT_EQ(step(), "0: Locate");
  const std::vector<std::byte> bytes(20'000);
  EXPECT_EQ(on(3, data(handle.id(), bytes)), "0: Copied");
  EXPECT_EQ(sent<core::Copied>().id, handle.id());
  EXPECT_FALSE(sent<core::Copied>().adopted);
  EXPECT_TRUE(is_ready(handle));
  EXPECT_TRUE(store.has(handle.id()));
}

HANDLER_TEST(WorkerHandlers, Data, MayComeAsABlock) {
  const Handle handle = foreign(object_of(3, 1));
  worker.request(handle);
  ASSERT_EQ(step(), "0: Locate");
  const auto bytes = std::make_shared<std::vector<std::byte>>(50'000, std::byte{6});
  core::Data block;
  block.id = handle.id();
  block.size = bytes->size();
  block.block = recorder.transport_of(3).send_block(1, *bytes, bytes);
  EXPECT_EQ(on(3, block), "");
  EXPECT_EQ(step(), "0: Copied");
  const ValuePtr value = store.find(handle.id());
  ASSERT_NE(value, nullptr);
  ASSERT_EQ(value->size(), bytes->size());
  EXPECT_EQ(std::memcmp(value->data(), bytes->data(), bytes->size()), 0);
  EXPECT_EQ(worker.what_is_left(), "");
}

HANDLER_TEST(WorkerHandlers, Data, MayLieInTheMemoryOfTheNode) {
  const Handle handle = foreign(object_of(2, 1));
  worker.request(handle);
  ASSERT_EQ(step(), "0: Locate");
  core::Data mapped;
  mapped.id = handle.id();
  mapped.mapped = true;
  mapped.offset = 4096;
  mapped.size = 50'000;
  EXPECT_EQ(on(2, mapped), "");
  ASSERT_NE(store.find(handle.id()), nullptr);
  EXPECT_EQ(store.find(handle.id())->data(), beside.get() + 4096);
  EXPECT_EQ(on(2, mapped), "2: Unpin") << "it came twice: one pin is enough";
  mapped.offset = kMemory - 1;
  mapped.id = object_of(2, 2);
  EXPECT_DAMAGED(worker.handle(2, mapped)) << "beyond that memory";
  EXPECT_DAMAGED(worker.handle(3, mapped)) << "of another node";
}

HANDLER_TEST(WorkerHandlers, Data, OfWhatNobodyWantsIsDropped) {
  EXPECT_EQ(on(3, data(object_of(3, 1), bytes_of("value"))), "");
  EXPECT_EQ(objects.records(), 0U);
  EXPECT_EQ(worker.what_is_left(), "");
}

HANDLER_TEST(WorkerHandlers, NotHere, AsksTheHeadAnew) {
  const Handle handle = foreign(object_of(3, 1));
  worker.request(handle);
  ASSERT_EQ(step(), "0: Locate");
  ASSERT_EQ(on(0, core::Located{handle.id(), 2, {}, 9, false}), "2: Fetch");
  EXPECT_EQ(on(2, core::NotHere{handle.id(), true}), "0: Locate");
  EXPECT_TRUE(sent<core::Locate>().forgotten);
  EXPECT_EQ(sent<core::Locate>().id, handle.id());
  EXPECT_EQ(sent<core::Locate>().not_at, 2U);
}

HANDLER_TEST(WorkerHandlers, NotHere, OfWhatNobodyAskedForIsNothing) {
  EXPECT_EQ(on(2, core::NotHere{object_of(3, 1)}), "");
  EXPECT_EQ(worker.what_is_left(), "");
}

HANDLER_TEST(WorkerHandlers, Keep, MakesACopyTheValue) {
  const std::vector<std::byte> bytes(70'000);  // of which there is room for one
  ASSERT_EQ(on(3, data(object_of(3, 1), bytes)), "0: Copied");
  EXPECT_EQ(on(3, data(object_of(3, 2), bytes)), "0: Uncopied, Copied") << "a copy gives way";
  EXPECT_FALSE(store.has(object_of(3, 1)));
  EXPECT_EQ(on(0, core::Keep{object_of(3, 2)}), "");
  EXPECT_EQ(on(3, data(object_of(3, 3), bytes)), "0: Copied");
  EXPECT_TRUE(store.has(object_of(3, 2)));
  EXPECT_EQ(on(0, core::Keep{object_of(3, 44)}), "") << "it is not here";
}

HANDLER_TEST(WorkerHandlers, Free, DropsTheValue) {
  const ObjectId id = [&] {
    const Handle handle = put(tests::kLargeSize);
    worker.make_known(handle);
    EXPECT_EQ(step(), "0: Made");
    return handle.id();
  }();
  EXPECT_EQ(step(), "0: Holds") << "the last handle went";
  EXPECT_TRUE(store.has(id));
  EXPECT_EQ(on(0, core::Free{{id, object_of(3, 1)}}), "");
  EXPECT_FALSE(store.has(id));
  EXPECT_EQ(on(0, core::Free{{id}}), "");
}

HANDLER_TEST(WorkerHandlers, Free, EndsAnActor) {
  const ObjectId actor = make_actor();
  ASSERT_EQ(on(2, tasks(tests::kStep).by(2).call(actor)), "");
  EXPECT_EQ(on(0, core::Free{{actor}}), "2: Result") << "the call fails";
  EXPECT_EQ(sent<core::Result>().errors.front().error.kind, core::ErrorKind::actor_died);
  EXPECT_EQ(run(), "0: ActorEnded");
  EXPECT_EQ(sent<core::ActorEnded>().id, actor);
  EXPECT_EQ(worker.what_is_left(), "");
}

HANDLER_TEST(WorkerHandlers, Unpin, LetsTheValueGo) {
  const ObjectId id = object_of(3, 1);
  const std::vector<std::byte> bytes(20'000);
  ASSERT_EQ(on(3, data(id, bytes)), "0: Copied");
  ASSERT_EQ(on(2, core::Fetch{id, 0, false}), "2: Data");
  ASSERT_TRUE(sent<core::Data>().mapped);
  EXPECT_EQ(on(0, core::Free{{id}}), "2: Recall");
  EXPECT_NE(store.used(), 0U);
  EXPECT_EQ(on(3, core::Unpin{id}), "") << "that rank has no pin";
  EXPECT_EQ(store.size(), 1U);
  EXPECT_EQ(on(2, core::Unpin{id}), "");
  EXPECT_EQ(store.size(), 0U);
  EXPECT_EQ(on(2, core::Unpin{id}), "") << "it is gone";
}

HANDLER_TEST(WorkerHandlers, Recall, GivesThePinBack) {
  core::Data mapped;
  mapped.id = object_of(2, 1);
  mapped.mapped = true;
  mapped.size = 50'000;
  ASSERT_EQ(on(2, mapped), "");
  ValuePtr used = store.find(mapped.id);
  EXPECT_EQ(on(2, core::Recall{mapped.id}), "") << "it is in use";
  used.reset();
  store.step();
  EXPECT_EQ(step(), "2: Unpin");
  EXPECT_EQ(sent<core::Unpin>().id, mapped.id);
  EXPECT_EQ(store.size(), 0U);
  EXPECT_EQ(on(2, core::Recall{mapped.id}), "");
}

HANDLER_TEST(WorkerHandlers, AskStore, TellsOfTheLargestValues) {
  const Handle small = put(tests::kLargeSize);
  const Handle large = put(tests::kLargeSize + 1);
  EXPECT_EQ(on(0, core::AskStore{9, 1}), "0: StoreReport");
  EXPECT_EQ(sent<core::StoreReport>().token, 9U);
  const StoreStats stats = core::decode_stats(sent<core::StoreReport>().stats);
  ASSERT_EQ(stats.ranks.size(), 1U);
  EXPECT_EQ(stats.ranks[0].rank, 1U);
  EXPECT_EQ(stats.ranks[0].host, "host1");
  EXPECT_EQ(stats.ranks[0].objects, 2U);
  ASSERT_EQ(stats.largest.size(), 1U);
  EXPECT_EQ(stats.largest[0].size, tests::kLargeSize + 1);
  EXPECT_EQ(on(0, core::AskStore{9, 0xffff'ffff}), "0: StoreReport");
  EXPECT_EQ(core::decode_stats(sent<core::StoreReport>().stats).largest.size(), 2U);
}

HANDLER_TEST(WorkerHandlers, Adopt, FetchesTheValueAndKeepsIt) {
  const ObjectId id = object_of(3, 1);
  EXPECT_EQ(on(0, core::Adopt{id, 3}), "3: Fetch");
  EXPECT_EQ(sent<core::Fetch>().id, id);
  EXPECT_EQ(on(3, data(id, bytes_of("value"))), "0: Copied");
  EXPECT_EQ(sent<core::Copied>().id, id);
  EXPECT_TRUE(sent<core::Copied>().adopted);
  EXPECT_TRUE(store.has(id)) << "a small one too";
  EXPECT_EQ(on(2, core::Fetch{id, 0, false}), "2: Data");
  EXPECT_EQ(worker.what_is_left(), "");
}

HANDLER_TEST(WorkerHandlers, Adopt, OfWhatIsHereIsAnsweredAtOnce) {
  const ObjectId id = object_of(3, 1);
  const std::vector<std::byte> bytes(20'000);
  ASSERT_EQ(on(3, data(id, bytes)), "0: Copied");
  EXPECT_EQ(on(0, core::Adopt{id, 3}), "0: Copied");
  EXPECT_TRUE(sent<core::Copied>().adopted);
}

HANDLER_TEST(WorkerHandlers, Adopt, OfWhatIsFreedMeanwhileIsNothing) {
  const ObjectId id = object_of(3, 1);
  ASSERT_EQ(on(0, core::Adopt{id, 3}), "3: Fetch");
  EXPECT_EQ(on(0, core::Free{{id}}), "");
  EXPECT_EQ(on(3, core::NotHere{id}), "");
  EXPECT_EQ(worker.what_is_left(), "");
}

// It is made again where somebody asks for it; nobody does here.
HANDLER_TEST(WorkerHandlers, Adopt, FromARankThatIsLostIsOver) {
  const ObjectId id = object_of(3, 1);
  ASSERT_EQ(on(0, core::Adopt{id, 3}), "3: Fetch");
  EXPECT_EQ(on(0, core::RankLost{3, {}, false, 0}), "");
  EXPECT_EQ(worker.what_is_left(), "");
}

HANDLER_TEST(WorkerHandlers, Adopt, FromARankThatIsNoneAsks) {
  EXPECT_EQ(on(0, core::Adopt{object_of(3, 1), 4}), "0: Locate");
}

// ---- losses, and the end -----------------------------------------------------------------------------------------

HANDLER_TEST(WorkerHandlers, Drain, OfARankThatLeavesDoesNotWaitForWhatIsPastItsTime) {
  Tasks one = tasks().by(2);
  one.options().timeout_ns = 10 * kMs;
  auto running = begin(one);
  ASSERT_NE(running, nullptr);
  EXPECT_EQ(on(0, core::Drain{true}), "") << "somebody waits for its result";
  worker.tick(now += 11 * kMs);
  EXPECT_EQ(step(), "0: Done; 2: Result");
  worker.tick(now += kMs);
  EXPECT_EQ(step(), "0: Saved");
  execute(*running);
  worker.finish(std::move(running), now);
  EXPECT_EQ(step(), "0: OvertimeEnded");
}

HANDLER_TEST(WorkerHandlers, RankLost, AsksElsewhereForWhatItWasToGive) {
  const Handle handle = foreign(object_of(3, 1));
  worker.request(handle);
  ASSERT_EQ(step(), "0: Locate");
  ASSERT_EQ(on(0, core::Located{handle.id(), 3, {}, 9, false}), "3: Fetch");
  EXPECT_EQ(on(0, core::RankLost{3, {}, false, 0}), "0: Locate");
  EXPECT_TRUE(worker.lost_any());
}

HANDLER_TEST(WorkerHandlers, RankLost, IsToldWhichResultsHaveNotCome) {
  const Handle come = own();
  const Handle missing = own();
  const ObjectId unwanted = own().id();
  step();
  const int seven = 7;
  ASSERT_EQ(on(2, result(tasks().by(1), seven)), "");
  EXPECT_EQ(on(0, core::RankLost{2, {{come.id().span, 0, 3}, {SpanId::make(1, 99), 0, 9}}, false, 0}), "0: Unheard");
  EXPECT_EQ(sent<core::Unheard>().lost, 2U);
  EXPECT_EQ(sent<core::Unheard>().ids, (std::vector<ObjectId>{missing.id()})) << core::to_string(unwanted);
}

HANDLER_TEST(WorkerHandlers, RankLost, KeepsTheResultsOfItsTasksHere) {
  const Tasks one = tasks().by(2);
  ASSERT_EQ(on(0, one.assign()), "");
  ASSERT_EQ(on(0, core::RankLost{2, {}, false, 0}), "");
  EXPECT_EQ(run(), "0: Done");
  ASSERT_EQ(sent<core::Done>().stored.size(), 1U);
  EXPECT_TRUE(store.has(one.id()));
}

HANDLER_TEST(WorkerHandlers, RankLost, DropsItsCallsAndFailsThoseOnIt) {
  const ObjectId here = make_actor();
  ASSERT_EQ(on(2, tasks(tests::kStep).by(2).call(here)), "");
  const Handle there = foreign(object_of(0, 9));
  detail::Draft::State draft;
  draft.args.put(5);
  const Handle called = worker.call(detail::ActorBase(there, {}), tests::kStep, draft, {});
  ASSERT_EQ(step(), "0: Locate");
  ASSERT_EQ(on(0, core::Located{there.id(), 2, {}}), "2: Call");
  EXPECT_EQ(on(0, core::RankLost{2, {}, false, 0}), "");
  EXPECT_NE(error_of(called).find("which was lost while the call was pending"), std::string::npos) << error_of(called);
  EXPECT_EQ(run(), "") << "nobody waits for the call on the actor here";
}

// What it has sent is handled first, where it comes soon.
HANDLER_TEST(WorkerHandlers, RankLost, ThatHasLeftIsHeardToTheEnd) {
  worker.tick(now);
  EXPECT_EQ(on(0, core::RankLost{2, {}, true, 1}), "");
  EXPECT_FALSE(worker.lost_any());
  worker.tick(now += 1'000 * kMs);
  EXPECT_FALSE(worker.lost_any());
  worker.tick(now += 2'000 * kMs);
  EXPECT_TRUE(worker.lost_any());
  EXPECT_EQ(on(0, core::RankLost{3, {}, true, 0}), "") << "of this one nothing is on its way";
  EXPECT_EQ(on(0, tasks(tests::kAdd).by(0).after({object_of(3, 1), Where::rank, 3, {}, 9}).assign()), "0: Locate");
}

HANDLER_TEST(WorkerHandlers, Drain, IsAnsweredAtOnceWhereThereIsNothingToSave) {
  EXPECT_EQ(on(0, core::Drain{false}), "0: Saved");
  EXPECT_EQ(on(0, core::Drain{true}), "0: Saved") << "each is answered";
}

HANDLER_TEST(WorkerHandlers, Drain, SavesActors) {
  core::ActorTraits traits;
  traits.checkpoint_every = 10;
  const ObjectId actor = make_actor(traits);
  ASSERT_EQ(on(2, tasks(tests::kStep).by(2).call(actor)), "");
  ASSERT_EQ(run(), "2: Result");
  EXPECT_EQ(on(0, core::Drain{false}), "");
  EXPECT_EQ(run(), "0: Checkpoint, Saved");
  EXPECT_EQ(sent<core::Checkpoint>().id, actor);
  EXPECT_EQ(number(sent<core::Checkpoint>().state), 1);
  ASSERT_EQ(on(2, tasks(tests::kStep).by(2, 2).call(actor)), "");
  EXPECT_EQ(run(), "0: Checkpoint; 2: Result") << "after each call from here on";
}

HANDLER_TEST(WorkerHandlers, Drain, OfARankThatLeavesStopsItsActors) {
  const ObjectId actor = make_actor();
  EXPECT_EQ(on(0, core::Drain{true}), "0: Saved");
  ASSERT_EQ(on(2, tasks(tests::kStep).by(2).call(actor)), "");
  EXPECT_EQ(run(), "") << "calls are made elsewhere";
}

// ---- actors ------------------------------------------------------------------------------------------------------

HANDLER_TEST(WorkerHandlers, Call, IsRunInOrder) {
  const ObjectId actor = make_actor();
  EXPECT_EQ(on(2, tasks(tests::kStep).by(2).from(0, 2).call(actor)), "");
  EXPECT_EQ(run(), "2: Result");
  const auto values = sent<core::Result>().values;
  ASSERT_EQ(values.size(), 2 * sizeof(int));
  EXPECT_EQ(number(values.first(sizeof(int))), 1);
  EXPECT_EQ(number(values.subspan(sizeof(int))), 3);
}

HANDLER_TEST(WorkerHandlers, Call, WaitsForItsInputsAndThoseBehindItToo) {
  const ObjectId actor = make_actor();
  const ObjectId input = object_of(3, 1);
  EXPECT_EQ(on(2, tasks(tests::kStep).by(2, 1).after({input, Where::rank, 3, {}, 9}).call(actor)), "3: Fetch");
  EXPECT_EQ(on(2, tasks(tests::kStep).by(2, 2).call(actor)), "");
  EXPECT_EQ(run(), "");
  const int ten = 10;
  EXPECT_EQ(on(3, data(input, {reinterpret_cast<const std::byte*>(&ten), sizeof ten})), "");
  EXPECT_EQ(run(), "2: Result, Result");
  EXPECT_EQ(number(recorder.all<core::Result>()[0].values), 10);
  EXPECT_EQ(number(recorder.all<core::Result>()[1].values), 11);
}

HANDLER_TEST(WorkerHandlers, Call, TellsWhatItsArgumentsHeld) {
  const ObjectId actor = make_actor();
  EXPECT_EQ(on(2, tasks(tests::kStep).by(2, 5).holding(object_of(3, 1)).call(actor)), "");
  EXPECT_EQ(run(), "0: Counted; 2: Result");
  EXPECT_EQ(sent<core::Counted>().giver, 2U);
  EXPECT_EQ(sent<core::Counted>().call, object_of(2, 5));
  EXPECT_FALSE(sent<core::Counted>().result);
}

HANDLER_TEST(WorkerHandlers, Call, OfAnActorThatIsNotHereFails) {
  EXPECT_EQ(on(2, tasks(tests::kStep).by(2).from(0, 2).call(object_of(0, 77))), "2: Result");
  ASSERT_EQ(sent<core::Result>().errors.size(), 2U);
  EXPECT_EQ(sent<core::Result>().errors[0].error.kind, core::ErrorKind::actor_died);
  EXPECT_EQ(worker.what_is_left(), "");
}

HANDLER_TEST(WorkerHandlers, Call, ThatCannotBeIsDamaged) {
  const ObjectId actor = make_actor();
  EXPECT_DAMAGED(worker.handle(3, tasks(tests::kStep).by(2).call(actor))) << "in the name of another";
  EXPECT_DAMAGED(worker.handle(2, tasks(tests::kGive).by(2).call(actor))) << "of another class";
  EXPECT_DAMAGED(worker.handle(2, tasks(tests::kTwice).by(2).call(actor))) << "of no method";
  EXPECT_EQ(run(), "");
}

HANDLER_TEST(WorkerHandlers, Call, ThatComesTwiceIsDamaged) {
  const ObjectId actor = make_actor();
  ASSERT_EQ(on(2, tasks(tests::kStep).by(2).from(1, 3).call(actor)), "");
  EXPECT_DAMAGED(worker.handle(2, tasks(tests::kStep).by(2).from(1, 3).call(actor)));
  EXPECT_DAMAGED(worker.handle(2, tasks(tests::kStep).by(2).from(2, 4).call(actor)));
  EXPECT_DAMAGED(worker.handle(2, tasks(tests::kStep).by(2).from(0, 2).call(actor)));
  EXPECT_EQ(on(2, tasks(tests::kStep).by(2).from(3, 4).call(actor)), "");
  EXPECT_EQ(run(), "2: Result, Result");
}

HANDLER_TEST(WorkerHandlers, Returned, EndsALoan) {
  const ObjectId actor = make_actor();
  ASSERT_EQ(on(2, tasks(tests::kGiveLarge).by(2).call(actor)), "");
  ASSERT_EQ(run(), "2: Result");
  EXPECT_EQ(worker.loans(), 1U);
  EXPECT_EQ(on(0, core::Returned{object_of(2, 1), false}), "") << "of its arguments";
  EXPECT_EQ(on(0, core::Returned{object_of(2, 2), true}), "") << "of another";
  EXPECT_EQ(worker.loans(), 1U);
  EXPECT_EQ(on(0, core::Returned{object_of(2, 1), true}), "");
  EXPECT_EQ(worker.loans(), 0U);
  EXPECT_EQ(on(0, core::Returned{object_of(2, 1), true}), "");
}

HANDLER_TEST(WorkerHandlers, EndActor, FailsItsCallsAndDestroysIt) {
  const ObjectId actor = make_actor();
  ASSERT_EQ(on(2, tasks(tests::kStep).by(2).call(actor)), "");
  EXPECT_EQ(on(0, core::EndActor{actor, 5, error("it was killed")}), "0: KillDone; 2: Result");
  EXPECT_EQ(sent<core::KillDone>().token, 5U);
  EXPECT_EQ(sent<core::Result>().errors.front().error.message, "it was killed");
  EXPECT_EQ(on(2, tasks(tests::kStep).by(2, 2).call(actor)), "2: Result");
  EXPECT_EQ(sent<core::Result>().errors.front().error.message, "it was killed");
  EXPECT_EQ(run(), "0: ActorEnded");
  EXPECT_EQ(worker.what_is_left(), "");
}

HANDLER_TEST(WorkerHandlers, EndActor, WhileItRunsACall) {
  const ObjectId actor = make_actor();
  ASSERT_EQ(on(2, tasks(tests::kStep).by(2).call(actor)), "");
  auto running = worker.next_run(now);
  EXPECT_EQ(on(0, core::EndActor{actor, 5, error("it was killed")}), "0: KillDone; 2: Result");
  EXPECT_EQ(run(), "") << "it is destroyed after the call";
  execute(*running);
  worker.finish(std::move(running), now);
  EXPECT_EQ(run(), "0: ActorEnded") << "and the call has had its result";
}

HANDLER_TEST(WorkerHandlers, EndActor, OfOneThatIsNotHere) {
  EXPECT_EQ(on(0, core::EndActor{object_of(0, 77), 5, {}}), "0: KillDone");
  EXPECT_EQ(on(0, core::EndActor{object_of(0, 77), 0, {}}), "");
}

// An actor here has calls of two callers, each of which but the first waits for the result of another one: the failure
// of one is that of others, wherever they stand in line.
class WorkerChains : public WorkerHandlers {
 protected:
  WorkerChains() {
    core::Call between = other.call(actor);
    between.caller = object_of(3, 8);
    EXPECT_EQ(on(2, first.call(actor)), "");
    EXPECT_EQ(on(2, second.call(actor)), "2: Fetch");
    EXPECT_EQ(on(3, between), "2: Fetch");
    EXPECT_EQ(on(2, third.call(actor)), "3: Fetch");
  }
  // What was sent last are the failures of all calls, one of each.
  void expect_all_failed(const std::string& text) const {
    std::vector<std::string> failed;
    for (const auto& result : recorder.all<core::Result>()) {
      ASSERT_EQ(result.errors.size(), 1U);
      EXPECT_EQ(result.errors.front().error.message, text);
      failed.push_back(core::to_string(ObjectId{result.range.span, result.range.begin}));
    }
    std::sort(failed.begin(), failed.end());
    EXPECT_EQ(failed, (std::vector<std::string>{"2.1.0", "2.2.0", "2.3.0", "3.1.0"}));
  }

  const ObjectId actor = make_actor();
  const Tasks first = tasks(tests::kStep).by(2, 1);
  const Tasks second = tasks(tests::kStep).by(2, 2).after({first.id(), Where::maker, 2, {}});
  const Tasks other = tasks(tests::kStep).by(3, 1).after({second.id(), Where::maker, 2, {}});
  const Tasks third = tasks(tests::kStep).by(2, 3).after({other.id(), Where::maker, 3, {}});
};

HANDLER_TEST(WorkerChains, EndActor, FailsEachOfItsCallsOnce) {
  EXPECT_EQ(on(0, core::EndActor{actor, 5, error("it was killed")}),
            "0: KillDone; 2: Result, Result, Result; 3: Result");
  expect_all_failed("it was killed");
  core::Data late;
  late.id = first.id();
  late.failed = true;
  late.error = error("it was killed");
  EXPECT_EQ(on(2, late), "") << "nobody waits for it any more";
  EXPECT_EQ(run(), "0: ActorEnded");
  EXPECT_EQ(worker.what_is_left(), "");
}

HANDLER_TEST(WorkerChains, EndActor, WhileItRunsTheFirst) {
  auto running = worker.next_run(now);
  ASSERT_NE(running, nullptr);
  EXPECT_EQ(on(0, core::EndActor{actor, 5, error("it was killed")}),
            "0: KillDone; 2: Result, Result, Result; 3: Result");
  expect_all_failed("it was killed");
  EXPECT_EQ(run(), "") << "it is destroyed after the call";
  execute(*running);
  worker.finish(std::move(running), now);
  EXPECT_EQ(run(), "0: ActorEnded");
  EXPECT_EQ(worker.what_is_left(), "");
}

HANDLER_TEST(WorkerChains, Free, FailsEachCallOnTheActorOnce) {
  EXPECT_EQ(on(0, core::Free{{actor}}), "2: Result, Result, Result; 3: Result");
  expect_all_failed("actor 0.77.0 has ended");
  EXPECT_EQ(run(), "0: ActorEnded");
  EXPECT_EQ(worker.what_is_left(), "");
}

class WorkerBlocked : public WorkerHandlers {
 protected:
  // An actor here runs a call that waits for a call on another.
  WorkerBlocked() {
    const ObjectId actor = make_actor();
    EXPECT_EQ(on(2, tasks(tests::kStep).by(2).call(actor)), "");
    waiting = worker.next_run(now);
    there = foreign(object_of(0, 9));
    detail::Draft::State draft;
    draft.args.put(5);
    called = worker.call(detail::ActorBase(there, {}), tests::kStep, draft, actor);
    EXPECT_EQ(step(), "0: Locate");
    worker.lend(*waiting);
    waiting->awaits = called.id();
    waiting->awaits_since = now;
    worker.tick(now += 200 * kMs);
    EXPECT_EQ(step(), "0: Blocked, Lending");
    EXPECT_EQ(sent<core::Blocked>().actor, actor);
    EXPECT_EQ(sent<core::Blocked>().on, there.id());
    token = sent<core::Blocked>().token;
  }
  // The call ends, and its value is large, and stays where it was made.
  void end_called() {
    EXPECT_EQ(on(0, core::Located{there.id(), 2, {}}), "2: Call");
    const int seven = 7;
    core::Result stored = result(tasks().by(1, called.id().span.value & 0xff), seven);
    stored.stored.push_back({0, tests::kLargeSize});
    EXPECT_EQ(on(2, stored), "0: Made, Counted");
  }
  std::unique_ptr<mobula::worker::Run> waiting;
  Handle there;
  Handle called;
  std::uint64_t token = 0;
};

// Its value is elsewhere still, or others have the cpus: that is no wait for the other actor.
TEST_F(WorkerBlocked, WhoseCallHasEndedIsNotBlockedAnyMore) {
  end_called();
  ASSERT_FALSE(objects.is_here(*called.record(), called.index()));
  worker.tick(now += 100 * kMs);
  EXPECT_EQ(step(), "0: Blocked");
  EXPECT_EQ(sent<core::Blocked>().token, token);
  EXPECT_FALSE(sent<core::Blocked>().waits);
  worker.tick(now += 1'000 * kMs);
  EXPECT_EQ(step(), "") << "once is enough";
  EXPECT_EQ(on(0, core::Deadlock{token, "a circle"}), "");
  EXPECT_EQ(waiting->deadlock, nullptr);
  EXPECT_TRUE(worker.resume(*waiting));
  EXPECT_EQ(step(), "0: Lending");
}

HANDLER_TEST(WorkerBlocked, Deadlock, IsNoneOnceTheCallHasEnded) {
  end_called();
  EXPECT_EQ(on(0, core::Deadlock{token, "a circle"}), "0: Blocked");
  EXPECT_FALSE(sent<core::Blocked>().waits);
  EXPECT_EQ(waiting->deadlock, nullptr);
}

HANDLER_TEST(WorkerBlocked, Deadlock, IsToldToTheMethodThatWaits) {
  EXPECT_EQ(on(0, core::Deadlock{token + 1, "another"}), "");
  EXPECT_EQ(waiting->deadlock, nullptr);
  EXPECT_EQ(on(0, core::Deadlock{token, "a circle"}), "");
  ASSERT_NE(waiting->deadlock, nullptr);
  EXPECT_EQ(waiting->deadlock->message, "deadlock: a circle");
  EXPECT_EQ(waiting->deadlock->kind, core::ErrorKind::deadlock);
}

HANDLER_TEST(WorkerBlocked, Deadlock, OfAWaitThatIsOverIsNothing) {
  EXPECT_TRUE(worker.resume(*waiting));
  EXPECT_EQ(step(), "0: Blocked, Lending");
  EXPECT_FALSE(sent<core::Blocked>().waits);
  EXPECT_EQ(on(0, core::Deadlock{token, "a circle"}), "");
  EXPECT_EQ(waiting->deadlock, nullptr);
}

// That is what those have who are not blocked.
HANDLER_TEST(WorkerBlocked, Deadlock, OfNoWaitIsDamaged) {
  EXPECT_TRUE(worker.resume(*waiting));
  EXPECT_DAMAGED(worker.handle(0, core::Deadlock{0, "a circle"}));
  EXPECT_EQ(waiting->deadlock, nullptr);
}

// What of a call's results can't be true is not passed on to the head in this rank's name.
class WorkerCalls : public WorkerHandlers {
 protected:
  // A call of this rank runs at rank 2.
  WorkerCalls() {
    there = foreign(object_of(0, 9));
    detail::Draft::State draft;
    draft.args.put(5);
    called = worker.call(detail::ActorBase(there, {}), tests::kStep, draft, {});
    EXPECT_EQ(step(), "0: Locate");
    EXPECT_EQ(on(0, core::Located{there.id(), 2, {}}), "2: Call");
  }
  core::Result result_of_call() const {
    static const int kSeven = 7;
    return result(tasks().by(1, called.id().span.value & 0xff), kSeven);
  }
  Handle there;
  Handle called;
};

HANDLER_TEST(WorkerCalls, Result, EndsTheCall) {
  EXPECT_EQ(on(2, result_of_call()), "");
  EXPECT_EQ(number(called), 7);
  EXPECT_EQ(worker.what_is_left(), "");
}

HANDLER_TEST(WorkerCalls, Result, ThatStaysThereIsToldToTheHead) {
  core::Result stored = result_of_call();
  stored.stored.push_back({0, tests::kLargeSize});
  EXPECT_EQ(on(2, stored), "0: Made, Counted");
  EXPECT_EQ(sent<core::Made>().id, called.id());
  EXPECT_EQ(sent<core::Made>().at, 2U);
  EXPECT_EQ(sent<core::Counted>().giver, 2U);
  EXPECT_TRUE(sent<core::Counted>().result);
}

HANDLER_TEST(WorkerCalls, Result, AtAnotherRankThanItsSenderIsDamaged) {
  core::Result wrong = result_of_call();
  wrong.rank = 4;
  wrong.stored.push_back({0, tests::kLargeSize});
  EXPECT_DAMAGED(worker.handle(2, wrong));
  wrong = result_of_call();
  wrong.refs.push_back({0, object_of(4, 1)});
  EXPECT_DAMAGED(worker.handle(2, wrong)) << "a ref to nowhere";
  wrong = result_of_call();
  wrong.refs.push_back({1, object_of(3, 1)});
  EXPECT_DAMAGED(worker.handle(2, wrong)) << "in a result of another call";
  EXPECT_EQ(step(), "");
  EXPECT_EQ(worker.pending_calls(), 1U);
}

// ---- gangs -------------------------------------------------------------------------------------------------------

class WorkerGangs : public WorkerHandlers {
 protected:
  // This rank has the first of two members of gang 3, submitted by rank 2.
  WorkerGangs() { EXPECT_EQ(on(0, gang(2).by(2).from(0, 1).assign({3, 4, 0, {}})), ""); }
};

HANDLER_TEST(WorkerGangs, GangOver, ThatWasGoodGivesTheResult) {
  ASSERT_EQ(run(), "0: Member");
  EXPECT_EQ(on(0, core::GangOver{3, true}), "0: Done; 2: Result");
  EXPECT_EQ(number(sent<core::Result>().values), 0);
  EXPECT_EQ(worker.what_is_left(), "");
}

HANDLER_TEST(WorkerGangs, GangOver, ThatBrokeDropsTheResult) {
  ASSERT_EQ(run(), "0: Member");
  EXPECT_EQ(on(0, core::GangOver{3, false}), "");
  EXPECT_EQ(worker.what_is_left(), "");
}

HANDLER_TEST(WorkerGangs, GangOver, BeforeTheMemberHasBegun) {
  EXPECT_EQ(on(0, core::GangOver{3, false}), "0: Member");
  EXPECT_EQ(sent<core::Member>().state, MemberState::dropped);
  EXPECT_EQ(worker.what_is_left(), "");
}

HANDLER_TEST(WorkerGangs, GangOver, WhileTheMemberRuns) {
  auto running = worker.next_run(now);
  EXPECT_EQ(on(0, core::GangOver{3, false}), "");
  EXPECT_TRUE(running->broken);
  execute(*running);
  worker.finish(std::move(running), now);
  EXPECT_EQ(step(), "0: Member");
  EXPECT_EQ(sent<core::Member>().state, MemberState::dropped);
  EXPECT_EQ(worker.what_is_left(), "");
}

HANDLER_TEST(WorkerGangs, GangOver, WhileTheMemberIsStuck) {
  auto running = worker.next_run(now);
  ASSERT_EQ(on(0, core::GangOver{3, false}), "");
  worker.tick(now += 3'000 * kMs);
  EXPECT_EQ(step(), "0: Member, Lending");
  EXPECT_EQ(sent<core::Member>().state, MemberState::stuck);
  EXPECT_EQ(worker.stuck(), 1U);
  execute(*running);
  worker.finish(std::move(running), now);
  EXPECT_EQ(step(), "0: Lending, Member") << "that it lends no more is known first";
  EXPECT_EQ(sent<core::Member>().state, MemberState::freed);
  EXPECT_EQ(worker.what_is_left(), "");
}

HANDLER_TEST(WorkerGangs, GangOver, ThatWasGoodBeforeTheMemberEndedIsDamaged) {
  EXPECT_DAMAGED(worker.handle(0, core::GangOver{3, true}));
  EXPECT_EQ(worker.members(), 1U);
}

HANDLER_TEST(WorkerGangs, GangOver, OfAnotherIsNothing) {
  EXPECT_EQ(on(0, core::GangOver{4, false}), "");
  EXPECT_EQ(on(0, core::GangOver{4, true}), "");
  EXPECT_EQ(worker.members(), 1U);
}

HANDLER_TEST(WorkerGangs, GangWaits, HasAMemberLendUntilNoneWaits) {
  auto running = worker.next_run(now);
  EXPECT_EQ(on(0, core::GangWaits{3, true}), "0: Lending");
  EXPECT_EQ(sent<core::Lending>(), (core::Lending{1, 1, 0}));
  EXPECT_EQ(on(0, core::GangWaits{3, true}), "") << "it is told once more";
  EXPECT_EQ(on(0, core::GangWaits{3, false}), "0: Lending");
  EXPECT_EQ(sent<core::Lending>(), core::Lending{});
  execute(*running);
  worker.finish(std::move(running), now);
  EXPECT_EQ(step(), "0: Member");
  EXPECT_EQ(on(0, core::GangOver{3, true}), "0: Done; 2: Result");
  EXPECT_EQ(worker.what_is_left(), "");
}

HANDLER_TEST(WorkerGangs, GangWaits, BeforeTheMemberHasBegun) {
  EXPECT_EQ(on(0, core::GangWaits{3, true}), "");
  auto running = worker.next_run(now);
  EXPECT_EQ(step(), "0: Lending");
  execute(*running);
  worker.finish(std::move(running), now);
  EXPECT_EQ(step(), "0: Member") << "it goes on to lend";
  EXPECT_EQ(on(0, core::GangOver{3, false}), "0: Lending");
  EXPECT_EQ(worker.what_is_left(), "");
}

// What the others wait for may need its cpus, too.
HANDLER_TEST(WorkerGangs, GangWaits, HasAMemberLendThatHasEnded) {
  EXPECT_EQ(run(), "0: Member");
  EXPECT_EQ(on(0, core::GangWaits{3, true}), "0: Lending");
  EXPECT_EQ(sent<core::Lending>(), (core::Lending{1, 1, 0}));
  EXPECT_EQ(on(0, core::GangWaits{3, false}), "0: Lending");
  EXPECT_EQ(on(0, core::GangWaits{3, true}), "0: Lending");
  EXPECT_EQ(on(0, core::GangOver{3, true}), "0: Lending, Done; 2: Result") << "that it lends no more is known first";
  EXPECT_EQ(worker.what_is_left(), "");
}

HANDLER_TEST(WorkerGangs, GangWaits, OfAnotherIsNothing) {
  auto running = worker.next_run(now);
  EXPECT_EQ(on(0, core::GangWaits{4, true}), "");
  EXPECT_FALSE(running->lends);
  execute(*running);
  worker.finish(std::move(running), now);
}

TEST_F(WorkerGangs, AMemberThatWaitsForAWhileIsToldOf) {
  auto running = worker.next_run(now);
  worker.lend(*running);
  EXPECT_EQ(step(), "0: Lending");
  worker.tick(now += 99 * kMs);
  EXPECT_EQ(step(), "");
  worker.tick(now += 2 * kMs);
  EXPECT_EQ(step(), "0: Waits");
  EXPECT_TRUE(sent<core::Waits>().waits);
  EXPECT_EQ(on(0, core::GangWaits{3, true}), "");
  ASSERT_TRUE(worker.resume(*running));
  EXPECT_EQ(step(), "0: Waits") << "it lends until it hears that no other one waits";
  EXPECT_EQ(on(0, core::GangWaits{3, false}), "0: Lending");
  execute(*running);
  worker.finish(std::move(running), now);
  EXPECT_EQ(step(), "0: Member");
  EXPECT_EQ(on(0, core::GangOver{3, false}), "");
  EXPECT_EQ(worker.what_is_left(), "");
}

// ---- what holds capacity, in rare orders -------------------------------------------------------------------------

// The constructor waits for another actor, which takes the cpu that it lends, and goes on without it.
TEST_F(WorkerHandlers, AnActorMadeWithoutItsCpusGivesNoneBack) {
  const Tasks whole = counter().by(0, 1).demand({2, 0, 0, {}});
  ASSERT_EQ(on(0, whole.assign()), "");
  auto constructor = worker.next_run(now);
  ASSERT_NE(constructor, nullptr);
  worker.lend(*constructor);
  const Tasks inner = counter().by(0, 2).demand({2, 0, 0, {}});
  ASSERT_EQ(on(0, inner.assign()), "0: Lending");
  run();
  EXPECT_EQ(worker.actors(), 1U);
  ASSERT_TRUE(worker.resume(*constructor));
  execute(*constructor);
  worker.finish(std::move(constructor), now);
  EXPECT_EQ(worker.actors(), 2U);
  step();
  ASSERT_EQ(on(2, tasks(tests::kStep).by(2).call(whole.id())), "");
  auto call = worker.next_run(now);
  ASSERT_NE(call, nullptr);
  worker.lend(*call);
  EXPECT_TRUE(worker.resume(*call)) << "it may have waited for the other one";
  execute(*call);
  worker.finish(std::move(call), now);
  on(0, core::EndActor{whole.id(), 5, error("it was killed")});
  run();
  EXPECT_EQ(worker.cpus_in_use(), 2) << "those of the other one";
  on(0, core::EndActor{inner.id(), 6, error("it was killed")});
  run();
  EXPECT_EQ(worker.cpus_in_use(), 0);
  EXPECT_EQ(worker.what_is_left(), "");
}

// A thread that the constructor has started waits still when it returns.
TEST_F(WorkerHandlers, AnActorMadeWhileAThreadOfItsWaitsHoldsItsCpus) {
  const Tasks actor = counter().by(0, 1).demand({1, 0, 0, {}});
  ASSERT_EQ(on(0, actor.assign()), "");
  auto constructor = worker.next_run(now);
  worker.lend(*constructor, false);
  execute(*constructor);
  worker.finish(std::move(constructor), now);
  step();
  EXPECT_EQ(worker.cpus_in_use(), 1);
  on(0, core::EndActor{actor.id(), 5, error("it was killed")});
  run();
  EXPECT_EQ(worker.cpus_in_use(), 0);
  EXPECT_EQ(worker.what_is_left(), "");
}

TEST_F(WorkerHandlers, CancelledInTheMiddleOfWhatGaveItsInputsUp) {
  detail::Encoder value;
  Store::Room room;
  ASSERT_EQ(store.take(tests::kLargeSize, room), Store::Verdict::given);
  value.buffer = std::move(room.buffer);
  value.buffer.extend(tests::kLargeSize);
  const Handle large = worker.put(std::move(value));
  const Tasks three = tasks(tests::kAdd).by(2).from(0, 3).after({large.id(), Where::unknown, kNoRank, {}});
  ASSERT_EQ(on(0, three.assign()), "");
  ASSERT_EQ(worker.queued_tasks(), 3U);
  worker.park();
  ASSERT_EQ(worker.queued_tasks(), 0U);
  on(0, core::CancelTask{8, three.id(1)});
  worker.unpark();
  EXPECT_EQ(worker.queued_tasks(), 2U) << "the first and the last";
}

// Its thread has left the function, and waits for the lock, when its time to come back is up.
HANDLER_TEST(WorkerGangs, GangOver, JustBeforeTheMemberComesBack) {
  auto running = worker.next_run(now);
  ASSERT_EQ(on(0, core::GangOver{3, false}), "");
  execute(*running);
  worker.tick(now += 3'000 * kMs);
  EXPECT_EQ(step(), "0: Member, Lending") << "and nothing of its result";
  worker.finish(std::move(running), now);
  EXPECT_EQ(step(), "0: Lending, Member");
  EXPECT_EQ(worker.what_is_left(), "");
}

// The head holds what it holds until it hears that the function has ended, and how it waits.
HANDLER_TEST(WorkerHandlers, Assign, OfATaskThatGoesOnPastItsTime) {
  Tasks one = tasks().by(2).in_bundle(object_of(2, 9));
  one.options().timeout_ns = 10 * kMs;
  auto running = begin(one);
  ASSERT_NE(running, nullptr);
  worker.tick(now += 11 * kMs);
  EXPECT_EQ(step(), "0: Done; 2: Result");
  const std::uint32_t overtime = sent<core::Done>().overtime;
  EXPECT_NE(overtime, 0U);
  worker.lend(*running);
  EXPECT_EQ(step(), "0: Waits, Lending");
  EXPECT_EQ(sent<core::Waits>().overtime, overtime);
  ASSERT_TRUE(worker.resume(*running));
  EXPECT_EQ(step(), "0: Waits, Lending");
  execute(*running);
  worker.finish(std::move(running), now);
  EXPECT_EQ(step(), "0: OvertimeEnded");
  EXPECT_EQ(sent<core::OvertimeEnded>().overtime, overtime);
  EXPECT_EQ(worker.what_is_left(), "");
}

// The same of one whose time was up before its thread had come to it.
HANDLER_TEST(WorkerHandlers, Assign, OfACommandWhoseTimeIsUpAsItBegins) {
  Tasks one = tasks(tests::kCommand).by(2);
  one.options().timeout_ns = 10 * kMs;
  auto running = begin(one);
  ASSERT_NE(running, nullptr);
  worker.tick(now += 11 * kMs);
  EXPECT_EQ(step(), "0: Done; 2: Result");
  execute(*running);
  worker.finish(std::move(running), now);
  EXPECT_EQ(run(), "0: OvertimeEnded");
  EXPECT_EQ(worker.what_is_left(), "");
}

// A thread that a task has started runs another one on that task's cpus, and waits in that: what the task's own thread
// has done of its run is that thread's business.
TEST_F(WorkerHandlers, WhatAHelperRunsMayWaitWhileItsLenderComputes) {
  const Tasks three = tasks().by(2).from(0, 3);
  ASSERT_EQ(on(0, three.assign()), "");
  run();  // now it is known how long they take
  const Tasks many = tasks().by(2, 2).from(0, 3);
  ASSERT_EQ(on(0, many.assign()), "");
  auto lender = worker.next_run(now);
  ASSERT_GT(lender->range.end - lender->range.begin, 1U);
  detail::Draft::State draft;
  draft.args.put(5);
  const Handle child = worker.submit(tests::kTwice, nullptr, draft, true, now);
  auto helped = worker.claim(child, *lender, now, false);
  ASSERT_NE(helped, nullptr);
  step();
  lender->task.next = lender->range.begin + 1;  // its thread goes on
  worker.lend(*helped);
  EXPECT_EQ(lender->range.begin, many.range().begin);
  EXPECT_EQ(step().find("Done"), std::string::npos);
}

TEST_F(WorkerHandlers, QueuedPrioritiesCostAStepNothing) {
  auto seconds = [this, sequence = std::uint64_t{1}](int n) mutable {
    for (int i = 0; i < n; ++i) {
      Tasks one = tasks().by(2, sequence++);
      one.options().priority = i;
      worker.handle(0, one.assign());
    }
    std::vector<std::unique_ptr<mobula::worker::Run>> busy;
    busy.push_back(worker.next_run(now));
    busy.push_back(worker.next_run(now));
    const double begin = tests::seconds_of_this_thread();
    for (int i = 0; i < n; ++i) EXPECT_FALSE(worker.has_runnable());
    const double took = tests::seconds_of_this_thread() - begin;
    for (auto& one : busy) {
      execute(*one);
      worker.finish(std::move(one), now);
    }
    run();
    return took;
  };
  EXPECT_LT(tests::growth(4'000, seconds).times(), 2.5);
}

EVERY_HANDLER_HAS_A_TEST(Worker);

// Each message has one place where it is handled: the head, the worker, or the engine itself (exec/engine.cpp).
template <class Message>
inline constexpr bool is_of_engine =
    std::is_same_v<Message, core::Stop> || std::is_same_v<Message, core::Dismiss> ||
    std::is_same_v<Message, core::PulseBack> || std::is_same_v<Message, core::DropCommunicator>;
template <class Message>
struct CheckHandled {
  static_assert(tests::Handles<head::Head, Message> + tests::Handles<Worker, Message> + is_of_engine<Message> == 1,
                "a message is handled by the head, by the worker, or by the engine, and by one of them");
};
static_assert(tests::check_each<CheckHandled>(core::Messages()));

}  // namespace mobula::worker
