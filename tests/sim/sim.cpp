#include "sim/sim.hpp"

#include <algorithm>
#include <stdexcept>

#include "core/functions.hpp"
#include "mobula/mobula.hpp"

namespace mobula::sim {
namespace {

using detail::Buffer;
using detail::ByteView;
using detail::Encoder;
using detail::FunctionInfo;
using detail::kHeadRank;
using detail::kNoRank;
using detail::ObjectId;
using store::Store;
using store::ValuePtr;
using worker::Run;

std::uint64_t mix(std::uint64_t x) {
  x += 0x9E37'79B9'7F4A'7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58'476D'1CE4'E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D0'49BB'1331'11EBULL;
  return x ^ (x >> 31);
}

// ---- the tasks. Their C++ bodies give what is expected; the simulated bodies do the same with virtual time.
// ----------

constexpr Time kGangGrace = 3'000'000;
constexpr std::size_t kLarge = 900;  // numbers in a large value: more than goes inline

std::uint64_t leaf(std::uint64_t seed) { return mix(seed); }
std::uint64_t join(std::uint64_t a, std::uint64_t b) { return mix(a * 3 + b); }
std::uint64_t expected_node(std::uint64_t seed, std::uint32_t depth) {
  if (depth == 0) return leaf(seed);
  std::uint64_t sum = seed;
  for (std::uint64_t i = 0; i < 2 + seed % 3; ++i) sum = join(sum, expected_node(mix(seed + i), depth - 1));
  return sum;
}
std::uint64_t node(std::uint64_t seed, std::uint32_t depth) { return expected_node(seed, depth); }
Ref<std::uint64_t> box(std::uint64_t) { return {}; }            // returns a ref to leaf(seed)
std::uint64_t open(Ref<std::uint64_t>) { return 0; }            // gets it
std::vector<std::uint64_t> large(std::uint64_t) { return {}; }  // kLarge times mix(seed)
std::uint64_t first(const std::vector<std::uint64_t>& v) { return v.empty() ? 0 : v[0]; }
std::vector<std::uint64_t> join_all(std::vector<std::uint64_t> a, const std::vector<std::uint64_t>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] = join(a[i], b[i]);
  return a;
}
// As `reduce` says where its brackets are.
std::uint64_t expected_reduce(std::vector<std::uint64_t> values) {
  while (values.size() > 1) {
    std::vector<std::uint64_t> above;
    for (std::size_t i = 0; i + 1 < values.size(); i += 2) above.push_back(join(values[i], values[i + 1]));
    if (values.size() % 2 != 0) above.push_back(values.back());
    values = std::move(above);
  }
  return values.front();
}
// Reduces the leaves of n seeds, waits for the result or gives it on.
std::uint64_t reduced(std::uint64_t, std::uint64_t) { return 0; }
Ref<std::uint64_t> given_reduced(std::uint64_t, std::uint64_t) { return {}; }
std::vector<std::uint64_t> leaves(std::uint64_t seed, std::uint64_t n) {
  std::vector<std::uint64_t> values;
  for (std::uint64_t i = 0; i < n; ++i) values.push_back(leaf(seed + i));
  return values;
}
std::uint64_t broken(std::uint64_t seed) { throw std::runtime_error(std::to_string(seed)); }

constexpr const char* kOfInput = "an input of the task";

// An actor. The calls of each caller must come in order, each once; where ranks are lost, some may be missing.
struct Tally {
  std::map<std::uint64_t, std::uint64_t> next;
  std::vector<Handle> kept;
  std::uint64_t call(std::uint64_t, std::uint64_t n, std::uint64_t value) { return mix(n * 5 + value); }
  void keep(Ref<std::uint64_t>) {}
  Ref<std::uint64_t> give() { return {}; }
};
// Makes n calls on the actor as a caller of its own, and returns their sum.
std::uint64_t drive(Ref<std::uint64_t>, std::uint64_t, std::uint64_t) { return 0; }
std::uint64_t expected_drive(std::uint64_t caller, std::uint64_t n) {
  std::uint64_t sum = caller;
  for (std::uint64_t i = 0; i < n; ++i) sum = join(sum, mix(i * 5 + caller + i));
  return sum;
}

// A gang whose members meet, if they all come so far. Which member fails, if one does: none, one before they meet, or
// one after that.
std::uint64_t member(const boost::mpi::communicator&, std::uint64_t seed) { return seed; }
enum class Fails { none, before, after };
Fails gang_fails(std::uint64_t seed) {
  return seed % 8 == 0 ? Fails::before : seed % 8 == 1 ? Fails::after : Fails::none;
}

const FunctionInfo& kMember = detail::GangMember<member>::info;
const FunctionInfo& kMake = detail::Constructor<std::tuple<>, Tally>::info;
const FunctionInfo& kCall = detail::Method<Tally, &Tally::call>::info;
const FunctionInfo& kKeep = detail::Method<Tally, &Tally::keep>::info;
const FunctionInfo& kGive = detail::Method<Tally, &Tally::give>::info;
const FunctionInfo& kDrive = detail::Function<drive>::info;
const FunctionInfo& kLeaf = detail::Function<leaf>::info;
const FunctionInfo& kJoin = detail::Function<join>::info;
const FunctionInfo& kNode = detail::Function<node>::info;
const FunctionInfo& kBox = detail::Function<box>::info;
const FunctionInfo& kOpen = detail::Function<open>::info;
const FunctionInfo& kLargeTask = detail::Function<large>::info;
const FunctionInfo& kFirst = detail::Function<first>::info;
const FunctionInfo& kFold = detail::Fold<std::uint64_t, join>::info;
const FunctionInfo& kFoldLarge = detail::Fold<std::vector<std::uint64_t>, join_all>::info;
const FunctionInfo& kReduced = detail::Function<reduced>::info;
const FunctionInfo& kGivenReduced = detail::Function<given_reduced>::info;
const FunctionInfo& kBroken = detail::Function<broken>::info;

}  // namespace

class Cluster final : Network {
 public:
  explicit Cluster(const Options& options);
  ~Cluster();
  Outcome run();

 private:
  struct Rank {
    std::unique_ptr<std::byte[]> memory;
    std::size_t memory_size = 0;
    std::unique_ptr<Store> store;
    std::map<Store::FileNumber, Buffer> files;
    Time files_busy = 0;  // until then
    std::unique_ptr<transport::Transport> transport;
    std::unique_ptr<store::ObjectTable> objects;
    std::unique_ptr<worker::Worker> worker;
    std::unique_ptr<head::Head> head;
    bool alive = true;
    bool leaves = false;
    bool dismissed = false;
    struct Waiting {
      const std::function<bool()>* met;
      std::coroutine_handle<> resume;
    };
    std::vector<Waiting> waiting;
    std::vector<std::coroutine_handle<>> bodies;
  };
  // Awaitables refer to named variables only: GCC 12 destroys temporaries of a co_await twice.
  class Delay {
   public:
    Delay(Cluster& cluster, RankId rank, Time time) : cluster_(cluster), rank_(rank), time_(time) {}
    bool await_ready() const { return false; }
    void await_suspend(std::coroutine_handle<> h) {
      cluster_.at(cluster_.now() + time_, [c = &cluster_, r = rank_, h] {
        if (!c->ranks_[r].alive) return;
        h.resume();
        c->settle(r);
      });
    }
    void await_resume() const {}

