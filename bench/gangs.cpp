// What does it cost to start a gang, whose communicator exists or is to be made, and how do many gangs of mixed sizes
// go beside tasks?
#include <boost/mpi/communicator.hpp>

#include "bench.hpp"

namespace {

constexpr int kRounds = 500;
constexpr int kGangs = 1000;
constexpr int kGroups = 100'000;

int nothing(const boost::mpi::communicator& ranks) { return ranks.rank(); }
int meet(const boost::mpi::communicator& ranks) {
  ranks.barrier();
  return ranks.size();
}
void millisecond() {
  const double until = bench::seconds() + 1e-3;
  while (bench::seconds() < until) {
  }
}

// Seconds that MPI takes for a communicator of all ranks but the first.
double create_group(int rounds) {
  int rank = 0;
  int size = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  MPI_Group all = MPI_GROUP_NULL;
  MPI_Group workers = MPI_GROUP_NULL;
  const int head = 0;
  MPI_Comm_group(MPI_COMM_WORLD, &all);
  MPI_Group_excl(all, 1, &head, &workers);
  MPI_Barrier(MPI_COMM_WORLD);
  const double start = bench::seconds();
  for (int i = 0; i < rounds && rank != 0; ++i) {
    MPI_Comm made = MPI_COMM_NULL;
    MPI_Comm_create_group(MPI_COMM_WORLD, workers, 1, &made);
    MPI_Comm_free(&made);
  }
  MPI_Barrier(MPI_COMM_WORLD);
  return (bench::seconds() - start) / rounds;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<double> raw, one, cached, fresh, mixed, alone, beside, groups, grown;
  std::size_t n = 0;
  bench::Report report("gangs");
  return bench::main(
      argc, argv,
      [&] {
        create_group(20);
        return create_group(200) * 1e6;
      },
      [&](int, double floor) {
        raw.push_back(floor);
        n = mobula::cluster().ranks.size() - 1;
        const auto timed = [](std::vector<double>& into, int rounds, auto&& run) {
          const double start = bench::seconds();
          for (int i = 0; i < rounds; ++i) run();
          into.push_back((bench::seconds() - start) / rounds * 1e6);
        };
        timed(fresh, 1, [&] { mobula::get(mobula::gang<nothing>(n)); });
        timed(one, kRounds, [&] { mobula::get(mobula::gang<nothing>(1)); });
        timed(cached, kRounds, [&] { mobula::get(mobula::gang<nothing>(n)); });
        const auto gangs = [&] {
          std::vector<mobula::Batch<int>> batches;
          for (int i = 0; i < kGangs; ++i) {
            batches.push_back(mobula::gang<meet>(1 + static_cast<std::size_t>(i) % n));
          }
          for (const auto& batch : batches) mobula::get(batch);
        };
        timed(mixed, 1, gangs);
        const long before = bench::peak_kib();
        timed(groups, kGroups, [&] {
          const std::vector<mobula::Demand> bundles(n, mobula::Demand{.cpus = 0.5});
          mobula::get(mobula::placement_group(bundles, mobula::Strategy::spread).ready());
        });
        grown.push_back(static_cast<double>(bench::peak_kib() - before));
        std::vector<mobula::Ref<void>> tasks;
        const auto submit = [&] {
          tasks.clear();
          for (int i = 0; i < 2000; ++i) tasks.push_back(mobula::remote<millisecond>());
        };
        timed(alone, 1, [&] {
          submit();
          mobula::wait(tasks);
        });
        timed(beside, 1, [&] {
          submit();
          gangs();
          mobula::wait(tasks);
        });
      },
      [&] {
        const std::string of = " of " + std::to_string(n);
        report.add("raw MPI_Comm_create_group" + of, raw, "us");
        report.add("gang of 1, start to result", one, "us");
        report.add("gang" + of + ", start to result", cached, "us");
        report.add("gang" + of + ", the first", fresh, "us");
        report.add(std::to_string(kGangs) + " gangs of 1 to " + std::to_string(n), mixed, "us");
        report.add("placement group of " + std::to_string(n) + ", made and removed", groups, "us");
        report.add("memory of the head after " + std::to_string(kGroups) + " of them", grown, "KiB more");
        report.add("2000 tasks of 1 ms", alone, "us");
        report.add("both at once", beside, "us");
      });
}
