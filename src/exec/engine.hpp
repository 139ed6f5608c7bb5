// The loop that feeds one rank's reactors: threads, waiting, and the clock. One lock guards the reactors, the objects
// and the transport; whoever waits moves them on, so that the common round trip has no hand-over between threads.
//
// Waiting goes from polling to yielding to sleeping. Of the sleeping threads one sleeps on the rank's doorbell, which
// other ranks of the node ring, the rest on bells of their own, which those ring who bring about what they wait for:
// the object table, the answer to a question, cpus that are given back. So a step costs the same however many wait. A
// pump thread steps while all others are busy in user code, so that messages are answered then too. An I/O thread
// carries out the store's orders, which take long.
//
// Threads that a task starts belong to its run: Linux gives a thread the name of the one that starts it, and each
// thread that runs tasks has a name of its own. While one of them waits, the run lends its cpus.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "exec/scratch.hpp"
#include "exec/waiting.hpp"
#include "exec/watch.hpp"
#include "exec/yields.hpp"
#include "head/head.hpp"
#include "journal/journal.hpp"
#include "mobula/run.hpp"
#include "nursery/nursery.hpp"
#include "store/objects.hpp"
#include "transport/transport.hpp"
#include "worker/worker.hpp"

namespace mobula::exec {

using core::Time;

struct Settings {
  worker::Settings worker;
  store::Store::Settings store;
  std::string scratch;  // the folder for values that memory has no room for; empty: they are not written
  std::vector<std::vector<int>> slot_cpus;  // OS indexes, by slot; empty: not pinned
  std::vector<int> slot_cores;              // how many cores those are
  // The same as slot_cpus of the ranks of this node.
  std::map<detail::RankId, std::vector<std::vector<int>>> node_slots;
  std::int64_t spin_ns = 20'000;    // polling at full speed
  std::int64_t yield_ns = 100'000;  // polling with yields
  std::uint32_t node = 0;
  std::string host;
  // Starts a thread; throws std::system_error where the system gives none.
  std::function<std::thread(std::function<void()>)> start_thread = [](std::function<void()> act) {
    return std::thread(std::move(act));
  };
  // Beyond which submissions wait: what the head has queued, what each rank has queued of its own tasks, and what its
  // tasks have sent to the head. Enough to keep thousands of workers busy, and little memory.
  std::uint64_t most_tasks = 2 << 20;
  std::size_t most_bytes = 256 << 20;
  double time_limit_s = 0;
  std::chrono::milliseconds stop_grace{500};
};

// Of this thread: the program's, which stays in core dumps and where threads are listed, and its part in it.
void name_thread(const std::string& part);

class Engine {
 public:
  // `head_settings` on rank 0 only.
  Engine(transport::Wire& wire, Settings settings, const head::Settings* head_settings);
  ~Engine();

  // A mutex whose waiters a polling thread lets in.
  class Lock {
   public:
    explicit Lock(Engine& engine) : engine_(engine) { lock(); }
    ~Lock() {
      if (held_) unlock();
    }
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;
    void lock() {
      if (!engine_.mutex_.try_lock()) {
        engine_.contenders_.fetch_add(1, std::memory_order_relaxed);
        engine_.mutex_.lock();
        engine_.contenders_.fetch_sub(1, std::memory_order_relaxed);
      }
      held_ = true;
    }
    void unlock() {
      held_ = false;
      engine_.mutex_.unlock();
    }

   private:
    Engine& engine_;
    bool held_ = false;
  };

  void start_threads();
  // Joins the job: tells the head, and on the head waits until all ranks have. Throws VersionMismatch.
  void join(const std::string& version, std::uint64_t digest);
  // Serves until the head says Stop; returns its code.
  int serve();
  // On the head: tells all ranks to stop.
  void send_stop(int code, const std::string& reason);
  // Ends the threads; false if tasks still ran after the grace.
  bool stop_threads();
  // Whether threads run members of gangs, and so are perhaps inside MPI.
  bool uses_mpi();
  // Stops the threads that have not ended, wherever they are, for good: the process ends soon.
  void freeze_threads();
  // From here on no thread of this rank touches the wire any more: for an end that does not wait for them.
  void leave_wire();

  // One round: takes in messages, decides, sends. Requires the lock.
  bool step();
  // Waits until `met`, which is called under the lock after each step of this thread and whenever the waiter is
  // signalled: so whatever may bring it about without this thread must signal that. False if the deadline passes
  // first, or the threads are to end. Requires the lock.
  bool wait(Lock& lock, Waiter& waiter, Condition met, Time deadline);
  static constexpr Time kNever = std::numeric_limits<Time>::max();

