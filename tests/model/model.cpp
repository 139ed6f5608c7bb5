#include "model/model.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace mobula::model {
namespace {

constexpr int kAhead = 2;  // tasks at a rank, above which none is sent ahead

bool has_begun(const Task& task) { return task.life == Life::live && task.at >= At::running; }
bool is_over(const Task& task) { return task.life >= Life::made; }
bool is_waiting_for_cpu(const Task& task) { return task.at == At::blocked || task.at == At::returning; }

}  // namespace

std::string to_string(const Plan& plan) {
  constexpr std::array kKinds{"task", "placed task", "actor", "member of a gang"};
  constexpr std::array kWaits{"", ", which waits for it at once", ", which waits for it"};
  std::string text = "slots:";
  for (const std::uint8_t slots : plan.slots) text += " " + std::to_string(slots);
  text += ", cancels: " + std::to_string(plan.cancels) + ", losses: " + std::to_string(plan.losses) + "\n";
  for (std::size_t id = 0; id < plan.tasks.size(); ++id) {
    const TaskPlan& task = plan.tasks[id];
    text += "  " + std::to_string(id) + ": a " + kKinds[static_cast<std::size_t>(task.kind)];
    if (task.input != kNone) text += " that needs " + std::to_string(task.input);
    if (task.parent == kNone) text += ", of the driver";
    if (task.parent != kNone)
      text += ", of " + std::to_string(task.parent) + kWaits[static_cast<std::size_t>(task.wait)];
    if (task.awaits != kNone) text += ", and waits for " + std::to_string(task.awaits);
    text += "\n";
  }
  return text;
}

Model::Model(Plan plan, Faults faults)
    : plan_(std::move(plan)),
      faults_(faults),
      children_(plan_.tasks.size()),
      partners_(plan_.tasks.size(), std::uint8_t{kNone}) {
  for (Id id = 0; id < plan_.tasks.size(); ++id) {
    if (plan_.tasks[id].parent != kNone) children_[plan_.tasks[id].parent].push_back(id);
    if (!is_member(id) || partners_[id] != kNone) continue;
    partners_[id] = static_cast<Id>(id + 1);
    partners_[id + 1U] = id;
  }
}

State Model::first() {
  State state;
  state.cancels = plan_.cancels;
  state.losses = plan_.losses;
  for (Id rank = 0; rank < plan_.slots.size(); ++rank) state.ranks[rank].alive = true;
  for (Id id = 0; id < plan_.tasks.size(); ++id) {
    if (plan_.tasks[id].parent == kNone) submit(state, id);
  }
  return normal(state);
}

// ---- the sums, over states alone ----------------------------------------------------------------------------------

bool Model::has_input(const State& state, Id id) const {
  const Id input = plan_.tasks[id].input;
  return input == kNone || (state.tasks[input].life == Life::ended && is_whole_gang_over(state, input));
}

// Results of a gang's members are there once all have ended.
bool Model::is_whole_gang_over(const State& state, Id id) const {
  return is_over(state.tasks[id]) && (!is_member(id) || is_over(state.tasks[partners_[id]]));
}

// Whose cpu the task runs on.
std::uint8_t Model::root(const State& state, Id id) const {
  return state.tasks[id].lender != kNone ? state.tasks[id].lender : id;
}

// The tasks, as bits, that have begun on cpus of their own and lend them: each such cpu is for one task at a time, for
// it or for one that it helps, and that one waits.
std::uint32_t Model::lenders(const State& state) const {
  std::uint32_t bits = 0;
  if (faults_.nobody_lends) return bits;
  for (Id id = 0; id < plan_.tasks.size(); ++id) {
    if (is_waiting_for_cpu(state.tasks[id])) bits |= 1U << root(state, id);
    if (state.tasks[id].gang_waits) bits |= 1U << id;
  }
  return bits;
}

int Model::used(const State& state, Id rank) const {
  int cpus = 0;
  const std::uint32_t lending = lenders(state);
  for (Id id = 0; id < plan_.tasks.size(); ++id) {
    const Task& task = state.tasks[id];
    if (task.life == Life::made && task.rank == rank) ++cpus;
    const bool is_root = has_begun(task) && task.rank == rank && task.lender == kNone;
    if (is_root && !task.without && (lending >> id & 1U) == 0) ++cpus;
  }
  return cpus;
}

int Model::lent(const State& state, Id rank) const {
  int cpus = 0;
  const std::uint32_t lending = lenders(state);
  for (Id id = 0; id < plan_.tasks.size(); ++id) {
    const Task& task = state.tasks[id];
    const bool is_root = has_begun(task) && task.rank == rank && task.lender == kNone;
    if (is_root && !task.without && (lending >> id & 1U) != 0) ++cpus;
  }
  return cpus;
}

