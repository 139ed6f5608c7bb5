// Questions about the job, processes apart, and programs.
#include <cstdlib>

#include "random/interpreter.hpp"

namespace random_programs {
namespace {

using mobula::remote;

void explain(Interpreter& here, Draw& draw, const Step&) {
  here.require(!mobula::explain(here.number(draw).ref).empty(), "an explanation has words");
  here.require(!mobula::explain(here.words(draw).ref).empty(), "an explanation has words");
}

void cluster(Interpreter& here, Draw&, const Step&) {
  const mobula::ClusterInfo info = mobula::cluster();
  here.require(info.nodes.size() == here.settings().nodes || here.settings().ranks_are_lost, "the nodes stay");
  for (const auto& [name, total] : info.total) {
    const auto free = info.free.find(name);
    if (free == info.free.end()) continue;
    here.require(free->second <= total + 1e-6 && free->second >= -1e-6,
                 std::to_string(free->second) + " of " + std::to_string(total) + " " + name + " are free");
  }
}

void store_stats(Interpreter& here, Draw& draw, const Step&) {
  const mobula::StoreStats stats = mobula::store_stats(draw.below(5));
  for (const mobula::StoreUse& use : stats.ranks) here.require(use.used <= use.capacity, "a store holds what it can");
}

void where_am_i(Interpreter& here, Draw&, const Step&) {
  const mobula::Context context = mobula::here();
  const bool is_driver = here.role() == Role::driver || here.role() == Role::driver_thread;
  if (is_driver) here.require(context.rank == 0 && context.attempt == 0, "the driver is on rank 0, outside tasks");
  if (here.role() == Role::task) here.require(context.attempt >= 1 && !context.task.empty(), "a task knows itself");
}

void time_left(Interpreter& here, Draw&, const Step&) {
  here.require(mobula::time_left().is_none() || std::getenv("SLURM_JOB_ID") != nullptr, "nobody limits this job");
}

// ---- processes apart

Number crash(Number seed) {
  if (seed % 2 == 0) std::abort();
  std::_Exit(7);
}

void sandboxed(Interpreter& here, Draw& draw, const Step&) {
  const mobula::TaskOptions options{.retries = 0, .isolation = mobula::sandbox{.reuse = !draw.one_in(4)}};
  const Number seed = draw.seed();
  switch (draw.below(4)) {
    case 0: here.add(remote<leaf>.with(options)(seed), here.value(mix(seed))); break;
    case 1: {
      const auto words = here.words(draw);
      here.add(remote<digest_in_place>.with(options)(words.ref), here.value(here.digest_of(words.node), {words.node}));
      break;
    }
    case 2: here.add(remote<crash>.with(options)(seed), here.node({{Kind::task_crashed, 0}})); break;
    default: {
      const Outcome failure = some_failure(draw);
      here.add(remote<thrower>.with(options)(seed, failure), here.node({failure}));
    }
  }
}

void sandboxed_cancelled(Interpreter& here, Draw& draw, const Step&) {
  const Number seed = draw.seed();
  const Known<Number> known{remote<sleeper>.with({.isolation = mobula::sandbox{}})(seed, draw.below(20)),
                            here.value(mix(seed))};
  std::this_thread::sleep_for(std::chrono::milliseconds(draw.below(10)));
  if (mobula::cancel(known.ref)) known.node->cancelled = true;
  here.add(known.ref, known.node);
}

void command(Interpreter& here, Draw& draw, const Step&) {
  const Number seed = draw.seed();
  const auto echoed = mobula::command({"echo", seed});
  const auto text = "got " + std::to_string(seed) + "\n";
  const auto act = [&] { return digest(std::string_view(mobula::get(mobula::command({"echo", "got", echoed})).out)); };
  here.observe(here.value(digest(std::string_view(text))), "a command", act, {explanation(echoed)});
}

void command_fails(Interpreter& here, Draw& draw, const Step&) {
  const int code = 1 + static_cast<int>(draw.below(100));
  const auto failing = mobula::command({"sh", "-c", "exit " + std::to_string(code)}, {.check = draw.one_in(2)});
  const auto act = [&] { return static_cast<Number>(mobula::get(failing).exit_code); };
  here.observe(here.node({{Kind::value, static_cast<Number>(code)}, {Kind::command_failed, 0}}), "a command", act,
               {explanation(failing)});
}

constexpr Operation kOperations[] = {
    {"explain", 2, kAll, explain},
    {"cluster", 3, kAll, cluster},
    {"store_stats", 2, kAll, store_stats},
    {"here", 2, kAll, where_am_i},
    {"time_left", 1, kAll, time_left},
    {"sandboxed", 2, kAll, sandboxed, nullptr, true},
    {"sandboxed_cancelled", 1, kAll, sandboxed_cancelled, nullptr, true},
    {"command", 1, kAll, command, nullptr, true},
    {"command_fails", 1, kAll, command_fails, nullptr, true},
};

}  // namespace

std::span<const Operation> other_operations() { return kOperations; }

}  // namespace random_programs
