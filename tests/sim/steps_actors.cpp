// Steps about actors.
#include "sim/functions.hpp"
#include "sim/steps.hpp"

namespace mobula::sim {

Body make_actor(Program& program, Draw) {
  Cluster& cluster = program.cluster;
  ActorOptions wish;
  const bool is_pinned = program.one_in(6);
  wish.cpus = is_pinned ? 1 : 0;
  wish.restarts = static_cast<int>(program.random(3));
  wish.call_retries = wish.restarts > 0 ? static_cast<int>(program.random(3)) : 0;
  const detail::ActorBase actor = cluster.make_actor(0, kMake, wish);
  if (!is_pinned) {
    program.actors.push_back({actor, 0, {}, {}, {}});
    co_return;
  }
  // One with a cpu of its own is used and dropped, so that the rest of the program has its cpus.
  const auto arguments = [](Encoder& out) {
    for (int i = 0; i < 3; ++i) out.put(std::uint64_t{0});
  };
  const Known call{program.call(actor, kCall, arguments), gives(called(0, 0))};
  const Body check = program.check(call);
  co_await check;
}

namespace {

// What a call takes: a number, or the result of a task, or of an earlier call of any actor, which may fail.
Known input_of_call(Program& program, const Called& actor, std::uint64_t seed) {
  switch (program.random(8)) {
    case 0: return {program.submit_leaf(seed), gives(leaf(seed))};
    case 1: return program.some_number(seed);
    case 2:
    case 3: {
      const Called& other = program.one_in(2) ? actor : program.actors[program.random(program.actors.size())];
      if (other.last.handle) return other.last;
      break;
    }
    default: break;
  }
  return {{}, gives(seed)};
}

}  // namespace

Body call_actor(Program& program, Draw draw) {
  if (program.actors.empty()) co_return;
  Called& actor = program.actors[program.random(program.actors.size())];
  const std::uint64_t n = 1 + program.random(20);
  for (std::uint64_t i = 0; i < n; ++i) {
    const std::uint64_t number = actor.calls++;
    const Known input = input_of_call(program, actor, draw.seed + i);
    Deps deps;
    if (input.handle) deps.emplace_back(2, input.handle);
    const auto arguments = [&](Encoder& out) {
      out.put(std::uint64_t{0});
      out.put(number);
      if (deps.empty()) out.put(draw.seed + i);
    };
    actor.last = {program.call(actor.actor, kCall, arguments, deps),
                  combines({input.expected}, [number](auto values) { return called(number, values[0]); })};
    actor.pending.push_back(actor.last.expected);
    if (program.one_in(3)) program.known.push_back(actor.last);
  }
  co_return;
}

Body drive_actor(Program& program, Draw draw) {
  if (program.actors.empty()) co_return;
  Called& actor = program.actors[program.random(program.actors.size())];
  const std::uint64_t n = program.random(12);
  const auto arguments = [&](Encoder& out) {
    out.ref(actor.actor.handle());
    out.put(draw.seed);
    out.put(n);
  };
  const bool relays = program.one_in(3);
  const Expected expected = gives(relays ? relayed(draw.seed, n) : driven(draw.seed, n));
  actor.pending.push_back(expected);
  program.expect(program.submit(relays ? kRelay : kDrive, arguments, {}, &draw.options), expected);
}

Body keep_refs(Program& program, Draw draw) {
  Cluster& cluster = program.cluster;
  if (program.actors.empty()) co_return;
  Called& actor = program.actors[program.random(program.actors.size())];
  if (program.one_in(2)) {
    const Handle handle = program.submit_leaf(draw.seed);
    program.call(actor.actor, kKeep, [&](Encoder& out) { out.ref(handle); });
    actor.kept.push_back(gives(leaf(draw.seed)));
    co_return;
  }
  Known given{program.call(actor.actor, kGive, [](Encoder&) {}), gives_refs()};
  const Expected expected = actor.kept.empty() ? gives(leaf(0)) : actor.kept.back();
  if (!actor.kept.empty()) actor.kept.pop_back();
  Handle boxed;
  const Body open = program.open_ref(given, &boxed);
  co_await open;
  given = {};
  // An actor that was made again has forgotten what it kept.
  if (boxed && cluster.outcome().losses == 0) program.expect(boxed, expected);
}

// Dropped, and made again at once: its name is free.
Body named_actor(Program& program, Draw draw) {
  Cluster& cluster = program.cluster;
  ActorOptions wish;
  wish.name = "the one";
  wish.restarts = static_cast<int>(program.random(2));
  const std::uint64_t times = 1 + program.random(3);
  for (std::uint64_t i = 0; i < times; ++i) {
    detail::ActorBase actor;
    cluster.awaits("a name");
    const Body make = cluster.make_named(0, kMake, wish, &actor);
    co_await make;
    if (!actor.handle()) cluster.wrong("a name that nobody holds is free");
    const auto arguments = [&](Encoder& out) {
      out.put(std::uint64_t{0});
      out.put(std::uint64_t{0});
      out.put(draw.seed);
    };
    const Known call{program.call(actor, kCall, arguments), gives(called(0, draw.seed))};
    // A call that has not ended holds its actor.
    const Body check = program.check(call);
    co_await check;
  }
}

Body end_actor(Program& program, Draw) {
  if (program.actors.empty()) co_return;
  const auto chosen = program.actors.begin() + static_cast<std::ptrdiff_t>(program.random(program.actors.size()));
  if (program.one_in(2)) {
    program.actors.erase(chosen);
    co_return;
  }
  const detail::ActorBase actor = chosen->actor;
  // They may have ended before.
  for (const Expected& call : chosen->pending) may_fail(*call, {core::ErrorKind::actor_died});
  program.actors.erase(chosen);
  core::Answer answer;
  program.cluster.awaits("an actor to be killed");
  const Body ask = program.cluster.ask(0, core::Question::kill, actor.handle().id(), {}, &answer);
  co_await ask;
  const Known late{program.call(actor, kGive, [](Encoder&) {}), fails({core::ErrorKind::actor_died})};
  const Body check = program.check(late);
  co_await check;
}

}  // namespace mobula::sim
