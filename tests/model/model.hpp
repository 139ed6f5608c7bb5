// An abstract model of the ledger of capacity ("What holds capacity" in docs/design.md): a few tasks on one or two
// ranks, and every order in which things may happen to them. explorer.hpp looks at all states that can be reached.
//
// A task's state is the head's, sched::State, and a step changes it only as sched::may_follow allows: the very table by
// which Piece::become checks the code. Beside it stands what the task does at its rank:
//
//   at         sched::State          holds at the head    holds at the rank
//   head       waiting or queued     nothing              nothing
//   waiting    ahead                 nothing              nothing
//   queued     assigned              a cpu of its rank    nothing
//   running    assigned              the same             a cpu, or what its lender has
//   helping    assigned              the same             a cpu; its thread runs the task that it waits for
//   blocked    assigned              the same             nothing: it lends its cpu, which the head hears of later
//   returning  assigned              the same             nothing yet: what it waited for is there
//   meeting    assigned              the same             what it had: a member inside MPI, until its partner meets
//   too;
//                                                         nothing, once it has heard that its partner waits for others
//
// A member of a gang begins at its rank with a cpu that nobody holds who waits there, nor is missing to another member;
// or without one, beside what waits there. What it has lent it takes back as soon as it has what it waited for. A task
// that has waited takes its cpu back from members, but not from tasks.
//
// What a task has submitted is kept at its rank, and unknown to the head at first: it has no sched::State until it is
// announced, and holds nothing at the head. An actor that is made holds its cpu until nobody has it any more. A task
// that has waited goes on without a cpu where actors hold all of its rank's: it may have waited for just such an actor.
//
// What holds in every state (Model::why_wrong):
//   - a task is at one place, as its sched::State says, and only a rank that is alive has tasks
//   - what is queued at a rank, or further, had its input
//   - no more cpus are held at a rank than it has, by tasks and actors alone
//   - members of gangs that never wait run without cpus only up to the number of those that the rank has
//   - ranks are reserved for a gang that is queued
// and what comes to pass (explorer.hpp): from every state one is reached in which all is done and everything is free,
// unless the program has made its own deadlock: actors hold all cpus that there are, or all of a rank that a gang
// needs.
//
// Left out: demands other than one cpu, priorities, times (what a gang reserves is kept until it starts), values, and
// messages under way, but for those that tell of kept tasks and of lent cpus. A choice that the scheduler makes by load
// or place is free here. What a lost run has submitted is gone at once, since the run is made again.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "sched/states.hpp"

namespace mobula::model {

inline constexpr std::size_t kTasks = 8;  // at most
inline constexpr std::size_t kRanks = 2;
inline constexpr std::uint8_t kNone = 9;  // no task, no rank

// task: plain, and kept where a task submits it. placed: the same, with a wish about its place, so the head places it.
// actor: making it is the task, and it submits nothing. member: two of them, one after the other, are a gang.
enum class Kind : std::uint8_t { task, placed, actor, member };
// Whether who submits it waits for its end: as soon as it is submitted, or when all its brothers are.
enum class Wait : std::uint8_t { never, at_once, at_end };

// What the program does.
struct TaskPlan {
  Kind kind = Kind::task;
  std::uint8_t parent = kNone;  // who submits it: an earlier task; none: the driver
  std::uint8_t input = kNone;   // whose value it needs: an earlier task
  Wait wait = Wait::never;
  std::uint8_t awaits = kNone;  // a task of the driver, whose end it waits for at its own end
};
struct Plan {
  std::vector<TaskPlan> tasks;
  std::vector<std::uint8_t> slots{1, 1};  // of each rank
  std::uint8_t cancels = 0;               // as many tasks may be cancelled, any,
  std::uint8_t losses = 0;                // and ranks lost
  bool keeps_names = false;               // of ranks, so that a trace can be read; otherwise equal ones are one state
};
std::string to_string(const Plan& plan);

// Faults that the ledger has had, or would have without one of its rules. The checker must find each of them.
struct Faults {
  bool missing_inputs_hold = false;      // what waits for inputs at a rank counts as if it ran
  bool nobody_lends = false;             // a task that waits keeps its cpu
  bool reservation_survives = false;     // its queue
  bool actor_keeps_lent = false;         // an actor may take what a task lends, which then waits for it for ever
  bool parts_share_a_countdown = false;  // of what is split only the first part hears of the input
  bool lending_stays_told = false;       // the head is not told that nothing is lent any more
  bool reserved_in_vain = false;         // a gang keeps ranks reserved where an actor has all cpus for good
  bool end_overtakes_lending = false;    // the head hears that a task has ended, and later that it lends nothing more
  bool actor_overtakes_member = false;   // of a gang, which was at the rank first
  bool actor_waits_for_members = false;  // to end, rather than take what a task lends
  bool members_hold_lent = false;        // a member begins on what others lend, and waits for what it has lent
  bool tasks_wait_for_members = false;   // a task that has waited goes on only where no member has its cpu
  bool placed_stays = false;             // what has a wish about its place is not given back
  bool missing_is_free = false;          // what a member runs without may be another member's
  bool members_stack_up = false;         // beside others that run beside what waits
  bool members_inside_keep = false;      // their cpus, also where their partners wait
  bool reserved_beside_members = false;  // a rank that is reserved gets no tasks, also where a member is
};

enum class Life : std::uint8_t { unsubmitted, live, made, ended, failed };  // made: an actor that somebody has
enum class At : std::uint8_t { head, waiting, queued, running, helping, blocked, returning, meeting };

struct Task {
  Life life = Life::unsubmitted;
  sched::State state = sched::State::waiting;
  At at = At::head;
  bool known = false;           // to the head
  bool without = false;         // since it waited last it has no cpu
  bool gang_waits = false;      // of a member: it has heard that its partner waits, and lends its cpu
  bool deaf = false;            // with a fault: it does not hear of its input
  std::uint8_t rank = kNone;    // of one that has ended: where its value is, while it is needed
  std::uint8_t lender = kNone;  // the task that waits for it, and on whose cpu it runs
  std::uint8_t submitted = 0;   // of its children
  bool operator==(const Task&) const = default;
};
struct Rank {
  bool alive = false;
  bool reserved = false;
  std::uint8_t told = 0;    // cpus that are lent there, and
  std::uint8_t beside = 0;  // members that run without one, as far as the head knows
  bool operator==(const Rank&) const = default;
};
struct State {
  std::array<Task, kTasks> tasks;
  std::array<Rank, kRanks> ranks;
  std::uint8_t cancels = 0;  // that may still come
  std::uint8_t losses = 0;
  bool operator==(const State&) const = default;
};
static_assert(sizeof(State) == 10 * kTasks + 4 * kRanks + 2, "bytes without gaps: states are hashed as such");

struct Step {
  const char* what = "";
  std::uint8_t task = kNone;
  std::uint8_t rank = kNone;
  State next;
};

class Model {
 public:
  explicit Model(Plan plan, Faults faults = {});

