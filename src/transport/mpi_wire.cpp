#include "transport/mpi_wire.hpp"

#include <dlfcn.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <list>
#include <map>
#include <set>
#include <unordered_map>
#include <vector>

#include "core/error.hpp"
#include "core/host.hpp"
#include "transport/doorbell.hpp"

namespace mobula::transport {
namespace {

constexpr int kFrameTag = 1;
constexpr int kBlockTag = 16;
constexpr std::uint64_t kBlockTags = 16'000;  // MPI promises tags up to 32,767
// Of a block, two of which are under way. Little enough that a TCP connection mostly takes them in: what it does not
// take, Open MPI 4 keeps, and when the other rank dies then, it may lock itself out while it gives that up. With chunks
// so small that it sends them otherwise it would not, but end the whole job.
constexpr std::size_t kChunk = 256 << 10;
constexpr std::size_t kReceives = 16;
constexpr std::size_t kTests = 8;         // requests of a kind that one poll finds unfinished
constexpr std::uint32_t kLookEvery = 64;  // polls that find nothing between looks at all receives
constexpr Time kRenewAfter = 20'000'000;  // ns without a frame

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

// Blocks from one rank to another have keys 1, 2, 3 and so on, and the tag of one is used again kBlockTags later. Sends
// and receives of one tag are matched in order, so a block may begin only when no end of one with its tag is missing.
// Both sides keep to that, each by what it has seen end.
class KeyWindow {
 public:
  bool covers(std::uint64_t key) const { return key < below_ + kBlockTags; }
  void ended(std::uint64_t key) {
    ahead_.insert(key);
    for (; !ahead_.empty() && *ahead_.begin() == below_; ++below_) ahead_.erase(ahead_.begin());
  }

 private:
  std::uint64_t below_ = 1;        // all keys under this one have ended
  std::set<std::uint64_t> ahead_;  // others that have
};

// Where there are more ranks than cores, Open MPI gives the core away in each call that finds nothing. That is for
// those who wait inside it; the wire's callers hold the rank's lock, and wait by themselves.
class KeepsCore {
 public:
  KeepsCore() : yields_(kSetYields != nullptr && kSetYields(false)) {}
  ~KeepsCore() {
    if (yields_) kSetYields(true);
  }
  // Has others yield, whatever was set before.
  static void end() {
    if (kSetYields != nullptr) kSetYields(true);
  }
  KeepsCore(const KeepsCore&) = delete;
  KeepsCore& operator=(const KeepsCore&) = delete;

 private:
  using SetYields = bool (*)(bool);  // returns what was set before
  static inline const auto kSetYields =
      reinterpret_cast<SetYields>(dlsym(RTLD_DEFAULT, "opal_progress_set_yield_when_idle"));
  bool yields_;
};

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
  std::uint64_t call() const override { return call_.load(std::memory_order_relaxed); }

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
    const KeepsCore keeps_core;
    MPI_Request request = MPI_REQUEST_NULL;
    check(inside(MPI_Isend, frame.data(), static_cast<int>(frame.size()), MPI_BYTE, static_cast<int>(to), kFrameTag,
                 comm_, &request),
          "MPI_Isend");
    int done = 0;
    inside(MPI_Test, &request, &done, MPI_STATUS_IGNORE);
    if (done == 0) {
      Outbox& box = outboxes_[to];
      if (box.empty()) sending_.push_back({to, &box});
      box.push_back({request, std::move(frame)});
    }
    if (Doorbell* bell = bell_of(to)) bell->ring();
  }

  bool poll(const OnFrame& on_frame) override {
    const KeepsCore keeps_core;
    bool happened = false;
    // A bounded number of frames a call, so that a flood leaves room for other work.
    for (std::size_t n = 0; n < kReceives && receive_next(on_frame); ++n) happened = true;
    if (!taken_.empty()) happened |= test_taken(on_frame);  // also in a flood
    if (!sending_.empty()) happened |= test_sends();
    if (!out_.under_way.empty()) happened |= move_out_blocks();
    if (!in_.under_way.empty()) happened |= move_in_blocks();
    return happened;
  }

  void send_block(RankId to, std::uint64_t key, ByteView bytes, std::shared_ptr<const void> keep) override {
    const KeepsCore keeps_core;
    out_.add({to, key, bytes, std::move(keep), 0, {}}, [this](OutBlock& block) { advance(block); });
    if (Doorbell* bell = bell_of(to)) bell->ring();
  }

  void receive_block(RankId from, std::uint64_t key, std::span<std::byte> into, OnBlock done) override {
    const KeepsCore keeps_core;
    in_.add({from, key, into, std::move(done), 0, {}}, [this](InBlock& block) { advance(block); });
  }
  bool can_receive(RankId from, std::uint64_t key) const override { return in_.covers(from, key); }

