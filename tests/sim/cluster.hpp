// The ranks of a simulated cluster: what each has, how messages, files and virtual threads move it on, and how it is
// lost. What runs on it is told by others: `driver` by whoever runs the cluster, tasks by bodies.hpp.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/functions.hpp"
#include "head/head.hpp"
#include "sim/body.hpp"
#include "sim/network.hpp"
#include "sim/sim.hpp"
#include "store/objects.hpp"
#include "transport/transport.hpp"
#include "worker/worker.hpp"

namespace mobula::sim {

using detail::Buffer;
using detail::ByteView;
using detail::Encoder;
using detail::FunctionInfo;
using detail::Handle;
using detail::kHeadRank;
using detail::kNoRank;
using detail::ObjectId;
using store::Store;
using store::ValuePtr;
using worker::Run;

std::uint64_t mix(std::uint64_t x);

constexpr Time kGangGrace = 3'000'000;
constexpr std::size_t kRankMemory = std::size_t{1} << 30;  // that each rank offers

using Deps = std::vector<std::pair<int, Handle>>;  // by position among the arguments

// How an object that is here has ended.
struct Seen {
  std::optional<std::uint64_t> value;  // the first number of it; none: it failed
  core::ErrorKind kind = core::ErrorKind::task;
  core::ErrorPtr error;
};

class Cluster final : public Network {
 public:
  explicit Cluster(const Options& options);
  ~Cluster() override;

  // Runs until nothing happens any more, and checks everything. `driver` begins on rank 0 once all ranks have joined.
  Outcome run(const std::function<Body()>& driver);

  struct Waiting {
    Wish* wish;
    std::coroutine_handle<> resume;
  };
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
    std::vector<Waiting> waiting;
  };
  const std::vector<Rank>& ranks() const { return ranks_; }
  worker::Worker& worker(RankId rank) { return *ranks_[rank].worker; }
  store::ObjectTable& objects(RankId rank) { return *ranks_[rank].objects; }
  head::Head& head() { return *ranks_[0].head; }
  const head::Head& head() const { return *ranks_[0].head; }
  const Options& options() const { return options_; }
  Outcome& outcome() { return outcome_; }
  const Outcome& outcome() const { return outcome_; }
  std::uint64_t random(std::uint64_t below) { return random_() % below; }
  std::uint64_t random_seed() { return random_(); }
  // Cpus, up to what the ranks of the widest node have together.
  double some_cpus() { return 1 + static_cast<double>(random(std::max<std::uint64_t>(widest_, 1))); }

  // ---- virtual threads
  class Delay {
   public:
    Delay(Cluster& cluster, RankId rank, Time time) : cluster_(cluster), rank_(rank), time_(time) {}
    bool await_ready() const { return false; }
    void await_suspend(std::coroutine_handle<> waiter) const;
    void await_resume() const {}

   private:
    Cluster& cluster_;
    RankId rank_;
    Time time_;
  };
  template <class F>
  class Until final : public Wish {
   public:
    static_assert(std::is_trivially_destructible_v<F>, "captures are references: see body.hpp");
    Until(Cluster& cluster, RankId rank, F met) : cluster_(cluster), rank_(rank), met_(met) {}
    bool met() override { return met_(); }
    bool await_ready() { return met_(); }
    void await_suspend(std::coroutine_handle<> waiter) { cluster_.ranks_[rank_].waiting.push_back({this, waiter}); }
    void await_resume() const {}

   private:
    Cluster& cluster_;
    RankId rank_;
    F met_;
  };
  Delay delay(RankId rank, Time time) { return {*this, rank, time}; }
  template <class F>
  Until<F> until(RankId rank, F met) {
    return {*this, rank, met};
  }
  // Until the object's value or error is here. `keep`: what a large value is kept by.
  auto here(RankId rank, const Handle& handle, ValuePtr* keep = nullptr) {
    return until(rank, [this, rank, &handle, keep] { return is_here(handle, rank, keep); });
  }