  State first();                                                  // the driver has submitted its tasks
  void steps_from(const State& state, std::vector<Step>& steps);  // all that may happen next
  bool all_done(const State& state) const;
  bool all_free(const State& state) const;
  bool is_starved(const State& state) const;        // actors hold what tasks need
  std::string why_wrong(const State& state) const;  // empty: nothing is
  std::string describe(const State& state) const;

  // How often a task went from one sched::State to another, and whether may_follow has forbidden it.
  using Moves = std::array<std::array<std::uint64_t, sched::kStates>, sched::kStates>;
  const Moves& moves() const { return moves_; }
  bool made_forbidden_move() const { return forbidden_; }

 private:
  using Id = std::uint8_t;

  // ---- the sums
  bool has_input(const State& state, Id id) const;
  std::uint8_t root(const State& state, Id id) const;
  std::uint32_t lenders(const State& state) const;
  int used(const State& state, Id rank) const;
  int lent(const State& state, Id rank) const;
  int unused(const State& state, Id rank) const;
  int actors_begun(const State& state, Id rank) const;
  int spare(const State& state, Id rank) const { return plan_.slots[rank] - used(state, rank); }
  bool anyone_returns(const State& state, Id rank) const;
  int waiting(const State& state, Id rank) const;
  int missing(const State& state, Id rank) const;
  int begun_members(const State& state, Id rank) const;
  bool is_member(Id id) const { return plan_.tasks[id].kind == Kind::member; }
  bool is_whole_gang_over(const State& state, Id id) const;
  int members(const State& state, Id rank) const;
  bool is_closed(const State& state, Id rank) const;
  bool is_member_queued(const State& state, Id rank) const;
  int busy(const State& state, Id rank) const;
  int ahead(const State& state, Id rank) const;
  int held(const State& state, Id rank) const;
  int held_or_taken(const State& state, Id rank) const;
  int capacity(const State& state, Id rank) const;
  int lasting(const State& state, Id rank) const;
  bool has_room(const State& state, Id rank) const;
  bool is_idle(const State& state, Id rank) const;
  bool takes_part(const State& state, Id rank) const;
  bool could_take_part(const State& state) const;
  std::vector<Id> places_for_actor(const State& state) const;
  bool is_reserved(const State& state) const { return state.ranks[0].reserved || state.ranks[1].reserved; }
  std::size_t alive(const State& state) const { return std::size_t{state.ranks[0].alive} + state.ranks[1].alive; }
  std::uint8_t awaited(const State& state, Id id) const;
  bool is_needed(const State& state, Id id) const;

  // ---- changes
  void become(Task& task, sched::State next);
  void submit(State& state, Id id);
  void set_up(State& state, Id id);
  void assign(State& state, Id id, Id rank);
  void announce(State& state, Id id);
  void tell_lent(State& state, Id rank) const;
  void to_head(State& state, Id id);
  void end(State& state, Id id);
  void fail(State& state, Id id);
  void start_gang(State& state, Id id, Id rank);
  void forget(State& state, Id id);
  void forget_children(State& state, Id id);
  void cancel(State& state, Id id);
  void lose(State& state, Id rank);
  void end_reservation(State& state) const;
  State normal(State state) const;

  // ---- steps, by who makes them
  template <class Change>
  void add(const char* what, Id id, Id rank, Change&& change);
  void head_steps(Id id);
  void rank_steps(Id id);
  void run_steps(Id id);
  void resume_steps(Id id);
  void gang_steps(Id id);
  void disturbances(Id id);

  Plan plan_;
  Faults faults_;
  std::vector<std::vector<Id>> children_;
  std::vector<Id> partners_;            // of members
  const State* from_ = nullptr;         // while its steps are looked for,
  std::vector<Step>* steps_ = nullptr;  // which come here
  Moves moves_{};
  bool forbidden_ = false;
};

}  // namespace mobula::model