// The demands of tasks and members that wait, whether they held a cpu or not. A member leaves as many to tasks.
int Model::waiting(const State& state, Id rank) const {
  int cpus = 0;
  const std::uint32_t lending = lenders(state);
  for (Id id = 0; id < plan_.tasks.size(); ++id) {
    const Task& task = state.tasks[id];
    if (has_begun(task) && task.rank == rank && task.lender == kNone && (lending >> id & 1U) != 0) ++cpus;
  }
  return cpus;
}

// What members that do not wait run without.
int Model::missing(const State& state, Id rank) const {
  int cpus = 0;
  const std::uint32_t lending = lenders(state);
  for (Id id = 0; id < plan_.tasks.size(); ++id) {
    const Task& task = state.tasks[id];
    if (is_member(id) && has_begun(task) && task.rank == rank && task.without && (lending >> id & 1U) == 0) ++cpus;
  }
  return cpus;
}

// That hold a cpu.
int Model::begun_members(const State& state, Id rank) const {
  int cpus = 0;
  const std::uint32_t lending = lenders(state);
  for (Id id = 0; id < plan_.tasks.size(); ++id) {
    const Task& task = state.tasks[id];
    if (is_member(id) && has_begun(task) && task.rank == rank && !task.without && (lending >> id & 1U) == 0) ++cpus;
  }
  return cpus;
}

// What the head counts as busy and is not: the cpus of tasks that wait, of those that run on another's, and of members
// that run without.
int Model::unused(const State& state, Id rank) const {
  int cpus = 0;
  const std::uint32_t lending = lenders(state);
  for (Id id = 0; id < plan_.tasks.size(); ++id) {
    const Task& task = state.tasks[id];
    if (!has_begun(task) || task.rank != rank || !task.known) continue;
    if (task.lender != kNone || (lending >> id & 1U) != 0) ++cpus;
  }
  return cpus + missing(state, rank);
}

int Model::actors_begun(const State& state, Id rank) const {
  int cpus = 0;
  for (Id id = 0; id < plan_.tasks.size(); ++id) {
    const Task& task = state.tasks[id];
    const bool begun = task.life == Life::made || has_begun(task);
    if (plan_.tasks[id].kind == Kind::actor && task.rank == rank && begun) ++cpus;
  }
  return cpus;
}

bool Model::anyone_returns(const State& state, Id rank) const {
  return std::any_of(state.tasks.begin(), state.tasks.end(),
                     [rank](const Task& task) { return task.rank == rank && task.at == At::returning; });
}

bool Model::is_member_queued(const State& state, Id rank) const {
  for (Id id = 0; id < plan_.tasks.size(); ++id) {
    const Task& task = state.tasks[id];
    if (is_member(id) && task.life == Life::live && task.rank == rank && task.at == At::queued) return true;
  }
  return false;
}

int Model::members(const State& state, Id rank) const {
  int count = 0;
  for (Id id = 0; id < plan_.tasks.size(); ++id) {
    if (is_member(id) && state.tasks[id].life == Life::live && state.tasks[id].rank == rank) ++count;
  }
  return count;
}

// To tasks, since it is reserved for a gang. While a member of another is there it may wait for just those tasks, or
// for a member that does.
bool Model::is_closed(const State& state, Id rank) const {
  return state.ranks[rank].reserved && (faults_.reserved_beside_members || members(state, rank) == 0);
}

int Model::busy(const State& state, Id rank) const {
  const auto counts = [&](const Task& task) {
    if (task.life != Life::live || !task.known || task.rank != rank) return false;
    return task.state == sched::State::assigned || (faults_.missing_inputs_hold && task.state == sched::State::ahead);
  };
  return static_cast<int>(std::count_if(state.tasks.begin(), state.tasks.end(), counts));
}

int Model::ahead(const State& state, Id rank) const {
  return static_cast<int>(std::count_if(state.tasks.begin(), state.tasks.end(), [rank](const Task& task) {
    return task.rank == rank && task.state == sched::State::ahead;
  }));
}

int Model::held(const State& state, Id rank) const {
  return static_cast<int>(std::count_if(state.tasks.begin(), state.tasks.end(), [rank](const Task& task) {
    return task.rank == rank && task.life == Life::made;
  }));
}

// By actors, also by those that are being made, and by gangs.
int Model::held_or_taken(const State& state, Id rank) const {
  int cpus = held(state, rank);
  for (Id id = 0; id < plan_.tasks.size(); ++id) {
    const bool is_plain = plan_.tasks[id].kind == Kind::task || plan_.tasks[id].kind == Kind::placed;
    const Task& task = state.tasks[id];
    if (!is_plain && task.life == Life::live && task.rank == rank) ++cpus;
  }
  return cpus;
}

