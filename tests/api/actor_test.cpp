#include <atomic>
#include <numeric>
#include <set>
#include <string>

#include "support.hpp"

using namespace support;
using mobula::Actor;
using mobula::actor;
using mobula::get;
using mobula::Ref;
using mobula::remote;

namespace {

struct Counter {
  long total = 0;
  long add(long n) { return total += n; }
  long read() const noexcept { return total; }
  void fail(const std::string& what) { throw std::out_of_range(what); }
  std::uint32_t rank() const { return mobula::here().rank; }
};

void reset(Counter& counter, long to) { counter.total = to; }
long peek(const Counter& counter) { return counter.total; }
int slot_of(Counter&) { return mobula::here().slot; }

class Log {
 public:
  Log() = default;
  Log(std::string name, std::vector<double> start) : name_(std::move(name)), values_(std::move(start)) {}
  void append(const std::vector<double>& more) { values_.insert(values_.end(), more.begin(), more.end()); }
  std::vector<double> all() const { return values_; }
  double sum(std::span<const double> more) const { return std::accumulate(more.begin(), more.end(), 0.0); }
  std::string name() const { return name_; }

 private:
  std::string name_;
  std::vector<double> values_;
};

// Checks that the calls of each caller come in order, each once.
class Sequence {
 public:
  int next(std::uint64_t caller, int n) {
    const int expected = last_[caller]++;
    if (n != expected) throw std::logic_error("call " + std::to_string(n) + " in place of " + std::to_string(expected));
    return ++calls_;
  }
  int calls() const { return calls_; }

 private:
  std::map<std::uint64_t, int> last_;
  int calls_ = 0;
};

struct Broken {
  explicit Broken(int x) {
    if (x == 1) throw std::invalid_argument("x is 1");
    if (x == 2) throw std::runtime_error("x is 2");
  }
  int one() { return 1; }
};

struct Slow {
  explicit Slow(int ms) { sleep_ms(ms); }
  int one() { return 1; }
  int nap(int ms) {
    sleep_ms(ms);
    return ms;
  }
};

// Adds to the counter when it is destroyed.
class Tell {
 public:
  explicit Tell(Actor<Counter> counter) : counter_(std::move(counter)) {}
  ~Tell() {
    if (counter_) remote<&Counter::add>(counter_, 1);
  }
  int one() { return 1; }

 private:
  Actor<Counter> counter_;
};

struct Pair {
  Ref<int> ref;
  int value = 0;
  Pair(Ref<int> r, int v) : ref(std::move(r)), value(v) {}
  int sum() const { return get(ref) + value; }
  void keep(Ref<int> r) { ref = std::move(r); }
  void drop() { ref = {}; }
  Ref<int> give() const { return ref; }
};

struct Node {
  std::vector<Actor<Node>> next;
  void link(Actor<Node> to) { next.push_back(std::move(to)); }
  int depth(int n) { return n == 0 || next.empty() ? 0 : 1 + get(remote<&Node::depth>(next.front(), n - 1)); }
};

class Pool {
 public:
  int enter(int ms) {
    const int now = ++inside_;
    sleep_ms(ms);
    --inside_;
    return now;
  }

