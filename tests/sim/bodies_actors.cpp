// What the methods of an actor do, and tasks that call it.
#include <string>

#include "sim/task.hpp"

namespace mobula::sim {
namespace {

// A task's calls of an actor, as a caller of its own.
struct Caller {
  explicit Caller(Task& task)
      : task(task),
        actor(task.take_ref(0), {}),
        id(task.take(1)),
        count(task.take(2)),
        me(task.worker().current_caller(task.run)) {}
  Handle call(std::uint64_t number, std::uint64_t value, const Handle* dep = nullptr) {
    // Of one attempt: another one calls in its own name.
    const std::uint64_t name = mix(id + task.run.body->attempt);
    const auto arguments = [&](Encoder& out) {
      out.put(name);
      out.put(number);
      if (dep == nullptr) out.put(value);
    };
    Deps deps;
    if (dep != nullptr) deps.emplace_back(2, *dep);
    return task.cluster.call(task.rank, actor, kCall, me, arguments, std::move(deps));
  }

  Task& task;
  detail::ActorBase actor;
  std::uint64_t id;
  std::uint64_t count;
  ObjectId me;
};

}  // namespace

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
  Caller caller(task);
  task.result = caller.id;
  std::vector<Handle> calls;
  for (std::uint64_t i = 0; i < caller.count; ++i) {
    calls.push_back(caller.call(i, caller.id + i));
    if (task.random(4) == 0) co_await task.delay(static_cast<Time>(task.random(50'000)));
  }
  const Body wait = join_all(task, calls);
  co_await wait;
}

Body run_relay(Task& task) {
  Caller caller(task);
  task.result = caller.id;
  Handle last;
  for (std::uint64_t i = 0; i < caller.count; ++i) last = caller.call(i, caller.id, last ? &last : nullptr);
  if (!last) {
    task.result = join(caller.id, caller.id);
    co_return;
  }
  const std::vector<Handle> calls{last};
  const Body wait = join_all(task, calls);
  co_await wait;
}

}  // namespace mobula::sim