  bool busy() const override { return !sending_.empty() || !out_.under_way.empty() || !in_.under_way.empty(); }

  // Requests to a dead rank never complete: they and their memory are left alone on purpose.
  void abandon(RankId rank) override {
    if (const auto box = outboxes_.find(rank); box != outboxes_.end()) {
      for (Send& send : box->second) new Buffer(std::move(send.bytes));
      std::erase_if(sending_, [rank](const Sending& sending) { return sending.to == rank; });
      outboxes_.erase(box);
    }
    out_.abandon(rank, [](OutBlock& block) { new std::shared_ptr<const void>(std::move(block.keep)); });
    // `done` owns the memory that MPI may still write to.
    in_.abandon(rank, [](InBlock& block) { new OnBlock(std::move(block.done)); });
  }

  void arm() override {
    own_bell().arm();
    idle_polls_ = kLookEvery;  // the last poll before a sleep is a thorough one
  }
  void disarm() override { own_bell().disarm(); }
  void sleep(std::int64_t max_ns) override { own_bell().sleep(max_ns); }
  void interrupt() override { own_bell().ring(); }
  void give_way_inside() override { KeepsCore::end(); }
  bool hears_all() const override { return node_size_ == size_; }

  void finalize(bool in_use, const std::function<void()>& at_last) override {
    if (comm_ == MPI_COMM_NULL) return;
    finish_in_blocks();
    new std::list<Receive>(std::move(taken_));  // MPI may still write to them
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
    std::unique_ptr<std::byte[]> bytes = std::make_unique_for_overwrite<std::byte[]>(kFrameMax);
    MPI_Request request = MPI_REQUEST_NULL;
  };
  struct Send {
    MPI_Request request;
    Buffer bytes;
  };
  using Outbox = std::deque<Send>;  // frames to one rank that MPI is not done with, in the order sent
  struct Sending {
    RankId to;
    Outbox* box;  // not empty
  };
  struct OutBlock {
    RankId peer;
    std::uint64_t key;
    ByteView bytes;
    std::shared_ptr<const void> keep;
    std::size_t started;  // bytes for which a request was made
    std::deque<MPI_Request> requests;
    bool complete() const { return requests.empty() && started == bytes.size(); }
  };
  struct InBlock {
    RankId peer;
    std::uint64_t key;
    std::span<std::byte> into;
    OnBlock done;
    std::size_t started;
    std::deque<MPI_Request> requests;
    bool complete() const { return requests.empty() && started == into.size(); }
  };

  // The blocks of one direction.
  template <class Block>
  struct Blocks {
    struct Lane {  // of one peer
      KeyWindow window;
      std::map<std::uint64_t, Block> held;  // what the window does not cover yet
    };
    std::list<Block> under_way;
    std::unordered_map<RankId, Lane> lanes;

    bool covers(RankId peer, std::uint64_t key) const {
      const auto lane = lanes.find(peer);
      return lane == lanes.end() ? KeyWindow().covers(key) : lane->second.window.covers(key);
    }
    template <class Begin>
    void add(Block block, Begin begin) {
      Lane& lane = lanes[block.peer];
      if (lane.window.covers(block.key)) {
        begin(under_way.emplace_back(std::move(block)));
      } else {
        lane.held.emplace(block.key, std::move(block));
      }
    }
    // Moves a few of them on, in turns, by `advance`. Those that are complete go to `ended`, which must not come back
    // here.
    template <class Advance, class Ended>
    bool move(Advance advance, Ended ended) {
      bool happened = false;
      for (std::size_t looks = std::min(kTests, under_way.size()); looks != 0; --looks) {
        const auto block = under_way.begin();
        happened |= advance(*block);
        if (!block->complete()) {
          under_way.splice(under_way.end(), under_way, block);
          continue;
        }
        Lane& lane = lanes[block->peer];
        lane.window.ended(block->key);
        ended(*block);
        under_way.erase(block);
        while (!lane.held.empty() && lane.window.covers(lane.held.begin()->first)) {
          advance(under_way.emplace_back(std::move(lane.held.begin()->second)));
          lane.held.erase(lane.held.begin());
        }
      }
      return happened;
    }
    template <class Leave>
    void abandon(RankId peer, Leave leave) {
      for (Block& block : under_way) {
        if (block.peer == peer) leave(block);
      }
      under_way.remove_if([peer](const Block& block) { return block.peer == peer; });
      lanes.erase(peer);
    }
  };

