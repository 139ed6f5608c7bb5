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
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/messages.hpp"
#include "core/trace.hpp"
#include "mobula/detail/task.hpp"
#include "store/objects.hpp"
#include "transport/transport.hpp"

namespace mobula::worker {

using core::ErrorPtr;
using core::Range;
using core::Time;
using detail::Buffer;
using detail::ByteView;
using detail::FunctionInfo;
using detail::Handle;
using detail::ObjectId;
using detail::RankId;
using detail::Record;
using detail::SpanId;
using store::Store;
using store::ValuePtr;

// What all tasks of a piece share; immutable once its dependencies are here.
struct Body {
  const FunctionInfo* function = nullptr;
  std::shared_ptr<const core::WireOptions> options;  // nullptr: the default ones
  Buffer args;
  std::vector<std::uint32_t> ends;  // empty: the function's arguments are of one size
  std::uint32_t base = 0;           // index in the span of the first task in `args`
  std::uint64_t dep_mask = 0;
  std::vector<ObjectId> deps;
  std::vector<ValuePtr> values;  // of the dependencies
  std::vector<ByteView> views;   // the same
  std::vector<Handle> keep;      // of a kept piece: what its tasks hold
  std::uint32_t attempt = 1;

  ByteView args_of(std::uint32_t begin, std::uint32_t end) const;
  double cpus() const { return options ? options->demands.front().cpus : 1.0; }
  int priority() const { return options ? options->priority : 0; }
};

struct Piece {
  Range range;
  std::shared_ptr<Body> body;
  std::uint32_t missing = 0;  // dependencies that are not here
  bool kept = false;
  bool announced = true;  // the head knows
  bool queued = false;
  Time submitted = 0;
  std::size_t unannounced_at = 0;  // position in the list of those
};

struct Run {
  Range range;
  std::shared_ptr<Body> body;
  bool announced = true;
  bool kept = false;
  std::size_t demand = 0;  // which of the task's demands it holds
  Run* lender = nullptr;   // the run whose cpus it uses in place of its own
  int slot = -1;           // the first of
  std::vector<int> slots;
  std::size_t lent_slots = 0;
  Time started = 0;
  Time deadline = 0;           // 0: none
  bool expired = false;        // its result was already given as TimedOut
  bool lends = false;          // waits for others, its cpus are free
  std::size_t running_at = 0;  // position in the list of runs
  detail::TaskRun task;
};

struct Settings {
  std::uint32_t slots = 0;
  std::size_t inline_limit = 4096;
  core::WireDemand offers;  // cpus = slots
  std::string host;
  std::uint32_t node = 0;
};

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
  Handle put(detail::Encoder&& value);
  // Sees to it that the object's value comes here, for a handle to wait on.
  void request(const Handle& handle);
  // Asks the head; the answer is collected with `take_answer`.
  std::uint64_t ask(core::Question question, ObjectId id, const TaskOptions* options = nullptr);
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
  // The answer to a Prepare order of the store.
  void prepared(std::uint64_t token, bool good);

  // ---- execution
  bool has_runnable() const;
  // The next run that a thread should execute, with its cpus taken; nullptr if none may start.
  std::unique_ptr<Run> next_run(Time now);
  // The task of this very object, if it is queued here: the thread that waits for it runs it, in place of `waiter`.
  std::unique_ptr<Run> claim(const Handle& handle, Run& waiter, Time now);
  // The thread has left the run's functions. What of it was not run goes back into the queue.
  void finish(std::unique_ptr<Run> run, Time now);
  // The run's thread waits, and lends its cpus; resume asks for them back, and says whether it got them.
  void lend(Run& run);
  bool resume(Run& run);
  void want_resume(int change) { resuming_ += change; }

  // ---- progress
  void tick(Time now);   // deadlines, long runs, late announcements
  void flush(Time now);  // what others must know by now
  bool needs_flush() const {
    return open_.count != 0 || !unannounced_.empty() || objects_.has_drops() || lent_changed_ || store_.has_news();
  }
  std::size_t running() const { return running_.size(); }
  double cpus_in_use() const { return settings_.slots - free_.cpus; }
  std::size_t queued_tasks() const { return queued_tasks_; }
  std::size_t interests() const { return interests_.size(); }
  std::uint64_t tasks_run() const { return tasks_run_; }
  std::uint64_t fetches() const { return fetches_; }  // values asked of other ranks
  std::string describe() const;                       // what it waits for, for people

