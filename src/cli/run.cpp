// mobula run: starts a program's ranks. mobula enter: what it starts for each rank in Docker or Podman.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "cli/commands.hpp"
#include "cli/launch.hpp"
#include "core/config.hpp"
#include "core/host.hpp"

namespace mobula::cli {
namespace {

struct Entry {
  std::string runtime;
  std::vector<std::string> mounts;
  std::vector<std::string> words;  // the image, and what runs in it
};

// The rank's process in the container is as one outside: it has the host's processes, network and shared memory, may
// read other ranks' memory, and knows all that its launcher has told it.
Launch entering(const Entry& entry) {
  Launch launch;
  auto& words = launch.words;
  words = {entry.runtime,
           "run",
           "--rm",
           "--network=host",
           "--pid=host",
           "--ipc=host",
           "--cap-add=SYS_PTRACE",
           "--user=" + std::to_string(geteuid()) + ":" + std::to_string(getegid())};
  if (entry.runtime == "podman" && geteuid() != 0) words.emplace_back("--userns=keep-id");
  const std::string folder = Surroundings::here().folder;
  words.push_back("--workdir=" + folder);
  for (const std::string& mount : {folder, std::string("/tmp")}) words.push_back("--volume=" + mount + ":" + mount);
  for (const std::string& mount : entry.mounts) {
    words.push_back("--volume=" + (mount.find(':') == std::string::npos ? mount + ":" + mount : mount));
  }
  for (const std::string& variable : core::process_environment()) {
    const std::string name = variable.substr(0, variable.find('='));
    for (const char* prefix : {"OMPI_", "PMIX_", "PMI_", "ORTE_", "PRTE_", "SLURM_", "MOBULA_", "HWLOC_", "UCX_"}) {
      if (name.starts_with(prefix)) words.push_back("--env=" + name);  // with the value that we have
    }
  }
  words.insert(words.end(), entry.words.begin(), entry.words.end());
  return launch;
}

}  // namespace

void add_run(CLI::App& app) {
  auto wish = std::make_shared<Wish>();
  auto dry = std::make_shared<bool>(false);
  CLI::App* const run = app.add_subcommand(
      "run", "Start a program's ranks: by srun in an allocation of Slurm, by mpirun elsewhere, or just itself");
  run->footer(
      "mobula run [OPTIONS] [--] PROGRAM [ARGUMENTS…]. A program that is one of Mobula's takes settings too, as in "
      "--mobula-slots=4 after its name.");
  wish->add_to(*run);
  run->add_flag("--dry-run", *dry, "print the command line that would be started");
  run->prefix_command();
  run->callback([run, wish, dry] {
    wish->words = run->remaining();
    const Launch launch = plan(*wish, Surroundings::here());
    if (!*dry) start(launch);
    std::puts(launch.text().c_str());
    launch.tell_notes();
  });

  auto entry = std::make_shared<Entry>();
  CLI::App* const enter = app.add_subcommand("enter", "")->group("");  // not for people
  enter->add_option("--runtime", entry->runtime)->required()->check(CLI::IsMember({"docker", "podman"}));
  enter->add_option("--mount", entry->mounts)->allow_extra_args(false);
  enter->prefix_command();
  enter->callback([enter, entry] {
    entry->words = enter->remaining();
    become(entering(*entry));
  });
}

}  // namespace mobula::cli
