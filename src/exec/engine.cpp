#include "exec/engine.hpp"

#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <csignal>

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
constexpr Time kSpareIdle = 1'000'000'000;  // ns after which a thread beyond the slots ends
constexpr std::uint32_t kSubmitsPerStep = 64;
constexpr Time kLetIn = 20'000;   // ns that a thread which polls leaves the lock to those that wait for it
constexpr Time kGather = 10'000;  // ns that submissions gather while workers are hungry

thread_local worker::Run* t_run = nullptr;
thread_local const int t_thread = static_cast<int>(gettid());
thread_local bool t_slow = false;  // it may not take its priority back
constexpr int kLowest = 19;        // of the system's priorities
constexpr int kUnbound = -2;       // or to some set of slots
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

}  // namespace

void name_thread(const char* part) {
  const std::string name = std::string(program_invocation_short_name).substr(0, 10) + ":" + part;
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
  settings_.worker.slow_down = [](const worker::Run& run) {
    setpriority(PRIO_PROCESS, static_cast<id_t>(run.thread), kLowest);
  };
  worker_ = std::make_unique<worker::Worker>(transport_, objects_, settings_.worker);
  if (head_settings != nullptr) head_ = std::make_unique<head::Head>(transport_, objects_, *head_settings);
  on_frame_ = [this](detail::RankId from, detail::ByteView frame) { dispatch(from, frame); };
  started_ = core::now();
}

Engine::~Engine() { stop_threads(); }

worker::Run* Engine::current_run() { return t_run; }

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
    if (on_drop_communicator) on_drop_communicator(message.communicator);
  } else if constexpr (std::is_same_v<M, core::Dismiss>) {
    dismissed_ = true;
  } else if constexpr (std::is_same_v<M, core::PulseBack>) {
    if (watch_) watch_->head_answered(core::now());
  } else {
    if constexpr (std::is_same_v<M, core::RankLost>) {
      if (watch_) watch_->declared_lost(message.rank);
    }
    worker_->handle(from, message);
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
    if (!io_.joinable() && !ending_.load()) io_ = std::thread([this] { io_main(); });
    io_changed_.notify_one();
  }
  return happened;
}

bool Engine::step() {
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
    settle(now);
  }
  if (happened) {
    last_activity_ = now;
    wake();
  }
  return happened;
}

// Polls a few times at full speed. True if anything happened, which has then been dealt with as by `step`.
bool Engine::spin() {
  if (ending_.load(std::memory_order_relaxed)) return false;
  constexpr int kPolls = 16;
  for (int i = 0; i < kPolls; ++i) {
    if (transport_.poll_wire(on_frame_)) {
      const Time now = core::now();
      last_step_ = last_activity_ = now;
      if (head_) head_->step(now);
      settle(now);
      wake();
      return true;
    }
    if (contenders_.load(std::memory_order_relaxed) != 0) return false;
    __builtin_ia32_pause();
  }
  return false;
}

void Engine::submitted(Lock& lock, std::uint32_t tasks) {
  since_step_ += tasks;
  // Tasks submitted in quick succession gather, even where workers wait: each step costs more than a short task.
  if (since_step_ >= kSubmitsPerStep || (head_ && head_->hungry() && core::now() - last_step_ > kGather)) step();
  // Memory is bounded by slowing down those who fill it: what is under way must shrink before more comes.
  constexpr std::size_t kMostBacklog = 64 << 20;
  if (transport_.backlog() > kMostBacklog && t_run == nullptr) {
    wait(
        lock, [this] { return transport_.backlog() <= kMostBacklog / 2 || stopping(); }, kNever);
  }
}

void Engine::wait_for_room(Lock& lock) {
  if (!head_) return;
  // Enough to keep thousands of workers busy, and little memory.
  constexpr std::uint64_t kMostTasks = 2 << 20;
  constexpr std::size_t kMostBytes = 256 << 20;
  const auto room = [this] {
    return (head_->unfinished() < kMostTasks && head_->queued_bytes() < kMostBytes) || stopping();
  };
  if (!room()) wait(lock, room, kNever);
}

// ---- waiting -----------------------------------------------------------------------------------------------------

// Wakes those whose wish is met, and sees to it that there is a thread for what can run.
void Engine::wake() {
  for (Waiter* waiter : waiters_) {
    if (waiter->woken || !(*waiter->met)()) continue;
    waiter->woken = true;
    if (waiter->in_bell) {
      wire_.interrupt();
    } else {
      waiter->changed.notify_one();
    }
  }
  if (idle_ == 0 && !slots_.empty() && worker_->has_runnable()) spawn();
}