   private:
    Cluster& cluster_;
    RankId rank_;
    Time time_;
  };
  using Wish = std::function<bool()>;
  class Until {
   public:
    Until(Cluster& cluster, RankId rank, const Wish& met) : cluster_(cluster), rank_(rank), met_(met) {}
    bool await_ready() const { return met_(); }
    void await_suspend(std::coroutine_handle<> h) { cluster_.ranks_[rank_].waiting.push_back({&met_, h}); }
    void await_resume() const {}

   private:
    Cluster& cluster_;
    RankId rank_;
    const Wish& met_;
  };

  bool alive(RankId rank) const override { return ranks_[rank].alive; }
  void arrived(RankId rank) override {
    ++activity_;
    poll(rank);
  }
  void at_boundary(RankId rank) override {
    if (rank != options_.dies || rank == kHeadRank || driver_done_) return;
    if (++outcome_.boundaries == options_.dies_at) lose(rank);
  }
  std::uint64_t random(std::uint64_t below) { return random_() % below; }
  Time latency() override {
    const auto span = static_cast<std::uint64_t>(options_.latency_most - options_.latency_least + 1);
    const Time base = options_.latency_least + static_cast<Time>(random(span));
    return random(1'000'000) < static_cast<std::uint64_t>(options_.slow_part * 1e6)
               ? base * static_cast<Time>(1 + random(100))
               : base;
  }
  void note(std::uint64_t what) { outcome_.digest = mix(outcome_.digest ^ what); }
  [[noreturn]] void wrong(const std::string& what) const {
    if (std::getenv("SIM_VERBOSE") != nullptr) std::fprintf(stderr, "%s\n", ranks_[0].head->describe_pieces().c_str());
    for (RankId r = 0; std::getenv("SIM_VERBOSE") != nullptr && r < ranks_.size(); ++r) {
      const Rank& rank = ranks_[r];
      std::fprintf(stderr, "rank %u%s: %s\n  %s\n  %s\n", r, rank.alive ? "" : " (lost)",
                   rank.worker->describe().c_str(), rank.objects->describe().c_str(), rank.store->describe().c_str());
    }
    throw std::runtime_error("seed " + std::to_string(options_.seed) + " (" + std::to_string(options_.ranks) +
                             " ranks, " + std::to_string(options_.losses) + " losses), at " + std::to_string(now()) +
                             " ns: " + what);
  }
  void require(bool condition, const char* what) const {
    if (!condition) wrong(what);
  }

  void poll(RankId rank);
  void settle(RankId rank);
  void tick();
  void lose(RankId rank);
  void check_rank(RankId rank);
  void start(RankId rank, Body body) {
    ranks_[rank].bodies.push_back(body.handle);
    body.handle.resume();
  }

  // Programs
  Handle submit(RankId rank, bool in_task, const FunctionInfo& function, const std::function<void(Encoder&)>& args,
                std::vector<std::pair<int, Handle>> deps = {}, const TaskOptions* options = nullptr);
  // Of the leaves of n seeds, as one batch.
  Handle reduce_leaves(RankId rank, bool in_task, std::uint64_t seed, std::uint64_t n);
  Handle submit_leaf(RankId rank, bool in_task, std::uint64_t seed) {
    return submit(rank, in_task, kLeaf, [seed](Encoder& out) { out.put(seed); });
  }
  Handle call(RankId rank, const detail::ActorBase& actor, const FunctionInfo& method, ObjectId caller,
              const std::function<void(Encoder&)>& args, std::vector<std::pair<int, Handle>> deps = {});
  bool is_here(const Handle& handle, RankId rank, ValuePtr* keep = nullptr);
  std::optional<std::uint64_t> number(const Handle& handle, RankId rank, const ValuePtr& kept = nullptr);
  void carry_out(RankId rank, Store::Order order);
  // A Wish for room for n bytes; what is no room at all, or no pages, is made up for by the heap.
  bool take_room(RankId rank, std::size_t n, Buffer& buffer);
  Body task(RankId rank, std::unique_ptr<Run> run, bool* done);
  Body driver();
  ObjectId read_id(detail::Decoder& in) {
    ObjectId id;
    id.span.value = in.get<std::uint64_t>();
    id.index = in.get<std::uint32_t>();
    return id;
  }

  // Values may have failed: what was asked for can't be had any more with the ranks that are left.
  bool may_miss() const { return outcome_.losses + outcome_.left > 0; }

  Options options_;
  std::mt19937_64 random_;
  std::uint32_t per_node_ = 1;
  std::uint32_t node_of(RankId rank) const { return rank / per_node_; }
  // Up to what the ranks of the widest node have together.
  double some_cpus() { return 1 + static_cast<double>(random(std::max<std::uint64_t>(widest_, 1))); }
  std::uint64_t widest_ = 0;
  std::vector<Rank> ranks_;
  std::map<std::uint64_t, std::uint32_t> met_;  // members that have come so far, by gang
  std::uint64_t activity_ = 0;
  bool driver_done_ = false;
  std::string awaited_ = "the ranks";  // by the driver
  Outcome outcome_;
};

// ---- ranks -------------------------------------------------------------------------------------------------------

Cluster::Cluster(const Options& options)
    : Network(options.ranks), options_(options), random_(options.seed), ranks_(options.ranks) {
  per_node_ = 1 + static_cast<std::uint32_t>(random(4));
  std::uint64_t width = 0;  // of the node so far
  for (RankId r = 0; r < options.ranks; ++r) {
    Rank& rank = ranks_[r];
    rank.transport = std::make_unique<transport::Transport>(wire(r));
    Store::Settings memory;
    rank.memory_size = (6 + random(60)) << 12;
    rank.memory = std::make_unique_for_overwrite<std::byte[]>(rank.memory_size);
    memory.memory = {rank.memory.get(), rank.memory_size};
    memory.spills = random(8) != 0;
    memory.commit = [this](std::span<std::byte>) { return random(16) != 0; };
    memory.segment_of = [this, r](RankId other) {
      const Rank& owner = ranks_[other];
      return node_of(other) == node_of(r) ? ByteView(owner.memory.get(), owner.memory_size) : ByteView();
    };
    rank.store = std::make_unique<Store>(std::move(memory));
    rank.objects = std::make_unique<store::ObjectTable>(r, *rank.store);
    worker::Settings settings;
    settings.slots = r == 0 && options.ranks > 1 ? 0 : 1 + static_cast<std::uint32_t>(random(options.slots_most));
    settings.offers.cpus = settings.slots;
    width = (r % per_node_ == 0 ? 0 : width) + settings.slots;
    widest_ = std::max(widest_, width);
    if (r % 2 == 1 || options.ranks == 1) settings.offers.resources["x"] = 1;
    settings.offers.resources["y"] = 2;  // of the node
    settings.host = "sim";
    settings.gang_grace = kGangGrace;
    rank.worker = std::make_unique<worker::Worker>(*rank.transport, *rank.objects, settings);
    if (r == 0) {
      head::Settings head_settings;
      head_settings.ranks = options.ranks;
      head_settings.lost_after = 0;
      head_settings.leave_hold = 0;
      head_settings.crash_limit = 1000;
      rank.head = std::make_unique<head::Head>(*rank.transport, *rank.objects, head_settings);
    }
    core::Join join;
    join.node = node_of(r);
    join.slots = settings.slots;
    join.offers = settings.offers;
    join.node_resources = {"y"};
    rank.transport->send(kHeadRank, join);
  }
}