 private:
  std::atomic<int> inside_{0};
};

long add_many(Actor<Counter> counter, int n) {
  for (int i = 0; i < n; ++i) remote<&Counter::add>(counter, 1);
  return get(remote<&Counter::read>(counter));
}
int drive(Actor<Sequence> sequence, std::uint64_t caller, int n) {
  std::vector<Ref<int>> refs;
  for (int i = 0; i < n; ++i) refs.push_back(remote<&Sequence::next>(sequence, caller, i));
  int ok = 0;
  for (const auto& ref : refs) ok += get(ref) > 0 ? 1 : 0;
  return ok;
}
Actor<Counter> make_counter(long start) {
  auto counter = actor<Counter>();
  get(remote<reset>(counter, start));  // the caller's calls have no order with this one
  return counter;
}
long named_add(const std::string& name, long n) {
  const auto counter = actor<Counter>.with({.name = name, .get_if_exists = true})();
  return get(remote<&Counter::add>(counter, n));
}

// Makes an actor of that name, finds it, and lets go of it: how often it has been called then.
long use_named(const std::string& name, bool get_if_exists) {
  const auto counter = actor<Counter>.with({.name = name, .get_if_exists = get_if_exists})();
  return get(remote<&Counter::add>(mobula::find_actor<Counter>(name), 1));
}
bool is_found(const std::string& name) {
  try {
    mobula::find_actor<Counter>(name);
    return true;
  } catch (const mobula::NoSuchActor&) {
    return false;
  }
}
// How often something of an actor that nobody holds any more was there still. Throws where its name is taken.
int names_left(const std::string& name, int rounds) {
  int left = 0;
  for (int i = 0; i < rounds; ++i) {
    for (const bool get_if_exists : {false, true}) {
      left += use_named(name, get_if_exists) != 1 ? 1 : 0;
      left += is_found(name) ? 1 : 0;
      left += use_named(name, !get_if_exists) != 1 ? 1 : 0;
      { actor<Counter>.with({.name = name})(); }  // it may not have been made when nobody holds it any more
    }
    left += is_found(name) ? 1 : 0;
  }
  return left;
}
Ref<long> read_later(const Actor<Counter>& counter) { return remote<&Counter::read>(counter); }
long plus_one(long x) { return x + 1; }

TEST(Actors, CallsSeeTheStateInOrder) {
  const auto counter = actor<Counter>();
  std::vector<Ref<long>> sums;
  for (long i = 1; i <= 1000; ++i) sums.push_back(remote<&Counter::add>(counter, i));
  for (long i = 1; i <= 1000; ++i) EXPECT_EQ(get(sums[static_cast<std::size_t>(i - 1)]), i * (i + 1) / 2);
  remote<reset>(counter, 7);
  EXPECT_EQ(get(remote<peek>(counter)), 7);
  EXPECT_EQ(get(remote<&Counter::read>(counter)), 7);
  EXPECT_EQ(get(remote<&Counter::rank>(counter)), get(remote<&Counter::rank>(counter)));
}

TEST(Actors, ARefIsAFineArgument) {
  const auto counter = actor<Counter>();
  for (const auto& s : remote<twice>.map(numbers(0, 100))) remote<&Counter::add>(counter, s);  // int for long
  std::vector<Ref<long>> results;
  for (int i = 0; i < 50; ++i) results.push_back(remote<&Counter::add>(counter, remote<plus_one>(i)));
  EXPECT_EQ(get(results.back()), 9900 + 50 * 51 / 2);
  // Calls wait for their inputs, and later calls of the same caller for them.
  const auto late = remote<[](int ms) {
    sleep_ms(ms);
    return 1000L;
  }>(50);
  remote<&Counter::add>(counter, late);
  EXPECT_EQ(get(remote<&Counter::read>(counter)), 9900 + 50 * 51 / 2 + 1000);
}

TEST(Actors, RefsConvert) {
  const auto sums = remote<[](double a, long b) { return a + static_cast<double>(b); }>.map(
      remote<twice>.map(numbers(0, 10)), mobula::same(mobula::put(3)));
  for (std::size_t i = 0; i < 10; ++i) EXPECT_EQ(get(sums[i]), 2.0 * static_cast<double>(i) + 3);
}

TEST(Actors, Constructors) {
  const std::vector<double> start(3000, 1.5);
  const auto by_value = actor<Log>("log", start);
  EXPECT_EQ(get(remote<&Log::name>(by_value)), "log");
  EXPECT_EQ(get(remote<&Log::all>(by_value)), start);
  const auto by_ref = actor<Log>(std::string("ref"), mobula::put(start));
  EXPECT_EQ(get(remote<&Log::all>(by_ref)), start);
  EXPECT_EQ(get(remote<&Counter::read>(actor<Counter>(5L))), 5);      // an aggregate
  const auto pair = actor<Pair>(remote<twice>(4), remote<twice>(1));  // one Ref stays one
  EXPECT_EQ(get(remote<&Pair::sum>(pair)), 10);
}

TEST(Actors, LargeArgumentsAndResults) {
  const auto log = actor<Log>();
  const std::vector<double> big(200'000, 0.5);
  const auto ref = mobula::put(big);
  remote<&Log::append>(log, ref);
  remote<&Log::append>(log, big);
  EXPECT_EQ(get(remote<&Log::sum>(log, ref)), 100'000.0);
  const auto all = remote<&Log::all>(log);
  EXPECT_EQ(get(all).size(), 400'000U);
  EXPECT_EQ(mobula::view(all).size(), 400'000U);
  const auto size = remote<[](std::span<const double> v) { return v.size(); }>(all);
  EXPECT_EQ(get(size), 400'000U);
}

TEST(Actors, ErrorsOfMethods) {
  const auto counter = actor<Counter>();
  try {
    get(remote<&Counter::fail>(counter, "oh"));
    FAIL();
  } catch (const std::out_of_range& e) {
    EXPECT_STREQ(e.what(), "oh");
    ASSERT_NE(mobula::failure_of(e), nullptr);
    EXPECT_EQ(mobula::failure_of(e)->task, "Counter::fail");
  }
  EXPECT_EQ(get(remote<&Counter::add>(counter, 2)), 2);  // it lives on
  const auto dependent = remote<&Counter::add>(counter, remote<[]() -> long { throw std::domain_error("in"); }>());
  EXPECT_THROW(get(dependent), std::domain_error);
  EXPECT_EQ(get(remote<&Counter::read>(counter)), 2);
}

TEST(Actors, ErrorsOfConstructors) {
  const auto broken = actor<Broken>(1);
  try {
    get(remote<&Broken::one>(broken));
    FAIL();
  } catch (const mobula::ActorDied& e) {
    EXPECT_NE(std::string(e.what()).find("x is 1"), std::string::npos) << e.what();
  }
  EXPECT_THROW(get(remote<&Broken::one>(broken)), mobula::ActorDied);
  const auto later = remote<[](const Actor<Broken>& a) { return remote<&Broken::one>(a); }>(actor<Broken>(2));
  EXPECT_THROW(get(get(later)), mobula::ActorDied);
  EXPECT_EQ(get(remote<&Broken::one>(actor<Broken>(3))), 1);
}

TEST(Actors, AConstructorHoldsUpNobodyElse) {
  const auto start = std::chrono::steady_clock::now();
  const auto slow = actor<Slow>(1500);
  const auto one = remote<&Slow::one>(slow);
  const auto counter = actor<Counter>();
  EXPECT_EQ(get(remote<&Counter::add>(counter, 1)), 1);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 1400ms);
  EXPECT_EQ(get(one), 1);
}

TEST(Actors, ResultsGoOnLikeOthers) {
  const auto counter = actor<Counter>();
  const auto nap = actor<Slow>(0);
  const auto pending = remote<&Slow::nap>(nap, 30);
  EXPECT_EQ(get(remote<twice>(pending)), 60);  // passed on before it is there
  const auto sum = remote<&Counter::add>(counter, 4);
  get(sum);
  EXPECT_EQ(get(remote<plus_one>(sum)), 5);
  EXPECT_EQ(get(remote<plus_one>(remote<&Counter::add>(counter, 1))), 6);
  const auto boxed = mobula::put(std::vector<Ref<long>>{sum, remote<&Counter::add>(counter, 1)});
  const auto total = remote<[](const std::vector<Ref<long>>& refs) { return get(refs[0]) + get(refs[1]); }>(boxed);
  EXPECT_EQ(get(total), 10);
  EXPECT_EQ(get(remote<&Counter::add>(counter, remote<&Counter::read>(counter))), 12);
  EXPECT_EQ(get(get(remote<read_later>(counter))), 12);
}

TEST(Actors, RefsInArgumentsAndResults) {
  auto first = remote<twice>(1);
  const auto pair = actor<Pair>(first, 1);
  first = {};
  for (int i = 0; i < 20; ++i) {
    remote<&Pair::keep>(pair, remote<twice>(i));
    EXPECT_EQ(get(remote<&Pair::sum>(pair)), 2 * i + 1);
    const auto given = get(remote<&Pair::give>(pair));
    remote<&Pair::drop>(pair);
    EXPECT_EQ(get(given), 2 * i);
  }
  remote<&Pair::keep>(pair, mobula::put(5));
  EXPECT_EQ(get(get(remote<&Pair::give>(pair))), 5);
}

TEST(Actors, HandlesTravel) {
  const auto counter = actor<Counter>();
  std::vector<Ref<long>> done;
  for (int i = 0; i < 8; ++i) done.push_back(remote<add_many>(counter, 100));
  get(done);
  EXPECT_EQ(get(remote<&Counter::read>(counter)), 800);
  const auto made = get(remote<make_counter>(41L));
  EXPECT_EQ(get(remote<&Counter::add>(made, 1)), 42);
  const auto boxed = mobula::put(std::vector<Actor<Counter>>{counter, made});
  const auto back = get(boxed);
  EXPECT_EQ(back[0], counter);
  EXPECT_EQ(get(remote<&Counter::read>(back[1])), 42);
}

TEST(Actors, EachCallersCallsComeInOrderOnce) {
  const auto sequence = actor<Sequence>();
  constexpr int kCallers = 16;
  constexpr int kCalls = 200;
  std::vector<Ref<int>> drivers;
  for (int i = 0; i < kCallers; ++i) {
    drivers.push_back(remote<drive>(sequence, static_cast<std::uint64_t>(i + 1), kCalls));
  }
  std::vector<Ref<int>> own;
  for (int i = 0; i < kCalls; ++i) {
    own.push_back(i % 3 == 0 ? remote<&Sequence::next>(sequence, std::uint64_t{0}, remote<plus>(i, 0))
                             : remote<&Sequence::next>(sequence, std::uint64_t{0}, i));
  }
  for (const auto& ref : own) EXPECT_GT(get(ref), 0);
  for (const auto& ref : drivers) EXPECT_EQ(get(ref), kCalls);
  EXPECT_EQ(get(remote<&Sequence::calls>(sequence)), (kCallers + 1) * kCalls);
}

// 32 callers in tasks, each with all of 8 actors, whose calls wait for inputs now and then.
int drive_all(const std::vector<Actor<Sequence>>& actors, std::uint64_t caller, int n) {
  std::vector<Ref<int>> refs;
  for (int i = 0; i < n; ++i) {
    for (const auto& each : actors) {
      refs.push_back(i % 7 == 3 ? remote<&Sequence::next>(each, caller, remote<plus>(i, 0))
                                : remote<&Sequence::next>(each, caller, i));
    }
    if (i % 10 == 5) get(refs.back());
  }
  for (const auto& ref : refs) get(ref);  // throws if one was out of order
  return static_cast<int>(refs.size());
}

TEST(Actors, ManyCallersOfManyActors) {
  constexpr int kCallers = 32;
  constexpr int kCalls = 40;
  std::vector<Actor<Sequence>> actors;
  for (int i = 0; i < 8; ++i) actors.push_back(actor<Sequence>());
  std::vector<Ref<int>> callers;
  for (int i = 0; i < kCallers; ++i)
    callers.push_back(remote<drive_all>(actors, static_cast<std::uint64_t>(i), kCalls));
  for (const auto& caller : callers) EXPECT_EQ(get(caller), 8 * kCalls);
  for (const auto& each : actors) EXPECT_EQ(get(remote<&Sequence::calls>(each)), kCallers * kCalls);
}

TEST(Actors, ActorsCallActors) {
  std::vector<Actor<Node>> nodes;
  for (int i = 0; i < 6; ++i) nodes.push_back(actor<Node>());
  for (std::size_t i = 0; i < 5; ++i) get(remote<&Node::link>(nodes[i], nodes[i + 1]));
  EXPECT_EQ(get(remote<&Node::depth>(nodes[0], 100)), 5);
}

TEST(Actors, ACycleOfBlockingCallsIsADeadlock) {
  std::vector<Actor<Node>> nodes{actor<Node>(), actor<Node>(), actor<Node>()};
  for (std::size_t i = 0; i < 3; ++i) get(remote<&Node::link>(nodes[i], nodes[(i + 1) % 3]));
  try {
    get(remote<&Node::depth>(nodes[0], 100));
    FAIL();
  } catch (const mobula::Error& e) {
    EXPECT_NE(std::string(e.what()).find("deadlock"), std::string::npos) << e.what();
  }
  const auto self = actor<Node>();
  remote<&Node::link>(self, self);
  EXPECT_THROW(get(remote<&Node::depth>(self, 1)), mobula::Error);
  // Handles in a circle keep each other alive: they are ended by hand.
  for (const auto& node : nodes) mobula::kill(node);
  mobula::kill(self);
}

// It waits with a limit for one that waits for it: that is over when the limit is.
struct Patient {
  Actor<Patient> other;
  void link(Actor<Patient> to) { other = std::move(to); }
  int number() { return 7; }
  int ask() {
    try {
      return get(remote<&Patient::answer>(other), 1s);
    } catch (const mobula::TimedOut&) {
      return -1;
    }
  }
  int answer() { return get(remote<&Patient::number>(other)); }
};

TEST(Actors, ACircleThatALimitEndsIsNoDeadlock) {
  const std::vector<Actor<Patient>> both{actor<Patient>(), actor<Patient>()};
  for (std::size_t i = 0; i < 2; ++i) get(remote<&Patient::link>(both[i], both[1 - i]));
  EXPECT_EQ(get(remote<&Patient::ask>(both[0])), -1);
  EXPECT_EQ(get(remote<&Patient::number>(both[1])), 7);
  for (const auto& one : both) mobula::kill(one);
}

TEST(Actors, EndWithTheirLastHandle) {
  const auto counter = actor<Counter>();
  {
    auto tell = actor<Tell>(counter);
    EXPECT_EQ(get(remote<&Tell::one>(tell)), 1);
    auto copy = tell;
    tell = {};
    EXPECT_EQ(get(remote<&Tell::one>(copy)), 1);
    EXPECT_EQ(get(remote<&Counter::read>(counter)), 0);
  }
  for (int i = 0; i < 400 && get(remote<&Counter::read>(counter)) == 0; ++i) sleep_ms(5);
  EXPECT_EQ(get(remote<&Counter::read>(counter)), 1);
}

TEST(Actors, Kill) {
  const auto slow = actor<Slow>(0);
  const auto other = slow;
  const auto running = remote<&Slow::nap>(slow, 100);
  const auto queued = remote<&Slow::nap>(slow, 100);
  mobula::kill(slow);
  EXPECT_THROW(get(queued), mobula::ActorDied);
  EXPECT_THROW(get(remote<&Slow::one>(other)), mobula::ActorDied);
  try {
    get(running);
  } catch (const mobula::ActorDied& e) {
    EXPECT_NE(std::string(e.what()).find("killed"), std::string::npos) << e.what();
  }
  mobula::kill(slow);  // twice is fine
  const auto elsewhere = remote<[](Actor<Slow> a) { return get(remote<&Slow::one>(a)); }>(other);
  EXPECT_THROW(get(elsewhere), mobula::ActorDied);
}

TEST(Actors, KillWhileManyCallsRunAndWaitForThreads) {
  const auto slow = actor<Slow>.with({.concurrency = 100})(0);
  std::vector<Ref<int>> naps;
  for (int i = 0; i < 120; ++i) naps.push_back(remote<&Slow::nap>(slow, 200));
  sleep_ms(20);
  mobula::kill(slow);
  EXPECT_THROW(get(naps.back()), mobula::ActorDied);
  mobula::wait(naps);
  EXPECT_THROW(get(remote<&Slow::one>(slow)), mobula::ActorDied);
  sleep_ms(250);  // until those that ran have ended, and the object with them
  EXPECT_EQ(get(remote<&Slow::one>(actor<Slow>(0))), 1);
}

TEST(Actors, Names) {
  EXPECT_THROW(mobula::find_actor<Counter>("nobody"), mobula::NoSuchActor);
  {
    const auto counter = actor<Counter>.with({.name = "total"})();
    EXPECT_EQ(mobula::find_actor<Counter>("total"), counter);
    EXPECT_THROW(mobula::find_actor<Log>("total"), mobula::NoSuchActor);
    EXPECT_THROW(actor<Counter>.with({.name = "total"})(), mobula::Error);
    const auto same = actor<Counter>.with({.name = "total", .get_if_exists = true})();
    EXPECT_EQ(same, counter);
    const auto sum = remote<[](const std::string& name) {
      return get(remote<&Counter::add>(mobula::find_actor<Counter>(name), 3));
    }>("total");
    EXPECT_EQ(get(sum), 3);
  }
  // The name goes with the actor.
  for (int i = 0; i < 400; ++i) {
    try {
      mobula::find_actor<Counter>("total");
    } catch (const mobula::NoSuchActor&) {
      return;
    }
    sleep_ms(5);
  }
  ADD_FAILURE() << "the actor is still there";
}

// Whoever let go of the last handle finds it so in whatever he asks next.
TEST(Actors, TheNameIsFreeOnceTheLastHandleHasGone) {
  EXPECT_EQ(names_left("again", 10), 0);
  EXPECT_EQ(get(remote<names_left>("again in a task", 10)), 0);
}

TEST(Actors, GetIfExistsRaces) {
  for (int round = 0; round < 5; ++round) {
    const std::string name = "race" + std::to_string(round);
    const auto keep = actor<Counter>.with({.name = name, .get_if_exists = true})();
    std::vector<Ref<long>> sums;
    for (int i = 0; i < 12; ++i) sums.push_back(remote<named_add>(name, 1));
    std::set<long> seen;
    for (const auto& sum : sums) seen.insert(get(sum));
    EXPECT_EQ(seen.size(), 12U);
    EXPECT_EQ(get(remote<&Counter::read>(keep)), 12);
  }
}

TEST(Actors, DetachedOnesStay) {
  { actor<Counter>.with({.name = "stays", .get_if_exists = true, .detached = true})(); }
  sleep_ms(20);
  const auto found = mobula::find_actor<Counter>("stays");
  get(remote<&Counter::add>(found, 1));
  mobula::kill(found);
}

TEST(Actors, Backpressure) {
  const auto slow = actor<Slow>.with({.max_pending = 3})(0);
  std::vector<Ref<int>> naps;
  for (int i = 0; i < 3; ++i) naps.push_back(remote<&Slow::nap>(slow, 20));
  EXPECT_THROW(remote<&Slow::one>(slow), mobula::Backpressure);
  get(naps);
  EXPECT_EQ(get(remote<&Slow::one>(slow)), 1);
}

TEST(Actors, Concurrency) {
  const auto pool = actor<Pool>.with({.concurrency = 4})();
  std::vector<Ref<int>> inside;
  for (int i = 0; i < 12; ++i) inside.push_back(remote<&Pool::enter>(pool, 50));
  int most = 0;
  for (const auto& ref : inside) most = std::max(most, get(ref));
  EXPECT_GT(most, 1);
  EXPECT_LE(most, 4);
  EXPECT_THROW(actor<Pool>.with({.concurrency = 0})(), std::invalid_argument);
}

TEST(Actors, CpusOfTheirOwn) {
  const auto free = [] { return mobula::cluster().free.at("cpus"); };
  const double before = free();
  {
    const auto counter = actor<Counter>.with({.cpus = 1})();
    EXPECT_EQ(get(remote<&Counter::add>(counter, 1)), 1);
    EXPECT_EQ(free(), before - 1);
    EXPECT_GE(get(remote<slot_of>(counter)), 0);
    if (before > 1) {
      EXPECT_EQ(get(remote<twice>(4)), 8);
    }
  }
  for (int i = 0; i < 400 && free() != before; ++i) sleep_ms(5);
  EXPECT_EQ(free(), before);
  EXPECT_THROW(actor<Counter>.with({.cpus = 1000})(), mobula::Infeasible);
}

TEST(Actors, Many) {
  std::vector<Actor<Counter>> all;
  for (int i = 0; i < 300; ++i) all.push_back(actor<Counter>(static_cast<long>(i)));
  std::vector<Ref<long>> sums;
  for (const auto& a : all) sums.push_back(remote<&Counter::add>(a, 1));
  for (int i = 0; i < 300; ++i) EXPECT_EQ(get(sums[static_cast<std::size_t>(i)]), i + 1);
  std::set<std::uint32_t> ranks;
  for (const auto& a : all) ranks.insert(get(remote<&Counter::rank>(a)));
  EXPECT_EQ(ranks.size(), workers());
}

TEST(Actors, Explain) {
  const auto slow = actor<Slow>(0);
  const auto nap = remote<&Slow::nap>(slow, 50);
  const auto next = remote<&Slow::one>(slow);
  EXPECT_NE(mobula::explain(next).find("Slow::one"), std::string::npos) << mobula::explain(next);
  get(next);
}

}  // namespace
