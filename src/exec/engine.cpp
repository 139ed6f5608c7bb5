#include "exec/engine.hpp"

#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <system_error>

#include "core/functions.hpp"
#include "core/log.hpp"
#include "topology/topology.hpp"

namespace mobula::exec {

using detail::kHeadRank;

std::atomic<int> g_signal{0};

extern "C" {
// Of whichever OpenMP library the program has, if it has one.
[[gnu::weak]] void omp_set_num_threads(int threads);
[[gnu::weak]] int omp_pause_resource_all(int kind);
}

namespace {

constexpr Time kFlushAfter = 20'000;    // ns that results may wait for company
constexpr Time kPumpAfter = 500'000;    // ns without a step after which the pump makes one
constexpr Time kPumpBusy = 1'000'000;   // its pace while the rank computes
constexpr Time kPumpIdle = 10'000'000;  // its pace while somebody else polls
constexpr Time kPollOften = 50'000;     // ns between polls of a sleeper to whom something may come unheard
constexpr Time kTickEvery = 500'000;
constexpr Time kSpareIdle = 1'000'000'000;    // ns after which a thread beyond the slots ends
constexpr Time kStill = 1'000'000;            // ns after which a thread whose cpu clock stands is taken for blocked
constexpr std::uint32_t kManyThreads = 1024;  // beyond which that takes the longer, the more there are
constexpr Time kStrange = 100'000'000;        // the same while threads wait of which nobody knows whose they are
constexpr Time kThreadAgain = 20'000'000;     // ns after which the system is asked again for a thread
constexpr Time kNoThread = 1'000'000'000;     // ns of standing still for want of one after which a wait is refused
constexpr std::uint32_t kSubmitsPerStep = 64;
constexpr Time kLetIn = 20'000;   // ns that a thread which polls leaves the lock to those that wait for it
constexpr Time kGather = 10'000;  // ns that submissions gather while workers are hungry

thread_local worker::Run* t_run = nullptr;
thread_local std::uint32_t t_number = 0;  // of one of the rank's own threads, that run tasks
thread_local const int t_thread = static_cast<int>(gettid());
constexpr int kUnbound = -2;  // or to some set of slots
thread_local int t_bound_slot = kUnbound;
thread_local int t_openmp_threads = 0;  // unknown

// Code that uses OpenMP takes as many threads as the task has cores. Those that it has kept from the task before have
// the mask of that one.
void give_to_openmp(int cpus, bool moved) {
  if (moved && t_openmp_threads > 1 && omp_pause_resource_all != nullptr) omp_pause_resource_all(1);
  if (cpus == t_openmp_threads) return;
  omp_set_num_threads(cpus);
  t_openmp_threads = cpus;
}

// The kernel's, which costs only those who call it.
std::function<bool()> fence() {
  const bool can = syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
  return [can] { return can && syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0; };
}

constexpr std::size_t kNameMost = 15;  // characters of a thread's name

std::string own_name() {
  std::array<char, kNameMost + 1> name{};
  pthread_getname_np(pthread_self(), name.data(), name.size());
  return name.data();
}

// The number of the slot thread from which this one has its name, as the system gives a thread that of its creator; 0:
// none.
std::uint32_t number_by_name() {
  const std::string text = own_name();
  const std::size_t mark = text.rfind(":s");
  std::uint32_t number = 0;
  if (mark == std::string::npos || mark + 2 == text.size()) return 0;
  for (const char c : text.substr(mark + 2)) {
    if (c < '0' || c > '9') return 0;
    number = number * 10 + static_cast<std::uint32_t>(c - '0');
  }
  return number;
}

clockid_t own_clock() {
  clockid_t clock = CLOCK_THREAD_CPUTIME_ID;
  pthread_getcpuclockid(pthread_self(), &clock);
  return clock;
}

// More than half of this thread's stack is left: enough for another task on top of what is there.
bool has_stack() {
  struct Bounds {
    const std::byte* lowest = nullptr;
    std::size_t size = 0;
  };
  thread_local const Bounds bounds = [] {
    Bounds own;
    pthread_attr_t attributes;
    if (pthread_getattr_np(pthread_self(), &attributes) != 0) return own;
    void* lowest = nullptr;
    if (pthread_attr_getstack(&attributes, &lowest, &own.size) == 0) own.lowest = static_cast<std::byte*>(lowest);
    pthread_attr_destroy(&attributes);
    return own;
  }();
  const auto* const here = static_cast<const std::byte*>(__builtin_frame_address(0));
  return bounds.lowest == nullptr || static_cast<std::size_t>(here - bounds.lowest) > bounds.size / 2;
}

// Whether the system has the thread wait for a processor, or run: its clock may stand for want of one.
bool wants_processor(int thread) {
  std::array<char, 512> text{};
  std::FILE* const file = std::fopen(("/proc/self/task/" + std::to_string(thread) + "/stat").c_str(), "re");
  if (file == nullptr) return false;
  const std::size_t n = std::fread(text.data(), 1, text.size() - 1, file);
  std::fclose(file);
  const std::string_view stat(text.data(), n);
  const std::size_t name_end = stat.rfind(')');
  return name_end != std::string_view::npos && name_end + 2 < stat.size() && stat[name_end + 2] == 'R';
}

// Whether the run's thread has done nothing for so long. To be asked again and again.
bool stands_still(worker::Run& run, Time now, Time patience) {
  timespec worked{};
  if (clock_gettime(run.clock, &worked) != 0) return false;
  const Time total = worked.tv_sec * 1'000'000'000 + worked.tv_nsec;
  if (run.worked != total) {
    run.worked = total;
    run.still_since = now;
    return false;
  }
  if (now - run.still_since < patience) return false;
  if (!wants_processor(run.thread)) return true;
  run.still_since = now + 4 * patience;  // the machine is busy, and looking is not free
  return false;
}

// For a member of a gang on a rank where another one was left behind in MPI, which drives progress there for all. Whom
// that one wakes spins inside Open MPI until its waker has gone on. So it must not take the core from the waker, as
// one that is woken does: both would stand until its turn is over, for milliseconds at each message. A SCHED_BATCH
// thread waits until the core is given away.
void let_waker_go_on(int thread) {
  const sched_param none{};
  if (sched_getscheduler(thread) == SCHED_OTHER) sched_setscheduler(thread, SCHED_BATCH, &none);
}

}  // namespace

void name_thread(const std::string& part) {
  const std::string name =
      std::string(program_invocation_short_name).substr(0, kNameMost - 1 - part.size()) + ":" + part;
  pthread_setname_np(pthread_self(), name.c_str());
}

Engine::Engine(transport::Wire& wire, Settings settings, const head::Settings* head_settings)
    : settings_(std::move(settings)),
      wire_(wire),
      transport_(wire),
      store_(settings_.store),
      objects_(wire.rank(), store_),
      scratch_(settings_.scratch) {
  settings_.worker.fence = fence();
  settings_.worker.give_way_inside = [this] {
    wire_.give_way_inside();
    for (const worker::Run* run : worker_->runs()) {
      if (run->is_member()) let_waker_go_on(run->thread);
    }
    if (on_left_behind) on_left_behind();
  };
  worker_ = std::make_unique<worker::Worker>(transport_, objects_, settings_.worker);
  if (head_settings != nullptr) head_ = std::make_unique<head::Head>(transport_, objects_, *head_settings);
  on_frame_ = [this](detail::RankId from, detail::ByteView frame) { dispatch(from, frame); };
  transport_.set_on_damage([this](detail::RankId from, const std::string& what) { damaged(from, what); });
  started_ = core::now();
}

Engine::~Engine() { stop_threads(); }

worker::Run* Engine::current_run() { return t_run; }

worker::Run* Engine::callers_run() {
  if (t_run != nullptr) return t_run;
  const Thread* const thread = callers_thread();
  return thread != nullptr ? thread->run : nullptr;
}

// The one that executes the run of the task which has started this thread.
Engine::Thread* Engine::callers_thread() {
  thread_local const std::uint32_t number = number_by_name();
  if (number == 0) return nullptr;
  const auto thread = by_number_.find(number);
  return thread != by_number_.end() ? thread->second : nullptr;
}

void Engine::require_open() {
  const bool closes = head_ && stopping_.load(std::memory_order_relaxed);
  if (!closes && !ending_.load(std::memory_order_relaxed)) return;
  if (halted_.load(std::memory_order_relaxed)) {
    Lock lock(*this);
    halt(lock);
  }
  throw Cancelled("mobula: the job has ended");
}

// This thread is none of the runtime's, of a task's or of the driver's, as far as its name tells.
bool Engine::is_strange() const {
  thread_local const std::string name = own_name();
  thread_local const bool is_numbered = number_by_name() != 0;
  return !is_numbered && name != driver_;
}

// The process ends, and this thread is not to be unwound.
void Engine::halt(Lock& lock) {
  lock.unlock();
  while (true) pause();
}

// ---- messages ----------------------------------------------------------------------------------------------------

template <class M>
void Engine::deliver(detail::RankId from, const M& message) {
  if constexpr (requires(head::Head & head) { head.handle(from, message); }) {
    if (!head_) detail::throw_damaged("a message for the head came to another rank");
    head_->handle(from, message);
  } else if constexpr (std::is_same_v<M, core::Stop>) {
    stop_code_ = message.code;
    if (!message.reason.empty() && message.code != 0) core::log_info("stopping: " + message.reason);
    stopping_.store(true, std::memory_order_relaxed);
  } else if constexpr (std::is_same_v<M, core::DropCommunicator>) {
    if (on_drop_communicator) on_drop_communicator(message);
  } else if constexpr (std::is_same_v<M, core::Dismiss>) {
    dismissed_ = true;
  } else if constexpr (std::is_same_v<M, core::PulseBack>) {
    if (watch_) watch_->head_answered(core::now());
  } else {
    if constexpr (std::is_same_v<M, core::RankLost>) {
      if (watch_) watch_->declared_lost(message.rank);
    }
    worker_->handle(from, message);
    if constexpr (std::is_same_v<M, core::Answer>) {
      if (const auto waiter = asking_.find(message.token); waiter != asking_.end()) waiter->second->signal();
    }
  }
}

// A rank that sends what is damaged is lost, by name: nobody knows what else it does. Without the head there is no job.
void Engine::damaged(detail::RankId from, const std::string& what) {
  const std::string sent = "it sent a damaged message to rank " + std::to_string(wire_.rank()) + ": " + what;
  if (from == kHeadRank) cannot_go_on("the head is lost: " + sent);
  if (head_) {
    head_->worker_lost(from, sent);
    return;
  }
  core::log_warn("rank " + std::to_string(from) + " is taken for lost: " + sent);
  transport_.abandon(from);
  core::Pulse pulse;
  pulse.ended.push_back({from, sent, false, {}});
  transport_.send(kHeadRank, pulse);
}

// Ends the process where it can. Otherwise all who wait, now or later, are told.
void Engine::cannot_go_on(const std::string& why) {
  if (on_must_end) on_must_end(why);
  if (broken_.empty()) broken_ = "mobula: this rank can't go on: " + why;
  waiting_.signal_all();
  throw Error(broken_);
}

// What is thrown in a thread of the runtime's own ends there. Whoever calls the runtime from others is told himself.
template <class F>
void Engine::guard(F&& act) {
  try {
    act();
  } catch (const std::exception& error) {
    Lock lock(*this);
    try {
      cannot_go_on(error.what());
    } catch (const Error&) {  // who waits is told
    }
  }
}

void Engine::dispatch(detail::RankId from, detail::ByteView frame) {
  core::read_frame(frame, [this, from](const auto& message) { deliver(from, message); });
}

// Handles what this rank has for itself, and sends what came of it.
bool Engine::settle(Time now) {
  bool happened = false;
  worker_->flush(now);
  for (int round = 0; round < 8 && transport_.has_own(); ++round) {
    transport_.poll_own(on_frame_);
    if (head_) head_->step(now);
    worker_->flush(now);
    happened = true;
  }
  transport_.flush();
  if (store_.has_orders()) {
    for (store::Store::Order& order : store_.take_orders()) orders_.push_back(std::move(order));
    if (!io_.joinable() && !ending_.load()) start_io();
    io_changed_.notify_one();
  }
  return happened;
}

bool Engine::step() {
  if (!broken_.empty()) throw Error(broken_);
  try {
    return make_step();
  } catch (const std::exception& error) {
    cannot_go_on(error.what());
  }
}

bool Engine::make_step() {
  // Once the threads are to end, MPI may be gone at any moment: a late thread must not touch it.
  if (ending_.load(std::memory_order_relaxed)) return false;
  const Time now = core::now();
  last_step_ = now;
  since_step_ = 0;
  // What waits to go out goes before what may have come is looked for.
  bool happened = settle(now);
  if (transport_.poll_wire(on_frame_)) {
    if (head_) head_->step(now);
    settle(now);
    happened = true;
  }
  if (now - last_tick_ > kTickEvery) {
    last_tick_ = now;
    if (watch_) {
      if (auto pulse = watch_->look(now)) transport_.send(kHeadRank, *pulse);
    }
    worker_->tick(now);
    if (head_) {
      if (const Duration left = time_left(); !left.is_none()) {
        head_->set_time_left(static_cast<double>(left.nanoseconds) / 1e9);
      }
      head_->step(now);
      if (const auto text = head_->complaint(now)) core::log_warn(*text);
    }
    if (worker_->queues_for_place()) look_at_places(now);
    if (no_thread_since_ != 0) look_at_stall(now);
    if (strangers_ != 0 && worker_->queued_tasks() != 0) lend_what_stands_still(now);
    settle(now);
    tell();
  }
  if (happened) {
    last_activity_ = now;
    tell();
  }
  return happened;
}

// Polls a few times at full speed. True if anything happened, which has then been dealt with as by `step`.
bool Engine::spin() try {
  if (ending_.load(std::memory_order_relaxed)) return false;
  constexpr int kPolls = 16;
  for (int i = 0; i < kPolls; ++i) {
    if (transport_.poll_wire(on_frame_)) {
      const Time now = core::now();
      last_step_ = last_activity_ = now;
      if (head_) head_->step(now);
      settle(now);
      tell();
      return true;
    }
    if (contenders_.load(std::memory_order_relaxed) != 0) return false;
    __builtin_ia32_pause();
  }
  return false;
} catch (const std::exception& error) {
  cannot_go_on(error.what());
}

void Engine::submitted(Lock&, std::uint32_t tasks) {
  since_step_ += tasks;
  // Tasks submitted in quick succession gather, even where workers wait: each step costs more than a short task.
  if (since_step_ >= kSubmitsPerStep || (head_ && head_->hungry() && core::now() - last_step_ > kGather)) step();
}

bool Engine::has_room_at_head() const {
  constexpr std::size_t kMostBacklog = 64 << 20;  // what is under way must shrink before more comes
  return (!head_ || (head_->unfinished() < settings_.most_tasks && head_->queued_bytes() < settings_.most_bytes)) &&
         worker_->calls_pending() < settings_.most_tasks && transport_.backlog() <= kMostBacklog;
}

bool Engine::has_room_here() const {
  return worker_->queued_tasks() < settings_.most_tasks && worker_->kept_bytes() < settings_.most_bytes &&
         worker_->calls_pending() < settings_.most_tasks;
}

bool Engine::has_room_for_sent() const {
  return worker_->sent().tasks() < settings_.most_tasks && worker_->sent().bytes() < settings_.most_bytes;
}

// One of those that wait may go on: there is room, or one of what was sent has ended since the last of them did.
bool Engine::next_may_be_sent() const { return has_room_for_sent() || worker_->sent().ends() != ends_used_; }

void Engine::tell_next_sender() {
  if (!for_sent_.empty() && next_may_be_sent()) for_sent_.front().waiter().signal();
}

void Engine::wait_for_room(Lock& lock) {
  if (worker::Run* const run = callers_run()) {
    if (!has_room_here()) make_room(lock, *run);
    if (worker_->has_sent_last() && !has_room_for_sent()) wait_for_sent(lock);
    return;
  }
  if (!head_ && worker_->has_sent_last() && !has_room_for_sent())
    wait_for_sent(lock);  // of a task, perhaps, of which nobody knows
  if (has_room_at_head()) return;
  const auto room = [this] { return has_room_at_head() || stopping(); };
  {
    Waiter waiter;
    Place place(waiter);
    for_head_.push_back(place);
    wait(lock, waiter, room, kNever);
  }
  if (ending_.load()) throw Cancelled("mobula: the job ended while a submission waited for room");
  if (!for_head_.empty() && room()) for_head_.front().waiter().signal();
}

// One task ends for each that is submitted.
void Engine::make_room(Lock& lock, worker::Run& run) {
  constexpr Time kPatience = 1'000'000;  // ns in which nothing ends
  if (has_stack()) {
    if (auto other = worker_->claim_any(run, core::now(), &run == t_run)) {
      execute(lock, std::move(other));
      return;
    }
  }
  Waiter waiter;
  Place place(waiter);
  for_end_.push_back(place);
  const std::uint64_t ended = worker_->tasks_run();
  wait_lending(
      lock, waiter, [&] { return has_room_here() || worker_->tasks_run() != ended; }, core::now() + kPatience);
}

// One goes on when some task has ended. Where none does, since all wait perhaps for what this one holds, it goes on all
// the same, the later, the more is sent already: so the excess grows ever more slowly.
void Engine::wait_for_sent(Lock& lock) {
  constexpr double kPatience = 1e6;  // ns in which nothing ends
  constexpr double kTwice = 100e6;   // the same where twice as much is sent as there should be
  const double tasks = static_cast<double>(worker_->sent().tasks()) / static_cast<double>(settings_.most_tasks);
  const double bytes = static_cast<double>(worker_->sent().bytes()) / static_cast<double>(settings_.most_bytes);
  const auto patience = static_cast<Time>(kPatience + kTwice * (std::max({tasks, bytes, 1.0}) - 1));
  bool goes_on = false;
  {
    Waiter waiter;
    Place place(waiter);
    for_sent_.push_back(place);
    const auto met = [&] {
      if (!goes_on && next_may_be_sent()) {
        goes_on = true;
        ends_used_ = worker_->sent().ends();
        place.leave();  // others are next, while this one waits for its cpus
        tell_next_sender();
      }
      return goes_on;
    };
    wait_lending(lock, waiter, met, core::now() + patience);
  }
  tell_next_sender();
}

// ---- waiting -----------------------------------------------------------------------------------------------------

// Signals those whom concerns what has happened, and sees to it that there is a thread for what can run.
void Engine::tell() {
  give_cpus_back();
  if (!for_space_.empty() && std::exchange(space_seen_, store_.changes()) != store_.changes()) for_space_.signal_all();
  if (!for_head_.empty() && (has_room_at_head() || stopping())) for_head_.front().waiter().signal();
  if (!for_end_.empty()) for_end_.front().waiter().signal();
  tell_next_sender();
  for_job_.signal_all();
  find_thread();
}

// Leaves others the time to take the lock. Requires that this thread does not have it.
void Engine::let_in() const {
  const Time until = core::now() + kLetIn;
  while (contenders_.load(std::memory_order_relaxed) != 0 && core::now() < until) __builtin_ia32_pause();
}

// One thread at a time is called: it calls the next if there is more.
void Engine::find_thread() {
  if (idle_ > resting_.size() || settings_.worker.slots == 0 || !worker_->has_runnable()) return;
  if (!resting_.empty()) {
    resting_.back().waiter().signal();  // it slept last: what it needs is in the caches
  } else {
    spawn();
  }
}

// Sleeps until signalled, or something may have come. Spurious returns are allowed.
void Engine::sleep(Lock& lock, Waiter& waiter, std::int64_t most_ns) {
  if (sleep_in_bell(lock, &waiter, most_ns)) return;
  waiter.bell_.arm();
  sleepers_.push_back(waiter.sleeps_);
  lock.unlock();
  waiter.bell_.sleep(most_ns);
  lock.lock();
  waiter.sleeps_.leave();
}

// One thread at a time; false if another sleeps there.
bool Engine::sleep_in_bell(Lock& lock, Waiter* waiter, std::int64_t most_ns) {
  if (bell_taken_) return false;
  if (ending_.load(std::memory_order_relaxed)) return true;
  // Also where a step throws.
  struct Taken {
    explicit Taken(Engine& engine, Waiter* waiter) : engine(engine), waiter(waiter) {
      engine.bell_taken_ = true;
      if (waiter != nullptr) waiter->wire_ = &engine.wire_;
    }
    ~Taken() {
      if (!engine.ending_.load(std::memory_order_relaxed)) engine.wire_.disarm();
      engine.bell_taken_ = false;
      if (waiter != nullptr) waiter->wire_ = nullptr;
    }
    Engine& engine;
    Waiter* waiter;
  };
  const Taken taken(*this, waiter);
  wire_.arm();
  // What came before the bell was armed did not ring it.
  const bool happened = step();
  const bool signalled = waiter != nullptr && waiter->signalled_;
  if (!happened && !signalled && !ending_.load()) {
    // What is under way moves only while we poll, and messages of other nodes don't ring: those are looked for the less
    // often, the longer all has been quiet.
    const Time quiet = core::now() - last_activity_;
    const std::int64_t unheard = wire_.hears_all() ? 100'000'000 : std::clamp<Time>(quiet / 16, kPollOften, kPumpIdle);
    const std::int64_t most = transport_.busy() ? kPollOften : unheard;
    lock.unlock();
    wire_.sleep(std::min(most, most_ns));
    lock.lock();
  }
  return true;
}

// Nobody may be left to hear the bell: another sleeper takes it over.
void Engine::pass_bell_on() {
  if (!bell_taken_ && !sleepers_.empty()) sleepers_.front().waiter().signal();
}

bool Engine::wait(Lock& lock, Waiter& waiter, Condition met, Time deadline) {
  constexpr Time kLong = 3'600'000'000'000;
  if (met()) return true;
  struct Slept {
    ~Slept() {
      if (yes) engine.pass_bell_on();
    }
    Engine& engine;
    bool yes = false;
  } slept{*this};
  struct Stays {
    Stays(WaitList& all, Place& place) : place(place) { all.push_back(place); }
    ~Stays() { place.leave(); }
    Place& place;
  };
  const Stays stays(waiting_, waiter.stays_);
  Time quiet_since = core::now();
  while (true) {
    waiter.signalled_ = false;
    const bool happened = step();
    if (met()) return true;
    if (!waiter.refused_.empty()) throw Error(std::exchange(waiter.refused_, {}));
    if (halted_.load(std::memory_order_relaxed)) halt(lock);
    if (ending_.load(std::memory_order_relaxed)) return false;
    const Time now = core::now();
    if (now >= deadline) return false;
    if (happened) quiet_since = now;
    const Time quiet = now - quiet_since;
    const bool yields = yields_.are_cheap(now);
    if (quiet < settings_.spin_ns + (yields ? settings_.yield_ns : 0)) {
      if (quiet < settings_.spin_ns && contenders_.load(std::memory_order_relaxed) == 0) {
        if (spin() && met()) return true;
        lock.unlock();
      } else if (yields) {
        lock.unlock();
        yields_.yield();
      } else {
        lock.unlock();
        let_in();
      }
      lock.lock();
      if (met()) return true;
      continue;
    }
    if (!std::exchange(waiter.listens_, true)) {
      waiter.listen();
      if (met()) return true;
    }
    // Woken for news that was not for this thread, or by a bell, it looks around, but does not start to spin anew.
    if (waiter.signalled_) continue;
    slept.yes = true;
    const bool rests = waiter.rests_in_ != nullptr;
    if (rests) waiter.rests_in_->push_back(waiter.rests_);
    sleep(lock, waiter, deadline == kNever ? kLong : deadline - now);
    if (rests) waiter.rests_.leave();
    if (met()) return true;
  }
}

// While it lives, the run on whose behalf this thread waits counts as waiting, and lends its cpus.
class Engine::Lending {
 public:
  Lending(Engine& engine, Waiter& waiter) : engine_(engine), waits_(waiter), run_(engine.callers_run()) {
    if (run_ == nullptr) {
      is_strange_ = engine_.is_strange();
      engine_.strangers_ += is_strange_ ? 1 : 0;
      return;
    }
    executes_ = run_ == t_run;
    engine_.lending_.push_back(waits_);
    if (!executes_) {
      thread_ = engine_.callers_thread();
      thread_->helpers.push_back(this);
    }
    core::trace(core::Event::blocked, core::now(), run_->range.span, run_->task.next, run_->range.end, 0);
    engine_.worker_->lend(*run_, executes_);
    engine_.tell();
  }
  ~Lending() {
    if (is_strange_) --engine_.strangers_;
    if (run_ != nullptr) return_now();
  }
  Lending(const Lending&) = delete;
  Lending& operator=(const Lending&) = delete;

