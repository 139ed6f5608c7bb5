// The script with which sbatch runs a program: what the user asks for as #SBATCH lines, and `mobula run`, which knows
// the rest. A job that is warned of its time limit ends in order, is queued again, and goes on from its journal.
#pragma once

#include <string>
#include <vector>

#include "cli/launch.hpp"

namespace mobula::cli {

struct Job {
  Wish wish;
  std::string name;
  std::string time;  // as Slurm takes it: minutes, or [days-]hours:minutes:seconds
  std::string partition;
  std::string account;
  std::string memory;              // of each node, as Slurm takes it
  std::string gpus;                // of each node: a number, or type:number
  std::string array;               // as in 1-100%10
  std::string output;              // file; %j is the job's number
  std::string journal;             // a folder that all nodes see
  bool requeue = false;            // when its time is over, or a node is lost
  int warning = 120;               // seconds before the limit at which it is told to end
  std::vector<std::string> lines;  // more for sbatch, as in --qos=high
  std::vector<std::string> setup;  // lines of shell that come before, as in module load
};

// Throws Error.
std::string script_of(const Job& job, const std::string& self);

}  // namespace mobula::cli
