// A larger MPI program that runs Mobula in between: on all of its ranks, twice in a row, and on part of them while the
// rest computes and talks among itself.
#include <boost/mpi.hpp>
#include <cstdio>
#include <mobula/mobula.hpp>
#include <mobula/mpi.hpp>

namespace {

int twice(int x) { return 2 * x; }
struct Sum {
  long value = 0;
  void add(long x) { value += x; }
  long get() const { return value; }
};

int meet(const boost::mpi::communicator& ranks) {
  ranks.barrier();
  return ranks.size();
}

long use(int n) {
  std::size_t workers = 0;
  for (const auto& rank : mobula::cluster().ranks) workers += rank.slots > 0 ? 1 : 0;
  for (std::size_t k = 1; k <= workers; ++k) {
    if (mobula::get(mobula::gang<meet>(k)[0]) != static_cast<int>(k)) return -1;
  }
  const auto sum = mobula::actor<Sum>();
  std::vector<int> numbers;
  for (int i = 0; i < n; ++i) numbers.push_back(i);
  for (const auto& ref : mobula::remote<twice>.map(numbers)) mobula::remote<&Sum::add>(sum, ref);
  return mobula::get(mobula::remote<&Sum::get>(sum));
}

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "inside: %s\n", what);
  std::abort();
}

}  // namespace

int main(int argc, char** argv) {
  namespace mpi = boost::mpi;
  mpi::environment env(argc, argv, mpi::threading::multiple);
  const mpi::communicator world;

  for (int round = 0; round < 2; ++round) {
    long total = 0;
    const int code = mobula::run_on(world, [&] {
      total = use(100);
      return 7;
    });
    require(code == (world.rank() == 0 ? 7 : 0), "the driver's code comes back");
    require(world.rank() != 0 || total == 9900, "the sum is right");
    int ranks = 0;
    mpi::all_reduce(world, 1, ranks, std::plus<>());
    require(ranks == world.size(), "the program's own communication goes on");
  }

  // Two thirds of the ranks, in two groups at once; the rest goes on by itself. The head is not the world's rank 0.
  const int color = world.rank() % 3;
  const mpi::communicator part = world.split(color, -world.rank());
  if (color != 2) {
    long total = 0;
    mobula::run_on(part, [&] { total = use(50 * (color + 1)); });
    const long n = 50L * (color + 1);
    require(part.rank() != 0 || total == n * (n - 1), "the sum of a part is right");
  } else {
    for (int i = 0; i < 1000; ++i) {
      int sum = 0;
      mpi::all_reduce(part, 1, sum, std::plus<>());
      require(sum == part.size(), "the others compute meanwhile");
    }
  }
  // An exception of the driver's is told, and is the code 1.
  const int code = mobula::run_on(world, []() -> int { throw std::runtime_error("on purpose"); });
  require(code == (world.rank() == 0 ? 1 : 0), "an exception makes the code 1");
  world.barrier();
  if (world.rank() == 0) std::printf("%d ranks: all went on\n", world.size());
  return 0;
}
