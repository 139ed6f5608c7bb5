// Arguments and results from 8 B to 64 MiB: to a task and back, against the same bytes sent and returned by raw MPI.
#include "bench.hpp"

static std::vector<char> echo(const std::vector<char>& v) { return v; }

int main(int argc, char** argv) {
  static const std::vector<std::size_t> kSizes{8, 512, 4096, 32 << 10, 1 << 20, 64 << 20};
  static std::vector<double> floor_us(kSizes.size());
  std::vector<std::vector<double>> floors(kSizes.size()), ours(kSizes.size());
  bench::Report report("sizes");
  const auto rounds = [](std::size_t size) { return size > (1 << 20) ? 5 : size > (32 << 10) ? 50 : 2000; };
  return bench::main(
      argc, argv,
      [&] {
        int rank = 0;
        MPI_Comm_rank(MPI_COMM_WORLD, &rank);
        for (std::size_t s = 0; s < kSizes.size(); ++s) {
          std::vector<char> bytes(kSizes[s], 1);
          const int n = static_cast<int>(bytes.size());
          MPI_Barrier(MPI_COMM_WORLD);
          const double start = bench::seconds();
          for (int i = 0; i < rounds(kSizes[s]) && rank < 2; ++i) {
            if (rank == 0) MPI_Send(bytes.data(), n, MPI_BYTE, 1, 5, MPI_COMM_WORLD);
            MPI_Recv(bytes.data(), n, MPI_BYTE, 1 - rank, 5, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            if (rank == 1) MPI_Send(bytes.data(), n, MPI_BYTE, 0, 5, MPI_COMM_WORLD);
          }
          floor_us[s] = (bench::seconds() - start) / rounds(kSizes[s]) * 1e6;
        }
        return 0.0;
      },
      [&](int, double) {
        for (std::size_t s = 0; s < kSizes.size(); ++s) {
          const std::vector<char> bytes(kSizes[s], 1);
          mobula::get(mobula::remote<echo>(bytes));
          const double start = bench::seconds();
          for (int i = 0; i < rounds(kSizes[s]); ++i) mobula::get(mobula::remote<echo>(bytes));
          ours[s].push_back((bench::seconds() - start) / rounds(kSizes[s]) * 1e6);
          floors[s].push_back(floor_us[s]);
        }
      },
      [&] {
        for (std::size_t s = 0; s < kSizes.size(); ++s) {
          const std::string name = std::to_string(kSizes[s]) + " B";
          report.add(name + ", raw MPI", floors[s], "us");
          report.add(name + ", task", ours[s], "us");
          report.add_ratio(name + ", ratio", ours[s], floors[s], "");
        }
      });
}