int Model::capacity(const State& state, Id rank) const {
  return std::max(0, plan_.slots[rank] + state.ranks[rank].told - held(state, rank));
}

// Cpus that may be held for good, since no task that waits wants them back.
int Model::lasting(const State& state, Id rank) const {
  return plan_.slots[rank] - held(state, rank) - state.ranks[rank].told;
}

bool Model::has_room(const State& state, Id rank) const {
  if (!state.ranks[rank].alive || is_closed(state, rank)) return false;
  return busy(state, rank) < 2 * capacity(state, rank);
}

bool Model::is_idle(const State& state, Id rank) const {
  return has_room(state, rank) && busy(state, rank) < capacity(state, rank);
}

// In a gang. That a rank is reserved is for a gang, and there is one queue of those.
bool Model::takes_part(const State& state, Id rank) const {
  if (!state.ranks[rank].alive || busy(state, rank) >= capacity(state, rank)) return false;
  const bool is_beside = busy(state, rank) + 1 > plan_.slots[rank] - held(state, rank);
  return !is_beside || state.ranks[rank].beside == 0 || faults_.members_stack_up;
}

// Both ranks, once what ends there has ended.
bool Model::could_take_part(const State& state) const {
  return plan_.slots[0] > held(state, 0) && plan_.slots[1] > held(state, 1);
}

// Where it takes nothing that a waiting task lends; if no rank will ever have that, also where it does.
std::vector<std::uint8_t> Model::places_for_actor(const State& state) const {
  std::vector<Id> places;
  std::vector<Id> lent_places;
  bool any_lasting = false;
  for (Id rank = 0; rank < plan_.slots.size(); ++rank) {
    if (!state.ranks[rank].alive) continue;
    const bool has_lasting = lasting(state, rank) >= 1;
    any_lasting =
        any_lasting || lasting(state, rank) - (faults_.actor_waits_for_members ? 0 : members(state, rank)) >= 1;
    const int has = plan_.slots[rank] - held_or_taken(state, rank) + state.ranks[rank].told;
    if (is_closed(state, rank) || has < 1) continue;
    (has_lasting || faults_.actor_keeps_lent ? places : lent_places).push_back(rank);
  }
  return any_lasting || !places.empty() ? places : lent_places;
}

// The child that the task waits for where it stands in its program.
std::uint8_t Model::awaited(const State& state, Id id) const {
  const auto& children = children_[id];
  const std::size_t submitted = state.tasks[id].submitted;
  for (std::size_t i = 0; i < submitted; ++i) {
    const Wait wait = plan_.tasks[children[i]].wait;
    const bool waits = wait == Wait::at_once || (wait == Wait::at_end && submitted == children.size());
    if (waits && !is_over(state.tasks[children[i]])) return children[i];
  }
  const Id other = plan_.tasks[id].awaits;
  if (submitted < children.size() || other == kNone || is_whole_gang_over(state, other)) return kNone;
  return is_over(state.tasks[other]) ? partners_[other] : other;
}

// The value of a task that has ended.
bool Model::is_needed(const State& state, Id id) const {
  for (Id other = 0; other < plan_.tasks.size(); ++other) {
    const Task& task = state.tasks[other];
    const bool will_run = task.life == Life::unsubmitted || (task.life == Life::live && task.at < At::running);
    if (plan_.tasks[other].input == id && will_run) return true;
    if (plan_.tasks[other].awaits == id && task.life <= Life::live) return true;
  }
  const Id parent = plan_.tasks[id].parent;
  if (parent == kNone || plan_.tasks[id].wait == Wait::never) return false;
  return state.tasks[parent].life == Life::live && state.tasks[parent].at != At::returning;  // that one has read it
}

// ---- changes ------------------------------------------------------------------------------------------------------

void Model::become(Task& task, sched::State next) {
  forbidden_ = forbidden_ || !sched::may_follow(task.state, next);
  ++moves_[static_cast<std::size_t>(task.state)][static_cast<std::size_t>(next)];
  task.state = next;
}

void Model::submit(State& state, Id id) {
  Task& task = state.tasks[id];
  const TaskPlan& plan = plan_.tasks[id];
  task.life = Life::live;
  if (plan.input != kNone && state.tasks[plan.input].life == Life::failed) return fail(state, id);
  if (plan.kind == Kind::task && plan.parent != kNone) {
    task.rank = state.tasks[plan.parent].rank;
    task.at = has_input(state, id) ? At::queued : At::waiting;
    return;
  }
  task.known = true;
  set_up(state, id);
}

