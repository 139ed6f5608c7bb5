// Members that are blocked in MPI for ever, since another one threw: the driver gets the error, the job goes on with
// other threads in their slots, a message costs gangs beside them no turn, and the job ends as if nothing was. With
// "leave": the job ends while members wait for each other. With "pass": members are left behind while they make the
// gang's communicator, as one of its ranks was killed; another gang goes on to make communicators of its own there.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <boost/mpi.hpp>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <mobula/mobula.hpp>
#include <thread>

namespace {

std::atomic<bool> some_left_behind = false;  // on this rank

int waits_for_the_first(const boost::mpi::communicator& ranks) {
  if (ranks.rank() == 0) throw std::runtime_error("the first one gave up");
  some_left_behind = true;
  int value = 0;
  ranks.recv(0, 1, value);  // never sent
  return value;
}

int comes_back_late(const boost::mpi::communicator& ranks) {
  if (ranks.rank() == 0) throw std::runtime_error("the first one gave up");
  std::this_thread::sleep_for(std::chrono::milliseconds(1500));
  return 0;
}

void meets_late(const boost::mpi::communicator& ranks) {
  if (ranks.rank() == 0) std::this_thread::sleep_for(std::chrono::seconds(20));
  ranks.barrier();
}

int sums(const boost::mpi::communicator& ranks, int x) { return boost::mpi::all_reduce(ranks, x, std::plus<>()); }

double cpu_seconds() {
  timespec worked{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &worked);
  return static_cast<double>(worked.tv_sec) + 1e-9 * static_cast<double>(worked.tv_nsec);
}

// Each member tells the next one, step by step. The cpu time of a step where others were left behind, who look for what
// comes on their rank: this depends little on how busy the machine is. Elsewhere 0.
double passes_round(const boost::mpi::communicator& ranks, int steps) {
  const double before = cpu_seconds();
  const int next = (ranks.rank() + 1) % ranks.size();
  const int previous = (ranks.rank() + ranks.size() - 1) % ranks.size();
  for (int step = 0; step < steps; ++step) {
    int came = -1;
    std::array<MPI_Request, 2> requests{};
    MPI_Irecv(&came, 1, MPI_INT, previous, 1, ranks, requests.data());
    MPI_Isend(&step, 1, MPI_INT, next, 1, ranks, &requests[1]);
    MPI_Waitall(2, requests.data(), MPI_STATUSES_IGNORE);
    if (came != step) throw std::runtime_error("a step was lost");
  }
  return some_left_behind ? (cpu_seconds() - before) / steps : 0;
}

std::uint32_t where(const boost::mpi::communicator&) { return mobula::here().rank; }
int twice(int x) { return 2 * x; }

#define CHECK(condition)                                                      \
  if (!(condition)) {                                                         \
    std::fprintf(stderr, "broken_gang: line %d: %s\n", __LINE__, #condition); \
    return 1;                                                                 \
  }

template <auto F>
bool fails(std::size_t k) {
  for (const auto& ref : mobula::gang<F>(k)) {
    try {
      mobula::get(ref);
      return false;
    } catch (const std::exception& e) {
      if (std::string(e.what()).find("gave up") == std::string::npos) return false;
    }
  }
  return true;
}

double cost_of_step(std::size_t members) {
  double least = 1;
  for (int i = 0; i < 5; ++i) {
    const auto costs = mobula::get(mobula::gang<passes_round>(members, 200));
    least = std::min(least, *std::max_element(costs.begin(), costs.end()));
  }
  return least;
}

int driver() {
  std::size_t workers = 0;
  for (const auto& rank : mobula::cluster().ranks) workers += rank.slots > 0 ? 1 : 0;
  // Those that come back are taken in again.
  CHECK(fails<comes_back_late>(workers));
  CHECK(mobula::get(mobula::gang<where>(workers)).size() == workers);
  // Those that don't are left behind, again and again.
  for (int round = 0; round < 3; ++round) {
    CHECK(fails<waits_for_the_first>(workers - 1));
    for (int i = 0; i < 200; ++i) CHECK(mobula::get(mobula::remote<twice>(i)) == 2 * i);
    CHECK(mobula::get(mobula::gang<sums>(workers, 7)).front() == 7 * static_cast<int>(workers));
  }
  // Whom they wake does not take the core from them: each step would cost a turn, for which he spins.
  const double cost = cost_of_step(workers - 1);
  std::printf("a step costs %.2f us of cpu time\n", 1e6 * cost);
  CHECK(cost > 0 && cost < 200e-6);
  std::puts("went on");
  return 0;
}

}  // namespace

// The job ends while members wait for each other.
int leave() {
  const auto late = mobula::gang<meets_late>(3);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  return 0;
}

int own_process() { return getpid(); }

void splits(const boost::mpi::communicator& ranks, double seconds) {
  const auto begin = std::chrono::steady_clock::now();
  for (bool goes_on = true; goes_on;) {
    ranks.split(0).barrier();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    goes_on = std::chrono::steady_clock::now() - begin < std::chrono::duration<double>(seconds);
    boost::mpi::broadcast(ranks, goes_on, 0);
  }
}

int pass() {
  using namespace std::chrono_literals;
  const auto splitting = mobula::gang<splits>.with({.placement = mobula::pack})(2, 5.0);
  const pid_t last = mobula::get(mobula::remote<own_process>.with({.placement = mobula::on_rank(3)})());
  std::this_thread::sleep_for(300ms);
  // The others begin without it.
  kill(last, SIGSTOP);
  const auto broken = mobula::gang<where>(3);
  std::this_thread::sleep_for(200ms);
  kill(last, SIGKILL);
  for (const auto& member : splitting) mobula::get(member, 60s);
  try {
    mobula::get(broken);
    return 1;
  } catch (const mobula::Infeasible&) {
    std::puts("passed");
  }
  return 0;
}

int main(int argc, char** argv) {
  const std::string way = argc > 1 ? argv[1] : "";
  return mobula::run(argc, argv, way == "leave" ? leave : way == "pass" ? pass : driver);
}
