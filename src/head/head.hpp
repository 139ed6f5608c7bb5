// Rank 0's other side: it knows every task and every object that is known beyond one rank, and carries out what the
// scheduler decides. A reactor like the worker: messages and the time come in, messages go out. It never blocks, starts
// no thread and reads no clock. Called under the rank's lock.
//
// Of a span the head keeps the pieces that have not ended; a task that is in none of them has ended, and its result is
// with the span's owner unless an Entry says otherwise. So a batch of millions costs what its unfinished parts cost.
//
// An Entry stands for an object that someone besides its owner has to do with: it is a dependency, is held by others,
// stays where it was made, or holds objects itself. Its holders are ranks, tasks, and objects; when the last goes, the
// value is freed wherever it lies. Holders can be counted one by one, since what a rank says arrives in order: a task's
// submission before the submitter drops its own handle, a rank's hold before the end of the task that gave it the ref.
#pragma once

#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <set>
#include <unordered_map>
#include <vector>

#include "core/messages.hpp"
#include "core/trace.hpp"
#include "head/copies.hpp"
#include "head/dependents.hpp"
#include "mobula/store.hpp"
#include "sched/scheduler.hpp"
#include "store/objects.hpp"
#include "transport/transport.hpp"

namespace mobula::head {

using core::ErrorPtr;
using core::Range;
using core::Time;
using detail::Buffer;
using detail::ByteView;
using detail::ObjectId;
using detail::RankId;
using detail::SpanId;

struct Settings {
  std::uint32_t ranks = 1;
  std::string version;
  std::uint64_t digest = 0;
  std::size_t inline_limit = 4096;
  std::uint32_t crash_limit = 3;     // ranks lost at a task after which it is taken for the cause
  Time lost_after = 10'000'000'000;  // ns without a sign of life; 0: for ever
  std::size_t lineage_limit = 1 << 30;
  std::size_t recent_limit = 256 << 20;  // bytes of tasks that have just ended, whose results may be on their way
  Time leave_hold = 300'000'000;  // ns that a rank's wish to leave waits: a signal to all ranks is one to the job
};

struct RankState {
  bool joined = false;
  bool alive = false;
  bool left = false;  // in order
  std::uint32_t node = 0;
  std::uint32_t slots = 0;
  std::string host;
  std::string end;  // how it was lost
};

class Head {
 public:
  // `objects` is the table of this rank, for values that travel with a task.
  Head(transport::Transport& transport, store::ObjectTable& objects, Settings settings);
  ~Head();

  void handle(RankId from, const core::Join& message);
  void handle(RankId from, const core::Submit& message);
  void handle(RankId from, const core::Made& message);
  void handle(RankId from, const core::Done& message);
  void handle(RankId from, const core::OvertimeEnded& message);
  void handle(RankId from, const core::Holds& message);
  void handle(RankId from, const core::Locate& message);
  void handle(RankId from, const core::Unheard& message);
  void handle(RankId from, const core::Copied& message);
  void handle(RankId from, const core::Uncopied& message);
  void handle(RankId from, const core::GaveBack& message);
  void handle(RankId from, const core::Lending& message);
  void handle(RankId from, const core::Waits& message);
  void handle(RankId from, const core::Ask& message);
  void handle(RankId from, const core::StoreReport& message);
  void handle(RankId from, const core::CancelResult& message);
  void handle(RankId from, const core::Counted& message);
  void handle(RankId from, const core::Promised& message);
  void handle(RankId from, const core::ActorEnded& message);
  void handle(RankId from, const core::Checkpoint& message);
  void handle(RankId from, const core::Leave& message);
  void handle(RankId from, const core::Left& message);
  void handle(RankId from, const core::Saved& message);
  void handle(RankId from, const core::KillDone& message);
  void handle(RankId from, const core::Blocked& message);
  void handle(RankId from, const core::Member& message);
  void handle(RankId from, const core::Pulse& message);

