// Tasks that fail, time out, are tried again or cancelled, and what becomes of those that depend on them.
#include "random/interpreter.hpp"

namespace random_programs {
namespace {

using mobula::Ref;
using mobula::remote;
using mobula::same;
using std::chrono::milliseconds;

void task_throws(Interpreter& here, Draw& draw, const Step&) {
  const Outcome failure = some_failure(draw);
  here.add(remote<thrower>(draw.seed(), failure), here.node({failure}));
}

void task_throws_below(Interpreter& here, Draw& draw, const Step&) {
  const Outcome failure = some_failure(draw);
  here.add(remote<throws_below>(draw.below(5), draw.seed(), failure), here.node({failure}));
}

void map_throws(Interpreter& here, Draw& draw, const Step&) {
  const Outcome failure = some_failure(draw);
  const Number count = 1 + draw.below(12);
  Words chosen(count);
  Words seeds(count);
  KnownBatch made;
  for (Number i = 0; i < count; ++i) {
    chosen[i] = draw.one_in(4) ? 1 : 0;
    seeds[i] = draw.seed();
    made.nodes.push_back(chosen[i] != 0 ? here.node({failure}) : here.value(mix(seeds[i])));
  }
  made.batch = remote<throws_if>.map(chosen, seeds, same(failure));
  here.check(made);
  here.batches.push_back(made);
}

void dependents_of_failure(Interpreter& here, Draw& draw, const Step&) {
  const Outcome failure = some_failure(draw);
  const NodePtr failed = here.node({failure});
  const auto ref = remote<thrower>(draw.seed(), failure);
  KnownBatch made;
  Words seeds(1 + draw.below(8));
  for (Number& seed : seeds) {
    seed = draw.seed();
    made.nodes.push_back(here.value(0, {failed}));
  }
  made.batch = remote<join>.map(seeds, same(ref));
  here.batches.push_back(made);
  here.add(mobula::reduce<plus>(made.batch), here.value(0, made.nodes));
}

// What a task sees that looks at the error of a Ref.
Number seen_in_task(const Ref<Number>& ref) {
  try {
    return mix(mobula::get(ref) + 1);
  } catch (...) {
    const Outcome outcome = outcome_of(std::current_exception());
    return mix(static_cast<Number>(outcome.kind) * 1'000'003 + outcome.number);
  }
}

void task_catches(Interpreter& here, Draw& draw, const Step&) {
  const auto number = here.number(draw);
  Outcomes own;
  for (const Outcome& outcome : outcomes_of(*number.node)) {
    const Number seen = outcome.kind == Kind::value
                            ? mix(outcome.number + 1)
                            : mix(static_cast<Number>(outcome.kind) * 1'000'003 + outcome.number);
    add_to(own, {Kind::value, seen});
  }
  const Known<Number> known{remote<seen_in_task>(number.ref), here.node(own)};
  // What others make of it depends on which it is.
  here.check(known);
  if (known.node->seen) here.add(known.ref, known.node);
}

void retry_succeeds(Interpreter& here, Draw& draw, const Step&) {
  const Number seed = draw.seed();
  const Outcome failure = some_failure(draw);
  Outcomes own{{Kind::value, mix(seed)}};
  if (here.settings().ranks_are_lost) own.push_back(failure);
  here.add(remote<fails_at_first>.with({.retries = 3, .retry_exceptions = true})(seed, 1 + draw.below(4), failure),
           here.node(own));
}

void retry_fails(Interpreter& here, Draw& draw, const Step&) {
  const Number seed = draw.seed();
  const Outcome failure = some_failure(draw);
  const int retries = static_cast<int>(draw.below(3));
  Outcomes own{failure};
  if (here.settings().ranks_are_lost) own.push_back({Kind::value, mix(seed)});
  here.add(remote<fails_at_first>.with({.retries = retries, .retry_exceptions = retries != 0 || draw.one_in(2)})(
               seed, static_cast<Number>(retries) + 2, failure),
           here.node(own));
}

// Tried again, it gives a Ref.
Ref<Number> ref_at_second(Number seed, Outcome failure) {
  if (mobula::here().attempt < 2) throw_as(failure);
  return remote<leaf>(seed);
}
void retry_gives_ref(Interpreter& here, Draw& draw, const Step&) {
  const Number seed = draw.seed();
  here.add(remote<ref_at_second>.with({.retry_exceptions = true})(seed, some_failure(draw)), here.value(mix(seed)));
}

// Ends late, so that a limit of a few milliseconds passes first. Where the machine is busy it may still be in time.
void task_times_out(Interpreter& here, Draw& draw, const Step&) {
  const Number seed = draw.seed();
  const auto limit = milliseconds(1 + draw.below(4));
  here.add(remote<sleeper>.with({.timeout = limit})(seed, draw.below(40)),
           here.node({{Kind::value, mix(seed)}, {Kind::timed_out, 0}}));
}

void map_times_out(Interpreter& here, Draw& draw, const Step&) {
  KnownBatch made;
  Words seeds(1 + draw.below(6));
  for (Number& seed : seeds) {
    seed = draw.seed();
    made.nodes.push_back(here.node({{Kind::value, mix(seed)}, {Kind::timed_out, 0}}));
  }
  made.batch = remote<sleeper>.with({.timeout = milliseconds(2)}).map(seeds, same(draw.below(6)));
  here.batches.push_back(made);
}

// Given to others when it has timed out, and its function still runs.
void dependents_of_timed_out(Interpreter& here, Draw& draw, const Step&) {
  const Number seed = draw.seed();
  const Known<Number> late{remote<sleeper>.with({.timeout = milliseconds(2)})(seed, 30),
                           here.node({{Kind::value, mix(seed)}, {Kind::timed_out, 0}})};
  here.check(late);
  const Number expected = mix(mix(seed) * 3 + 7);
  here.add(remote<join>(late.ref, Number{7}), here.value(expected, {late.node}));
}

void time_enough(Interpreter& here, Draw& draw, const Step&) {
  const Number seed = draw.seed();
  here.add(remote<leaf>.with({.timeout = milliseconds(10 * here.settings().patience)})(seed), here.value(mix(seed)));
}

// ---- cancel

// `node` must not have been told to anybody, unless it may be cancelled by all.
void cancel(Interpreter& here, const Ref<Number>& ref, const NodePtr& node) {
  const bool is_cancelled = mobula::cancel(ref);
  if (node->seen && node->seen->kind == Kind::value) {
    here.require(!is_cancelled, "cancel says that a task whose value is there will not run");
  } else if (is_cancelled) {
    node->cancelled = true;
  }
}

void cancel_new(Interpreter& here, Draw& draw, const Step&) {
  std::vector<Known<Number>> made;
  for (Number count = 1 + draw.below(8); count > 0; --count) {
    const Number seed = draw.seed();
    made.push_back({remote<sleeper>(seed, draw.below(4)), here.value(mix(seed))});
  }
  if (draw.one_in(3)) std::this_thread::sleep_for(milliseconds(draw.below(4)));
  const Known<Number>& chosen = made[draw.below(made.size())];
  cancel(here, chosen.ref, chosen.node);
  for (const auto& known : made) here.add(known.ref, known.node);
}

void cancel_with_dependents(Interpreter& here, Draw& draw, const Step&) {
  const Number seed = draw.seed();
  const Known<Number> first{remote<sleeper>(seed, draw.below(4)), here.value(mix(seed))};
  std::vector<Known<Number>> chain{first};
  for (Number length = 1 + draw.below(5); length > 0; --length) {
    const Number next = draw.seed();
    const Number expected = mix(here.digest_of(chain.back().node) * 3 + next);
    const auto ref = remote<join>(chain.back().ref, next);
    chain.push_back({ref, here.value(expected, {chain.back().node})});
  }
  const Known<Number>& chosen = chain[draw.below(chain.size())];
  cancel(here, chosen.ref, chosen.node);
  for (const auto& known : chain) here.add(known.ref, known.node);
}

void cancel_element(Interpreter& here, Draw& draw, const Step&) {
  const Number seed = draw.seed();
  const auto shared = remote<sleeper>(seed, draw.below(10));
  const NodePtr input = here.value(mix(seed));
  KnownBatch made;
  Words seeds(1 + draw.below(12));
  for (Number& item : seeds) {
    item = draw.seed();
    made.nodes.push_back(here.value(mix(item * 3 + mix(seed)), {input}));
  }
  made.batch = remote<join>.map(seeds, same(shared));
  for (Number count = 1 + draw.below(2); count > 0; --count) {
    const std::size_t position = draw.below(seeds.size());
    cancel(here, made.batch[position], made.nodes[position]);
  }
  here.batches.push_back(made);
  KnownBatch above;
  for (std::size_t i = 0; i < seeds.size(); ++i) {
    above.nodes.push_back(here.value(mix(here.digest_of(made.nodes[i]) * 3 + 5), {made.nodes[i]}));
  }
  above.batch = remote<join>.map(made.batch, same(Number{5}));
  here.batches.push_back(above);
}

void cancel_whole_map(Interpreter& here, Draw& draw, const Step&) {
  KnownBatch made;
  Words seeds(1 + draw.below(30));
  for (Number& seed : seeds) {
    seed = draw.seed();
    made.nodes.push_back(here.value(mix(seed)));
  }
  made.batch = remote<sleeper>.map(seeds, same(draw.below(2)));
  for (std::size_t i = 0; i < seeds.size(); ++i) cancel(here, made.batch[i], made.nodes[i]);
  here.batches.push_back(made);
}

// Of those that others may cancel while we wait.
void task_cancellable(Interpreter& here, Draw& draw, const Step&) {
  const Number seed = draw.seed();
  const NodePtr node = here.value(mix(seed));
  node->may_be_cancelled = true;
  here.add(remote<sleeper>(seed, draw.below(6)), node);
}

void cancel_any(Interpreter& here, Draw& draw, const Step&) {
  for (Number tries = 6; tries > 0; --tries) {
    const auto number = here.number(draw);
    if (number.node->may_be_cancelled) return cancel(here, number.ref, number.node);
  }
}

void cancel_what_is_over(Interpreter& here, Draw& draw, const Step&) {
  const auto number = here.number(draw);
  here.check(number);
  if (number.node->seen && number.node->seen->kind == Kind::value) {
    here.require(!mobula::cancel(number.ref), "cancel says that a task whose value is there will not run");
    here.check(number);
  }
}

void cancel_put(Interpreter& here, Draw& draw, const Step&) {
  const Number number = draw.number();
  const auto ref = mobula::put(number);
  here.require(!mobula::cancel(ref), "cancel says that a value that was put will not run");
  here.add(ref, here.value(number));
}

Number cancels_child(Number seed, Number milliseconds_of_child) {
  const auto child = remote<sleeper>(seed, milliseconds_of_child);
  const bool is_cancelled = mobula::cancel(child);
  try {
    const Number value = mobula::get(child);
    return is_cancelled ? 0 : value;
  } catch (const mobula::Cancelled&) {
    return is_cancelled ? mix(seed) : 0;
  }
}
void task_cancels_child(Interpreter& here, Draw& draw, const Step&) {
  const Number seed = draw.seed();
  here.add(remote<cancels_child>(seed, draw.below(4)), here.value(mix(seed)));
}

// ---- refused at the call

void infeasible(Interpreter& here, Draw& draw, const Step&) {
  const Number seed = draw.seed();
  mobula::TaskOptions options;
  switch (draw.below(4)) {
    case 0: options.cpus = 1e6; break;
    case 1: options.resources = {{"unheard_of", 1}}; break;
    case 2: options.memory = std::size_t{1} << 60; break;
    default: options.placement = mobula::on_rank(100'000);
  }
  here.expect_throw({Kind::infeasible}, "an impossible demand", [&] { remote<leaf>.with(options)(seed); });
}

constexpr Operation kOperations[] = {
    {"task_throws", 4, kAll, task_throws},
    {"task_throws_below", 3, kAll, task_throws_below},
    {"map_throws", 3, kAll, map_throws},
    {"dependents_of_failure", 3, kAll, dependents_of_failure},
    {"task_catches", 4, kAll, task_catches},
    {"retry_succeeds", 3, kAll, retry_succeeds},
    {"retry_fails", 2, kAll, retry_fails},
    {"retry_gives_ref", 2, kAll, retry_gives_ref},
    {"task_times_out", 3, kAll, task_times_out},
    {"map_times_out", 2, kAll, map_times_out},
    {"dependents_of_timed_out", 2, kAll, dependents_of_timed_out},
    {"time_enough", 1, kAll, time_enough},
    {"cancel_new", 4, kAll, cancel_new},
    {"cancel_with_dependents", 3, kAll, cancel_with_dependents},
    {"cancel_element", 3, kAll, cancel_element},
    {"cancel_whole_map", 2, kAll, cancel_whole_map},
    {"task_cancellable", 3, kAll, task_cancellable},
    {"cancel_any", 4, kAll, cancel_any},
    {"cancel_what_is_over", 2, kAll, cancel_what_is_over},
    {"cancel_put", 1, kAll, cancel_put},
    {"task_cancels_child", 2, kAll, task_cancels_child},
    {"infeasible", 1, kAll, infeasible},
};

}  // namespace

std::span<const Operation> error_operations() { return kOperations; }

}  // namespace random_programs
