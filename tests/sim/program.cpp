#include "sim/program.hpp"

#include <cstdio>
#include <cstdlib>
#include <numeric>

#include "sim/functions.hpp"

namespace mobula::sim {
namespace {

const Step& draw_step(Program& program) {
  const std::span<const Step> all = steps();
  const auto weight = [](std::uint32_t sum, const Step& step) { return sum + step.weight; };
  if (program.cluster.options().crowded && program.one_in(2)) return kCrowd;
  std::uint64_t at = program.random(std::accumulate(all.begin(), all.end(), 0U, weight));
  for (const Step& step : all) {
    if (at < step.weight) return step;
    at -= step.weight;
  }
  return all.back();
}

// SIM_WITHOUT names some, with commas between, to find out which of them a failure needs; SIM_VERBOSE shows all.
bool is_left_out(const Step& step) {
  static const char* const without = std::getenv("SIM_WITHOUT");
  static const bool shows = std::getenv("SIM_VERBOSE") != nullptr;
  const bool is_out = without != nullptr &&
                      ("," + std::string(without) + ",").find("," + std::string(step.name) + ",") != std::string::npos;
  if (shows) std::fprintf(stderr, "  %s%s\n", step.name, is_out ? " (left out)" : "");
  return is_out;
}

Draw draw(Program& program) {
  Draw made;
  made.seed = program.cluster.random_seed();
  made.options.retries = 1000;
  made.options.priority = static_cast<int>(program.random(3)) - 1;
  if (program.one_in(8)) {
    made.options.resources["x"] = 1;
  } else if (program.one_in(8)) {
    made.options.resources["y"] = 1 + static_cast<double>(program.random(2));
  } else if (program.one_in(8)) {
    made.options.cpus = program.cluster.some_cpus();
  }
  return made;
}

}  // namespace

TaskOptions Draw::undemanding() const {
  TaskOptions made = options;
  made.resources.clear();
  made.cpus = 1;
  return made;
}

Handle Program::submit_leaf(std::uint64_t seed, const TaskOptions* options) {
  return submit(
      kLeaf, [seed](Encoder& out) { out.put(seed); }, {}, options);
}

Known Program::put_number(std::uint64_t number) {
  Encoder out;
  out.put(number);
  return {worker().put(std::move(out)), gives(number)};
}

Known Program::some_number(std::uint64_t seed) {
  if (!known.empty() && one_in(2)) {
    const Known& chosen = pick();
    if (!chosen.expected->is_large) return chosen;
  }
  if (one_in(3)) return put_number(seed);
  return {submit_leaf(seed), gives(leaf(seed))};
}

Body Program::wait_for(const Handle& handle, std::string what) {
  cluster.awaits(what.empty() ? core::to_string(handle.id()) : std::move(what));
  co_await cluster.here(0, handle);
}

Body Program::check(const Known& of) {
  const Body wait = wait_for(of.handle);
  co_await wait;
  const Seen seen = cluster.seen(of.handle, 0);
  // What the driver had queued when the job was told to end has not run, actors that were to be made among it.
  Kinds excused;
  if (cluster.is_drained()) excused = {core::ErrorKind::cancelled, core::ErrorKind::actor_died};
  const std::string fault = judge(of.expected, seen, cluster.may_miss(), excused);
  if (!fault.empty()) cluster.wrong("object " + core::to_string(of.handle.id()) + ": " + fault);
}

Body Program::open_ref(const Known& of, Handle* inside) {
  const Body arrival = check(of);
  co_await arrival;
  if (!cluster.seen(of.handle, 0).value) co_return;
  detail::Decoder in(of.handle.record()->value(of.handle.index()).value());
  *inside = cluster.handle_of(0, in);
}

void Program::open_refs(const Known& of, std::vector<Handle>* inside) {
  detail::Decoder in(of.handle.record()->value(of.handle.index()).value());
  inside->resize(in.get<std::uint64_t>());
  for (Handle& handle : *inside) handle = cluster.handle_of(0, in);
}

Body Program::cancel(const Known& of) {
  worker().make_known(of.handle);
  core::Answer answer;
  cluster.awaits("whether " + core::to_string(of.handle.id()) + " was cancelled");
  const Body ask = cluster.ask(0, core::Question::cancel, of.handle.id(), {}, &answer);
  co_await ask;
  if (!answer.yes) co_return;
  set_cancelled(*of.expected);
  const Body last = check(of);
  co_await last;
}

Body Program::run() {
  for (std::uint32_t i = 0; i < cluster.options().steps; ++i) {
    const Draw drawn = draw(*this);
    const Step& step = draw_step(*this);
    if (is_left_out(step)) continue;
    const Body act = step.act(*this, drawn);
    co_await act;
    if (one_in(3)) co_await cluster.delay(0, static_cast<Time>(random(300'000)));
  }
  for (const Known& of : known) {
    const Body last = check(of);
    co_await last;
  }
  known.clear();
  actors.clear();
}

Outcome run(const Options& options) {
  Cluster cluster(options);
  Program program(cluster);
  return cluster.run([&program] { return program.run(); });
}

}  // namespace mobula::sim