  // ---- client: what a program asks of a rank (client.cpp). `in_task`: a task of the rank asks.
  using Arguments = std::function<void(Encoder&)>;
  Handle submit(RankId rank, bool in_task, const FunctionInfo& function, const Arguments& arguments, Deps deps = {},
                const TaskOptions* options = nullptr);
  struct Items {
    const FunctionInfo& function;
    std::uint32_t count = 0;
    Deps shared = {};
    // Adds what the item of this index has beside the shared ones, and returns its own dependencies.
    std::function<Deps(std::uint32_t index, Encoder&)> item = {};
    const TaskOptions* options = nullptr;
    std::uint32_t most = 1 << 16;  // items that go together
  };
  detail::BatchHandle submit_batch(RankId rank, bool in_task, const Items& items);
  detail::BatchHandle submit_gang(RankId rank, bool in_task, std::uint32_t members, const FunctionInfo& function,
                                  const Arguments& arguments, Deps deps, const TaskOptions& options);
  // Of the leaves of n seeds, as one batch.
  Handle reduce_leaves(RankId rank, bool in_task, std::uint64_t seed, std::uint64_t n);
  Handle call(RankId rank, const detail::ActorBase& actor, const FunctionInfo& method, ObjectId caller,
              const Arguments& arguments, Deps deps = {});
  detail::ActorBase make_actor(RankId rank, const FunctionInfo& constructor, const ActorOptions& options);
  // One with a name. `actor` stays empty if the name is taken.
  Body make_named(RankId rank, const FunctionInfo& constructor, const ActorOptions& options, detail::ActorBase* actor);
  Handle handle_of(RankId rank, detail::Decoder& in);  // of a Ref in a value
  // Asks the head, and waits for the answer.
  Body ask(RankId rank, core::Question question, ObjectId id, core::WireOptions options, core::Answer* answer);
  // Whether it is; has it come, if it is not.
  bool is_here(const Handle& handle, RankId rank, ValuePtr* keep = nullptr);
  // Of an object that is here.
  Seen seen(const Handle& handle, RankId rank, const ValuePtr& kept = nullptr);
  // Room for n bytes, or none and false: try again. What is no room at all, or no pages, is made up for by the heap.
  bool take_room(RankId rank, std::size_t n, Buffer& buffer);
  // Throws unless a loss explains the error.
  void require_fair(const core::ErrorRecord& error);

  // ---- what happens to ranks
  void lose(RankId rank);
  void leave(RankId rank);
  void drain();
  bool may_lose() const;  // enough of them are left
  // Values may have failed: what was asked for can't be had any more with the ranks that are left.
  bool may_miss() const { return outcome_.losses + outcome_.left > 0; }
  bool is_drained() const { return head().is_draining(); }

  void note(std::uint64_t what) { outcome_.digest = mix(outcome_.digest ^ what); }
  void happened() { ++activity_; }
  // What the driver waits for, for people.
  void awaits(std::string what) { awaited_ = std::move(what); }
  const std::string& awaited() const { return awaited_; }
  bool driver_ended() const { return driver_ended_; }
  [[noreturn]] void wrong(const std::string& what) const;
  void require(bool condition, const char* what) const {
    if (!condition) wrong(what);
  }
  std::map<std::uint64_t, std::uint32_t>& met() { return met_; }

 private:
  bool alive(RankId rank) const override { return ranks_[rank].alive; }
  void arrived(RankId rank) override;
  void at_boundary(RankId rank) override;
  Time latency(RankId from, RankId to) override;
  std::uint32_t node_of(RankId rank) const { return rank / per_node_; }
  void add_rank(RankId rank);
  void settle(RankId rank);
  bool resume_one(Rank& rank);
  void take_in(RankId rank, RankId from, ByteView frame);
  void end_if_dismissed(Rank& rank);
  void carry_out(RankId rank, Store::Order order);
  void finish_order(Rank& rank, Store::Order& order);
  void plan_losses();
  Body drive(std::function<Body()> driver);

  Options options_;
  std::mt19937_64 random_;
  std::uint32_t per_node_ = 1;
  std::uint64_t widest_ = 0;
  std::vector<Rank> ranks_;
  std::map<std::uint64_t, std::uint32_t> met_;  // members that have come so far, by gang
  std::uint64_t activity_ = 0;
  bool driver_ended_ = false;
  std::string awaited_ = "the ranks";
  Outcome outcome_;
};

}  // namespace mobula::sim