  // Has the cpus back. The thread that executes the run waits for its turn, unless it is late; others go on at once,
  // since the run may go on without them as well.
  void return_cpus(Lock& lock, Waiter& waiter, bool is_late);
  // The run has ended without this thread.
  void run_ended() {
    run_ = nullptr;
    waits_.leave();
  }

 private:
  void return_now() {
    engine_.worker_->resume(*run_, true);
    returned();
  }
  void returned() {
    core::trace(core::Event::resumed, core::now(), run_->range.span, run_->task.next, run_->range.end, 0);
    if (thread_ != nullptr) std::erase(thread_->helpers, this);
    waits_.leave();
    run_ = nullptr;
  }

  Engine& engine_;
  Place waits_;
  worker::Run* run_;
  bool executes_ = false;
  bool is_strange_ = false;
  Thread* thread_ = nullptr;
};

// A run that wants its cpus back, and its turn.
struct Engine::Returning : Place {
  Returning(Waiter& waiter, Engine& engine, worker::Run& run) : Place(waiter), engine(engine), run(run) {
    engine.returning_.push_back(*this);
    engine.worker_->want_resume(1);
  }
  ~Returning() { engine.worker_->want_resume(-1); }
  Returning(const Returning&) = delete;
  Returning& operator=(const Returning&) = delete;
  Engine& engine;
  worker::Run& run;
  bool done = false;
};

void Engine::Lending::return_cpus(Lock& lock, Waiter& waiter, bool is_late) {
  if (run_ == nullptr) return;
  const worker::Run& holder = run_->lender != nullptr ? *run_->lender : *run_;
  const bool has_turn = !holder.lends || holder.is_member() || engine_.returning_.empty();
  if (!executes_ || is_late) {
    engine_.worker_->resume(*run_, true);
  } else if (!has_turn || !engine_.worker_->resume(*run_)) {
    Returning turn(waiter, engine_, *run_);
    engine_.wait(
        lock, waiter, [&turn] { return turn.done; }, kNever);
    if (!turn.done) return;  // the job ends: as they come
    turn.leave();
  }
  returned();
  engine_.find_thread();
}

void Engine::give_cpus_back() {
  while (!returning_.empty()) {
    auto& first = static_cast<Returning&>(returning_.front());
    if (!worker_->resume(first.run)) return;
    first.done = true;
    first.leave();
    first.waiter().signal();
  }
}

bool Engine::wait_lending(Lock& lock, Waiter& waiter, Condition met, Time deadline, Condition is_late) {
  if (met()) return true;
  Lending lending(*this, waiter);
  const bool result = wait(lock, waiter, met, deadline);
  lending.return_cpus(lock, waiter, !result || is_late());
  if (!result && ending_.load() && !met()) throw Cancelled("mobula: the job ended while this was waited for");
  return result;
}

bool Engine::wait_for(Lock& lock, const detail::Handle& handle, Time deadline, store::ValuePtr& value) {
  detail::Record& record = *handle.record();
  const std::uint32_t index = handle.index();
  const auto here = [&] {
    if (!record.ready(index)) return false;
    const store::Slot* slot = record.slot(index);
    if (slot == nullptr || slot->kind != store::Slot::Kind::large) return true;
    if (value == nullptr) value = store_.find(handle.id());  // kept, so that it is not moved out before it is read
    return value != nullptr;
  };
  if (here()) return true;
  // Nobody runs another's task on his own stack past the time that he has himself, or where there is not enough of it.
  if (deadline == kNever && has_stack()) {
    if (worker::Run* const run = callers_run()) {
      if (auto child = worker_->claim(handle, *run, core::now(), run == t_run)) {
        execute(lock, std::move(child));
        if (here()) return true;
      }
    }
  }
  // Told of the value, it looks at once, before that may be moved out again.
  struct Awaits final : Waiter {
    Awaits(Condition here, detail::Record& record, std::uint32_t index) : here(here), watch(record, index, *this) {}
    void ready(std::size_t) override {
      told = true;
      here();
      signal();
    }
    void listen() override {
      listens = true;
      told = true;
    }
    Condition here;
    store::Watch watch;
    bool listens = false;
    bool told = true;
    bool was_ready = false;
  } waiter(here, record, index);
  worker::Run* const run = t_run;
  const auto met = [&] {
    if (here()) return true;
    if (run != nullptr && run->deadlock != nullptr) return true;
    // While it only looks, a value that is ready elsewhere now is news.
    const bool is_news = !waiter.listens && std::exchange(waiter.was_ready, record.ready(index)) != record.ready(index);
    if (std::exchange(waiter.told, false) || is_news) {
      if (waiter.listens) waiter.watch.again();
      worker_->request(handle);  // large values stay where they are until somebody here wants them
    }
    return here();
  };
  struct Tells {
    Tells(worker::Run* run, detail::ObjectId id, Waiter& waiter) : run(run) {
      if (run == nullptr) return;
      run->awaits = id;
      run->awaits_since = core::now();
      run->told = &waiter;
    }
    ~Tells() {
      if (run == nullptr) return;
      run->awaits = {};
      run->told = nullptr;
    }
    worker::Run* run;
  };
  bool result = false;
  {
    // One that ends by itself is no part of a circle.
    const Tells tells(deadline == kNever ? run : nullptr, handle.id(), waiter);
    result = wait_lending(lock, waiter, met, deadline, [&] { return store::ObjectTable::timed_out(record, index); });
  }
  if (run != nullptr) {
    if (const core::ErrorPtr error = std::exchange(run->deadlock, nullptr); error != nullptr && !here()) {
      core::raise(*error);
    }
  }
  return result;
}

void Engine::wait_for_each(Lock& lock, const detail::BatchHandle& batch) {
  for (std::uint32_t i = 0; i < batch.count(); ++i) {
    store::ValuePtr value;
    if (!batch.record()->ready(i)) wait_for(lock, batch.element(i), kNever, value);
  }
}

core::Answer Engine::ask(core::Question question, detail::ObjectId id, core::WireOptions options) {
  Lock lock(*this);
  const std::uint64_t token = worker_->ask(question, id, std::move(options), callers_run() != nullptr);
  std::optional<core::Answer> answer;
  Waiter waiter;
  struct Asks {
    ~Asks() { asking.erase(token); }
    std::unordered_map<std::uint64_t, Waiter*>& asking;
    std::uint64_t token;
  };
  asking_.emplace(token, &waiter);
  const Asks asks{asking_, token};
  wait_lending(
      lock, waiter, [&] { return answer || (answer = worker_->take_answer(token)); }, kNever);
  return std::move(*answer);
}

detail::Buffer Engine::room(std::size_t n) {
  constexpr Time kPatience = 10'000'000'000;  // ns in which nobody gets on, while others use what fills the store
  constexpr Time kGrace = 200'000'000;        // the same while nobody does: what was dropped may be on its way
  constexpr Time kLook = 1'000'000;
  constexpr Time kFirst = 100'000'000;  // ns for which no other task begins here
  Lock lock(*this);
  if (objects_.has_drops()) step();  // what was let go of is used again, while it is warm
  // Queued tasks have their inputs back when nobody waits for room any more.
  struct Waits {
    explicit Waits(Engine& engine) : engine(engine) { ++engine.wait_for_space_; }
    ~Waits() {
      if (--engine.wait_for_space_ != 0) return;
      engine.worker_->unpark();
      engine.tell();
    }
    Engine& engine;
  };
  std::optional<Waits> waits;
  // Whether the rank gets on: memory that only goes back and forth is no progress.
  const auto progress = [this] { return worker_->tasks_run() + rooms_given_; };
  const Time began = core::now();
  Time since = began;
  std::uint64_t before = progress();
  while (true) {
    store::Store::Room room;
    const std::uint64_t seen = store_.changes();
    const store::Store::Verdict verdict = store_.take(n, room);
    if (verdict == store::Store::Verdict::given) {
      bool good = true;
      if (!room.cold.empty()) {
        lock.unlock();
        good = store_.commit()(room.cold);
        lock.lock();
        store_.settle(room, good);
      }
      if (!good) continue;
      ++rooms_given_;
      return std::move(room.buffer);
    }
    if (!waits) waits.emplace(*this);
    const Time now = core::now();
    if (progress() != before) {
      before = progress();
      since = now;
    }
    if (verdict == store::Store::Verdict::never) {
      // Others may let go of what they use: tasks of this rank and readers elsewhere, but not those who wait
      // themselves.
      const bool may_change = worker_->running() > (t_run != nullptr ? 1U : 0U) || store_.is_read_elsewhere();
      if (n > store_.capacity() || now - since > (may_change ? kPatience : kGrace)) {
        throw StoreFull("mobula: " + store_.why_full(n, [this](detail::ObjectId id) { return objects_.is_held(id); }));
      }
    }
    // At first what is in memory is written to files, and queued tasks give up their inputs for that. Where this does
    // not help, others may run: they may be the last to use a value.
    const auto met = [this, seen] {
      return store_.changes() != seen || stopping() || ending_.load(std::memory_order_relaxed);
    };
    Waiter waiter;
    Place place(waiter);
    for_space_.push_back(place);
    if (now - began < kFirst) {
      worker_->park();
      wait(lock, waiter, met, now + kLook);
    } else {
      worker_->unpark();
      wait_lending(lock, waiter, met, now + kLook);
    }
    if (ending_.load() || (stopping() && t_run == nullptr && !head_))
      throw Cancelled("mobula: the job ended while a value waited for room");
  }
}

// ---- threads -----------------------------------------------------------------------------------------------------

void Engine::start_threads() {
  Lock lock(*this);
  driver_ = own_name();
  for (std::uint32_t i = 0; i < settings_.worker.slots; ++i) spawn();
  if (head_) pump_ = std::thread([this] { guard([this] { pump_main(); }); });
}

void Engine::spawn() {
  if (ending_.load() || core::now() < ask_for_thread_at_) return;
  for (auto it = slots_.begin(); it != slots_.end();) {
    if (it->ended) {
      it->thread.join();
      it = slots_.erase(it);
    } else {
      ++it;
    }
  }
  constexpr std::uint32_t kNumbers = 1'000'000;  // so that a name has room for one
  do {
    last_number_ = last_number_ % (kNumbers - 1) + 1;
  } while (by_number_.contains(last_number_));
  Thread& thread = slots_.emplace_back();
  try {
    thread.thread =
        settings_.start_thread([this, &thread, number = last_number_] { guard([&] { slot_main(thread, number); }); });
  } catch (const std::system_error& error) {
    slots_.pop_back();
    no_thread(error);
    return;
  }
  by_number_[last_number_] = &thread;
  ++threads_;
  threads_most_ = std::max(threads_most_, threads_);
  ++idle_;
  no_thread_since_ = 0;
}

// The rank goes on with the threads that it has, and asks again.
void Engine::no_thread(const std::system_error& error) {
  const Time now = core::now();
  ask_for_thread_at_ = now + kThreadAgain;
  if (no_thread_since_ != 0) return;
  no_thread_since_ = now;
  why_no_thread_ = error.what();
  core::log_warn("the system gives this rank no more threads than its " + std::to_string(threads_) + ": " +
                 why_no_thread_);
}

// Where all wait for a thread that can't be had, the newest wait ends with an error: what comes of that makes room.
void Engine::look_at_stall(Time now) {
  if (now - no_thread_since_ < kNoThread) return;
  if (idle_ != 0 || !worker_->has_runnable()) {
    no_thread_since_ = 0;
    return;
  }
  bool all_still = true;
  for (worker::Run* run : worker_->runs()) {
    all_still = (run->waiting != 0 || stands_still(*run, now, kNoThread / 2)) && all_still;
  }
  if (!all_still || lending_.empty()) return;
  no_thread_since_ = now;
  lending_.back().waiter().refuse(
      "mobula: this waits for a task or call that needs a thread of its own, all " + std::to_string(threads_) +
      " threads of the rank wait, and the system gives no more (" + why_no_thread_ +
      "): raise the limit of processes and threads (ulimit -u, pids.max of the container or job), or the memory for "
      "their stacks (ulimit -s is what each reserves)");
}

// Threads wait that may belong to any run: those whose threads have stood still for long may wait for just them, and go
// on without cpus.
void Engine::lend_what_stands_still(Time now) {
  const std::vector<worker::Run*> runs = worker_->runs();
  for (worker::Run* run : runs) {
    const bool is_own = run->lender == nullptr && !run->orphan && run->body->gang == nullptr;
    if (run->waiting == 0 && is_own && stands_still(*run, now, kStrange)) worker_->lend(*run, false);
  }
}

// Passes places on that are held by runs whose threads stand still.
void Engine::look_at_places(Time now) {
  if (now - looked_at_places_ < kStill / 2) return;
  looked_at_places_ = now;
  const Time patience = kStill * std::max<Time>(1, threads_ / kManyThreads);
  const std::vector<worker::Run*> holders = worker_->holders();
  for (worker::Run* run : holders) {
    if (stands_still(*run, now, patience)) worker_->give_up_place(*run);
  }
}

// The thread goes where the run's slots are, and where all slots are if it has none.
void Engine::bind_to(const worker::Body& body, int slot, const core::Small<int, 2>& slots) {
  const auto& lenders = body.all_lenders();
  const bool several = slots.size() > 1 || !lenders.empty();
  const bool moves = !settings_.slot_cpus.empty() && (several || slot != t_bound_slot);
  if (omp_set_num_threads != nullptr) {
    // As many as the run has cores: a slot may have more than one.
    int cores = std::max(1, static_cast<int>(body.cpus()));
    if (slot >= 0 && static_cast<std::size_t>(slot) < settings_.slot_cores.size()) {
      cores *= settings_.slot_cores[static_cast<std::size_t>(slot)];
    }
    give_to_openmp(cores, moves);
  }
  if (!moves) return;
  if (!several && slot >= 0) {
    topology::bind_thread(settings_.slot_cpus[static_cast<std::size_t>(slot) % settings_.slot_cpus.size()]);
    t_bound_slot = slot;
    return;
  }
  std::vector<int> cpus;
  const auto add = [&](std::size_t at) {
    const auto& of = settings_.slot_cpus[at % settings_.slot_cpus.size()];
    cpus.insert(cpus.end(), of.begin(), of.end());
  };
  if (several) {
    for (const int one : slots) add(static_cast<std::size_t>(one));
    // As many of the lenders' slots as it asked for.
    double missing = body.cpus() - static_cast<double>(slots.size());
    for (const detail::RankId lender : lenders) {
      const auto of = settings_.node_slots.find(lender);
      if (of == settings_.node_slots.end()) continue;
      for (const auto& lent : of->second) {
        if (--missing > -1) cpus.insert(cpus.end(), lent.begin(), lent.end());
      }
    }
  } else {
    for (std::size_t i = 0; i < settings_.slot_cpus.size(); ++i) add(i);
  }
  topology::bind_thread(cpus);
  t_bound_slot = several ? kUnbound : -1;
}

void Engine::execute(Lock& lock, std::unique_ptr<worker::Run> run) {
  const bool tells = watch_ != nullptr && run->body->actor == nullptr;
  const std::size_t cell = tells ? watch_->began(run->range) : 0;
  run->thread = t_thread;
  thread_local const clockid_t clock = own_clock();
  run->clock = clock;
  const bool is_member = run->is_member();
  const int policy = is_member ? sched_getscheduler(t_thread) : -1;
  if (is_member && worker_->stuck() != 0) let_waker_go_on(t_thread);
  // Threads that an earlier task of this thread has left behind may lend them for this run as soon as they have the
  // lock.
  const int slot = run->slot;
  const core::Small<int, 2> slots = run->slots;
  lock.unlock();
  if (t_number != 0) bind_to(*run->body, slot, slots);  // one that a task has started keeps the place that it has
  worker::Run* const outer = std::exchange(t_run, run.get());
  if (!run->saves) {
    if (journal_ == nullptr) {
      invoke(*run);
    } else {
      invoke_with_journal(*run);
    }
  }
  if (run->saves || (run->save_at != 0 && run->task.next == run->save_at)) save_actor(*run);
  t_run = outer;
  lock.lock();
  if (tells) watch_->ended(cell);
  if (outer == nullptr && t_number != 0) forget_helpers();
  if (policy == SCHED_OTHER) {
    const sched_param none{};
    sched_setscheduler(t_thread, policy, &none);
  }
  worker_->finish(std::move(run), core::now());
}

// Threads that the run's task has started, and that wait still, are nobody's from now on.
void Engine::forget_helpers() {
  Thread& thread = *by_number_.at(t_number);
  thread.run = nullptr;
  for (Lending* helper : std::exchange(thread.helpers, {})) helper->run_ended();
}

void Engine::invoke(worker::Run& run) {
  // What ends an actor ends its process with it.
  if (run.body->is_sandboxed() && run.body->function->kind != detail::FunctionInfo::Kind::destructor) {
    invoke_sandboxed(run);
  } else {
    run.body->function->invoke(run.task);
  }
}

nursery::Nursery::Task Engine::sandboxed(const worker::Run& run) const {
  nursery::Nursery::Task task;
  const core::WireOptions& options = *run.body->all_options();
  task.function = run.body->function;
  task.sandbox = options.sandbox;
  task.context = context();
  if (options.is_actor) task.actor = &options.actor;
  task.is_unwanted = [&run] { return run.task.stop.load(std::memory_order_relaxed); };
  return task;
}

void Engine::invoke_sandboxed(worker::Run& run) {
  if (nursery_ == nullptr) {
    run.task.begin();
    try {
      throw Error(
          "mobula: this rank has no sandboxes: they need a process that is forked before MPI and threads are started, "
          "so mobula::run must come first, and run_on can't have them");
    } catch (...) {
      run.task.fail();
    }
    run.task.advance();
    return;
  }
  nursery_->invoke(sandboxed(run), run.task);
}

// The thread that has run the actor's call is the only one that uses the object.
void Engine::save_actor(worker::Run& run) {
  const worker::LocalActor& actor = *run.body->actor;
  try {
    detail::Encoder state;
    if (actor.options->is_sandboxed) {
      nursery::Nursery::Task task = sandboxed(run);
      task.function = actor.klass;
      nursery_->save(task, run.task, state);
    } else {
      actor.klass->save(state, run.task.actor.get());
    }
    keep_state(actor, state);
    run.saved = std::move(state);
  } catch (const std::exception& e) {
    core::log_warn("the state of actor " + actor.klass->name + " could not be saved: " + e.what());
  } catch (...) {
    core::log_warn("the state of actor " + actor.klass->name + " could not be saved");
  }
}

void Engine::slot_main(Thread& self, std::uint32_t number) {
  name_thread("s" + std::to_string(number));
  t_number = number;
  Lock lock(*this);
  struct Ends {
    ~Ends() {
      --engine.threads_;
      engine.by_number_.erase(number);
      self.ended = true;
    }
    Engine& engine;
    Thread& self;
    std::uint32_t number;
  };
  const Ends ends{*this, self, number};
  const auto runnable = [this] { return worker_->has_runnable() || ending_.load(std::memory_order_relaxed); };
  while (true) {
    const bool spare = threads_ > settings_.worker.slots;
    bool met = false;
    {
      Waiter waiter(&resting_);
      met = wait(lock, waiter, runnable, spare ? core::now() + kSpareIdle : kNever);
    }
    if (ending_.load()) break;
    if (!met) {
      if (threads_ > settings_.worker.slots) break;
      continue;
    }
    auto run = worker_->next_run(core::now());
    if (run == nullptr) continue;
    --idle_;
    find_thread();  // more may be there to run
    const bool answer_waits = transport_.has_unsent() && !ending_.load(std::memory_order_relaxed);
    if (answer_waits && core::now() - last_step_ > kFlushAfter) transport_.flush();
    self.run = run.get();
    execute(lock, std::move(run));
    ++idle_;
    if (!worker_->has_runnable() || core::now() - last_step_ > kFlushAfter) {
      step();
    }
    tell();
  }
  --idle_;
}

// Where the system gives no thread for it, it is tried again with the next orders.
void Engine::start_io() {
  try {
    io_ = settings_.start_thread([this] { guard([this] { io_main(); }); });
  } catch (const std::system_error& error) {
    no_thread(error);
  }
}

void Engine::io_main() {
  name_thread("io");
  Lock lock(*this);
  while (true) {
    io_changed_.wait(lock, [this] { return !orders_.empty() || ending_.load(std::memory_order_relaxed); });
    if (ending_.load()) return;
    store::Store::Order order = std::move(orders_.front());
    orders_.pop_front();
    carry_out(lock, order);
    step();
    tell();
  }
}

void Engine::carry_out(Lock& lock, store::Store::Order& any) {
  using store::Store;
  const auto guarded = [](auto&& act) -> std::string {
    try {
      act();
    } catch (const std::exception& e) {
      return e.what();
    }
    return "";
  };
  if (auto* write = std::get_if<Store::Write>(&any)) {
    lock.unlock();
    const std::string error = guarded([&] { scratch_.write(write->file, write->value->view()); });
    lock.lock();
    write->value.reset();
    if (!error.empty()) core::log_warn("no more values are moved out of memory: " + error);
    store_.written(write->id, write->file, error);
  } else if (auto* read = std::get_if<Store::Read>(&any)) {
    lock.unlock();
    const bool good = read->cold.empty() || store_.commit()(read->cold);
    lock.lock();
    Store::Room room{std::move(*read->into), read->cold};
    store_.settle(room, good);  // where it is refused: better beside the segment than never
    *read->into = std::move(room.buffer);
    lock.unlock();
    const std::string error = guarded([&] { scratch_.read(read->file, {read->into->extend(read->size), read->size}); });
    lock.lock();
    store_.was_read(read->id, read->file, std::move(read->into), error);
  } else if (const auto* remove = std::get_if<Store::Remove>(&any)) {
    lock.unlock();
    scratch_.remove(remove->file);
    lock.lock();
  } else {
    const auto& prepare = std::get<Store::Prepare>(any);
    lock.unlock();
    const bool good = store_.commit()(prepare.cold);
    lock.lock();
    worker_->prepared(prepare.token, good);
  }
}

// Steps when nobody else has for a while.
void Engine::pump_main() {
  if (head_) name_thread("pump");  // elsewhere it is the main thread
  while (!ending_.load() && !(stopping() && !head_)) {
    if (const int signal = g_signal.exchange(0); signal != 0 && on_signal) on_signal(signal);
    if (const Time until = drain_until_.load(); until != 0 && core::now() > until && on_grace_over) on_grace_over();
    if (watch_ && on_must_end) {
      if (const auto why = watch_->must_end(core::now())) on_must_end(*why);
    }
    Time pace = kPumpIdle;
    bool dismissed = false;
    {
      Lock lock(*this);
      const Time now = core::now();
      dismissed = dismissed_;
      if (now - last_step_ > kPumpAfter) {
        step();
        tell();
        if (!bell_taken_) {
          // All threads compute: the doorbell is ours, so that messages of this node are heard at once. The rest can
          // wait the longer, the longer nothing has happened. One who waits since then takes it over.
          const Time most = worker_->queues_for_place() ? kPumpBusy : 2 * kPumpIdle;
          sleep_in_bell(lock, nullptr, std::clamp<Time>((now - last_activity_) / 16, kPumpBusy, most));
          step();
          pass_bell_on();
          continue;
        }
      }
      if (worker_->running() != 0 || !bell_taken_) pace = kPumpBusy;
    }
    if (dismissed && on_left) {
      say_left();
      on_left();
    }
    std::this_thread::sleep_for(std::chrono::nanoseconds(pace));
  }
}

int Engine::serve() {
  pump_main();
  return stop_code_;
}

void Engine::join(const std::string& version, std::uint64_t digest) {
  Lock lock(*this);
  core::Join join;
  join.digest = digest;
  join.version = version;
  join.host = settings_.host;
  join.node = settings_.node;
  join.slots = settings_.worker.slots;
  join.offers = settings_.worker.offers;
  join.offers.cpus = settings_.worker.slots;
  join.node_resources = settings_.worker.node_resources;
  join.features = settings_.worker.features;
  transport_.send(kHeadRank, join);
  step();
  if (!head_) return;
  wait_for_job(
      lock, [this] { return head_->all_joined() || g_signal.load() != 0; }, kNever);
  if (!head_->join_error().empty()) throw VersionMismatch(head_->join_error());
}

void Engine::send_stop(int code, const std::string& reason) {
  stopping_.store(true);  // before it has the lock, which others may want as often as they can
  Lock lock(*this);
  for (detail::RankId rank = 1; rank < wire_.size(); ++rank) {
    if (head_->ranks()[rank].alive || !head_->all_joined()) transport_.send(rank, core::Stop{code, reason});
  }
  // A receiver that does not take it must not hold up the others, nor this rank for long.
  const Time until = core::now() + 1'000'000'000;
  do {
    transport_.flush();
    wire_.poll([](detail::RankId, detail::ByteView) {});
  } while (wire_.busy() && core::now() < until);
  tell();
}

void Engine::leave_wire() {
  const Lock lock(*this);
  halted_.store(true);
  ending_.store(true);
  waiting_.signal_all();
}

bool Engine::stop_threads() {
  {
    Lock lock(*this);
    if (ending_.exchange(true)) return true;
    worker_->stop_running();
    waiting_.signal_all();
    wire_.interrupt();
  }
  if (pump_.joinable()) pump_.join();
  io_changed_.notify_all();
  if (io_.joinable()) io_.join();
  const Time until = core::now() + std::chrono::nanoseconds(settings_.stop_grace).count();
  std::size_t left = 1;  // threads that have not ended
  while (true) {
    {
      Lock lock(*this);
      left = static_cast<std::size_t>(
          std::count_if(slots_.begin(), slots_.end(), [](const Thread& t) { return !t.ended; }));
      // Those that are blocked in MPI will not end. Threads of the user's that wait are on their way out.
      if (left <= worker_->stuck() && waiting_.empty()) break;
      wire_.interrupt();
    }
    if (core::now() > until) break;
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  if (left != 0) return false;
  for (Thread& thread : slots_) thread.thread.join();
  slots_.clear();
  worker_->destroy_actors();
  return true;
}

bool Engine::lost_any() {
  const Lock lock(*this);
  return worker_->lost_any() || (head_ && head_->lost() != 0);
}

bool Engine::uses_mpi() {
  const Lock lock(*this);
  return worker_->running_members() != 0;
}

void Engine::freeze_threads() {
  const int signal = SIGRTMAX - 3;
  static std::atomic<int> frozen{0};
  struct sigaction action {};
  action.sa_handler = [](int) {
    frozen.fetch_add(1);
    while (true) pause();
  };
  sigaction(signal, &action, nullptr);
  int threads = 0;
  {
    const Lock lock(*this);
    for (Thread& thread : slots_) {
      if (!thread.ended && pthread_kill(thread.thread.native_handle(), signal) == 0) ++threads;
    }
  }
  for (int i = 0; i < 1000 && frozen.load() < threads; ++i) std::this_thread::sleep_for(std::chrono::microseconds(100));
}

Duration Engine::time_left() const {
  const Time now = core::now();
  double left = std::numeric_limits<double>::infinity();
  if (settings_.time_limit_s > 0) left = settings_.time_limit_s - static_cast<double>(now - started_) / 1e9;
  if (const Time until = drain_until_.load(); until != 0) left = std::min(left, static_cast<double>(until - now) / 1e9);
  if (std::isinf(left)) return none;
  return std::chrono::duration<double>(std::max(left, 0.0));
}

void Engine::drain(const std::string& why, Time until) {
  Lock lock(*this);
  drain_until_.store(until);
  head_->drain(why);
  step();
  tell();
}

void Engine::look_at_head(const std::function<void(const head::Head&)>& look) {
  Lock lock(*this);
  look(*head_);
}

void Engine::leave(Time grace, Time until) {
  Lock lock(*this);
  drain_until_.store(until);
  if (grace > 0) worker_->leave(grace);
  step();
}

void Engine::say_left() {
  Lock lock(*this);
  const Time until = core::now() + 2'000'000'000;
  while ((transport_.busy() || transport_.has_unsent()) && core::now() < until) step();
  transport_.send(kHeadRank, core::Left{transport_.frames_by_receiver()});
  ending_.store(true);  // that was the last word
  do {
    transport_.flush();
    wire_.poll([](detail::RankId, detail::ByteView) {});
  } while (wire_.busy() && core::now() < until);
}

void Engine::wait_for_job(Lock& lock, Condition met, Time deadline) {
  Waiter waiter;
  Place place(waiter);
  for_job_.push_back(place);
  wait(lock, waiter, met, deadline);
}

void Engine::wait_saved(Time grace) {
  Lock lock(*this);
  if (const Time until = drain_until_.load(); until != 0) {
    wait_for_job(
        lock, [this] { return head_->drained(); }, until);
  } else if (journal_ != nullptr) {
    head_->save_durable();
    wait_for_job(
        lock, [this] { return head_->saved(); }, core::now() + grace);
  }
}

Context Engine::context() const {
  Context context;
  context.rank = wire_.rank();
  context.node = settings_.node;
  context.host = settings_.host;
  context.cores = topology::thread_cpus();
  if (const worker::Run* run = t_run) {
    context.slot = run->slot;
    context.gpus = (run->lender != nullptr ? run->lender : run)->gpus;
    context.task =
        run->body->options && !run->body->options->name.empty() ? run->body->options->name : run->body->function->name;
    context.id = core::to_string({run->range.span, run->task.next});
    context.attempt = static_cast<int>(run->body->attempt);
  }
  return context;
}

}  // namespace mobula::exec
