// Starting and ending: settings, MPI or none, the driver, and every way in which a job can end.
#include "mobula/run.hpp"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <mutex>
#include <optional>
#include <sstream>
#include <stop_token>
#include <thread>

#include "api/runtime.hpp"
#include "api/settings.hpp"
#include "api/status.hpp"
#include "core/config.hpp"
#include "core/functions.hpp"
#include "core/host.hpp"
#include "core/launcher.hpp"
#include "core/log.hpp"
#include "core/shared_memory.hpp"
#include "core/verdict.hpp"
#include "core/version.hpp"
#include "journal/journal.hpp"
#include "keeper/board.hpp"
#include "keeper/keeper.hpp"
#include "mobula/mpi.hpp"
#include "nursery/child.hpp"
#include "nursery/nursery.hpp"
#include "programs/container.hpp"
#include "store/pages.hpp"
#include "topology/topology.hpp"
#include "transport/communicators.hpp"
#include "transport/local_wire.hpp"
#include "transport/mpi_wire.hpp"

namespace mobula::api {
namespace {

std::atomic<exec::Engine*> g_engine{nullptr};

// The job as this process sees it. Ended once, by whoever comes first: the driver's return, its exception, `exit`, a
// signal.
struct Job {
  std::unique_ptr<keeper::Link> keeper;
  std::unique_ptr<nursery::Nursery> nursery;
  std::unique_ptr<transport::MpiWire> mpi;
  std::unique_ptr<transport::LocalHub> hub;
  std::unique_ptr<core::SharedMemory> memory;  // of the store, where no rank shares it
  std::unique_ptr<exec::Engine> engine;
  std::unique_ptr<transport::Communicators> communicators;
  std::unique_ptr<journal::Journal> journal;
  std::shared_ptr<keeper::Board> board;
  std::unique_ptr<exec::Door> door;
  Config config;
  std::atomic<bool> joined{false};  // all ranks have
  int end_signal = 0;               // the one that asked this process to end in a while
  core::Time asked_at = 0;
  std::atomic<bool> ended{false};
  std::atomic<bool> main_is_in_driver{false};
  std::jthread guard;
};
Job* g_job = nullptr;

// Whether a launcher started this process as one of several, or as a single rank of a job.
bool launched_by_mpi() {
  for (const char* name : core::kSaysRank) {
    if (const char* value = std::getenv(name); value != nullptr && *value != '\0') return true;
  }
  return false;
}

// Settings are read once MPI has started, which may take some of them out. What keepers are to do is needed before.
std::unique_ptr<keeper::Link> start_keeper(const Config& given, int argc, char** argv) {
  std::vector<char*> copy(argv, argv + argc + 1);
  Config config;
  try {
    config = core::load_config(given, argc, copy.data(), core::process_environment());
  } catch (const Error&) {
    return nullptr;  // it is said later
  }
  if (!config.keeper) return nullptr;
  int rank = -1;
  for (const char* name : core::kRank) {
    if (const char* value = std::getenv(name); value != nullptr && rank < 0) rank = std::atoi(value);
  }
  keeper::Output output(rank, rank > 0 && config.output == "tag", rank >= 0 ? config.job_dir : "");
  return keeper::Link::start(output);
}

// Several tasks of one Slurm step that each see a job of one rank would each run the whole program.
void check_slurm_step(std::uint32_t size) {
  const char* tasks = std::getenv("SLURM_STEP_NUM_TASKS");
  if (tasks == nullptr || std::atoi(tasks) <= 1 || size > 1 || std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr) return;
  throw ConfigError("mobula: Slurm started " + std::string(tasks) +
                    " tasks, and each sees itself alone: start with `srun --mpi=pmix` (`srun --mpi=list` shows what "
                    "there is), and with the MPI library that the program was built with");
}

std::string mib(std::size_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

// The memory of this rank's objects. It is only reserved: pages are touched as they are needed.
void set_up_store(Job& job, exec::Settings& settings) {
  const Config& config = job.config;
  transport::MpiWire* const mpi = job.mpi.get();
  const bool shares = mpi != nullptr && mpi->node_size() > 1;
  const std::size_t ranks = shares ? mpi->node_size() : 1;
  constexpr std::size_t kLittle = 64 << 20;
  std::size_t bytes = config.store != 0 ? config.store : topology::usable_memory() / 10 * 3 / ranks;
  if (shares) {
    // All ranks of the node decide alike, by what its first rank sees before any of them takes some.
    const bool wished = config.store != 0;
    const auto seen = mpi->gather_on_node(std::to_string(topology::free_shared_memory()) + " " + std::to_string(bytes) +
                                          (wished ? " wished" : ""));
    const std::size_t free = std::strtoull(seen.front().c_str(), nullptr, 10);
    std::size_t asked = 0;
    bool any_wished = false;
    for (const std::string& text : seen) {
      asked += std::strtoull(text.c_str() + text.find(' '), nullptr, 10);
      any_wished = any_wished || text.ends_with("wished");
    }
    const std::size_t most = free / 10 * 9;
    const std::string cure =
        ": give containers more (docker and podman: --shm-size=4g or --ipc=host; Apptainer shares the "
        "host's), or mount /dev/shm larger, or ask for less by --mobula-store=SIZE for each rank";
    if (asked > most && any_wished) {
      throw ConfigError("mobula: the " + std::to_string(ranks) + " ranks of " + settings.host + " ask for " +
                        mib(asked) + " of shared memory for their objects, and /dev/shm has " + mib(free) + " free" +
                        cure);
    }
    if (!wished) bytes = std::min(bytes, most / ranks);
    if (bytes < kLittle && !wished && mpi->node_rank() == 0) {
      core::log_warn("/dev/shm on " + settings.host + " has only " + mib(free) + " free, so each rank has only " +
                     mib(bytes) + " for its objects" + cure);
    }
    mpi->share(bytes);
    settings.store.memory = mpi->segment(mpi->rank());
    settings.store.segment_of = [mpi](detail::RankId rank) -> detail::ByteView { return mpi->segment(rank); };
  } else {
    try {
      job.memory = core::SharedMemory::alone(bytes);
    } catch (const std::bad_alloc&) {
      throw ConfigError("mobula: this process may not reserve " + mib(bytes) +
                        " of address space for its objects (see ulimit -v): ask for less by --mobula-store=SIZE");
    }
    settings.store.memory = job.memory->memory();
  }
  store::advise_pages(settings.store.memory);
  settings.store.commit = store::commit_pages;
  settings.scratch = config.scratch.empty() ? exec::default_scratch() : config.scratch == "off" ? "" : config.scratch;
  if (!settings.scratch.empty() && access(settings.scratch.c_str(), W_OK) != 0) {
    throw ConfigError("mobula: bad setting scratch: the folder '" + settings.scratch + "' on " + settings.host +
                      " can't be written: " + std::strerror(errno));
  }
  settings.store.spills = !settings.scratch.empty();
  if (!config.images.empty()) {
    programs::keep_images_in(config.images);
  } else if (!settings.scratch.empty()) {
    programs::keep_images_in(settings.scratch + "/mobula-images-" + std::to_string(getuid()));
  }
}

void note_signal(int signal) {
  exec::g_signal.store(signal);
  if (exec::Engine* const engine = g_engine) engine->interrupt();
}

constexpr std::array kSignals{SIGINT, SIGTERM, SIGUSR1};
std::array<struct sigaction, kSignals.size()> g_before;  // what the program did with them

void catch_signals() {
  struct sigaction action {};
  action.sa_handler = note_signal;
  for (std::size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &action, &g_before[i]);
}

// MPI writes to the connection of a rank that is gone, and gets on with an error, not with a signal: as long as this
// lives, unless the program sees to that itself. A handler, not SIG_IGN, which programs that tasks start would inherit.
class NoBrokenPipes {
 public:
  NoBrokenPipes() {
    sigaction(SIGPIPE, nullptr, &before_);
    if (before_.sa_handler != SIG_DFL) return;
    struct sigaction action {};
    action.sa_handler = [](int) {};
    action.sa_flags = SA_RESTART;
    sigaction(SIGPIPE, &action, nullptr);
  }
  ~NoBrokenPipes() { sigaction(SIGPIPE, &before_, nullptr); }
  NoBrokenPipes(const NoBrokenPipes&) = delete;
  NoBrokenPipes& operator=(const NoBrokenPipes&) = delete;

 private:
  struct sigaction before_ {};
};

// The job ends by itself now, and what a handler would wake is gone.
void ignore_signals() {
  for (const int signal : kSignals) std::signal(signal, SIG_IGN);
}

void restore_signals() {
  for (std::size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &g_before[i], nullptr);
}

void tell_and_trace(const Job& job) {
  exec::Engine& engine = *job.engine;
  core::log_info(
      std::to_string(engine.worker().tasks_run()) + " tasks run, " + std::to_string(engine.worker().fetches()) +
      " values fetched, " + std::to_string(engine.transport().frames_sent()) + " frames sent, " +
      std::to_string(engine.transport().frames_received()) + " received, " + std::to_string(engine.threads_most()) +
      " threads at most" +
      (engine.head() != nullptr ? ", " + std::to_string(engine.head()->messages()) + " messages handled by the head"
                                : ""));
  if (job.config.trace.empty()) return;
  const auto rank = job.engine->transport().rank();
  core::trace_write(job.config.trace + "." + std::to_string(rank) + ".json", rank);
}

// What the process does from here on is no business of the other ranks.
void leave(Job& job) {
  if (job.board) {
    job.board->over().store(1);
    job.board->place(job.mpi->node_rank()).end.store(static_cast<std::uint32_t>(keeper::End::left));
  }
  if (job.keeper) job.keeper->leave();
}

// MPI ends together on all ranks: if one dies meanwhile, the others would wait for ever.
void guard_end(Job& job, int code) {
  if (!job.board) return;
  std::thread([&job, code] {
    const auto left = static_cast<std::uint32_t>(keeper::End::left);
    while (job.board->place(job.mpi->node_rank()).end.load() != left) {
      for (std::uint32_t i = 0; i < job.board->places(); ++i) {
        if (job.board->place(i).end.load() != static_cast<std::uint32_t>(keeper::End::died)) continue;
        leave(job);
        _exit(code);
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }).detach();
}

// `clean`: no thread runs tasks any more.
void end_mpi(Job& job, bool clean, int code) {
  if (!job.communicators->stop()) clean = false;
  std::function<void()> at_last;
  if (!clean && job.engine->uses_mpi()) {
    at_last = [&job, code] {
      // A thread is inside MPI and would go on there while MPI ends. Where it was stopped, it may hold what MPI needs.
      job.engine->freeze_threads();
      std::thread([code] {
        std::this_thread::sleep_for(std::chrono::seconds(5));
        _exit(code);
      }).detach();
    };
  }
  if (!job.mpi) return;
  if (!job.engine->lost_any()) {
    guard_end(job, code);
    if (clean) job.communicators->finalize();
    job.mpi->finalize(!clean, at_last);
  }
  leave(job);
}

// Where no rank of a node is left, nobody there tells its keepers that the job is over: Slurm is asked to.
void tell_keepers_of_lost_nodes(const Job& job) {
  const char* id = std::getenv("SLURM_JOB_ID");
  const char* step = std::getenv("SLURM_STEP_ID");
  if (id == nullptr || step == nullptr || !job.keeper || !job.engine->head()->lost_a_node()) return;
  const std::string of = std::string(id) + "." + step;
  std::array<const char*, 5> arguments{"scancel", "-s", "TERM", of.c_str(), nullptr};
  pid_t child = 0;
  if (posix_spawnp(&child, "scancel", nullptr, nullptr, const_cast<char* const*>(arguments.data()), environ) != 0) {
    core::log_warn("all ranks of a node were lost, and scancel is not there to end what is left of the step on it");
    return;
  }
  waitpid(child, nullptr, 0);
}

// For the user, at the end.
void tell_losses(const Job& job) {
  const std::uint32_t left = job.engine->head()->left();
  const std::uint32_t lost = job.engine->head()->lost() - left;
  if (lost + left == 0) return;
  const std::string all = " of " + std::to_string(job.mpi->size()) + " ranks ";
  std::string text;
  if (lost != 0) text = std::to_string(lost) + all + "were lost in this job";
  if (left != 0) text += (text.empty() ? "" : ", and ") + std::to_string(left) + all + "left it as they were told";
  const char* sync = std::getenv("OMPI_MCA_orte_allowed_exit_without_sync");
  if (std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr && std::getenv("SLURM_STEP_NODELIST") == nullptr &&
      (sync == nullptr || std::string(sync) != "1")) {
    text +=
        "; mpirun ends with code 1 then, whatever the program's, unless it is started with "
        "--mca orte_allowed_exit_without_sync 1";
  }
  core::log_warn(text);
}

core::Time grace_of(const Job& job) { return std::chrono::nanoseconds(job.config.grace).count(); }

// Ends the job on the head, from any thread. Returns false if it has been ended before.
bool end_job(Job& job, int code, const std::string& reason) {
  if (job.ended.exchange(true)) return false;
  job.door.reset();
  core::job_ends(code);
  job.engine->send_stop(code, reason);
  const bool clean = job.engine->stop_threads();
  tell_losses(job);
  tell_and_trace(job);
  ignore_signals();
  tell_keepers_of_lost_nodes(job);
  std::cout.flush();
  std::fflush(nullptr);
  ignore_signals();
  end_mpi(job, clean, code);
  if (!clean) {
    // Tasks still run in this process; their code must not meet the destructors of the program.
    _exit(code);
  }
  return true;
}

// `exit` was called. On the head, in the driver: the job ends with that code. In a task: the rank goes with it.
void on_process_exit(int code, void*) {
  Job* job = g_job;
  if (job == nullptr || job->ended.load()) return;
  if (const worker::Run* run = exec::Engine::current_run()) {
    std::fprintf(stderr, "mobula [rank %u] error: task %s called exit(%d), which ends its rank\n",
                 job->engine->transport().rank(), run->body->function->name.c_str(), code);
    std::fflush(nullptr);
    _exit(code != 0 ? code : 1);
  }
  if (job->engine->head() == nullptr) return;
  job->engine->wait_saved(grace_of(*job));
  end_job(*job, code, "the driver called exit");
}

std::string signal_name(int signal) { return "SIG" + std::string(sigabbrev_np(signal)); }

void end_at_once(Job& job, int signal, const std::string& why) {
  const int code = 128 + signal;
  if (job.ended.exchange(true)) return;
  job.door.reset();
  core::job_ends(code);
  std::fprintf(stderr, "mobula: %s; the job ends\n", why.c_str());
  job.engine->send_stop(code, "the head got a signal");
  tell_and_trace(job);
  std::fflush(nullptr);
  // The driver may be anywhere; it is not unwound.
  job.engine->leave_wire();
  ignore_signals();
  end_mpi(job, false, code);
  _exit(code);
}

// A first wish to end gives what runs some time; who insists is obeyed at once. Launchers may pass a signal on twice.
void on_head_signal(Job& job, int signal) {
  constexpr core::Time kTwice = 1'000'000'000;
  const core::Time now = core::now();
  const bool may_wait = signal != SIGINT && job.config.grace.count() > 0 && job.joined.load();
  if (may_wait && !job.engine->draining()) {
    const core::Time grace = grace_of(job);
    job.end_signal = signal;
    job.asked_at = now;
    std::fprintf(
        stderr,
        "mobula: asked to end (%s): what runs has %g s (setting grace), nothing else begins; SIGTERM or SIGINT "
        "ends the job at once\n",
        signal_name(signal).c_str(), static_cast<double>(grace) / 1e9);
    job.engine->drain("mobula: the job was asked to end (" + signal_name(signal) + ")", now + grace);
    return;
  }
  if (may_wait && (signal == SIGUSR1 || now - job.asked_at < kTwice)) return;
  end_at_once(job, signal, signal == SIGINT ? "interrupted" : "asked to end (" + signal_name(signal) + ")");
}

// A thread that needs no lock of this rank. It gives the rank's signs of life, so that a step that takes long is not
// taken for a loss. And it ends the rank where one call of MPI does not return, since with Open MPI 4 over TCP that can
// be for good, when a rank dies to which it was sending a large value: nobody waits for it then; if it is the head, the
// job ends. Time is counted in looks, so that none counts in which the process was stopped.
void guard(Job& job) {
  const std::chrono::nanoseconds lost_after = job.config.lost_after;
  if (!job.board || lost_after.count() == 0) return;
  job.guard = std::jthread([&job, lost_after](const std::stop_token& stop) {
    using namespace std::chrono_literals;
    const std::chrono::nanoseconds period = std::clamp<std::chrono::nanoseconds>(lost_after / 20, 5ms, 250ms);
    exec::name_thread("guard");
    std::mutex mutex;
    std::condition_variable_any never;
    std::unique_lock lock(mutex);
    std::uint64_t last = 0;
    std::chrono::nanoseconds stuck{0};
    while (!never.wait_for(lock, stop, period, [&stop] { return stop.stop_requested(); }) && !job.ended.load()) {
      job.engine->beat();
      const std::uint64_t call = job.mpi->call();
      stuck = transport::MpiWire::is_inside(call) && call == last ? stuck + period : 0ns;
      last = call;
      if (stuck < lost_after) continue;
      const std::string text = "mobula [rank " + std::to_string(job.mpi->rank()) + " on " + job.mpi->host() +
                               "]: a call of MPI has not returned for " + std::to_string(stuck / 1s) +
                               " s; the rank ends\n";
      core::write_all(STDERR_FILENO, text.data(), text.size());
      _exit(1);
    }
  });
}

int run_head(Job& job, const std::function<int()>& driver) {
  exec::Engine& engine = *job.engine;
  engine.on_signal = [&job](int signal) { on_head_signal(job, signal); };
  engine.on_grace_over = [&job] { end_at_once(job, job.end_signal, "what still ran has had its time"); };
  engine.start_threads();
  int code = 0;
  std::string reason;
  try {
    engine.join(core::kVersion, core::function_digest());
    job.joined.store(true);
    guard(job);
    core::job_begins();
    job.door = open_door(engine, job.config, note_signal);
    code = driver();
  } catch (const std::exception& e) {
    const bool was_asked = engine.draining() && dynamic_cast<const Cancelled*>(&e) != nullptr;
    code = was_asked ? 128 + job.end_signal : 1;
    reason = was_asked ? "the job was asked to end" : "the driver threw";
    std::cout.flush();
    if (was_asked) {
      std::fprintf(stderr, "mobula: the driver has ended: %s\n", e.what());
    } else {
      std::fprintf(stderr, "mobula: the driver ended with an exception: %s: %s\n", core::type_name(e).c_str(),
                   e.what());
    }
    const Failure* failure = was_asked ? nullptr : failure_of(e);
    if (failure != nullptr && !failure->host.empty()) {
      std::fprintf(stderr, "mobula: it came from task %s (%s), which ran on rank %u (%s), attempt %d\n",
                   failure->task.c_str(), failure->id.c_str(), failure->rank, failure->host.c_str(), failure->attempt);
    }
  } catch (...) {
    code = 1;
    reason = "the driver threw";
    std::fprintf(stderr, "mobula: the driver ended with an exception that is not a std::exception\n");
  }
  engine.wait_saved(grace_of(job));
  if (!end_job(job, code, reason)) pause();  // a signal is ending the process
  return code;
}

int run_worker(Job& job) {
  exec::Engine& engine = *job.engine;
  engine.on_signal = [&job](int signal) {
    // Launchers signal all ranks; the head ends the job in order. If it doesn't, the rank goes by itself.
    constexpr core::Time kInOrder = 1'500'000'000;
    if (job.engine->draining() && signal == SIGUSR1) return;
    job.end_signal = signal;
    // Without a keeper the launcher would see the rank's end, and take it for the job's.
    const bool leaves = signal != SIGINT && job.keeper != nullptr;
    const core::Time grace = signal == SIGINT ? 0 : grace_of(job);
    job.engine->leave(leaves ? grace : 0, core::now() + grace + kInOrder);
  };
  engine.on_grace_over = [&job] { _exit(128 + job.end_signal); };
  engine.on_left = [&job] {
    tell_and_trace(job);
    std::cout.flush();
    std::fflush(nullptr);
    _exit(0);
  };
  engine.start_threads();
  engine.join(core::kVersion, core::function_digest());
  guard(job);
  const int code = engine.serve();
  job.ended.store(true);
  const bool clean = engine.stop_threads();
  tell_and_trace(job);
  std::cout.flush();
  std::fflush(nullptr);
  ignore_signals();
  end_mpi(job, clean, 0);
  // Under mpirun the job's code is the first that is not 0: the head's.
  static_cast<void>(code);
  if (!clean) _exit(0);
  return 0;
}

}  // namespace

// Sandboxed tasks see the objects of the node where they lie.
void share_with_nursery(const Job& job) {
  const core::SharedMemory* const memory = job.memory ? job.memory.get() : job.mpi ? job.mpi->shared() : nullptr;
  if (memory != nullptr) job.nursery->share(memory->memory(), memory->file_to_read());
}

// The node's board, and what watches over it. Collective over the node.
void set_up_watch(Job& job) {
  transport::MpiWire& mpi = *job.mpi;
  auto memory = mpi.share_on_node(keeper::Board::bytes(mpi.node_size()), transport::MpiWire::Pages::made);
  if (!memory) return;
  job.board = std::make_shared<keeper::Board>(std::move(memory));
  const bool is_head = mpi.rank() == detail::kHeadRank;
  if (job.keeper) job.keeper->watch(job.board->file(), mpi.node_rank(), is_head);
  job.engine->set_watch(std::make_unique<exec::Watch>(job.board, mpi.node_members(), mpi.rank(),
                                                      std::chrono::nanoseconds(job.config.lost_after).count(),
                                                      job.keeper != nullptr, core::now()));
}

// Who has no keeper is told at the start what a death means, and what helps.
void warn_of_launcher(const Job& job) {
  if (!job.mpi || job.mpi->size() == 1 || job.mpi->rank() != detail::kHeadRank || job.keeper) return;
  const char* recovers = std::getenv("OMPI_MCA_orte_enable_recovery");
  const bool by_slurm = std::getenv("SLURM_STEP_NODELIST") != nullptr && std::getenv("OMPI_COMM_WORLD_SIZE") == nullptr;
  const std::string why = job.config.keeper ? "threads ran before mobula::run, so the ranks have no keepers"
                                            : "the ranks have no keepers (setting keeper)";
  if (by_slurm) {
    core::log_warn(why + ": Slurm ends the job when one dies; with keepers it goes on");
  } else if (recovers == nullptr || std::string(recovers) == "0") {
    core::log_warn(
        why +
        ": mpirun ends the job when one dies; with keepers it goes on, and also by mpirun --enable-recovery, "
        "which returns 0 then whatever the program's code, and over several hosts does not end by itself");
  }
}

exec::Engine* engine_or_null() { return g_engine; }

transport::Communicators& communicators() { return *g_job->communicators; }

exec::Engine& engine() {
  exec::Engine* const engine = g_engine;
  if (engine == nullptr)
    throw Error(nursery::context() != nullptr
                    ? "mobula: a sandboxed task can't use Refs, nor start tasks: give it values, and return them"
                    : "mobula: this must be called while mobula::run is going on, by the driver or a task");
  engine->require_open();
  return *engine;
}

}  // namespace mobula::api

namespace mobula::detail {

namespace {

int start(MPI_Comm over, int& argc, char** argv, const std::function<int()>& driver, const Config& given) {
  using namespace api;
  if (const char* door = std::getenv(nursery::kDoor)) nursery::live_as_guest(door);
  if (g_engine != nullptr) throw Error("mobula::run is going on already");
  // Never destroyed: handles that outlive the job, in static variables for example, still find its tables.
  auto* job = new Job;
  bool says = true;
  try {
    // MPI may take flags of its own; it starts first, so that only rank 0 speaks.
    if (over != MPI_COMM_NULL || launched_by_mpi()) {
      if (over == MPI_COMM_NULL) job->keeper = start_keeper(given, argc, argv);
      if (over == MPI_COMM_NULL) job->nursery = nursery::Nursery::start();
      job->mpi = transport::MpiWire::start(over);
      if (job->keeper) job->keeper->hold_pmix();
      says = job->mpi->rank() == 0;
    } else {
      job->nursery = nursery::Nursery::start();
    }
    if (over == MPI_COMM_NULL) check_slurm_step(job->mpi ? job->mpi->size() : 1);
    job->config = core::load_config(given, argc, argv, core::process_environment());
  } catch (const Error& e) {
    if (says) std::fprintf(stderr, "%s\n", e.what());
    if (job->mpi) job->mpi->finalize();
    if (job->keeper) job->keeper->leave();
    return 2;
  }
  // The program goes on: it can't be left with threads that run tasks.
  if (over != MPI_COMM_NULL) job->config.stop_grace = std::chrono::hours(24 * 365);
  transport::Wire* wire = job->mpi.get();
  if (wire == nullptr) {
    job->hub = std::make_unique<transport::LocalHub>(1);
    wire = &job->hub->at(0);
  }
  const bool is_head = wire->rank() == kHeadRank;
  core::log_start(job->config.log, wire->rank());
  core::trace_enabled = job->config.trace_events;
  exec::Settings settings = make_settings(job->config, job->mpi.get(), is_head);
  std::string error;
  try {
    set_up_store(*job, settings);
    if (!job->config.journal.empty()) job->journal = std::make_unique<journal::Journal>(job->config.journal);
    if (job->journal && is_head) job->journal->take();
  } catch (const Error& e) {
    error = e.what();
  }
  // One line for each node; where one can't start, none does. Others read the journal from here on.
  if (!error.empty() && (!job->mpi || job->mpi->node_rank() == 0)) std::fprintf(stderr, "%s\n", error.c_str());
  if (job->mpi ? !job->mpi->all(error.empty()) : !error.empty()) {
    if (job->mpi) job->mpi->finalize();
    if (job->keeper) job->keeper->leave();
    return 2;
  }
  if (job->mpi && job->mpi->thread_level() < MPI_THREAD_SERIALIZED) {
    core::log_warn(
        "MPI was started for one thread only; Mobula calls it from several, one at a time: start it with "
        "MPI_THREAD_SERIALIZED or more, as in boost::mpi::environment env(boost::mpi::threading::multiple)");
  }
  core::log_info("Mobula " + std::string(core::kVersion) + ", rank " + std::to_string(wire->rank()) + " of " +
                 std::to_string(wire->size()) + " on " + settings.host + ", " + std::to_string(settings.worker.slots) +
                 " slots, " + mib(settings.store.memory.size()) + " for objects, scratch in " +
                 (settings.scratch.empty() ? "no folder" : settings.scratch) +
                 (job->mpi ? ", MPI thread level " + std::to_string(job->mpi->thread_level()) : ", without MPI"));
  head::Settings head_settings;
  head_settings.ranks = wire->size();
  head_settings.version = core::kVersion;
  head_settings.digest = core::function_digest();
  head_settings.inline_limit = job->config.inline_limit;
  head_settings.crash_limit = static_cast<std::uint32_t>(job->config.crash_limit);
  head_settings.lineage_limit = job->config.lineage_limit;
  head_settings.lost_after = std::chrono::nanoseconds(job->config.lost_after).count();
  job->engine = std::make_unique<exec::Engine>(*wire, std::move(settings), is_head ? &head_settings : nullptr);
  job->communicators = std::make_unique<transport::Communicators>(job->mpi ? job->mpi->communicator() : MPI_COMM_NULL);
  job->engine->on_drop_communicator = [job](const core::DropCommunicator& message) {
    if (message.broken) {
      job->communicators->drop_later(message.communicator);
    } else {
      job->communicators->drop(message.communicator);
    }
  };
  job->engine->on_left_behind = [job] { job->communicators->let_others_pass(); };
  if (job->nursery) share_with_nursery(*job);
  job->engine->set_nursery(job->nursery.get());
  job->engine->set_journal(job->journal.get());
  if (job->mpi) set_up_watch(*job);
  if (over == MPI_COMM_NULL) warn_of_launcher(*job);
  job->engine->on_must_end = [job](const std::string& why) {
    std::fprintf(stderr, "mobula [rank %u on %s]: %s; the rank ends\n", job->engine->transport().rank(),
                 job->engine->settings().host.c_str(), why.c_str());
    std::fflush(nullptr);
    _exit(1);
  };
  g_engine = job->engine.get();
  g_job = job;
  catch_signals();
  std::optional<NoBrokenPipes> no_broken_pipes;
  if (wire->size() > 1) no_broken_pipes.emplace();
  static const bool registered = [] { return on_exit(&on_process_exit, nullptr) == 0; }();
  static_cast<void>(registered);
  const int code = is_head ? run_head(*job, driver) : run_worker(*job);
  restore_signals();
  g_engine = nullptr;
  if (job->memory) job->memory->retire();  // a thread that the driver has left may be writing a value into it
  job->memory.reset();
  job->nursery.reset();
  job->journal.reset();
  return code;
}

}  // namespace

int run(int& argc, char** argv, const std::function<int()>& driver, const Config& config) {
  return start(MPI_COMM_NULL, argc, argv, driver, config);
}

int run_on(MPI_Comm communicator, const std::function<int()>& driver, const Config& config) {
  if (communicator == MPI_COMM_NULL)
    throw std::invalid_argument("mobula::run_on: this rank is not in the communicator");
  int argc = 0;
  std::array<char*, 1> none{};
  return start(communicator, argc, none.data(), driver, config);
}

}  // namespace mobula::detail