Cluster::~Cluster() {
  for (Rank& rank : ranks_) {
    rank.waiting.clear();
    for (const auto& body : rank.bodies) body.destroy();
  }
  drop_events();
  // Values go before the stores that they lie in, which other ranks may read.
  for (Rank& rank : ranks_) {
    rank.head.reset();
    rank.worker.reset();
  }
}

void Cluster::poll(RankId r) {
  Rank& rank = ranks_[r];
  if (!rank.alive) return;
  settle(r);
}

// Takes in what has come, decides, starts what may run, lets those go on whose wish is met, and sends.
void Cluster::settle(RankId r) {
  Rank& rank = ranks_[r];
  const auto on_frame = [&](RankId from, ByteView frame) {
    core::read_frame(frame, [&](const auto& message) {
      using M = std::decay_t<decltype(message)>;
      note(core::Messages::type_of<M>() * 1000 + from * 10 + r);
      ++outcome_.events;
      if constexpr (requires(head::Head & head) { head.handle(from, message); }) {
        rank.head->handle(from, message);
      } else if constexpr (std::is_same_v<M, core::Dismiss>) {
        rank.dismissed = true;
      } else if constexpr (requires { rank.worker->handle(from, message); }) {
        rank.worker->handle(from, message);
      }
    });
  };
  bool more = true;
  while (more && rank.alive) {
    more = false;
    rank.worker->flush(now());
    while (rank.transport->poll(on_frame)) {
      if (rank.head) rank.head->step(now());
      rank.worker->flush(now());
      more = true;
    }
    if (rank.head) rank.head->step(now());
    for (std::size_t i = 0; i < rank.waiting.size(); ++i) {
      if (!(*rank.waiting[i].met)()) continue;
      const auto resume = rank.waiting[i].resume;
      rank.waiting.erase(rank.waiting.begin() + static_cast<std::ptrdiff_t>(i));
      resume.resume();
      more = true;
      break;  // the list may have changed
    }
    while (auto run = rank.worker->next_run(now())) {
      start(r, task(r, std::move(run), nullptr));
      more = true;
    }
    rank.transport->flush();
    for (Store::Order& order : rank.store->take_orders()) carry_out(r, std::move(order));
    if (rank.transport->has_own()) more = true;
  }
  check_rank(r);
  if (rank.dismissed && rank.alive && !rank.transport->busy() && !rank.transport->has_unsent()) {
    rank.transport->send(kHeadRank, core::Left{rank.transport->frames_by_receiver()});
    rank.transport->flush();
    rank.alive = false;
  }
}

// Files and pages take their time, one order after the other.
void Cluster::carry_out(RankId r, Store::Order order) {
  Rank& rank = ranks_[r];
  rank.files_busy = std::max(rank.files_busy, now()) + static_cast<Time>(1'000 + random(100'000));
  at(rank.files_busy, [this, r, shared = std::make_shared<Store::Order>(std::move(order))] {
    Rank& here = ranks_[r];
    if (!here.alive) return;
    ++activity_;
    if (auto* write = std::get_if<Store::Write>(shared.get())) {
      const bool good = random(200) != 0;
      if (good) here.files[write->file] = Buffer(write->value->view());
      write->value.reset();
      here.store->written(write->id, write->file, good ? "" : "the disk is full");
    } else if (auto* read = std::get_if<Store::Read>(shared.get())) {
      Store::Room room{std::move(*read->into), read->cold};
      here.store->settle(room, read->cold.empty() || here.store->commit()(read->cold));
      *read->into = std::move(room.buffer);
      const auto file = here.files.find(read->file);
      if (file != here.files.end()) read->into->append(file->second.data(), file->second.size());
      here.store->was_read(read->id, read->file, std::move(read->into),
                           file != here.files.end() ? "" : "there is no such file");
    } else if (const auto* remove = std::get_if<Store::Remove>(shared.get())) {
      here.files.erase(remove->file);
    } else {
      const auto& prepare = std::get<Store::Prepare>(*shared);
      here.worker->prepared(prepare.token, here.store->commit()(prepare.cold));
    }
    settle(r);
  });
}

bool Cluster::take_room(RankId r, std::size_t n, Buffer& buffer) {
  Store& store = *ranks_[r].store;
  Store::Room room;
  const Store::Verdict verdict = store.take(n, room);
  if (verdict != Store::Verdict::given && random(4) == 0) {
    ranks_[r].worker->park();
    at(now() + static_cast<Time>(random(200'000)), [this, r] {
      if (!ranks_[r].alive) return;
      ranks_[r].worker->unpark();
      settle(r);
    });
  }
  if (verdict == Store::Verdict::later) return false;
  if (verdict == Store::Verdict::given) {
    store.settle(room, room.cold.empty() || store.commit()(room.cold));
    buffer = std::move(room.buffer);
  }
  return true;
}

void Cluster::check_rank(RankId r) {
  Rank& rank = ranks_[r];
  if (!options_.check_each_step || !rank.alive) return;  // it may die while it sends
  require(rank.worker->cpus_in_use() <= rank.worker->settings().slots + 1e-6, "no slot runs two tasks");
  require(!rank.worker->has_runnable(), "nothing that can run stays idle");
  if (rank.head) rank.head->check_invariants();
  rank.store->check_invariants();
}

void Cluster::lose(RankId r) {
  Rank& rank = ranks_[r];
  rank.alive = false;
  ++outcome_.losses;
  // What it was at is known where its keeper has told.
  const bool told = random(2) == 0;
  at(now() + 200'000 + static_cast<Time>(random(3'000'000)), [this, r, told, begun = rank.worker->begun()] {
    ranks_[0].head->worker_lost(r, "", told ? &begun : nullptr);
    note(r);
    ++activity_;
    settle(0);
  });
}

// ---- programs ----------------------------------------------------------------------------------------------------

Handle Cluster::submit(RankId r, bool in_task, const FunctionInfo& function, const std::function<void(Encoder&)>& args,
                       std::vector<std::pair<int, Handle>> deps, const TaskOptions* options) {
  ++outcome_.tasks;
  detail::Draft::State draft;
  args(draft.args);
  for (auto& [position, handle] : deps) detail::add_dep(draft, static_cast<std::size_t>(position), handle);
  return ranks_[r].worker->submit(function, options, draft, in_task, now());
}