// REQUIRES: it is at the head, in state waiting.
void Model::set_up(State& state, Id id) {
  if (is_member(id) && alive(state) < kRanks) return fail(state, id);
  if (has_input(state, id)) become(state.tasks[id], sched::State::queued);
}

void Model::assign(State& state, Id id, Id rank) {
  Task& task = state.tasks[id];
  become(task, sched::State::waiting);  // it leaves its queue
  become(task, sched::State::assigned);
  task.at = At::queued;
  task.rank = rank;
}

void Model::start_gang(State& state, Id id, Id rank) {
  assign(state, id, rank);
  assign(state, partners_[id], static_cast<Id>(1 - rank));
  end_reservation(state);
}

void Model::announce(State& state, Id id) {
  Task& task = state.tasks[id];
  task.known = true;
  become(task, task.at == At::waiting ? sched::State::ahead : sched::State::assigned);
}

void Model::tell_lent(State& state, Id rank) const {
  const int cpus = unused(state, rank);
  if (cpus == 0 && faults_.lending_stays_told) return;
  state.ranks[rank].told = static_cast<std::uint8_t>(cpus);
  state.ranks[rank].beside = static_cast<std::uint8_t>(missing(state, rank));
}

// The rank is rid of it.
void Model::to_head(State& state, Id id) {
  Task& task = state.tasks[id];
  if (task.state != sched::State::waiting) become(task, sched::State::waiting);
  task = Task{.life = Life::live, .known = true};
}

void Model::end(State& state, Id id) {
  const Task before = state.tasks[id];
  const bool is_actor = plan_.tasks[id].kind == Kind::actor;
  state.tasks[id] = Task{.life = is_actor ? Life::made : Life::ended, .rank = before.rank};
  if (is_member(id) && state.tasks[partners_[id]].life == Life::failed) fail(state, id);
  if (before.lender != kNone) state.tasks[plan_.tasks[id].parent].at = At::running;
  if (!before.known) return;
  for (Id rank = 0; rank < plan_.slots.size() && !faults_.end_overtakes_lending; ++rank) {
    if (before.rank == rank) tell_lent(state, rank);
  }
  // What is kept at the rank is announced before the end of a task of which the head knows.
  for (Id other = 0; other < plan_.tasks.size(); ++other) {
    const Task& task = state.tasks[other];
    if (task.life == Life::live && !task.known && task.rank == before.rank) announce(state, other);
  }
}

// REQUIRES: it has not begun, or is a member. So do those that wait for its value.
void Model::fail(State& state, Id id) {
  const bool was_queued = state.tasks[id].state == sched::State::queued;
  state.tasks[id] = Task{.life = Life::failed};
  if (was_queued && is_member(id) && !faults_.reservation_survives) {
    const auto is_queued = [&](Id other) {
      return is_member(other) && state.tasks[other].state == sched::State::queued;
    };
    bool any = false;
    for (Id other = 0; other < plan_.tasks.size(); ++other) any = any || is_queued(other);
    if (!any) end_reservation(state);
  }
  for (Id other = 0; other < plan_.tasks.size(); ++other) {
    const Task& task = state.tasks[other];
    const bool is_missing = task.at == At::waiting || (task.at == At::head && task.state == sched::State::waiting);
    if (plan_.tasks[other].input == id && task.life == Life::live && is_missing) fail(state, other);
  }
}

void Model::forget(State& state, Id id) {
  state.tasks[id] = Task{};
  forget_children(state, id);
}

void Model::forget_children(State& state, Id id) {
  for (const Id child : children_[id]) forget(state, child);
}

void Model::end_reservation(State& state) const {
  for (Rank& rank : state.ranks) rank.reserved = false;
}

// Of tasks that were submitted together the others become pieces of their own, in the state in which all were.
void Model::cancel(State& state, Id id) {
  const Task before = state.tasks[id];
  const TaskPlan& plan = plan_.tasks[id];
  bool is_first = true;
  for (Id other = 0; other < plan_.tasks.size(); ++other) {
    const TaskPlan& like = plan_.tasks[other];
    if (other == id || is_member(id) || like.kind != plan.kind || like.parent != plan.parent ||
        like.input != plan.input)
      continue;
    Task& task = state.tasks[other];
    if (task.life != before.life || task.state != before.state || task.at != before.at) continue;
    Task part;
    become(part, task.state);
    const bool is_missing = task.state == sched::State::waiting || task.state == sched::State::ahead;
    task.deaf = faults_.parts_share_a_countdown && is_missing && !std::exchange(is_first, false);
  }
  fail(state, id);
  if (is_member(id)) fail(state, partners_[id]);
}

