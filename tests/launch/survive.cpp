// What a job makes of ranks that are killed or stopped.
//   survive kill N     N workers are killed, one after the other, while tasks, actors and gangs run
//   survive stop       one is stopped for longer than the bound, and goes on later
//   survive pause      one is stopped for less
//   survive poison     a task kills every rank that runs it
//   survive again      large values that were lost with their rank are made again
//   survive state      an actor goes on from its last checkpoint
//   survive leave N    N workers are told to end, one after the other: nothing is lost, and nothing runs twice
//   survive children   what a killed rank has started goes with it
//   survive cut        a host is cut off by whoever started this
//   survive still      a rank is stuck inside MPI for good; still-head: the head is
//   survive busy       a step of a rank takes longer than the bound, then one of the head
//   survive head       the head is killed
#include <mpi.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <boost/mpi.hpp>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <mobula/mobula.hpp>
#include <random>
#include <string>
#include <thread>

namespace {
std::atomic<bool> g_stuck{false};
std::atomic<int> g_busy_ms{0};
}  // namespace

// As the runtime calls MPI in this program, by its profiling interface. One call may not return; and what the runtime
// does between two calls may take long.
int MPI_Test(MPI_Request* request, int* done, MPI_Status* status) {
  while (g_stuck.load()) pause();
  return PMPI_Test(request, done, status);
}
int MPI_Get_count(const MPI_Status* status, MPI_Datatype type, int* count) {
  std::this_thread::sleep_for(std::chrono::milliseconds(g_busy_ms.exchange(0)));
  return PMPI_Get_count(status, type, count);
}

