#include <sys/wait.h>
#include <unistd.h>

#include <any>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <new>
#include <optional>
#include <system_error>
#include <variant>

#include "support.hpp"

using namespace support;
using mobula::get;
using mobula::Ref;
using mobula::remote;

namespace {

struct Odd : std::exception {
  const char* what() const noexcept override { return "odd thing"; }
};

int thrower(int kind) {
  switch (kind) {
    case 0: throw std::runtime_error("zero");
    case 1: throw std::invalid_argument("one");
    case 2: throw std::out_of_range("two");
    case 3: throw std::bad_alloc();
    case 4: throw std::system_error(std::make_error_code(std::errc::no_such_file_or_directory), "four");
    case 5: throw Odd();
    case 6: throw 17;
    case 7: throw std::logic_error("seven");
    case 8: return std::optional<int>().value();
    case 9: throw std::filesystem::filesystem_error("nine", std::make_error_code(std::errc::io_error));
    case 10: throw std::overflow_error("ten");
    case 11: throw std::string("text");
    default: return kind;
  }
}
int pass(int x) { return x; }
int through(int kind) { return get(remote<thrower>(kind)); }

}  // namespace

TEST(Errors, StandardTypesComeBackAsThemselves) {
  EXPECT_THROW(get(remote<thrower>(0)), std::runtime_error);
  EXPECT_THROW(get(remote<thrower>(1)), std::invalid_argument);
  EXPECT_THROW(get(remote<thrower>(2)), std::out_of_range);
  EXPECT_THROW(get(remote<thrower>(3)), std::bad_alloc);
  EXPECT_THROW(get(remote<thrower>(7)), std::logic_error);
  EXPECT_THROW(get(remote<thrower>(8)), std::bad_optional_access);
  EXPECT_THROW(get(remote<thrower>(9)), std::filesystem::filesystem_error);
  EXPECT_THROW(get(remote<thrower>(10)), std::overflow_error);
  try {
    get(remote<thrower>(4));
    FAIL();
  } catch (const std::system_error& e) {
    EXPECT_EQ(e.code(), std::errc::no_such_file_or_directory);
  }
  try {
    get(remote<thrower>(1));
    FAIL();
  } catch (const std::exception& e) {
    EXPECT_STREQ(e.what(), "one");
  }
}

TEST(Errors, OthersBecomeTaskError) {
  for (const int kind : {5, 6, 11}) {
    try {
      get(remote<thrower>(kind));
      FAIL();
    } catch (const mobula::TaskError& e) {
      const std::string what = e.what();
      EXPECT_NE(what.find("thrower"), std::string::npos) << what;
      if (kind == 5) {
        EXPECT_NE(what.find("odd thing"), std::string::npos) << what;
      }
      if (kind == 5) {
        EXPECT_NE(what.find("Odd"), std::string::npos) << what;
      }
      if (kind == 6) {
        EXPECT_NE(what.find("int"), std::string::npos) << what;
      }
    }
  }
}

TEST(Errors, AnEmptyRefIsNoArgument) {
  const Ref<int> empty;
  EXPECT_THROW(remote<pass>(empty), std::invalid_argument);
  EXPECT_THROW(remote<pass>.map(std::vector<Ref<int>>{mobula::put(1), empty}), std::invalid_argument);
  constexpr auto in_task = [](int x) { return x + get(remote<pass>(Ref<int>())); };
  EXPECT_THROW(get(remote<in_task>(1)), std::invalid_argument);
}

TEST(Errors, FailureOfTellsTheTask) {
  const mobula::TaskOptions options{.name = "doomed"};
  try {
    get(remote<thrower>.with(options)(1));
    FAIL();
  } catch (const std::invalid_argument& e) {
    const mobula::Failure* failure = mobula::failure_of(e);
    ASSERT_NE(failure, nullptr);
    EXPECT_EQ(failure->task, "doomed");
    EXPECT_LT(failure->rank, mobula::cluster().ranks.size());
    EXPECT_FALSE(failure->host.empty());
    EXPECT_EQ(failure->attempt, 1);
  }
  const std::runtime_error plain("x");
  EXPECT_EQ(mobula::failure_of(plain), nullptr);
}