  // The rank is gone: what it ran runs elsewhere, what only it had is lost.
  void worker_lost(RankId rank, const std::string& how = "") { worker_lost(rank, how, nullptr); }
  // `begun`: the tasks that it was at, if that is known: one of them may be the cause.
  void worker_lost(RankId rank, const std::string& how, const std::vector<Range>* begun);
  // Places what can be placed, evens out, and tells what is to be told. To be called after messages were handled.
  void step(Time now);
  // The job is to end soon, and why: tasks of the driver that have not begun fail with Cancelled, those that come too;
  // actors are saved.
  void drain(const std::string& why);
  // All that had begun has ended, and is saved.
  bool drained() const;
  // Has actors that later jobs go on from saved, since this one ends. `saved`: they are.
  void save_durable();
  bool saved() const { return unsaved_.empty(); }
  // Seconds that the allocation has left, for time requests; negative: no limit.
  void set_time_left(double seconds) { time_left_s_ = seconds; }

  // What the user should know, once: nothing goes on, and why.
  std::optional<std::string> complaint(Time now);
  std::optional<std::string> why_infeasible(const core::WireOptions& options);
  std::string explain(ObjectId id) const;
  std::string cluster_bytes() const;  // a ClusterInfo, encoded

  bool all_joined() const { return joined_ == settings_.ranks; }
  const std::string& join_error() const { return join_error_; }
  bool hungry() const { return scheduler_.hungry(); }
  // Submitted and not ended.
  std::uint64_t unfinished() const { return unfinished_; }
  std::uint64_t ended() const { return ended_; }
  std::size_t queued_bytes() const { return queued_bytes_; }
  std::size_t entries() const { return entries_.size(); }
  std::size_t actors() const { return actors_.size(); }
  std::size_t groups() const { return groups_.size() + scheduler_.pools(); }
  std::size_t gangs() const { return gangs_.size(); }
  std::size_t lineage_bytes() const { return lineage_bytes_; }
  std::size_t stuck() const { return stuck_.size(); }
  std::uint32_t lost() const { return lost_; }  // ranks, those that have left in order among them
  std::uint32_t left() const;
  bool lost_a_node() const;  // all ranks of one
  std::uint64_t retried() const { return retried_; }
  std::uint64_t messages() const { return messages_; }
  const std::vector<RankState>& ranks() const { return ranks_; }
  struct Tally {                 // of tasks that have not ended
    std::uint64_t waiting = 0;   // for inputs
    std::uint64_t queued = 0;    // for room
    std::uint64_t assigned = 0;  // to a rank
  };
  std::map<std::uint32_t, Tally> tally() const;  // by function; looks at all pieces
  std::uint64_t assigned_to(RankId rank) const;  // tasks
  bool is_draining() const { return !draining_.empty(); }
  sched::Scheduler& scheduler() { return scheduler_; }
  void check_invariants() const;
  // For tests, in checks.cpp; empty: all is well. What is not the sum that it should be; what is not gone at rest.
  std::string why_not_sums() const;
  std::string what_is_left() const;
  std::string describe_entries() const;  // for tests
  std::string describe_pieces() const;