 private:
  // Who waits for an object that is not here: pieces, and ranks that asked for it.
  struct Interest {
    std::vector<Piece*> pieces;
    std::vector<RankId> ranks;
    RankId asked = detail::kNoRank;  // the rank that was asked for it; kNoRank: nobody
    bool exists = false;             // that rank has it or is getting it, as the head knows
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
    std::vector<std::uint32_t> ends;
  };
  std::shared_ptr<const core::WireOptions> wire_options(const TaskOptions* options);
  bool keeps(const core::WireOptions* options) const;
  void close_open();
  void send_submit(const Range& range, bool kept, const FunctionInfo& function, const core::WireOptions* options,
                   std::uint64_t mask, ByteView args, const std::vector<std::uint32_t>& ends,
                   std::vector<ObjectId> deps, std::vector<ObjectId> refs);
  void keep_piece(const Range& range, std::shared_ptr<Body> body, Time now);
  void announce(Piece& piece);
  void announce_run(Run& run);
  void announce_body(const Range& range, const Body& body);
  void announce_all();
  void pass_on(const Handle& handle);
  std::vector<ObjectId> pass_on_all(std::span<const Handle> handles);

  Piece& add_piece(const Range& range, std::shared_ptr<Body> body);
  Piece* piece_with(ObjectId id);
  bool will_come(ObjectId id) const;
  void enqueue(Piece& piece, bool front);
  void dequeue(Piece& piece);
  void erase_piece(Piece& piece);
  void resolve(Piece& piece, std::size_t dep, const core::DepSource* source);
  void dep_ready(Piece& piece, ObjectId id, const ValuePtr& value);
  void set_up(Piece& piece, std::span<const core::DepSource> sources);
  void fail_piece(Piece& piece, const ErrorPtr& error);
  void fail_pieces();
  std::unique_ptr<Run> carve(Piece& piece, Range range, std::size_t demand, Time now);
  std::optional<std::size_t> fitting_demand(const Body& body) const;
  void take(const Body& body, std::size_t demand, double sign);

  ValuePtr value_here(ObjectId id);
  void ask_for(ObjectId id, RankId hint, bool exists = false);
  void deliver(ObjectId id, const ValuePtr& value, const ErrorPtr& error, RankId at);
  void send_failure(RankId to, ObjectId id, const core::ErrorRecord& error);
  void answer_fetch(RankId to, ObjectId id, const ValuePtr& value);
  void retain(ObjectId id, ValuePtr value);
  // Results of tasks that ended here, or failed.
  struct Report {
    Range range;
    bool announced = true;
    bool kept = false;
    std::uint64_t elapsed_ns = 0;
    std::uint32_t fixed = 0;
    std::shared_ptr<Buffer> values;
    std::vector<std::uint32_t> ends;
    std::vector<core::IndexedError> errors;
    std::vector<std::pair<std::uint32_t, ValuePtr>> stored;
    std::vector<std::pair<std::uint32_t, std::vector<Handle>>> refs;
  };
  void send_report(Report report);
  void send_done(const core::Done& done);
  void tell_holds();
  std::vector<ObjectId> interested_in(const Range& range) const;
  void arrived(ObjectId id, const ValuePtr& value);
  bool forget_if_unwanted(ObjectId id);
  RankId where_large(const store::Slot& slot) const;
  void locate(ObjectId id, RankId not_at);
  void came(ObjectId id, const ValuePtr& value);
  void admit();
  void tell_store_news();
  void redirect(ObjectId id);
  void split_off(Piece& piece, std::uint32_t index);
  void release(Run& run);
  Failure where(const Run& run, std::uint32_t index) const;
  std::string task_name(const Body& body) const;

  transport::Transport& transport_;
  store::ObjectTable& objects_;
  Store& store_;
  Settings settings_;

  Open open_;
  TaskOptions options_copy_;
  std::shared_ptr<const core::WireOptions> options_wire_;

  std::unordered_map<SpanId, std::map<std::uint32_t, std::unique_ptr<Piece>>> pieces_;
  std::map<int, std::deque<Piece*>, std::greater<>> ready_;
  std::size_t queued_tasks_ = 0;
  std::vector<Piece*> unannounced_;
  std::vector<Run*> running_;  // in no order

  core::WireDemand free_;  // what no run holds
  int resuming_ = 0;       // threads that want their cpus back
  double lent_ = 0;        // cpus of tasks that wait
  double told_lent_ = 0;
  bool lent_changed_ = false;
  std::vector<int> free_slots_;

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
  std::uint64_t tasks_run_ = 0;
  std::uint64_t fetches_ = 0;
};

}  // namespace mobula::worker
