// Programs within programs: in tasks, methods and threads.
#include "random/interpreter.hpp"

namespace random_programs {

namespace {

using mobula::remote;

Number run_order(Role role, const Order& order) {
  Interpreter interpreter(role, order);
  interpreter.run(parse(order.program));
  if (order.ends_in.kind != Kind::value) throw_as(order.ends_in);
  return mix(order.seed);
}

Number run_block(const Order& order) { return run_order(Role::task, order); }

// Gives what it has made in place of checking it.
Parcel run_and_give(const Order& order) {
  Interpreter interpreter(Role::task, order);
  interpreter.run_steps(parse(order.program));
  interpreter.join_threads();
  Parcel parcel;
  for (std::size_t i = 0; i < interpreter.numbers.size() && i < 4; ++i) {
    parcel.numbers.push_back(carried(interpreter.numbers[i]));
  }
  for (std::size_t i = 0; i < interpreter.all_words.size() && i < 3; ++i) {
    parcel.words.push_back(carried(interpreter.all_words[i]));
  }
  return parcel;
}

Role in_task(Role) { return Role::task; }
Role in_method(Role) { return Role::method; }
Role in_thread(Role role) {
  return role == Role::driver || role == Role::driver_thread ? Role::driver_thread : Role::task_thread;
}

void task_block(Interpreter& here, Draw& draw, const Step& step) {
  const Order order = here.order(draw, step);
  mobula::TaskOptions options;
  switch (draw.below(8)) {
    case 0: options.cpus = 0.5; break;
    case 1: options.priority = static_cast<int>(draw.below(5)) - 2; break;
    case 2: options.placement = mobula::spread; break;
    case 3: options.cpus = static_cast<double>(1 + draw.below(here.settings().wide_most)); break;
    default: break;
  }
  here.add(remote<run_block>.with(options)(order), here.value(mix(order.seed)));
}

void task_block_throws(Interpreter& here, Draw& draw, const Step& step) {
  Order order = here.order(draw, step);
  order.ends_in = some_failure(draw);
  here.add(remote<run_block>(order), here.node({order.ends_in}));
}

void task_block_gives(Interpreter& here, Draw& draw, const Step& step) {
  const Order order = here.order(draw, step);
  const auto made = remote<run_and_give>(order);
  // How many Refs it gives follows from its steps; what they give is in the parcel.
  const Watched watch = here.watched("get of a parcel", {explanation(made)});
  try {
    here.add(mobula::get(made));
  } catch (...) {
    std::string text;
    const Outcome outcome = outcome_of(std::current_exception(), &text);
    here.require(here.settings().ranks_are_lost, "a program in a task gave " + text_of(outcome) + ": " + text);
  }
}

void map_of_blocks(Interpreter& here, Draw& draw, const Step& step) {
  std::vector<Order> orders;
  KnownBatch made;
  for (Number count = 2 + draw.below(3); count > 0; --count) {
    orders.push_back(here.order(draw, step));
    orders.back().path += "." + std::to_string(count);
    made.nodes.push_back(here.value(mix(orders.back().seed)));
  }
  made.batch = remote<run_block>.map(orders);
  here.batches.push_back(made);
}

void method_block(Interpreter& here, Draw& draw, const Step& step) {
  if (here.hosts.empty() || draw.one_in(3)) {
    const auto concurrency = 1 + static_cast<std::uint32_t>(draw.below(3));
    here.hosts.push_back(mobula::actor<Host>.with({.concurrency = concurrency})());
  }
  const Order order = here.order(draw, step);
  here.add(remote<&Host::run>(here.hosts[draw.below(here.hosts.size())], order), here.value(mix(order.seed)));
}

void thread_block(Interpreter& here, Draw& draw, const Step& step) {
  const Role role = in_thread(here.role());
  here.threads.emplace_back([role, order = here.order(draw, step)] {
    try {
      run_order(role, order);
    } catch (const Wrong&) {
      // The driver has been told.
    } catch (const JobEnds&) {
      // So does the thread.
    }
  });
}

void join_threads(Interpreter& here, Draw&, const Step&) { here.join_threads(); }

constexpr Operation kOperations[] = {
    {"task_block", 40, kAll, task_block, in_task},
    {"task_block_throws", 5, kAll, task_block_throws, in_task},
    {"task_block_gives", 12, kAll, task_block_gives, in_task},
    {"map_of_blocks", 6, kAll, map_of_blocks, in_task},
    {"method_block", 16, kAll, method_block, in_method},
    {"thread_block", 12, kDriver | bit(Role::driver_thread), thread_block, in_thread},
    {"thread_of_task", 6, kTasks | kMethods, thread_block, in_thread},
    {"join_threads", 2, kAll, join_threads},
};

}  // namespace

Number Host::run(const Order& order) { return run_order(Role::method, order); }

std::span<const Operation> nested_operations() { return kOperations; }

}  // namespace random_programs
