// One rank's side of the runtime, head's rank included: it submits, holds refs, waits for values, and runs tasks where
// it has slots. A reactor: messages, the executor's calls and the time come in; messages go out through the transport
// and runs through `next_run`. It never blocks, starts no thread and reads no clock. Called under the rank's lock.
//
// A task that this rank submitted from inside a task, and that it could run itself, is *kept*: queued here at once and
// told to the head later, unless it has ended by then. A piece is a stretch of tasks with the same dependencies; a run
// is the part of a piece that one thread executes in one go.
#pragma once

#include <deque>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "core/list.hpp"
#include "core/messages.hpp"
#include "core/sum.hpp"
#include "core/trace.hpp"
#include "mobula/detail/task.hpp"
#include "store/objects.hpp"
#include "transport/transport.hpp"
#include "worker/folds.hpp"
#include "worker/runs.hpp"
#include "worker/sent.hpp"

namespace mobula::worker {

using core::ErrorPtr;
using core::Range;
using core::Time;
using detail::Buffer;
using detail::ByteView;
using detail::Encoder;
using detail::FunctionInfo;
using detail::Handle;
using detail::ObjectId;
using detail::RankId;
using detail::Record;
using detail::SpanId;
using store::Store;
using store::ValuePtr;

struct Piece;
using PieceQueue = core::List<Piece>;

// An actor that lives here. Its calls are pieces; they queue here, not with the tasks. Of each caller only the first
// one may wait for inputs: the rest of its calls stands in line behind.
struct LocalActor {
  ObjectId id;
  std::shared_ptr<const core::WireOptions> options;
  const FunctionInfo* klass = nullptr;
  std::shared_ptr<void> object;  // nullptr once it is being destroyed
  core::Small<int, 2> slots;     // its own
  double missing_cpus = 0;       // of its own, those that another actor has
  std::vector<int> gpus;
  std::vector<RankId> lenders;
  PieceQueue ready;
  std::unordered_map<ObjectId, PieceQueue> lines;  // by caller
  std::uint32_t active = 0;                        // runs of its calls
  std::uint32_t since_saved = 0;                   // calls
  std::uint32_t save_every = 0;                    // calls; 0: it is not saved
  bool save_now = false;                           // before it runs another
  bool stopped = false;                            // it runs no more calls here
  bool listed = false;                             // among those that may run a call
  bool ending = false;
  ErrorPtr dead;  // killed

  double cpus() const { return options->demands.front().cpus; }
  bool has_next() const;                     // a call may run now, or the object be saved or destroyed
  bool is_unsaved(bool job_ends) const;      // its state is to be kept, and the last one is not
  std::vector<struct Piece*> calls() const;  // that have not begun
};

// What all tasks of a piece share; immutable once its dependencies are here.
struct Body {
  const FunctionInfo* function = nullptr;
  std::shared_ptr<const core::WireOptions> options;  // nullptr: the default ones
  Buffer args;
  core::Ends ends;         // empty: the function's arguments are of one size
  std::uint32_t base = 0;  // index in the span of the first task in `args`
  std::uint64_t dep_mask = 0;
  core::Ids deps;
  core::Small<ValuePtr, 4> values;  // of the dependencies
  core::Small<ByteView, 4> views;   // the same
  std::size_t in_store = 0;         // bytes of them in this rank's segment
  std::vector<Handle> keep;         // of a kept piece: what its tasks hold
  // Of a kept piece: its part of the memory that all of them take.
  struct Share {
    ~Share() {
      if (all != nullptr) *all -= bytes;
    }
    std::size_t* all = nullptr;
    std::size_t bytes = 0;
  } share;
  std::uint32_t attempt = 1;
  LocalActor* actor = nullptr;  // of calls:
  ObjectId caller;
  bool holding = false;  // their arguments hold objects
  std::unique_ptr<core::GangPart> gang;
  Buffer checkpoint;            // of an actor that is made again
  std::vector<RankId> lenders;  // whose cores its one task has besides those of this rank
  const std::vector<RankId>& all_lenders() const { return actor != nullptr ? actor->lenders : lenders; }

