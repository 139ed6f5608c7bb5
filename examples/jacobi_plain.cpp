// The solver as an MPI program:  mpirun -n 4 jacobi_plain [N [FILE]]
#include <boost/mpi/environment.hpp>
#include <cstdio>
#include <cstdlib>

#include "jacobi_solver.hpp"

int main(int argc, char** argv) {
  const boost::mpi::environment environment(argc, argv);
  const boost::mpi::communicator world;
  const int n = argc > 1 ? std::atoi(argv[1]) : 100;
  const JacobiResult r = jacobi(world, n, 100, 1e-4, argc > 2 ? argv[2] : "");
  if (world.rank() == 0) std::printf("%d iterations, change %.17g, mean %.17g\n", r.iterations, r.change, r.mean);
}