Handle Cluster::reduce_leaves(RankId r, bool in_task, std::uint64_t seed, std::uint64_t n) {
  store::ObjectTable& objects = *ranks_[r].objects;
  const detail::BatchHandle batch(objects.new_batch(kLeaf.fixed_result), static_cast<std::uint32_t>(n));
  TaskOptions options;
  options.retries = 1000;
  detail::Draft::State draft;
  for (std::uint64_t i = 0; i < n; ++i) draft.args.put(seed + i);
  std::vector<std::uint32_t> ends;
  ranks_[r].worker->submit_items(*batch.record(), 0, static_cast<std::uint32_t>(n), kLeaf, &options, 0, {}, draft, ends,
                                 in_task, now());
  objects.close(*batch.record());
  return ranks_[r].worker->reduce(kFold, {batch, {}}, &options, in_task);
}

Handle Cluster::call(RankId r, const detail::ActorBase& actor, const FunctionInfo& method, ObjectId caller,
                     const std::function<void(Encoder&)>& args, std::vector<std::pair<int, Handle>> deps) {
  ++outcome_.tasks;
  detail::Draft::State draft;
  args(draft.args);
  for (auto& [position, handle] : deps) detail::add_dep(draft, static_cast<std::size_t>(position), handle);
  return ranks_[r].worker->call(actor, method, draft, caller);
}

bool Cluster::is_here(const Handle& handle, RankId r, ValuePtr* keep) {
  detail::Record& record = *handle.record();
  store::ObjectTable& objects = *ranks_[r].objects;
  const auto here = [&] {
    if (!objects.is_here(record, handle.index())) return false;
    if (keep != nullptr) *keep = objects.value_of(record, handle.index());
    return true;
  };
  if (here()) return true;
  if (record.ready(handle.index()) || !record.mine) ranks_[r].worker->request(handle);
  return here();
}

// The first number of a value that is here; none if it failed. Failures other than of `broken` need a loss to explain.
std::optional<std::uint64_t> Cluster::number(const Handle& handle, RankId r, const ValuePtr& kept) {
  try {
    const std::optional<ByteView> small = handle.record()->value(handle.index());
    const ValuePtr large = small             ? nullptr
                           : kept != nullptr ? kept
                                             : ranks_[r].objects->value_of(*handle.record(), handle.index());
    require(small || large != nullptr, "a value that is here can be read");
    const ByteView bytes = small ? *small : large->view();
    detail::Decoder in(bytes);
    if (bytes.size() > sizeof(std::uint64_t)) in.get<std::uint64_t>();  // a vector's length
    return in.get<std::uint64_t>();
  } catch (const ObjectLost& e) {
    const std::string why = e.what();
    const bool of_input = why.find(kOfInput) != std::string::npos;
    require(outcome_.losses > 0 || (outcome_.left > 0 && of_input),
            ("an object is lost only with a rank: " + why).c_str());
    // A small result goes to the rank that submitted its task: where that is lost meanwhile, it may have gone nowhere.
    const std::size_t name = why.find("value of object ");
    const auto lost = name != std::string::npos
                          ? core::parse_id(why.substr(name + 16, why.find(' ', name + 16) - name - 16))
                          : std::nullopt;
    const bool is_orphan = lost && lost->span.owner() < ranks_.size() && !ranks_[lost->span.owner()].alive;
    const bool is_fair = why.find("no task that can run again") != std::string::npos || of_input || is_orphan;
    require(is_fair, ("what tasks have made is made again: " + why).c_str());
  } catch (const WorkerLost&) {
    require(outcome_.losses > 0, "a worker is lost only when one died");
  } catch (const Infeasible&) {
    require(outcome_.losses + outcome_.left > 0, "what could run can do so while no rank is lost");
  } catch (const std::runtime_error&) {
    return std::nullopt;
  }
  ++outcome_.errors;
  return std::nullopt;
}