  ByteView args_of(std::uint32_t begin, std::uint32_t end) const;
  // Of an actor's methods too.
  const core::WireOptions* all_options() const { return actor != nullptr ? actor->options.get() : options.get(); }
  bool is_sandboxed() const {
    return all_options() != nullptr && all_options()->is_sandboxed && !function->isolates_itself;
  }
  bool is_durable() const { return options != nullptr && options->durable; }
  // A task of it can be stopped while it runs.
  bool stops() const { return is_sandboxed() || function->isolates_itself; }
  // A member of a gang may begin beside tasks that wait, on no cpus of its own.
  bool begins_without_cpus() const { return gang != nullptr || cpus() == 0; }
  // That it may use, those of lenders included.
  double cpus() const { return actor != nullptr ? actor->cpus() : options ? options->demands.front().cpus : 1.0; }
  // Others have cpus of theirs set aside for a member, or for a task with lenders: on its rank it goes before all that
  // came since.
  int priority() const {
    if (gang != nullptr || !lenders.empty()) return std::numeric_limits<int>::max();
    return options ? options->priority : 0;
  }
};

struct Piece : core::Listed<Piece> {
  Range range;
  std::shared_ptr<Body> body;
  std::uint32_t missing = 0;  // dependencies that are not here
  bool kept = false;
  bool announced = true;  // the head knows
  bool queued = false;    // it may run
  bool parked = false;    // it would be queued, but has given its inputs up for now
  Time queued_at = 0;
  Time submitted = 0;
  std::size_t unannounced_at = 0;  // position in the list of those
  // The head gave it to this rank, or was told of it, and may have it back.
  bool may_go_back() const { return announced && body->actor == nullptr && body->gang == nullptr; }
};

struct Run : core::Listed<Run> {
  Range range;
  std::shared_ptr<Body> body;
  bool announced = true;
  bool kept = false;
  bool holds = true;      // what its task asks for; otherwise it uses what its lender or its actor holds
  Run* lender = nullptr;  // the run that waits for it
  bool helped = false;    // threads that its function started run others on its cpus
  bool orphan = false;    // its lender has ended without it: it holds nothing
  int slot = -1;          // the first of its slots; -1: it shares all of them
  core::Small<int, 2> slots;
  std::vector<int> gpus;
  std::size_t lent_slots = 0;
  // Its parts of the sums that Worker::count_cpus keeps.
  double unused = 0;
  double unused_of_member = 0;
  double spoken_for = 0;
  double as_member = 0;
  bool is_beside = false;
  Time started = 0;
  Time deadline = 0;           // 0: none
  bool expired = false;        // its result was already given as TimedOut
  std::uint32_t overtime = 0;  // by which number the head knows that it goes on; 0: it does not
  bool is_long = false;        // it has taken longer than kRunLimit
  bool lends = false;          // waits for others, or its gang does: its cpus are free
  double missing_cpus = 0;     // of its own: it runs without those, as actors have them, or those that wait
  // Threads of its function that wait for others: the one that executes it, and those which that has started. Of a run
  // that lends, those of the runs that it lends to as well.
  std::uint32_t waiting = 0;
  ObjectId awaits;  // the object that it waits for, if it is one
  Time awaits_since = 0;
  store::Watcher* told = nullptr;  // of a deadlock
  // Of a member:
  Time waits_since = 0;             // 0: none of its threads waits
  bool wait_is_told = false;        // the head knows that it waits
  bool gang_waits = false;          // it lends, whether it waits or not
  bool broken = false;              // its gang
  bool left_behind = false;         // in MPI, since that broke: it does not go on
  int thread = 0;                   // the system's id of the one that executes it
  clockid_t clock = 0;              // that thread's cpu time
  Time worked = -1;                 // what it showed when the executor looked last
  Time still_since = 0;             // when it was first seen to stand there
  std::size_t place_at = kNoPlace;  // of a run without cpus: position among those that hold a place
  static constexpr std::size_t kNoPlace = ~std::size_t{0};
  std::uint32_t first = 0;    // of an actor that is saved now and then: the call that it began with,
  std::uint32_t save_at = 0;  // and the one after which that is due; 0: not in this run
  bool saves = false;         // the actor, and nothing else
  std::optional<Encoder> saved;
  std::uint64_t blocked = 0;  // the token by which the head knows that it waits for another actor
  ErrorPtr deadlock;          // it would wait for ever
  // Of the list of runs: its position, the begin of its range when it was listed, and when it is to be looked at.
  std::size_t running_at = 0;
  std::uint32_t began_at = 0;
  Time due = 0;
  std::size_t in_store = 0;  // as of its body, when it began
  detail::TaskRun task;

