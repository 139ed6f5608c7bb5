#include "transport/communicators.hpp"

#include <chrono>
#include <system_error>
#include <vector>

#include "core/host.hpp"
#include "core/log.hpp"
#include "mobula/error.hpp"

namespace mobula::transport {

Communicators::~Communicators() = default;

const boost::mpi::communicator& Communicators::get(const core::GangPart& part) {
  drop_late();
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = made_.find(part.communicator); found != made_.end()) return found->second;
    int running = 0;
    MPI_Initialized(&running);
    if (running == 0) {
      int level = 0;
      const std::lock_guard environment(core::environment_mutex());
      MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &level);
      started_here_ = true;
    }
  }
  int level = 0;
  MPI_Query_thread(&level);
  if (level < MPI_THREAD_MULTIPLE) {
    throw Error(
        "mobula: a gang needs MPI_THREAD_MULTIPLE, since its members call MPI beside the runtime, and MPI was started "
        "with less");
  }
  MPI_Comm made = MPI_COMM_NULL;
  int code = MPI_SUCCESS;
  if (parent_ == MPI_COMM_NULL) {
    code = MPI_Comm_dup(MPI_COMM_SELF, &made);
  } else {
    MPI_Group all = MPI_GROUP_NULL;
    MPI_Group group = MPI_GROUP_NULL;
    MPI_Comm_group(parent_, &all);
    std::vector<int> ranks;
    for (std::size_t i = 0; i + 1 < part.members.size(); i += 2) {
      for (core::RankId rank = part.members[i]; rank < part.members[i + 1]; ++rank)
        ranks.push_back(static_cast<int>(rank));
    }
    MPI_Group_incl(all, static_cast<int>(ranks.size()), ranks.data(), &group);
    // Several gangs may start at once: their tags tell them apart. Newer ones have lower tags, since of those that a
    // rank is making at once Open MPI has the others wait for the one with the lowest: for ever, if one of its ranks
    // has died. 0 is that of `pass`.
    int* most = nullptr;
    int found = 0;
    MPI_Comm_get_attr(parent_, MPI_TAG_UB, &most, &found);
    const int tags = found != 0 ? *most : 32'767;
    const auto tag = tags - static_cast<int>(part.communicator % static_cast<std::uint64_t>(tags));
    code = MPI_Comm_create_group(parent_, group, tag, &made);
    MPI_Group_free(&group);
    MPI_Group_free(&all);
  }
  if (code != MPI_SUCCESS)
    throw Error("mobula: the communicator of a gang can't be made: MPI says error " + std::to_string(code));
  MPI_Comm_set_errhandler(made, MPI_ERRORS_ARE_FATAL);
  const std::lock_guard lock(mutex_);
  return made_.emplace(part.communicator, boost::mpi::communicator(made, boost::mpi::comm_attach)).first->second;
}

void Communicators::drop(std::uint64_t id) {
  MPI_Comm communicator = MPI_COMM_NULL;
  {
    const std::lock_guard lock(mutex_);
    const auto found = made_.find(id);
    if (found == made_.end()) return;
    communicator = found->second;
    made_.erase(found);
  }
  // Collective by the standard, which expects it to be local in fact; with both Open MPI and MPICH it is.
  MPI_Comm_free(&communicator);
}

// What members had sent, and nobody has received, must not be taken for messages on a later communicator that gets the
// number of this one. So it stays until all of that has come; but where gangs break ever so fast, no more than some do,
// as MPI has numbers for some ten thousand.
void Communicators::drop_later(std::uint64_t id) {
  constexpr core::Time kWhile = 30'000'000'000;
  {
    const std::lock_guard lock(mutex_);
    late_.emplace_back(core::now() + kWhile, id);
  }
  drop_late();
}

void Communicators::drop_late() {
  constexpr std::size_t kMost = 2'000;
  while (true) {
    std::uint64_t id = 0;
    {
      const std::lock_guard lock(mutex_);
      if (late_.empty() || (late_.size() <= kMost && late_.front().first > core::now())) return;
      id = late_.front().second;
      late_.pop_front();
    }
    drop(id);
  }
}

// Of the communicators that a rank is making Open MPI has those wait whose id (the parent's, then the tag) is higher
// than that of one that goes on, until that is made; a member that is left behind in there has them wait for ever. Each
// one that is made frees them all: here one of this rank alone, with the lowest id that there is.
void Communicators::pass() const {
  MPI_Group all = MPI_GROUP_NULL;
  MPI_Group alone = MPI_GROUP_NULL;
  MPI_Comm made = MPI_COMM_NULL;
  int rank = 0;
  MPI_Comm_rank(parent_, &rank);
  MPI_Comm_group(parent_, &all);
  MPI_Group_incl(all, 1, &rank, &alone);
  if (MPI_Comm_create_group(parent_, alone, 0, &made) == MPI_SUCCESS) MPI_Comm_free(&made);
  MPI_Group_free(&alone);
  MPI_Group_free(&all);
}

void Communicators::let_others_pass() {
  const std::lock_guard lock(passing_mutex_);
  if (passing_ || stopped_ || parent_ == MPI_COMM_NULL) return;
  try {
    thread_ = std::thread([this] {
      std::unique_lock own(passing_mutex_);
      while (!passing_changed_.wait_for(own, std::chrono::seconds(1), [this] { return stopped_; })) {
        own.unlock();
        pass();
        own.lock();
      }
      passing_ = false;
      passing_changed_.notify_all();
    });
    passing_ = true;
  } catch (const std::system_error&) {
    core::log_warn(
        "a member of a gang is left behind in MPI, and the system gives no thread (ulimit -u, pids.max) that lets "
        "others on this rank pass it: where they make communicators of their own, they may wait for ever");
  }
}

bool Communicators::stop() {
  std::unique_lock lock(passing_mutex_);
  stopped_ = true;
  passing_changed_.notify_all();
  const bool is_over = passing_changed_.wait_for(lock, std::chrono::seconds(1), [this] { return !passing_; });
  lock.unlock();
  if (!thread_.joinable()) return is_over;
  if (is_over) {
    thread_.join();
  } else {
    thread_.detach();
  }
  return is_over;
}

void Communicators::finalize() {
  while (!made_.empty()) drop(made_.begin()->first);
  if (started_here_) MPI_Finalize();
}

}  // namespace mobula::transport
