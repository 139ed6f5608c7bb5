// Tasks with dependencies: a chain, and a 1-D stencil with 3 of them, against the same stencil in plain non-blocking
// MPI on the same ranks. METG(50 %) is the smallest task at which half of the time is useful work (Slaughter et al.,
// "Task Bench", SC20); the useful work is that of the kernel alone, calibrated in the run.
#include <cmath>

#include "bench.hpp"

namespace {

constexpr int kColumns = 64;

// About `iterations` multiplications that depend on each other.
double kernel(double x, long iterations) {
  for (long i = 0; i < iterations; ++i) x = x * 0.999'999 + 1e-9;
  return x;
}
double cell(double l, double c, double r, long iterations) { return kernel((l + c + r) / 3, iterations); }
double first(double x, long iterations) { return kernel(x, iterations); }
int next(int x) { return x + 1; }

double ns_per_iteration() {
  volatile double sink = 0;
  double best = 1e9;
  for (int i = 0; i < 5; ++i) {
    const double start = bench::seconds();
    sink = kernel(1.0, 1'000'000);
    best = std::min(best, (bench::seconds() - start) * 1e9 / 1e6);
  }
  static_cast<void>(sink);
  return best;
}

// The stencil on ranks 1…n-1, columns in blocks; rank 0 is idle, as the head is. Seconds.
double mpi_stencil(int steps, long iterations) {
  int rank = 0, size = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  const int workers = size - 1;
  MPI_Barrier(MPI_COMM_WORLD);
  const double start = bench::seconds();
  if (rank > 0) {
    const int from = kColumns * (rank - 1) / workers;
    const int n = kColumns * rank / workers - from;
    const int left = rank == 1 ? workers : rank - 1;
    const int right = rank == workers ? 1 : rank + 1;
    std::vector<double> row(static_cast<std::size_t>(n) + 2, 1.0), other = row;
    for (int t = 0; t < steps; ++t) {
      MPI_Request requests[4];
      MPI_Irecv(&row.front(), 1, MPI_DOUBLE, left, 1, MPI_COMM_WORLD, &requests[0]);
      MPI_Irecv(&row.back(), 1, MPI_DOUBLE, right, 2, MPI_COMM_WORLD, &requests[1]);
      MPI_Isend(&row[1], 1, MPI_DOUBLE, left, 2, MPI_COMM_WORLD, &requests[2]);
      MPI_Isend(&row[static_cast<std::size_t>(n)], 1, MPI_DOUBLE, right, 1, MPI_COMM_WORLD, &requests[3]);
      MPI_Waitall(4, requests, MPI_STATUSES_IGNORE);
      for (std::size_t i = 1; i <= static_cast<std::size_t>(n); ++i)
        other[i] = cell(row[i - 1], row[i], row[i + 1], iterations);
      row.swap(other);
    }
  }
  MPI_Barrier(MPI_COMM_WORLD);
  return bench::seconds() - start;
}

double task_stencil(int steps, long iterations) {
  const double start = bench::seconds();
  std::vector<mobula::Ref<double>> row;
  for (int i = 0; i < kColumns; ++i) row.push_back(mobula::remote<first>(1.0, iterations));
  for (int t = 1; t < steps; ++t) {
    std::vector<mobula::Ref<double>> above;
    above.reserve(kColumns);
    for (std::size_t i = 0; i < kColumns; ++i) {
      above.push_back(
          mobula::remote<cell>(row[(i + kColumns - 1) % kColumns], row[i], row[(i + 1) % kColumns], iterations));
    }
    row = std::move(above);
  }
  mobula::wait(row);
  return bench::seconds() - start;
}

// The task's length at which efficiency is one half, from a falling series of lengths; us.
template <class Run>
double metg(int workers, double ns_iteration, Run run) {
  double best = NAN;
  for (long iterations = 1 << 17; iterations >= 16; iterations /= 2) {
    const double task_s = static_cast<double>(iterations) * ns_iteration * 1e-9;
    const int steps = std::clamp(static_cast<int>(0.15 * workers / (task_s * kColumns)), 30, 400);
    const double ideal = task_s * kColumns * steps / workers;
    if (ideal / run(steps, iterations) < 0.5) break;
    best = task_s * 1e6;
  }
  return best;
}

}  // namespace

int main(int argc, char** argv) {
  const int turns = argc > 1 && argv[1][0] != '-' ? std::atoi(argv[1]) : 5;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, new int);
  int rank = 0, size = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  double ns = ns_per_iteration();
  MPI_Bcast(&ns, 1, MPI_DOUBLE, 0, MPI_COMM_WORLD);
  std::vector<double> floors, ours, chain, cell_us;
  bench::Report report("stencil_" + std::to_string(size - 1) + "w");
  int code = 0;
  for (int turn = 0; turn < turns && code == 0; ++turn) {
    // The loop of METG is the same on all ranks: rank 0's times decide.
    const double floor = metg(size - 1, ns, [](int steps, long iterations) {
      double s = mpi_stencil(steps, iterations);
      MPI_Bcast(&s, 1, MPI_DOUBLE, 0, MPI_COMM_WORLD);
      return s;
    });
    code = mobula::run(argc, argv, [&] {
      task_stencil(50, 100);
      constexpr int kLinks = 10'000;
      const double start = bench::seconds();
      mobula::Ref<int> last = mobula::remote<next>(0);
      for (int i = 1; i < kLinks; ++i) last = mobula::remote<next>(last);
      if (mobula::get(last) != kLinks) std::abort();
      chain.push_back((bench::seconds() - start) / kLinks * 1e6);
      constexpr int kSteps = 1000;
      cell_us.push_back(task_stencil(kSteps, 1) / (kSteps * kColumns) * 1e6);
      ours.push_back(metg(size - 1, ns, task_stencil));
      floors.push_back(floor);
    });
    MPI_Barrier(MPI_COMM_WORLD);
  }
  if (rank == 0 && code == 0) {
    report.add("chain of 10,000, time per link", chain, "us");
    report.add("64 x 1,000 empty cells, time per task", cell_us, "us");
    report.add("METG(50 %), plain MPI", floors, "us");
    report.add("METG(50 %), tasks with refs", ours, "us  (goal: under 10)");
    report.add_ratio("METG ratio", ours, floors, "(goal: at most 5)");
  }
  MPI_Finalize();
  return code;
}