TEST(Errors, DependentsFailWithTheFirstError) {
  Ref<int> ref = remote<thrower>.with({.name = "first"})(2);
  for (int i = 0; i < 5; ++i) ref = remote<pass>(ref);
  try {
    get(ref);
    FAIL();
  } catch (const std::out_of_range& e) {
    EXPECT_STREQ(e.what(), "two");
    ASSERT_NE(mobula::failure_of(e), nullptr);
    EXPECT_EQ(mobula::failure_of(e)->task, "first");
  }
}

TEST(Errors, DependentsOfOneThatFailedBefore) {
  const Ref<int> ref = remote<thrower>(2);
  EXPECT_THROW(get(ref), std::out_of_range);
  EXPECT_THROW(get(remote<pass>(ref)), std::out_of_range);
  EXPECT_THROW(get(remote<plus>(ref, ref)), std::out_of_range);
}

TEST(Errors, PassThroughNestedGet) {
  try {
    get(remote<through>(0));
    FAIL();
  } catch (const std::runtime_error& e) {
    EXPECT_STREQ(e.what(), "zero");
    ASSERT_NE(mobula::failure_of(e), nullptr);
    EXPECT_EQ(mobula::failure_of(e)->task, "thrower") << mobula::failure_of(e)->task;
  }
  EXPECT_THROW(get(remote<through>(5)), mobula::TaskError);
}

TEST(Errors, ThrownAgainEachTime) {
  const Ref<int> ref = remote<thrower>(1);
  for (int i = 0; i < 3; ++i) EXPECT_THROW(get(ref), std::invalid_argument);
}

// As MPI meets it where a rank of another host has died. Programs that tasks start still end by the signal.
int write_to_nobody() {
  std::array<int, 2> ends{};
  if (pipe(ends.data()) != 0) return 0;
  close(ends[0]);
  const int error = write(ends[1], "x", 1) == -1 ? errno : 0;
  close(ends[1]);
  const int status = std::system("kill -PIPE $$");
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGPIPE ? error : 0;
}
TEST(Errors, AClosedConnectionEndsNoRank) {
  if (mobula::cluster().ranks.size() == 1) GTEST_SKIP() << "alone, a program ends with who reads its output";
  EXPECT_EQ(write_to_nobody(), EPIPE);
  EXPECT_EQ(get(remote<write_to_nobody>()), EPIPE);
}

TEST(Timeouts, GetGivesUp) {
  const Ref<int> slow = remote<sleep_and_return>(300, 5);
  EXPECT_THROW(get(slow, 20ms), mobula::TimedOut);
  EXPECT_EQ(get(slow), 5);
  EXPECT_EQ(get(slow, 0ms), 5);
}

TEST(Timeouts, TaskOverItsLimitFails) {
  const auto slow = remote<sleep_and_return>.with({.timeout = 50ms})(400, 1);
  EXPECT_THROW(get(slow), mobula::TimedOut);
  EXPECT_EQ(get(remote<sleep_and_return>.with({.timeout = 10s})(1, 2)), 2);
}

// Nothing is sent to a slot where its function goes on, while there are others.
TEST(Timeouts, ATaskThatGoesOnKeepsItsSlot) {
  if (mobula::cluster().slots < 2) GTEST_SKIP() << "there is one slot";
  constexpr auto goes_on = [](const std::string& while_it_is_there) {
    sleep_ms(100);
    for (int i = 0; i < 6000 && std::filesystem::exists(while_it_is_there); ++i) sleep_ms(10);
  };
  const auto path = std::filesystem::temp_directory_path() / ("mobula-api-test-" + std::to_string(getpid()));
  std::ofstream(path) << "\n";
  const auto slow = remote<goes_on>.with({.retries = 3, .retry_exceptions = true, .timeout = 50ms})(path.string());
  EXPECT_THROW(get(slow), mobula::TimedOut);
  std::vector<Ref<int>> refs;
  for (int i = 0; i < 4 * mobula::cluster().slots; ++i) refs.push_back(remote<twice>(i));
  EXPECT_TRUE(mobula::wait(refs, {.timeout = 30s}).pending.empty()) << "one waits for that slot";
  std::filesystem::remove(path);
}

