// The whole protocol: every message that crosses a rank, one plain struct each.
//
// A frame is a run of messages: type (1 byte), length (4 bytes), fields. Between two ranks frames arrive in the order
// sent; between three nothing is promised. What rests on that order is said beside the message.
//
//   client  what every rank is: it submits, holds refs, and waits
//   head    rank 0: knows every task and every object that is known beyond one rank
//   worker  a rank with slots
//
// To add a message: its struct here, its name in Messages, `handle` in the role that receives it, a HANDLER_TEST.
#pragma once

#include <string>
#include <vector>

#include "core/error.hpp"
#include "core/small.hpp"
#include "core/wire.hpp"
#include "mobula/detail/ids.hpp"
#include "mobula/options.hpp"

namespace mobula::core {

using detail::ObjectId;
using detail::RankId;
using detail::SpanId;
using Ids = Small<ObjectId, 4>;  // what a task depends on, or holds
using Ends = Small<std::uint32_t, 2>;

struct Range {
  SpanId span;
  std::uint32_t begin = 0;
  std::uint32_t end = 0;
};

struct Hold {  // an object, and the span element that is concerned
  std::uint32_t index = 0;
  ObjectId object;
};

struct IndexedError {
  std::uint32_t index = 0;
  ErrorRecord error;
  template <class V>
  void fields(V&& visit) {
    visit(index, error);
  }
};

struct StoredResult {  // a result too large to travel inline: it stays where it was made
  std::uint32_t index = 0;
  std::uint64_t size = 0;
};

struct WireDemand {
  double cpus = 1;
  double gpus = 0;
  std::uint64_t memory = 0;
  std::map<std::string, double> resources;
  template <class V>
  void fields(V&& visit) {
    visit(cpus, gpus, memory, resources);
  }
};

// What makes a task the making of an actor.
struct ActorTraits {
  std::string name;
  bool get_if_exists = false;
  bool detached = false;
  std::int32_t restarts = 0;
  std::uint32_t concurrency = 1;
  detail::CallLimits limits;
  std::uint32_t klass = 0;  // the index of its destructor
  std::uint32_t checkpoint_every = 0;
  bool durable = false;
  template <class V>
  void fields(V&& visit) {
    visit(name, get_if_exists, detached, restarts, concurrency, limits, klass, checkpoint_every, durable);
  }
};

// What a rank must have for tasks in containers; empty: any runtime for them.
inline std::string runtime_feature(const std::string& runtime) {
  return "a runtime for containers" + (runtime.empty() ? "" : ": " + runtime);
}

// Of containers; without a name: none.
struct WireImage {
  std::string name;
  std::vector<std::string> binds;
  std::vector<std::string> env;  // NAME=value
  bool gpus = false;
  std::string runtime;  // empty: the first that is there
  bool reuse = true;
  template <class V>
  void fields(V&& visit) {
    visit(name, binds, env, gpus, runtime, reuse);
  }
  bool operator==(const WireImage&) const = default;
};

// A process of its own for a task or an actor.
struct WireSandbox {
  std::uint64_t memory = 0;
  std::int64_t time_ns = -1;
  std::string cwd;
  std::vector<std::string> env;  // NAME=value
  bool reuse = true;
  WireImage image;  // in which it runs
  template <class V>
  void fields(V&& visit) {
    visit(memory, time_ns, cwd, env, reuse, image);
  }
  bool operator==(const WireSandbox&) const = default;
};

struct WireOptions {
  std::vector<WireDemand> demands;  // first choice first; never empty
  std::int32_t retries = 3;
  bool retry_exceptions = false;
  std::int32_t priority = 0;
  std::string name;
  std::int64_t timeout_ns = -1;
  std::int64_t time_request_ns = -1;
  Placement::Kind placement = Placement::Kind::any;
  std::uint32_t place_index = 0;
  ObjectId near;
  std::uint32_t gang = 0;  // ranks that run it together, one task each; 0: an ordinary task
  bool is_actor = false;
  ActorTraits actor;
  bool is_sandboxed = false;
  WireSandbox sandbox;
  bool durable = false;
  std::string version;
  std::string needs;  // a feature of the rank; empty: none

