// The communicators of gangs.
#pragma once

#include <mpi.h>

#include <boost/mpi/communicator.hpp>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "core/messages.hpp"
#include "core/trace.hpp"

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
  // The same, once a while has passed, when the next one is asked for or to be dropped so.
  void drop_later(std::uint64_t id);
  // A member on this rank does not come back, perhaps from making a communicator, and Open MPI then has every other one
  // wait that makes one of its own (by `split`, say). From here on those are let go on about once a second. Returns at
  // once; may be called again.
  void let_others_pass();
  // Before MPI ends, or the program goes on without the job: lets nobody pass any more. False: a thread is inside MPI,
  // and does not come back.
  bool stop();
  // Frees all, and ends MPI if it was started here.
  void finalize();

 private:
  void pass() const;
  void drop_late();

  const MPI_Comm parent_;
  bool started_here_ = false;
  std::mutex mutex_;
  std::map<std::uint64_t, boost::mpi::communicator> made_;
  std::deque<std::pair<core::Time, std::uint64_t>> late_;  // when each may be dropped
  std::mutex passing_mutex_;
  std::condition_variable passing_changed_;
  bool stopped_ = false;
  bool passing_ = false;  // the thread runs
  std::thread thread_;
};

}  // namespace mobula::transport