  bool is_member() const { return body->gang != nullptr; }
  ObjectId first_task() const { return {range.span, range.begin}; }
};

struct Settings {
  std::uint32_t slots = 0;
  std::size_t inline_limit = 4096;
  core::WireDemand offers;                  // cpus = slots
  std::vector<std::string> node_resources;  // as in Join
  std::vector<std::string> features;        // the same
  std::string host;
  std::uint32_t node = 0;
  std::vector<std::set<int>> near_gpus;  // by GPU: the slots whose cores are near it
  // Has all threads of the process pass a memory barrier; false: the system can't.
  std::function<bool()> fence = [] { return true; };
  std::function<void()> give_way_inside = [] {};  // members wait inside MPI for ever: others pass them
  Time gang_grace = 1'000'000'000;                // ns that a member has to come back once its gang is broken
};

// NOLINTNEXTLINE(clang-analyzer-optin.performance.Padding)
class Worker {
 public:
  Worker(transport::Transport& transport, store::ObjectTable& objects, Settings settings);
  ~Worker();

  const Settings& settings() const { return settings_; }

  // ---- client. `in_task` says that a task of this rank asks.
  Handle submit(const FunctionInfo& function, const TaskOptions* options, detail::Draft::State& draft, bool in_task,
                Time now);
  void submit_items(Record& batch, std::uint32_t begin, std::uint32_t n, const FunctionInfo& function,
                    const TaskOptions* options, std::uint64_t shared_mask, std::span<const Handle> shared,
                    detail::Draft::State& draft, std::vector<std::uint32_t>& ends, bool in_task, Time now);
  // All of a gang at once: the elements of the batch, which has none yet, are the results of its members.
  void submit_gang(Record& batch, std::uint32_t members, const FunctionInfo& function, const TaskOptions* options,
                   const detail::Draft::State& draft, bool in_task);
  // Folds the values by tasks of `fold`, made by detail::Fold; the result's handle. REQUIRES: at least two values.
  Handle reduce(const FunctionInfo& fold, FoldValues values, const TaskOptions* options, bool in_task);
  Handle put(detail::Encoder&& value);
  // As they travel; nullptr for the default ones. Both throw std::invalid_argument for demands and limits that make no
  // sense.
  std::shared_ptr<const core::WireOptions> wire_options(const TaskOptions* options);
  std::shared_ptr<const core::WireOptions> gang_options(const TaskOptions* options, std::uint32_t members);
  std::shared_ptr<const core::WireOptions> actor_options(const ActorOptions& options, const FunctionInfo& constructor);
  // Makes the actor of a handle that `mint_actor` gave.
  Handle mint_actor();
  void create(const Handle& handle, const FunctionInfo& constructor, const core::WireOptions& options,
              const detail::Draft::State& draft, bool in_task);
  // A handle to an actor of which the head counts a hold of this rank already.
  Handle adopt(ObjectId id);
  // Calls an actor. `caller`: the task or actor that calls; none: the driver. Throws Backpressure.
  Handle call(const detail::ActorBase& actor, const FunctionInfo& method, detail::Draft::State& draft, ObjectId caller);
  // Where a call or a reduction stands, for people; none if the object is none of this rank that has not ended.
  std::optional<std::string> explain_own(ObjectId id);
  ObjectId current_caller(const Run& run) const;
  // The calls of this rank that have not ended, actors here, and what is kept for others; for tests.
  std::size_t pending_calls() const { return calls_.size(); }
  std::size_t reductions() const { return folds_.size(); }
  std::size_t actors() const { return actors_.size(); }
  bool lost_any() const { return !lost_.empty(); }  // ranks
  std::size_t loans() const { return loans_.size(); }
  std::size_t members() const { return members_.size(); }
  // Of them, those whose functions run; and those of gangs that broke, which have not come back.
  std::size_t running_members() const;
  std::size_t stuck() const;
  // Sees to it that the object's value comes here: who watches the handle's element is told then. One that is here
  // may be moved out of memory again, and must be asked for anew.
  void request(const Handle& handle);
  // Sees to it that the handle's element becomes ready once the value exists, wherever that may be.
  void hear_of(const Handle& handle);
  // Asks the head; the answer is collected with `take_answer`.
  std::uint64_t ask(core::Question question, ObjectId id, core::WireOptions options = {}, bool in_task = false);
  // The head knows the object's task after this, if there is one.
  void make_known(const Handle& handle) { pass_on(handle); }
  std::optional<core::Answer> take_answer(std::uint64_t token);