// Leaves others the time to take the lock. Requires that this thread does not have it.
void Engine::let_in() const {
  const Time until = core::now() + kLetIn;
  while (contenders_.load(std::memory_order_relaxed) != 0 && core::now() < until) __builtin_ia32_pause();
}

// Sleeps until something may have come. One thread at a time; false if another sleeps there.
bool Engine::sleep_in_bell(Lock& lock, Waiter* waiter, std::int64_t most_ns) {
  if (bell_taken_) return false;
  if (ending_.load(std::memory_order_relaxed)) return true;
  bell_taken_ = true;
  if (waiter != nullptr) waiter->in_bell = true;
  wire_.arm();
  // What came before the bell was armed did not ring it.
  const bool happened = step();
  const bool met = waiter != nullptr && (waiter->woken || (*waiter->met)());
  if (!happened && !met && !ending_.load()) {
    // What is under way moves only while we poll, and messages of other nodes don't ring: those are looked for the less
    // often, the longer all has been quiet.
    const Time quiet = core::now() - last_activity_;
    const std::int64_t unheard = wire_.hears_all() ? 100'000'000 : std::clamp<Time>(quiet / 16, kPollOften, kPumpIdle);
    const std::int64_t most = transport_.busy() ? kPollOften : unheard;
    lock.unlock();
    wire_.sleep(std::min(most, most_ns));
    lock.lock();
  }
  if (!ending_.load(std::memory_order_relaxed)) wire_.disarm();
  bell_taken_ = false;
  if (waiter != nullptr) waiter->in_bell = false;
  return true;
}

// Nobody may be left to hear the bell: another sleeper takes it over.
void Engine::pass_bell_on() {
  if (bell_taken_) return;
  const auto sleeper = std::find_if(waiters_.begin(), waiters_.end(), [](const Waiter* w) { return !w->woken; });
  if (sleeper == waiters_.end()) return;
  (*sleeper)->woken = true;
  (*sleeper)->changed.notify_one();
}

bool Engine::wait(Lock& lock, const std::function<bool()>& met, Time deadline) {
  if (met()) return true;
  Waiter waiter{&met, {}, false, false};
  Time quiet_since = core::now();
  bool slept = false;
  std::list<Waiter*>::iterator place = waiters_.end();
  const auto leave = [&](bool result) {
    if (place != waiters_.end()) waiters_.erase(place);
    if (slept) pass_bell_on();
    return result;
  };
  while (true) {
    const bool happened = step();
    if (met()) return leave(true);
    const Time now = core::now();
    if (now >= deadline) return leave(false);
    if (over_) return leave(false);
    if (happened) quiet_since = now;
    const Time quiet = now - quiet_since;
    const bool yields = yields_.are_cheap(now);
    if (quiet < settings_.spin_ns + (yields ? settings_.yield_ns : 0)) {
      if (quiet < settings_.spin_ns && contenders_.load(std::memory_order_relaxed) == 0) {
        if (spin() && met()) return leave(true);
        lock.unlock();
      } else if (yields) {
        lock.unlock();
        yields_.yield();
      } else {
        lock.unlock();
        let_in();
      }
      lock.lock();
      if (met()) return leave(true);
      continue;
    }
    if (place == waiters_.end()) place = waiters_.insert(waiters_.end(), &waiter);
    waiter.woken = false;
    slept = true;
    const Time left = deadline == kNever ? kSpareIdle : deadline - now;
    if (!sleep_in_bell(lock, &waiter, left)) {
      waiter.changed.wait_for(lock, std::chrono::nanoseconds(std::min<Time>(left, 100'000'000)));
    }
    if (met()) return leave(true);
    // Woken for news that was not for this thread, or by a bell: look around, but don't start to spin anew.
  }
}

bool Engine::wait_lending(Lock& lock, const std::function<bool()>& met, Time deadline) {
  if (met()) return true;
  worker::Run* run = t_run;
  if (run == nullptr) return wait(lock, met, deadline);
  const std::function<bool()> met_or_over = [&] { return met() || ending_.load(std::memory_order_relaxed); };
  core::trace(core::Event::blocked, core::now(), run->range.span, run->task.next, run->range.end, 0);
  worker_->lend(*run);
  wake();
  const bool result = wait(lock, met_or_over, deadline);
  if (!worker_->resume(*run)) {
    worker_->want_resume(1);
    wait(
        lock, [this, run] { return worker_->resume(*run) || ending_.load(std::memory_order_relaxed); }, kNever);
    worker_->want_resume(-1);
  }
  if (ending_.load() && !met()) throw Cancelled("mobula: the job ended while the task waited");
  core::trace(core::Event::resumed, core::now(), run->range.span, run->task.next, run->range.end, 0);
  return result;
}

