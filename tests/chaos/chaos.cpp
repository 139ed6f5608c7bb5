// Everything at once, again and again, while workers are killed or stopped at random: the results stay right.
//   chaos kill SECONDS LEFT    workers are killed until as many are left
//   chaos stop SECONDS LEFT    they are stopped for longer than `lost_after`, and go on then
//   chaos none SECONDS         nothing is done to them by this program
// With a fourth argument, `full`: memory and scratch may have no room; what says so counts as right.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <boost/mpi.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mobula/mobula.hpp>
#include <mutex>
#include <numeric>
#include <random>
#include <set>
#include <span>
#include <string>
#include <thread>

namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using mobula::get;
using mobula::Ref;
using mobula::remote;

constexpr int kRetries = 1000;
const mobula::TaskOptions kAgain{.retries = kRetries};
const mobula::TaskOptions kAnywhere{.retries = kRetries, .placement = mobula::spread};

int pid_of_this() { return static_cast<int>(getpid()); }
long square(long x) {
  std::this_thread::sleep_for(1ms);
  return x * x;
}
long leaves(int depth) {
  if (depth == 0) return 1;
  const auto left = remote<leaves>.with(kAgain)(depth - 1);
  const auto right = remote<leaves>.with(kAgain)(depth - 1);
  return get(left) + get(right);
}
std::vector<long> large(long x, long n) { return std::vector<long>(static_cast<std::size_t>(n), x); }
std::vector<long> next(std::vector<long> values) {
  for (long& value : values) ++value;
  return values;
}
long sum(std::span<const long> values) { return std::accumulate(values.begin(), values.end(), 0L); }
int member(const boost::mpi::communicator& ranks, int x) { return boost::mpi::all_reduce(ranks, x, std::plus<>()); }

// Calls may run twice where they are retried: so each has a number.
class Ledger {
 public:
  std::size_t add(int number) {
    numbers_.insert(number);
    return numbers_.size();
  }
  std::size_t size() const { return numbers_.size(); }
  template <class Archive>
  void serialize(Archive& archive, unsigned) {
    archive& numbers_;
  }

 private:
  std::set<int> numbers_;
};

std::atomic<int> g_wrong{0};
std::atomic<int> g_full{0};
bool g_may_be_full = false;

void expect(bool good, const std::string& what) {
  if (good) return;
  ++g_wrong;
  std::fprintf(stderr, "chaos: %s\n", what.c_str());
}

void tasks(std::mt19937_64& random) {
  std::vector<long> xs(100 + random() % 200);
  std::iota(xs.begin(), xs.end(), 0L);
  const auto squares = remote<square>.with(kAgain).map(xs);
  const auto tree = remote<leaves>.with(kAgain)(6);
  for (std::size_t i = 0; i < xs.size(); ++i) expect(get(squares[i]) == xs[i] * xs[i], "a square is wrong");
  expect(get(tree) == 64, "nested tasks count wrong");
}

// Large values go from rank to rank, and to all.
void transfers(std::mt19937_64& random) {
  const long n = 20'000 + static_cast<long>(random() % 300'000);
  std::vector<Ref<long>> sums;
  std::vector<long> expected;
  for (long i = 0; i < 4; ++i) {
    auto value = remote<large>.with(kAnywhere)(i, n);
    const long steps = static_cast<long>(random() % 5);
    for (long step = 0; step < steps; ++step) value = remote<next>.with(kAnywhere)(value);
    sums.push_back(remote<sum>.with(kAnywhere)(value));
    expected.push_back((i + steps) * n);
  }
  const auto put = mobula::put(large(3, n));
  for (int i = 0; i < 8; ++i) {
    sums.push_back(remote<sum>.with(kAnywhere)(put));
    expected.push_back(3 * n);
  }
  for (std::size_t i = 0; i < sums.size(); ++i) expect(get(sums[i]) == expected[i], "a sum is wrong");
}

