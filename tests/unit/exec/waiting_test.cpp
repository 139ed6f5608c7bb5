// An engine by itself: who is signalled, what an exception leaves behind, and what happens where there is no thread.
#include <gtest/gtest.h>
#include <pthread.h>

#include <array>
#include <atomic>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <vector>

#include "core/functions.hpp"
#include "core/shared_memory.hpp"
#include "exec/engine.hpp"
#include "transport/local_wire.hpp"

namespace mobula::exec {
namespace {

using detail::FunctionInfo;
using detail::Handle;
using detail::TaskRun;

Engine* g_engine = nullptr;
std::function<void()> g_act;

void act(TaskRun& run) {
  for (; run.next.load() != run.end; run.advance()) {
    if (run.stop.load()) return;
    run.begin();
    try {
      g_act();
      run.finish();
    } catch (...) {
      run.fail();
    }
  }
}
void nothing(TaskRun& run) {
  for (; run.next.load() != run.end; run.advance()) {
    if (run.stop.load()) return;  // or what is taken from its run would run twice
    run.begin();
    run.finish();
  }
}
const FunctionInfo kAct("exec_waiting_test_act", &act, 0, 0);
const FunctionInfo kNothing("exec_waiting_test_nothing", &nothing, 0, 0);

// The name of this thread has that in it, as the engine names its own.
bool is_named(std::string_view part) {
  std::array<char, 16> name{};
  pthread_getname_np(pthread_self(), name.data(), name.size());
  return std::string_view(name.data()).find(part) != std::string_view::npos;
}

// Passes everything on, and breaks once when told: in whichever thread comes next, or in the next of that name.
class Breaking final : public transport::Wire {
 public:
  explicit Breaking(transport::Wire& wire) : wire_(wire) {}
  detail::RankId rank() const override { return wire_.rank(); }
  std::uint32_t size() const override { return wire_.size(); }
  std::uint32_t node() const override { return wire_.node(); }
  void send(detail::RankId to, detail::Buffer frame) override { wire_.send(to, std::move(frame)); }
  bool poll(const OnFrame& on_frame) override {
    if (breaks.load() && is_named(in_thread) && breaks.exchange(false)) throw Error("MPI_Test failed");
    return wire_.poll(on_frame);
  }
  void send_block(detail::RankId to, std::uint64_t key, detail::ByteView bytes,
                  std::shared_ptr<const void> keep) override {
    wire_.send_block(to, key, bytes, std::move(keep));
  }
  void receive_block(detail::RankId from, std::uint64_t key, std::span<std::byte> into, OnBlock done) override {
    wire_.receive_block(from, key, into, std::move(done));
  }
  bool busy() const override { return wire_.busy(); }
  void abandon(detail::RankId rank) override { wire_.abandon(rank); }
  void arm() override { wire_.arm(); }
  void disarm() override { wire_.disarm(); }
  void sleep(std::int64_t max_ns) override { wire_.sleep(max_ns); }
  void interrupt() override { wire_.interrupt(); }
  bool hears_all() const override { return wire_.hears_all(); }
  std::string in_thread;  // to be set before the next
  std::atomic<bool> breaks{false};