bool Engine::wait_for(Lock& lock, const detail::Handle& handle, Time deadline, store::ValuePtr& value) {
  const detail::Record& record = *handle.record();
  const std::uint32_t index = handle.index();
  const auto here = [&] {
    if (!record.ready(index)) return false;
    const store::Slot* slot = record.slot(index);
    if (slot == nullptr || slot->kind != store::Slot::Kind::large) return true;
    value = store_.find(handle.id());  // kept from now on, so that it is not moved out before it is read
    return value != nullptr;
  };
  if (here()) return true;
  if (t_run != nullptr) {
    if (auto run = worker_->claim(handle, *t_run, core::now())) {
      execute(lock, std::move(run));
      if (here()) return true;
    }
  }
  // Large values stay where they are until somebody here wants them.
  worker::Run* const run = t_run;
  const auto met = [&] {
    if (here()) return true;
    if (record.ready(index) || !record.mine) worker_->request(handle);
    return here() || (run != nullptr && run->deadlock != nullptr);
  };
  if (run != nullptr) {
    run->awaits = handle.id();
    run->awaits_since = core::now();
  }
  const bool result = wait_lending(lock, met, deadline);
  if (run != nullptr) {
    run->awaits = {};
    if (const core::ErrorPtr error = std::exchange(run->deadlock, nullptr); error != nullptr && !here()) {
      core::raise(*error);
    }
  }
  return result;
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
      engine.wake();
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
    const std::function<bool()> met = [this, seen] {
      return store_.changes() != seen || stopping() || ending_.load(std::memory_order_relaxed);
    };
    if (now - began < kFirst) {
      worker_->park();
      wait(lock, met, now + kLook);
    } else {
      worker_->unpark();
      wait_lending(lock, met, now + kLook);
    }
    if (ending_.load() || (stopping() && t_run == nullptr && !head_))
      throw Cancelled("mobula: the job ended while a value waited for room");
  }
}

// ---- threads -----------------------------------------------------------------------------------------------------

void Engine::start_threads() {
  Lock lock(*this);
  for (std::uint32_t i = 0; i < settings_.worker.slots; ++i) spawn();
  if (head_) pump_ = std::thread([this] { pump_main(); });
}

void Engine::spawn() {
  if (threads_ >= kMaxThreads || ending_.load()) return;
  for (auto it = slots_.begin(); it != slots_.end();) {
    if (it->ended) {
      it->thread.join();
      it = slots_.erase(it);
    } else {
      ++it;
    }
  }
  Thread& thread = slots_.emplace_back();
  ++threads_;
  threads_most_ = std::max(threads_most_, threads_);
  ++idle_;
  thread.thread = std::thread([this, &thread] { slot_main(thread); });
}

// The thread goes where the run's slots are, and where all slots are if it has none.
void Engine::bind_to(const worker::Run& run) {
  const auto& lenders = run.body->all_lenders();
  const bool several = run.slots.size() > 1 || !lenders.empty();
  const bool moves = !settings_.slot_cpus.empty() && (several || run.slot != t_bound_slot);
  if (omp_set_num_threads != nullptr) {
    // As many as the run has cores: a slot may have more than one.
    int cores = std::max(1, static_cast<int>(run.body->cpus()));
    if (run.slot >= 0 && static_cast<std::size_t>(run.slot) < settings_.slot_cores.size()) {
      cores *= settings_.slot_cores[static_cast<std::size_t>(run.slot)];
    }
    give_to_openmp(cores, moves);
  }
  if (!moves) return;
  if (!several && run.slot >= 0) {
    topology::bind_thread(settings_.slot_cpus[static_cast<std::size_t>(run.slot) % settings_.slot_cpus.size()]);
    t_bound_slot = run.slot;
    return;
  }
  std::vector<int> cpus;
  const auto add = [&](std::size_t slot) {
    const auto& of = settings_.slot_cpus[slot % settings_.slot_cpus.size()];
    cpus.insert(cpus.end(), of.begin(), of.end());
  };
  if (several) {
    for (const int slot : run.slots) add(static_cast<std::size_t>(slot));
    // As many of the lenders' slots as it asked for.
    double missing = run.body->cpus() - static_cast<double>(run.slots.size());
    for (const detail::RankId lender : lenders) {
      const auto of = settings_.node_slots.find(lender);
      if (of == settings_.node_slots.end()) continue;
      for (const auto& slot : of->second) {
        if (--missing > -1) cpus.insert(cpus.end(), slot.begin(), slot.end());
      }
    }
  } else {
    for (std::size_t slot = 0; slot < settings_.slot_cpus.size(); ++slot) add(slot);
  }
  topology::bind_thread(cpus);
  t_bound_slot = several ? kUnbound : -1;
}

