// The floor of a start: MPI and a barrier.
#include <mpi.h>

int main(int argc, char** argv) {
  int level = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
  MPI_Barrier(MPI_COMM_WORLD);
  MPI_Finalize();
}
