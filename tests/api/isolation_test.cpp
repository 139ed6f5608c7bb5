// Tasks in processes of their own, and programs.
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <set>
#include <span>
#include <stdexcept>
#include <thread>

#include "support.hpp"

namespace {

using namespace std::chrono_literals;
using mobula::command;
using mobula::container;
using mobula::get;
using mobula::Ref;
using mobula::remote;
using mobula::sandbox;
using mobula::TaskCrashed;
using mobula::TaskOptions;

int twice(int x) { return 2 * x; }
std::vector<long> sevens(long n) { return std::vector<long>(static_cast<std::size_t>(n), 7); }
long sum(const std::vector<long>& values) {
  long s = 0;
  for (const long v : values) s += v;
  return s;
}
// Hosts may number their processes alike.
void end_process(int id) {
  kill(id, SIGKILL);
  while (kill(id, 0) == 0) std::this_thread::sleep_for(1ms);
}

std::string process() { return std::to_string(mobula::here().rank) + ":" + std::to_string(getpid()); }
std::string where() {
  const mobula::Context context = mobula::here();
  return context.task + " " + std::to_string(context.attempt) + " " + std::filesystem::current_path().string() + " " +
         (std::getenv("MOBULA_TEST_WORD") != nullptr ? std::getenv("MOBULA_TEST_WORD") : "");
}
int nested() { return get(remote<twice>(3)); }
int throws(int) { throw std::out_of_range("mine"); }

enum class How { segfault, abort, exit, memory, loop, forks, kill };
int crash(How how) {
  std::printf("on the way down\n");
  switch (how) {
    case How::segfault: return raise(SIGSEGV);
    case How::abort: std::abort();
    case How::exit: std::exit(3);
    case How::memory: {
      std::vector<std::vector<char>> all;
      while (true) all.emplace_back(64 << 20, 'x');
    }
    case How::loop:
      while (getpid() != 0) std::this_thread::yield();
      return 0;
    case How::forks:
      for (int i = 0; i < 20; ++i) {
        if (fork() == 0) {
          while (true) pause();
        }
      }
      std::abort();
    case How::kill: return kill(getpid(), SIGKILL);
  }
  return 0;
}

bool has_sandboxes() {
  static const bool has = [] {
    try {
      return get(remote<twice>.with({.isolation = sandbox{}})(1)) == 2;
    } catch (const mobula::Error& e) {
      return std::string(e.what()).find("has no sandboxes") == std::string::npos;
    }
  }();
  return has;
}
#define NEEDS_SANDBOXES() \
  if (!has_sandboxes()) GTEST_SKIP() << "SKIPPED: threads run before mobula::run, so no process can be forked for it"

TEST(Sandbox, RunsTasks) {
  NEEDS_SANDBOXES();
  const TaskOptions boxed{.isolation = sandbox{}};
  EXPECT_EQ(get(remote<twice>.with(boxed)(21)), 42);
  EXPECT_NE(get(remote<process>.with(boxed)()), get(remote<process>()));
  EXPECT_EQ(get(remote<sum>.with(boxed)(remote<sevens>.with(boxed)(300'000))), 2'100'000);
  std::vector<int> xs(200);
  for (int i = 0; i < 200; ++i) xs[static_cast<std::size_t>(i)] = i;
  const auto doubled = get(remote<twice>.with(boxed).map(xs));
  for (int i = 0; i < 200; ++i) EXPECT_EQ(doubled[static_cast<std::size_t>(i)], 2 * i);
}

TEST(Sandbox, ReusesProcessesOrNot) {
  NEEDS_SANDBOXES();
  const auto distinct = [](bool reuse) {
    std::vector<Ref<std::string>> refs;
    for (int i = 0; i < 30; ++i) refs.push_back(remote<process>.with({.isolation = sandbox{.reuse = reuse}})());
    const std::vector<std::string> all = get(refs);
    return std::set<std::string>(all.begin(), all.end()).size();
  };
  EXPECT_EQ(distinct(false), 30U);
  std::size_t slots = 0;
  for (const auto& rank : mobula::cluster().ranks) slots += static_cast<std::size_t>(rank.slots);
  EXPECT_LE(distinct(true), slots);
}

// As the system does where memory is short.
TEST(Sandbox, AProcessKilledWhileItWaitsIsReplaced) {
  NEEDS_SANDBOXES();
  const std::string somewhere = get(remote<process>());
  const TaskOptions there{.placement = mobula::on_rank(static_cast<std::uint32_t>(std::stoi(somewhere)))};
  TaskOptions boxed = there;
  boxed.isolation = sandbox{.env = {{"MOBULA_TEST_WORD", "a"}}};
  for (int round = 0; round < 5; ++round) {
    const std::string before = get(remote<process>.with(boxed)());
    get(remote<end_process>.with(there)(std::stoi(before.substr(before.find(':') + 1))));
    std::vector<int> xs(20, 4);
    for (const int x : get(remote<twice>.with(boxed).map(xs))) EXPECT_EQ(x, 8);
  }
}

TEST(Sandbox, HasAFolderAnEnvironmentAndAContext) {
  NEEDS_SANDBOXES();
  const sandbox box{.cwd = "/usr", .env = {{"MOBULA_TEST_WORD", "hello"}}};
  EXPECT_EQ(get(remote<where>.with({.isolation = box})()), "where 1 /usr hello");
}

TEST(Sandbox, CrashesAreErrorsOfTheTask) {
  NEEDS_SANDBOXES();
  for (const How how : {How::segfault, How::abort, How::exit, How::memory, How::loop, How::forks, How::kill}) {
    sandbox box{.memory = 512 << 20};
    if (how == How::loop) box.time = 500ms;
    const auto crashed = remote<crash>.with({.retries = 0, .isolation = box})(how);
    try {
      get(crashed);
      ADD_FAILURE() << "nothing was thrown by " << static_cast<int>(how);
    } catch (const TaskCrashed& e) {
      const std::string text = e.what();
      if (how == How::exit) {
        EXPECT_NE(text.find("code 3"), std::string::npos) << text;
      }
      if (how == How::kill) {
        EXPECT_NE(text.find("SIGKILL"), std::string::npos) << text;
      }
      if (how == How::loop) {
        EXPECT_NE(text.find("limit of 0.5"), std::string::npos) << text;
      }
      if (how == How::kill || how == How::loop) {
        EXPECT_NE(text.find("on the way down"), std::string::npos) << text;
      }
      ASSERT_NE(mobula::failure_of(e), nullptr);
      EXPECT_EQ(mobula::failure_of(e)->task, "crash");
    }
    box.time = mobula::none;  // on a busy machine a new process may take long
    EXPECT_EQ(get(remote<twice>.with({.isolation = box})(4)), 8);
  }
}

TEST(Sandbox, ExceptionsTravel) {
  NEEDS_SANDBOXES();
  EXPECT_THROW(get(remote<throws>.with({.isolation = sandbox{}})(1)), std::out_of_range);
  try {
    get(remote<nested>.with({.isolation = sandbox{}})());
    FAIL();
  } catch (const mobula::Error& e) {
    EXPECT_NE(std::string(e.what()).find("give it values"), std::string::npos);
  }
}

TEST(Sandbox, IsStopped) {
  NEEDS_SANDBOXES();
  EXPECT_THROW(get(remote<crash>.with({.timeout = 100ms, .isolation = sandbox{}})(How::loop)), mobula::TimedOut);
  const auto endless = remote<crash>.with({.isolation = sandbox{}})(How::loop);
  std::this_thread::sleep_for(100ms);
  EXPECT_TRUE(mobula::cancel(endless));
  EXPECT_THROW(get(endless), mobula::Cancelled);
  EXPECT_EQ(get(remote<twice>.with({.isolation = sandbox{}})(2)), 4);
}

long sum_in_place(std::span<const long> values) {
  long s = 0;
  for (const long v : values) s += v;
  return s;
}

// There is no room for a copy.
TEST(Sandbox, SeesLargeValuesWhereTheyLie) {
  NEEDS_SANDBOXES();
#ifdef MOBULA_SANITIZE
  if (std::string_view(MOBULA_SANITIZE) == "thread")
    GTEST_SKIP() << "SKIPPED: ThreadSanitizer itself needs more memory than the sandbox has here";
#endif
  constexpr long kMany = 1'000'000;
  const auto large = remote<sevens>(kMany);
  const auto put = mobula::put(sevens(kMany));
  const sandbox narrow{.memory = 4 << 20};
  for (const auto& ref : {large, put}) {
    EXPECT_EQ(get(remote<sum_in_place>.with({.isolation = narrow})(ref)), 7 * kMany);
    EXPECT_THROW(get(remote<sum>.with({.isolation = narrow})(ref)), TaskCrashed);  // a copy of its own
  }
}

class Notes {
 public:
  explicit Notes(int first) : notes_{first} {}
  int add(int note) {
    notes_.push_back(note);
    return static_cast<int>(notes_.size());
  }
  long sum() const { return std::accumulate(notes_.begin(), notes_.end(), 0L); }
  long add_all(std::span<const long> values) { return sum_in_place(values) + sum(); }
  int fall(How how) { return crash(how); }
  int fall_once(const std::string& mark) {
    if (std::filesystem::create_directory(mark)) std::abort();
    return static_cast<int>(notes_.size());
  }
  int refuse() { throw std::out_of_range("not this"); }
  int wait_for(Ref<int> other) { return get(other); }
  std::string process() const { return ::process(); }
  template <class Archive>
  void serialize(Archive& archive, unsigned) {
    archive& notes_;
  }

 private:
  std::vector<int> notes_;
};
struct Refuses {
  explicit Refuses(int) { throw std::runtime_error("not made"); }
  int value() { return 1; }
};
struct Falls {
  explicit Falls(int) { std::abort(); }
  int value() { return 1; }
};

TEST(IsolatedActor, LivesInAProcessOfItsOwn) {
  NEEDS_SANDBOXES();
  const auto notes = mobula::actor<Notes>.with({.isolation = sandbox{}})(1);
  const std::string process = get(remote<&Notes::process>(notes));
  EXPECT_NE(process, get(remote<::process>()));
  std::vector<Ref<int>> sizes;
  for (int i = 0; i < 100; ++i) sizes.push_back(remote<&Notes::add>(notes, i));
  for (int i = 0; i < 100; ++i) EXPECT_EQ(get(sizes[static_cast<std::size_t>(i)]), i + 2);
  EXPECT_EQ(get(remote<&Notes::sum>(notes)), 4951);
  EXPECT_EQ(get(remote<&Notes::add_all>(notes, remote<sevens>(200'000))), 1'400'000 + 4951);
  EXPECT_THROW(get(remote<&Notes::refuse>(notes)), std::out_of_range);
  EXPECT_THROW(get(remote<&Notes::wait_for>(notes, remote<twice>(1))), mobula::Error);
  EXPECT_EQ(get(remote<&Notes::process>(notes)), process);
}

TEST(IsolatedActor, EndsWithItsProcess) {
  NEEDS_SANDBOXES();
  for (const How how : {How::segfault, How::exit, How::kill}) {
    const auto notes = mobula::actor<Notes>.with({.isolation = sandbox{}})(1);
    EXPECT_EQ(get(remote<&Notes::add>(notes, 1)), 2);
    const auto crashed = remote<&Notes::fall>(notes, how);
    const auto later = remote<&Notes::add>(notes, 1);
    EXPECT_THROW(get(crashed), TaskCrashed);
    EXPECT_THROW(get(later), mobula::ActorDied);
    EXPECT_EQ(get(remote<twice>(2)), 4);
  }
  EXPECT_THROW(get(remote<&Refuses::value>(mobula::actor<Refuses>.with({.isolation = sandbox{}})(1))),
               mobula::ActorDied);
  EXPECT_THROW(get(remote<&Falls::value>(mobula::actor<Falls>.with({.isolation = sandbox{}})(1))), mobula::ActorDied);
}

TEST(IsolatedActor, IsMadeAgain) {
  NEEDS_SANDBOXES();
  const auto anew = mobula::actor<Notes>.with({.restarts = 2, .isolation = sandbox{}})(1);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(get(remote<&Notes::add>(anew, 5)), 2);
    EXPECT_THROW(get(remote<&Notes::fall>(anew, How::kill)), TaskCrashed);
  }
  EXPECT_EQ(get(remote<&Notes::sum>(anew)), 1);
  EXPECT_THROW(get(remote<&Notes::fall>(anew, How::kill)), TaskCrashed);
  EXPECT_THROW(get(remote<&Notes::sum>(anew)), mobula::ActorDied);

  const auto saved = mobula::actor<Notes>.with({.restarts = 1, .isolation = sandbox{}, .checkpoint_every = 5})(1);
  for (int i = 0; i < 7; ++i) get(remote<&Notes::add>(saved, 1));
  EXPECT_THROW(get(remote<&Notes::fall>(saved, How::abort)), TaskCrashed);
  EXPECT_EQ(get(remote<&Notes::sum>(saved)), 6);  // the first one, and the five before it was saved

  const auto retried = mobula::actor<Notes>.with({.restarts = 1, .call_retries = 1, .isolation = sandbox{}})(1);
  const auto mark = std::filesystem::temp_directory_path() /
                    ("mobula-test-" + get(remote<&Notes::process>(retried)) + "-" + std::to_string(getpid()));
  EXPECT_EQ(get(remote<&Notes::fall_once>(retried, mark.string())), 1);
  std::filesystem::remove(mark);
}

TEST(IsolatedActor, IsKilled) {
  NEEDS_SANDBOXES();
  const auto notes = mobula::actor<Notes>.with({.isolation = sandbox{}})(1);
  const auto endless = remote<&Notes::fall>(notes, How::loop);
  std::this_thread::sleep_for(50ms);
  mobula::kill(notes);
  EXPECT_THROW(get(endless), mobula::ActorDied);
  EXPECT_THROW(get(remote<&Notes::sum>(notes)), mobula::ActorDied);
  const auto limited = mobula::actor<Notes>.with({.isolation = sandbox{.memory = 256 << 20, .time = 1500ms}})(1);
  EXPECT_THROW(get(remote<&Notes::fall>(limited, How::loop)), TaskCrashed);
  const auto narrow = mobula::actor<Notes>.with({.isolation = sandbox{.memory = 256 << 20}})(1);
  EXPECT_THROW(get(remote<&Notes::fall>(narrow, How::memory)), TaskCrashed);
}

TEST(Isolation, OfWhat) {
  EXPECT_THROW(remote<twice>.with({.isolation = container{}})(1), std::invalid_argument);
  EXPECT_THROW(remote<twice>.with({.isolation = container{.image = "x", .runtime = "no-such-runtime"}})(1),
               std::invalid_argument);
  EXPECT_THROW(command({"true"}, {.isolation = sandbox{}}), std::invalid_argument);
  EXPECT_THROW(mobula::actor<Notes>.with({.concurrency = 2, .isolation = sandbox{}})(1), std::invalid_argument);
}

std::string word(int n) { return "word" + std::to_string(n); }

TEST(Command, TakesWordsNumbersAndRefs) {
  EXPECT_EQ(get(command({"echo", "hello", 42, 2.5, remote<word>(3), 'c'})).out, "hello 42 2.5 word3 c\n");
  EXPECT_EQ(get(command({"echo", command({"echo", "inner"}), "outer"})).out, "inner outer\n");
  EXPECT_EQ(get(command(std::vector<std::string>{"echo", "a  b"})).out, "a  b\n");
  const auto many = [] {
    std::vector<mobula::CommandText> words{"echo"};
    for (int i = 0; i < 61; ++i) words.emplace_back(remote<word>(i));
    return command(words);
  };
  EXPECT_THROW(many(), std::invalid_argument);
  EXPECT_THROW(command({}), std::invalid_argument);
}

TEST(Command, ReadsItsInput) {
  EXPECT_EQ(get(command({"cat"}, {.stdin_bytes = "some text"})).out, "some text");
  EXPECT_EQ(get(command({"cat"}, {.stdin_bytes = remote<word>(7)})).out, "word7");
  EXPECT_EQ(get(command({"cat"})).out, "");
  EXPECT_EQ(get(command({"wc", "-c"}, {.stdin_bytes = std::string(3'000'000, 'x')})).out, "3000000\n");
  EXPECT_EQ(get(command({"true"}, {.stdin_bytes = std::string(3'000'000, 'x')})).exit_code, 0);  // unread
}

TEST(Command, TellsHowItEnded) {
  const auto three = get(command({"sh", "-c", "echo out; echo err >&2; exit 3"}));
  EXPECT_EQ(three.exit_code, 3);
  EXPECT_EQ(three.signal, 0);
  EXPECT_EQ(three.out, "out\n");
  EXPECT_EQ(three.err, "err\n");
  EXPECT_GT(three.wall, 0);
  EXPECT_GT(three.max_rss, 0U);
  const auto killed = get(command({"sh", "-c", "kill -9 $$"}));
  EXPECT_EQ(killed.signal, 9);
  EXPECT_EQ(killed.exit_code, 137);
  try {
    get(command({"sh", "-c", "echo it went wrong >&2; exit 4"}, {.check = true}));
    FAIL();
  } catch (const mobula::CommandFailed& e) {
    EXPECT_NE(std::string(e.what()).find("code 4"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("it went wrong"), std::string::npos) << e.what();
  }
  EXPECT_THROW(get(command({"there-is-no-such-program"})), mobula::CommandFailed);
  EXPECT_THROW(get(command({"true"}, {.cwd = "/there/is/no/such/folder"})), mobula::CommandFailed);
}

TEST(Command, HasAFolderAndAnEnvironment) {
  EXPECT_EQ(get(command({"pwd"}, {.cwd = "/usr"})).out, "/usr\n");
  EXPECT_EQ(get(command({"sh", "-c", "echo $MOBULA_TEST_WORD"}, {.env = {{"MOBULA_TEST_WORD", "bird"}}})).out,
            "bird\n");
  // Nothing there would make another MPI program take itself for one of our ranks.
  EXPECT_EQ(get(command({"sh", "-c", "env | grep -cE '^(OMPI_COMM_WORLD|PMIX_|OMPI_MCA_orte|SLURM_PROCID)'"})).out,
            "0\n");
}

TEST(Command, KeepsMuchOutputInAFile) {
  const auto folder = std::filesystem::temp_directory_path() / ("mobula-test-" + std::to_string(getpid()));
  std::filesystem::create_directory(folder);
  const auto much = get(command({"seq", 1, 100'000}, {.cwd = folder.string(), .capture_limit = 1000}));
  EXPECT_EQ(much.out.size(), 1000U);
  EXPECT_EQ(std::filesystem::path(much.out_file).parent_path(), folder);
  EXPECT_EQ(std::filesystem::file_size(much.out_file), 588'895U);
  EXPECT_EQ(much.err_file, "");
  std::filesystem::remove_all(folder);
}

TEST(Command, IsStopped) {
  EXPECT_THROW(get(command({"sleep", 100}, {.timeout = 100ms})), mobula::TimedOut);
  const auto start = std::chrono::steady_clock::now();
  const auto sleeps = command({"sleep", 100});
  std::this_thread::sleep_for(100ms);
  EXPECT_TRUE(mobula::cancel(sleeps));
  EXPECT_THROW(get(sleeps), mobula::Cancelled);
  // What is left of its group goes with it.
  EXPECT_EQ(get(command({"sh", "-c", "sleep 100 & echo started"})).out, "started\n");
  EXPECT_LT(std::chrono::steady_clock::now() - start, 30s);
}

// Processes of this host that sleep just so long.
long naps(const std::string& nap) {
  const std::string line = std::string("sleep") + '\0' + nap + '\0';
  long n = 0;
  for (const auto& process : std::filesystem::directory_iterator("/proc")) {
    std::ifstream file(process.path() / "cmdline");
    const std::string words((std::istreambuf_iterator<char>(file)), {});
    n += words == line ? 1 : 0;
  }
  return n;
}

// At any moment around its beginning: a thread may have taken it, and not have come to it.
TEST(Command, IsStoppedAsItBegins) {
  const std::string nap = "300." + std::to_string(getpid());
  const auto end = std::chrono::steady_clock::now() + 2s;
  for (int i = 0; i < 300 && std::chrono::steady_clock::now() < end; ++i) {
    ASSERT_NO_THROW(get(remote<support::nothing>(), 60s)) << "no slot is free";
    std::this_thread::sleep_for(1ms);  // whoever runs the next one sleeps by then
    const auto sleeps = command({"sleep", nap});
    const auto now = std::chrono::steady_clock::now() + std::chrono::microseconds(37 * i % 250);
    while (std::chrono::steady_clock::now() < now) {
    }
    ASSERT_TRUE(mobula::cancel(sleeps));
    EXPECT_THROW(get(sleeps), mobula::Cancelled);
  }
  // Tasks that need all slots of a rank at once; the second time, what other ranks were still ending has ended, too.
  std::vector<Ref<long>> left;
  for (int times = 0; times < 2; ++times) {
    left.clear();
    for (const auto& rank : mobula::cluster().ranks) {
      if (rank.slots == 0 || !rank.alive) continue;
      const TaskOptions whole{.cpus = static_cast<double>(rank.slots), .placement = mobula::on_rank(rank.rank)};
      left.push_back(remote<naps>.with(whole)(nap));
    }
    for (const auto& one : left) ASSERT_NO_THROW(get(one, 60s)) << "a slot is not free";
  }
  for (const auto& one : left) EXPECT_EQ(get(one), 0);
}

TEST(Command, HasAsMuchMemoryAsItAskedFor) {
  const std::vector<mobula::CommandText> eats{"sh", "-c", "x=$(head -c 300000000 /dev/zero | tr '\\0' x); echo done"};
  EXPECT_EQ(get(command(eats)).out, "done\n");
  const auto narrow = get(command(eats, {.memory = 50 << 20}));
  EXPECT_NE(narrow.exit_code, 0);
  EXPECT_EQ(narrow.out, "");
}

TEST(Command, ContainersThatAreNotThere) {
  EXPECT_THROW(command({"true"}, {.isolation = container{.image = "x", .runtime = "no-such-runtime"}}),
               std::invalid_argument);
  EXPECT_THROW(command({"true"}, {.isolation = container{}}), std::invalid_argument);
  for (const std::string runtime : {"apptainer", "charliecloud", "podman", "docker"}) {
    try {
      get(command({"true"}, {.isolation = container{.image = "/no/such.tar", .runtime = runtime}}));
      ADD_FAILURE() << runtime;
    } catch (const mobula::CommandFailed& e) {  // there is the runtime
      EXPECT_NE(std::string(e.what()).find("/no/such.tar is not on"), std::string::npos) << e.what();
    } catch (const mobula::Infeasible& e) {
      EXPECT_NE(std::string(e.what()).find("runtime for containers: " + runtime), std::string::npos) << e.what();
    }
  }
}

}  // namespace