void Engine::execute(Lock& lock, std::unique_ptr<worker::Run> run) {
  const bool tells = watch_ != nullptr && run->body->actor == nullptr;
  const std::size_t cell = tells ? watch_->began(run->range) : 0;
  run->thread = t_thread;
  lock.unlock();
  bind_to(*run);
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
  t_slow = t_slow || run->left_behind;
  if (tells) watch_->ended(cell);
  worker_->finish(std::move(run), core::now());
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

void Engine::slot_main(Thread& self) {
  name_thread("slot");
  Lock lock(*this);
  const auto runnable = [this] { return worker_->has_runnable() || ending_.load(std::memory_order_relaxed); };
  while (true) {
    const bool spare = threads_ > settings_.worker.slots;
    const bool met = wait(lock, runnable, spare ? core::now() + kSpareIdle : kNever);
    if (ending_.load()) break;
    if (!met) {
      if (threads_ > settings_.worker.slots) break;
      continue;
    }
    auto run = worker_->next_run(core::now());
    if (run == nullptr) continue;
    --idle_;
    if (worker_->has_runnable()) wake();  // more can run: others come for it
    const bool answer_waits = transport_.has_unsent() && !ending_.load(std::memory_order_relaxed);
    if (answer_waits && core::now() - last_step_ > kFlushAfter) transport_.flush();
    execute(lock, std::move(run));
    ++idle_;
    if (!worker_->has_runnable() || core::now() - last_step_ > kFlushAfter) {
      step();
    }
    if (!waiters_.empty()) wake();
    if (t_slow) break;
  }
  --idle_;
  --threads_;
  self.ended = true;
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
    wake();
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
        wake();
        if (!bell_taken_) {
          // All threads compute: the doorbell is ours, so that messages of this node are heard at once. The rest can
          // wait the longer, the longer nothing has happened. One who waits since then takes it over.
          sleep_in_bell(lock, nullptr, std::clamp<Time>((now - last_activity_) / 16, kPumpBusy, 2 * kPumpIdle));
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
  wait(
      lock, [this] { return head_->all_joined() || g_signal.load() != 0; }, kNever);
  if (!head_->join_error().empty()) throw VersionMismatch(head_->join_error());
}

void Engine::send_stop(int code, const std::string& reason) {
  Lock lock(*this);
  stopping_.store(true);
  for (detail::RankId rank = 1; rank < wire_.size(); ++rank) {
    if (head_->ranks()[rank].alive || !head_->all_joined()) transport_.send(rank, core::Stop{code, reason});
  }
  // A receiver that does not take it must not hold up the others, nor this rank for long.
  const Time until = core::now() + 1'000'000'000;
  do {
    transport_.flush();
    wire_.poll([](detail::RankId, detail::ByteView) {});
  } while (wire_.busy() && core::now() < until);
  wake();
}

void Engine::leave_wire() {
  const Lock lock(*this);
  ending_.store(true);
}

bool Engine::stop_threads() {
  {
    Lock lock(*this);
    if (ending_.exchange(true)) return true;
    worker_->stop_running();
    for (Waiter* waiter : waiters_) waiter->changed.notify_one();
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
      if (left <= worker_->stuck()) break;  // those that are blocked in MPI will not end
      for (Waiter* waiter : waiters_) waiter->changed.notify_one();
      wire_.interrupt();
    }
    if (core::now() > until) break;
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  if (left != 0) return false;
  for (Thread& thread : slots_) thread.thread.join();
  slots_.clear();
  over_ = true;
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
  wake();
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

void Engine::wait_saved(Time grace) {
  Lock lock(*this);
  if (const Time until = drain_until_.load(); until != 0) {
    wait(
        lock, [this] { return head_->drained(); }, until);
  } else if (journal_ != nullptr) {
    head_->save_durable();
    wait(
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
