// Mobula inside a larger MPI program.
#pragma once

#include <mpi.h>

#include <boost/mpi/communicator.hpp>
#include <functional>
#include <utility>

#include "mobula/run.hpp"

namespace mobula {

namespace detail {
int run_on(MPI_Comm communicator, const std::function<int()>& driver, const Config& config);
}

// Does what `run` does, with the ranks of the communicator: rank 0 of it calls `driver()`, the others serve until that
// has returned. Collective over the communicator; the program goes on afterwards, and may do it again, with the same
// ranks or others. MPI must have been started, with MPI_THREAD_SERIALIZED or more. Communication of the program's own
// on that communicator is not disturbed. Returns the driver's code on its rank 0, and 0 on the others; waits for tasks
// that still run. Throws std::invalid_argument for a null communicator.
template <class Driver>
int run_on(const boost::mpi::communicator& communicator, Driver driver, const Config& config = {}) {
  return detail::run_on(static_cast<MPI_Comm>(communicator), detail::as_main(driver), config);
}

}  // namespace mobula