// A gang whose rank is lost fails: its members fail that have not begun, or are there no more, and the others when they
// come to meet.
void Model::lose(State& state, Id rank) {
  state.ranks[rank] = Rank{};
  end_reservation(state);
  for (Id id = 0; id < plan_.tasks.size(); ++id) {  // who has submitted others comes before them
    const Task& task = state.tasks[id];
    const bool was_ended = is_member(id) && task.life == Life::ended && state.tasks[partners_[id]].life == Life::live;
    if (was_ended) fail(state, id);
    if (task.life == Life::live && task.rank == rank) {
      to_head(state, id);
      forget_children(state, id);
    } else if (task.life == Life::made && task.rank == rank) {
      state.tasks[id] = Task{.life = Life::failed};
    }
  }
  // Later ones first: to make a value again needs its inputs again.
  for (Id id = static_cast<Id>(plan_.tasks.size()); id-- != 0;) {
    const Task& task = state.tasks[id];
    if (task.life != Life::ended || task.rank != rank || !is_needed(state, id)) continue;
    state.tasks[id] = Task{.life = Life::live, .known = true};
    forget_children(state, id);
  }
  for (Id id = 0; id < plan_.tasks.size(); ++id) {
    Task& task = state.tasks[id];
    if (task.life != Life::live || !task.known) continue;
    if (is_member(id)) {
      if (!has_begun(task)) fail(state, id);
      continue;
    }
    if (task.at != At::head) continue;
    const Id input = plan_.tasks[id].input;
    if (input != kNone && state.tasks[input].life == Life::failed) {
      fail(state, id);
      continue;
    }
    const bool was_queued = task.state == sched::State::queued;
    if (was_queued && !has_input(state, id)) become(task, sched::State::waiting);
    if (!was_queued) set_up(state, id);
  }
}

// One of the states that differ only in what does not matter: the names of equal ranks, and where unneeded values are.
State Model::normal(State state) const {
  for (Id id = 0; id < plan_.tasks.size(); ++id) {
    Task& task = state.tasks[id];
    if (task.life == Life::ended && (state.losses == 0 || !is_needed(state, id))) task.rank = kNone;
  }
  if (plan_.keeps_names || plan_.slots.size() != kRanks || plan_.slots[0] != plan_.slots[1]) return state;
  State other = state;
  std::swap(other.ranks[0], other.ranks[1]);
  for (Task& task : other.tasks) {
    if (task.rank < kRanks) task.rank = static_cast<std::uint8_t>(1 - task.rank);
  }
  return std::memcmp(&state, &other, sizeof state) < 0 ? state : other;
}

// ---- steps --------------------------------------------------------------------------------------------------------

template <class Change>
void Model::add(const char* what, Id id, Id rank, Change&& change) {
  Step& step = steps_->emplace_back(Step{what, id, rank, *from_});
  change(step.next);
  step.next = normal(step.next);
}

void Model::steps_from(const State& state, std::vector<Step>& steps) {
  from_ = &state;
  steps_ = &steps;
  steps.clear();
  for (Id id = 0; id < plan_.tasks.size(); ++id) {
    const Task& task = state.tasks[id];
    if (task.life == Life::made) {
      const Id parent = plan_.tasks[id].parent;
      if (parent != kNone && state.tasks[parent].life == Life::live) continue;
      add("the actor is gone, since nobody has it", id, task.rank,
          [&](State& next) { next.tasks[id] = Task{.life = Life::ended}; });
    }
    if (task.life != Life::live) continue;
    head_steps(id);
    if (task.at != At::head) rank_steps(id);
    if (has_begun(task)) run_steps(id);
    gang_steps(id);
    disturbances(id);
  }
  for (Id rank = 0; rank < plan_.slots.size(); ++rank) {
    if (!state.ranks[rank].alive) continue;
    State told = state;
    tell_lent(told, rank);
    if (told != state) add("the head hears what is lent", kNone, rank, [&](State& next) { next = told; });
    if (state.losses != 0 && alive(state) == kRanks && !all_done(state)) {
      add("the rank is lost", kNone, rank, [&](State& next) {
        --next.losses;
        lose(next, rank);
      });
    }
  }
}