  template <class V>
  void fields(V&& visit) {
    visit(needs, demands, retries, retry_exceptions, priority, name, timeout_ns, time_request_ns, placement,
          place_index, near, gang, is_actor, is_sandboxed, durable);
    if (is_actor) visit(actor);
    if (is_sandboxed) visit(sandbox);
    if (durable) visit(version);
  }
};

// One cpu and nothing else, wherever: what a task asks for by default.
inline bool is_plain(const WireOptions* options) {
  if (options == nullptr) return true;
  if (options->is_actor || options->gang != 0 || !options->needs.empty()) return false;
  const WireDemand& d = options->demands.front();
  const bool ordinary =
      options->demands.size() == 1 && d.cpus == 1 && d.gpus == 0 && d.memory == 0 && d.resources.empty();
  return ordinary && (options->placement == Placement::Kind::any || options->placement == Placement::Kind::near);
}

// What a stretch of tasks needs to run, as the client made it.
struct TaskBody {
  std::uint32_t function = 0;
  std::uint64_t dep_mask = 0;
  // Of all tasks, back to back, without those that are dependencies. Those of a gang share the arguments of one.
  ByteView args;
  Ends ends;  // where each task's arguments end; empty if the function's are of one size
  bool has_options = false;
  WireOptions options;

  template <class V>
  void fields(V&& visit) {
    visit(function, dep_mask, args, ends, has_options);
    if (has_options) visit(options);
  }
};

// ---- client or worker to head ------------------------------------------------------------------------------------

struct Join {
  std::uint64_t digest = 0;
  std::string version;
  std::string host;
  std::uint32_t node = 0;
  std::uint32_t slots = 0;
  WireDemand offers;                        // cpus = slots
  std::vector<std::string> node_resources;  // of those, what the ranks of the node have together
  std::vector<std::string> features;        // that tasks may need
  template <class V>
  void fields(V&& visit) {
    visit(digest, version, host, node, slots, offers, node_resources, features);
  }
};

// Tasks of one function with the same dependencies. The head counts the tasks as holders of `deps` and `refs` from
// here on; the client's own Drop of them comes after this on the same path.
struct Submit {
  Range range;
  bool kept = false;    // the sender runs them itself unless they are taken back
  bool nested = false;  // a task has submitted them
  TaskBody body;
  Ids deps;
  Ids refs;  // objects held by argument values
  template <class V>
  void fields(V&& visit) {
    visit(range, kept, nested, body, deps, refs);
  }
};

// An object of the sender's that was made without the head knowing has become visible to others.
struct Made {
  ObjectId id;
  std::uint64_t size = 0;
  Ids refs;
  RankId at = detail::kNoRank;  // where the value stays; kNoRank: it is the sender's
  template <class V>
  void fields(V&& visit) {
    visit(id, size, refs, at);
  }
};

// What `giver` lent the sender with a call or its result, past the head, the head has been told of by now, on this same
// path. Answered to the giver, by Returned.
struct Counted {
  RankId giver = detail::kNoRank;
  ObjectId call;
  bool result = false;  // of the call's result; otherwise of its arguments
  template <class V>
  void fields(V&& visit) {
    visit(giver, call, result);
  }
};

// The result of a call or a reduction by the sender has become visible to others. The sender will tell of its end by
// Done, or submit the task that makes it.
struct Promised {
  ObjectId id;
  std::uint32_t function = 0;
  template <class V>
  void fields(V&& visit) {
    visit(id, function);
  }
};

struct ActorEnded {  // its object is destroyed
  ObjectId id;
  template <class V>
  void fields(V&& visit) {
    visit(id);
  }
};

struct KillDone {  // no call of the actor will start any more
  std::uint64_t token = 0;
  template <class V>
  void fields(V&& visit) {
    visit(token);
  }
};

// A method of `actor` has waited for a call on `on` for a while, or (`waits` false) waits no more. The token is the
// sender's, for Deadlock.
struct Blocked {
  ObjectId actor;
  ObjectId on;
  std::uint64_t token = 0;
  bool waits = true;
  template <class V>
  void fields(V&& visit) {
    visit(actor, on, token, waits);
  }
};

// A task, or a method of an actor, waits for others or goes on: said of those that are in a bundle, or that have the
// cores of other ranks lent. Of the rest Lending tells. Said of a member of a gang as well, once it has waited for a
// while.
struct Waits {
  ObjectId id;
  bool waits = false;
  std::uint32_t overtime = 0;  // as in the Done that has come of it
  template <class V>
  void fields(V&& visit) {
    visit(id, waits, overtime);
  }
};

// Tasks ended at the sender. The results of those that are in neither list went inline to the span's owner.
struct Done {
  Range range;
  std::uint64_t elapsed_ns = 0;
  std::vector<IndexedError> errors;
  std::vector<StoredResult> stored;
  std::vector<Hold> refs;  // objects held by result values; the sender holds them until after this message
  // Not 0: the time of the one task is up, and its function goes on with what the task holds. A number of the sender's,
  // with which it says so when that ends.
  std::uint32_t overtime = 0;
  template <class V>
  void fields(V&& visit) {
    visit(range, elapsed_ns, errors, stored, refs, overtime);
  }
};

struct OvertimeEnded {
  std::uint32_t overtime = 0;
  template <class V>
  void fields(V&& visit) {
    visit(overtime);
  }
};

struct EndedRank {
  RankId rank = detail::kNoRank;
  std::string how;
  bool tells = false;        // what it was at:
  std::vector<Range> begun;  // tasks
  template <class V>
  void fields(V&& visit) {
    visit(rank, how, tells, begun);
  }
};
struct QuietRank {
  RankId rank = detail::kNoRank;
  std::int64_t quiet_ns = 0;  // since its last sign of life
};

// One rank of each node speaks for all: at least every second, and at once when the process of one has ended. Answered
// by PulseBack.
struct Pulse {
  std::vector<EndedRank> ended;
  std::vector<QuietRank> quiet;
  template <class V>
  void fields(V&& visit) {
    visit(ended, quiet);
  }
};

// How a member of a gang stands. `timed_out` ones still run. `stuck` ones have not come back since the gang broke, and
// keep what they hold but for their cpus; `freed` is said when they do.
enum class MemberState : std::uint8_t { runs, ended, failed, timed_out, dropped, stuck, freed, last = freed };
struct Member {
  std::uint64_t gang = 0;
  std::uint32_t place = 0;
  MemberState state = MemberState::runs;
  ErrorRecord error;  // failed, timed_out
  template <class V>
  void fields(V&& visit) {
    visit(gang, place, state, error);
  }
};

// The sender's handles: first of an object that others made (hold), last of one (drop). In order.
struct Holds {
  std::vector<ObjectId> holds;
  std::vector<ObjectId> drops;
  std::vector<SpanId> spans;  // spans of the sender's own of which nothing is left there
  template <class V>
  void fields(V&& visit) {
    visit(holds, drops, spans);
  }
};

struct Locate {  // answered by Located once the object exists or its task has a rank
  ObjectId id;
  RankId not_at = detail::kNoRank;  // a rank that was asked and does not have it
  bool for_task = false;            // that the head gave to the sender, and that has not begun
  bool forgotten = false;           // by that rank, which is its owner
  template <class V>
  void fields(V&& visit) {
    visit(id, not_at, for_task, forgotten);
  }
};

struct Copied {  // the sender keeps a copy of a large object until told to free it
  ObjectId id;
  bool adopted = false;  // of any object, as it was told to, and does not drop it
  template <class V>
  void fields(V&& visit) {
    visit(id, adopted);
  }
};

// The sender was told to end, and would like to do so in order.
struct Leave {
  std::int64_t grace_ns = 0;
  template <class V>
  void fields(V&& visit) {
    visit(grace_ns);
  }
};

// The last word of a rank that leaves: what it has sent, in frames, and to whom.
struct Left {
  struct To {
    RankId rank = detail::kNoRank;
    std::uint32_t frames = 0;
  };
  std::vector<To> frames;
  template <class V>
  void fields(V&& visit) {
    visit(frames);
  }
};

// All actors of the sender have been saved since Drain.
struct Saved {
  template <class V>
  void fields(V&& visit) {
    visit();
  }
};

// The state of an actor, and the objects that it holds.
struct Checkpoint {
  ObjectId id;
  ByteView state;
  Ids refs;
  template <class V>
  void fields(V&& visit) {
    visit(id, state, refs);
  }
};

// The answer to RankLost with `ended`: those of its results that have not come here and are wanted.
struct Unheard {
  RankId lost = detail::kNoRank;
  std::vector<ObjectId> ids;
  template <class V>
  void fields(V&& visit) {
    visit(lost, ids);
  }
};

struct Uncopied {  // copies that the sender dropped to make room
  std::vector<ObjectId> ids;
  template <class V>
  void fields(V&& visit) {
    visit(ids);
  }
};

struct GaveBack {  // the answer to TakeBack, also when nothing could be given
  std::vector<Range> ranges;
  template <class V>
  void fields(V&& visit) {
    visit(ranges);
  }
};

struct Lending {
  // That tasks of the sender do not use, since they wait, or run on those of one that waits, or that members of gangs
  // run without. Comes before the end of such a task.
  double cpus = 0;
  double of_members = 0;     // of those, the ones that members of gangs lend or run without
  std::uint32_t beside = 0;  // members of gangs there that run without cpus of their own, and do not wait
  template <class V>
  void fields(V&& visit) {
    visit(cpus, of_members, beside);
  }
  bool operator==(const Lending&) const = default;
};

// `reserve`: the name in the options for the actor `id`, which will be submitted; `find`: the actor of the name and
// class in the options. `bundles`: the demands in the options, with the strategy as place_index, for the placement
// group `id`, which is ready when they are set aside. The two for actors are answered by a FoundActor, `reserve` by an
// empty text if the name is now that of `id`.
enum class Question : std::uint8_t {
  cancel,
  explain,
  cluster,
  feasible,
  store,
  reserve,
  find,
  kill,
  bundles,
  last = bundles
};
struct Ask {
  std::uint64_t token = 0;
  Question question = Question::cancel;
  ObjectId id;          // store: its index says how many of the largest objects are wanted
  WireOptions options;  // of a task that might be submitted: feasible
  bool nested = false;  // a task asks
  template <class V>
  void fields(V&& visit) {
    visit(token, question, id, options, nested);
  }
};

struct FoundActor {  // the head counts a hold of the asker's from here on
  ObjectId id;
  detail::CallLimits limits;
  template <class V>
  void fields(V&& visit) {
    visit(id, limits);
  }
};

struct StoreReport {  // worker to head: the answer to AskStore, a StoreStats
  std::uint64_t token = 0;
  std::string stats;
  template <class V>
  void fields(V&& visit) {
    visit(token, stats);
  }
};

// ---- head to client or worker ------------------------------------------------------------------------------------

// `rank` has the value or is getting it; `maker` has or will run the task that makes it.
enum class Where : std::uint8_t { inlined, rank, maker, unknown, last = unknown };
struct DepSource {
  ObjectId id;
  Where where = Where::unknown;
  RankId rank = detail::kNoRank;
  ByteView value;          // if inlined
  std::uint64_t turn = 0;  // as in Located
  template <class V>
  void fields(V&& visit) {
    visit(id, where, rank, value, turn);
  }
};

// A task's place in a gang.
struct GangPart {
  std::uint64_t gang = 0;
  std::uint64_t communicator = 0;
  std::uint32_t place = 0;  // its rank there
  // Of a communicator that is to be made: begin and end of each stretch of ranks.
  std::vector<RankId> members;
  template <class V>
  void fields(V&& visit) {
    visit(gang, communicator, place, members);
  }
};

struct Assign {
  Range range;
  std::uint32_t attempt = 1;
  std::uint64_t estimate_ns = 0;  // of one task; 0: unknown
  TaskBody body;                  // with the one demand that the rank is to meet
  Small<DepSource, 4> deps;
  std::vector<RankId> lenders;  // ranks of the node that leave it their cores, of a task with more cpus than slots
  GangPart gang;                // if the body's options say so
  ByteView checkpoint;          // the state of an actor that is made again
  template <class V>
  void fields(V&& visit) {
    visit(range, attempt, estimate_ns, body, deps, lenders);
    if (body.has_options && body.options.gang != 0) visit(gang);
    if (body.has_options && body.options.is_actor) visit(checkpoint);
  }
};

// The gang has ended. `good`: all members ended well, and their results count. Otherwise none does, and those that have
// not said how they ended are to say so soon.
struct GangOver {
  std::uint64_t gang = 0;
  bool good = false;
  template <class V>
  void fields(V&& visit) {
    visit(gang, good);
  }
};

// Some member of the gang has waited for a while (Waits), or none does any more. Others may be inside MPI, and wait
// there for that one: so all of them lend their cpus meanwhile, as those do that wait themselves.
struct GangWaits {
  std::uint64_t gang = 0;
  bool waits = false;
  template <class V>
  void fields(V&& visit) {
    visit(gang, waits);
  }
};

struct PulseBack {
  template <class V>
  void fields(V&& visit) {
    visit();
  }
};

// No member uses it any more. Of a gang that broke messages may still be under way on it.
struct DropCommunicator {
  std::uint64_t communicator = 0;
  bool broken = false;
  template <class V>
  void fields(V&& visit) {
    visit(communicator, broken);
  }
};

struct TakeBack {
  std::uint32_t tasks = 0;  // at most
  bool waiting = false;     // also those whose inputs are not there
  bool keeps_wide = false;  // but of these not what has the cores of other ranks set aside
  template <class V>
  void fields(V&& visit) {
    visit(tasks, waiting, keeps_wide);
  }
};

struct CancelTask {
  std::uint64_t token = 0;  // for the answer, CancelResult
  ObjectId id;
  template <class V>
  void fields(V&& visit) {
    visit(token, id);
  }
};

struct CancelResult {  // worker to head
  std::uint64_t token = 0;
  ObjectId id;
  bool cancelled = false;
  template <class V>
  void fields(V&& visit) {
    visit(token, id, cancelled);
  }
};

struct Returned {  // to a giver: see Counted
  ObjectId call;
  bool result = false;
  template <class V>
  void fields(V&& visit) {
    visit(call, result);
  }
};

struct EndActor {  // its calls fail with the error; answered by KillDone unless the token is 0
  ObjectId id;
  std::uint64_t token = 0;
  ErrorRecord error;
  template <class V>
  void fields(V&& visit) {
    visit(id, token, error);
  }
};

struct Deadlock {  // the method that waits, as told by Blocked with this token, would wait for ever
  std::uint64_t token = 0;
  std::string text;
  template <class V>
  void fields(V&& visit) {
    visit(token, text);
  }
};

struct AskStore {
  std::uint64_t token = 0;
  std::uint32_t largest = 0;  // objects to be listed, at most
  template <class V>
  void fields(V&& visit) {
    visit(token, largest);
  }
};

struct Located {
  ObjectId id;
  RankId rank = detail::kNoRank;  // kNoRank: see error
  ErrorRecord error;
  // Grows with each answer of the head by which a rank may wait at another that is still getting the value; 0: none.
  std::uint64_t turn = 0;
  bool exists = false;  // as a value, of which the rank knows; so it is where the turn is not 0
  template <class V>
  void fields(V&& visit) {
    visit(id, rank, error, turn, exists);
  }
};

struct Keep {  // the receiver's copy is now the value itself: it may not be dropped any more
  ObjectId id;
  template <class V>
  void fields(V&& visit) {
    visit(id);
  }
};

struct Free {  // nobody holds these any more
  Ids ids;
  template <class V>
  void fields(V&& visit) {
    visit(ids);
  }
};

// To each rank that is left. What the receiver owns of `ended`, the lost rank had said to be done shortly before: its
// results may not have come. Where there is any, the answer is Unheard. A rank that has left in order has sent the
// receiver so many frames, which are to be handled first; what is pending there then has not begun.
struct RankLost {
  RankId rank = detail::kNoRank;
  std::vector<Range> ended;
  bool left = false;
  std::uint32_t frames = 0;
  template <class V>
  void fields(V&& visit) {
    visit(rank, ended, left, frames);
  }
};

struct Answer {
  std::uint64_t token = 0;
  bool yes = false;
  std::string text;
  template <class V>
  void fields(V&& visit) {
    visit(token, yes, text);
  }
};

// The job is to end soon: actors that are saved now and then are to be saved now, and after each call from here on. Or
// the receiver is to leave: its actors begin no more calls.
struct Drain {
  bool leaves = false;
  template <class V>
  void fields(V&& visit) {
    visit(leaves);
  }
};

// The receiver may end, and answers with Left.
struct Dismiss {
  template <class V>
  void fields(V&& visit) {
    visit();
  }
};

// The receiver is to get the value from a rank that leaves, and to keep a copy of its own.
struct Adopt {
  ObjectId id;
  RankId from = detail::kNoRank;
  template <class V>
  void fields(V&& visit) {
    visit(id, from);
  }
};

struct Stop {
  std::int32_t code = 0;
  std::string reason;  // for people; empty for an ordinary end
  template <class V>
  void fields(V&& visit) {
    visit(code, reason);
  }
};

// ---- any rank to any rank ----------------------------------------------------------------------------------------

// Calls of one method by one caller, in the order made. The results go to the sender, who owns the span.
struct Call {
  Range range;
  ObjectId actor;
  ObjectId caller;       // the task or actor that makes it; none: the driver
  bool holding = false;  // argument values hold objects: Counted is to be sent when the receiver's holds are told
  TaskBody body;
  std::vector<DepSource> deps;
  template <class V>
  void fields(V&& visit) {
    visit(range, actor, caller, holding, body, deps);
  }
};

// Results for the owner of the span, who holds the refs. Sent by the rank that ran the tasks, or by the head for tasks
// that will not run. On the way to the head's rank it comes before the Done of the same tasks.
struct Result {
  Range range;
  std::uint32_t fixed = 0;          // bytes of each value, or kVariable
  ByteView values;                  // back to back; errors and stored ones count as zeros or as empty
  std::vector<std::uint32_t> ends;  // where each value ends, if variable
  std::vector<IndexedError> errors;
  std::vector<StoredResult> stored;    // stay at `rank`
  std::vector<std::uint32_t> holding;  // values that hold objects
  std::vector<Hold> refs;              // those, of calls: the owner tells the head, and then sends Counted
  RankId rank = detail::kNoRank;
  template <class V>
  void fields(V&& visit) {
    visit(range, fixed, values, ends, errors, stored, holding, refs, rank);
  }
};

// Answered by Data as soon as the object exists at the receiver, or by NotHere if it will not.
struct Fetch {
  ObjectId id;
  std::uint64_t turn = 0;  // of the answer that named the receiver
  bool word = false;       // that the value exists is enough: a large one is answered by Located
  template <class V>
  void fields(V&& visit) {
    visit(id, turn, word);
  }
};

struct Data {
  ObjectId id;
  bool failed = false;
  ErrorRecord error;
  ByteView value;            // if it is inline
  std::uint64_t size = 0;    // if not:
  std::uint64_t block = 0;   // the bytes follow as a block with this key, or
  std::uint64_t offset = 0;  // they lie in the sender's segment, pinned until the receiver's Unpin
  bool mapped = false;
  template <class V>
  void fields(V&& visit) {
    visit(id, failed);
    if (failed) {
      visit(error);
    } else {
      visit(value, size, block, offset, mapped);
    }
  }
};

struct Unpin {  // one pin of the sender's
  ObjectId id;
  template <class V>
  void fields(V&& visit) {
    visit(id);
  }
};

struct Recall {  // the receiver's pin is wanted back as soon as nobody there uses the value
  ObjectId id;
  template <class V>
  void fields(V&& visit) {
    visit(id);
  }
};

struct NotHere {  // ask the head
  ObjectId id;
  bool forgotten = false;  // the sender is its owner, and nobody holds it as far as that knows
  template <class V>
  void fields(V&& visit) {
    visit(id, forgotten);
  }
};

template <class... M>
struct MessageList {
  template <class T>
  static constexpr std::uint8_t type_of() {
    std::uint8_t index = 0;
    const bool found = ((std::is_same_v<T, M> ? true : (++index, false)) || ...);
    return found ? index : 255;
  }
  // Calls visit(message) with the message of that type, decoded. Throws ProtocolError.
  template <class F>
  static void decode(std::uint8_t type, ByteView bytes, F&& visit) {
    std::uint8_t index = 0;
    const bool found = ((index++ == type ? (decode_one<M>(bytes, visit), true) : false) || ...);
    if (!found) detail::throw_damaged("there is no such message");
  }

