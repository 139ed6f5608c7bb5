// The command line that starts the ranks of a program, from what the user asks for and where this runs: `srun` inside
// an allocation of Slurm, `mpirun` elsewhere, or neither, with the flags by which a job outlives its ranks, uses the
// cores that there are, and finds its peers from inside containers. Decides, and starts nothing.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace CLI {
class App;
}

namespace mobula::cli {

// What the user asks for.
struct Wish {
  int ranks = 0;         // 0: what the allocation has tasks for; outside of one, this process alone
  int nodes = 0;         // 0: as the launcher does
  int per_node = 0;      // ranks; 0: as the launcher does
  int cpus = 0;          // of each rank; 0: as the launcher does
  std::string bind;      // "core", "none"; "": so that the ranks of a node share its cores evenly
  std::string hosts;     // a file with a host in each line, which are reached over ssh; "": none
  std::string launcher;  // "srun", "mpirun", "none"; "": whichever fits
  std::string image;     // of a container for each rank; "": none
  std::string runtime;   // of it; "": the first that is there
  std::vector<std::string> binds;
  bool goes_on = true;             // when a host is lost
  bool oversubscribe = false;      // more ranks than cores are meant
  bool code_counts = false;        // its exit code is an answer, of which the launcher need not speak
  std::vector<std::string> words;  // the program and its arguments

  void add_to(CLI::App& app);
};

// Where this runs.
struct Surroundings {
  enum class Family : unsigned char { open_mpi, mpich, other };
  std::map<std::string, std::string> env;
  int cores = 1;  // that this process may use
  bool is_root = false;
  std::string folder;  // the working directory
  std::string self;    // the path of the command `mobula`
  Family family = Family::open_mpi;
  int major = 4;                                                                           // version of that
  std::function<bool(const std::string&)> has = [](const std::string&) { return false; };  // a program, in PATH
  std::function<std::string()> mpi_types = [] { return std::string(); };  // what `srun --mpi=list` says

  static Surroundings here();
  std::string variable(const std::string& name) const;  // "": not set
  bool in_allocation() const { return !variable("SLURM_JOB_ID").empty(); }
  bool in_rank() const;      // some launcher started this process as one of several
  bool in_mpi_rank() const;  // and MPI hears of it
};

struct Launch {
  std::vector<std::string> words;
  std::vector<std::pair<std::string, std::string>> env;  // to be set before
  std::vector<std::string> notes;                        // for the user
  bool over_hosts = false;   // the launcher goes on when a host is lost, and may not end then: see `start`
  std::string text() const;  // as a shell takes it
  void tell_notes() const;
};

// Throws Error that says what is missing and what to do.
Launch plan(const Wish& wish, const Surroundings& at);

// Becomes the launch's first program. Over hosts it starts the launcher, passes signals on to it, and ends when the
// head has said how the job ended, with that code. Throws Error where it can't be started.
[[noreturn]] void start(const Launch& launch);
// Runs it to its end, and returns its exit code; -1: it took longer than that, and was ended. Throws as `start`.
int run_limited(const Launch& launch, std::chrono::seconds limit);
// Becomes the program in any case.
[[noreturn]] void become(const Launch& launch);

// Quoted where a shell needs that.
std::string quoted(const std::string& word);

}  // namespace mobula::cli
