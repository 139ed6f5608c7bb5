// mobula submit: a job of Slurm from a command line.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "cli/commands.hpp"
#include "cli/script.hpp"
#include "mobula/error.hpp"

namespace mobula::cli {
namespace {

// The end of a job that is warned must fit between the warning and the limit.
constexpr int kSpare = 20;  // seconds

std::string name_of(const Job& job) {
  if (!job.name.empty()) return job.name;
  const std::string& program = job.wish.words.front();
  return program.substr(program.rfind('/') + 1);
}

// What is for `mobula run` inside the job: all but what sbatch is asked for.
std::string run_line(const Job& job, const std::string& self) {
  std::vector<std::string> words{self, "run"};
  const Wish& wish = job.wish;
  if (!wish.launcher.empty()) words.insert(words.end(), {"--launcher", wish.launcher});
  if (!wish.bind.empty()) words.insert(words.end(), {"--bind", wish.bind});
  if (!wish.image.empty()) words.insert(words.end(), {"--container", wish.image});
  if (!wish.runtime.empty()) words.insert(words.end(), {"--runtime", wish.runtime});
  for (const std::string& mount : wish.binds) words.insert(words.end(), {"--mount", mount});
  words.insert(words.end(), wish.words.begin(), wish.words.end());
  std::string line;
  for (const std::string& word : words) line += (line.empty() ? "" : " ") + quoted(word);
  return line;
}

// Runs sbatch with the script as its input.
int give_to_sbatch(const std::string& script) {
  std::FILE* const sbatch = popen("sbatch", "w");
  if (sbatch == nullptr) throw Error("mobula: sbatch can't be started");
  std::fwrite(script.data(), 1, script.size(), sbatch);
  const int status = pclose(sbatch);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

}  // namespace

std::string script_of(const Job& job, const std::string& self) {
  if (job.wish.words.empty()) throw Error("mobula: say which program: mobula submit [options] PROGRAM [arguments]");
  if (!job.wish.hosts.empty()) throw Error("mobula: Slurm chooses the hosts of a job: leave out --hosts");
  if (job.requeue && job.journal.empty())
    throw Error(
        "mobula: a job that is queued again starts anew without a journal: add --journal FOLDER, which all nodes see");
  if (job.requeue && job.warning <= 2 * kSpare)
    throw Error("mobula: the warning must come more than " + std::to_string(2 * kSpare) + " seconds before the limit");
  std::string text = "#!/bin/bash\n";
  const auto ask = [&text](const std::string& option, const std::string& value) {
    if (!value.empty() && value != "0") text += "#SBATCH --" + option + "=" + value + "\n";
  };
  ask("job-name", name_of(job));
  ask("time", job.time);
  ask("partition", job.partition);
  ask("account", job.account);
  ask("nodes", std::to_string(job.wish.nodes));
  ask("ntasks", std::to_string(job.wish.ranks));
  ask("ntasks-per-node", std::to_string(job.wish.per_node));
  ask("cpus-per-task", std::to_string(job.wish.cpus));
  ask("mem", job.memory);
  ask("gpus-per-node", job.gpus);
  ask("array", job.array);
  ask("output", job.output);
  if (job.wish.oversubscribe) text += "#SBATCH --overcommit\n";
  text += "#SBATCH --no-kill\n";  // a lost node is no reason to end the job
  if (job.requeue) {
    text += "#SBATCH --requeue\n#SBATCH --open-mode=append\n";
    ask("signal", "USR1@" + std::to_string(job.warning));  // to the ranks: the job drains
  } else {
    text += "#SBATCH --no-requeue\n";
  }
  for (const std::string& line : job.lines) text += "#SBATCH " + line + "\n";
  text += "\n";
  for (const std::string& line : job.setup) text += line + "\n";
  if (!job.journal.empty()) {
    text += "export MOBULA_JOURNAL=" + quoted(job.journal) + (job.array.empty() ? "" : "/$SLURM_ARRAY_TASK_ID") + "\n";
  }
  if (!job.requeue) return text + "exec " + run_line(job, self) + "\n";
  text += "export MOBULA_GRACE=" + std::to_string((job.warning - kSpare) * 1000) + "\n";
  text += run_line(job, self) + "\n";
  text +=
      "code=$?\n"
      "if [ $code = 138 ]; then  # it was warned, and there is more to do\n"
      "  scontrol requeue \"${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}\"\n"
      "fi\n"
      "exit $code\n";
  return text;
}

void add_submit(CLI::App& app) {
  auto job = std::make_shared<Job>();
  auto dry = std::make_shared<bool>(false);
  CLI::App* const submit = app.add_subcommand("submit", "Write a script for sbatch, and submit it");
  submit->footer("mobula submit [OPTIONS] PROGRAM [ARGUMENTS…]");
  job->wish.add_to(*submit);
  submit->add_option("-J,--name", job->name, "of the job; by default the program's");
  submit->add_option("-t,--time", job->time, "limit: minutes, or [days-]hours:minutes:seconds");
  submit->add_option("-p,--partition", job->partition, "partition");
  submit->add_option("-A,--account", job->account, "account");
  submit->add_option("--mem", job->memory, "memory of each node, as in 64G");
  submit->add_option("-G,--gpus", job->gpus, "GPUs of each node: a number, or type:number");
  submit->add_option("-a,--array", job->array, "run it several times, as in 1-100%10; SLURM_ARRAY_TASK_ID tells which");
  submit->add_option("-o,--output", job->output, "file of what it prints; %j is the job's number");
  submit->add_option("--journal", job->journal, "a folder that all nodes see, for results that outlive the job");
  submit->add_flag("--requeue", job->requeue,
                   "when the time is nearly over, end in order, queue the job again, and go on from its journal");
  submit->add_option("--warning", job->warning, "seconds before the limit at which it is told to end")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  submit->add_option("--sbatch", job->lines, "one more option for sbatch, as in --sbatch=--qos=high")
      ->allow_extra_args(false);
  submit->add_option("--setup", job->setup, "a line of shell that runs before, as in --setup 'module load openmpi'")
      ->allow_extra_args(false);
  submit->add_flag("--dry-run", *dry, "print the script");
  submit->prefix_command();
  submit->callback([submit, job, dry] {
    job->wish.words = submit->remaining();
    const Surroundings at = Surroundings::here();
    const std::string script = script_of(*job, at.self);
    if (*dry) {
      std::fputs(script.c_str(), stdout);
      return;
    }
    if (!at.has("sbatch")) throw Error("mobula: sbatch is not in PATH here: load Slurm's module, or use mobula run");
    throw CLI::RuntimeError(give_to_sbatch(script));
  });
}

}  // namespace mobula::cli
