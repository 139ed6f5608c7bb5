#include "sim/bodies.hpp"

#include <array>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "sim/task.hpp"

namespace mobula::sim {
namespace {

constexpr Time kLate = 9'000'000;  // ns by which a late member ends after the others

Body give_large(Task& task, const Numbers& numbers) {
  Encoder value;
  const std::size_t size = (numbers.size() + 1) * sizeof(std::uint64_t);
  co_await task.cluster.until(task.rank,
                              [&task, &value, size] { return task.cluster.take_room(task.rank, size, value.buffer); });
  detail::encode(value, numbers);
  task.run.task.finish_large(std::move(value));
  task.is_closed = true;
}

// The task's result is that of the object.
Body result_of(Task& task, const Handle& handle) {
  Seen seen;
  const Body wait = get(task, handle, &seen);
  co_await wait;
  if (seen.value) {
    task.result = *seen.value;
  } else {
    task.fail(*seen.error);
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

Body run_ladder(Task& task) {
  const std::uint64_t seed = task.take(0);
  const std::uint64_t n = task.take(1);
  task.result = seed;
  std::vector<Handle> last{task.submit_leaf(seed)};
  for (std::uint64_t i = 0; i < n; ++i) {
    last[0] = task.submit(kJoin, [&](Encoder& out) { out.put(seed + i); }, {{0, last[0]}});
  }
  const Body wait = join_all(task, last);
  co_await wait;
}

Body run_moody(Task& task) {
  const std::uint64_t seed = task.take(0);
  task.result = leaf(seed);
  if (seed % 4 != 0) co_return;
  const Handle child = task.submit_leaf(seed);
  const Body wait = result_of(task, child);
  co_await wait;
}

Body run_slow(Task& task) {
  task.result = leaf(task.take(0));
  co_await task.delay(static_cast<Time>(task.take(1)));
}

Body run_flaky(Task& task) {
  task.result = leaf(task.take(0));
  if (task.run.body->attempt <= task.take(1)) task.failure = std::make_exception_ptr(std::runtime_error("not yet"));
  co_return;
}

// ---- reductions --------------------------------------------------------------------------------------------------

Body run_fold(Task& task) {
  task.result = Fold::apply(task.run.task);
  co_return;
}

Body run_fold_large(Task& task) {
  const Numbers numbers = FoldLarge::apply(task.run.task);
  const Body give = give_large(task, numbers);
  co_await give;
}

Body run_reduced(Task& task) {
  const std::uint64_t seed = task.take(0);
  const Handle reduction = task.cluster.reduce_leaves(task.rank, true, seed, task.take(1));
  const Body wait = result_of(task, reduction);
  co_await wait;
}

Body run_gives_reduced(Task& task) {
  const std::uint64_t seed = task.take(0);
  task.run.task.out.ref(task.cluster.reduce_leaves(task.rank, true, seed, task.take(1)));
  task.finish();
  co_return;
}

// ---- Refs in values, and waits ------------------------------------------------------------------------------------

Body run_pack(Task& task) {
  const std::uint64_t seed = task.take(0);
  const std::uint64_t n = task.take(1);
  Encoder& out = task.run.task.out;
  out.put(n);
  for (std::uint64_t i = 0; i < n; ++i) {
    out.ref(task.submit(kLargeTask, [&](Encoder& argument) { argument.put(seed + i); }));
  }
  task.finish();
  co_return;
}

Body run_read_all(Task& task) {
  const std::vector<Handle> all = task.take_refs(0);
  const Body wait = join_all(task, all);
  co_await wait;
}

Body run_await_some(Task& task) {
  const std::uint64_t count = task.take(0);
  const std::vector<Handle> all = task.take_refs(1);
  const Body some = await_some(task, all, count);
  co_await some;
  const Body wait = join_all(task, all);
  co_await wait;
}

// What is told of the cancelled child agrees with how it ends, and so does what depends on it.
Body run_fickle(Task& task) {
  const std::uint64_t seed = task.take(0);
  const Handle child = task.submit_leaf(seed);
  const Handle dependent = task.submit(kJoin, [&](Encoder& out) { out.put(seed); }, {{0, child}});
  task.worker().make_known(child);
  core::Answer answer;
  task.worker().lend(task.run);
  const Body ask = task.cluster.ask(task.rank, core::Question::cancel, child.id(), {}, &answer);
  co_await ask;
  const Body resume = take_cpus_back(task);
  co_await resume;
  for (const Handle* handle : {&child, &dependent}) {
    Seen seen;
    const Body wait = get(task, *handle, &seen);
    co_await wait;
    const bool is_right = answer.yes ? !seen.value && seen.kind == core::ErrorKind::cancelled : seen.value.has_value();
    if (!is_right && !task.cluster.may_miss()) task.cluster.wrong("a child was cancelled, and has run, or the reverse");
  }
  task.result = leaf(seed);
}

// ---- large values ------------------------------------------------------------------------------------------------

Body run_large(Task& task) {
  const std::uint64_t seed = task.take(0);
  const Numbers numbers(size_of_large(seed), mix(seed));
  const Body give = give_large(task, numbers);
  co_await give;
}

Body run_box(Task& task) {
  task.run.task.out.ref(task.submit_leaf(task.take(0)));
  task.finish();
  co_return;
}

Body run_open(Task& task) {
  const Handle inside = task.take_ref(0);
  const Body wait = result_of(task, inside);
  co_await wait;
}

// ---- gangs -------------------------------------------------------------------------------------------------------

bool fails_here(const Task& task, std::uint64_t seed) {
  const bool is_one = task.run.body->gang->place == seed / 8 % task.run.body->options->gang;
  const Fails how = gang_fails(seed);
  return is_one &&
         (how == Fails::before || how == Fails::after || (how == Fails::at_first && task.run.body->attempt == 1));
}

Body meet_others(Task& task, std::uint64_t seed) {
  const core::GangPart& part = *task.run.body->gang;
  const std::uint32_t k = task.run.body->options->gang;
  task.result = member_gives(seed, part.place);
  const bool is_bad = fails_here(task, seed);
  if (gang_fails(seed) == Fails::before && is_bad) {
    task.failure = std::make_exception_ptr(std::runtime_error("before they met"));
    co_return;
  }
  std::uint32_t& met = task.cluster.met()[part.gang];
  ++met;
  co_await task.cluster.until(task.rank, [&met, k, &task] { return met == k || task.run.broken; });
  // Blocked in MPI, if the others never come.
  co_await task.delay(static_cast<Time>(task.random(met == k ? 500'000 : 2 * kGangGrace)));
  if (gang_fails(seed) == Fails::late && part.place == seed / 8 % k) co_await task.delay(kLate);
  if (met != k || is_bad) task.failure = std::make_exception_ptr(std::runtime_error("after they met"));
}

Body run_member(Task& task) {
  const Body meet = meet_others(task, task.take(0));
  co_await meet;
}

// Work that needs the ranks of all members, while others are inside MPI: a gang of as many, or a task on each rank.
std::vector<Handle> submit_for_all_ranks(Task& task, std::uint64_t seed) {
  std::vector<Handle> children;
  TaskOptions options;
  options.retries = 1000;
  const auto argument = [&seed](Encoder& out) { out.put(seed); };
  if (task.random(2) == 0) {
    while (gang_fails(seed) != Fails::none) ++seed;
    const std::uint32_t k = task.run.body->options->gang;
    const detail::BatchHandle gang = task.cluster.submit_gang(task.rank, true, k, kMember, argument, {}, options);
    for (std::uint32_t i = 0; i != k; ++i) children.push_back(gang.element(i));
    return children;
  }
  for (RankId rank = 0; rank != task.cluster.ranks().size(); ++rank) {
    if (task.cluster.worker(rank).settings().slots == 0) continue;
    options.placement = on_rank(rank);
    children.push_back(task.cluster.submit(task.rank, true, kLeaf, argument, {}, &options));
  }
  return children;
}

// Has children before it meets the others: some that its own thread can run, and some that others must.
Body run_nesting_member(Task& task) {
  const std::uint64_t seed = task.take(0);
  const bool all_stay = task.cluster.options().losses == 0 && task.cluster.options().leaves == 0;
  std::vector<Handle> children;
  if (all_stay && task.random(6) == 0) children = submit_for_all_ranks(task, seed);
  TaskOptions with_memory;
  with_memory.retries = 1000;
  const std::uint64_t n = task.random(4);
  for (std::uint64_t i = 0; i != n; ++i) {
    const auto argument = [seed, i](Encoder& out) { out.put(seed + i); };
    with_memory.memory = 1 + task.random(kRankMemory);
    const bool is_moody = task.random(2) == 0;
    children.push_back(task.cluster.submit(task.rank, true, is_moody ? kMoody : kLeaf, argument, {},
                                           is_moody ? nullptr : &with_memory));
  }
  const Body wait = join_all(task, children);
  co_await wait;
  if (task.failure) co_return;
  const Body meet = meet_others(task, seed);
  co_await meet;
}

Body run_large_member(Task& task) {
  const Body meet = run_member(task);
  co_await meet;
  if (task.failure) co_return;
  const Numbers numbers(kLarge, task.result);
  const Body give = give_large(task, numbers);
  co_await give;
}

// ---- all of them -------------------------------------------------------------------------------------------------

struct Entry {
  const FunctionInfo* function;
  Body (*act)(Task&);
};

Body act(Task& task) {
  static const std::array entries{Entry{&kLeaf, run_leaf},
                                  Entry{&kJoin, run_join},
                                  Entry{&kNode, run_node},
                                  Entry{&kBox, run_box},
                                  Entry{&kOpen, run_open},
                                  Entry{&kFirst, run_first},
                                  Entry{&kBroken, run_broken},
                                  Entry{&kLargeTask, run_large},
                                  Entry{&kMember, run_member},
                                  Entry{&kNestingMember, run_nesting_member},
                                  Entry{&kLargeMember, run_large_member},
                                  Entry{&kCall, run_call},
                                  Entry{&kKeep, run_keep},
                                  Entry{&kGive, run_give},
                                  Entry{&kDrive, run_drive},
                                  Entry{&kFan, run_fan},
                                  Entry{&kSpray, run_spray},
                                  Entry{&kLadder, run_ladder},
                                  Entry{&kSlow, run_slow},
                                  Entry{&kFlaky, run_flaky},
                                  Entry{&kPack, run_pack},
                                  Entry{&kReadAll, run_read_all},
                                  Entry{&kAwaitSome, run_await_some},
                                  Entry{&kFickle, run_fickle},
                                  Entry{&kRelay, run_relay},
                                  Entry{&kFold, run_fold},
                                  Entry{&kMoody, run_moody},
                                  Entry{&kFoldLarge, run_fold_large},
                                  Entry{&kReduced, run_reduced},
                                  Entry{&kGivesReduced, run_gives_reduced}};
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