TEST(Retries, ExceptionsAreRetriedWhenAsked) {
  constexpr auto flaky = [](int succeed_at) {
    const int attempt = mobula::here().attempt;
    if (attempt < succeed_at) throw std::runtime_error("attempt " + std::to_string(attempt));
    return attempt;
  };
  EXPECT_EQ(get(remote<flaky>.with({.retries = 5, .retry_exceptions = true})(4)), 4);
  EXPECT_THROW(get(remote<flaky>.with({.retries = 2, .retry_exceptions = true})(9)), std::runtime_error);
  EXPECT_THROW(get(remote<flaky>.with({.retries = 2})(2)), std::runtime_error);
  try {
    get(remote<flaky>.with({.retries = 2, .retry_exceptions = true})(9));
  } catch (const std::runtime_error& e) {
    EXPECT_STREQ(e.what(), "attempt 3");
    EXPECT_EQ(mobula::failure_of(e)->attempt, 3);
  }
}

TEST(Cancel, QueuedTaskDoesNotRun) {
  const int slots = mobula::cluster().slots;
  std::vector<Ref<int>> busy;
  for (int i = 0; i < 4 * slots; ++i) busy.push_back(remote<sleep_and_return>(100, i));
  const Ref<int> victim = remote<twice>.with({.priority = -5})(1);
  const Ref<int> dependent = remote<pass>(victim);
  EXPECT_TRUE(mobula::cancel(victim));
  EXPECT_THROW(get(victim), mobula::Cancelled);
  EXPECT_THROW(get(dependent), mobula::Cancelled);
  EXPECT_EQ(get(busy).size(), busy.size());
}

TEST(Cancel, FinishedTaskIsNotCancelled) {
  const Ref<int> done = remote<twice>(2);
  EXPECT_EQ(get(done), 4);
  EXPECT_FALSE(mobula::cancel(done));
  EXPECT_EQ(get(done), 4);
}

TEST(Cancel, RunningTaskIsNotCancelled) {
  const Ref<int> running = remote<sleep_and_return>(300, 3);
  std::this_thread::sleep_for(100ms);
  EXPECT_FALSE(mobula::cancel(running));
  EXPECT_EQ(get(running), 3);
}

TEST(Cancel, ElementsOfABatch) {
  const auto batch = remote<sleep_and_return>.map(std::vector<int>(200, 10), numbers(0, 200));
  int cancelled = 0;
  for (std::size_t i = 150; i < 200; ++i) cancelled += mobula::cancel(batch[i]) ? 1 : 0;
  EXPECT_GT(cancelled, 0);
  int thrown = 0;
  for (const auto& ref : batch) {
    try {
      get(ref);
    } catch (const mobula::Cancelled&) {
      ++thrown;
    }
  }
  EXPECT_EQ(thrown, cancelled);
}

TEST(Options, InfeasibleIsThrownAtTheSubmission) {
  EXPECT_THROW(remote<twice>.with({.cpus = 1e6})(1), mobula::Infeasible);
  EXPECT_THROW(remote<twice>.with({.gpus = 100})(1), mobula::Infeasible);
  EXPECT_THROW(remote<twice>.with({.resources = {{"unobtainium", 1}}})(1), mobula::Infeasible);
  EXPECT_EQ(get(remote<twice>.with({.resources = {{"unobtainium", 0}, {"license", 0}}})(1)), 2);
  EXPECT_THROW(remote<twice>.with({.memory = std::size_t{1} << 60})(1), mobula::Infeasible);
  EXPECT_THROW(remote<twice>.with({.placement = mobula::on_rank(9999)})(1), mobula::Infeasible);
  EXPECT_THROW(remote<twice>.with({.placement = mobula::on_node(9999)})(1), mobula::Infeasible);
  try {
    remote<twice>.with({.gpus = 100})(1);
  } catch (const mobula::Infeasible& e) {
    EXPECT_NE(std::string(e.what()).find("100 gpus"), std::string::npos) << e.what();
  }
  constexpr auto nested = [] { return get(remote<twice>.with({.gpus = 100})(1)); };
  EXPECT_THROW(get(remote<nested>()), mobula::Infeasible);
  EXPECT_THROW(remote<twice>.with({.cpus = -1})(1), std::invalid_argument);
}