 private:
  enum class Tie : std::uint8_t { none, holds, way };  // way: to what makes it again
  // What the tasks of one Submit share.
  struct Work {
    std::uint32_t function = 0;
    std::shared_ptr<const core::WireOptions> options;
    Buffer args;
    std::vector<std::uint32_t> ends;  // of several tasks' arguments that are not of one size
    std::uint32_t base = 0;
    std::uint32_t fixed = 0;  // bytes of one task's arguments where `ends` is empty
    bool varies = false;      // they are not of one size
    std::uint64_t dep_mask = 0;
    std::vector<ObjectId> holds;  // deps, and behind them objects in argument values: until the last task has ended
    std::uint32_t n_deps = 0;     // of those
    bool nested = false;          // submitted by a task
    std::uint32_t unfinished = 0;
    std::uint32_t makes = 0;  // Entries that name it as what makes them again
    bool in_lineage = false;
    bool forgotten = false;
    std::size_t weight = 0;  // in lineage: bytes that are kept for it
    std::vector<Tie> ties;   // in lineage: how it is tied to each of `holds`
    std::list<Work*>::iterator kept_at;
    std::span<const ObjectId> deps() const { return {holds.data(), n_deps}; }
    bool is_gang() const { return options != nullptr && options->gang != 0; }
    ByteView args_of(std::uint32_t begin, std::uint32_t end) const;
  };
  struct Piece : sched::Piece {
    std::shared_ptr<Work> work;
    std::uint32_t attempt = 1;
    std::uint32_t crashes = 0;   // ranks that were lost while they were at it
    std::uint32_t missing = 0;   // dependencies that have not ended, whose entries list it among their dependents
    std::uint32_t unplaced = 0;  // of those, not assigned yet
    bool promised = false;  // by its owner, who tells of its end, or submits its task: the scheduler has no part in it
    bool goes_first = false;  // in its queue: its rank gave it back
    RankId deferred_to = detail::kNoRank;
    ErrorPtr failing;               // it is to fail at the end of the step
    bool again = false;             // it has ended before, and its value was lost
    std::uint64_t gang = 0;         // of which it is a member; while it is not assigned then, it waits for that to end
    std::uint32_t assigned_at = 0;  // position in the list of its worker
  };
  struct Span {
    std::map<std::uint32_t, std::unique_ptr<Piece>> pieces;
    std::set<std::uint32_t> entries;  // elements that have an Entry
    bool owner_gone = false;          // the owner holds none of it
  };
  struct Entry {
    core::Small<std::pair<RankId, std::int32_t>, 2> ranks;  // holders; counts may go negative for a while
    std::int32_t inner = 0;                                 // tasks and objects that hold it
    bool stored = false;                                    // at `at`; otherwise with the owner
    RankId at = detail::kNoRank;
    std::uint64_t size = 0;
    std::uint32_t serving = 0;       // transfers that start at `at`
    std::unique_ptr<Copies> copies;  // of a large value; none yet: nullptr
    const Copy* copy_at(RankId rank) const { return copies != nullptr ? copies->find(rank) : nullptr; }
    void add_copy(const Copy& copy);
    void erase_copy(RankId rank);
    std::vector<ObjectId> contains;
    Dependents<Piece> dependents;
    std::vector<RankId> locators;
    ErrorPtr error;
    std::shared_ptr<Work> maker;         // can make it again
    std::uint32_t lineage = 0;           // Works in lineage that need it to run again
    bool gone = false;                   // the value is nowhere
    bool freed = false;                  // its owner was told to free it, and has no place for it
    bool followed = false;               // a task that needs it went where it is being made
    RankId gone_with = detail::kNoRank;  // that rank; none: it was freed
    bool held() const;
  };
  struct Recent {  // what a rank ended a short while ago, and whose results may still be on their way
    Range range;
    Time when = 0;
    std::size_t bytes = 0;
    std::shared_ptr<Work> work;  // nullptr: forgotten
  };
  struct Recents {
    std::deque<Recent> all;       // the oldest first
    std::size_t n_forgotten = 0;  // of them; their owners are asked all the same, or might wait for ever
  };
  struct Survey {  // of all ranks' stores
    RankId from;
    std::uint64_t token;
    std::uint32_t largest;
    std::set<RankId> missing;
    StoreStats stats;
  };
  // An actor, from the moment that its name or its making is known until its object is destroyed. The Entry of its id
  // counts the handles.
  struct Actor {
    enum class State : std::uint8_t { reserved, pending, alive, ended };
    State state = State::reserved;
    bool forgotten = false;  // nobody holds it any more
    core::ActorTraits traits;
    RankId asker = detail::kNoRank;  // who reserved the name
    std::shared_ptr<Work> work;      // to make it again
    std::int32_t restarts = 0;       // that have been made
    std::int32_t moves = 0;          // from ranks that left
    ErrorPtr error;                  // ended
    std::uint64_t killing = 0;       // the key in kills_ of who waits for the constructor to end first
    sched::Holding holding;          // what it has, where it is
    Buffer checkpoint;               // its last state that is known, and what that holds
    core::Ids checkpoint_refs;
  };
  // Tasks that run together, from the moment that they are given out until all have ended. A queued gang is one piece,
  // a running one has a piece for each member. Members say how they end; when all have ended well, all are told that
  // their results count, and from then on they are tasks like others. If one fails, times out or loses its rank, the
  // gang is broken: the others are told so, and when each has said how it stands, the gang is queued again or fails as
  // a whole.
  struct Gang {
    SpanId span;
    std::uint32_t base = 0;
    std::uint64_t communicator = 0;
    std::vector<RankId> members;
    std::vector<core::MemberState> states;
    std::set<std::uint32_t> waiting;  // those members that wait for others, for a while by now
    std::uint32_t ended = 0;          // well
    std::uint32_t settled = 0;        // members of a broken gang that have nothing more to say
    bool broken = false;
    bool again = false;  // why it broke is no reason to give it up
    ErrorPtr error;
  };
  // A placement group, until nobody holds it. The Entry of its id counts the handles, tasks and actors.
  struct Group {
    std::vector<core::WireDemand> bundles;
    std::vector<sched::Scheduler::PoolId> pools;
    Strategy strategy = Strategy::pack;
    bool nested = false;  // a task has asked for it
    bool ready = false;   // has been
    ErrorPtr error;       // ranks were lost, and there is no room any more
  };
  struct Wait {  // of an actor for another
    ObjectId on;
    RankId rank = detail::kNoRank;
    std::uint64_t token = 0;
    Time since = 0;
  };
  // A rank that was told to end, until it has left.
  struct Leaving {
    Time since = 0;
    Time until = 0;
    bool closed = false;                // gets no work
    bool stopped = false;               // its actors were told to stop
    bool saved = false;                 // they have, and are saved
    std::map<ObjectId, RankId> moving;  // values, and who is to adopt them
    std::map<ObjectId, RankId> moved;   // who has
    bool dismissed = false;
  };
  enum class Standing : std::uint8_t { waiting, queued, assigned, ended };