  // ---- messages
  void handle(RankId from, const core::Assign& message);
  void handle(RankId from, const core::TakeBack& message);
  void handle(RankId from, const core::CancelTask& message);
  void handle(RankId from, const core::AskStore& message);
  void handle(RankId from, const core::Located& message);
  void handle(RankId from, const core::Keep& message);
  void handle(RankId from, const core::Free& message);
  void handle(RankId from, const core::RankLost& message);
  void handle(RankId from, const core::Answer& message);
  void handle(RankId from, const core::Result& message);
  void handle(RankId from, const core::Fetch& message);
  void handle(RankId from, const core::Data& message);
  void handle(RankId from, const core::NotHere& message);
  void handle(RankId from, const core::Unpin& message);
  void handle(RankId from, const core::Recall& message);
  void handle(RankId from, const core::Call& message);
  void handle(RankId from, const core::Returned& message);
  void handle(RankId from, const core::EndActor& message);
  void handle(RankId from, const core::Deadlock& message);
  void handle(RankId from, const core::GangOver& message);
  void handle(RankId from, const core::GangWaits& message);
  void handle(RankId from, const core::Drain& message);
  void handle(RankId from, const core::Adopt& message);
  // The answer to a Prepare order of the store.
  void prepared(std::uint64_t token, bool good);

  // ---- execution
  bool has_runnable() const;
  // The next run that a thread should execute, with its cpus taken; nullptr if none may start.
  std::unique_ptr<Run> next_run(Time now);
  // The task of this very object, if it is queued here: the thread that waits for it runs it, in place of `waiter`.
  // `executes`: as in `lend`.
  std::unique_ptr<Run> claim(const Handle& handle, Run& waiter, Time now, bool executes = true);
  // The same for any task that was submitted here and is queued, where more should not be before some have ended.
  std::unique_ptr<Run> claim_any(Run& waiter, Time now, bool executes = true);
  // The thread has left the run's functions. What of it was not run goes back into the queue.
  void finish(std::unique_ptr<Run> run, Time now);
  // Ends what is left of actors at the end of the job, without the lock.
  void destroy_actors();
  // A thread of the run's function waits: the first one lends the run's cpus, and for the last one to go on `resume`
  // asks for them back, and says whether it got them. `executes`: it is the thread that executes the run; no other may
  // take from the run what has ended.
  void lend(Run& run, bool executes = true);
  bool resume(Run& run, bool force = false);
  // Runs without cpus (calls of actors that have none, tasks that ask for none) begin where there is a place, so that a
  // flood of short ones does not take as many threads. One that stands still gives its place up: others may be what it
  // waits for.
  static constexpr std::size_t kPlaces = 64;
  bool queues_for_place() { return places_.size() >= kPlaces && (!callable_[1].empty() || refused_place_); }
  const std::vector<Run*>& holders() const { return places_; }
  void give_up_place(Run& run);
  void want_resume(int change) { resuming_ += change; }
  // Tasks that run can't have room for a large value while queued ones keep theirs in memory: these give them up, and
  // get them back when they are queued again.
  void park();
  void unpark();
  // This rank is to end within that time, and the others are to go on.
  void leave(Time grace);
  // The job ends: stops what can be stopped.
  void stop_running();

  // ---- progress
  void tick(Time now);   // deadlines, long runs, late announcements
  void flush(Time now);  // what others must know by now
  bool needs_flush() const {
    return open_.count != 0 || !unannounced_.empty() || objects_.has_drops() || lent_changed_ || store_.has_news() ||
           folds_.has_work();
  }
  std::size_t running() const { return running_.size(); }
  const std::vector<Run*>& runs() const { return running_.all(); }
  std::vector<Range> begun() const;  // the tasks that threads are at
  double cpus_in_use() const { return settings_.slots - free_.cpus; }
  double member_cpus() const { return member_cpus_; }  // of those; they may be more than there are
  std::size_t queued_tasks() const { return queued_tasks_; }
  std::size_t kept_bytes() const { return kept_bytes_; }        // that kept pieces take
  std::size_t calls_pending() const { return calls_pending_; }  // of this rank's, that have not ended
  const Sent& sent() const { return sent_; }                    // of this rank's tasks, what it does not keep
  // Whether what was submitted last is among those, or will be.
  bool has_sent_last() const { return has_sent_last_; }
  std::size_t interests() const { return interests_.size(); }
  std::uint64_t tasks_run() const { return tasks_run_; }
  std::uint64_t fetches() const { return fetches_; }  // values asked of other ranks
  std::string describe() const;                       // what it waits for, for people
  std::string what_is_left() const;                   // for tests, at rest; empty: nothing, and everything is free

