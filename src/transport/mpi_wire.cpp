#include "transport/mpi_wire.hpp"

#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <list>
#include <vector>

#include "core/error.hpp"
#include "core/host.hpp"
#include "transport/doorbell.hpp"
#include "transport/transport.hpp"

namespace mobula::transport {
namespace {

constexpr int kFrameTag = 1;
constexpr int kBlockTag = 16;
constexpr std::uint64_t kBlockTags = 16'000;  // MPI promises tags up to 32,767
// Of a block, two of which are under way. Little enough that a TCP connection takes them in: what it does not take,
// Open MPI 4 keeps, and when the other rank dies then, it may lock itself out while it gives that up.
constexpr std::size_t kChunk = 256 << 10;
constexpr std::size_t kReceives = 16;

void check(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  throw Error(std::string(call) + " failed: " + std::string(text.data(), static_cast<std::size_t>(length)));
}

// Open MPI's messages within a node go through a file in /dev/shm for each rank, whose pages are made when they are
// touched: where others have filled /dev/shm by then, that is a SIGBUS. So they are made now, if there is room.
void touch_own_segment() {
  const char* local = std::getenv("OMPI_COMM_WORLD_LOCAL_RANK");
  if (local == nullptr) local = std::getenv("SLURM_LOCALID");
  if (local == nullptr) return;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    const bool is_segment = line.find("/dev/shm/vader_segment.") != std::string::npos ||  // Open MPI 4
                            line.find("/dev/shm/sm_segment.") != std::string::npos;       // and 5
    if (!is_segment || !line.ends_with("." + std::string(local))) continue;
    constexpr int kPopulateWrite = 23;  // MADV_POPULATE_WRITE, which older headers lack
    char* end = nullptr;
    const auto from = std::strtoull(line.c_str(), &end, 16);
    const auto to = std::strtoull(end + 1, nullptr, 16);
    madvise(reinterpret_cast<void*>(from), to - from, kPopulateWrite);  // NOLINT(performance-no-int-to-ptr)
  }
}

// Open MPI polls without a pause where mpirun did not tell it that there are more ranks than cores, as under srun: then
// each step of a start takes the others' turns.
void yield_where_crowded() {
  const char* per_node = std::getenv("SLURM_STEP_TASKS_PER_NODE");  // as 3(x2),2
  if (per_node == nullptr) return;
  long most = 0;
  for (const char* at = per_node; *at != '\0';) {
    char* end = nullptr;
    most = std::max(most, std::strtol(at, &end, 10));
    at = std::strchr(end, ',');
    if (at == nullptr) break;
    ++at;
  }
  if (most > sysconf(_SC_NPROCESSORS_ONLN)) setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
}

class MpiWireImpl final : public MpiWire {
 public:
  explicit MpiWireImpl(MPI_Comm over) {
    int running = 0;
    MPI_Initialized(&running);
    if (running == 0) {
      yield_where_crowded();
      check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &thread_level_), "MPI_Init_thread");
      started_here_ = true;
    } else {
      MPI_Query_thread(&thread_level_);
    }
    if (thread_level_ < MPI_THREAD_SERIALIZED && started_here_) {
      throw Error("this MPI library grants no MPI_THREAD_SERIALIZED; build or configure it with thread support");
    }
    check(MPI_Comm_dup(over != MPI_COMM_NULL ? over : MPI_COMM_WORLD, &comm_), "MPI_Comm_dup");
    MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
    int rank = 0;
    int size = 0;
    MPI_Comm_rank(comm_, &rank);
    MPI_Comm_size(comm_, &size);
    rank_ = static_cast<RankId>(rank);
    size_ = static_cast<std::uint32_t>(size);
    host_ = core::host_name();
    find_node();
    if (started_here_) touch_own_segment();
    for (std::size_t i = 0; i < kReceives; ++i) add_receive();
  }

  RankId rank() const override { return rank_; }
  std::uint32_t size() const override { return size_; }
  std::uint32_t node() const override { return node_; }
  const std::string& host() const override { return host_; }
  std::uint32_t node_size() const override { return node_size_; }
  std::uint32_t node_rank() const override { return node_rank_; }
  const std::vector<RankId>& node_members() const override { return members_; }
  int thread_level() const override { return thread_level_; }
  MPI_Comm communicator() const override { return comm_; }

  std::vector<std::string> gather_on_node(const std::string& mine) override {
    const int size = static_cast<int>(mine.size());
    std::vector<int> sizes(node_size_);
    check(MPI_Allgather(&size, 1, MPI_INT, sizes.data(), 1, MPI_INT, node_comm_), "MPI_Allgather");
    std::vector<int> offsets(node_size_, 0);
    for (std::size_t i = 1; i < sizes.size(); ++i) offsets[i] = offsets[i - 1] + sizes[i - 1];
    std::string all(static_cast<std::size_t>(offsets.back() + sizes.back()), '\0');
    check(MPI_Allgatherv(mine.data(), size, MPI_CHAR, all.data(), sizes.data(), offsets.data(), MPI_CHAR, node_comm_),
          "MPI_Allgatherv");
    std::vector<std::string> result;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      result.push_back(all.substr(static_cast<std::size_t>(offsets[i]), static_cast<std::size_t>(sizes[i])));
    }
    return result;
  }

  std::unique_ptr<core::SharedMemory> share_on_node(std::size_t bytes, Pages pages) override {
    std::unique_ptr<core::SharedMemory> seen;
    if (node_rank_ == 0) seen = core::SharedMemory::make(bytes);
    if (seen && pages == Pages::made && !seen->make_pages()) seen.reset();
    const auto all_see = [&](const std::string& offer) {
      const std::string where = gather_on_node(offer).front();
      if (node_rank_ != 0 && !where.empty()) seen = core::SharedMemory::open(where, bytes);
      const auto answers = gather_on_node(seen ? "yes" : "no");
      return std::count(answers.begin(), answers.end(), "no") == 0;
    };
    if (all_see(seen ? seen->offer() : "")) return seen;
    // They may not look at each other's open files, as in containers of their own: for a moment it needs a name.
    std::string name = "/dev/shm/mobula-" + std::to_string(getuid()) + "-" + std::to_string(getpid()) + "-" +
                       std::to_string(core::now() & 0xff'ffff);
    if (seen == nullptr || node_rank_ != 0 || !seen->give_name(name)) name.clear();
    const bool all = all_see(name);
    if (!name.empty()) core::SharedMemory::remove_name(name);
    return all ? std::move(seen) : nullptr;
  }

  void share(std::size_t bytes) override {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::uint64_t mine = std::max<std::uint64_t>((bytes + page - 1) / page * page, page);
    std::vector<std::uint64_t> sizes(node_size_);
    check(MPI_Allgather(&mine, 1, MPI_UINT64_T, sizes.data(), 1, MPI_UINT64_T, node_comm_), "MPI_Allgather");
    std::uint64_t total = 0;
    for (const std::uint64_t size : sizes) total += size;
    shared_ = share_on_node(total, Pages::reserved);
    if (shared_ == nullptr) throw_unshared();
    std::byte* at = shared_->memory().data();
    for (std::uint32_t i = 0; i < node_size_; at += sizes[i], ++i) segments_.push_back({members_[i], {at, sizes[i]}});
    std::sort(segments_.begin(), segments_.end(), [](const auto& a, const auto& b) { return a.rank < b.rank; });
  }

  const core::SharedMemory* shared() const override { return shared_.get(); }

  bool all(bool here) override {
    int result = here ? 1 : 0;
    check(MPI_Allreduce(MPI_IN_PLACE, &result, 1, MPI_INT, MPI_LAND, comm_), "MPI_Allreduce");
    return result != 0;
  }

  std::span<std::byte> segment(RankId rank) const override {
    const auto found = std::lower_bound(segments_.begin(), segments_.end(), rank,
                                        [](const Segment& segment, RankId r) { return segment.rank < r; });
    return found != segments_.end() && found->rank == rank ? found->memory : std::span<std::byte>();
  }

  void send(RankId to, Buffer frame) override {
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Isend(frame.data(), static_cast<int>(frame.size()), MPI_BYTE, static_cast<int>(to), kFrameTag, comm_,
                    &request),
          "MPI_Isend");
    int done = 0;
    MPI_Test(&request, &done, MPI_STATUS_IGNORE);
    if (done == 0) sends_.push_back({request, std::move(frame), to});
    if (Doorbell* bell = bell_of(to)) bell->ring();
  }

  bool poll(const OnFrame& on_frame) override {
    bool happened = false;
    // A bounded number of frames a call, so that a flood leaves room for other work.
    for (std::size_t n = 0; n < kReceives && receive_next(on_frame); ++n) happened = true;
    if (!sends_.empty()) happened |= test_sends();
    if (!out_blocks_.empty()) happened |= move_out_blocks();
    if (!in_blocks_.empty()) happened |= move_in_blocks();
    return happened;
  }

  void send_block(RankId to, std::uint64_t key, ByteView bytes, std::shared_ptr<const void> keep) override {
    out_blocks_.push_back({to, key, bytes, std::move(keep), 0, {}});
    move_out_blocks();
    if (Doorbell* bell = bell_of(to)) bell->ring();
  }

  void receive_block(RankId from, std::uint64_t key, std::span<std::byte> into, OnBlock done) override {
    in_blocks_.push_back({from, key, into, std::move(done), 0, {}});
    move_in_blocks();
  }

  bool busy() const override { return !sends_.empty() || !out_blocks_.empty() || !in_blocks_.empty(); }

  void abandon(RankId rank) override {
    // What it was sending may have taken receives that will never complete: as many as can be under way from one rank.
    lost_any_ = true;
    for (Receive& receive : receives_) receive.is_sound = false;
    for (std::uint32_t i = 0; i < Transport::kWindow; ++i) add_receive();
    // Requests to a dead rank never complete: they and their memory are left alone on purpose.
    for (auto& send : sends_) {
      if (send.to == rank) new Buffer(std::move(send.bytes));
    }
    std::erase_if(sends_, [rank](const Send& send) { return send.to == rank; });
    for (auto& block : out_blocks_) {
      if (block.peer == rank) new std::shared_ptr<const void>(std::move(block.keep));
    }
    out_blocks_.remove_if([rank](const OutBlock& block) { return block.peer == rank; });
    for (auto& block : in_blocks_) {
      if (block.peer == rank) new OnBlock(std::move(block.done));  // owns the memory that MPI may still write to
    }
    in_blocks_.remove_if([rank](const InBlock& block) { return block.peer == rank; });
  }

  void arm() override { own_bell().arm(); }
  void disarm() override { own_bell().disarm(); }
  void sleep(std::int64_t max_ns) override { own_bell().sleep(max_ns); }
  void interrupt() override { own_bell().ring(); }
  bool hears_all() const override { return node_size_ == size_; }

  void finalize(bool in_use, const std::function<void()>& at_last) override {
    if (comm_ == MPI_COMM_NULL) return;
    finish_in_blocks();
    for (Receive& receive : receives_) {
      MPI_Cancel(&receive.request);
      MPI_Wait(&receive.request, MPI_STATUS_IGNORE);
      MPI_Request_free(&receive.request);
    }
    if (in_use) static_cast<void>(shared_.release());
    shared_.reset();
    MPI_Comm_free(&node_comm_);
    // The communicator stays: what is still under way on it must not be taken for a message of a later run, on one that
    // would get its place.
    comm_ = MPI_COMM_NULL;
    if (at_last) at_last();
    if (started_here_) MPI_Finalize();
  }

 private:
  struct Receive {
    std::vector<std::byte> bytes;
    MPI_Request request = MPI_REQUEST_NULL;
    bool is_sound = true;  // has been posted since the last rank was lost
  };
  struct Send {
    MPI_Request request;
    Buffer bytes;
    RankId to;
  };
  struct OutBlock {
    RankId peer;
    std::uint64_t key;
    ByteView bytes;
    std::shared_ptr<const void> keep;
    std::size_t started;  // bytes for which a request was made
    std::deque<MPI_Request> requests;
  };
  struct InBlock {
    RankId peer;
    std::uint64_t key;
    std::span<std::byte> into;
    OnBlock done;
    std::size_t started;
    std::deque<MPI_Request> requests;
  };

  void add_receive() {
    Receive& receive = receives_.emplace_back();
    receive.bytes.resize(kFrameMax);
    check(MPI_Recv_init(receive.bytes.data(), static_cast<int>(kFrameMax), MPI_BYTE, MPI_ANY_SOURCE, kFrameTag, comm_,
                        &receive.request),
          "MPI_Recv_init");
    check(MPI_Start(&receive.request), "MPI_Start");
  }

  // Receives complete in the order in which they were posted, so the first one is always the next; but for those that a
  // lost rank has taken, which stay where they are.
  bool receive_next(const OnFrame& on_frame) {
    for (auto at = receives_.begin(); at != receives_.end(); ++at) {
      int done = 0;
      MPI_Status status;
      check(MPI_Test(&at->request, &done, &status), "MPI_Test");
      if (done == 0) {
        if (!lost_any_) return false;
        continue;
      }
      int size = 0;
      MPI_Get_count(&status, MPI_BYTE, &size);
      receives_.splice(receives_.end(), receives_, at);
      on_frame(static_cast<RankId>(status.MPI_SOURCE), ByteView(at->bytes.data(), static_cast<std::size_t>(size)));
      const auto is_sound = [](const Receive& receive) { return receive.is_sound; };
      if (lost_any_ &&
          static_cast<std::size_t>(std::count_if(receives_.begin(), receives_.end(), is_sound)) > kReceives) {
        MPI_Request_free(&at->request);
        receives_.erase(at);
      } else {
        at->is_sound = true;
        check(MPI_Start(&at->request), "MPI_Start");
      }
      return true;
    }
    return false;
  }

  static int tag_of(std::uint64_t key) { return kBlockTag + static_cast<int>(key % kBlockTags); }

  bool test_sends() {
    bool happened = false;
    for (std::size_t i = 0; i < sends_.size();) {
      int done = 0;
      MPI_Test(&sends_[i].request, &done, MPI_STATUS_IGNORE);
      if (done == 0) {
        // Later ones to other ranks may be complete, but memory is bounded by the window in any case.
        if (++i >= 8) break;
        continue;
      }
      sends_.erase(sends_.begin() + static_cast<std::ptrdiff_t>(i));
      happened = true;
    }
    return happened;
  }

  // Keeps two chunks of a block under way. `start(offset, size)` makes the request for a chunk.
  template <class B, class Start>
  static bool move_chunks(B& block, std::size_t size, Start start) {
    bool happened = false;
    while (!block.requests.empty()) {
      int done = 0;
      MPI_Test(&block.requests.front(), &done, MPI_STATUS_IGNORE);
      if (done == 0) break;
      block.requests.pop_front();
      happened = true;
    }
    while (block.requests.size() < 2 && block.started < size) {
      const std::size_t chunk = std::min(kChunk, size - block.started);
      block.requests.push_back(start(block.started, chunk));
      block.started += chunk;
      happened = true;
    }
    return happened;
  }

  bool move_out_blocks() {
    bool happened = false;
    for (auto block = out_blocks_.begin(); block != out_blocks_.end();) {
      happened |= move_chunks(*block, block->bytes.size(), [&](std::size_t at, std::size_t size) {
        MPI_Request request = MPI_REQUEST_NULL;
        check(MPI_Isend(block->bytes.data() + at, static_cast<int>(size), MPI_BYTE, static_cast<int>(block->peer),
                        tag_of(block->key), comm_, &request),
              "MPI_Isend");
        return request;
      });
      const bool complete = block->requests.empty() && block->started == block->bytes.size();
      block = complete ? out_blocks_.erase(block) : std::next(block);
    }
    return happened;
  }

  bool move_in_blocks() {
    std::vector<OnBlock> complete;
    const bool happened = move_in_blocks(complete);
    for (auto& done : complete) done();
    return happened;
  }

  bool move_in_blocks(std::vector<OnBlock>& complete) {
    bool happened = false;
    for (auto block = in_blocks_.begin(); block != in_blocks_.end();) {
      happened |= move_chunks(*block, block->into.size(), [&](std::size_t at, std::size_t size) {
        MPI_Request request = MPI_REQUEST_NULL;
        check(MPI_Irecv(block->into.data() + at, static_cast<int>(size), MPI_BYTE, static_cast<int>(block->peer),
                        tag_of(block->key), comm_, &request),
              "MPI_Irecv");
        return request;
      });
      if (block->requests.empty() && block->started == block->into.size()) {
        complete.push_back(std::move(block->done));
        block = in_blocks_.erase(block);
      } else {
        ++block;
      }
    }
    return happened;
  }

  // Blocks that MPI is writing at the end would be written into memory that is given back: all ranks wait until none
  // comes any more, and send on what others wait for. Nobody is told of them.
  void finish_in_blocks() {
    MPI_Request all_done = MPI_REQUEST_NULL;
    std::vector<OnBlock> complete;
    for (int done = 0; done == 0;) {
      move_out_blocks();
      move_in_blocks(complete);
      if (all_done == MPI_REQUEST_NULL && in_blocks_.empty()) {
        if (MPI_Ibarrier(comm_, &all_done) != MPI_SUCCESS) return;
      }
      if (all_done != MPI_REQUEST_NULL) MPI_Test(&all_done, &done, MPI_STATUS_IGNORE);
      if (done == 0) sched_yield();
    }
    for (OnBlock& done : complete) new OnBlock(std::move(done));  // it owns what the store may hold no more
  }

  void find_node() {
    check(MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node_comm_), "MPI_Comm_split_type");
    MPI_Comm_set_errhandler(node_comm_, MPI_ERRORS_RETURN);
    int local = 0;
    int locals = 0;
    MPI_Comm_rank(node_comm_, &local);
    MPI_Comm_size(node_comm_, &locals);
    node_rank_ = static_cast<std::uint32_t>(local);
    node_size_ = static_cast<std::uint32_t>(locals);
    members_.resize(node_size_);
    static_assert(sizeof(RankId) == sizeof(std::uint32_t));
    MPI_Allgather(&rank_, 1, MPI_UINT32_T, members_.data(), 1, MPI_UINT32_T, node_comm_);
    // Nodes are numbered in the order of their first ranks.
    const int leads = local == 0 ? 1 : 0;
    int index = 0;
    MPI_Exscan(&leads, &index, 1, MPI_INT, MPI_SUM, comm_);
    if (rank_ == 0) index = 0;
    MPI_Bcast(&index, 1, MPI_INT, 0, node_comm_);
    node_ = static_cast<std::uint32_t>(index);

    const std::size_t bytes = node_size_ * sizeof(Doorbell);
    shared_bells_ = node_size_ == 1 ? core::SharedMemory::alone(bytes) : share_on_node(bytes, Pages::made);
    if (shared_bells_ == nullptr) throw_unshared();
    auto* const bells = reinterpret_cast<Doorbell*>(shared_bells_->memory().data());  // which are silent as zeros
    for (std::uint32_t i = 0; i < node_size_; ++i) bells_.push_back({members_[i], bells + i});
    bell_ = bells + node_rank_;
    std::sort(bells_.begin(), bells_.end(), [](const auto& a, const auto& b) { return a.rank < b.rank; });
  }

  [[noreturn]] void throw_unshared() const {
    throw Error(
        "the ranks of " + host_ +
        " can't share memory in /dev/shm: it may be full (df -h /dev/shm); in containers, let them see the same "
        "one (docker and podman: --ipc=host)");
  }

  Doorbell& own_bell() { return *bell_; }
  Doorbell* bell_of(RankId rank) {
    if (last_bell_.rank == rank) return last_bell_.bell;
    const auto found = std::lower_bound(bells_.begin(), bells_.end(), rank,
                                        [](const NodeBell& bell, RankId r) { return bell.rank < r; });
    last_bell_ = {rank, found != bells_.end() && found->rank == rank ? found->bell : nullptr};
    return last_bell_.bell;
  }

  struct Segment {
    RankId rank;
    std::span<std::byte> memory;
  };
  struct NodeBell {
    RankId rank = detail::kNoRank;
    Doorbell* bell = nullptr;
  };

  bool started_here_ = false;
  int thread_level_ = MPI_THREAD_SINGLE;
  MPI_Comm comm_ = MPI_COMM_NULL;
  MPI_Comm node_comm_ = MPI_COMM_NULL;
  RankId rank_ = 0;
  std::uint32_t size_ = 1;
  std::uint32_t node_ = 0;
  std::uint32_t node_rank_ = 0;
  std::uint32_t node_size_ = 1;
  std::vector<RankId> members_;                 // of the node, in the order of its communicator
  std::unique_ptr<core::SharedMemory> shared_;  // the segments
  std::unique_ptr<core::SharedMemory> shared_bells_;
  std::vector<Segment> segments_;
  std::string host_;
  std::list<Receive> receives_;  // in the order in which they were posted
  bool lost_any_ = false;
  std::deque<Send> sends_;
  std::list<OutBlock> out_blocks_;
  std::list<InBlock> in_blocks_;
  Doorbell* bell_ = nullptr;
  std::vector<NodeBell> bells_;
  NodeBell last_bell_;
};

}  // namespace

std::unique_ptr<MpiWire> MpiWire::start(MPI_Comm over) { return std::make_unique<MpiWireImpl>(over); }

}  // namespace mobula::transport
