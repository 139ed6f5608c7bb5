// Settings of one run. Sources, weakest first: this struct as the program fills it, a `mobula.toml` in the working
// directory (or the file named by MOBULA_CONFIG), MOBULA_* environment variables, --mobula-* flags. A name is spelled
// `slots`, MOBULA_SLOTS, --mobula-slots=4. What is unknown or malformed stops the start with a ConfigError.
#pragma once

#include <chrono>
#include <cstddef>
#include <map>
#include <string>

namespace mobula {

struct Config {
  // Executor threads of each worker rank. 0: one for each core that the rank may use, where ranks of a node share
  // cores evenly.
  int slots = 0;
  // Pin each slot to its own cores ("core"), to those of the rank on the same NUMA node ("numa"), or not at all
  // ("off"). Never leaves the mask that the launcher gave.
  std::string pin = "core";
  // Bytes up to which an argument or result travels inline in frames.
  std::size_t inline_limit = 4096;
  // How long a waiting thread polls before it sleeps. Negative: chosen from how many ranks share the cores.
  int spin_us = -1;
  // Custom resources that each worker rank offers, as in "license=4,scratch=100".
  std::map<std::string, double> resources;
  // The same of what the ranks of each node have together.
  std::map<std::string, double> node_resources;
  // GPUs and memory (bytes) that each worker rank offers to tasks. GPUs -1 ("found"): those that are found, shared out
  // among the ranks that see them. Memory 0: the node's share of this rank.
  double gpus = -1;
  std::size_t memory = 0;
  // Bytes of memory for the objects of each rank, as in "2GiB". 0: the node's share of this rank, 30 % of what the node
  // may use, within what /dev/shm has. Reserved at the start, touched as it is needed.
  std::size_t store = 0;
  // The folder of this node for objects that memory has no room for. "off": they are not written. "": SLURM_TMPDIR,
  // TMPDIR, /tmp or /var/tmp, the first that can be written and is not memory itself.
  std::string scratch;
  // The folder of this node for container images that must be fetched or unpacked; they stay there for later jobs. "":
  // mobula-images-UID in the folder for scratch.
  std::string images;
  // Seconds that the job may run, for TaskOptions::time_request. 0: what Slurm tells, if anything.
  double time_limit = 0;
  // Whether each rank has a keeper, a small parent process by which the others outlive its death under any launcher.
  // Off: for debuggers; what a death does then is the launcher's.
  bool keeper = true;
  // After how long without a sign of life a rank, or all of a node, counts as lost; and a rank that does not hear of
  // the head ends itself. A process that ends is noticed at once.
  std::chrono::milliseconds lost_after{10'000};
  // How many ranks may be lost while they are at one task, whatever its retries: then it is taken for the cause, and
  // fails with WorkerLost.
  int crash_limit = 3;
  // Bytes of arguments, and of values that were put for them, that are kept of tasks that have ended, to run them again
  // where their large results are lost with a rank. The oldest are forgotten first.
  std::size_t lineage_limit = 1 << 30;
  // The folder of the job's journal, which all ranks see: results of durable tasks are kept there, and a job that
  // starts with the same journal takes them from it. "": none. One job at a time has it.
  std::string journal;
  // How long the job may go on when it is told to end (SIGTERM, or SIGUSR1 as Slurm's --signal sends it): tasks of the
  // driver that have not begun fail with Cancelled then, those that run may end, and actors are saved.
  std::chrono::milliseconds grace{10'000};
  // How long a stopping rank waits for tasks that still run in it.
  std::chrono::milliseconds stop_grace{500};
  // What workers print: with their rank in front of each line, and at most some hundred lines a second of each ("tag"),
  // or as the launcher passes it on ("plain").
  std::string output = "tag";
  // A folder in which all that the ranks print is kept, in rank-N.log. "": it is not.
  std::string job_dir;
  // "off", "error", "warn", "info" or "debug"; messages go to stderr.
  std::string log = "warn";
  // If set, rank N writes its trace to PREFIX.N.json at the end (Chrome trace format).
  std::string trace;
  // Whether state changes are kept for the trace at all. There to measure what that costs.
  bool trace_events = true;
  // Whether the job can be asked how it is: by `mobula status`, `top` and `stop`, of the same user on the head's host.
  bool status = true;
};

}  // namespace mobula