 private:
  struct Asker {
    RankId rank = detail::kNoRank;
    bool word = false;  // as in Fetch
  };
  // Who waits for an object that is not here: pieces, ranks that asked for it, and threads, who watch its record.
  struct Interest {
    core::Small<Piece*, 4> pieces;
    std::vector<Asker> ranks;
    bool value = false;              // threads wait for the value, not only for its existence
    RankId asked = detail::kNoRank;  // the rank that was asked for it; kNoRank: nobody
    std::uint64_t turn = 0;          // of the head's answer that named that rank; 0: it was named otherwise
    bool receiving = false;          // its bytes are on their way
    int tries = 0;
  };
  // Tasks that the driver submitted one by one, while they may still become one piece.
  struct Open {
    const FunctionInfo* function = nullptr;
    std::shared_ptr<const core::WireOptions> options;
    Range range;
    std::uint32_t count = 0;
    Buffer args;
    core::Ends ends;
    // of calls:
    ObjectId actor;
    ObjectId caller;
    bool is_call = false;
    bool in_task = false;  // some of them
  };
  // Calls of this rank that have not ended: what one message takes.
  struct PendingCall {
    Range range;
    std::uint32_t left = 0;
    ObjectId actor;
    ObjectId caller;
    const FunctionInfo* method = nullptr;
    Handle self;               // the actor lives while calls of it are pending
    Handle first;              // the results' record stays
    std::vector<Handle> deps;  // kept here until the calls have ended
    std::vector<Handle> refs;  // in argument values: until the actor's rank holds them itself
    RankId at = kUnsent;
    std::int32_t retries = 0;
    bool moves = false;  // with its actor
    bool may_go_again() const { return retries > 0 || moves; }
    std::set<std::uint32_t> announced;  // results that the head waits for
    // kept while it is not sent, or may be sent again:
    Buffer args;
    core::Ends ends;
    std::uint64_t dep_mask = 0;
  };
  // Who submits tasks: someone outside tasks, a task, or a task that has its rank keep them.
  enum class By : std::uint8_t { driver, task, keeper };
  By submitted_by(bool in_task, const core::WireOptions* options) const {
    return !in_task ? By::driver : keeps(options) ? By::keeper : By::task;
  }
  static constexpr RankId kUnsent = detail::kNoRank;
  // An actor that this rank has pending calls of.
  struct RemoteActor {
    std::uint32_t pending = 0;  // calls
    bool asked = false;         // the head, where it is
    std::vector<ObjectId> unsent;
  };
  // What this rank keeps for others until the head counts that they hold it.
  struct Loan {
    RankId to = detail::kNoRank;
    std::vector<Handle> keep;
    std::vector<ObjectId> made;  // large results that stay here
  };
  void send_call(PendingCall& call, RankId to, ByteView args, std::span<const std::uint32_t> ends);
  RankId actor_rank(ObjectId id, ErrorPtr& dead);
  void find_actor(ObjectId id, RemoteActor& remote);
  void advance_line(LocalActor& actor, ObjectId caller);
  void actor_located(ObjectId id, RankId at, const ErrorPtr& error);
  void fail_call(PendingCall& call, const ErrorPtr& error);
  void end_call(std::map<ObjectId, PendingCall>::iterator call);
  std::map<ObjectId, PendingCall>::iterator find_call(ObjectId id);
  void call_results(const core::Result& message);
  void announce_call(PendingCall& call, std::uint32_t index);
  void callers_lost(RankId rank);
  void actors_lost(RankId rank, bool left);
  void call_ready(Piece& piece, bool front);
  void call_gone(Piece& piece);
  void list(LocalActor& actor);
  std::unique_ptr<Run> next_call(Time now);
  bool may_call(bool shares) const;
  void start_actor(Run& run);
  void end_actor(LocalActor& actor);
  void fail_calls(LocalActor& actor, const ErrorPtr& error);
  void refuse_calls(const Range& range, bool holding, const ErrorPtr& error);
  void erase_actor(LocalActor& actor);
  void tell_state(const Run& run);
  void tell_saved();
  static constexpr Time kBlockedAfter = 100'000'000;  // ns that a method waits for a call before the head is told
  void tell_blocked(Run& run, Time now);
  void tell_unblocked(Run& run);
  const PendingCall* awaited_call(const Run& run);
  Time look_at(Run& run, Time now);
  void time_out(Run& run);
  void actors_made(const Range& range);
  void dispatch_call(PendingCall& call, ByteView args, std::span<const std::uint32_t> ends);
  void set_placement(core::WireOptions& wire, const Placement& placement);
  static void set_isolation(core::WireOptions& wire, const Isolation& isolation, std::size_t memory);
  void close_open_unless_before(ObjectId id);
  void add_to_open(ObjectId id, const detail::Draft::State& draft);
  static core::Ends ends_of(const FunctionInfo& function, const detail::Draft::State& draft);
  void submit_alone(const Handle& handle, const FunctionInfo& function, const core::WireOptions* options,
                    const detail::Draft::State& draft, bool in_task);
  static void check_durable(const FunctionInfo& function, const core::WireOptions* options,
                            const detail::Draft::State& draft);
  bool keeps(const core::WireOptions* options) const;
  // What the parts of the worker ask of it.
  struct FoldSubmitter final : Folds::Submitter {
    explicit FoldSubmitter(Worker& worker) : worker(worker) {}
    void submit(const FoldKind& kind, FoldTasks tasks) override { worker.submit_folds(kind, std::move(tasks)); }
    void fail(ObjectId id, bool promised, const ErrorPtr& error) override { worker.fail_own(id, promised, error); }
    Worker& worker;
  };
  void submit_folds(const FoldKind& kind, FoldTasks tasks);
  // An object that this rank was to make will not be. `promised`: the head waits for it.
  void fail_own(ObjectId id, bool promised, const ErrorPtr& error);
  void submit_stretch(const Range& range, const FunctionInfo& function,
                      std::shared_ptr<const core::WireOptions> options, std::uint64_t mask, std::vector<Handle> deps,
                      std::span<const Handle> refs, ByteView args, std::span<const std::uint32_t> ends, By by,
                      Time now);
  void close_open();
  void send_submit(const Range& range, By by, const FunctionInfo& function, const core::WireOptions* options,
                   std::uint64_t mask, ByteView args, std::span<const std::uint32_t> ends, core::Ids deps,
                   core::Ids refs);
  void keep_piece(const Range& range, std::shared_ptr<Body> body, Time now);
  void announce(Piece& piece);
  void announce_run(Run& run);
  void announce_body(const Range& range, const Body& body);
  void announce_all();
  void pass_on(const Handle& handle);
  core::Ids pass_on_all(std::span<const Handle> handles);