namespace {

using namespace std::chrono_literals;
using mobula::get;
using mobula::remote;

void die_later(int ms) {
  std::thread([ms] {
    std::this_thread::sleep_for(std::chrono::milliseconds(ms));
    kill(getpid(), SIGKILL);
  }).detach();
}

int pid_of_this() { return static_cast<int>(getpid()); }

long work(long x, int ms) {
  std::this_thread::sleep_for(std::chrono::milliseconds(ms));
  return x * x;
}

long nested(int depth) {
  if (depth == 0) return 1;
  const auto a = remote<nested>(depth - 1);
  const auto b = remote<nested>(depth - 1);
  return get(a) + get(b);
}

std::vector<long> large(long x) { return std::vector<long>(100'000, x); }
long sum_of(const std::vector<long>& values) {
  long sum = 0;
  for (const long v : values) sum += v;
  return sum;
}

double root(long x) { return std::sqrt(static_cast<double>(x)); }
// Of these the brackets would show.
double lopsided(double a, double b) { return 0.75 * a - b; }
double by_neighbours(std::vector<double> values) {
  while (values.size() > 1) {
    std::vector<double> above;
    for (std::size_t i = 0; i + 1 < values.size(); i += 2) above.push_back(lopsided(values[i], values[i + 1]));
    if (values.size() % 2 != 0) above.push_back(values.back());
    values = std::move(above);
  }
  return values.front();
}
std::vector<long> add_all(std::vector<long> a, const std::vector<long>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

int member(const boost::mpi::communicator& ranks, int x) { return boost::mpi::all_reduce(ranks, x, std::plus<>()); }

struct Counter {
  long total = 0;
  long add(long n) { return total += n; }
};

int g_wrong = 0;
void expect(bool good, const std::string& what) {
  if (good) return;
  ++g_wrong;
  std::fprintf(stderr, "survive: %s\n", what.c_str());
}

std::map<std::uint32_t, int> pids_of_workers() {
  std::map<std::uint32_t, int> pids;
  for (const auto& rank : mobula::cluster().ranks) {
    if (rank.slots != 0 && rank.alive)
      pids[rank.rank] = get(remote<pid_of_this>.with({.placement = mobula::on_rank(rank.rank)})());
  }
  return pids;
}

std::size_t alive() {
  std::size_t n = 0;
  for (const auto& rank : mobula::cluster().ranks) n += rank.slots != 0 && rank.alive ? 1 : 0;
  return n;
}

void load(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const mobula::TaskOptions again{.retries = 100};
  std::vector<long> xs(300);
  for (std::size_t i = 0; i < xs.size(); ++i) xs[i] = static_cast<long>(i);
  const auto batch = remote<work>.with(again).map(xs, mobula::same(3));
  const auto tree = remote<nested>.with(again)(7);
  std::vector<long> many(30'000);
  std::vector<double> roots;
  for (std::size_t i = 0; i < many.size(); ++i) roots.push_back(root(many[i] = static_cast<long>(i)));
  const auto reduced = mobula::reduce<lopsided>(remote<root>.with(again).map(many), again);
  const auto added = mobula::reduce<add_all>(remote<large>.with(again).map(std::vector<long>(11, 2)), again);
  std::vector<mobula::Ref<long>> sums;
  for (int i = 0; i < 20; ++i) sums.push_back(remote<sum_of>.with(again)(remote<large>.with(again)(i)));
  const auto counter = mobula::actor<Counter>.with({.restarts = 100, .call_retries = 100})();
  for (int i = 0; i < 50; ++i) remote<&Counter::add>(counter, 1);
  mobula::GangOptions of_gang;
  of_gang.retries = 100;
  const auto gang = mobula::gang<member>.with(of_gang)(2, 21);
  for (std::size_t i = 0; i < xs.size(); ++i) {
    const long got = get(batch[i]);
    expect(got == xs[i] * xs[i], "task " + std::to_string(i) + " gave " + std::to_string(got));
  }
  expect(get(tree) == 128, "nested tasks count wrong");
  expect(get(reduced) == by_neighbours(roots), "a reduce has other bits");
  expect(get(added) == large(22), "a reduce of large values is wrong");
  for (std::size_t i = 0; i < sums.size(); ++i) {
    expect(get(sums[i]) == static_cast<long>(i) * 100'000, "a large value was wrong");
  }
  expect(get(remote<&Counter::add>(counter, 0)) >= 0, "the actor counts wrong");
  expect(get(gang[0]) == 42 && get(gang[1]) == 42, "a gang gave a wrong result");
}

int kill_some(int n) {
  const auto pids = pids_of_workers();
  auto victim = pids.begin();
  std::mt19937_64 random(static_cast<std::uint64_t>(getpid()));
  for (int i = 0; i < n; ++i, ++victim) {
    // By itself: its host may have processes of its own.
    get(remote<die_later>.with({.placement = mobula::on_rank(victim->first)})(static_cast<int>(100 + random() % 400)));
    load(static_cast<std::uint64_t>(i));
  }
  load(99);
  for (int i = 0; i < 300 && alive() != pids.size() - static_cast<std::size_t>(n); ++i)
    std::this_thread::sleep_for(10ms);
  expect(alive() == pids.size() - static_cast<std::size_t>(n), "not as many ranks are left as should be");
  try {
    get(remote<pid_of_this>.with({.placement = mobula::on_rank(pids.begin()->first)})());
    expect(false, "a task ran on a rank that is gone");
  } catch (const mobula::Infeasible&) {
  }
  std::printf("%d ranks killed, %zu left\n", n, alive());
  return g_wrong == 0 ? 7 : 1;
}

void end_this() { kill(getpid(), SIGUSR1); }

mobula::Ref<std::vector<long>> put_large(long x) { return mobula::put(large(x)); }
mobula::Ref<long> put_small(long x) { return mobula::put(x); }

class Saved {
 public:
  long add(long n) { return total_ += n; }
  template <class Archive>
  void serialize(Archive& archive, unsigned) {
    archive& total_;
  }

 private:
  long total_ = 0;
};

// None of this may be run again, or be lost: no retries, no call_retries, values that no task can make again.
int leave(int n) {
  const auto pids = pids_of_workers();
  const auto go = [](std::uint32_t rank) {
    return mobula::TaskOptions{.retries = 0, .placement = mobula::on_rank(rank)};
  };
  std::vector<mobula::Ref<std::vector<long>>> larges;
  std::vector<mobula::Ref<long>> smalls;
  for (const auto& [rank, pid] : pids) {
    for (int i = 0; i < 5; ++i) {
      larges.push_back(get(remote<put_large>.with(go(rank))(static_cast<long>(larges.size()))));
      smalls.push_back(get(remote<put_small>.with(go(rank))(static_cast<long>(smalls.size()))));
    }
  }
  std::vector<mobula::Actor<Saved>> actors;
  std::vector<long> totals(pids.size());
  for (std::size_t i = 0; i < pids.size(); ++i) {
    mobula::ActorOptions moves{.placement = mobula::spread, .checkpoint_every = 1'000'000};
    if (i == 0) {
      moves.restarts = 1;
    } else {
      moves.name = "saved " + std::to_string(i);
      moves.durable = true;
    }
    actors.push_back(mobula::actor<Saved>.with(moves)());
  }
  const mobula::TaskOptions once{.retries = 0};
  std::vector<long> xs(200);
  for (std::size_t i = 0; i < xs.size(); ++i) xs[i] = static_cast<long>(i);
  auto victim = pids.begin();
  for (int round = 0; round < n; ++round, ++victim) {
    const auto batch = remote<work>.with(once).map(xs, mobula::same(3));
    const auto tree = remote<nested>.with(once)(7);
    get(remote<end_this>.with(go(victim->first))());
    std::vector<std::vector<mobula::Ref<long>>> calls(actors.size());
    const auto until = std::chrono::steady_clock::now() + 1500ms;
    for (int i = 0; std::chrono::steady_clock::now() < until; ++i) {
      const std::size_t a = static_cast<std::size_t>(i) % actors.size();
      calls[a].push_back(remote<&Saved::add>(actors[a], 1));
      if (i % 20 == 0) std::this_thread::sleep_for(1ms);
    }
    for (std::size_t a = 0; a < actors.size(); ++a) {
      for (const auto& call : calls[a]) {
        const long total = get(call);
        expect(total == ++totals[a], "call " + std::to_string(totals[a]) + " counted to " + std::to_string(total));
      }
    }
    for (std::size_t i = 0; i < xs.size(); ++i) expect(get(batch[i]) == xs[i] * xs[i], "a task was wrong");
    expect(get(tree) == 128, "nested tasks count wrong");
    for (int i = 0; i < 500 && alive() != pids.size() - static_cast<std::size_t>(round + 1); ++i)
      std::this_thread::sleep_for(10ms);
    expect(alive() == pids.size() - static_cast<std::size_t>(round + 1), "a rank does not leave");
    for (std::size_t i = 0; i < larges.size(); ++i) {
      expect(get(larges[i]) == large(static_cast<long>(i)), "a large value that was put is wrong");
      expect(get(smalls[i]) == static_cast<long>(i), "a small value that was put is wrong");
    }
  }
  long calls = 0;
  for (const long total : totals) calls += total;
  std::printf("%d ranks have left, %zu stay, %ld calls, each once\n", n, alive(), calls);
  return g_wrong == 0 ? 7 : 1;
}

int stop_one(std::chrono::milliseconds how_long, bool is_lost) {
  const auto pids = pids_of_workers();
  const auto [rank, pid] = *pids.begin();
  kill(pid, SIGSTOP);
  // One of its members does not come to the others; they don't stand in the way of the gang that takes its place.
  mobula::GangOptions packed;
  packed.retries = 100;
  packed.placement = mobula::pack;
  const auto gang = mobula::gang<member>.with(packed)(2, 21);
  const auto until = std::chrono::steady_clock::now() + how_long;
  if (is_lost) load(1);  // otherwise it would wait for what is on the rank
  std::this_thread::sleep_until(until);
  const bool counts = mobula::cluster().ranks[rank].alive;
  kill(pid, SIGCONT);
  expect(counts != is_lost,
         is_lost ? "a rank that gives no sign of life counts as alive" : "a short stop counts as a loss");
  expect(get(gang[0]) == 42 && get(gang[1]) == 42, "a gang gave a wrong result");
  load(2);
  for (int i = 0; is_lost && i < 500 && kill(pid, 0) == 0; ++i) std::this_thread::sleep_for(10ms);
  expect((kill(pid, 0) == 0) != is_lost, is_lost ? "a rank that was declared lost goes on" : "the rank is gone");
  return g_wrong == 0 ? 7 : 1;
}

int kill_this_rank() { return kill(getpid(), SIGKILL); }

int poison() {
  const std::size_t before = alive();
  const auto bad = remote<kill_this_rank>.with({.retries = 100})();
  std::vector<mobula::Ref<long>> good;
  for (long i = 0; i < 200; ++i) good.push_back(remote<work>(i, 5));
  try {
    get(bad);
    expect(false, "a task that kills its rank has a result");
  } catch (const mobula::WorkerLost& e) {
    expect(std::string(e.what()).find("taken for the cause") != std::string::npos, e.what());
    expect(std::string(e.what()).find("signal 9") != std::string::npos, e.what());
  }
  for (long i = 0; i < 200; ++i) expect(get(good[static_cast<std::size_t>(i)]) == i * i, "a task beside it is wrong");
  expect(alive() == before - 3, std::to_string(before - alive()) + " ranks were lost to one task");
  return g_wrong == 0 ? 7 : 1;
}

void kill_rank(std::uint32_t rank) {
  try {
    get(remote<kill_this_rank>.with({.retries = 0, .placement = mobula::on_rank(rank)})());
    expect(false, "a rank kills itself and goes on");
  } catch (const mobula::WorkerLost&) {
  }
}

// [0]: the rank that made it.
std::vector<long> one_more(std::vector<long> values) {
  values[0] = mobula::here().rank;
  ++values[1];
  return values;
}
mobula::Ref<std::vector<long>> puts(long x) {
  auto values = large(x);
  values[0] = mobula::here().rank;
  return mobula::put(std::move(values));
}
long maker(const std::vector<long>& values) { return values[0]; }
long second(const std::vector<long>& values) { return values[1]; }

int lose_values() {
  constexpr long kChain = 1000;
  for (const bool keeps : {true, false}) {
    std::vector<mobula::Ref<std::vector<long>>> chain{remote<one_more>(remote<large>(0))};
    for (long i = 1; i < kChain; ++i) {
      chain.push_back(remote<one_more>(chain.back()));
      if (!keeps) chain.front() = std::move(chain.back()), chain.pop_back();
    }
    const auto rank = static_cast<std::uint32_t>(get(remote<maker>(chain.back())));
    kill_rank(rank);
    expect(get(remote<second>(chain.back())) == kChain, "a chain that was made again has another end");
    expect(mobula::view(chain.back())[1] == kChain, "a value that was made again is another");
    for (std::size_t i = 0; keeps && i < chain.size(); i += 100) {
      expect(get(chain[i])[1] == static_cast<long>(i) + 1, "a value in the middle is wrong");
    }
  }
  auto end = get(remote<puts>(0));
  const auto rank = static_cast<std::uint32_t>(mobula::get(end)[0]);
  for (int i = 0; i < 100; ++i) end = remote<one_more>.with({.placement = mobula::near(end)})(end);
  expect(get(remote<second>(end)) == 100, "a chain from a put is wrong");
  const auto last = static_cast<std::uint32_t>(get(remote<maker>(end)));
  kill_rank(rank);
  if (last != rank) kill_rank(last);
  try {
    get(end);
    expect(false, "a value is made again of what was put on a rank that is gone");
  } catch (const mobula::ObjectLost& e) {
    expect(std::string(e.what()).find("it was put") != std::string::npos, e.what());
  }
  return g_wrong == 0 ? 7 : 1;
}

struct Ledger {
  std::vector<long> entries;
  std::map<std::string, mobula::Ref<long>> refs;
  explicit Ledger(int first) : entries{first} {}
  long add(long x) {
    entries.push_back(x);
    return static_cast<long>(entries.size());
  }
  std::uint32_t rank() const { return mobula::here().rank; }
  void keep(const std::string& name, mobula::Ref<long> ref) { refs[name] = std::move(ref); }
  long read(const std::string& name) const { return get(refs.at(name)); }

 private:
  friend class boost::serialization::access;
  template <class Archive>
  void serialize(Archive& archive, unsigned) {
    archive& entries& refs;
  }
};

int lose_state() {
  for (const auto every : {1U, 10U}) {
    const auto ledger = mobula::actor<Ledger>.with({.restarts = 3, .call_retries = 3, .checkpoint_every = every})(41);
    const auto rank = get(remote<&Ledger::rank>(ledger));
    get(remote<&Ledger::keep>(ledger, std::string("nine"), remote<work>(3, 1)));
    for (long i = 0; i < 93; ++i) remote<&Ledger::add>(ledger, i);
    expect(get(remote<&Ledger::add>(ledger, 1000)) == 95, "calls are lost");
    kill_rank(rank);
    const long left = get(remote<&Ledger::add>(ledger, 1001));
    // 96 calls were made, two of which add nothing.
    expect(left == (every == 1 ? 96 : 90), "the state is not that of the last checkpoint: " + std::to_string(left));
    expect(get(remote<&Ledger::read>(ledger, std::string("nine"))) == 9, "what the state holds is lost");
    expect(get(remote<&Ledger::rank>(ledger)) != rank, "the actor is where it was");
  }
  return g_wrong == 0 ? 7 : 1;
}

int endless() {
  while (getpid() != 0) std::this_thread::sleep_for(10ms);
  return 0;
}

// Of programs that run `sleep 9731`, and of sandboxes of this job.
std::size_t count_children() {
  std::size_t n = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    std::string words;
    std::getline(std::ifstream(entry.path() / "cmdline") >> std::noskipws, words);
    std::string name;
    std::getline(std::ifstream(entry.path() / "comm"), name);
    if (words == std::string("sleep\0"
                             "9731\0",
                             11) ||
        name == "mobula-sandbox")
      ++n;
  }
  return n;
}

int lose_children() {
  const auto others = count_children();
  const auto boxed =
      remote<endless>.with({.retries = 0, .placement = mobula::on_rank(1), .isolation = mobula::sandbox{}})();
  const auto program = mobula::command({"sh", "-c", "sleep 9731 & setsid sleep 9731 & sleep 9731"},
                                       {.cpus = 0, .retries = 0, .placement = mobula::on_rank(1)});
  for (int i = 0; i < 500 && count_children() != others + 4; ++i) std::this_thread::sleep_for(10ms);
  expect(count_children() == others + 4, "the sandbox and the programs don't run");
  try {
    get(remote<kill_this_rank>.with({.cpus = 0, .retries = 0, .placement = mobula::on_rank(1)})());
    expect(false, "a rank kills itself and goes on");
  } catch (const mobula::WorkerLost&) {
  }
  for (int i = 0; i < 500 && count_children() != others; ++i) std::this_thread::sleep_for(10ms);
  expect(count_children() == others, std::to_string(count_children() - others) + " children outlived their rank");
  return g_wrong == 0 ? 7 : 1;
}

int stand_still() {
  g_stuck.store(true);
  return 0;
}

int lose_still_one() {
  const std::size_t before = alive();
  try {
    get(remote<stand_still>.with({.retries = 0, .placement = mobula::on_rank(1)})());
  } catch (const mobula::WorkerLost&) {
  }
  for (int i = 0; i < 600 && alive() == before; ++i) std::this_thread::sleep_for(50ms);
  expect(alive() < before, "nobody was lost");
  load(1);
  return g_wrong == 0 ? 7 : 1;
}

int be_busy(int milliseconds) {
  g_busy_ms.store(milliseconds);
  return 0;
}

// Steps take longer than what nobody is heard of for, on a worker, then on the head: that is no loss.
int be_busy_in_turns(int milliseconds) {
  const std::size_t before = alive();
  get(remote<be_busy>.with({.placement = mobula::on_rank(1)})(milliseconds));
  load(1);
  be_busy(milliseconds);
  load(1);
  expect(g_busy_ms.load() == 0, "the head was not busy");
  std::this_thread::sleep_for(1s);
  expect(alive() == before, "a busy rank was taken for lost");
  return g_wrong == 0 ? 7 : 1;
}

int wait_for_loss() {
  const std::size_t before = alive();
  load(1);
  std::printf("ready\n");
  std::fflush(stdout);
  for (int i = 0; i < 600 && alive() == before; ++i) std::this_thread::sleep_for(50ms);
  expect(alive() < before, "nobody was lost");
  load(2);
  if (g_wrong == 0) std::printf("all is right with %zu of %zu ranks\n", alive(), before);
  return g_wrong == 0 ? 7 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  return mobula::run(argc, argv, [&] {
    const std::string what = argc > 1 ? argv[1] : "";
    if (what == "kill") return kill_some(argc > 2 ? std::atoi(argv[2]) : 1);
    if (what == "leave") return leave(argc > 2 ? std::atoi(argv[2]) : 1);
    if (what == "poison") return poison();
    if (what == "again") return lose_values();
    if (what == "state") return lose_state();
    if (what == "children") return lose_children();
    if (what == "cut") return wait_for_loss();
    if (what == "still") return lose_still_one();
    if (what == "still-head") {
      stand_still();
      while (true) std::this_thread::sleep_for(1s);
    }
    if (what == "busy") return be_busy_in_turns(6000);
    if (what == "stop") return stop_one(3500ms, true);
    if (what == "pause") return stop_one(700ms, false);
    for (const auto& [rank, pid] : pids_of_workers()) std::printf("pid %d\n", pid);
    std::fflush(stdout);
    kill(getpid(), SIGKILL);
    return 1;
  });
}