// What the head does with a task, or hears of it.
void Model::head_steps(Id id) {
  const State& state = *from_;
  const Task& task = state.tasks[id];
  const TaskPlan& plan = plan_.tasks[id];
  if (!task.known) return add("is announced", id, task.rank, [&](State& next) { announce(next, id); });
  if (task.at != At::head) return;
  if (task.state == sched::State::waiting) {
    if (has_input(state, id)) {
      if (!task.deaf) add("has its input", id, kNone, [&](State& next) { set_up(next, id); });
      return;
    }
    const Task& input = state.tasks[plan.input];
    const bool is_placed = input.life == Life::live && input.known && input.at != At::head && !is_member(plan.input);
    if (plan.kind != Kind::task || !is_placed) return;
    if (is_closed(state, input.rank) || busy(state, input.rank) + ahead(state, input.rank) >= kAhead) return;
    add("is sent ahead", id, input.rank, [&](State& next) {
      become(next.tasks[id], sched::State::ahead);
      next.tasks[id].at = At::waiting;
      next.tasks[id].rank = input.rank;
    });
    return;
  }
  switch (plan.kind) {
    case Kind::task:
    case Kind::placed:
      for (Id rank = 0; rank < plan_.slots.size(); ++rank) {
        if (has_room(state, rank)) add("is placed", id, rank, [&](State& next) { assign(next, id, rank); });
      }
      return;
    case Kind::actor:
      for (const Id rank : places_for_actor(state)) {
        add("is placed", id, rank, [&](State& next) { assign(next, id, rank); });
      }
      return;
    case Kind::member:
      if (partners_[id] < id) return;
      if (takes_part(state, 0) && takes_part(state, 1)) {
        for (Id rank = 0; rank < kRanks; ++rank) {
          add("is placed, with its partner", id, rank, [&](State& next) { start_gang(next, id, rank); });
        }
      } else if (is_reserved(state) && !faults_.reserved_in_vain && !could_take_part(state)) {
        add("gives up what is reserved in vain", id, kNone, [&](State& next) { end_reservation(next); });
      } else if (!is_reserved(state) && could_take_part(state)) {
        add("has both ranks reserved", id, kNone, [&](State& next) {
          for (Rank& each : next.ranks) each.reserved = true;
        });
      }
      return;
  }
}

// What a rank does with a task that has not begun.
void Model::rank_steps(Id id) {
  const State& state = *from_;
  const Task& task = state.tasks[id];
  const Kind kind = plan_.tasks[id].kind;
  if (task.at > At::queued) return;
  const Id rank = task.rank;
  if (task.at == At::waiting && has_input(state, id) && !task.deaf) {
    add("has its input", id, rank, [&](State& next) {
      next.tasks[id].at = At::queued;
      if (task.known) become(next.tasks[id], sched::State::assigned);
    });
  }
  // Members that are there were placed before the actor, and so start before it.
  const bool is_behind = kind == Kind::actor && !faults_.actor_overtakes_member && is_member_queued(state, rank);
  const bool is_beside = kind == Kind::member && !faults_.members_hold_lent;
  if (is_beside) {
    // It leaves to tasks what those need that wait, and those members that have none.
    const int missed = faults_.missing_is_free ? 0 : missing(state, rank);
    const bool has_cpu = spare(state, rank) - waiting(state, rank) - missed >= 1;
    if (has_cpu || waiting(state, rank) >= 1) {
      add(has_cpu ? "starts" : "starts without a cpu, beside what waits", id, rank, [&](State& next) {
        next.tasks[id].at = At::running;
        next.tasks[id].without = !has_cpu;
      });
    }
    return;
  }
  if (task.at == At::queued && spare(state, rank) >= 1 && !anyone_returns(state, rank) && !is_behind) {
    add("starts", id, rank, [&](State& next) { next.tasks[id].at = At::running; });
  }
  if (kind == Kind::member) return;
  // The head asks for what is at a rank that is reserved, or has more than it can run while another has nothing to do.
  // What was placed for what it asks for stays, unless others have that now.
  const bool may_go = kind == Kind::task || (spare(state, rank) < 1 && !faults_.placed_stays) || task.at == At::waiting;
  if (!task.known || !may_go) return;
  bool is_wanted = false;
  for (Id other = 0; other < plan_.slots.size(); ++other) is_wanted = is_wanted || is_idle(state, other);
  for (Id other = 0; other < plan_.tasks.size(); ++other) {
    is_wanted =
        is_wanted && (state.tasks[other].state != sched::State::queued || plan_.tasks[other].kind != Kind::task);
  }
  const bool is_rich = task.at == At::queued && busy(state, rank) > capacity(state, rank);
  if (!is_closed(state, rank) && !(is_wanted && is_rich)) return;
  add("is given back", id, rank, [&](State& next) {
    to_head(next, id);
    set_up(next, id);
  });
}

