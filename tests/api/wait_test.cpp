// Every way of waiting, for tasks wherever they run and however they end, by everyone who may wait; and many who wait.
#include <pthread.h>

#include <condition_variable>
#include <deque>
#include <future>
#include <mutex>

#include "support.hpp"
#include "waits.hpp"

namespace {

using namespace support;
using namespace waits;
using mobula::get;
using mobula::on_rank;
using mobula::Ref;
using mobula::remote;

enum class Where { here, elsewhere, later };  // later: it waits for an input, and has no rank yet
enum class Fate { ends, fails, times_out, cancelled };

Value make(bool large, Fate fate, int) {
  sleep_ms(fate == Fate::times_out ? 60 : 3);
  if (fate == Fate::fails) throw std::domain_error("as it is meant to");
  return Value(size_of(large), 'x');
}
// The Ref lies in a container: the task begins before the value is there.
std::string read_in_task(Who who, How how, const std::vector<Ref<Value>>& box) { return read_as(who, how, box[0]); }

Ref<Value> make_by(bool large, Fate fate, Ref<int> input, mobula::Placement where) {
  if (fate == Fate::times_out) return remote<make>.with({.timeout = 15ms, .placement = where})(large, fate, input);
  return remote<make>.with({.placement = where})(large, fate, input);
}

// The same for one that the task makes itself.
std::string make_and_read(Who who, How how, bool large, Fate fate) {
  const auto input = mobula::put(0);
  return read_as(who, how, make_by(large, fate, input, mobula::any));
}

struct Reader {
  std::string read(Who who, How how, const std::vector<Ref<Value>>& box) { return read_as(who, how, box[0]); }
  std::string make(Who who, How how, bool large, Fate fate) { return make_and_read(who, how, large, fate); }
};

class Gate {
 public:
  int pass() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return open_; });
    return 0;
  }
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
};

std::string expected(bool large, Fate fate) {
  switch (fate) {
    case Fate::fails: return "failed";
    case Fate::times_out: return "timed out";
    case Fate::cancelled: return "cancelled";
    default: return std::to_string(size_of(large));
  }
}

std::vector<std::uint32_t> worker_ranks() {
  std::vector<std::uint32_t> ranks;
  for (const auto& rank : mobula::cluster().ranks) {
    if (rank.slots > 0) ranks.push_back(rank.rank);
  }
  return ranks;
}

class Waits : public testing::TestWithParam<Who> {};

TEST_P(Waits, EachIsToldHowItEnded) {
  const Who who = GetParam();
  const auto ranks = worker_ranks();
  const auto here = ranks.back();
  const auto gate = mobula::actor<Gate>.with({.concurrency = 4})();
  const auto reader = mobula::actor<Reader>.with({.concurrency = 1000, .placement = on_rank(here)})();
  const auto never = remote<&Gate::pass>(gate);
  struct Case {
    std::string name;
    std::string expected;
    Ref<Value> made;
    Ref<std::string> said;
    std::future<std::string> said_by_thread;
  };
  std::deque<Case> cases;
  for (const How how : {How::get, How::view, How::wait, How::completed, How::dependent}) {
    for (const Where where : {Where::here, Where::elsewhere, Where::later}) {
      for (const bool large : {false, true}) {
        for (const Fate fate : {Fate::ends, Fate::fails, Fate::times_out, Fate::cancelled}) {
          const auto input = fate == Fate::cancelled ? never
                             : where == Where::later ? remote<sleep_and_return>(20, 0)
                                                     : mobula::put(0);
          const auto placement = where == Where::here        ? on_rank(here)
                                 : where == Where::elsewhere ? on_rank(ranks.front())
                                                             : mobula::any;
          Case& one = cases.emplace_back();
          one.name = "how " + std::to_string(static_cast<int>(how)) + ", where " +
                     std::to_string(static_cast<int>(where)) + (large ? ", large" : ", small") + ", fate " +
                     std::to_string(static_cast<int>(fate));
          one.expected = expected(large, fate);
          one.made = make_by(large, fate, input, placement);
          const std::vector box{one.made};
          if (who == Who::driver) {
            if (fate == Fate::cancelled) mobula::cancel(one.made);
            EXPECT_EQ(read(how, one.made), one.expected) << one.name;
          } else if (who == Who::thread_of_driver) {
            one.said_by_thread = read_by_thread(how, one.made);
          } else if (who == Who::task || who == Who::thread_of_task) {
            one.said = remote<read_in_task>.with({.placement = on_rank(here)})(who, how, box);
          } else {
            one.said = remote<&Reader::read>(reader, who, how, box);
          }
          const bool has_tasks_of_its_own = who != Who::driver && who != Who::thread_of_driver;
          if (!has_tasks_of_its_own || fate == Fate::cancelled || where != Where::here) continue;
          Case& own = cases.emplace_back();
          own.name = one.name + ", its own";
          own.expected = one.expected;
          own.said = who == Who::task || who == Who::thread_of_task
                         ? remote<make_and_read>.with({.placement = on_rank(here)})(who, how, large, fate)
                         : remote<&Reader::make>(reader, who, how, large, fate);
        }
      }
    }
  }
  if (who != Who::driver) {
    sleep_ms(50);
    for (const Case& one : cases) {
      if (one.expected != "cancelled") continue;
      EXPECT_TRUE(mobula::cancel(one.made)) << one.name;
    }
    for (Case& one : cases) {
      if (who == Who::thread_of_driver) {
        if (one.said_by_thread.wait_for(60s) == std::future_status::ready) {
          EXPECT_EQ(one.said_by_thread.get(), one.expected) << one.name;
        } else {
          ADD_FAILURE() << one.name << " waits for ever: " << mobula::explain(one.made);
          break;
        }
        continue;
      }
      try {
        EXPECT_EQ(get(one.said, 60s), one.expected) << one.name;
      } catch (const mobula::TimedOut&) {
        ADD_FAILURE() << one.name << " waits for ever: " << mobula::explain(one.said);
        break;
      }
    }
  }
  cases.clear();
  get(remote<&Gate::open>(gate));
}

