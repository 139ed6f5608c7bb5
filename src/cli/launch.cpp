#include "cli/launch.hpp"

#include <mpi.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>
#include <thread>

#include "core/config.hpp"
#include "core/host.hpp"
#include "core/launcher.hpp"
#include "core/verdict.hpp"
#include "mobula/error.hpp"
#include "programs/program.hpp"
#include "topology/topology.hpp"

namespace mobula::cli {
namespace fs = std::filesystem;

namespace {

using Words = std::vector<std::string>;

void add(Words& to, std::initializer_list<std::string> words) { to.insert(to.end(), words); }

std::string first_of(const Surroundings& at, std::initializer_list<const char*> programs) {
  for (const char* program : programs) {
    if (at.has(program)) return program;
  }
  return "";
}

// What makes the rank a process in a container whose other ranks share memory with it: one namespace of users for all
// ranks of a node where the runtime would make one for each, since memory can't be read across them, and Open MPI then
// hangs at the first large message.
Words inside(const Wish& wish, const Surroundings& at, Launch& launch) {
  std::string runtime = wish.runtime;
  if (runtime.empty()) {
    const std::string found = first_of(at, {"apptainer", "ch-run", "podman", "docker"});
    runtime = found == "ch-run" ? "charliecloud" : found;
  }
  if (runtime.empty())
    throw Error(
        "mobula: no container runtime is in PATH here: install or load Apptainer, Charliecloud, Podman or Docker");
  Words words;
  if (runtime == "apptainer") {
    add(words, {"apptainer", "exec", at.is_root ? "--no-privs" : "--sharens"});
    for (const std::string& bind : wish.binds) add(words, {"--bind", bind});
    add(words, {wish.image});
  } else if (runtime == "charliecloud") {
    add(words, {"ch-run", "--join", "--cd=" + at.folder, "--bind=" + at.folder});
    for (const std::string& bind : wish.binds) add(words, {"--bind=" + bind});
    add(words, {wish.image, "--"});
  } else if (runtime == "docker" || runtime == "podman") {
    // The launcher's variables differ by rank: a process of ours passes them on where the rank starts.
    add(words, {at.self, "enter", "--runtime", runtime});
    for (const std::string& bind : wish.binds) add(words, {"--mount", bind});
    add(words, {wish.image});
    if (runtime == "podman" && !at.is_root) {
      launch.env.emplace_back("OMPI_MCA_btl_vader_single_copy_mechanism", "none");
      launch.notes.emplace_back(
          "rootless Podman gives each rank a namespace of users of its own: large messages between ranks are copied "
          "twice");
    }
  } else {
    throw Error("mobula: there is no container runtime '" + runtime +
                "': it is apptainer, charliecloud, podman or docker");
  }
  return words;
}

void check(const Wish& wish) {
  if (wish.words.empty()) throw Error("mobula: say which program: mobula run [options] PROGRAM [arguments]");
  if (!wish.hosts.empty() && access(wish.hosts.c_str(), R_OK) != 0)
    throw Error("mobula: the file of hosts " + wish.hosts + " can't be read: " + std::strerror(errno));
}

std::string choose(const Wish& wish, const Surroundings& at) {
  if (!wish.launcher.empty()) return wish.launcher;
  if (!wish.hosts.empty()) return "mpirun";
  if (at.in_allocation()) {
    if (at.has("srun") && at.mpi_types().find("pmix") != std::string::npos) return "srun";
    return "mpirun";
  }
  return wish.ranks > 1 || wish.nodes > 1 ? "mpirun" : "none";
}

constexpr const char* kFence = "SLURM_PMIX_FENCE";  // how Slurm has the ranks of several nodes wait for each other

Words with_srun(const Wish& wish, const Surroundings& at, Launch& launch) {
  if (!at.has("srun"))
    throw Error("mobula: srun is not in PATH here: load Slurm's module, or start with --launcher mpirun");
  Words words{"srun"};
  // Within a step of its own, as in `srun --pty bash`, the new one shares its cores.
  if (!at.variable("SLURM_STEP_ID").empty()) add(words, {"--overlap"});
  const std::string types = at.mpi_types();
  if (types.find("pmix") != std::string::npos) {
    add(words, {"--mpi=pmix"});
    // By Slurm's default a rank of a loaded machine is now and then sent messages before it can take any.
    if (at.variable(kFence).empty()) launch.env.emplace_back(kFence, "ring");
  } else if (!types.empty() && at.family == Surroundings::Family::open_mpi) {
    throw Error("mobula: this Slurm has no PMIx (srun --mpi=list says: " + types.substr(0, types.find('\n')) +
                "), so srun can't start programs of Open MPI: start with --launcher mpirun");
  }
  if (wish.nodes != 0) add(words, {"--nodes=" + std::to_string(wish.nodes)});
  if (wish.ranks != 0) add(words, {"--ntasks=" + std::to_string(wish.ranks)});
  if (wish.per_node != 0) add(words, {"--ntasks-per-node=" + std::to_string(wish.per_node)});
  // Since 22.05 a step takes the job's cpus per task only where it is told so.
  const std::string cpus = wish.cpus != 0 ? std::to_string(wish.cpus) : at.variable("SLURM_CPUS_PER_TASK");
  if (!cpus.empty()) add(words, {"--cpus-per-task=" + cpus});
  if (!wish.bind.empty()) add(words, {"--cpu-bind=" + (wish.bind == "core" ? "cores" : wish.bind)});
  if (wish.oversubscribe) add(words, {"--overcommit"});
  // A job outlives ranks and nodes; only the head reads the input.
  add(words, {"--kill-on-bad-exit=0", "--no-kill", "--wait=0", "--input=0"});
  return words;
}

Words with_mpirun(const Wish& wish, const Surroundings& at, Launch& launch) {
  const std::string program = first_of(at, {"mpirun", "mpiexec"});
  if (program.empty())
    throw Error("mobula: mpirun is not in PATH here: load the module of the MPI that the program was built with");
  Words words{program};
  const int ranks = wish.ranks != 0 ? wish.ranks : wish.per_node * std::max(wish.nodes, 1);
  const bool one_machine = wish.hosts.empty() && !at.in_allocation();
  if (ranks != 0) add(words, {"-n", std::to_string(ranks)});
  if (at.family != Surroundings::Family::open_mpi) {
    if (!wish.hosts.empty()) add(words, {"-f", wish.hosts});
    if (wish.per_node != 0) add(words, {"-ppn", std::to_string(wish.per_node)});
    if (at.family == Surroundings::Family::mpich) add(words, {"-disable-auto-cleanup"});
    return words;
  }
  if (!wish.hosts.empty()) add(words, {"--hostfile", wish.hosts});
  // With hosts it has to say which of them can't be reached.
  if (wish.code_counts && wish.hosts.empty() && at.major < 5) add(words, {"--quiet"});
  const std::string cpus = wish.cpus > 1 ? ":PE=" + std::to_string(wish.cpus) : "";
  if (wish.per_node != 0) {
    add(words, {"--map-by", "ppr:" + std::to_string(wish.per_node) + ":node" + cpus});
  } else if (!cpus.empty()) {
    add(words, {"--map-by", "slot" + cpus});
  }
  const bool crowded = one_machine && ranks > at.cores;
  if (wish.oversubscribe || crowded) {
    add(words, {"--oversubscribe"});
    launch.env.emplace_back("OMPI_MCA_mpi_yield_when_idle", "1");
    if (crowded && !wish.oversubscribe)
      launch.notes.push_back(std::to_string(ranks) + " ranks share " + std::to_string(at.cores) + " cores");
  }
  // Without masks of their own the ranks of a node share its cores evenly. Ranks that end without the others are none
  // of the launcher's business.
  add(words, {"--bind-to", wish.bind.empty() ? "none" : wish.bind});
  if (at.major < 5) add(words, {"--mca", "orte_allowed_exit_without_sync", "1"});
  // A tree keeps its ssh sessions open, and mpirun takes the end of one, as when a host is lost, for a failed start;
  // daemons that mpirun starts itself leave theirs.
  if (!wish.hosts.empty() && at.major < 5) add(words, {"--mca", "plm_rsh_no_tree_spawn", "1"});
  if (!wish.hosts.empty() && wish.goes_on) {
    // A lost host is no reason to end the job; but mpirun does not end by itself then, nor say the head's code.
    launch.over_hosts = true;
    if (at.major < 5) add(words, {"--enable-recovery"});
    add(words, {"-x", core::kVerdict});
  }
  if (at.is_root) {
    launch.env.emplace_back("OMPI_ALLOW_RUN_AS_ROOT", "1");
    launch.env.emplace_back("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
  }
  if (!wish.image.empty() && launch.env.empty()) launch.env.emplace_back("OMPI_MCA_mpi_yield_when_idle", "1");
  return words;
}

}  // namespace

void Wish::add_to(CLI::App& app) {
  app.add_option("-n,--ranks", ranks, "how many ranks; rank 0 is the head, and the others run tasks")
      ->check(CLI::PositiveNumber);
  app.add_option("-N,--nodes", nodes, "on how many nodes")->check(CLI::PositiveNumber);
  app.add_option("--per-node", per_node, "ranks on each node")->check(CLI::PositiveNumber);
  app.add_option("-c,--cpus", cpus, "cores of each rank")->check(CLI::PositiveNumber);
  app.add_option("--bind", bind, "bind ranks to cores; by default those of a node share its cores evenly")
      ->check(CLI::IsMember({"core", "none"}));
  app.add_option("--hosts", hosts, "a file with a host in each line, which are reached over ssh");
  app.add_flag("--oversubscribe", oversubscribe, "more ranks than cores are meant");
  app.add_option("--launcher", launcher, "srun, mpirun or none, in place of whichever fits")
      ->check(CLI::IsMember({"srun", "mpirun", "none"}));
  app.add_option("--container", image, "the image in which each rank runs");
  app.add_option("--runtime", runtime, "apptainer, charliecloud, podman or docker; by default the first that is there")
      ->check(CLI::IsMember({"apptainer", "charliecloud", "podman", "docker"}));
  app.add_option("--mount", binds, "a folder that the container sees, as FOLDER or FOLDER:AS")->allow_extra_args(false);
}

Surroundings Surroundings::here() {
  Surroundings at;
  for (const std::string& entry : core::process_environment()) {
    const std::size_t equals = entry.find('=');
    if (equals != std::string::npos) at.env[entry.substr(0, equals)] = entry.substr(equals + 1);
  }
  at.cores = static_cast<int>(topology::allowed_cores().size());
  at.is_root = geteuid() == 0;
  std::error_code ignored;
  at.folder = fs::current_path(ignored).string();
  at.self = fs::read_symlink("/proc/self/exe", ignored).string();
#if defined(OMPI_MAJOR_VERSION)
  at.major = OMPI_MAJOR_VERSION;
#elif defined(MPICH_VERSION)
  at.family = Family::mpich;
#else
  at.family = Family::other;
#endif
  at.has = [](const std::string& program) {
    return !programs::find_program(program, core::process_environment()).empty();
  };
  at.mpi_types = [] { return core::output_of("srun --mpi=list 2>&1"); };
  return at;
}

std::string Surroundings::variable(const std::string& name) const {
  const auto found = env.find(name);
  return found != env.end() ? found->second : "";
}

bool Surroundings::in_mpi_rank() const {
  for (const char* name : core::kSaysRank) {
    if (!variable(name).empty()) return true;
  }
  return false;
}

bool Surroundings::in_rank() const { return in_mpi_rank() || std::atoi(variable("SLURM_STEP_NUM_TASKS").c_str()) > 1; }

std::string quoted(const std::string& word) {
  constexpr const char* kPlain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-";
  if (!word.empty() && word.find_first_not_of(kPlain) == std::string::npos) return word;
  std::string text = "'";
  for (const char c : word) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

std::string Launch::text() const {
  std::string line;
  for (const auto& [name, value] : env) line += name + "=" + quoted(value) + " ";
  for (const std::string& word : words) line += quoted(word) + " ";
  line.pop_back();
  return line;
}

void Launch::tell_notes() const {
  for (const std::string& note : notes) std::fprintf(stderr, "mobula: %s\n", note.c_str());
}

Launch plan(const Wish& wish, const Surroundings& at) {
  check(wish);
  if (at.in_rank())
    throw Error("mobula: this is a rank of a job already: start the program itself here, without mobula run");
  Launch launch;
  const std::string launcher = choose(wish, at);
  if (launcher == "srun") launch.words = with_srun(wish, at, launch);
  if (launcher == "mpirun") launch.words = with_mpirun(wish, at, launch);
  if (launcher == "none" && (wish.ranks > 1 || wish.nodes > 1))
    throw Error("mobula: several ranks need a launcher: leave out --launcher none");
  if (!wish.image.empty()) {
    const Words around = inside(wish, at, launch);
    launch.words.insert(launch.words.end(), around.begin(), around.end());
  }
  launch.words.insert(launch.words.end(), wish.words.begin(), wish.words.end());
  return launch;
}

namespace {

volatile std::sig_atomic_t g_signal = 0;

// For what is started: the words, with a null pointer behind them.
std::vector<char*> prepare(const Launch& launch) {
  for (const auto& [name, value] : launch.env) setenv(name.c_str(), value.c_str(), 1);
  std::fflush(nullptr);
  std::vector<char*> words;
  words.reserve(launch.words.size() + 1);
  for (const std::string& word : launch.words) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  return words;
}

int code_of(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); }

pid_t spawn(const Launch& launch) {
  const std::vector<char*> words = prepare(launch);
  pid_t child = 0;
  if (const int error = posix_spawnp(&child, words.front(), nullptr, nullptr, words.data(), environ); error != 0)
    throw Error("mobula: " + launch.words.front() + " can't be started: " + std::strerror(error));
  return child;
}

// The launcher's own end, or that of the job, whichever comes first.
int wait_for_job(pid_t launcher, const std::string& verdict) {
  constexpr auto kLook = std::chrono::milliseconds(100);  // the file may be on a file system of many nodes
  constexpr auto kOrderly = std::chrono::seconds(3);      // for the launcher to end, once the head has
  std::optional<std::chrono::steady_clock::time_point> ended;
  int told = 0;
  while (true) {
    int status = 0;
    const pid_t pid = waitpid(launcher, &status, WNOHANG);
    const core::Verdict said = core::read_verdict(verdict);
    if (pid == launcher) {
      if (said.code) return *said.code;
      const int code = code_of(status);
      if (said.begun && code == 0) {
        std::fprintf(stderr, "mobula: the head has ended without a word\n");
        return 128 + SIGKILL;
      }
      return code;
    }
    if (const int signal = g_signal; signal != 0) {
      g_signal = 0;
      kill(launcher, signal);
    }
    const auto now = std::chrono::steady_clock::now();
    if (said.code && !ended) ended = now;
    if (ended && now - *ended > (told + 1) * kOrderly) kill(launcher, told++ == 0 ? SIGTERM : SIGKILL);
    std::this_thread::sleep_for(kLook);
  }
}

}  // namespace

void start(const Launch& launch) {
  if (!launch.over_hosts) become(launch);
  // In the working directory, which hosts share more often than any other.
  const std::string verdict = Surroundings::here().folder + "/.mobula-" + std::to_string(getpid());
  setenv(core::kVerdict, verdict.c_str(), 1);
  launch.tell_notes();
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2}) {
    struct sigaction action {};
    action.sa_handler = [](int which) { g_signal = which; };
    sigaction(signal, &action, nullptr);
  }
  const int code = wait_for_job(spawn(launch), verdict);
  unlink(verdict.c_str());
  std::exit(code);
}

int run_limited(const Launch& launch, std::chrono::seconds limit) {
  const pid_t child = spawn(launch);
  const auto until = std::chrono::steady_clock::now() + limit;
  int status = 0;
  while (waitpid(child, &status, WNOHANG) == 0) {
    if (std::chrono::steady_clock::now() > until) {
      kill(child, SIGTERM);
      std::this_thread::sleep_for(std::chrono::seconds(3));
      kill(child, SIGKILL);
      waitpid(child, &status, 0);
      return -1;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return code_of(status);
}

void become(const Launch& launch) {
  launch.tell_notes();
  const std::vector<char*> words = prepare(launch);
  execvp(words.front(), words.data());
  throw Error("mobula: " + launch.words.front() + " can't be started: " + std::strerror(errno));
}

}  // namespace mobula::cli
