// One task of a simulated program while it runs, and how it waits for others.
#pragma once

#include <exception>
#include <utility>
#include <vector>

#include "sim/functions.hpp"

namespace mobula::sim {

// One task while it runs.
struct Task {
  Cluster& cluster;
  RankId rank;
  Run& run;
  std::uint64_t result = 0;
  std::exception_ptr failure = nullptr;
  bool is_closed = false;  // its result is given already
  std::size_t dep = 0;

  worker::Worker& worker() { return cluster.worker(rank); }
  std::uint64_t random(std::uint64_t below) { return cluster.random(below); }
  Cluster::Delay delay(Time time) { return cluster.delay(rank, time); }
  // The arguments are to be taken in order.
  template <class T = std::uint64_t>
  T take(std::size_t position) {
    return detail::take_held<T>(run.task, position, dep).value;
  }
  // An argument that is a Ref, as such.
  Handle take_ref(std::size_t position) {
    if ((run.task.dep_mask >> position & 1) == 0) return cluster.handle_of(rank, run.task.args);
    detail::Decoder in(run.task.deps[dep++]);
    return cluster.handle_of(rank, in);
  }
  // Of a vector of Refs, as an argument or as the value of one.
  std::vector<Handle> take_refs(std::size_t position) {
    const bool is_dep = (run.task.dep_mask >> position & 1) != 0;
    detail::Decoder value(is_dep ? run.task.deps[dep++] : ByteView());
    detail::Decoder& in = is_dep ? value : run.task.args;
    std::vector<Handle> all(in.get<std::uint64_t>());
    for (Handle& handle : all) handle = cluster.handle_of(rank, in);
    return all;
  }
  Handle submit(const FunctionInfo& function, const Cluster::Arguments& arguments, Deps deps = {}) {
    return cluster.submit(rank, true, function, arguments, std::move(deps));
  }
  Handle submit_leaf(std::uint64_t seed) {
    return cluster.submit(rank, true, kLeaf, [seed](Encoder& out) { out.put(seed); });
  }
  void fail(const core::ErrorRecord& error) {
    try {
      core::raise(error);
    } catch (...) {
      failure = std::current_exception();
    }
  }
  void finish() {
    run.task.finish();
    is_closed = true;
  }
};

// As `get` in a task: runs what is queued here on this thread, and lends its cpus while it waits.
Body get(Task& task, const Handle& handle, Seen* seen);
// The result joined with those of all of them; fails with the first that has failed.
Body join_all(Task& task, const std::vector<Handle>& children);
// Goes on after `lend`, as soon as it has its cpus again.
Body take_cpus_back(Task& task);
// As `wait` in a task: until so many are ready. Their values need not be here then.
Body await_some(Task& task, const std::vector<Handle>& handles, std::size_t count);

// The bodies of the functions that are actors' or call those.
Body run_call(Task& task);
Body run_keep(Task& task);
Body run_give(Task& task);
Body run_drive(Task& task);
Body run_relay(Task& task);

}  // namespace mobula::sim