  static std::shared_ptr<Body> body_of(const core::TaskBody& sent, const Range& range,
                                       std::span<const core::DepSource> deps, FunctionInfo::Kind kind);
  Piece& add_piece(const Range& range, std::shared_ptr<Body> body);
  Piece* piece_with(ObjectId id);
  bool any_piece(const Range& range) const;
  bool will_come(ObjectId id) const;
  void enqueue(Piece& piece, bool front);
  void dequeue(Piece& piece);
  void erase_piece(Piece& piece);
  void resolve(Piece& piece, std::size_t dep, const core::DepSource* source);
  void dep_ready(Piece& piece, ObjectId id, const ValuePtr& value);
  void set_up(Piece& piece, std::span<const core::DepSource> sources);
  void fail_piece(Piece& piece, const ErrorPtr& error);
  void fail_pieces();
  // Calls act(), in which nothing that is found to fail is erased yet.
  template <class F>
  void fail_after(F&& act) {
    struct Defers {
      explicit Defers(bool& flag) : flag(flag), before(std::exchange(flag, true)) {}
      ~Defers() { flag = before; }
      bool& flag;
      const bool before;
    };
    {
      const Defers defers(failing_now_);
      act();
    }
    fail_pieces();
  }
  bool may_begin(const Body& body) const;
  std::unique_ptr<Run> run_from(const PieceQueue& queue, Time now);
  std::unique_ptr<Run> carve(Piece& piece, Range range, bool holds, Time now);
  bool may_claim(const Piece& piece, const Run& waiter) const;
  std::unique_ptr<Run> run_for(Run& waiter, Piece& piece, const Range& range, Time now, bool executes);
  void take_place(Run& run);
  void take_slots(Run& run, std::size_t n);
  void tell_waits(const Run& run, bool waits);
  void count_cpus(Run& run);
  void actors_hold(double cpus);
  void stop_waiting(Run& run);
  void lend_cpus(Run& run);
  void take_cpus_back(Run& run, double cpus);
  std::vector<int> take_gpus(double gpus);
  void give_gpus(const std::vector<int>& gpus, double amount);
  double cpus_of(const Run& run) const;
  bool may_begin() const;
  double held_cpus(const Run& run) const;
  double for_member() const;
  double due_cpus(const Run& run) const;
  double cpus_of(const Body& body) const;
  double lasting_cpus() const { return settings_.slots - actor_cpus_; }  // that tasks may have some time
  double own_cpus(const core::WireDemand& demand) const;
  bool is_near(int slot, int gpu) const;
  bool fits(const Body& body) const;
  void take(const core::WireOptions* options, double sign);