 private:
  transport::Wire& wire_;
};

std::string wait_until_told(Engine& engine) {
  try {
    Engine::Lock lock(engine);
    Waiter waiter;
    engine.wait(
        lock, waiter, [] { return false; }, Engine::kNever);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

class Alone : public testing::Test {
 protected:
  void start(std::uint32_t slots, std::function<void(Settings&)> change = {}) {
    Settings settings;
    settings.worker.slots = slots;
    settings.worker.offers.cpus = slots;
    settings.store.memory = memory_->memory();
    if (change) change(settings);
    head::Settings head;
    head.version = "1";
    head.digest = core::function_digest();
    engine_.emplace(wire_, std::move(settings), &head);
    g_engine = &*engine_;
    engine_->start_threads();
    engine_->join("1", core::function_digest());
  }
  // One slot, and a system that gives no more threads than that.
  void start_with_threads(int most) {
    start(1, [left = std::make_shared<std::atomic<int>>(most)](Settings& settings) {
      settings.start_thread = [left](std::function<void()> run) {
        if (left->fetch_sub(1) <= 0) {
          throw std::system_error(std::make_error_code(std::errc::resource_unavailable_try_again));
        }
        return std::thread(std::move(run));
      };
    });
  }
  static Handle submit(const FunctionInfo& function, const TaskOptions* options = nullptr) {
    detail::Draft::State draft;
    Engine::Lock lock(*g_engine);
    const bool in_task = g_engine->callers_run() != nullptr;
    Handle handle = g_engine->worker().submit(function, options, draft, in_task, in_task ? core::now() : 0);
    g_engine->submitted(lock, 1);
    return handle;
  }
  // Throws what the task threw.
  static bool get(const Handle& handle, Time deadline = Engine::kNever) {
    Engine::Lock lock(*g_engine);
    store::ValuePtr value;
    const bool met = g_engine->wait_for(lock, handle, deadline, value);
    if (met) static_cast<void>(handle.record()->value(handle.index()));
    return met;
  }
  // Ends the engine, and so all that its tasks still do with what was declared before this.
  struct Ends {
    ~Ends() { engine.reset(); }
    std::optional<Engine>& engine;
  };
  static Time in(std::chrono::nanoseconds time) { return core::now() + time.count(); }

  // The wire breaks in a thread of that name once `act` has been done: the rank ends, and where it can't all who wait
  // are told why, and so is whoever comes later.
  void expect_all_told(
      const std::string& in_thread, const std::function<void()>& act = [] {}) {
    std::string end;  // what the process would end with
    {
      const Engine::Lock lock(*engine_);
      engine_->on_must_end = [&end](const std::string& why) { end = end.empty() ? why : end; };
    }
    std::vector<std::future<std::string>> waiters;
    for (int i = 0; i < 3; ++i)
      waiters.push_back(std::async(std::launch::async, [this] { return wait_until_told(*engine_); }));
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // until they sleep
    wire_.in_thread = in_thread;
    wire_.breaks = true;
    act();
    for (auto& waiter : waiters) static_cast<void>(waiter.wait_for(std::chrono::seconds(30)));
    {
      const Engine::Lock lock(*engine_);
      EXPECT_EQ(end, "MPI_Test failed");
      EXPECT_THROW(engine_->step(), Error);
    }
    engine_->stop_threads();  // who was left behind, too
    engine_->on_must_end = {};
    for (auto& waiter : waiters) EXPECT_EQ(waiter.get(), "mobula: this rank can't go on: MPI_Test failed");
  }

  transport::LocalHub hub_{1};
  Breaking wire_{hub_.at(0)};
  std::unique_ptr<core::SharedMemory> memory_ = core::SharedMemory::alone(1 << 20);
  std::optional<Engine> engine_;
};

TEST(Waiting, AListKeepsTheOrderAndForgetsWhoHasGone) {
  WaitList list;
  Waiter a;
  Waiter b;
  Place first(a);
  list.push_back(first);
  {
    Place second(b);
    list.push_back(second);
    EXPECT_EQ(list.size(), 2);
    EXPECT_EQ(&list.back().waiter(), &b);
  }
  EXPECT_EQ(list.size(), 1);
  EXPECT_EQ(&list.back().waiter(), &a);
  first.leave();
  EXPECT_TRUE(list.empty());
}

TEST(Waiting, AnErrorOfTheWireIsToldToAllWhoWaitAndLeavesNobodyBehind) {
  for (const auto quiet : {std::chrono::milliseconds(0), std::chrono::milliseconds(20)}) {  // they poll, they sleep
    transport::LocalHub hub(2);
    Breaking wire(hub.at(1));
    Engine engine(wire, {}, nullptr);
    std::vector<std::thread> threads;
    std::atomic<int> told{0};
    for (int i = 0; i < 3; ++i) {
      threads.emplace_back(
          [&] { told += wait_until_told(engine).find("MPI_Test failed") != std::string::npos ? 1 : 0; });
    }
    std::this_thread::sleep_for(quiet);
    wire.breaks = true;
    wire.interrupt();
    for (auto& thread : threads) thread.join();
    EXPECT_EQ(told.load(), 3);
    EXPECT_NE(wait_until_told(engine), "");  // it says so to whoever comes later, too
  }
}

// Three ranks, of which one is an engine; the others speak by themselves.
class Damage : public testing::Test {
 protected:
  void send_garbage(detail::RankId from, detail::RankId to) {
    detail::Buffer frame;
    const transport::Transport::Header header{0, 1, 0};
    frame.append(&header, sizeof header);
    const std::uint8_t no_message = 250;
    frame.append(&no_message, 1);
    hub_.at(from).send(to, std::move(frame));
  }
  transport::LocalHub hub_{3};
};

TEST_F(Damage, ByAWorkerLosesThatRank) {
  head::Settings head;
  head.ranks = 3;
  head.version = "1";
  Engine engine(hub_.at(0), {}, &head);
  transport::Transport good(hub_.at(2));
  core::Join join;
  join.version = "1";
  good.send(0, join);
  good.flush();
  send_garbage(1, 0);
  engine.join("1", 0);
  Engine::Lock lock(engine);
  EXPECT_EQ(engine.head()->lost(), 1);
  EXPECT_FALSE(engine.head()->ranks()[1].alive);
  EXPECT_TRUE(engine.head()->ranks()[2].alive);
}

TEST_F(Damage, ByAWorkerIsToldToTheHead) {
  Engine engine(hub_.at(1), {}, nullptr);
  send_garbage(2, 1);
  {
    Engine::Lock lock(engine);
    EXPECT_TRUE(engine.step());
    engine.step();
  }
  std::vector<detail::RankId> ended;
  std::string how;
  hub_.at(0).poll([&](detail::RankId, detail::ByteView frame) {
    core::read_frame(frame.subspan(sizeof(transport::Transport::Header)), [&](const auto& message) {
      if constexpr (std::is_same_v<std::decay_t<decltype(message)>, core::Pulse>) {
        for (const auto& one : message.ended) {
          ended.push_back(one.rank);
          how = one.how;
        }
      }
    });
  });
  EXPECT_EQ(ended, (std::vector<detail::RankId>{2}));
  EXPECT_NE(how.find("damaged message to rank 1"), std::string::npos) << how;
}

TEST_F(Damage, ByTheHeadEndsTheRank) {
  Engine engine(hub_.at(1), {}, nullptr);
  send_garbage(0, 1);
  const std::string said = wait_until_told(engine);
  EXPECT_NE(said.find("the head is lost: it sent a damaged message"), std::string::npos) << said;
}

TEST_F(Alone, AnErrorInAThreadOfASlotIsToldToAllWhoWait) {
  start(1);
  Handle task;
  expect_all_told(":s", [&] {
    try {
      task = submit(kNothing);  // so that the thread is called
    } catch (const Error&) {    // it was awake, and was there first
    }
  });
}

TEST_F(Alone, AnErrorInThePumpIsToldToAllWhoWait) {
  start(0);
  expect_all_told(":pump");
}

TEST_F(Alone, AnErrorInTheThreadOfFilesIsToldToAllWhoWait) {
  start(0, [](Settings& settings) {
    settings.scratch = testing::TempDir();
    settings.store.spills = true;
  });
  std::vector<Handle> values;
  const auto put = [&](std::size_t size) {
    detail::Encoder value;
    value.buffer = engine_->room(size);
    value.buffer.extend(size);
    const Engine::Lock lock(*engine_);
    values.push_back(engine_->worker().put(std::move(value)));
  };
  expect_all_told(":io", [&] {
    try {
      for (int i = 0; i < 4; ++i) put(300'000);  // of which memory has room for three: one goes into a file
    } catch (const Error&) {                     // who waits for room is told as well, or has it by then
    }
  });
}

TEST_F(Alone, AStepLooksAtNoneOfThoseWhomItDoesNotConcern) {
  start(1);
  constexpr int kWaiters = 50;
  std::atomic<int> looks{0};
  std::atomic<bool> over{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < kWaiters; ++i) {
    threads.emplace_back([&] {
      Engine::Lock lock(*engine_);
      Waiter waiter;
      const auto met = [&] {
        looks.fetch_add(1);
        return over.load();
      };
      while (!engine_->wait(lock, waiter, met, in(std::chrono::milliseconds(2000)))) {
      }
    });
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(300));  // until they sleep
  const int before = looks.load();
  constexpr int kTasks = 500;
  for (int i = 0; i < kTasks; ++i) EXPECT_TRUE(get(submit(kNothing)));
  // One of them sleeps on the rank's bell and hears of everything; each wait may call another to take its place.
  EXPECT_LT(looks.load() - before, kTasks * kWaiters / 5);
  over = true;
  for (auto& thread : threads) thread.join();
}

TEST_F(Alone, WhereThereIsNoThreadTheNewestWaitEndsWithAnError) {
  start_with_threads(2);
  // Each waits for one that needs a thread of its own: the third has none.
  std::atomic<int> depth{0};
  std::string said;
  TaskOptions limited;
  limited.timeout = std::chrono::minutes(1);
  const Ends engine_ends{engine_};
  g_act = [&] {
    if (depth.fetch_add(1) == 3) return;
    const Handle child = submit(kAct, &limited);
    try {
      get(child);
    } catch (const Error& e) {
      said = e.what();
    }
  };
  EXPECT_TRUE(get(submit(kAct), in(std::chrono::seconds(30))));
  EXPECT_NE(said.find("ulimit -u"), std::string::npos) << said;
  EXPECT_NE(said.find("2 threads"), std::string::npos) << said;
}

// And does not return as if all of it were there.
TEST_F(Alone, WhereThereIsNoThreadTheWaitForABatchEndsWithAnError) {
  start_with_threads(2);
  std::atomic<int> depth{0};
  std::string said;
  TaskOptions limited;
  limited.timeout = std::chrono::minutes(1);  // who waits for such a task can't run it
  const Ends engine_ends{engine_};
  g_act = [&] {
    const int at = depth.fetch_add(1);
    if (at == 0) get(submit(kAct, &limited));
    if (at != 1) return;
    Engine::Lock lock(*engine_);
    store::Record* const record = engine_->objects().new_batch(0);
    const detail::BatchHandle batch(record, 2);
    detail::Draft::State draft;
    std::vector<std::uint32_t> ends;
    engine_->worker().submit_items(*record, 0, 2, kAct, &limited, 0, {}, draft, ends, true, core::now());
    engine_->objects().close(*record);
    try {
      engine_->wait_for_each(lock, batch);
    } catch (const Error& e) {
      said = e.what();
    }
  };
  EXPECT_TRUE(get(submit(kAct), in(std::chrono::seconds(30))));
  EXPECT_NE(said.find("ulimit -u"), std::string::npos) << said;
}

TEST_F(Alone, SubmissionsWaitForRoom) {
  constexpr int kMost = 100;
  start(1, [](Settings& settings) { settings.most_tasks = kMost; });
  g_act = [] { std::this_thread::sleep_for(std::chrono::microseconds(100)); };
  std::uint64_t most = 0;
  std::vector<Handle> all;
  for (int i = 0; i < 10 * kMost; ++i) {
    all.push_back(submit(kAct));
    Engine::Lock lock(*engine_);
    engine_->wait_for_room(lock);
    most = std::max(most, engine_->head()->unfinished());
  }
  EXPECT_LE(most, kMost + 64);  // what gathers is not counted before the next step
  for (const Handle& one : all) EXPECT_TRUE(get(one));
}

TEST_F(Alone, SubmissionsOfTasksWaitForRoomAndNeverForEver) {
  constexpr std::size_t kMost = 100;
  start(1, [](Settings& settings) { settings.most_tasks = kMost; });
  // Each makes some more and waits for none: twenty times what there is room for in all.
  std::atomic<int> begun{0};
  std::atomic<std::size_t> most{0};
  const Ends engine_ends{engine_};
  g_act = [&] {
    if (begun.fetch_add(1) > 20) return;
    for (std::size_t i = 0; i < 2 * kMost; ++i) {
      submit(i % 2 == 0 ? kNothing : kAct);
      Engine::Lock lock(*engine_);
      engine_->wait_for_room(lock);
      most = std::max(most.load(), engine_->worker().queued_tasks());
    }
  };
  EXPECT_TRUE(get(submit(kAct), in(std::chrono::seconds(60))));
  EXPECT_LE(most.load(), 2 * kMost);
}

// What goes straight to the head is not among what a rank has queued.
TaskOptions placed_here() {
  TaskOptions options;
  options.placement = on_rank(0);
  return options;
}

TEST_F(Alone, SubmissionsOfTasksWaitForWhatTheHeadHoldsOfThem) {
  constexpr std::size_t kMost = 100;
  start(1, [](Settings& settings) { settings.most_tasks = kMost; });
  std::atomic<std::uint64_t> most{0};
  const TaskOptions here = placed_here();
  const Ends engine_ends{engine_};
  g_act = [&] {
    for (std::size_t i = 0; i < 20 * kMost; ++i) {
      submit(kNothing, &here);
      Engine::Lock lock(*engine_);
      engine_->wait_for_room(lock);
      most = std::max(most.load(), engine_->head()->unfinished());
    }
  };
  EXPECT_TRUE(get(submit(kAct), in(std::chrono::seconds(60))));
  EXPECT_LE(most.load(), kMost + kMost / 2 + 64);  // what gathers is not counted before the next step
}

TEST_F(Alone, SubmissionsThatWaitForRoomDoNotWaitForThemselves) {
  constexpr std::size_t kMost = 100;
  start(1, [](Settings& settings) {
    settings.most_tasks = kMost;
    settings.worker.offers.resources = {{"one", 1}};
  });
  // All need what the one that submits them holds.
  std::atomic<int> begun{0};
  TaskOptions holding;
  holding.resources = {{"one", 1}};
  const Ends engine_ends{engine_};
  g_act = [&] {
    if (begun.fetch_add(1) != 0) return;
    for (std::size_t i = 0; i < kMost + 50; ++i) {
      submit(kAct, &holding);
      Engine::Lock lock(*engine_);
      engine_->wait_for_room(lock);
    }
  };
  EXPECT_TRUE(get(submit(kAct, &holding), in(std::chrono::seconds(60))));
}

TEST_F(Alone, TheEndIsToldToAllWhoWait) {
  start(1);
  std::atomic<bool> goes_on{true};
  const Ends engine_ends{engine_};
  g_act = [&] {
    while (goes_on.load()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  };
  const Handle slow = submit(kAct);
  std::atomic<int> told{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 10; ++i) {
    threads.emplace_back([&] {
      try {
        get(slow);
      } catch (const Cancelled&) {
        told.fetch_add(1);
      }
    });
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  std::thread ends([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    goes_on = false;
  });
  engine_->stop_threads();
  for (auto& thread : threads) thread.join();
  ends.join();
  EXPECT_EQ(told.load(), 10);
  EXPECT_THROW(engine_->require_open(), Cancelled);
}

}  // namespace
}  // namespace mobula::exec