  // A dependency of a task: how it stands, and where it is being made.
  struct Input {
    ObjectId id;
    Standing stands = Standing::ended;
    RankId at = detail::kNoRank;  // of one that is assigned
    Entry* entry = nullptr;
  };
  using Inputs = core::Small<Input, 4>;

  Piece* piece_with(ObjectId id) const;
  Inputs inputs_of(const Piece& piece);
  Standing standing(ObjectId id, RankId* worker = nullptr) const;
  Entry& entry(ObjectId id);
  Entry* find_entry(ObjectId id);
  const Entry* find_entry(ObjectId id) const { return const_cast<Head*>(this)->find_entry(id); }
  void check_ids(std::span<const ObjectId> ids) const;
  void hold(ObjectId id);
  void unhold(ObjectId id);
  void change(ObjectId id, RankId rank, std::int32_t by);
  void maybe_free(ObjectId id);
  static core::ErrorRecord was_freed(ObjectId id);
  void free_queued();
  void free_at(RankId rank, ObjectId id);
  void owner_dropped(SpanId id);
  RankId location(ObjectId id, const Entry* entry) const;
  void add_copies(const Entry& of, std::vector<std::pair<RankId, std::uint64_t>>& bytes);
  RankId where_most(std::span<const std::pair<RankId, std::uint64_t>> bytes) const;
  RankId source_for(ObjectId id, RankId to, RankId not_at = detail::kNoRank);
  void value_gone(ObjectId id, Entry& of, RankId rank);
  void keep_maker(Entry& of, const std::shared_ptr<Work>& work);
  void forget_maker(Entry& of);
  void drop_lineage(Work& work);
  static void forget_value(Entry& of);
  std::string why_not_again(const Entry& of);
  bool any_unfinished(const Range& range) const;
  void make_late_again();
  void make_again_or_fail(ObjectId id);
  bool went_nowhere(ObjectId id, const Entry& entry) const;
  void result_lost(ObjectId id, Entry& entry);
  void take_all_back(RankId rank, bool keeps_wide = false);
  Piece& add_again(const Range& range, const std::shared_ptr<Work>& work, std::uint32_t attempt);
  void start_again(Piece& piece);
  void make_again(ObjectId id);
  void settle_again(ObjectId id, Entry& of);
  void remember(RankId from, Recent recent);
  void forget_oldest_recent();
  void forget_recent();
  void revive(Work& work);
  static void fetched(Entry& of, const Copy& copy);