// A member hears that its partner waits, or no more: each of them may be inside MPI then, and wait there for the other.
void Model::gang_steps(Id id) {
  const Task& task = from_->tasks[id];
  if (!is_member(id) || !has_begun(task) || task.lender != kNone || faults_.members_inside_keep) return;
  bool waits = false;  // it, or what it runs itself
  for (Id other = 0; other < plan_.tasks.size(); ++other) {
    waits = waits || (is_waiting_for_cpu(from_->tasks[other]) && root(*from_, other) == partners_[id]);
  }
  if (task.gang_waits == waits) return;
  add(waits ? "lends its cpu, as its partner waits" : "takes its cpu back, as its partner waits no more", id, task.rank,
      [&](State& next) { next.tasks[id].gang_waits = waits; });
}

// What a task does that has begun.
void Model::run_steps(Id id) {
  const State& state = *from_;
  const Task& task = state.tasks[id];
  if (task.at == At::meeting) {
    const Task& partner = state.tasks[partners_[id]];
    if (partner.at != At::meeting && !is_over(partner)) return;
    add("ends", id, task.rank, [&](State& next) { end(next, id); });
    return;
  }
  if (is_waiting_for_cpu(task)) return resume_steps(id);
  if (task.at != At::running) return;
  const Id rank = task.rank;
  if (const Id child = awaited(state, id); child != kNone) {
    const Task& other = state.tasks[child];
    if (other.at == At::queued && other.rank == rank && plan_.tasks[child].parent == id &&
        plan_.tasks[child].kind <= Kind::placed) {
      add("runs the child that it waits for itself", id, rank, [&](State& next) {
        next.tasks[id].at = At::helping;
        next.tasks[child].at = At::running;
        next.tasks[child].lender = root(state, id);
      });
    }
    add("waits for a child and lends its cpu", id, rank, [&](State& next) { next.tasks[id].at = At::blocked; });
  } else if (task.submitted < children_[id].size()) {
    add("submits children", id, rank, [&](State& next) {
      std::uint8_t& submitted = next.tasks[id].submitted;
      bool is_last = false;
      do {
        const Id next_child = children_[id][submitted++];
        submit(next, next_child);
        is_last = plan_.tasks[next_child].wait == Wait::at_once && partners_[next_child] != next_child + 1;
      } while (!is_last && submitted < children_[id].size());
    });
  } else if (is_member(id)) {
    add("meets", id, rank, [&](State& next) { next.tasks[id].at = At::meeting; });
  } else {
    add("ends", id, rank, [&](State& next) { end(next, id); });
  }
}

// It has what it waited for. Where others want their cpus back it is behind them, and before all that have not begun.
void Model::resume_steps(Id id) {
  const State& state = *from_;
  const Task& task = state.tasks[id];
  if (task.at == At::blocked && awaited(state, id) != kNone) return;
  const Id rank = task.rank;
  const Id holder = root(state, id);
  const bool actors_have_all = actors_begun(state, rank) >= plan_.slots[rank] && !faults_.actor_keeps_lent;
  const bool is_members = is_member(holder) && !faults_.members_hold_lent;
  const bool waits_for_members = faults_.tasks_wait_for_members || faults_.members_hold_lent;
  // Not those of members: such a one may be inside MPI, and there wait for one that waits for just this task.
  const bool has_cpus = spare(state, rank) + (waits_for_members ? 0 : begun_members(state, rank)) >= 1;
  const bool has_turn = task.at == At::returning || !anyone_returns(state, rank);
  if (is_members) {
    add("goes on", id, rank, [&](State& next) {
      next.tasks[id].at = At::running;
      if (actors_have_all) next.tasks[holder].without = true;
    });
  } else if ((lenders(state) >> holder & 1U) == 0 || (has_turn && (actors_have_all || has_cpus))) {
    add(actors_have_all ? "goes on without its cpu, which an actor has" : "goes on", id, rank, [&](State& next) {
      next.tasks[id].at = At::running;
      next.tasks[holder].without = actors_have_all;
    });
  } else if (task.at == At::blocked) {
    add("wants its cpu back", id, rank, [&](State& next) { next.tasks[id].at = At::returning; });
  }
}

void Model::disturbances(Id id) {
  const State& state = *from_;
  const Task& task = state.tasks[id];
  const bool is_gang_away = is_member(id) && (task.at != At::head || partners_[id] < id);
  if (state.cancels == 0 || !task.known || task.at > At::queued || is_gang_away) return;
  add("is cancelled", id, task.rank, [&](State& next) {
    --next.cancels;
    cancel(next, id);
  });
}

// ---- what holds ---------------------------------------------------------------------------------------------------

bool Model::all_done(const State& state) const {
  return std::none_of(state.tasks.begin(), state.tasks.end(), [](const Task& task) { return task.life == Life::live; });
}

bool Model::all_free(const State& state) const {
  for (Id rank = 0; rank < plan_.slots.size(); ++rank) {
    if (used(state, rank) != 0 || state.ranks[rank].told != 0 || state.ranks[rank].beside != 0) return false;
  }
  return !is_reserved(state);
}

