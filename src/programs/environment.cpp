#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string_view>

#include "core/host.hpp"
#include "programs/program.hpp"

namespace mobula::programs {
namespace {

// Launchers' own: what begins so is for the rank, and misleads another MPI program.
constexpr std::array<std::string_view, 26> kLaunchers{"OMPI_COMM_WORLD_",
                                                      "OMPI_UNIVERSE_",
                                                      "OMPI_COMMAND",
                                                      "OMPI_ARGV",
                                                      "OMPI_NUM_APP_CTX",
                                                      "OMPI_FIRST_RANKS",
                                                      "OMPI_APP_CTX_",
                                                      "OMPI_FILE_LOCATION",
                                                      "OMPI_MCA_ess",
                                                      "OMPI_MCA_orte_",
                                                      "OMPI_MCA_pmix",
                                                      "OMPI_MCA_initial_wdir",
                                                      "OMPI_MCA_mpi_oversubscribe",
                                                      "OMPI_MCA_shmem_RUNTIME_",
                                                      "ORTE_",
                                                      "PRTE_LAUNCHED",
                                                      "PMIX_",
                                                      "PMI_",
                                                      "PMI2_",
                                                      "HYDI_",
                                                      "HYDRA_",
                                                      "MPIR_CVAR_CH3_",
                                                      "MPI_LOCAL",
                                                      "SLURM_STEP",
                                                      "SLURM_PMIX",
                                                      "SLURM_LAUNCH_"};
// Of Slurm's those that tell of a task of a step; those of the allocation stay.
constexpr std::array<std::string_view, 14> kOfTask{
    "SLURM_PROCID",   "SLURM_LOCALID",       "SLURM_NODEID",         "SLURM_TASK_PID",        "SLURM_GTIDS",
    "SLURM_MPI_TYPE", "SLURM_DISTRIBUTION",  "SLURM_SRUN_COMM_HOST", "SLURM_SRUN_COMM_PORT",  "SLURM_UMASK",
    "SLURM_CPU_BIND", "SLURM_CPU_BIND_LIST", "SLURM_CPU_BIND_TYPE",  "SLURM_CPU_BIND_VERBOSE"};

bool is_launchers(std::string_view name) {
  return std::any_of(kLaunchers.begin(), kLaunchers.end(), [name](auto start) { return name.starts_with(start); }) ||
         std::find(kOfTask.begin(), kOfTask.end(), name) != kOfTask.end();
}

void set(std::vector<std::string>& env, const std::string& entry) {
  const std::string start = entry.substr(0, entry.find('=') + 1);
  std::erase_if(env, [&start](const std::string& other) { return other.starts_with(start); });
  env.push_back(entry);
}

}  // namespace

std::vector<std::string> environment(const std::vector<std::string>& more) {
  std::vector<std::string> env = core::process_environment();
  std::erase_if(
      env, [](const std::string& entry) { return is_launchers(std::string_view(entry).substr(0, entry.find('='))); });
  // Ranks that it starts stay on the cores of its task, which it inherits: a launcher would begin at the node's first.
  for (const char* none : {"OMPI_MCA_hwloc_base_binding_policy=none", "PRTE_MCA_hwloc_default_binding_policy=none"}) {
    set(env, none);
  }
  // Batch systems may leave it out, and Charliecloud needs it.
  if (std::none_of(env.begin(), env.end(), [](const std::string& entry) { return entry.starts_with("USER="); })) {
    static const std::string user = [] {
      const passwd* entry = getpwuid(getuid());
      return entry != nullptr ? std::string(entry->pw_name) : std::to_string(getuid());
    }();
    env.push_back("USER=" + user);
  }
  for (const std::string& entry : more) set(env, entry);
  return env;
}

std::string find_program(const std::string& name, const std::vector<std::string>& env) {
  if (name.find('/') != std::string::npos) return access(name.c_str(), X_OK) == 0 ? name : "";
  std::string path = "/usr/local/bin:/usr/bin:/bin";
  for (const std::string& entry : env) {
    if (entry.starts_with("PATH=")) path = entry.substr(5);
  }
  for (std::size_t from = 0; from <= path.size();) {
    const std::size_t to = std::min(path.find(':', from), path.size());
    std::string file = (to == from ? "." : path.substr(from, to - from)) + "/" + name;
    if (access(file.c_str(), X_OK) == 0) return file;
    from = to + 1;
  }
  return "";
}

}  // namespace mobula::programs