// The simulated life of one run: virtual time for each task, children, waits, results.
Body Cluster::task(RankId r, std::unique_ptr<Run> run, bool* done) {
  worker::Worker& worker = *ranks_[r].worker;
  detail::TaskRun& task = run->task;
  const FunctionInfo& function = *run->body->function;
  if (function.kind == FunctionInfo::Kind::constructor || function.kind == FunctionInfo::Kind::destructor) {
    co_await Delay(*this, r, static_cast<Time>(100 + random(500'000)));
    function.invoke(task);
  }
  for (; task.next != task.end; task.advance()) {
    if (task.stop.load()) break;
    task.begin();
    co_await Delay(*this, r, static_cast<Time>(100 + random(200'000)));
    std::size_t dep = 0;
    std::exception_ptr failure;
    std::vector<Handle> wait_for;
    std::uint64_t result = 0;
    if (&function == &kLeaf) {
      result = leaf(detail::take_held<std::uint64_t>(task, 0, dep).value);
    } else if (&function == &kCall) {
      const auto caller = detail::take_held<std::uint64_t>(task, 0, dep).value;
      const auto n = detail::take_held<std::uint64_t>(task, 1, dep).value;
      const auto value = detail::take_held<std::uint64_t>(task, 2, dep).value;
      auto& tally = *static_cast<Tally*>(task.actor.get());
      std::uint64_t& next = tally.next[caller];
      if (outcome_.losses == 0 ? n != next : n < next) {
        wrong("call " + std::to_string(n) + " of a caller came in place of " + std::to_string(next));
      }
      next = n + 1;
      result = tally.call(caller, n, value);
    } else if (&function == &kKeep) {
      static_cast<Tally*>(task.actor.get())->kept.push_back(ranks_[r].objects->handle_of(read_id(task.args)));
      task.finish();
      continue;
    } else if (&function == &kGive) {
      auto& tally = *static_cast<Tally*>(task.actor.get());
      const Handle given = !tally.kept.empty() ? tally.kept.back() : submit_leaf(r, true, 0);
      if (!tally.kept.empty()) tally.kept.pop_back();
      task.out.ref(given);
      task.finish();
      continue;
    } else if (&function == &kDrive) {
      const detail::ActorBase actor(ranks_[r].objects->handle_of(read_id(task.args)), {});
      const auto caller = detail::take_held<std::uint64_t>(task, 1, dep).value;
      const auto n = detail::take_held<std::uint64_t>(task, 2, dep).value;
      const ObjectId me = worker.current_caller(*run);
      // Of one attempt: another one calls in its own name.
      const std::uint64_t name = mix(caller + run->body->attempt);
      result = caller;
      for (std::uint64_t i = 0; i < n; ++i) {
        const auto args = [&](Encoder& out) {
          out.put(name);
          out.put(i);
          out.put(caller + i);
        };
        wait_for.push_back(call(r, actor, kCall, me, args));
        if (random(4) == 0) co_await Delay(*this, r, static_cast<Time>(random(50'000)));
      }
    } else if (&function == &kMember) {
      const auto seed = detail::take_held<std::uint64_t>(task, 0, dep).value;
      const core::GangPart& part = *run->body->gang;
      const std::uint32_t k = run->body->options->gang;
      const bool is_one = part.place == seed / 8 % k;
      if (gang_fails(seed) == Fails::before && is_one) {
        failure = std::make_exception_ptr(std::runtime_error("before they met"));
      } else {
        std::uint32_t& met = met_[part.gang];
        ++met;
        const Wish met15 = [&met, k, &run] { return met == k || run->broken; };
        co_await Until(*this, r, met15);
        // Blocked in MPI, if the others never come.
        co_await Delay(*this, r, static_cast<Time>(random(met == k ? 500'000 : 2 * kGangGrace)));
        if (met != k || (gang_fails(seed) == Fails::after && is_one)) {
          failure = std::make_exception_ptr(std::runtime_error("after they met"));
        }
      }
      result = mix(seed + part.place);
    } else if (&function == &kJoin) {
      const auto a = detail::take_held<std::uint64_t>(task, 0, dep).value;
      result = join(a, detail::take_held<std::uint64_t>(task, 1, dep).value);
    } else if (&function == &kFirst) {
      result = first(detail::take_held<std::vector<std::uint64_t>>(task, 0, dep).value);
    } else if (&function == &kLargeTask) {
      const auto seed = detail::take_held<std::uint64_t>(task, 0, dep).value;
      Encoder value;
      const Wish met0 = [this, r, &value] { return take_room(r, (kLarge + 1) * sizeof(std::uint64_t), value.buffer); };
      co_await Until(*this, r, met0);
      detail::encode(value, std::vector<std::uint64_t>(kLarge, mix(seed)));
      task.finish_large(std::move(value));
      continue;
    } else if (&function == &kFold) {
      result = detail::Fold<std::uint64_t, join>::apply(task);
    } else if (&function == &kFoldLarge) {
      const auto values = detail::Fold<std::vector<std::uint64_t>, join_all>::apply(task);
      Encoder value;
      const Wish met18 = [this, r, &value] { return take_room(r, (kLarge + 1) * sizeof(std::uint64_t), value.buffer); };
      co_await Until(*this, r, met18);
      detail::encode(value, values);
      task.finish_large(std::move(value));
      continue;
    } else if (&function == &kReduced || &function == &kGivenReduced) {
      const auto seed = detail::take_held<std::uint64_t>(task, 0, dep).value;
      const auto n = detail::take_held<std::uint64_t>(task, 1, dep).value;
      const Handle reduction = reduce_leaves(r, true, seed, n);
      if (&function == &kGivenReduced) {
        task.out.ref(reduction);
        task.finish();
        continue;
      }
      wait_for.push_back(reduction);
    } else if (&function == &kBroken) {
      try {
        broken(detail::take_held<std::uint64_t>(task, 0, dep).value);
      } catch (...) {
        failure = std::current_exception();
      }
    } else if (&function == &kBox) {
      const auto seed = detail::take_held<std::uint64_t>(task, 0, dep).value;
      const Handle child = submit_leaf(r, true, seed);
      task.out.ref(child);
      task.finish();
      continue;
    } else if (&function == &kOpen) {
      ObjectId id;
      if ((task.dep_mask & 1) != 0) {
        detail::Decoder in(task.deps[0]);
        id = read_id(in);
      } else {
        id = read_id(task.args);
      }
      wait_for.push_back(ranks_[r].objects->handle_of(id));
    } else {
      const auto seed = detail::take_held<std::uint64_t>(task, 0, dep).value;
      const auto depth = detail::take_held<std::uint32_t>(task, 1, dep).value;
      TaskOptions wide;
      wide.retries = 1000;
      wide.cpus = some_cpus();
      result = depth == 0 ? leaf(seed) : seed;
      if (depth != 0) {
        for (std::uint64_t i = 0; i < 2 + seed % 3; ++i) {
          const auto args = [s = mix(seed + i), d = depth - 1](Encoder& out) {
            out.put(s);
            out.put(d);
          };
          wait_for.push_back(submit(r, true, kNode, args, {}, random(16) == 0 ? &wide : nullptr));
        }
      }
    }
    for (const Handle& handle : wait_for) {
      ValuePtr kept;
      if (!is_here(handle, r)) {
        if (auto inner = worker.claim(handle, *run, now())) {
          bool inner_done = false;
          start(r, this->task(r, std::move(inner), &inner_done));
          const Wish met1 = [&inner_done] { return inner_done; };
          co_await Until(*this, r, met1);
        }
      }
      if (!is_here(handle, r)) {
        worker.lend(*run);
        const Wish met2 = [this, r, &handle, &kept] { return is_here(handle, r, &kept); };
        co_await Until(*this, r, met2);
        if (!worker.resume(*run)) {
          worker.want_resume(1);
          const Wish met3 = [&worker, &run] { return worker.resume(*run); };
          co_await Until(*this, r, met3);
          worker.want_resume(-1);
        }
      }
      const auto value = number(handle, r, kept);
      if (!value) {
        failure = std::make_exception_ptr(ObjectLost(kOfInput));
        break;
      }
      result = &function == &kOpen || &function == &kReduced ? *value : join(result, *value);
    }
    if (failure) {
      try {
        std::rethrow_exception(failure);
      } catch (...) {
        task.fail();
      }
    } else {
      task.out.put(result);
      task.finish();
    }
  }
  ++activity_;
  worker.finish(std::move(run), now());
  if (done != nullptr) *done = true;
}

// A random program. What it gets is compared with what the C++ functions return.
Body Cluster::driver() {
  struct Known {
    Handle handle;
    std::optional<std::uint64_t> value;  // none: it fails
    bool is_large = false;
  };
  struct Called {
    detail::ActorBase actor;
    std::uint64_t calls = 0;          // of the driver
    std::vector<std::uint64_t> kept;  // what the Refs that it keeps stand for
  };
  std::vector<Known> known;
  std::vector<Called> actors;
  worker::Worker& worker = *ranks_[0].worker;
  const Wish met4 = [this] { return ranks_[0].head->all_joined(); };
  co_await Until(*this, 0, met4);
  const bool is_short = options_.steps < 20;  // it is run for each of its messages
  for (std::uint32_t step = 0; step < options_.steps; ++step) {
    const std::uint64_t seed = random_();
    TaskOptions options;
    options.retries = 1000;
    options.priority = static_cast<int>(random(3)) - 1;
    if (random(8) == 0) {
      options.resources["x"] = 1;
    } else if (random(8) == 0) {
      options.resources["y"] = 1 + static_cast<double>(random(2));
    } else if (random(8) == 0) {
      options.cpus = some_cpus();
    }
    const auto pick = [&]() -> const Known& { return known[random(known.size())]; };
    switch (options_.crowded && random(2) == 0 ? 26 : random(32)) {
      case 0:
      case 1: {  // many small ones
        const std::uint64_t n = 1 + random(300);
        for (std::uint64_t i = 0; i < n; ++i) {
          Handle h = submit(
              0, false, kLeaf, [s = seed + i](Encoder& out) { out.put(s); }, {}, &options);
          if (random(4) == 0) known.push_back({h, leaf(seed + i)});
        }
        break;
      }
      case 2: {
        const auto depth = static_cast<std::uint32_t>(random(5));
        Handle h = submit(
            0, false, kNode,
            [seed, depth](Encoder& out) {
              out.put(seed);
              out.put(depth);
            },
            {}, &options);
        known.push_back({h, expected_node(seed, depth)});
        break;
      }
      case 3:
      case 4:
      case 5:
        if (known.size() >= 2) {  // a dependent of two, perhaps of ones that fail
          const Known a = pick();
          const Known b = pick();
          if (a.is_large || b.is_large) break;
          Handle h = submit(
              0, false, kJoin, [](Encoder&) {}, {{0, a.handle}, {1, b.handle}}, random(2) == 0 ? nullptr : &options);
          known.push_back({h, a.value && b.value ? std::optional(join(*a.value, *b.value)) : std::nullopt});
        }
        break;
      case 6: {
        Handle h = submit(
            0, false, kLargeTask, [seed](Encoder& out) { out.put(seed); }, {}, &options);
        known.push_back({h, mix(seed), true});
        known.push_back({submit(0, false, kFirst, [](Encoder&) {}, {{0, h}}), mix(seed)});
        break;
      }
      case 7: {  // a ref that comes back, and goes on
        Handle inner = submit(
            0, false, kBox, [seed](Encoder& out) { out.put(seed); }, {}, &options);
        awaited_ = core::to_string(inner.id());
        const Wish met5 = [this, &inner] { return is_here(inner, 0); };
        co_await Until(*this, 0, met5);
        try {
          detail::Decoder in(inner.record()->value(inner.index()).value());
          const Handle boxed = ranks_[0].objects->handle_of(read_id(in));
          inner = {};
          known.push_back({boxed, leaf(seed)});
          known.push_back({submit(0, false, kOpen, [&boxed](Encoder& out) { out.ref(boxed); }), leaf(seed)});
        } catch (const Infeasible&) {
          require(may_miss(), "a box can be had while no rank is lost");
        } catch (const Error& e) {
          require(outcome_.losses > 0, (std::string("a box fails only with a rank: ") + e.what()).c_str());
        }
        break;
      }
      case 8: {
        Handle h = submit(
            0, false, kBroken, [seed](Encoder& out) { out.put(seed); }, {}, &options);
        known.push_back({h, std::nullopt});
        break;
      }
      case 9: {  // put, and a task on it
        Encoder out;
        const std::size_t n = 1 + random(2 * kLarge);
        const Wish met9 = [this, n, &out] { return take_room(0, (n + 1) * sizeof(std::uint64_t), out.buffer); };
        awaited_ = "room";
        co_await Until(*this, 0, met9);
        detail::encode(out, std::vector<std::uint64_t>(n, seed));
        const Handle h = worker.put(std::move(out));
        known.push_back({submit(0, false, kFirst, [](Encoder&) {}, {{0, h}}), seed});
        break;
      }
      case 10:
        if (!known.empty()) {  // cancel one; whether it was is told
          const std::size_t i = random(known.size());
          worker.make_known(known[i].handle);
          const auto token = worker.ask(core::Question::cancel, known[i].handle.id());
          std::optional<core::Answer> answer;
          awaited_ = "an answer";
          const Wish met6 = [&] { return answer || (answer = worker.take_answer(token)); };
          co_await Until(*this, 0, met6);
          if (answer->yes) {
            awaited_ = core::to_string(known[i].handle.id());
            const Wish met7 = [this, h = known[i].handle] { return is_here(h, 0); };
            co_await Until(*this, 0, met7);
            require(!number(known[i].handle, 0), "a cancelled task has no value");
            // Dependents may or may not have been cut off: forget what hangs on it.
            known.clear();
          }
        }
        break;
      case 11:
        if (!known.empty()) {  // drop some
          for (std::size_t i = 0; i < known.size();) {
            if (random(3) == 0) {
              known[i] = known.back();
              known.pop_back();
            } else {
              ++i;
            }
          }
        }
        break;
      case 12: {
        ActorOptions wish;
        const bool pinned = random(6) == 0;
        wish.cpus = pinned ? 1 : 0;
        wish.restarts = static_cast<int>(random(3));
        wish.call_retries = wish.restarts > 0 ? static_cast<int>(random(3)) : 0;
        detail::Draft::State draft;
        const Handle h = worker.mint_actor();
        const auto wire = worker.actor_options(wish, kMake);
        worker.create(h, kMake, *wire, draft);
        actors.push_back({detail::ActorBase(h, wire->actor.limits), 0, {}});
        if (!pinned) break;
        // One with a cpu of its own is used and dropped, so that the rest of the program has its cpus.
        const Handle result = call(0, actors.back().actor, kCall, {}, [](Encoder& out) {
          for (int i = 0; i < 3; ++i) out.put(std::uint64_t{0});
        });
        actors.pop_back();
        awaited_ = "a call of an actor with cpus";
        const Wish met11 = [this, &result] { return is_here(result, 0); };
        co_await Until(*this, 0, met11);
        const auto value = number(result, 0);
        if (value != mix(0) && !(may_miss() && !value)) wrong("a call returned a wrong value");
        break;
      }
      case 13:
      case 14:
      case 15:
        if (!actors.empty()) {
          Called& called = actors[random(actors.size())];
          const std::uint64_t n = 1 + random(20);
          for (std::uint64_t i = 0; i < n; ++i) {
            const std::uint64_t number = called.calls++;
            std::vector<std::pair<int, Handle>> deps;
            if (random(6) == 0) deps.emplace_back(2, submit_leaf(0, false, seed + i));
            const std::uint64_t value = deps.empty() ? seed + i : leaf(seed + i);
            const auto args = [&](Encoder& out) {
              out.put(std::uint64_t{0});
              out.put(number);
              if (deps.empty()) out.put(value);
            };
            const Handle h = call(0, called.actor, kCall, {}, args, deps);
            if (random(3) == 0) known.push_back({h, mix(number * 5 + value)});
          }
        }
        break;
      case 16:
      case 17:
        if (!actors.empty()) {
          const Called& called = actors[random(actors.size())];
          const std::uint64_t n = random(12);
          const auto args = [&](Encoder& out) {
            out.ref(called.actor.handle());
            out.put(seed);
            out.put(n);
          };
          known.push_back({submit(0, false, kDrive, args, {}, &options), expected_drive(seed, n)});
        }
        break;
      case 18:
        if (!actors.empty()) {  // refs that an actor keeps, and gives back
          const std::size_t at = random(actors.size());
          if (random(2) == 0) {
            Handle h = submit_leaf(0, false, seed);
            call(0, actors[at].actor, kKeep, {}, [&h](Encoder& out) { out.ref(h); });
            actors[at].kept.push_back(leaf(seed));
            break;
          }
          Handle given = call(0, actors[at].actor, kGive, {}, [](Encoder&) {});
          const std::uint64_t expected = actors[at].kept.empty() ? leaf(0) : actors[at].kept.back();
          if (!actors[at].kept.empty()) actors[at].kept.pop_back();
          awaited_ = core::to_string(given.id());
          const Wish met12 = [this, &given] { return is_here(given, 0); };
          co_await Until(*this, 0, met12);
          try {
            detail::Decoder in(given.record()->value(given.index()).value());
            const Handle boxed = ranks_[0].objects->handle_of(read_id(in));
            given = {};
            if (outcome_.losses == 0) known.push_back({boxed, expected});
          } catch (const Error& e) {
            require(outcome_.losses > 0, (std::string("an actor that lives gives what it keeps: ") + e.what()).c_str());
          }
        }
        break;
      case 19:
        if (!actors.empty()) {
          const std::size_t at = random(actors.size());
          if (random(2) == 0) {
            actors.erase(actors.begin() + static_cast<std::ptrdiff_t>(at));
            break;
          }
          const detail::ActorBase actor = actors[at].actor;
          const auto token = worker.ask(core::Question::kill, actor.handle().id());
          std::optional<core::Answer> answer;
          awaited_ = "an actor to be killed";
          const Wish met13 = [&] { return answer || (answer = worker.take_answer(token)); };
          co_await Until(*this, 0, met13);
          known.clear();  // its calls may or may not have ended before
          actors.erase(actors.begin() + static_cast<std::ptrdiff_t>(at));
          const Handle late = call(0, actor, kGive, {}, [](Encoder&) {});
          awaited_ = "a call of a dead actor";
          const Wish met14 = [this, &late] { return is_here(late, 0); };
          co_await Until(*this, 0, met14);
          require(!number(late, 0), "a dead actor does nothing");
        }
        break;
      case 23: {  // tasks in bundles, and perhaps an actor
        core::WireOptions bundles;
        const std::uint64_t n = 1 + random(3);
        for (std::uint64_t i = 0; i < n; ++i) bundles.demands.push_back({random(2) == 0 ? 0.5 : 1.0, 0, 0, {}});
        bundles.place_index = static_cast<std::uint32_t>(random(2));
        const Handle group = worker.mint_actor();
        const auto token = worker.ask(core::Question::bundles, group.id(), bundles);
        std::optional<core::Answer> answer;
        awaited_ = "a placement group";
        const Wish met16 = [&] { return answer || (answer = worker.take_answer(token)); };
        co_await Until(*this, 0, met16);
        if (!answer->yes) break;  // more than the cluster has
        const std::uint64_t tasks = random(8);
        for (std::uint64_t i = 0; i < tasks; ++i) {
          TaskOptions wish;
          wish.retries = 1000;
          wish.placement = {Placement::Kind::bundle, static_cast<std::uint32_t>(random(n)), group};
          wish.cpus = bundles.demands[wish.placement.index].cpus;
          Handle h = submit(
              0, false, kLeaf, [s = seed + i](Encoder& out) { out.put(s); }, {}, &wish);
          if (random(2) == 0) known.push_back({h, leaf(seed + i)});
        }
        if (random(3) == 0) {
          awaited_ = "a placement group to be ready";
          const Wish met17 = [this, &group] { return is_here(group, 0); };
          co_await Until(*this, 0, met17);
        }
        break;
      }
      case 21:
      case 22: {
        const auto ranks = static_cast<std::uint32_t>(ranks_.size());
        const auto k = static_cast<std::uint32_t>(1 + random(std::min(std::max(ranks, 2U) - 1, 12U)));
        TaskOptions wish;
        wish.priority = options.priority;
        if (k <= 2 && random(2) == 0) wish.resources["y"] = 1;
        wish.placement = random(3) == 0 ? pack : random(2) == 0 ? spread : any;
        detail::Draft::State draft;
        if (random(4) == 0) {
          detail::add_dep(draft, 0, submit_leaf(0, false, seed));
        } else {
          draft.args.put(seed);
        }
        const std::uint64_t given = draft.deps.empty() ? seed : leaf(seed);
        const detail::BatchHandle batch(ranks_[0].objects->new_batch(kMember.fixed_result), k);
        worker.submit_gang(*batch.record(), k, kMember, &wish, draft);
        ranks_[0].objects->close(*batch.record());
        for (std::uint32_t i = 0; i < k; ++i) {
          if (random(3) != 0) continue;
          const bool fails = gang_fails(given) != Fails::none;
          known.push_back({batch.element(i), fails ? std::nullopt : std::optional(mix(given + i))});
        }
        break;
      }
      case 20: {  // one large value that all ranks look at, again and again
        Handle h = submit(
            0, false, kLargeTask, [seed](Encoder& out) { out.put(seed); }, {}, &options);
        const std::uint64_t n = std::min<std::uint64_t>(1 + random(std::uint64_t{4} * ranks_.size()), 200);
        for (std::uint64_t i = 0; i < n; ++i) {
          const Handle look = submit(0, false, kFirst, [](Encoder&) {}, {{0, h}});
          if (random(4) == 0) known.push_back({look, mix(seed)});
          if (random(16) == 0) co_await Delay(*this, 0, static_cast<Time>(random(300'000)));
        }
        break;
      }
      case 27:  // reductions, of the driver's and of tasks
      case 28: {
        const std::uint64_t n = 2 + random(is_short ? 20 : random(16) == 0 ? 2000 : 100);
        const auto args = [seed, n](Encoder& out) {
          out.put(seed);
          out.put(n);
        };
        const std::uint64_t expected = expected_reduce(leaves(seed, n));
        if (random(2) == 0) {
          known.push_back({reduce_leaves(0, false, seed, n), expected});
        } else {
          known.push_back({submit(0, false, kReduced, args, {}, &options), expected});
        }
        if (random(3) == 0) reduce_leaves(0, false, seed, n);  // nobody wants it
        break;
      }
      case 29:
        if (known.size() >= 2) {  // of values of any kind, some of which fail
          std::vector<Handle> handles;
          std::optional<std::vector<std::uint64_t>> values(std::in_place);
          for (std::uint64_t n = 2 + random(100); n != 0; --n) {
            const Known& of = pick();
            if (of.is_large) continue;
            handles.push_back(of.handle);
            if (!of.value) values.reset();
            if (values) values->push_back(*of.value);
          }
          if (handles.size() < 2) break;
          Handle h = worker.reduce(kFold, {{}, handles}, &options, false);
          known.push_back({h, values ? std::optional(expected_reduce(*values)) : std::nullopt});
        }
        break;
      case 30: {  // of large values, which stay where they are
        std::vector<Handle> handles;
        std::vector<std::uint64_t> values;
        for (std::uint64_t n = 2 + random(is_short ? 4 : 12); n != 0; --n) {
          handles.push_back(submit(
              0, false, kLargeTask, [s = seed + n](Encoder& out) { out.put(s); }, {}, &options));
          values.push_back(mix(seed + n));
        }
        Handle h = worker.reduce(kFoldLarge, {{}, std::move(handles)}, &options, false);
        known.push_back({submit(0, false, kFirst, [](Encoder&) {}, {{0, h}}), expected_reduce(values)});
        break;
      }
      case 31: {  // of a task that gives it on, and may have ended
        const std::uint64_t n = 2 + random(is_short ? 20 : 100);
        const auto args = [seed, n](Encoder& out) {
          out.put(seed);
          out.put(n);
        };
        Handle inner = submit(0, false, kGivenReduced, args, {}, &options);
        known.push_back({submit(0, false, kOpen, [](Encoder&) {}, {{0, inner}}), expected_reduce(leaves(seed, n))});
        break;
      }
      case 26: {  // more tasks on several large values than the ranks have room for: many are queued when some are lost
        const std::uint64_t n = 1 + random(std::min<std::uint64_t>(ranks_.size(), 32));
        const std::uint64_t looks = 1 + random(options_.crowded ? 60 : 16);
        for (std::uint64_t i = 0; i < n; ++i) {
          Handle h = submit(
              0, false, kLargeTask, [s = seed + i](Encoder& out) { out.put(s); }, {}, &options);
          for (std::uint64_t j = 0; j < looks; ++j) {
            const Handle look = submit(0, false, kFirst, [](Encoder&) {}, {{0, h}});
            if (random(8) == 0) known.push_back({look, mix(seed + i)});
          }
        }
        break;
      }
      default:
        if (!known.empty()) {
          const Known k = pick();
          awaited_ = core::to_string(k.handle.id());
          const Wish met8 = [this, &k] { return is_here(k.handle, 0); };
          co_await Until(*this, 0, met8);
          const auto value = number(k.handle, 0);
          if (value != k.value && !(may_miss() && !value)) {
            wrong("a task returned " + (value ? std::to_string(*value) : "an error") + " in place of " +
                  (k.value ? std::to_string(*k.value) : "an error"));
          }
        }
    }
    if (random(3) == 0) {
      co_await Delay(*this, 0, static_cast<Time>(random(300'000)));
    }
  }
  for (const Known& k : known) {
    awaited_ = core::to_string(k.handle.id());
    const Wish met10 = [this, &k] { return is_here(k.handle, 0); };
    co_await Until(*this, 0, met10);
    const auto value = number(k.handle, 0);
    if (value != k.value && !(may_miss() && !value)) wrong("a task returned a wrong value at the end");
  }
  known.clear();
  actors.clear();
  driver_done_ = true;
}

Outcome Cluster::run() {
  for (RankId r = 0; r < options_.ranks; ++r) at(0, [this, r] { poll(r); });
  start(0, driver());
  for (std::uint32_t i = 0; i < options_.losses; ++i) {
    at(static_cast<Time>(random(static_cast<std::uint64_t>(options_.steps) * 150'000)), [this] {
      std::vector<RankId> alive;
      for (RankId r = 1; r < ranks_.size(); ++r) {
        if (ranks_[r].alive) alive.push_back(r);
      }
      if (alive.size() > 2 && !driver_done_) lose(alive[random(alive.size())]);
    });
  }
  for (std::uint32_t i = 0; i < options_.leaves; ++i) {
    at(static_cast<Time>(random(static_cast<std::uint64_t>(options_.steps) * 150'000)), [this] {
      const auto r = static_cast<RankId>(1 + random(ranks_.size() - 1));
      const auto stays = [](const Rank& rank) { return rank.alive && !rank.leaves; };
      if (driver_done_ || !stays(ranks_[r]) || std::count_if(ranks_.begin() + 1, ranks_.end(), stays) < 2) return;
      constexpr Time kLong = 1'000'000'000'000;
      ranks_[r].leaves = true;
      ++outcome_.left;
      ranks_[r].worker->leave(kLong);
      settle(r);
    });
  }
  // Ticks go on beside; the cluster is at rest when nothing else has happened for many of them.
  constexpr Time kTick = 1'000'000;
  Time next_tick = kTick;
  std::uint64_t seen = 0;
  int quiet = 0;
  const int rest = options_.ranks > 64 ? 20 : 300;
  while (quiet < rest) {
    if (next_event(next_tick)) continue;
    next_tick += kTick;
    for (RankId r = 0; r < ranks_.size(); ++r) {
      if (!ranks_[r].alive) continue;
      ranks_[r].worker->tick(now());
      settle(r);
    }
    quiet = activity_ == seen && is_quiet() ? quiet + 1 : 0;
    seen = activity_;
  }
  outcome_.end = now();
  head::Head& head = *ranks_[0].head;
  if (!driver_done_) {
    wrong("the driver waits for ever for " + awaited_ + "; unfinished tasks: " + std::to_string(head.unfinished()) +
          "; " + head.describe_pieces() + ranks_[1].worker->describe() + "\n" + ranks_[2].worker->describe() + "\n" +
          "; entries: " + head.describe_entries());
  }
  require(head.unfinished() == 0, "all tasks have ended");
  for (RankId r = 0; r < ranks_.size(); ++r) {
    if (!ranks_[r].alive) continue;
    const std::string where = " on rank " + std::to_string(r);
    if (ranks_[r].objects->records() > 1)
      wrong("no record outlives its handles" + where + ": " + ranks_[r].objects->describe());
    if (ranks_[r].store->size() != 0 || ranks_[r].store->used() != 0 || !ranks_[r].files.empty()) {
      wrong("no value outlives its refs" + where + ": " + ranks_[r].store->describe() +
            std::to_string(ranks_[r].store->used()) + " bytes, " + std::to_string(ranks_[r].files.size()) + " files");
    }
    if (ranks_[r].worker->interests() != 0) wrong("nobody waits for anything" + where);
    if (ranks_[r].worker->pending_calls() != 0) wrong("no call is pending" + where);
    if (ranks_[r].worker->reductions() != 0) wrong("no reduction is left" + where);
    if (ranks_[r].worker->actors() != 0) wrong("no actor outlives its handles" + where);
    if (ranks_[r].worker->members() != 0) wrong("no gang has a member" + where);
    if (ranks_[r].worker->loans() != 0) wrong("nothing is kept for others" + where);
    if (ranks_[r].worker->queued_tasks() != 0 || ranks_[r].worker->running() != 0) wrong("nothing is queued" + where);
  }
  if (head.entries() != 0) wrong("the head keeps no entry: " + head.describe_entries());
  require(head.actors() == 0, "the head knows no actor that has ended");
  require(head.groups() == 0, "no bundle is set aside for nobody");
  require(head.gangs() == 0 && head.stuck() == 0, "the head knows no gang that has ended");
  outcome_.retried = head.retried();
  outcome_.head_messages = head.messages();
  return outcome_;
}

Outcome run(const Options& options) { return Cluster(options).run(); }

}  // namespace mobula::sim