  // Waits until a value is here or has failed; `value` keeps one of the store. Runs the task itself if it is queued on
  // this rank. Throws Cancelled where the job ends first.
  bool wait_for(Lock& lock, const detail::Handle& handle, Time deadline, store::ValuePtr& value);
  // The same for all elements of a batch, one after the other. What an element failed with is told by who reads it:
  // what is thrown here is that the wait can't go on.
  void wait_for_each(Lock& lock, const detail::BatchHandle& batch);
  // The same for anything else that a task may wait for: its slot is lent meanwhile. A task whose own limit is over, or
  // where `is_late` says that another's was, goes on at once, though others may have its cpus still.
  static constexpr auto kNotLate = [] { return false; };
  bool wait_lending(Lock& lock, Waiter& waiter, Condition met, Time deadline, Condition is_late = kNotLate);
  // Asks the head, and waits for the answer. Throws Cancelled where the job ends first. Called without the lock.
  core::Answer ask(core::Question question, detail::ObjectId id, core::WireOptions options = {});
  // After something was submitted: moves on if someone is hungry or much has gathered. Requires the lock.
  void submitted(Lock& lock, std::uint32_t tasks);

  // Room in the store for n bytes. Waits while room is being made; throws StoreFull. Called without the lock.
  detail::Buffer room(std::size_t n);

  // Waits while more is queued than is good for memory. A task runs others of this rank meanwhile, or lends its cpus,
  // and goes on where nothing ends: what is queued may wait for it. Throws Cancelled where the job ends first.
  void wait_for_room(Lock& lock);

  // The run on whose behalf this thread calls: the one that it executes, or that of the task which has started it.
  // nullptr: it is one of the driver's, or nobody knows. Requires the lock.
  worker::Run* callers_run();
  // Throws Cancelled if the job has ended, or ends.
  void require_open();
  bool is_over() const { return ending_.load(std::memory_order_relaxed) || (head_ && stopping()); }

  worker::Worker& worker() { return *worker_; }
  head::Head* head() { return head_.get(); }
  store::ObjectTable& objects() { return objects_; }
  store::Store& store() { return store_; }
  transport::Transport& transport() { return transport_; }
  const Settings& settings() const { return settings_; }
  static worker::Run* current_run();
  Context context() const;
  Duration time_left() const;
  // On the head: the job is to end by then, as by Head::drain.
  void drain(const std::string& why, Time until);
  bool draining() const { return drain_until_.load() != 0; }
  // On the head: for those who want to know how the job is.
  void look_at_head(const std::function<void(const head::Head&)>& look);
  // On a worker that was told to end: leaves the job in order, see on_left. If that has not come about by then,
  // on_grace_over is called.
  void leave(Time grace, Time until);
  // The last of that: all that was sent goes out.
  void say_left();
  // On the head, before the job ends: waits until later jobs can go on from what the actors have, at most for `grace`;
  // where the job is drained, until all that had begun has ended, or its time is over.
  void wait_saved(Time grace);
  std::uint32_t threads() const { return threads_; }
  std::uint32_t threads_most() const { return threads_most_; }
  bool stopping() const { return stopping_.load(std::memory_order_relaxed); }
  // Called by the pump when the process got a signal.
  std::function<void(int signal)> on_signal;
  // Called by the pump when the time of `drain` or `leave` is over; must not return.
  std::function<void()> on_grace_over;
  // Called by the pump when the job does without this rank; must not return.
  std::function<void()> on_left;
  std::function<void(const core::DropCommunicator&)> on_drop_communicator;
  // Called with the lock held when a member of a gang does not come back from MPI.
  std::function<void()> on_left_behind;
  // Called when the rank must end at once: without the head, since it was declared lost, or after an error that leaves
  // it in no known state. Must not return, and may be called with the lock held.
  std::function<void(const std::string& why)> on_must_end;
  // To be set before the threads start; none where the rank is alone.
  void set_watch(std::unique_ptr<Watch> watch) { watch_ = std::move(watch); }
  // Says that this rank lives. Without its lock, which a step that takes long may have.
  void beat() {
    if (watch_) watch_->beat(core::now());
  }
  // Where results of durable tasks are kept; none: they run as others.
  void set_journal(journal::Journal* journal) { journal_ = journal; }
  journal::Journal* journal() { return journal_; }
  // Where sandboxed tasks run; none: they fail.
  void set_nursery(nursery::Nursery* nursery) { nursery_ = nursery; }
  // Ranks were lost: MPI can't be ended in order.
  bool lost_any();
  void interrupt() { wire_.interrupt(); }

 private:
  class Lending;
  struct Returning;
  struct Thread {
    std::thread thread;
    bool ended = false;
    worker::Run* run = nullptr;     // that it executes, below all those that wait for each other on its stack
    std::vector<Lending*> helpers;  // waits of threads that the run's task has started
  };

