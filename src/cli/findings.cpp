#include "cli/findings.hpp"

#include <hwloc.h>
#include <ifaddrs.h>
#include <mpi.h>
#include <net/if.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <thread>

#include "core/host.hpp"
#include "core/version.hpp"
#include "exec/scratch.hpp"
#include "programs/container.hpp"
#include "topology/topology.hpp"

namespace mobula::cli {
namespace fs = std::filesystem;

namespace {

using Level = Finding::Level;
constexpr std::uint64_t kMiB = 1 << 20;
constexpr std::uint64_t kGiB = 1 << 30;

std::string mib(std::uint64_t bytes) { return std::to_string(bytes / kMiB) + " MiB"; }

std::uint64_t limit_of(__rlimit_resource what) {
  rlimit limit{};
  if (getrlimit(what, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return 0;
  return limit.rlim_cur;
}

bool is_set(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' && std::string(value) != "0";
}

// Whether one process of this user may read the memory of another that is not its child, as ranks do.
bool reads_siblings() {
  void* const page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return false;
  static int number = 0;
  number = 1;
  const pid_t other = fork();
  if (other == 0) {
    number = 42;
    *static_cast<volatile int*>(page) = 1;
    while (true) pause();
  }
  const pid_t reader = other < 0 ? -1 : fork();
  if (reader == 0) {
    alarm(5);
    while (*static_cast<volatile int*>(page) == 0) usleep(100);
    int seen = 0;
    const iovec to{&seen, sizeof seen};
    const iovec from{&number, sizeof number};
    _exit(process_vm_readv(other, &to, 1, &from, 1, 0) == sizeof seen && seen == 42 ? 0 : 1);
  }
  int status = 1;
  if (reader > 0) waitpid(reader, &status, 0);
  if (other > 0) {
    kill(other, SIGKILL);
    waitpid(other, nullptr, 0);
  }
  munmap(page, 4096);
  return status == 0;
}

std::string digest_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return "";
  XXH3_state_t* const state = XXH3_createState();
  XXH3_64bits_reset(state);
  std::vector<char> part(kMiB);
  while (file.read(part.data(), static_cast<std::streamsize>(part.size())) || file.gcount() > 0)
    XXH3_64bits_update(state, part.data(), static_cast<std::size_t>(file.gcount()));
  const auto digest = XXH3_64bits_digest(state);
  XXH3_freeState(state);
  std::array<char, 17> text{};
  std::snprintf(text.data(), text.size(), "%016llx", static_cast<unsigned long long>(digest));
  return text.data();
}

std::string container_kind() {
  if (is_set("APPTAINER_CONTAINER") || is_set("SINGULARITY_CONTAINER")) return "Apptainer";
  if (is_set("CH_RUNNING")) return "Charliecloud";
  if (fs::exists("/run/.containerenv")) return "Podman";
  if (fs::exists("/.dockerenv")) return "Docker";
  return "";
}

std::vector<std::string> interfaces() {
  std::set<std::string> names;
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return {};
  for (const ifaddrs* of = all; of != nullptr; of = of->ifa_next) {
    const bool counts = of->ifa_addr != nullptr && of->ifa_addr->sa_family == AF_INET &&
                        (of->ifa_flags & IFF_LOOPBACK) == 0 && (of->ifa_flags & IFF_UP) != 0;
    if (counts) names.insert(of->ifa_name);
  }
  freeifaddrs(all);
  return {names.begin(), names.end()};
}

std::string version_text(std::uint32_t hwloc) {
  return std::to_string(hwloc >> 16) + "." + std::to_string(hwloc >> 8 & 0xff) + "." + std::to_string(hwloc & 0xff);
}

std::string joined(const std::set<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

}  // namespace

Facts facts_here(const std::string& program, std::uint32_t world) {
  Facts facts;
  facts.host = core::host_name();
  facts.version = core::kVersion;
  facts.program = digest_of(program.empty() ? "/proc/self/exe" : program);
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> mpi{};
  int length = 0;
  MPI_Get_library_version(mpi.data(), &length);
  facts.mpi = mpi.data();
  facts.mpi = facts.mpi.substr(0, facts.mpi.find(','));
  utsname names{};
  if (uname(&names) == 0) facts.kernel = names.release;
  facts.container = container_kind();
  std::error_code error;
  facts.user_namespace = fs::read_symlink("/proc/self/ns/user", error).string();
  facts.world = world;
  facts.hwloc = hwloc_get_api_version();
  struct statvfs shared {};
  if (statvfs("/dev/shm", &shared) == 0) {
    facts.shared_bytes = shared.f_blocks * shared.f_frsize;
    facts.shared_free = shared.f_bavail * shared.f_frsize;
  }
  facts.memory = topology::usable_memory();
  facts.address_limit = limit_of(RLIMIT_AS);
  facts.locked_limit = limit_of(RLIMIT_MEMLOCK);
  facts.files_limit = limit_of(RLIMIT_NOFILE);
  facts.cores = static_cast<std::uint32_t>(topology::allowed_cores().size());
  facts.machine_cores = std::thread::hardware_concurrency();
  if (const long online = sysconf(_SC_NPROCESSORS_ONLN); online > 0)
    facts.machine_cores = static_cast<std::uint32_t>(online);
  facts.reads_siblings = reads_siblings();
  const char* mechanism = std::getenv("OMPI_MCA_btl_vader_single_copy_mechanism");
  facts.copies_once = mechanism == nullptr || std::string(mechanism) != "none";
  facts.has_infiniband = fs::exists("/sys/class/infiniband") && !fs::is_empty("/sys/class/infiniband", error);
  facts.forks_safely = is_set("FI_EFA_FORK_SAFE") || is_set("RDMAV_FORK_SAFE") || is_set("IBV_FORK_SAFE");
  facts.scratch = exec::default_scratch();
  if (struct statvfs scratch{}; !facts.scratch.empty() && statvfs(facts.scratch.c_str(), &scratch) == 0)
    facts.scratch_free = scratch.f_bavail * scratch.f_frsize;
  facts.runtimes = programs::runtimes_here();
  facts.interfaces = interfaces();
  facts.clock = core::system_seconds();
  return facts;
}

std::vector<Finding> findings_of(const Facts& facts) {
  std::vector<Finding> all;
  const auto say = [&all](Level level, std::string what, std::string remedy = "") {
    all.push_back({level, std::move(what), std::move(remedy)});
  };
  if (facts.shared_bytes == 0) {
    say(Level::fault, "there is no /dev/shm: ranks of a node can't share memory", "mount a tmpfs there");
  } else if (facts.shared_free < kGiB / 2) {
    say(facts.shared_free < 16 * kMiB ? Level::fault : Level::warning,
        "/dev/shm has " + mib(facts.shared_bytes) + ", " + mib(facts.shared_free) +
            " of it free: the objects of all ranks of a node have to fit in that",
        facts.container.empty()
            ? "mount it larger, or remove what others have left there"
            : "start the container with --shm-size=4g or --ipc=host (docker, podman; shm_size in a compose file); in "
              "Kubernetes mount an emptyDir with medium Memory there");
  } else {
    say(Level::good, "/dev/shm has " + mib(facts.shared_bytes) + ", " + mib(facts.shared_free) + " of it free");
  }
  if (facts.address_limit != 0 && facts.address_limit < 4 * facts.memory) {
    say(Level::warning, "this process may have only " + mib(facts.address_limit) + " of addresses (ulimit -v)",
        "ulimit -v unlimited, or a smaller --mobula-store");
  }
  say(facts.memory < 2 * kGiB ? Level::warning : Level::good,
      "this process may use " + mib(facts.memory) + " of memory",
      facts.memory < 2 * kGiB ? "ask for more (srun --mem, docker --memory), or set a smaller --mobula-store" : "");
  if (facts.has_infiniband && facts.locked_limit != 0 && facts.locked_limit < kGiB) {
    say(Level::warning,
        "this process may lock only " + mib(facts.locked_limit) + " of memory, which the fast network needs",
        "ulimit -l unlimited, in the unit of slurmd too (LimitMEMLOCK=infinity)");
  }
  if (facts.has_infiniband && !facts.forks_safely) {
    say(Level::warning, "there is a fast network, and its libraries were not told that processes fork",
        "export FI_EFA_FORK_SAFE=1 RDMAV_FORK_SAFE=1 (older kernels end a process that forks otherwise)");
  }
  if (facts.files_limit != 0 && facts.files_limit < 1024) {
    say(Level::warning, "this process may open only " + std::to_string(facts.files_limit) + " files", "ulimit -n 4096");
  }
  if (facts.cores * 2 <= facts.machine_cores) {
    say(Level::note,
        "this process may use " + std::to_string(facts.cores) + " of the " + std::to_string(facts.machine_cores) +
            " cores of the machine",
        "if that is not meant: mobula run -c CORES, srun -c CORES, or mpirun --bind-to none");
  } else {
    say(Level::good, "this process may use " + std::to_string(facts.cores) + " cores");
  }
  if (facts.reads_siblings) {
    say(Level::good, "ranks of a node can read each other's memory");
  } else if (facts.copies_once) {
    const bool in_docker = facts.container == "Docker" || facts.container == "Podman";
    say(Level::warning,
        "ranks of a node can't read each other's memory: Open MPI copies large messages twice, and may "
        "print a line for each",
        in_docker
            ? "start the container with --cap-add=SYS_PTRACE, or export OMPI_MCA_btl_vader_single_copy_mechanism=none"
            : "sysctl kernel.yama.ptrace_scope=0, or export OMPI_MCA_btl_vader_single_copy_mechanism=none");
  }
  constexpr std::uint32_t kLeastHwloc = 0x0002'0701;
  // The API's version says 2.7 for all of 2.7.x.
  if (facts.hwloc < (kLeastHwloc & 0xffff'ff00)) {
    say(Level::fault, "hwloc " + version_text(facts.hwloc) + " is too old: it damages the environment",
        "load hwloc 2.7.1 or later");
  }
  if (facts.scratch.empty()) {
    say(Level::warning, "no folder for scratch can be written: objects that memory has no room for fail",
        "set TMPDIR, or --mobula-scratch=FOLDER, to a folder on a disk");
  } else if (facts.scratch_free < kGiB) {
    say(Level::warning, "the folder for scratch, " + facts.scratch + ", has only " + mib(facts.scratch_free) + " free",
        "set TMPDIR, or --mobula-scratch=FOLDER, to a larger one");
  }
  std::string runtimes;
  for (const std::string& runtime : facts.runtimes) runtimes += (runtimes.empty() ? "" : ", ") + runtime;
  say(Level::good, runtimes.empty() ? "no container runtime is in PATH" : "containers: " + runtimes);
  return all;
}

std::vector<Finding> findings_of(const Surroundings& at, const std::string& mpirun_version) {
  std::vector<Finding> all;
  const bool has_mpirun = !mpirun_version.empty();
  const std::string line = mpirun_version.substr(0, mpirun_version.find('\n'));
  if (at.family == Surroundings::Family::open_mpi && has_mpirun) {
    const bool is_ours = line.find("Open MPI") != std::string::npos || line.find("OpenRTE") != std::string::npos;
    const std::size_t digit = line.find_first_of("0123456789");
    const int major = digit == std::string::npos ? 0 : std::atoi(line.c_str() + digit);
    if (!is_ours || major != at.major) {
      all.push_back({Level::fault,
                     "mpirun is of another MPI (" + line + ") than Mobula was built with (Open MPI " +
                         std::to_string(at.major) + "): each rank would be alone",
                     "load the module of that MPI, or build Mobula with the MPI that is loaded"});
    } else {
      all.push_back({Level::good, line, ""});
    }
  }
  if (!has_mpirun && !at.in_allocation()) {
    all.push_back({Level::warning, "mpirun is not in PATH: programs run in one process only",
                   "load the module of the MPI that Mobula was built with"});
  }
  if (at.has("srun")) {
    const std::string types = at.mpi_types();
    if (types.find("pmix") != std::string::npos) {
      all.push_back({Level::good, "Slurm starts ranks by PMIx", ""});
    } else if (at.in_allocation()) {
      all.push_back({at.has("mpirun") ? Level::warning : Level::fault,
                     "this Slurm has no PMIx: under srun each rank would be alone, or stop in MPI_Init",
                     "start with mpirun (mobula run does), or have Slurm built with PMIx"});
    }
  }
  if (!at.variable("SLURM_JOB_ID").empty() && at.variable("SLURM_CPUS_PER_TASK") != at.variable("SRUN_CPUS_PER_TASK") &&
      !at.variable("SLURM_CPUS_PER_TASK").empty()) {
    all.push_back({Level::note, "Slurm 22.05 to 23.02 doesn't pass --cpus-per-task from sbatch on to srun",
                   "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK, or use mobula run"});
  }
  return all;
}

std::vector<Finding> findings_of(const std::vector<Facts>& ranks, std::uint32_t tasks) {
  std::vector<Finding> all;
  if (ranks.empty()) return all;
  const Facts& head = ranks.front();
  if (tasks > 1 && head.world == 1) {
    return {{Level::fault, "the launcher started " + std::to_string(tasks) + " ranks, and each sees itself alone",
             "start with the launcher of the MPI that Mobula was built with (" + head.mpi + "), or srun --mpi=pmix"}};
  }
  std::map<std::string, std::set<std::string>> namespaces;  // by host
  std::set<std::string> versions;
  std::set<std::string> others;
  std::set<std::string> hosts;
  bool copies_once = false;
  double first = head.clock;
  double last = head.clock;
  for (const Facts& of : ranks) {
    hosts.insert(of.host);
    namespaces[of.host].insert(of.user_namespace);
    copies_once = copies_once || of.copies_once;
    if (of.version != head.version) versions.insert(of.version + " on " + of.host);
    if (of.program != head.program) others.insert(of.host);
    first = std::min(first, of.clock);
    last = std::max(last, of.clock);
  }
  for (const auto& [host, of] : namespaces) {
    if (of.size() == 1) continue;
    all.push_back({copies_once ? Level::fault : Level::note,
                   "the ranks on " + host + " are in " + std::to_string(of.size()) + " namespaces of users" +
                       (copies_once ? ": Open MPI hangs at the first large message between them" : ""),
                   copies_once ? "one for all ranks of a node: apptainer exec --sharens, ch-run --join (mobula run "
                                 "--container does that); or export OMPI_MCA_btl_vader_single_copy_mechanism=none"
                               : ""});
  }
  if (!versions.empty()) {
    all.push_back(
        {Level::fault,
         "ranks have other versions of Mobula than " + head.version + " on " + head.host + ": " + joined(versions),
         "install the same on all nodes"});
  } else if (!others.empty()) {
    all.push_back({Level::fault, "the program's file differs from that on " + head.host + " on " + joined(others),
                   "start all ranks from the same file, on a file system that all nodes see"});
  } else {
    all.push_back(
        {Level::good, std::to_string(ranks.size()) + " ranks on " + joined(hosts) + " run the same program", ""});
  }
  if (constexpr double kSkew = 2; last - first > kSkew) {
    all.push_back(
        {Level::warning,
         "the clocks of the nodes differ by " + std::to_string(std::lround(last - first)) + " s: times in logs are off",
         "chronyc makestep, or see to the nodes' NTP"});
  }
  if (hosts.size() > 1 && head.interfaces.size() > 1 && std::getenv("OMPI_MCA_btl_tcp_if_include") == nullptr) {
    std::string names;
    for (const std::string& name : head.interfaces) names += (names.empty() ? "" : ", ") + name;
    all.push_back({Level::note,
                   "there are several networks (" + names + "): MPI may pick one that leads nowhere, and hang",
                   "if it does: export OMPI_MCA_btl_tcp_if_include=NAME and OMPI_MCA_oob_tcp_if_include=NAME"});
  }
  return all;
}

}  // namespace mobula::cli
