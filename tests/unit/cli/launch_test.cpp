// The command lines that `mobula run`, `submit` and `each` make, for machines that are made up.
#include "cli/launch.hpp"

#include <gtest/gtest.h>

#include "cli/script.hpp"
#include "cli/template.hpp"
#include "mobula/error.hpp"

namespace mobula::cli {
namespace {

using Words = std::vector<std::string>;

Surroundings laptop() {
  Surroundings at;
  at.cores = 4;
  at.folder = "/work";
  at.self = "/opt/mobula";
  at.has = [](const std::string& program) { return program == "mpirun"; };
  return at;
}

Surroundings allocation() {
  Surroundings at = laptop();
  at.env = {{"SLURM_JOB_ID", "7"}, {"SLURM_CPUS_PER_TASK", "3"}};
  at.has = [](const std::string& program) { return program == "mpirun" || program == "srun"; };
  at.mpi_types = [] { return std::string("MPI plugin types are...\n\tpmix\n\tnone\n"); };
  return at;
}

Wish wish(int ranks, Words words = {"app", "x"}) {
  Wish of;
  of.ranks = ranks;
  of.words = std::move(words);
  return of;
}

TEST(Launch, AloneItIsTheProgramItself) { EXPECT_EQ(plan(wish(0), laptop()).text(), "app x"); }

TEST(Launch, SeveralRanksNeedMpirun) {
  const Launch launch = plan(wish(3), laptop());
  EXPECT_EQ(launch.text(), "mpirun -n 3 --bind-to none --mca orte_allowed_exit_without_sync 1 app x");
  EXPECT_TRUE(launch.notes.empty());
}

TEST(Launch, MoreRanksThanCoresShareThem) {
  const Launch launch = plan(wish(8), laptop());
  EXPECT_EQ(launch.text(),
            "OMPI_MCA_mpi_yield_when_idle=1 mpirun -n 8 --oversubscribe --bind-to none --mca "
            "orte_allowed_exit_without_sync 1 app x");
  EXPECT_EQ(launch.notes, Words{"8 ranks share 4 cores"});
}

TEST(Launch, RootIsAllowed) {
  Surroundings at = laptop();
  at.is_root = true;
  EXPECT_EQ(plan(wish(2), at).env.front().first, "OMPI_ALLOW_RUN_AS_ROOT");
}

TEST(Launch, AnAllocationHasSrun) {
  EXPECT_EQ(plan(wish(0), allocation()).text(),
            "SLURM_PMIX_FENCE=ring srun --mpi=pmix --cpus-per-task=3 --kill-on-bad-exit=0 --no-kill --wait=0 --input=0 "
            "app x");
  Surroundings within = allocation();
  within.env["SLURM_STEP_ID"] = "0";
  EXPECT_EQ(plan(wish(2), within).text(),
            "SLURM_PMIX_FENCE=ring srun --overlap --mpi=pmix --ntasks=2 --cpus-per-task=3 --kill-on-bad-exit=0 "
            "--no-kill --wait=0 --input=0 app x");
}

TEST(Launch, SlurmWithoutPmixHasMpirun) {
  Surroundings at = allocation();
  at.mpi_types = [] { return std::string("MPI plugin types are...\n\tnone\n\tpmi2\n"); };
  EXPECT_EQ(plan(wish(2), at).words.front(), "mpirun");
  Wish by_srun = wish(2);
  by_srun.launcher = "srun";
  EXPECT_THROW(plan(by_srun, at), Error);
}

TEST(Launch, OtherMpis) {
  Surroundings at = laptop();
  at.major = 5;
  EXPECT_EQ(plan(wish(2), at).text(), "mpirun -n 2 --bind-to none app x");
  at.family = Surroundings::Family::mpich;
  EXPECT_EQ(plan(wish(2), at).text(), "mpirun -n 2 -disable-auto-cleanup app x");
}

TEST(Launch, ContainersShareANamespaceOfUsers) {
  Wish of = wish(2);
  of.image = "img.sif";
  of.binds = {"/data"};
  Surroundings at = laptop();
  at.has = [](const std::string& program) { return program != "srun" && program != "apptainer"; };
  const std::string start =
      "OMPI_MCA_mpi_yield_when_idle=1 mpirun -n 2 --bind-to none --mca orte_allowed_exit_without_sync 1 ";
  EXPECT_EQ(plan(of, at).text(), start + "ch-run --join --cd=/work --bind=/work --bind=/data img.sif -- app x");
  of.runtime = "apptainer";
  EXPECT_EQ(plan(of, at).text(), start + "apptainer exec --sharens --bind /data img.sif app x");
  of.runtime = "docker";
  EXPECT_EQ(plan(of, at).text(), start + "/opt/mobula enter --runtime docker --mount /data img.sif app x");
  at.has = [](const std::string& program) { return program == "mpirun"; };
  of.runtime = "";
  EXPECT_THROW(plan(of, at), Error);
}

TEST(Launch, OverHostsTheJobOutlivesOne) {
  Wish over = wish(4);
  over.hosts = "/dev/null";
  const Launch launch = plan(over, laptop());
  EXPECT_EQ(launch.text(),
            "mpirun -n 4 --hostfile /dev/null --bind-to none --mca orte_allowed_exit_without_sync 1 --mca "
            "plm_rsh_no_tree_spawn 1 --enable-recovery -x VERDICT_OF_MOBULA app x");
  EXPECT_TRUE(launch.over_hosts);
  over.goes_on = false;
  EXPECT_FALSE(plan(over, laptop()).over_hosts);
}

TEST(Launch, WhatCantBeIsSaid) {
  EXPECT_THROW(plan(wish(0, {}), laptop()), Error);
  Surroundings none = laptop();
  none.has = [](const std::string&) { return false; };
  EXPECT_THROW(plan(wish(2), none), Error);
  Surroundings rank = laptop();
  rank.env["PMIX_RANK"] = "0";
  EXPECT_THROW(plan(wish(2), rank), Error);
  Wish hosts = wish(2);
  hosts.hosts = "/no/such/file";
  EXPECT_THROW(plan(hosts, laptop()), Error);
}

TEST(Launch, WordsAreQuoted) {
  EXPECT_EQ(quoted("a-b/c.d=1"), "a-b/c.d=1");
  EXPECT_EQ(quoted(""), "''");
  EXPECT_EQ(quoted("it's $x"), "'it'\\''s $x'");
}

TEST(Script, SaysWhatIsAsked) {
  Job job;
  job.wish = wish(8, {"bin/app", "a b"});
  job.wish.nodes = 2;
  job.time = "60";
  const std::string text = script_of(job, "/opt/mobula");
  EXPECT_NE(text.find("#SBATCH --job-name=app\n#SBATCH --time=60\n#SBATCH --nodes=2\n#SBATCH --ntasks=8\n"),
            std::string::npos);
  EXPECT_NE(text.find("\nexec /opt/mobula run bin/app 'a b'\n"), std::string::npos);
}

TEST(Script, ARequeuedJobHasAJournalAndIsWarned) {
  Job job;
  job.wish = wish(8);
  job.requeue = true;
  EXPECT_THROW(script_of(job, "m"), Error);
  job.journal = "/shared/j";
  job.array = "1-3";
  const std::string text = script_of(job, "m");
  for (const char* line : {"#SBATCH --requeue\n", "#SBATCH --signal=USR1@120\n", "export MOBULA_GRACE=100000\n",
                           "export MOBULA_JOURNAL=/shared/j/$SLURM_ARRAY_TASK_ID\n", "scontrol requeue"})
    EXPECT_NE(text.find(line), std::string::npos) << line;
  job.warning = 10;
  EXPECT_THROW(script_of(job, "m"), Error);
}

TEST(Template, PlacesAreFilled) {
  const Template several({"convert", "{}", "{.}.png", "{/}", "{//}", "{/.}", "{#}"});
  EXPECT_EQ(several.with("/a/b.c.jpg", 7), (Words{"convert", "/a/b.c.jpg", "/a/b.c.png", "b.c.jpg", "/a", "b.c", "7"}));
  EXPECT_EQ(several.with("plain", 1), (Words{"convert", "plain", "plain.png", "plain", ".", "plain", "1"}));
  EXPECT_EQ(several.with("d.e/.hidden", 1),
            (Words{"convert", "d.e/.hidden", "d.e/.hidden.png", ".hidden", "d.e", ".hidden", "1"}));
}

TEST(Template, OneWordIsALineForTheShell) {
  EXPECT_EQ(Template({"wc -l {}"}).with("a b", 1), (Words{"sh", "-c", "wc -l 'a b'"}));
  EXPECT_EQ(Template({"wc"}).with("a b", 1), (Words{"sh", "-c", "wc 'a b'"}));
  EXPECT_EQ(Template({"wc", "-l"}).with("a b", 1), (Words{"wc", "-l", "a b"}));
  EXPECT_EQ(Template({}).with("echo $HOME", 1), (Words{"sh", "-c", "echo $HOME"}));
}

}  // namespace
}  // namespace mobula::cli