  bool settle(Time now);
  bool make_step();
  bool spin();
  void damaged(detail::RankId from, const std::string& what);
  [[noreturn]] void cannot_go_on(const std::string& why);
  template <class F>
  void guard(F&& act);
  void dispatch(detail::RankId from, detail::ByteView frame);
  template <class M>
  void deliver(detail::RankId from, const M& message);
  void tell();
  void find_thread();
  void give_cpus_back();
  bool has_room_at_head() const;
  bool has_room_here() const;
  bool has_room_for_sent() const;
  bool next_may_be_sent() const;
  void tell_next_sender();
  void make_room(Lock& lock, worker::Run& run);
  void wait_for_sent(Lock& lock);
  [[noreturn]] void halt(Lock& lock);
  void slot_main(Thread& self, std::uint32_t number);
  void pump_main();
  void start_io();
  void io_main();
  void carry_out(Lock& lock, store::Store::Order& order);
  void spawn();
  void no_thread(const std::system_error& error);
  void look_at_stall(Time now);
  void look_at_places(Time now);
  void lend_what_stands_still(Time now);
  bool is_strange() const;
  void execute(Lock& lock, std::unique_ptr<worker::Run> run);
  void bind_to(const worker::Body& body, int slot, const core::Small<int, 2>& slots);
  void forget_helpers();
  Thread* callers_thread();
  void wait_for_job(Lock& lock, Condition met, Time deadline);
  void save_actor(worker::Run& run);
  void invoke(worker::Run& run);
  void invoke_sandboxed(worker::Run& run);
  nursery::Nursery::Task sandboxed(const worker::Run& run) const;
  void invoke_with_journal(worker::Run& run);
  void invoke_durable(worker::Run& run);
  void keep_state(const worker::LocalActor& actor, const detail::Encoder& state);
  void sleep(Lock& lock, Waiter& waiter, std::int64_t most_ns);
  void let_in() const;
  bool sleep_in_bell(Lock& lock, Waiter* waiter, std::int64_t most_ns);
  void pass_bell_on();

  Settings settings_;
  transport::Wire& wire_;
  transport::Transport transport_;
  store::Store store_;
  store::ObjectTable objects_;
  std::unique_ptr<worker::Worker> worker_;
  std::unique_ptr<head::Head> head_;
  std::unique_ptr<Watch> watch_;
  nursery::Nursery* nursery_ = nullptr;
  journal::Journal* journal_ = nullptr;
  transport::Wire::OnFrame on_frame_;

  std::mutex mutex_;
  std::atomic<int> contenders_{0};
  Yields yields_;
  // All below is guarded by mutex_.
  WaitList waiting_;    // all threads that wait
  WaitList sleepers_;   // of them, those that sleep on bells of their own
  WaitList resting_;    // idle threads that sleep
  WaitList lending_;    // threads of runs
  WaitList returning_;  // those that want their cpus back, in turn
  WaitList for_space_;  // in the store
  WaitList for_head_;   // for room at the head, in turn
  WaitList for_end_;    // of some task of this rank, in turn
  WaitList for_sent_;   // of some task that this rank has sent to the head, in turn
  WaitList for_job_;    // for the state of the job as a whole: the driver's thread
  std::uint64_t space_seen_ = 0;
  std::uint64_t ends_used_ = 0;                        // of tasks sent to the head, by those who waited for one
  std::unordered_map<std::uint64_t, Waiter*> asking_;  // by token
  bool bell_taken_ = false;
  Time last_step_ = 0;
  Time last_tick_ = 0;
  Time last_activity_ = 0;            // something was handled
  std::uint32_t since_step_ = 0;      // tasks submitted since
  std::uint32_t wait_for_space_ = 0;  // threads that wait for room in the store
  std::uint64_t rooms_given_ = 0;     // to such
  std::list<Thread> slots_;
  std::unordered_map<std::uint32_t, Thread*> by_number_;
  std::string driver_;           // the name of the thread that runs it, and of those that it starts
  std::uint32_t strangers_ = 0;  // threads that wait, and nobody knows for which run
  std::uint32_t last_number_ = 0;
  std::uint32_t threads_ = 0;
  std::uint32_t threads_most_ = 0;
  std::uint32_t idle_ = 0;
  // Since when the system has given no thread that was needed, 0: it does; why; and when it is asked again.
  Time no_thread_since_ = 0;
  std::string why_no_thread_;
  Time ask_for_thread_at_ = 0;
  Time looked_at_places_ = 0;
  Time started_ = 0;
  int stop_code_ = 0;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> ending_{false};  // the threads are to end
  std::atomic<Time> drain_until_{0};
  bool dismissed_ = false;
  std::string broken_;               // why this rank can't go on; empty: it can
  std::atomic<bool> halted_{false};  // they are to stop where they are: the process ends
  std::thread pump_;
  // Carries out the store's orders: started with the first one.
  std::thread io_;
  std::condition_variable_any io_changed_;
  std::deque<store::Store::Order> orders_;
  Scratch scratch_;  // of the I/O thread
};

// The signal that asked this process to end, or 0.
extern std::atomic<int> g_signal;

}  // namespace mobula::exec
