// The floor of a start: MPI and a barrier. Rank 0 says when it is through it, in nanoseconds since the epoch.
#include <mpi.h>

#include <chrono>
#include <cstdio>

int main(int argc, char** argv) {
  int level = 0, rank = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
  MPI_Barrier(MPI_COMM_WORLD);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  const auto since_epoch = std::chrono::system_clock::now().time_since_epoch();
  if (rank == 0)
    std::printf("%lld\n",
                static_cast<long long>(std::chrono::duration_cast<std::chrono::nanoseconds>(since_epoch).count()));
  MPI_Finalize();
}
