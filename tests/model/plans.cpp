#include "model/plans.hpp"

namespace mobula::model {
namespace {

using Tasks = std::vector<TaskPlan>;

// The first member of the gang of which the task is the second; otherwise none.
std::uint8_t partner_before(const Tasks& tasks, std::uint8_t id) {
  std::uint8_t first = kNone;
  for (std::uint8_t other = 0; other <= id; ++other) {
    if (tasks[other].kind != Kind::member) continue;
    if (first == kNone) {
      first = other;
    } else if (other == id) {
      return first;
    } else {
      first = kNone;
    }
  }
  return kNone;
}

// Whether who submits the task can have the other's value: it was submitted before the task, or before a task that the
// task descends from, by the same one. Values of a gang are there when all of it has ended.
bool can_be_given(const Tasks& tasks, std::uint8_t id, std::uint8_t input) {
  if (tasks[input].kind == Kind::actor) return false;  // that is a handle, not a value
  for (std::uint8_t of = id; of != kNone; of = tasks[of].parent) {
    if (tasks[input].parent == tasks[of].parent) return input < of && input != partner_before(tasks, of);
  }
  return false;
}

// All ways to go on with one task more. Numbers go through the tree of tasks level by level, so that each has one way.
void extend(const Tasks& before, std::vector<Tasks>& all) {
  const auto id = static_cast<std::uint8_t>(before.size());
  const auto order = [](std::uint8_t parent) { return parent == kNone ? -1 : static_cast<int>(parent); };
  for (int parent = before.empty() ? -1 : order(before.back().parent); parent < id; ++parent) {
    if (parent >= 0 && before[static_cast<std::size_t>(parent)].kind == Kind::actor) continue;
    for (const Kind kind : {Kind::task, Kind::placed, Kind::actor, Kind::member}) {
      for (const Wait wait : {Wait::never, Wait::at_once, Wait::at_end}) {
        // The driver holds no cpu, and keeps nothing.
        if (parent < 0 && (wait != Wait::never || kind == Kind::placed)) continue;
        Tasks tasks = before;
        const std::size_t count = kind == Kind::member ? 2 : 1;
        const TaskPlan task{kind, parent < 0 ? kNone : static_cast<std::uint8_t>(parent), kNone, wait};
        tasks.resize(before.size() + count, task);
        all.push_back(tasks);
        for (std::uint8_t input = 0; input < id; ++input) {
          if (!can_be_given(tasks, id, input)) continue;
          for (std::size_t i = before.size(); i < tasks.size(); ++i) tasks[i].input = input;
          all.push_back(tasks);
        }
      }
    }
  }
}

}  // namespace

std::vector<Tasks> all_programs(std::size_t tasks) {
  std::vector<Tasks> programs(1);
  for (std::size_t n = 0; n < tasks; ++n) {
    std::vector<Tasks> longer;
    for (const Tasks& program : programs) extend(program, longer);
    programs = std::move(longer);
  }
  return programs;
}

std::vector<Tasks> large_programs() {
  using enum Kind;
  using enum Wait;
  return {
      // tasks beside each other, and in a chain
      {{}, {}, {}, {}, {}, {}},
      {{}, {.input = 0}, {.input = 1}, {.input = 2}, {.input = 3}, {.input = 4}},
      // a map over one value, of the driver and of a task
      {{}, {.input = 0}, {.input = 0}, {.input = 0}, {.input = 0}, {}},
      {{},
       {.kind = placed, .parent = 0, .wait = at_end},
       {.parent = 0, .input = 1, .wait = at_end},
       {.parent = 0, .input = 1, .wait = at_end},
       {.parent = 0, .input = 1, .wait = at_end},
       {}},
      // a recursion, and two side by side
      {{},
       {.parent = 0, .wait = at_end},
       {.parent = 0, .wait = at_end},
       {.parent = 1, .wait = at_end},
       {.parent = 1, .wait = at_end},
       {.parent = 2, .wait = at_end}},
      {{},
       {},
       {.parent = 0, .wait = at_once},
       {.parent = 0, .wait = at_once},
       {.parent = 1, .wait = at_end},
       {.parent = 1, .input = 4, .wait = at_end}},
      // gangs: of a task whose other children need it, beside another of the driver
      {{},
       {},
       {.kind = member},
       {.kind = member},
       {.kind = member, .parent = 0, .wait = at_end},
       {.kind = member, .parent = 0, .wait = at_end},
       {.parent = 0, .input = 4, .wait = at_end},
       {.parent = 0, .input = 5, .wait = at_end}},
      // actors: of tasks that wait for them, side by side, and beside a gang
      {{},
       {},
       {},
       {.kind = actor, .parent = 0, .wait = at_once},
       {.parent = 0, .wait = at_end},
       {.parent = 1, .wait = at_end}},
      {{},
       {},
       {.kind = actor, .parent = 0, .wait = at_once},
       {.parent = 0, .wait = at_end},
       {.kind = actor, .parent = 1, .wait = at_once},
       {.parent = 1, .wait = at_end}},
      {{},
       {.kind = member},
       {.kind = member},
       {},
       {},
       {.kind = actor, .parent = 0, .wait = at_once},
       {.parent = 0, .wait = at_end}},
  };
}

std::vector<Tasks> gang_programs() {
  using enum Kind;
  using enum Wait;
  const TaskPlan first{.kind = member};
  return {
      // 0
      {first, first, {.kind = placed, .parent = 0, .wait = at_end}, {.kind = placed, .parent = 1, .wait = at_end}},
      {first, first, {.parent = 0, .wait = at_end}, {.kind = placed, .parent = 1, .wait = at_end}, {}},
      {first,
       first,
       {.parent = 0, .wait = at_end},
       {.kind = placed, .parent = 1, .wait = at_end},
       {.kind = placed, .parent = 3, .wait = at_end}},
      {first,
       first,
       {.parent = 0, .wait = at_end},
       {.parent = 1, .wait = at_end},
       {.kind = placed, .parent = 3, .wait = at_end},
       {.parent = 4, .wait = at_once}},
      // 4
      {first,
       first,
       first,
       first,
       {.kind = placed, .parent = 0, .wait = at_end},
       {.kind = placed, .parent = 1, .wait = at_end}},
      {first,
       first,
       first,
       first,
       {.kind = placed, .parent = 0, .wait = at_end},
       {.kind = placed, .parent = 3, .wait = at_end}},
      {first,
       first,
       first,
       first,
       {.kind = placed, .parent = 0, .wait = at_end},
       {.kind = placed, .parent = 1, .wait = at_end},
       {.parent = 2, .wait = at_end},
       {.kind = placed, .parent = 3, .wait = at_end}},
      // 7
      {first,
       first,
       {.kind = member, .parent = 0, .wait = at_end},
       {.kind = member, .parent = 0, .wait = at_end},
       {.parent = 1, .wait = at_end}},
      {first, first, {.kind = member, .awaits = 0}, {.kind = member, .awaits = 1}},
      {first,
       first,
       {.kind = member, .awaits = 0},
       {.kind = member, .awaits = 1},
       {.kind = placed, .parent = 2, .wait = at_end},
       {.kind = placed, .parent = 0, .wait = at_end}},
      // 10
      {first,
       first,
       first,
       first,
       first,
       first,
       {.kind = placed, .parent = 0, .wait = at_end},
       {.kind = placed, .parent = 3, .wait = at_end}},
      {{},
       {.parent = 0, .wait = at_end},
       first,
       first,
       {.kind = placed, .parent = 2, .wait = at_end},
       {.kind = placed, .parent = 1, .wait = at_end}},
      {first,
       first,
       first,
       first,
       {},
       {.kind = placed, .parent = 0, .wait = at_end},
       {.kind = placed, .parent = 3, .wait = at_end},
       {.parent = 6, .wait = at_end}},
  };
}

}  // namespace mobula::model