  Piece& add_piece(const Range& range, std::shared_ptr<Work> work);
  Piece& add_part(const Piece& of, const Range& range);
  Piece& split(Piece& piece, std::uint32_t at);  // the part from `at` on becomes a piece of its own
  Piece& add_front(Piece& piece, std::uint32_t n);
  void list_assigned(Piece& piece);
  void unlist_assigned(Piece& piece);
  void erase_piece(Piece& piece);
  void hook(Piece& piece, ObjectId dep, Standing stands);
  void set_up(Piece& piece);
  void kept_at(Piece& piece, RankId rank);
  void unhook(Piece& piece);
  void undefer(Piece& piece);
  void consider(Piece& piece);
  ErrorPtr too_few_ranks(const Piece& piece) const;
  bool is_drained(const Piece& piece) const { return !draining_.empty() && !piece.work->nested; }
  ErrorPtr not_begun(const Piece& piece) const;
  void place_ahead(Piece& piece);
  void carry_out(const sched::Scheduler::Decision& decision);
  bool set_back(Piece& piece, const Inputs& inputs);
  void assign(Piece& piece, RankId worker, std::uint32_t demand, const Inputs& inputs, core::GangPart part = {},
              std::vector<RankId> lenders = {});
  void start_gang(Piece& piece, std::span<const std::pair<RankId, std::uint32_t>> members);
  std::uint64_t take_communicator(const std::vector<RankId>& members, bool& fresh);
  void drop_communicator(std::uint64_t communicator, std::span<const RankId> members, bool broken = false);
  void see_to_communicator(std::uint64_t gang);
  void reserve_bundles(RankId from, const core::Ask& ask);
  void place_groups();
  void place_nested_groups();
  void group_placed(ObjectId id);
  void groups_lost();
  void groups_leave(RankId rank);
  void group_forgotten(ObjectId id);
  bool give_pool(Piece& piece);
  void member_waits(const Piece& piece, bool waits);
  void break_gang(std::uint64_t id, Gang& gang);
  void check_nodes();
  std::string lost_text(RankId rank) const;
  void settle_member(std::uint64_t id, std::uint32_t place, core::MemberState state);
  void lose_member(Piece& piece);
  void close_gang(std::uint64_t id);
  void gangs_lost(RankId rank);
  void overtime_lost(RankId rank);
  bool is_busy(RankId rank);
  RankId next_heir();
  bool hand_over(RankId rank, Leaving& leaving);
  void let_leave();
  void placed(const Piece& piece);
  using Indices = core::Small<std::uint32_t, 8>;
  Indices watched(const Range& range) const;
  void elements_ended(const Range& range, const ErrorPtr& error);
  void finish_tasks(Piece& piece, std::uint32_t n);
  void fail(Piece& piece, const ErrorPtr& error);
  void fail_later(Piece& piece, const ErrorPtr& error);
  bool can_run(Piece& piece);
  void fail_hopeless();
  void settle();
  template <class F>
  void for_each_part(const Range& range, RankId worker, F&& visit);
  void answer(RankId to, std::uint64_t token, bool yes, std::string text = {});
  void send_error(const Range& range, const ErrorPtr& error);
  void unassign(Piece& piece);
  void take_from_rank(Piece& piece);
  void goes_on(Piece& piece, std::uint32_t overtime);
  void release_work(Work& work);
  Actor* find_actor(ObjectId id);
  void actor_submitted(const Piece& piece);
  void actor_made(Piece& piece);
  void actor_failed(ObjectId id, const ErrorPtr& error);
  bool fail_if_killed(Piece& piece);
  void actor_forgotten(ObjectId id);
  void actors_lost(RankId rank);
  void reserve(RankId from, const core::Ask& ask);
  void find(RankId from, const core::Ask& ask);
  void kill(RankId from, std::uint64_t token, ObjectId id);
  void killed(std::uint64_t key);
  void free_name(ObjectId id, const Actor& actor);
  std::unordered_map<std::string, ObjectId>::iterator find_name(const std::string& name);
  void drop_checkpoint(Actor& actor);
  void answer_found(RankId to, const core::Ask& ask, ObjectId id);
  void locate_actor(RankId from, ObjectId id, const Actor& actor);
  void end_here(Actor& actor, ObjectId id, std::uint64_t token);
  void find_deadlocks();
  std::string actor_name(ObjectId id, const Actor& actor) const;
  void cancel(RankId from, std::uint64_t token, ObjectId id);
  void survey(RankId from, std::uint64_t token, std::uint32_t largest);
  bool finish_survey(Survey& survey);
  std::string task_name(const Work& work) const;
  std::string inputs_text(const Piece& piece) const;
  std::optional<std::string> short_of_time(const core::WireOptions* options) const;

