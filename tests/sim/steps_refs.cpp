// Steps about values that hold Refs, waits for some of many, and where tasks are to run.
#include <algorithm>

#include "sim/functions.hpp"
#include "sim/steps.hpp"

namespace mobula::sim {
namespace {

std::uint64_t join_all(std::uint64_t from, std::span<const std::uint64_t> values) {
  for (const std::uint64_t value : values) from = join(from, value);
  return from;
}

}  // namespace

// A result that holds Refs to large values, which others read: from the value, or as Refs of their own.
Body pack_of_refs(Program& program, Draw draw) {
  Cluster& cluster = program.cluster;
  const std::uint64_t n = 1 + program.random(4);
  const auto arguments = [&](Encoder& out) {
    out.put(draw.seed);
    out.put(n);
  };
  const Known packed{program.submit(kPack, arguments, {}, &draw.options), gives_refs()};
  std::uint64_t sum = 0;
  std::vector<Expected> large;
  for (std::uint64_t i = 0; i < n; ++i) {
    sum = join(sum, mix(draw.seed + i));
    large.push_back(gives(mix(draw.seed + i)));
    large.back()->is_large = true;
  }
  std::vector<Expected> all = large;
  all.push_back(packed.expected);
  const std::uint64_t readers = program.random(4);
  for (std::uint64_t i = 0; i < readers; ++i) {
    const Handle reader = program.submit(kReadAll, [](Encoder&) {}, {{0, packed.handle}});
    program.expect(reader, gives(sum, all));
  }
  if (program.one_in(2)) co_return;
  const Body arrival = program.check(packed);
  co_await arrival;
  if (!cluster.seen(packed.handle, 0).value) co_return;
  std::vector<Handle> inside;
  program.open_refs(packed, &inside);
  for (std::size_t i = 0; i < inside.size(); ++i) program.expect(inside[i], large[i]);
  const auto again = [&](Encoder& out) {
    out.put(std::uint64_t{inside.size()});
    for (const Handle& handle : inside) out.ref(handle);
  };
  program.expect(program.submit(kReadAll, again), gives(sum, large));
}

// A task that waits for some of many, and then takes all.
Body wait_for_some(Program& program, Draw draw) {
  const std::uint64_t n = 1 + program.random(6);
  const std::uint64_t count = program.random(n + 1);
  std::vector<Known> numbers;
  std::vector<Expected> inputs;
  for (std::uint64_t i = 0; i < n; ++i) {
    numbers.push_back(program.some_number(draw.seed + i));
    inputs.push_back(numbers.back().expected);
  }
  const auto arguments = [&](Encoder& out) {
    out.put(count);
    out.put(n);
    for (const Known& number : numbers) out.ref(number.handle);
  };
  const TaskOptions options = draw.undemanding();
  program.expect(program.submit(kAwaitSome, arguments, {}, &options),
                 combines(std::move(inputs), [](auto values) { return join_all(0, values); }));
  co_return;
}

// The driver waits for some of what it holds, and looks at none.
Body driver_waits_for_some(Program& program, Draw) {
  std::vector<Handle> handles;
  for (const Known& of : program.known) handles.push_back(of.handle);
  const std::size_t count = program.random(handles.size() + 1);
  program.cluster.awaits(std::to_string(count) + " of " + std::to_string(handles.size()) + " objects");
  co_await program.cluster.until(0, [&handles, count, &program] {
    const auto is_ready = [&program](const Handle& handle) {
      if (handle.record()->ready(handle.index())) return true;
      program.worker().request(handle);
      return handle.record()->ready(handle.index());
    };
    return static_cast<std::size_t>(std::count_if(handles.begin(), handles.end(), is_ready)) >= count;
  });
}

// Tasks with wishes about their place.
Body placed_tasks(Program& program, Draw draw) {
  const auto ranks = program.cluster.ranks().size();
  const Known input = program.some_number(draw.seed);
  const std::uint64_t n = 1 + program.random(6);
  for (std::uint64_t i = 0; i < n; ++i) {
    TaskOptions wish;
    wish.retries = 1000;
    wish.priority = draw.options.priority;
    switch (program.random(4)) {
      case 0: wish.placement = near(detail::RefBase(input.handle)); break;
      case 1: wish.placement = spread; break;
      case 2: wish.placement = pack; break;
      default: {
        const auto rank = static_cast<std::uint32_t>(ranks == 1 ? 0 : 1 + program.random(ranks - 1));
        wish.placement = on_rank(rank);
      }
    }
    const Handle handle = program.submit(
        kJoin, [&](Encoder& out) { out.put(i); }, {{0, input.handle}}, &wish);
    program.expect(handle, combines({input.expected}, [i](auto values) { return join(values[0], i); }));
  }
  co_return;
}

// As `unpack`: tasks near a large value, each with a part of it.
Body parts_of_a_value(Program& program, Draw draw) {
  const Handle handle = program.submit(
      kLargeTask, [&](Encoder& out) { out.put(draw.seed); }, {}, &draw.options);
  TaskOptions wish;
  wish.retries = 1000;
  wish.placement = near(detail::RefBase(handle));
  const std::uint64_t n = 1 + program.random(4);
  for (std::uint64_t i = 0; i < n; ++i) {
    program.expect(program.submit(
                       kFirst, [](Encoder&) {}, {{0, handle}}, &wish),
                   gives(mix(draw.seed)));
  }
  co_return;
}

// Each with a demand of its own, and so a class of its own: parts of cpus, and memory.
Body many_classes(Program& program, Draw draw) {
  const std::uint64_t n = 1 + program.random(40);
  for (std::uint64_t i = 0; i < n; ++i) {
    TaskOptions wish;
    wish.retries = 1000;
    wish.cpus = program.one_in(3) ? 1 : 0.25 * static_cast<double>(1 + program.random(4));
    wish.memory = 1 + program.random(kRankMemory);
    const Handle handle = program.submit_leaf(draw.seed + i, &wish);
    if (program.one_in(4)) program.expect(handle, gives(leaf(draw.seed + i)));
  }
  co_return;
}

}  // namespace mobula::sim
