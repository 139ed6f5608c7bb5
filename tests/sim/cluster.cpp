#include "sim/cluster.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#include "sim/bodies.hpp"
#include "sim/checks.hpp"

namespace mobula::sim {

std::uint64_t mix(std::uint64_t x) {
  x += 0x9E37'79B9'7F4A'7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58'476D'1CE4'E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D0'49BB'1331'11EBULL;
  return x ^ (x >> 31);
}

Cluster::Cluster(const Options& options)
    : Network(options.ranks), options_(options), random_(options.seed), ranks_(options.ranks) {
  per_node_ = 1 + static_cast<std::uint32_t>(random(4));
  std::uint64_t width = 0;  // of the node so far
  for (RankId r = 0; r < options.ranks; ++r) {
    add_rank(r);
    width = (r % per_node_ == 0 ? 0 : width) + ranks_[r].worker->settings().slots;
    widest_ = std::max(widest_, width);
  }
}

void Cluster::add_rank(RankId r) {
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
  settings.slots = r == 0 && options_.ranks > 1 ? 0 : 1 + static_cast<std::uint32_t>(random(options_.slots_most));
  settings.offers.cpus = settings.slots;
  if (r % 2 == 1 || options_.ranks == 1) settings.offers.resources["x"] = 1;
  settings.offers.memory = settings.slots == 0 ? 0 : kRankMemory;
  settings.offers.resources["y"] = 2;  // of the node
  settings.host = "sim";
  settings.gang_grace = kGangGrace;
  rank.worker = std::make_unique<worker::Worker>(*rank.transport, *rank.objects, settings);
  if (r == 0) {
    head::Settings head_settings;
    head_settings.ranks = options_.ranks;
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

Cluster::~Cluster() {
  for (Rank& rank : ranks_) rank.waiting.clear();
  Body::drop_all();
  drop_events();
  // Values go before the stores that they lie in, which other ranks may read.
  for (Rank& rank : ranks_) {
    rank.head.reset();
    rank.worker.reset();
  }
}

// ---- network -----------------------------------------------------------------------------------------------------

void Cluster::arrived(RankId rank) {
  ++activity_;
  settle(rank);
}

void Cluster::at_boundary(RankId rank) {
  if (rank != options_.dies || rank == kHeadRank || driver_ended_) return;
  if (++outcome_.boundaries == options_.dies_at) lose(rank);
}

Time Cluster::latency(RankId from, RankId to) {
  // Word that comes round by the head may overtake what goes straight from one to the other.
  const std::uint64_t drawn = mix(mix(options_.seed) ^ (std::uint64_t{from} << 32 | to));
  const bool is_slow_pair = drawn % 1'000'000 < static_cast<std::uint64_t>(options_.slow_pairs * 1e6);
  const auto span = static_cast<std::uint64_t>(options_.latency_most - options_.latency_least + 1);
  const Time base = (options_.latency_least + static_cast<Time>(random(span))) * (is_slow_pair ? 16 : 1);
  return random(1'000'000) < static_cast<std::uint64_t>(options_.slow_part * 1e6)
             ? base * static_cast<Time>(1 + random(100))
             : base;
}

void Cluster::Delay::await_suspend(std::coroutine_handle<> waiter) const {
  cluster_.at(cluster_.now() + time_, [cluster = &cluster_, rank = rank_, waiter] {
    if (!cluster->ranks_[rank].alive) return;
    waiter.resume();
    cluster->settle(rank);
  });
}

// ---- steps of a rank ---------------------------------------------------------------------------------------------

void Cluster::take_in(RankId r, RankId from, ByteView frame) {
  core::read_frame(frame, [&](const auto& message) {
    using M = std::decay_t<decltype(message)>;
    note(core::Messages::type_of<M>() * 1000 + from * 10 + r);
    ++outcome_.events;
    if constexpr (requires(head::Head & head) { head.handle(from, message); }) {
      ranks_[r].head->handle(from, message);
    } else if constexpr (std::is_same_v<M, core::Dismiss>) {
      ranks_[r].dismissed = true;
    } else if constexpr (requires { worker(r).handle(from, message); }) {
      worker(r).handle(from, message);
    }
  });
}

// Has one virtual thread go on whose wish is met. One at a time, since the list may change meanwhile.
bool Cluster::resume_one(Rank& rank) {
  const auto ready =
      std::find_if(rank.waiting.begin(), rank.waiting.end(), [](const auto& w) { return w.wish->met(); });
  if (ready == rank.waiting.end()) return false;
  const auto resume = ready->resume;
  rank.waiting.erase(ready);
  resume.resume();
  return true;
}

// Takes in what has come, decides, starts what may run, lets those go on whose wish is met, and sends.
void Cluster::settle(RankId r) {
  Rank& rank = ranks_[r];
  if (!rank.alive) return;
  const auto on_frame = [&](RankId from, ByteView frame) { take_in(r, from, frame); };
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
    more = resume_one(rank) || more;
    while (auto run = rank.worker->next_run(now())) {
      run_tasks(*this, r, std::move(run), nullptr).start();
      more = true;
    }
    rank.transport->flush();
    for (Store::Order& order : rank.store->take_orders()) carry_out(r, std::move(order));
    if (rank.transport->has_own()) more = true;
  }
  if (options_.check_each_step && rank.alive) check_step(*this, r);
  end_if_dismissed(rank);
}

void Cluster::end_if_dismissed(Rank& rank) {
  if (!rank.dismissed || !rank.alive || rank.transport->busy() || rank.transport->has_unsent()) return;
  rank.transport->send(kHeadRank, core::Left{rank.transport->frames_by_receiver()});
  rank.transport->flush();
  rank.alive = false;
}

// Files and pages take their time, one order after the other.
void Cluster::carry_out(RankId r, Store::Order order) {
  Rank& rank = ranks_[r];
  rank.files_busy = std::max(rank.files_busy, now()) + static_cast<Time>(1'000 + random(100'000));
  at(rank.files_busy, [this, r, shared = std::make_shared<Store::Order>(std::move(order))] {
    if (!ranks_[r].alive) return;
    ++activity_;
    finish_order(ranks_[r], *shared);
    settle(r);
  });
}

void Cluster::finish_order(Rank& here, Store::Order& order) {
  if (auto* write = std::get_if<Store::Write>(&order)) {
    const bool good = random(200) != 0;
    if (good) here.files[write->file] = Buffer(write->value->view());
    write->value.reset();
    here.store->written(write->id, write->file, good ? "" : "the disk is full");
  } else if (auto* read = std::get_if<Store::Read>(&order)) {
    Store::Room room{std::move(*read->into), read->cold};
    here.store->settle(room, read->cold.empty() || here.store->commit()(read->cold));
    *read->into = std::move(room.buffer);
    const auto file = here.files.find(read->file);
    if (file != here.files.end()) read->into->append(file->second.data(), file->second.size());
    here.store->was_read(read->id, read->file, std::move(read->into),
                         file != here.files.end() ? "" : "there is no such file");
  } else if (const auto* remove = std::get_if<Store::Remove>(&order)) {
    here.files.erase(remove->file);
  } else {
    const auto& prepare = std::get<Store::Prepare>(order);
    here.worker->prepared(prepare.token, here.store->commit()(prepare.cold));
  }
}

bool Cluster::take_room(RankId r, std::size_t n, Buffer& buffer) {
  Store& store = *ranks_[r].store;
  Store::Room room;
  const Store::Verdict verdict = store.take(n, room);
  if (verdict != Store::Verdict::given && random(4) == 0) {
    worker(r).park();
    at(now() + static_cast<Time>(random(200'000)), [this, r] {
      if (!ranks_[r].alive) return;
      worker(r).unpark();
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

// ---- losses ------------------------------------------------------------------------------------------------------

void Cluster::lose(RankId r) {
  Rank& rank = ranks_[r];
  rank.alive = false;
  ++outcome_.losses;
  // What it was at is known where its keeper has told.
  const bool told = random(2) == 0;
  at(now() + 200'000 + static_cast<Time>(random(3'000'000)), [this, r, told, begun = rank.worker->begun()] {
    head().worker_lost(r, "", told ? &begun : nullptr);
    note(r);
    ++activity_;
    settle(0);
  });
}

void Cluster::leave(RankId r) {
  constexpr Time kLong = 1'000'000'000'000;
  ranks_[r].leaves = true;
  ++outcome_.left;
  worker(r).leave(kLong);
  settle(r);
}

void Cluster::drain() {
  if (driver_ended_) return;
  head().drain("the job was told to end");
  ++activity_;
  settle(0);
}

void Cluster::plan_losses() {
  const auto some_time = [this] {
    return static_cast<Time>(random(static_cast<std::uint64_t>(options_.steps) * 150'000));
  };
  if (options_.drains) at(some_time(), [this] { drain(); });
  for (std::uint32_t i = 0; i < options_.losses; ++i) {
    at(some_time(), [this] {
      std::vector<RankId> alive;
      for (RankId r = 1; r < ranks_.size(); ++r) {
        if (ranks_[r].alive) alive.push_back(r);
      }
      if (alive.size() > 2 && !driver_ended_) lose(alive[random(alive.size())]);
    });
  }
  for (std::uint32_t i = 0; i < options_.leaves; ++i) {
    at(some_time(), [this] {
      const auto r = static_cast<RankId>(1 + random(ranks_.size() - 1));
      const auto stays = [](const Rank& rank) { return rank.alive && !rank.leaves; };
      if (driver_ended_ || !stays(ranks_[r]) || std::count_if(ranks_.begin() + 1, ranks_.end(), stays) < 2) return;
      leave(r);
    });
  }
}

// ---- the whole ---------------------------------------------------------------------------------------------------

Body Cluster::drive(std::function<Body()> driver) {
  co_await until(0, [this] { return head().all_joined(); });
  const Body body = driver();
  co_await body;
  driver_ended_ = true;
}

Outcome Cluster::run(const std::function<Body()>& driver) {
  for (RankId r = 0; r < options_.ranks; ++r) at(0, [this, r] { settle(r); });
  drive(driver).start();
  plan_losses();
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
      worker(r).tick(now());
      settle(r);
    }
    quiet = activity_ == seen && is_quiet() ? quiet + 1 : 0;
    seen = activity_;
  }
  outcome_.end = now();
  check_rest(*this);
  outcome_.retried = head().retried();
  outcome_.head_messages = head().messages();
  return outcome_;
}

void Cluster::wrong(const std::string& what) const {
  if (std::getenv("SIM_VERBOSE") != nullptr) {
    std::fprintf(stderr, "%s\n", head().describe_pieces().c_str());
    for (RankId r = 0; r < ranks_.size(); ++r) {
      const Rank& rank = ranks_[r];
      std::fprintf(stderr, "rank %u%s: %s\n  %s\n  %s\n", r, rank.alive ? "" : " (lost)",
                   rank.worker->describe().c_str(), rank.objects->describe().c_str(), rank.store->describe().c_str());
    }
  }
  throw std::runtime_error("seed " + std::to_string(options_.seed) + " (" + std::to_string(options_.ranks) +
                           " ranks, " + std::to_string(options_.losses) + " losses), at " + std::to_string(now()) +
                           " ns: " + what);
}

}  // namespace mobula::sim
