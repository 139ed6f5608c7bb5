// The loop that feeds one rank's reactors: threads, waiting, and the clock. One lock guards the reactors, the objects
// and the transport; whoever waits moves them on, so that the common round trip has no hand-over between threads.
//
// Waiting goes from polling to yielding to sleeping. Of the sleeping threads one sleeps on the rank's doorbell, which
// other ranks of the node ring, the rest on condition variables; whoever makes a step wakes those whose wish it met. A
// pump thread steps while all others are busy in user code, so that messages are answered then too. An I/O thread
// carries out the store's orders, which take long.
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
  double time_limit_s = 0;
  std::chrono::milliseconds stop_grace{500};
};

// Of this thread: the program's, which stays in core dumps and where threads are listed, and its part in it.
void name_thread(const char* part);

class Engine {
 public:
  static constexpr std::uint32_t kMaxThreads = 1024;  // that run tasks; more of them would only wait

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
  // Waits until `met`, which is called under the lock; false if the deadline passes first. Requires the lock.
  bool wait(Lock& lock, const std::function<bool()>& met, Time deadline);
  static constexpr Time kNever = std::numeric_limits<Time>::max();

  // Waits until a value is here or has failed; `value` keeps one of the store. Runs the task itself if it is queued on
  // this rank.
  bool wait_for(Lock& lock, const detail::Handle& handle, Time deadline, store::ValuePtr& value);
  // The same for anything else that a task may wait for: its slot is lent meanwhile.
  bool wait_lending(Lock& lock, const std::function<bool()>& met, Time deadline);
  // After something was submitted: moves on if someone is hungry or much has gathered. Requires the lock.
  void submitted(Lock& lock, std::uint32_t tasks);

  // Room in the store for n bytes. Waits while room is being made; throws StoreFull. Called without the lock.
  detail::Buffer room(std::size_t n);

  // Waits while more is queued at the head than is good for its memory.
  void wait_for_room(Lock& lock);

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
  std::function<void(std::uint64_t communicator)> on_drop_communicator;
  // Called by the pump when the rank must end at once: without the head, or since it was declared lost. Must not
  // return.
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
  struct Waiter {
    const std::function<bool()>* met;
    std::condition_variable_any changed;
    bool in_bell = false;  // sleeps on the doorbell
    bool woken = false;
  };
  struct Thread {
    std::thread thread;
    bool ended = false;
  };

  bool settle(Time now);
  bool spin();
  void dispatch(detail::RankId from, detail::ByteView frame);
  template <class M>
  void deliver(detail::RankId from, const M& message);
  void wake();
  void slot_main(Thread& self);
  void pump_main();
  void io_main();
  void carry_out(Lock& lock, store::Store::Order& order);
  void spawn();
  void execute(Lock& lock, std::unique_ptr<worker::Run> run);
  void bind_to(const worker::Run& run);
  void save_actor(worker::Run& run);
  void invoke(worker::Run& run);
  void invoke_sandboxed(worker::Run& run);
  nursery::Nursery::Task sandboxed(const worker::Run& run) const;
  void invoke_with_journal(worker::Run& run);
  void invoke_durable(worker::Run& run);
  void keep_state(const worker::LocalActor& actor, const detail::Encoder& state);
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
  std::list<Waiter*> waiters_;
  bool bell_taken_ = false;
  Time last_step_ = 0;
  Time last_tick_ = 0;
  Time last_activity_ = 0;            // something was handled
  std::uint32_t since_step_ = 0;      // tasks submitted since
  std::uint32_t wait_for_space_ = 0;  // threads that wait for room in the store
  std::uint64_t rooms_given_ = 0;     // to such
  std::list<Thread> slots_;
  std::uint32_t threads_ = 0;
  std::uint32_t threads_most_ = 0;
  std::uint32_t idle_ = 0;
  Time started_ = 0;
  int stop_code_ = 0;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> ending_{false};  // the threads are to end
  std::atomic<Time> drain_until_{0};
  bool dismissed_ = false;
  bool over_ = false;  // they have: what actors' destructors would wait for does not come
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