TEST(Options, AlternativesAreTaken) {
  mobula::TaskOptions options;
  options.gpus = 100;
  options.alternatives = {{.cpus = 1, .resources = {{"license", 1}}}};
  EXPECT_EQ(get(remote<twice>.with(options)(4)), 8);
}

TEST(Options, CustomResourcesLimitWhatRunsAtOnce) {
  const auto n = static_cast<int>(2 * workers());  // licenses in all
  const auto start = std::chrono::steady_clock::now();
  std::vector<Ref<int>> refs;
  for (int i = 0; i < 3 * n; ++i)
    refs.push_back(remote<sleep_and_return>.with({.cpus = 0, .resources = {{"license", 1}}})(30, i));
  get(refs);
  EXPECT_GE(std::chrono::steady_clock::now() - start, 80ms);
}

TEST(Options, FractionsAndNoCpus) {
  std::vector<Ref<int>> refs;
  for (int i = 0; i < 20; ++i) refs.push_back(remote<twice>.with({.cpus = 0.25})(i));
  for (int i = 0; i < 20; ++i) refs.push_back(remote<twice>.with({.cpus = 0})(i));
  long sum = 0;
  for (const int v : get(refs)) sum += v;
  EXPECT_EQ(sum, 2 * 2 * 190);
}

TEST(Options, PlacementOnEveryRank) {
  for (const auto& rank : mobula::cluster().ranks) {
    if (rank.slots == 0) continue;
    EXPECT_EQ(get(remote<where>.with({.placement = mobula::on_rank(rank.rank)})()), rank.rank);
    constexpr auto node = [] { return mobula::here().node; };
    EXPECT_EQ(get(remote<node>.with({.placement = mobula::on_node(rank.node)})()), rank.node);
  }
  EXPECT_EQ(get(remote<twice>.with({.placement = mobula::spread})(1)), 2);
  EXPECT_EQ(get(remote<twice>.with({.placement = mobula::pack})(1)), 2);
}

TEST(Options, NearAnObject) {
  constexpr auto big = [] { return std::pair(mobula::here().rank, std::vector<int>(100'000, 1)); };
  const auto object = remote<big>();
  const auto rank = get(object).first;
  EXPECT_EQ(get(remote<where>.with({.placement = mobula::near(object)})()), rank);
}

TEST(Options, PriorityGoesFirst) {
  const int slots = mobula::cluster().slots;
  std::vector<Ref<int>> refs;
  for (int i = 0; i < 6 * slots; ++i) refs.push_back(remote<sleep_and_return>(40, 0));
  refs.push_back(remote<sleep_and_return>.with({.priority = 10})(1, 1));
  std::size_t position = 0;
  for (const auto& ref : mobula::as_completed(refs)) {
    if (get(ref) == 1) break;
    ++position;
  }
  EXPECT_LT(position, static_cast<std::size_t>(5 * slots));
}

TEST(Explain, SaysWhatATaskWaitsFor) {
  const int slots = mobula::cluster().slots;
  std::vector<Ref<int>> busy;
  for (int i = 0; i < 5 * slots; ++i) busy.push_back(remote<sleep_and_return>(60, i));
  const auto waiting = remote<pass>(busy.back());
  EXPECT_FALSE(mobula::explain(waiting).empty());
  get(busy);
  EXPECT_EQ(get(waiting), 5 * slots - 1);
  EXPECT_NE(mobula::explain(waiting).find("has run"), std::string::npos) << mobula::explain(waiting);
}
