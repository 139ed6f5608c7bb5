// What `mobula doctor` makes of facts that this machine does not have.
#include "cli/findings.hpp"

#include <gtest/gtest.h>

#include <algorithm>

namespace mobula::cli {
namespace {

using Level = Finding::Level;

Facts healthy() {
  Facts facts;
  facts.host = "n1";
  facts.version = "1";
  facts.program = "d1";
  facts.user_namespace = "user:[1]";
  facts.world = 2;
  facts.hwloc = 0x0002'0800;
  facts.shared_bytes = facts.shared_free = std::uint64_t{8} << 30;
  facts.memory = std::uint64_t{16} << 30;
  facts.files_limit = 4096;
  facts.cores = facts.machine_cores = 8;
  facts.reads_siblings = true;
  facts.scratch = "/tmp";
  facts.scratch_free = std::uint64_t{100} << 30;
  return facts;
}

Level worst(const std::vector<Finding>& all) {
  Level level = Level::good;
  for (const Finding& of : all) level = std::max(level, of.level);
  return level;
}

bool says(const std::vector<Finding>& all, Level level, const std::string& what, const std::string& remedy) {
  return std::any_of(all.begin(), all.end(), [&](const Finding& of) {
    return of.level == level && of.what.find(what) != std::string::npos && of.remedy.find(remedy) != std::string::npos;
  });
}

TEST(Findings, AHealthyMachineHasNone) {
  EXPECT_EQ(worst(findings_of(healthy())), Level::good);
  EXPECT_EQ(worst(findings_of(std::vector{healthy(), healthy()}, 2)), Level::good);
}

TEST(Findings, EachFaultHasARemedy) {
  Facts facts = healthy();
  facts.shared_bytes = facts.shared_free = 64 << 20;
  facts.container = "Docker";
  EXPECT_TRUE(says(findings_of(facts), Level::warning, "/dev/shm has 64 MiB", "--shm-size"));
  facts.shared_free = 1 << 20;
  EXPECT_TRUE(says(findings_of(facts), Level::fault, "1 MiB of it free", "--shm-size"));
  facts.shared_bytes = 0;
  EXPECT_TRUE(says(findings_of(facts), Level::fault, "no /dev/shm", "tmpfs"));
  facts = healthy();
  facts.reads_siblings = false;
  facts.container = "Docker";
  EXPECT_TRUE(says(findings_of(facts), Level::warning, "can't read each other", "SYS_PTRACE"));
  facts.container = "";
  EXPECT_TRUE(says(findings_of(facts), Level::warning, "can't read each other", "ptrace_scope"));
  facts.copies_once = false;
  EXPECT_EQ(worst(findings_of(facts)), Level::good);
  facts = healthy();
  facts.cores = 1;
  EXPECT_TRUE(says(findings_of(facts), Level::note, "1 of the 8 cores", "-c"));
  facts = healthy();
  facts.has_infiniband = true;
  facts.locked_limit = 64 << 10;
  EXPECT_TRUE(says(findings_of(facts), Level::warning, "lock", "ulimit -l"));
  EXPECT_TRUE(says(findings_of(facts), Level::warning, "fork", "FI_EFA_FORK_SAFE"));
  facts = healthy();
  facts.hwloc = 0x0002'0500;
  EXPECT_TRUE(says(findings_of(facts), Level::fault, "hwloc 2.5.0", "2.7.1"));
  facts = healthy();
  facts.scratch = "";
  EXPECT_TRUE(says(findings_of(facts), Level::warning, "scratch", "TMPDIR"));
  facts = healthy();
  facts.address_limit = 1 << 30;
  EXPECT_TRUE(says(findings_of(facts), Level::warning, "addresses", "ulimit -v"));
}

TEST(Findings, RanksThatCantWorkTogether) {
  const Facts one = healthy();
  Facts other = healthy();
  other.user_namespace = "user:[2]";
  EXPECT_TRUE(says(findings_of(std::vector{one, other}, 2), Level::fault, "namespaces of users", "--sharens"));
  other.host = "n2";
  EXPECT_EQ(worst(findings_of(std::vector{one, other}, 2)), Level::good);
  other.program = "d2";
  EXPECT_TRUE(
      says(findings_of(std::vector{one, other}, 2), Level::fault, "differs from that on n1 on n2", "same file"));
  other.version = "2";
  EXPECT_TRUE(says(findings_of(std::vector{one, other}, 2), Level::fault, "2 on n2", "same on all nodes"));
  other = healthy();
  other.clock = 100;
  EXPECT_TRUE(says(findings_of(std::vector{one, other}, 2), Level::warning, "100 s", "NTP"));
  Facts alone = healthy();
  alone.world = 1;
  EXPECT_TRUE(
      says(findings_of(std::vector{alone}, 4), Level::fault, "4 ranks, and each sees itself alone", "--mpi=pmix"));
}

TEST(Findings, LaunchersThatDontFit) {
  Surroundings at;
  at.has = [](const std::string& program) { return program != "sbatch"; };
  at.env["SLURM_JOB_ID"] = "1";
  at.mpi_types = [] { return std::string("none pmi2"); };
  EXPECT_TRUE(says(findings_of(at, "mpirun (Open MPI) 4.1.4\n"), Level::warning, "no PMIx", "mpirun"));
  EXPECT_TRUE(says(findings_of(at, "HYDRA build details:\n"), Level::fault, "another MPI", "module"));
  at.mpi_types = [] { return std::string("pmix none"); };
  EXPECT_EQ(worst(findings_of(at, "mpirun (Open MPI) 4.1.4\n")), Level::good);
}

}  // namespace
}  // namespace mobula::cli
