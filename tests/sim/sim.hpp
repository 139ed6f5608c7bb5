// A whole cluster in one thread: the real head, workers, object tables and transport over a network of virtual time,
// which delays, reorders between pairs of ranks, and loses ranks, all by seed. Equal seeds give equal runs, step by
// step.
//
//   network   events in virtual time, and the wires between ranks
//   cluster   ranks: messages, files and threads of each, and how they are lost
//   client    what a program asks of a rank
//   bodies    what tasks and methods do
//   expect    what must become of each object
//   program   the driver: draws steps from the table of all
//   steps_*   the steps
//   checks    what must hold after each step, and at the end
#pragma once

#include <cstdint>

#include "core/trace.hpp"
#include "mobula/detail/ids.hpp"

namespace mobula::sim {

using core::Time;
using detail::RankId;

struct Options {
  std::uint64_t seed = 1;
  std::uint32_t ranks = 4;
  std::uint32_t slots_most = 3;
  Time latency_least = 1'000;
  Time latency_most = 30'000;
  double slow_part = 0.01;   // messages that take up to a hundred times as long
  double slow_pairs = 0.05;  // of the pairs of ranks, each way: all messages take 16 times as long
  std::uint32_t losses = 0;  // workers that die
  std::uint32_t leaves = 0;  // workers that leave in order
  std::uint32_t steps = 40;  // what the driver does
  // A worker that dies at its n-th boundary: after it has sent or handled its n-th message. 0: none does.
  RankId dies = 0;
  std::uint64_t dies_at = 0;
  bool drains = false;   // the job is told to end while the program goes on
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

// Runs a random program on a cluster to its end, and checks everything. Throws std::runtime_error that names the seed
// and what is wrong.
Outcome run(const Options& options);

}  // namespace mobula::sim