  bool is_rank(RankId rank) { return rank < transport_.wire().size(); }
  ValuePtr value_here(ObjectId id);
  void ask_for(ObjectId id, RankId hint, std::uint64_t turn = 0, bool for_value = false);
  bool wants_value(ObjectId id, const Interest& in) const;
  bool is_awaited(ObjectId id);
  void fulfil(ObjectId id, const ValuePtr& value, const ErrorPtr& error);
  void deliver(ObjectId id, const ValuePtr& value, const ErrorPtr& error, RankId at);
  void send_failure(RankId to, ObjectId id, const core::ErrorRecord& error);
  void answer_fetch(const Asker& to, ObjectId id, const ValuePtr& value);
  void retain(ObjectId id, ValuePtr value);
  // Results of tasks that ended here, or failed.
  struct Report {
    Range range;
    bool announced = true;
    bool is_call = false;
    bool holding = false;        // the call's arguments hold objects
    std::uint32_t overtime = 0;  // as in Done
    std::uint64_t elapsed_ns = 0;
    std::uint32_t fixed = 0;
    std::shared_ptr<Buffer> values;
    std::vector<std::uint32_t> ends;
    std::vector<core::IndexedError> errors;
    std::vector<std::pair<std::uint32_t, ValuePtr>> stored;  // no value: an actor
    std::vector<std::pair<std::uint32_t, std::vector<Handle>>> refs;
    ByteView value_at(std::uint32_t index) const;
  };
  // This rank's member of a gang, until the gang is over and the member's thread is back.
  struct Member {
    Range range;
    std::uint32_t place = 0;
    Run* run = nullptr;            // while it runs
    bool gang_waits = false;       // some member of it, for a while
    bool told = false;             // how it ended
    bool stuck = false;            // so it was told
    Time broken_at = 0;            // the gang is over, without results; 0: it is not
    std::optional<Report> report;  // it has ended well
    double cpus = 0;               // that it had, then
    // Parts of the sums of that name: while its gang waits, who has ended well lends its cpus like the others.
    double unused = 0;
    double unused_of_member = 0;
  };
  void tell_member(const Member& member, std::uint64_t gang, core::MemberState state,
                   const core::ErrorRecord& error = {});
  void member_ended(const Run& run, Report report);
  void lend_ended(Member& member);
  void erase_member(std::map<std::uint64_t, Member>::iterator of);
  void check_members(Time now);
  static constexpr Time kGangWaitsAfter = 100'000'000;  // ns that a member waits before its gang is said to wait
  void set_gang_waits(Run& run, bool waits);
  void send_report(Report report);
  void send_call_report(Report& report);
  void tell_counted(const Range& range);
  static Report failed(const Range& range, const core::ErrorRecord& error);
  void add_stored(Report& report);
  void deliver_results(const Report& report);
  void send_done(const core::Done& done);
  void tell_holds();
  void tell_lent();
  void tell_less_lent();
  core::Ids interested_in(const Range& range) const;
  void arrived(ObjectId id, const ValuePtr& value);
  bool forget_if_unwanted(ObjectId id);
  RankId where_large(const store::Slot& slot) const;
  void locate(ObjectId id, RankId not_at, bool forgotten = false);
  void came(ObjectId id, ValuePtr value);
  void admit();
  void tell_store_news();
  void redirect(ObjectId id);
  void send_away(ObjectId id, Interest& in);  // those ranks that wait for it here
  void split_off(Piece& piece, std::uint32_t index);
  void release(Run& run);
  void give_back_rest(Run& run, std::uint32_t from);
  Report take_results(Run& run, std::uint32_t end, Time now);
  void report(Run& run, Report report);
  void leave_alone(Run& run, Time now);
  void end_early(Run& run);
  Failure where(const Run& run, std::uint32_t index) const;
  std::string task_name(const Body& body) const;

