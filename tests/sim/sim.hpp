// A whole cluster in one thread: the real head, workers, object tables and transport over a network of virtual time,
// which delays, reorders between pairs of ranks, and loses ranks, all by seed. Equal seeds give equal runs, step by
// step.
//
// A task's body is a coroutine that is made from the numbers in the task's arguments, so that what it should return can
// be computed beside.
#pragma once

#include <coroutine>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <vector>

#include "head/head.hpp"
#include "sim/network.hpp"
#include "store/objects.hpp"
#include "transport/transport.hpp"
#include "worker/worker.hpp"

namespace mobula::sim {

using detail::Handle;

struct Options {
  std::uint64_t seed = 1;
  std::uint32_t ranks = 4;
  std::uint32_t slots_most = 3;
  Time latency_least = 1'000;
  Time latency_most = 30'000;
  double slow_part = 0.01;   // messages that take up to a hundred times as long
  std::uint32_t losses = 0;  // workers that die
  std::uint32_t leaves = 0;  // workers that leave in order
  std::uint32_t steps = 40;  // what the driver does
  // A worker that dies at its n-th boundary: after it has sent or handled its n-th message. 0: none does.
  RankId dies = 0;
  std::uint64_t dies_at = 0;
  bool crowded = false;  // many more tasks are queued than ranks have room for
  bool check_each_step = true;
};

struct Outcome {
  std::uint64_t tasks = 0;
  std::uint64_t events = 0;
  std::uint64_t retried = 0;
  std::uint64_t head_messages = 0;
  std::uint64_t losses = 0;
  std::uint64_t left = 0;
  std::uint64_t errors = 0;      // that losses explain
  std::uint64_t boundaries = 0;  // of the worker that dies, or should have
  Time end = 0;
  std::uint64_t digest = 0;  // of everything that happened, in order
};

class Cluster;

// One virtual thread: a coroutine that ends by itself, or is dropped with its rank.
struct Body {
  struct promise_type {
    Cluster* cluster = nullptr;
    Body get_return_object() { return {std::coroutine_handle<promise_type>::from_promise(*this)}; }
    std::suspend_always initial_suspend() noexcept { return {}; }
    std::suspend_always final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { throw; }
  };
  std::coroutine_handle<promise_type> handle;
};

// Runs the cluster to its end and checks everything. Throws std::runtime_error that names the seed and what is wrong.
Outcome run(const Options& options);

}  // namespace mobula::sim
