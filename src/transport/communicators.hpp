// The communicators of gangs.
#pragma once

#include <mpi.h>

#include <boost/mpi/communicator.hpp>
#include <map>
#include <memory>
#include <mutex>

#include "core/messages.hpp"

namespace mobula::transport {

// Made by their members alone, from the job's communicator, and kept by id until they are dropped. For threads that
// hold no lock.
class Communicators {
 public:
  // MPI_COMM_NULL: the job has one rank and runs without MPI, which is then started when first needed.
  explicit Communicators(MPI_Comm parent) : parent_(parent) {}
  // After the threads that use them; frees nothing that a thread may still be in.
  ~Communicators();

  // That of the gang. Collective over its members where it is new. Throws Error.
  const boost::mpi::communicator& get(const core::GangPart& part);
  void drop(std::uint64_t id);
  // Frees all, and ends MPI if it was started here.
  void finalize();

 private:
  const MPI_Comm parent_;
  bool started_here_ = false;
  std::mutex mutex_;
  std::map<std::uint64_t, boost::mpi::communicator> made_;
};

}  // namespace mobula::transport
