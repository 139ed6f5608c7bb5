#include "sim/bodies.hpp"

#include <array>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "sim/functions.hpp"

namespace mobula::sim {
namespace {

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

// ---- waiting -----------------------------------------------------------------------------------------------------

// As `get` in a task: runs what is queued here on this thread, and lends its cpus while it waits.
Body get(Task& task, const Handle& handle, Seen* seen) {
  Cluster& cluster = task.cluster;
  worker::Worker& worker = task.worker();
  const RankId r = task.rank;
  Run& run = task.run;
  ValuePtr kept;
  if (!cluster.is_here(handle, r)) {
    if (auto inner = worker.claim(handle, run, cluster.now())) {
      bool inner_done = false;
      run_tasks(cluster, r, std::move(inner), &inner_done).start();
      co_await cluster.until(r, [&inner_done] { return inner_done; });
    }
  }
  if (!cluster.is_here(handle, r)) {
    worker.lend(run);
    co_await cluster.here(r, handle, &kept);
    if (!worker.resume(run)) {
      worker.want_resume(1);
      co_await cluster.until(r, [&worker, &run] { return worker.resume(run); });
      worker.want_resume(-1);
    }
  }
  *seen = cluster.seen(handle, r, kept);
}

// The result joined with those of all of them; fails with the first that has failed.
Body join_all(Task& task, const std::vector<Handle>& children) {
  for (const Handle& child : children) {
    Seen seen;
    const Body wait = get(task, child, &seen);
    co_await wait;
    if (!seen.value) {
      task.fail(*seen.error);
      break;
    }
    task.result = join(task.result, *seen.value);
  }
}

// ---- tasks -------------------------------------------------------------------------------------------------------

Body run_leaf(Task& task) {
  task.result = leaf(task.take(0));
  co_return;
}

Body run_join(Task& task) {
  const std::uint64_t a = task.take(0);
  task.result = join(a, task.take(1));
  co_return;
}

Body run_first(Task& task) {
  const auto numbers = task.take<std::vector<std::uint64_t>>(0);
  task.result = numbers.empty() ? 0 : numbers[0];
  co_return;
}

Body run_broken(Task& task) {
  task.failure = std::make_exception_ptr(std::runtime_error(std::to_string(task.take(0))));
  co_return;
}

Body run_node(Task& task) {
  const std::uint64_t seed = task.take(0);
  const auto depth = task.take<std::uint32_t>(1);
  TaskOptions wide;
  wide.retries = 1000;
  wide.cpus = task.cluster.some_cpus();
  task.result = depth == 0 ? leaf(seed) : seed;
  std::vector<Handle> children;
  for (std::uint64_t i = 0; depth != 0 && i < children_of(seed); ++i) {
    const auto arguments = [s = mix(seed + i), d = depth - 1](Encoder& out) {
      out.put(s);
      out.put(d);
    };
    children.push_back(
        task.cluster.submit(task.rank, true, kNode, arguments, {}, task.random(16) == 0 ? &wide : nullptr));
  }
  const Body wait = join_all(task, children);
  co_await wait;
}

Body run_fan(Task& task) {
  const std::uint64_t seed = task.take(0);
  const std::uint64_t n = task.take(1);
  const Handle shared = task.submit_leaf(seed);
  const auto item = [&](std::uint32_t i, Encoder& out) {
    if (has_own_input(i)) return Deps{{1, task.submit_leaf(seed + i)}};
    out.put(seed + i);
    return Deps{};
  };
  const Cluster::Items items{kJoin, static_cast<std::uint32_t>(n), {{0, shared}}, item};
  const detail::BatchHandle batch = task.cluster.submit_batch(task.rank, true, items);
  task.result = seed;
  std::vector<Handle> children;
  for (std::uint32_t i = 0; i < batch.count(); ++i) children.push_back(batch.element(i));
  const Body wait = join_all(task, children);
  co_await wait;
}

Body run_spray(Task& task) {
  const std::uint64_t seed = task.take(0);
  const std::uint64_t n = task.take(1);
  task.result = seed;
  std::vector<Handle> children;
  for (std::uint64_t i = 0; i < n; ++i) children.push_back(task.submit_leaf(seed + i));
  const Body wait = join_all(task, children);
  co_await wait;
}

Body run_large(Task& task) {
  const std::uint64_t seed = task.take(0);
  Encoder value;
  co_await task.cluster.until(task.rank, [&task, &value] {
    return task.cluster.take_room(task.rank, (kLarge + 1) * sizeof(std::uint64_t), value.buffer);
  });
  detail::encode(value, std::vector<std::uint64_t>(kLarge, mix(seed)));
  task.run.task.finish_large(std::move(value));
  task.is_closed = true;
}

Body run_box(Task& task) {
  task.run.task.out.ref(task.submit_leaf(task.take(0)));
  task.finish();
  co_return;
}

Body run_open(Task& task) {
  const Handle inside = task.take_ref(0);
  Seen seen;
  const Body wait = get(task, inside, &seen);
  co_await wait;
  if (seen.value) {
    task.result = *seen.value;
  } else {
    task.fail(*seen.error);
  }
}

// ---- gangs -------------------------------------------------------------------------------------------------------

Body run_member(Task& task) {
  const std::uint64_t seed = task.take(0);
  const core::GangPart& part = *task.run.body->gang;
  const std::uint32_t k = task.run.body->options->gang;
  const bool is_one = part.place == seed / 8 % k;
  task.result = member_gives(seed, part.place);
  if (gang_fails(seed) == Fails::before && is_one) {
    task.failure = std::make_exception_ptr(std::runtime_error("before they met"));
    co_return;
  }
  std::uint32_t& met = task.cluster.met()[part.gang];
  ++met;
  co_await task.cluster.until(task.rank, [&met, k, &task] { return met == k || task.run.broken; });
  // Blocked in MPI, if the others never come.
  co_await task.delay(static_cast<Time>(task.random(met == k ? 500'000 : 2 * kGangGrace)));
  if (met != k || (gang_fails(seed) == Fails::after && is_one)) {
    task.failure = std::make_exception_ptr(std::runtime_error("after they met"));
  }
}

// ---- actors ------------------------------------------------------------------------------------------------------

Body run_call(Task& task) {
  const std::uint64_t caller = task.take(0);
  const std::uint64_t n = task.take(1);
  const std::uint64_t value = task.take(2);
  auto& tally = *static_cast<Tally*>(task.run.task.actor.get());
  std::uint64_t& next = tally.next[caller];
  if (n < next) {  // one whose inputs have failed is left out
    task.cluster.wrong("call " + std::to_string(n) + " of a caller came in place of " + std::to_string(next));
  }
  next = n + 1;
  task.result = tally.call(caller, n, value);
  co_return;
}

Body run_keep(Task& task) {
  static_cast<Tally*>(task.run.task.actor.get())->kept.push_back(task.take_ref(0));
  task.finish();
  co_return;
}

Body run_give(Task& task) {
  auto& tally = *static_cast<Tally*>(task.run.task.actor.get());
  const Handle given = !tally.kept.empty() ? tally.kept.back() : task.submit_leaf(0);
  if (!tally.kept.empty()) tally.kept.pop_back();
  task.run.task.out.ref(given);
  task.finish();
  co_return;
}

Body run_drive(Task& task) {
  const detail::ActorBase actor(task.take_ref(0), {});
  const std::uint64_t caller = task.take(1);
  const std::uint64_t n = task.take(2);
  const ObjectId me = task.worker().current_caller(task.run);
  // Of one attempt: another one calls in its own name.
  const std::uint64_t name = mix(caller + task.run.body->attempt);
  task.result = caller;
  std::vector<Handle> calls;
  for (std::uint64_t i = 0; i < n; ++i) {
    const auto arguments = [&](Encoder& out) {
      out.put(name);
      out.put(i);
      out.put(caller + i);
    };
    calls.push_back(task.cluster.call(task.rank, actor, kCall, me, arguments));
    if (task.random(4) == 0) co_await task.delay(static_cast<Time>(task.random(50'000)));
  }
  const Body wait = join_all(task, calls);
  co_await wait;
}

// ---- all of them -------------------------------------------------------------------------------------------------

struct Entry {
  const FunctionInfo* function;
  Body (*act)(Task&);
};

Body act(Task& task) {
  static const std::array entries{
      Entry{&kLeaf, run_leaf},     Entry{&kJoin, run_join},       Entry{&kNode, run_node},
      Entry{&kBox, run_box},       Entry{&kOpen, run_open},       Entry{&kFirst, run_first},
      Entry{&kBroken, run_broken}, Entry{&kLargeTask, run_large}, Entry{&kMember, run_member},
      Entry{&kCall, run_call},     Entry{&kKeep, run_keep},       Entry{&kGive, run_give},
      Entry{&kDrive, run_drive},   Entry{&kFan, run_fan},         Entry{&kSpray, run_spray}};
  for (const Entry& entry : entries) {
    if (entry.function == task.run.body->function) return entry.act(task);
  }
  task.cluster.wrong("a function has no body: " + task.run.body->function->name);
}

}  // namespace

Body run_tasks(Cluster& cluster, RankId rank, std::unique_ptr<Run> run, bool* done) {
  detail::TaskRun& tasks = run->task;
  const FunctionInfo& function = *run->body->function;
  if (function.kind == FunctionInfo::Kind::constructor || function.kind == FunctionInfo::Kind::destructor) {
    co_await cluster.delay(rank, static_cast<Time>(100 + cluster.random(500'000)));
    function.invoke(tasks);
  }
  for (; tasks.next != tasks.end; tasks.advance()) {
    if (tasks.stop.load()) break;
    tasks.begin();
    co_await cluster.delay(rank, static_cast<Time>(100 + cluster.random(200'000)));
    Task task{cluster, rank, *run};
    const Body body = act(task);
    co_await body;
    if (task.is_closed) continue;
    if (task.failure) {
      try {
        std::rethrow_exception(task.failure);
      } catch (...) {
        tasks.fail();
      }
    } else {
      tasks.out.put(task.result);
      task.finish();
    }
  }
  cluster.happened();
  cluster.worker(rank).finish(std::move(run), cluster.now());
  if (done != nullptr) *done = true;
}

}  // namespace mobula::sim