  transport::Transport& transport_;
  store::ObjectTable& objects_;
  Store& store_;
  Settings settings_;

  Open open_;
  TaskOptions options_copy_;
  std::shared_ptr<const core::WireOptions> options_wire_;

  std::size_t kept_bytes_ = 0;  // outlives the pieces
  Sent sent_;
  bool has_sent_last_ = false;
  std::unordered_map<SpanId, std::map<std::uint32_t, std::unique_ptr<Piece>>> pieces_;
  std::map<int, PieceQueue, std::greater<>> ready_;  // by priority
  std::size_t queued_without_cpus_ = 0;              // pieces
  std::size_t queued_tasks_ = 0;
  std::size_t calls_pending_ = 0;
  Time now_ = 0;  // as far as is known
  std::uint32_t turn_ = 0;
  std::vector<Piece*> unannounced_;
  std::vector<Piece*> parked_;
  std::size_t in_store_ = 0;  // bytes of the segment that are inputs of tasks that run
  Runs running_;

  core::WireDemand free_;  // what no run holds
  int resuming_ = 0;       // threads that want their cpus back
  double actor_cpus_ = 0;  // that actors hold for good
  core::Sum unused_;       // cpus of runs, that the head is told to be free
  core::Sum unused_of_members_;
  core::Sum spoken_for_;      // that runs which wait will want back, and that members run without
  core::Sum member_cpus_;     // that members of gangs hold which do not wait: they may be inside MPI
  std::uint32_t beside_ = 0;  // members that run without cpus, and do not wait
  core::Lending told_;
  bool lent_changed_ = false;
  std::uint32_t overtimes_ = 0;  // of runs that went on past their time
  std::vector<int> free_slots_;
  std::vector<double> free_gpus_;  // of each, what no run holds

  std::unordered_map<ObjectId, std::unique_ptr<LocalActor>> actors_;
  std::deque<LocalActor*> callable_[2];    // may run a call: with cpus of their own, and without
  std::vector<Run*> places_;               // runs without cpus that hold a place
  mutable bool refused_place_ = false;     // to a task, since the last one that was given up
  std::vector<bool> waits_in_threads_;     // by function: threads that its tasks start wait for others
  std::map<ObjectId, PendingCall> calls_;  // by the first result
  std::unordered_map<ObjectId, RemoteActor> remotes_;
  std::map<std::pair<ObjectId, bool>, Loan> loans_;  // by the call; true: for its results

  FoldSubmitter fold_submitter_{*this};
  Folds folds_{objects_, fold_submitter_};

  std::map<std::uint64_t, Member> members_;  // by gang

  std::unordered_map<ObjectId, Interest> interests_;
  // Blocks of values of other nodes: announced, and waiting for room; or waiting for the pages of their room.
  struct Incoming {
    RankId from;
    ObjectId id;
    std::uint64_t block;
    std::size_t size;
    Store::Room room;
  };
  void receive(Incoming in);
  std::deque<Incoming> incoming_;
  std::unordered_map<std::uint64_t, Incoming> preparing_;
  std::vector<RankId> receiving_;  // the senders of blocks on their way
  std::unordered_map<ObjectId, ValuePtr> retained_;
  std::vector<ObjectId> retained_order_;  // a ring
  std::size_t retained_next_ = 0;
  std::set<RankId> lost_;
  std::vector<std::pair<ObjectId, ErrorPtr>> failing_;  // first tasks of pieces
  bool failing_now_ = false;

  std::vector<std::uint64_t> estimates_;  // ns of one task, by function; 0: unknown
  std::uint64_t next_token_ = 1;
  std::unordered_map<std::uint64_t, core::Answer> answers_;
  Time last_announced_ = 0;
  void rank_lost(const core::RankLost& m);
  void see_to_late_losses(Time now);
  void keep_adopted(ObjectId id, const ValuePtr& value);
  struct LateLoss {
    core::RankLost message;
    Time until = 0;
  };
  std::vector<LateLoss> late_losses_;              // of ranks that have left, and whose last words are on their way
  std::unordered_map<ObjectId, RankId> adopting_;  // values that are to be kept, and the rank that leaves them
  bool draining_ = false;
  bool leaves_ = false;
  bool saved_all_ = false;  // since then
  std::uint64_t tasks_run_ = 0;
  std::uint64_t fetches_ = 0;
};

}  // namespace mobula::worker
