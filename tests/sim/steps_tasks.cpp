// Steps that submit tasks.
#include <algorithm>

#include "sim/functions.hpp"
#include "sim/steps.hpp"

namespace mobula::sim {

Body many_tasks(Program& program, Draw draw) {
  const std::uint64_t n = 1 + program.random(300);
  for (std::uint64_t i = 0; i < n; ++i) {
    const Handle handle = program.submit_leaf(draw.seed + i, &draw.options);
    if (program.one_in(4)) program.expect(handle, gives(leaf(draw.seed + i)));
  }
  co_return;
}

Body nested_tasks(Program& program, Draw draw) {
  const auto depth = static_cast<std::uint32_t>(program.random(5));
  const auto arguments = [&](Encoder& out) {
    out.put(draw.seed);
    out.put(depth);
  };
  program.expect(program.submit(kNode, arguments, {}, &draw.options), gives(node(draw.seed, depth)));
  co_return;
}

// Perhaps of ones that fail.
Body dependent(Program& program, Draw draw) {
  if (program.known.size() < 2) co_return;
  const Known a = program.pick();
  const Known b = program.pick();
  if (a.expected->is_large || b.expected->is_large) co_return;
  const Handle handle = program.submit(
      kJoin, [](Encoder&) {}, {{0, a.handle}, {1, b.handle}}, program.one_in(2) ? nullptr : &draw.options);
  program.expect(handle, combines({a.expected, b.expected}, [](auto values) { return join(values[0], values[1]); }));
}

Body large_value(Program& program, Draw draw) {
  const Handle handle = program.submit(
      kLargeTask, [&](Encoder& out) { out.put(draw.seed); }, {}, &draw.options);
  const Expected numbers = gives(mix(draw.seed));
  numbers->is_large = true;
  program.expect(handle, numbers);
  program.expect(program.submit(kFirst, [](Encoder&) {}, {{0, handle}}), gives(mix(draw.seed), {numbers}));
  co_return;
}

Body box(Program& program, Draw draw) {
  Known inner{program.submit(
                  kBox, [&](Encoder& out) { out.put(draw.seed); }, {}, &draw.options),
              gives_refs()};
  Handle boxed;
  const Body open = program.open_ref(inner, &boxed);
  co_await open;
  if (!boxed) co_return;
  inner = {};
  const Expected inside = gives(leaf(draw.seed));
  program.expect(boxed, inside);
  program.expect(program.submit(kOpen, [&](Encoder& out) { out.ref(boxed); }), gives(leaf(draw.seed), {inside}));
}

Body broken_task(Program& program, Draw draw) {
  const Handle handle = program.submit(
      kBroken, [&](Encoder& out) { out.put(draw.seed); }, {}, &draw.options);
  program.expect(handle, fails({core::ErrorKind::standard}));
  co_return;
}

Body put_value(Program& program, Draw draw) {
  Encoder out;
  const std::size_t n = 1 + program.random(2 * kLarge);
  program.cluster.awaits("room");
  co_await program.cluster.until(
      0, [&program, n, &out] { return program.cluster.take_room(0, (n + 1) * sizeof(std::uint64_t), out.buffer); });
  detail::encode(out, std::vector<std::uint64_t>(n, draw.seed));
  const Handle handle = program.worker().put(std::move(out));
  program.expect(program.submit(kFirst, [](Encoder&) {}, {{0, handle}}), gives(draw.seed));
}

// One large value that all ranks look at, again and again.
Body look_everywhere(Program& program, Draw draw) {
  Cluster& cluster = program.cluster;
  const Handle handle = program.submit(
      kLargeTask, [&](Encoder& out) { out.put(draw.seed); }, {}, &draw.options);
  const std::uint64_t most = 1 + program.random(std::uint64_t{4} * cluster.ranks().size());
  const std::uint64_t n = std::min<std::uint64_t>(most, 200);
  for (std::uint64_t i = 0; i < n; ++i) {
    const Handle look = program.submit(kFirst, [](Encoder&) {}, {{0, handle}});
    if (program.one_in(4)) program.expect(look, gives(mix(draw.seed)));
    if (program.one_in(16)) co_await cluster.delay(0, static_cast<Time>(program.random(300'000)));
  }
}

// More tasks on several large values than the ranks have room for: many are queued when some are lost.
Body crowd(Program& program, Draw draw) {
  Cluster& cluster = program.cluster;
  const std::uint64_t n = 1 + program.random(std::min<std::uint64_t>(cluster.ranks().size(), 32));
  const std::uint64_t looks = 1 + program.random(cluster.options().crowded ? 60 : 16);
  for (std::uint64_t i = 0; i < n; ++i) {
    const Handle handle = program.submit(
        kLargeTask, [seed = draw.seed + i](Encoder& out) { out.put(seed); }, {}, &draw.options);
    for (std::uint64_t j = 0; j < looks; ++j) {
      const Handle look = program.submit(kFirst, [](Encoder&) {}, {{0, handle}});
      if (program.one_in(8)) program.expect(look, gives(mix(draw.seed + i)));
    }
  }
  co_return;
}

}  // namespace mobula::sim
