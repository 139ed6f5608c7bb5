// Members that are blocked in MPI for ever, since another one threw: the driver gets the error, the job goes on with
// other threads in their slots, and ends as if nothing was. With "leave": the job ends while members wait for each
// other.
#include <boost/mpi.hpp>
#include <chrono>
#include <cstdio>
#include <mobula/mobula.hpp>
#include <thread>

namespace {

int waits_for_the_first(const boost::mpi::communicator& ranks) {
  if (ranks.rank() == 0) throw std::runtime_error("the first one gave up");
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

int main(int argc, char** argv) {
  const bool leaves = argc > 1 && std::string(argv[1]) == "leave";
  return mobula::run(argc, argv, leaves ? leave : driver);
}