INSTANTIATE_TEST_SUITE_P(Everyone, Waits,
                         testing::Values(Who::driver, Who::task, Who::method, Who::thread_of_driver,
                                         Who::thread_of_task, Who::thread_of_method));

std::uint64_t fetches() {
  std::uint64_t n = 0;
  for (const auto& rank : mobula::store_stats(0).ranks) n += rank.fetches;
  return n;
}
std::size_t wait_only(const std::vector<Ref<Value>>& all) {
  std::size_t n = mobula::wait(all).ready.size();
  for (const auto& one : mobula::as_completed(all)) n += one ? 1 : 0;
  return n;
}

TEST(Waiting, TellsReadinessAndFetchesNothing) {
  std::vector<Ref<Value>> all;
  for (int i = 0; i < 8; ++i) all.push_back(remote<make>(true, Fate::ends, 0));
  mobula::wait(all);
  const auto before = fetches();
  EXPECT_EQ(get(remote<wait_only>(all)), 16);
  EXPECT_LE(fetches(), before + 1) << "the argument itself may be a value of its own";
}

double time_to_be_told(int way) {
  const auto begin = std::chrono::steady_clock::now();
  try {
    if (way == 0) get(remote<sleep_and_return>(2000, 1), 50ms);
    if (way == 1) get(remote<sleep_and_return>.with({.timeout = 50ms})(2000, 1));
    if (way == 2) mobula::wait(std::vector{remote<sleep_and_return>(2000, 1)}, {.timeout = 50ms});
  } catch (const mobula::TimedOut&) {
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

TEST(Waiting, LimitsHoldInTasks) {
  std::vector<Ref<double>> times;
  for (int way = 0; way < 3; ++way) times.push_back(remote<time_to_be_told>(way));
  for (const double time : get(times)) EXPECT_LT(time, 1.5);
}

template <int Kib>
long deep(int depth) {
  volatile char room[Kib << 10];
  room[0] = 1;
  room[(Kib << 10) - 1] = 1;
  return room[0] + (depth == 0 ? 0 : get(remote<deep<Kib>>(depth - 1)));
}

TEST(Waiting, NestedTasksNeedNoMoreStackThanThereIs) {
  EXPECT_EQ(get(remote<deep<64>>(300)), 301);
  EXPECT_EQ(get(remote<deep<1024>>(20)), 21);
}

// Tasks that all wait for the last of them, in their own way.
void meet(int n) {
  static std::mutex mutex;
  static std::condition_variable all_here;
  static int here = 0;
  std::unique_lock lock(mutex);
  if (++here == n) all_here.notify_all();
  all_here.wait(lock, [n] { return here >= n; });
}

TEST(Many, TasksOfARankMeet) {
  const int n = 1025;
  const auto rank = worker_ranks().back();
  std::vector<Ref<void>> all;
  for (int i = 0; i < n; ++i) all.push_back(remote<meet>.with({.cpus = 0, .placement = on_rank(rank)})(n));
  EXPECT_TRUE(mobula::wait(all, {.timeout = 60s}).pending.empty());
}

class Queue {
 public:
  void push() {
    const std::lock_guard lock(mutex_);
    ++n_;
    changed_.notify_one();
  }
  int pop() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return n_ > 0; });
    return n_--;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int n_ = 0;
};
struct Other {
  int f() { return 1; }
};