// Actors hold all cpus that there are. Of a gang it is enough that one of its ranks is held so, but nothing may be kept
// free for it then.
bool Model::is_starved(const State& state) const {
  bool any_left = false;
  bool any_actor = false;
  for (Id rank = 0; rank < plan_.slots.size(); ++rank) {
    if (!state.ranks[rank].alive) continue;
    any_actor = any_actor || held(state, rank) != 0;
    any_left = any_left || held(state, rank) < plan_.slots[rank];
  }
  if (any_actor && !any_left) return true;
  const auto is_queued_member = [&](Id id) { return is_member(id) && state.tasks[id].state == sched::State::queued; };
  bool any_gang = false;
  for (Id id = 0; id < plan_.tasks.size(); ++id) any_gang = any_gang || is_queued_member(id);
  return any_gang && !could_take_part(state) && !is_reserved(state);
}

std::string Model::why_wrong(const State& state) const {
  const auto may_wait = [this](Id id) { return !children_[id].empty() || plan_.tasks[id].awaits != kNone; };
  bool is_gang_queued = false;
  for (Id id = 0; id < plan_.tasks.size(); ++id) {
    const Task& task = state.tasks[id];
    if (task.life != Life::live) {
      if (task.at != At::head || task.state != sched::State::waiting) return "what has no task has a state";
      continue;
    }
    const bool at_rank = task.at != At::head;
    if (at_rank != (task.rank != kNone)) return "a task is at a rank, and at none";
    for (Id rank = 0; at_rank && rank < kRanks; ++rank) {
      if (task.rank == rank && !state.ranks[rank].alive) return "a task is at a rank that is lost";
    }
    const bool is_right = !task.known              ? at_rank && task.state == sched::State::waiting
                          : task.at == At::head    ? task.state <= sched::State::queued
                          : task.at == At::waiting ? task.state == sched::State::ahead
                                                   : task.state == sched::State::assigned;
    if (!is_right) return "a task's place is not that of its state";
    const bool needs_input = task.state == sched::State::queued || task.at == At::queued;
    const bool was_lost = plan_.losses != state.losses;  // the rank may have read what is lost now
    if (needs_input && !was_lost && !has_input(state, id)) return "what lacks its input could start";
    is_gang_queued = is_gang_queued || (is_member(id) && task.state == sched::State::queued);
  }
  if (is_reserved(state) && !is_gang_queued) return "ranks are reserved for nobody";
  for (Id rank = 0; rank < plan_.slots.size(); ++rank) {
    if (spare(state, rank) + begun_members(state, rank) < 0) return "more cpus are held than there are";
    int beside = 0;
    for (Id id = 0; id < plan_.tasks.size(); ++id) {
      const Task& task = state.tasks[id];
      const bool is_beside = is_member(id) && has_begun(task) && task.rank == rank && task.without;
      if (is_beside && !may_wait(id) && !may_wait(partners_[id])) ++beside;
    }
    if (beside > plan_.slots[rank]) return "more members run without cpus than there are cpus";
  }
  return "";
}

std::string Model::describe(const State& state) const {
  constexpr std::array kLives{"not submitted", "live", "an actor that holds a cpu", "ended", "failed"};
  constexpr std::array kStates{"waiting", "queued", "ahead", "assigned"};
  constexpr std::array kAts{"at the head",     "without its input", "queued there",       "running",
                            "running a child", "blocked",           "wants its cpu back", "meeting its partner"};
  std::string text;
  for (Id id = 0; id < plan_.tasks.size(); ++id) {
    const Task& task = state.tasks[id];
    text += "    task " + std::to_string(id) + ": ";
    if (task.life != Life::live) {
      text += kLives[static_cast<std::size_t>(task.life)];
    } else {
      text += task.known ? kStates[static_cast<std::size_t>(task.state)] : "kept";
      text += std::string(", ") + kAts[static_cast<std::size_t>(task.at)];
      if (task.without) text += ", without a cpu";
    }
    if (task.rank < kRanks) text += ", rank " + std::to_string(task.rank);
    text += "\n";
  }
  for (Id rank = 0; rank < plan_.slots.size(); ++rank) {
    text += "    rank " + std::to_string(rank) + ": " + std::to_string(used(state, rank)) + " of " +
            std::to_string(plan_.slots[rank]) + " cpus used, " + std::to_string(lent(state, rank)) + " lent, " +
            std::to_string(state.ranks[rank].told) + " told to be" + (state.ranks[rank].reserved ? ", reserved" : "") +
            (state.ranks[rank].alive ? "\n" : ", lost\n");
  }
  return text;
}

}  // namespace mobula::model