  transport::Transport& transport_;
  store::ObjectTable& objects_;
  Settings settings_;
  sched::Scheduler scheduler_;
  std::vector<RankState> ranks_;
  std::uint32_t joined_ = 0;
  std::uint32_t lost_ = 0;
  std::map<std::uint32_t, Time> heard_;  // by node: when it last gave a sign of life
  Time nodes_checked_ = 0;
  Time recent_checked_ = 0;
  std::string join_error_;

  std::unordered_map<SpanId, Span> spans_;
  std::unordered_map<ObjectId, Entry> entries_;
  std::vector<std::vector<Piece*>> assigned_;  // by rank, in no order
  std::vector<Recents> recent_;                // by rank: what it ended for others
  std::deque<RankId> recent_order_;            // by age, the rank of each that is not forgotten
  std::size_t recent_bytes_ = 0;
  std::map<std::pair<RankId, RankId>, std::vector<Recent>> unheard_;  // the same of lost ranks, by that and the owner
  std::list<Work*> lineage_;                                          // the oldest first
  std::size_t lineage_bytes_ = 0;
  std::vector<ObjectId> late_;          // to be made again once the rest of their gangs has ended
  std::vector<sched::Queue> deferred_;  // by rank: pieces that wait for room there
  std::vector<core::Free> frees_;       // by rank: what it is to be told at the end of the step
  std::vector<RankId> to_tell_;         // of them, those with anything
  std::vector<ObjectId> to_free_;
  bool freeing_ = false;
  struct Asked {
    RankId from;
    std::uint64_t token;
    ObjectId id;
    RankId worker;  // that was told to cancel
  };
  std::map<std::uint64_t, Asked> cancels_;
  std::map<std::uint64_t, Survey> surveys_;
  std::unordered_map<ObjectId, Actor> actors_;
  std::unordered_map<std::string, ObjectId> names_;
  struct Killing {
    RankId from;
    std::uint64_t token;
    RankId worker;
  };
  std::map<std::uint64_t, Killing> kills_;
  std::map<ObjectId, Group> groups_;
  std::deque<ObjectId> waiting_groups_;  // that miss a bundle, in the order in which they are served
  std::size_t next_nested_group_ = 0;    // the one of them that was looked at last to overtake the first
  std::map<std::uint64_t, Gang> gangs_;
  std::map<std::pair<std::uint64_t, std::uint32_t>, sched::Holding>
      stuck_;  // members of gangs that are over, by gang and place
  std::map<std::pair<RankId, std::uint32_t>, sched::Holding> overtime_;  // as in Done
  struct Communicator {
    std::vector<RankId> members;
    std::uint64_t id = 0;
  };
  std::list<Communicator> spares_;                // that no gang uses, the last used one first
  std::map<std::uint64_t, Communicator> broken_;  // in which members of a gang that broke are stuck, by gang
  std::deque<std::string> news_;                  // for the user
  std::map<ObjectId, Wait> waits_;                // by the actor that waits
  Time waits_checked_ = 0;
  Time starved_since_ = 0;  // 0: not
  Time starved_checked_ = 0;
  std::map<RankId, Leaving> leaving_;
  std::map<RankId, std::uint32_t> frames_of_left_;  // of the rank that has just left, by receiver
  RankId next_heir_ = 0;
  RankId next_copy_ = 0;      // where the next look at a few of many copies begins
  std::string draining_;      // why; empty: not
  std::set<RankId> unsaved_;  // since then
  std::uint64_t next_token_ = 1;
  std::uint64_t turn_ = 0;  // of Located
  // What is still to be done in this step, by the first tasks of pieces: see `settle`.
  std::vector<ObjectId> failing_;
  std::vector<ObjectId> to_place_ahead_;
  std::vector<std::uint32_t> owned_pieces_;  // by rank: pieces of its spans
  std::uint32_t last_function_ = 0;
  Time now_ = 0;
  double time_left_s_ = -1;
  std::uint64_t unfinished_ = 0;
  std::uint64_t ended_ = 0;
  std::uint64_t retried_ = 0;
  std::uint64_t messages_ = 0;
  std::size_t queued_bytes_ = 0;
};

}  // namespace mobula::head