TEST(Many, CallsThatBlockKeepNobodyOut) {
  const auto queue = mobula::actor<Queue>.with({.concurrency = 1000})();
  const auto other = mobula::actor<Other>.with({.placement = mobula::near(queue)})();
  std::vector<Ref<int>> pops;
  for (int i = 0; i < 300; ++i) pops.push_back(remote<&Queue::pop>(queue));
  EXPECT_EQ(get(remote<&Other::f>(other), 30s), 1);
  for (int i = 0; i < 300; ++i) remote<&Queue::push>(queue);
  EXPECT_TRUE(mobula::wait(pops, {.timeout = 60s}).pending.empty());
}

struct Link {
  int value;
  explicit Link(int v) : value(v) {}
  int own() const { return value; }
  int with(const mobula::Actor<Link>& next) const { return value + get(remote<&Link::own>(next)); }
};

TEST(Many, ActorsWaitForEachOther) {
  const int n = mobula::cluster().ranks.size() > 1 ? 300 : 1000;
  std::vector<mobula::Actor<Link>> links;
  for (int i = 0; i < n; ++i) links.push_back(mobula::actor<Link>(i));
  std::vector<Ref<int>> asked;
  for (int i = 0; i + 1 < n; ++i) {
    asked.push_back(remote<&Link::with>(links[static_cast<std::size_t>(i)], links[static_cast<std::size_t>(i) + 1]));
  }
  const auto got = get(asked);
  for (int i = 0; i + 1 < n; ++i) EXPECT_EQ(got[static_cast<std::size_t>(i)], 2 * i + 1);
}

long sum_by_threads(int n) {
  std::vector<std::future<int>> threads;
  for (int i = 0; i < n; ++i) {
    threads.push_back(std::async(std::launch::async, [i] { return get(remote<twice>(i)); }));
  }
  long sum = 0;
  for (auto& thread : threads) sum += thread.get();
  return sum;
}

TEST(Many, ThreadsOfTasksWaitAsTheTasksDo) {
  const std::vector<int> items(static_cast<std::size_t>(4 * mobula::cluster().slots), 4);
  const auto all = remote<sum_by_threads>.map(items);
  EXPECT_TRUE(mobula::wait(all, {.timeout = 60s}).pending.empty());
  for (const long sum : get(all)) EXPECT_EQ(sum, 12);
}

int by_a_stranger(int x) {
  return std::async(std::launch::async,
                    [x] {
                      pthread_setname_np(pthread_self(), "stranger");
                      return get(remote<twice>(x));
                    })
      .get();
}

TEST(Many, ThreadsThatNobodyKnowsAreNotWaitedForForEver) {
  const std::vector<int> items(static_cast<std::size_t>(2 * mobula::cluster().slots), 4);
  const auto all = remote<by_a_stranger>.map(items);
  EXPECT_TRUE(mobula::wait(all, {.timeout = 60s}).pending.empty());
}

std::vector<int> some_numbers() { return std::vector<int>(100'000, 2); }

// Of an object of another rank, whose value is in this one's memory already.
std::size_t waits_for_it_twice(const Ref<std::vector<int>>& ref) {
  const auto again = ref;
  return mobula::wait(std::vector{ref, again, ref}, {.timeout = 60s}).ready.size();
}

TEST(Wait, ForOneObjectSeveralTimes) {
  const auto value = mobula::put(std::vector<int>(100'000, 1));
  const auto made = remote<some_numbers>();
  std::vector<Ref<std::size_t>> all;
  for (int i = 0; i < 2 * mobula::cluster().slots; ++i) {
    all.push_back(remote<waits_for_it_twice>(value));
    all.push_back(remote<waits_for_it_twice>(made));
  }
  for (const std::size_t ready : get(all)) EXPECT_EQ(ready, 3U);
}

// A thread that goes on when its task has ended.
int leave_a_thread() {
  std::thread([] {
    try {
      get(remote<sleep_and_return>(30, 1));
    } catch (const mobula::Cancelled&) {
    }
  }).detach();
  sleep_ms(5);
  return 1;
}

TEST(Many, ThreadsMayOutliveTheirTasks) {
  std::vector<Ref<int>> all;
  for (int i = 0; i < 20; ++i) all.push_back(remote<leave_a_thread>());
  for (const int one : get(all)) EXPECT_EQ(one, 1);
  EXPECT_EQ(get(remote<twice>(4)), 8);
  sleep_ms(100);
}

}  // namespace