void actors(std::mt19937_64& random) {
  mobula::ActorOptions options;
  options.restarts = options.call_retries = kRetries;
  options.checkpoint_every = 1 + static_cast<unsigned>(random() % 3);
  const auto ledger = mobula::actor<Ledger>.with(options)();
  const std::size_t n = 20 + random() % 80;
  std::vector<Ref<std::size_t>> calls;
  for (std::size_t i = 0; i < n; ++i) calls.push_back(remote<&Ledger::add>(ledger, static_cast<int>(i)));
  for (const auto& call : calls) expect(get(call) <= n, "an actor counts too much");
  expect(get(remote<&Ledger::size>(ledger)) <= n, "an actor counts too much");
}

void gangs(std::mt19937_64& random) {
  mobula::GangOptions options;
  options.retries = kRetries;
  const std::size_t k = 2 + random() % 2;
  try {
    for (const int all : get(mobula::gang<member>.with(options)(k, 21))) {
      expect(all == 21 * static_cast<int>(k), "a gang gave a wrong result");
    }
  } catch (const mobula::Infeasible&) {  // fewer ranks are left
  }
}

void processes(std::mt19937_64&) {
  mobula::TaskOptions boxed = kAgain;
  boxed.isolation = mobula::sandbox{};
  std::vector<long> xs(10, 6);
  for (const long x : get(remote<square>.with(boxed).map(xs))) expect(x == 36, "a sandboxed square is wrong");
  mobula::CommandOptions options;
  options.retries = kRetries;
  const auto echo = mobula::command({"echo", remote<square>.with(kAgain)(5) ? "there" : ""}, options);
  expect(get(echo).out == "there\n", "a command gave something else");
}

// Kills or stops workers, one after the other.
void harm(const std::string& how, std::vector<int> pids, std::size_t left, Clock::time_point until,
          std::mt19937_64 random) {
  const auto pause = (until - Clock::now()) / static_cast<int>(pids.size() + 1);
  while (pids.size() > left && Clock::now() < until) {
    std::this_thread::sleep_for(pause / 2 + pause * (random() % 1000) / 1000);
    const std::size_t victim = random() % pids.size();
    kill(pids[victim], how == "stop" ? SIGSTOP : SIGKILL);
    if (how == "stop") {
      std::this_thread::sleep_for(3s);  // longer than lost_after
      kill(pids[victim], SIGCONT);
    }
    pids.erase(pids.begin() + static_cast<std::ptrdiff_t>(victim));
  }
}

int drive(const std::string& how, double seconds, std::size_t left, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<int> pids;
  for (const auto& rank : mobula::cluster().ranks) {
    if (rank.rank != 0) pids.push_back(get(remote<pid_of_this>.with({.placement = mobula::on_rank(rank.rank)})()));
  }
  std::printf("ready\n");
  std::fflush(stdout);
  const auto until = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  std::thread killer([&] {
    if (how != "none") harm(how, pids, left, until, std::mt19937_64(seed + 1));
  });
  // Several at once, so that there is always something of everything.
  std::vector<std::thread> threads;
  std::atomic<int> rounds{0};
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937_64 own(seed * 10 + static_cast<std::uint64_t>(t));
      const std::array all{tasks, transfers, actors, gangs, processes};
      while (Clock::now() < until) {
        try {
          all[own() % all.size()](own);
        } catch (const mobula::StoreFull& e) {
          ++g_full;
          expect(g_may_be_full, e.what());
        } catch (const std::exception& e) {
          expect(false, e.what());
          return;
        }
        ++rounds;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  killer.join();
  std::size_t alive = 0;
  for (const auto& rank : mobula::cluster().ranks) alive += rank.alive ? 1 : 0;
  std::printf("%d rounds, %zu of %zu ranks left, %d times full, %d wrong\n", rounds.load(), alive, pids.size() + 1,
              g_full.load(), g_wrong.load());
  return g_wrong == 0 ? 7 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  return mobula::run(argc, argv, [&] {
    const std::string how = argc > 1 ? argv[1] : "none";
    const double seconds = argc > 2 ? std::atof(argv[2]) : 5;
    const std::size_t left = argc > 3 ? std::strtoul(argv[3], nullptr, 10) : 1;
    g_may_be_full = argc > 4 && std::string(argv[4]) == "full";
    const char* given = std::getenv("SEED");
    const std::uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device()();
    std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
    return drive(how, seconds, left, seed);
  });
}