 private:
  template <class T, class F>
  static void decode_one(ByteView bytes, F& visit) {
    T message;
    WireReader in(bytes);
    message.fields(in);
    if (in.remaining() != 0) detail::throw_damaged("a message is longer than its fields");
    visit(message);
  }
};

using Messages =
    MessageList<Join, Submit, Made, Counted, Promised, Done, OvertimeEnded, Holds, Locate, Unheard, Copied, Uncopied,
                GaveBack, Lending, Waits, Ask, StoreReport, ActorEnded, Checkpoint, Leave, Left, Saved, KillDone,
                Blocked, Member, Pulse, PulseBack, Assign, GangOver, GangWaits, DropCommunicator, TakeBack, CancelTask,
                CancelResult, Returned, EndActor, Deadlock, AskStore, Located, Keep, Free, RankLost, Answer, Drain,
                Dismiss, Adopt, Stop, Call, Result, Fetch, Data, Unpin, Recall, NotHere>;

// Appends a message to a frame.
template <class M>
void append_message(detail::Buffer& frame, const M& message) {
  static_assert(Messages::type_of<M>() != 255, "list the message in Messages");
  const std::uint8_t type = Messages::type_of<M>();
  frame.append(&type, 1);
  const std::size_t length_at = frame.size();
  frame.extend(sizeof(std::uint32_t));
  WireWriter out(frame);
  const_cast<M&>(message).fields(out);
  const std::size_t length = frame.size() - length_at - sizeof(std::uint32_t);
  MOBULA_CHECK(length <= 0xffff'ffff, "a message is larger than 4 GiB");
  const auto length32 = static_cast<std::uint32_t>(length);
  std::memcpy(frame.data() + length_at, &length32, sizeof length32);
}

// Calls visit(message) for each message of a frame. Throws ProtocolError at the first damage.
template <class F>
void read_frame(ByteView frame, F&& visit) {
  detail::Decoder in(frame);
  while (in.remaining() != 0) {
    const auto type = in.get<std::uint8_t>();
    const auto length = in.get<std::uint32_t>();
    const std::byte* body = in.take(length);
    Messages::decode(type, ByteView(body, length), visit);
  }
}

}  // namespace mobula::core