  // Calls that MPI may not return from are made by this, so that `call` tells.
  template <class Function, class... Args>
  int inside(Function* function, Args... args) {
    call_.store(call_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    const int code = function(args...);
    call_.store(call_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    return code;
  }

  void post(Receive& receive) { check(inside(MPI_Start, &receive.request), "MPI_Start"); }

  void add_receive() {
    Receive& receive = receives_.emplace_back();
    check(MPI_Recv_init(receive.bytes.get(), static_cast<int>(kFrameMax), MPI_BYTE, MPI_ANY_SOURCE, kFrameTag, comm_,
                        &receive.request),
          "MPI_Recv_init");
    post(receive);
  }

  bool is_complete(Receive& receive, MPI_Status& status) {
    int done = 0;
    check(inside(MPI_Test, &receive.request, &done, &status), "MPI_Test");
    return done != 0;
  }

  // Hands the frame of a complete receive on. Nothing may be posted into its memory before that.
  void hand_on(const Receive& receive, const MPI_Status& status, const OnFrame& on_frame) {
    int size = 0;
    MPI_Get_count(&status, MPI_BYTE, &size);
    idle_polls_ = 0;
    heard_ = true;
    on_frame(static_cast<RankId>(status.MPI_SOURCE), ByteView(receive.bytes.get(), static_cast<std::size_t>(size)));
  }

  // Receives are matched in the order in which they were posted, so the first is the next to complete, as a rule. But a
  // rank that stops or dies in the middle of a frame keeps the receive that its frame was matched with.
  bool receive_next(const OnFrame& on_frame) {
    const auto first = receives_.begin();
    MPI_Status status;
    if (is_complete(*first, status)) {
      take(first, status, on_frame);
      return true;
    }
    return ++idle_polls_ > kLookEvery && look_at_all(on_frame);
  }

  void take(std::list<Receive>::iterator receive, const MPI_Status& status, const OnFrame& on_frame) {
    receives_.splice(receives_.end(), receives_, receive);
    hand_on(*receive, status, on_frame);
    post(*receive);
  }

  // The first receive is matched with a frame that does not get on: it has a fresh one in its place. So there are
  // always some that wait for anyone, however many ranks were lost in the middle of how many frames. What is set aside
  // is no more than what is under way.
  void set_first_aside() {
    taken_.splice(taken_.end(), receives_, receives_.begin());
    add_receive();
  }

  // One a poll, in turns.
  bool test_taken(const OnFrame& on_frame) {
    MPI_Status status;
    taken_.splice(taken_.end(), taken_, taken_.begin());
    if (!is_complete(taken_.back(), status)) return false;
    std::list<Receive> complete;
    complete.splice(complete.end(), taken_, std::prev(taken_.end()));
    MPI_Request_free(&complete.front().request);
    int cancelled = 0;  // late
    MPI_Test_cancelled(&status, &cancelled);
    if (cancelled != 0) return false;
    hand_on(complete.front(), status, on_frame);
    return true;
  }

  // Finds a frame that has come behind one that does not get on, or, where none has come for a while, how far receives
  // are matched.
  bool look_at_all(const OnFrame& on_frame) {
    idle_polls_ = 0;
    MPI_Status status;
    for (auto receive = std::next(receives_.begin()); receive != receives_.end(); ++receive) {
      if (!is_complete(*receive, status)) continue;
      // Those before it may have come in the same call.
      while (receives_.begin() != receive) {
        const auto first = receives_.begin();
        MPI_Status status_of_first;
        if (is_complete(*first, status_of_first)) {
          take(first, status_of_first, on_frame);
        } else {
          set_first_aside();
        }
      }
      take(receive, status, on_frame);
      return true;
    }
    const Time now = core::now();
    if (std::exchange(heard_, false)) quiet_since_ = now;
    if (now - quiet_since_ < kRenewAfter) return false;
    quiet_since_ = now;
    return renew(on_frame);
  }

  // Only what is not matched can be cancelled.
  bool renew(const OnFrame& on_frame) {
    bool happened = false;
    for (std::size_t n = kReceives; n != 0; --n) {
      const auto receive = receives_.begin();
      MPI_Status status;
      check(inside(MPI_Cancel, &receive->request), "MPI_Cancel");
      if (!is_complete(*receive, status)) {
        set_first_aside();
        continue;
      }
      int cancelled = 0;
      MPI_Test_cancelled(&status, &cancelled);
      if (cancelled == 0) {
        take(receive, status, on_frame);
        happened = true;
      } else {
        receives_.splice(receives_.end(), receives_, receive);
        post(*receive);
      }
    }
    return happened;
  }

  static int tag_of(std::uint64_t key) { return kBlockTag + static_cast<int>(key % kBlockTags); }

  // MPI is done with the frames to one rank in order, or nearly so. Of each rank only the first is looked at, and of
  // the ranks a few at a time, in turns: so a rank that takes nothing in keeps the memory of its own window, and that
  // of nobody else.
  bool test_sends() {
    bool happened = false;
    for (std::size_t looks = std::min(kTests, sending_.size()); looks != 0; --looks) {
      if (next_sending_ >= sending_.size()) next_sending_ = 0;
      Outbox& box = *sending_[next_sending_].box;
      int done = 1;
      while (done != 0 && !box.empty()) {
        inside(MPI_Test, &box.front().request, &done, MPI_STATUS_IGNORE);
        if (done == 0) break;
        box.pop_front();
        happened = true;
      }
      if (!box.empty()) {
        ++next_sending_;
      } else {
        sending_[next_sending_] = sending_.back();
        sending_.pop_back();
      }
    }
    return happened;
  }

  // Keeps two chunks of a block under way. `start(offset, size)` makes the request for a chunk.
  template <class B, class Start>
  bool move_chunks(B& block, std::size_t size, Start start) {
    bool happened = false;
    while (!block.requests.empty()) {
      int done = 0;
      inside(MPI_Test, &block.requests.front(), &done, MPI_STATUS_IGNORE);
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

  bool advance(OutBlock& block) {
    return move_chunks(block, block.bytes.size(), [&](std::size_t at, std::size_t size) {
      MPI_Request request = MPI_REQUEST_NULL;
      check(inside(MPI_Isend, block.bytes.data() + at, static_cast<int>(size), MPI_BYTE, static_cast<int>(block.peer),
                   tag_of(block.key), comm_, &request),
            "MPI_Isend");
      return request;
    });
  }

  bool advance(InBlock& block) {
    return move_chunks(block, block.into.size(), [&](std::size_t at, std::size_t size) {
      MPI_Request request = MPI_REQUEST_NULL;
      check(inside(MPI_Irecv, block.into.data() + at, static_cast<int>(size), MPI_BYTE, static_cast<int>(block.peer),
                   tag_of(block.key), comm_, &request),
            "MPI_Irecv");
      return request;
    });
  }

  bool move_out_blocks() {
    return out_.move([this](OutBlock& block) { return advance(block); }, [](OutBlock&) {});
  }

  bool move_in_blocks() {
    std::vector<OnBlock> complete;  // which may ask for more blocks
    const bool happened = move_in_blocks(complete);
    for (auto& done : complete) done();
    return happened;
  }

  bool move_in_blocks(std::vector<OnBlock>& complete) {
    return in_.move([this](InBlock& block) { return advance(block); },
                    [&](InBlock& block) { complete.push_back(std::move(block.done)); });
  }

  // Blocks that MPI is writing at the end would be written into memory that is given back: all ranks wait until none
  // comes any more, and send on what others wait for. Nobody is told of them.
  void finish_in_blocks() {
    MPI_Request all_done = MPI_REQUEST_NULL;
    std::vector<OnBlock> complete;
    for (int done = 0; done == 0;) {
      move_out_blocks();
      move_in_blocks(complete);
      if (all_done == MPI_REQUEST_NULL && in_.under_way.empty()) {
        if (MPI_Ibarrier(comm_, &all_done) != MPI_SUCCESS) return;
      }
      if (all_done != MPI_REQUEST_NULL) MPI_Test(&all_done, &done, MPI_STATUS_IGNORE);
      if (done == 0) sched_yield();
    }
    for (OnBlock& done : complete) new OnBlock(std::move(done));  // it owns what the store may hold no more
    new Blocks<InBlock>(std::move(in_));                          // and so do those that have not begun
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

  std::atomic<std::uint64_t> call_{0};  // odd: inside
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
  std::list<Receive> receives_;   // kReceives of them, in the order in which they were posted
  std::list<Receive> taken_;      // matched with frames that did not get on
  std::uint32_t idle_polls_ = 0;  // since the last look at all of them
  bool heard_ = false;            // a frame came since the last such look
  Time quiet_since_ = 0;          // no frame has come, or they were renewed
  std::unordered_map<RankId, Outbox> outboxes_;
  std::vector<Sending> sending_;
  std::size_t next_sending_ = 0;  // which of them is looked at next
  Blocks<OutBlock> out_;
  Blocks<InBlock> in_;
  Doorbell* bell_ = nullptr;
  std::vector<NodeBell> bells_;
  NodeBell last_bell_;
};

}  // namespace

std::unique_ptr<MpiWire> MpiWire::start(MPI_Comm over) { return std::make_unique<MpiWireImpl>(over); }

}  // namespace mobula::transport
