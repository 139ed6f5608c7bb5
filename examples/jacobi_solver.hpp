// The heat equation on a square plate, by Jacobi's method: an MPI code of the usual kind. It knows nothing of Mobula:
// jacobi_plain.cpp runs it under mpirun, jacobi.cpp as a gang.
#pragma once

#include <boost/mpi/communicator.hpp>
#include <string>

struct JacobiResult {
  int iterations = 0;
  double change = 0;  // of any point, in the last iteration
  double mean = 0;    // of the plate, which all ranks agree on to the last bit, however many there are

  template <class Archive>
  void serialize(Archive& archive, unsigned) {
    archive& iterations& change& mean;
  }
};

// Solves n x n inner points with one edge held at `hot` and the others at 0, until no point changes by more than
// `tolerance`. Collective over the communicator: each rank has a block of rows. A path that is not empty gets the field
// as the dataset "field" of an HDF5 file, which all ranks write together.
JacobiResult jacobi(const boost::mpi::communicator& ranks, int n, double hot, double tolerance,
                    const std::string& path);
