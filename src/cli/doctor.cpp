// mobula doctor: what on this machine, or on those of an allocation, would keep a job from running well.
//
// Here it looks around itself; then, where there are to be several ranks, it starts itself as a job of plain MPI whose
// ranks compare what they find and send each other messages, within a limit of time: what it looks for hangs.
#include <mpi.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <span>

#include "cli/commands.hpp"
#include "cli/findings.hpp"
#include "core/host.hpp"
#include "core/launcher.hpp"
#include "core/wire.hpp"

namespace mobula::cli {
namespace {

using Level = Finding::Level;

struct Request {
  Wish wish;
  std::string program;
  int limit = 60;  // seconds
};

int tell(const std::vector<Finding>& findings, const std::string& where = "") {
  int faults = 0;
  for (const Finding& of : findings) {
    const char* const mark = of.level == Level::good      ? "ok     "
                             : of.level == Level::note    ? "note   "
                             : of.level == Level::warning ? "warning"
                                                          : "FAULT  ";
    std::printf("%s  %s%s\n", mark, where.empty() ? "" : (where + ": ").c_str(), of.what.c_str());
    if (!of.remedy.empty()) std::printf("         -> %s\n", of.remedy.c_str());
    if (of.level == Level::fault) ++faults;
  }
  std::fflush(stdout);
  return faults;
}

// ---- as a rank ---------------------------------------------------------------------------------------------------

// As many ranks as the launcher started.
constexpr std::array kTasks{"OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "PMI_SIZE"};

std::uint32_t number_in(const Surroundings& at, std::span<const char* const> names, std::uint32_t otherwise) {
  for (const char* name : names) {
    if (const std::string value = at.variable(name); !value.empty())
      return static_cast<std::uint32_t>(std::strtoul(value.c_str(), nullptr, 10));
  }
  return otherwise;
}

// The small messages of this get through also where large ones hang.
std::vector<Facts> gather(const Facts& mine, int rank, int size) {
  detail::Buffer bytes;
  core::WireWriter out(bytes);
  out(mine);
  const int length = static_cast<int>(bytes.size());
  std::vector<int> lengths(static_cast<std::size_t>(size));
  MPI_Gather(&length, 1, MPI_INT, lengths.data(), 1, MPI_INT, 0, MPI_COMM_WORLD);
  std::vector<int> starts;
  int total = 0;
  for (const int of : lengths) {
    starts.push_back(total);
    total += of;
  }
  std::vector<std::byte> all(rank == 0 ? static_cast<std::size_t>(total) : 0);
  MPI_Gatherv(bytes.data(), length, MPI_BYTE, all.data(), lengths.data(), starts.data(), MPI_BYTE, 0, MPI_COMM_WORLD);
  std::vector<Facts> facts;
  for (int i = 0; rank == 0 && i < size; ++i) {
    core::WireReader in(detail::ByteView(all.data() + starts[static_cast<std::size_t>(i)],
                                         static_cast<std::size_t>(lengths[static_cast<std::size_t>(i)])));
    in(facts.emplace_back());
  }
  return facts;
}

std::array<char, 512> g_hang{};  // what is said where a message does not come

void on_hang(int) {
  static_cast<void>(!write(STDOUT_FILENO, g_hang.data(), std::strlen(g_hang.data())));
  _exit(1);
}

// With the first rank of each host, and another one of this. Rank 0 leads; the others answer until it sends nothing.
void exchange(const std::vector<Facts>& ranks, int rank) {
  constexpr int kTrips = 100;
  constexpr int kLarge = 4 << 20;
  constexpr int kTimes = 4;
  constexpr unsigned kLimit = 15;  // seconds
  std::vector<char> data(kLarge);
  if (rank != 0) {
    while (true) {
      MPI_Status status;
      MPI_Recv(data.data(), kLarge, MPI_CHAR, 0, 0, MPI_COMM_WORLD, &status);
      int count = 0;
      MPI_Get_count(&status, MPI_CHAR, &count);
      if (count == 0) return;
      MPI_Send(data.data(), count, MPI_CHAR, 0, 0, MPI_COMM_WORLD);
    }
  }
  signal(SIGALRM, on_hang);
  const auto seconds_of = [&](int to, int bytes, int times) {
    const auto begun = std::chrono::steady_clock::now();
    for (int i = 0; i < times; ++i) {
      MPI_Send(data.data(), bytes, MPI_CHAR, to, 0, MPI_COMM_WORLD);
      MPI_Recv(data.data(), bytes, MPI_CHAR, to, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    }
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count() / times / 2;
  };
  std::vector<std::string> met;
  for (std::size_t to = 1; to < ranks.size(); ++to) {
    const std::string& host = ranks[to].host;
    if (std::find(met.begin(), met.end(), host) != met.end()) continue;
    met.push_back(host);
    std::snprintf(g_hang.data(), g_hang.size(),
                  "FAULT    messages between rank 0 on %s and rank %zu on %s don't come through within %u s\n"
                  "         -> %s\n",
                  ranks.front().host.c_str(), to, host.c_str(), kLimit,
                  host == ranks.front().host
                      ? "ranks in containers: one namespace of users for all (apptainer --sharens, ch-run --join), or "
                        "export OMPI_MCA_btl_vader_single_copy_mechanism=none"
                      : "let MPI use the network that joins the hosts (OMPI_MCA_btl_tcp_if_include=NAME), and open it "
                        "in the firewall");
    alarm(kLimit);
    const double trip = seconds_of(static_cast<int>(to), 8, kTrips);
    const double large = seconds_of(static_cast<int>(to), kLarge, kTimes);
    alarm(0);
    std::printf("ok       rank 0 to rank %zu on %s: %.1f us, %.0f MiB/s\n", to, host.c_str(), trip * 1e6,
                kLarge / large / (1 << 20));
  }
  for (std::size_t to = 1; to < ranks.size(); ++to)
    MPI_Send(nullptr, 0, MPI_CHAR, static_cast<int>(to), 0, MPI_COMM_WORLD);
}

int run_as_rank(const Request& request, const Surroundings& at) {
  Facts mine = facts_here(request.program, 1);  // it forks, so MPI starts afterwards
  if (!at.in_mpi_rank()) {                      // MPI_Init would end this process, with words that lead elsewhere
    if (number_in(at, core::kRank, 0) == 0) tell(findings_of({mine}, number_in(at, kTasks, 1)));
    return 1;
  }
  MPI_Init(nullptr, nullptr);
  int rank = 0;
  int size = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  mine.world = static_cast<std::uint32_t>(size);
  const std::uint32_t tasks = number_in(at, kTasks, mine.world);
  const bool speaks = rank == 0 && (size > 1 || number_in(at, core::kRank, 0) == 0);
  const std::vector<Facts> ranks = gather(mine, rank, size);
  int faults = 0;
  if (speaks) {
    faults = tell(findings_of(ranks, tasks));
    std::vector<std::string> met;
    for (const Facts& of : ranks) {
      if (std::find(met.begin(), met.end(), of.host) != met.end()) continue;
      met.push_back(of.host);
      std::vector<Finding> bad = findings_of(of);
      std::erase_if(bad, [](const Finding& finding) { return finding.level == Level::good; });
      faults += tell(bad, of.host);
    }
  }
  int goes_on = speaks && faults == 0 ? 1 : 0;  // messages may hang otherwise
  MPI_Bcast(&goes_on, 1, MPI_INT, 0, MPI_COMM_WORLD);
  if (goes_on != 0 && size > 1) exchange(ranks, rank);
  std::fflush(stdout);
  MPI_Finalize();
  return faults != 0 ? 1 : 0;
}

// ---- as the one that starts them ---------------------------------------------------------------------------------

int look_around(const Request& request, const Surroundings& at, const std::vector<std::string>& all) {
  const Facts mine = facts_here(request.program, 1);
  std::printf("Mobula %s with %s, on %s (Linux %s%s)\n", mine.version.c_str(), mine.mpi.c_str(), mine.host.c_str(),
              mine.kernel.c_str(), mine.container.empty() ? "" : (", in " + mine.container).c_str());
  int faults = tell(findings_of(at, core::output_of("mpirun --version 2>&1"))) + tell(findings_of(mine));
  const bool alone = request.wish.ranks <= 1 && request.wish.hosts.empty() && !at.in_allocation();
  if (!alone && faults == 0) {
    Wish self = request.wish;
    self.goes_on = false;
    self.words = {at.self};
    self.words.insert(self.words.end(), all.begin() + 1, all.end());
    const Launch launch = plan(self, at);
    std::printf("starting ranks: %s\n", launch.text().c_str());
    std::fflush(stdout);
    const int code = run_limited(launch, std::chrono::seconds(request.limit));
    if (code == 0) {
      // They have said it all.
    } else if (code == 1) {
      ++faults;
    } else {
      faults += tell({{Level::fault,
                       code < 0 ? "the ranks didn't end within " + std::to_string(request.limit) + " s"
                                : "the launcher ended with code " + std::to_string(code),
                       code < 0 ? "try one node, then two; look at what is said above on networks and containers"
                                : "see what it says above"}});
    }
  }
  std::printf(faults == 0 ? "nothing is in the way\n" : "%d faults: a job would not run, or not well\n", faults);
  return faults == 0 ? 0 : 1;
}

}  // namespace

void add_doctor(CLI::App& app, std::vector<std::string> all) {
  auto request = std::make_shared<Request>();
  CLI::App* const doctor = app.add_subcommand(
      "doctor", "Look for what would keep jobs from running well here, on the nodes of an allocation, or on hosts");
  doctor->footer(
      "In an allocation, or with -n or --hosts, ranks are started and send each other messages. The exit code is 1 "
      "where\n"
      "there is a fault.");
  request->wish.add_to(*doctor);
  doctor->add_option("--program", request->program, "a program of yours, which must be the same file on all nodes")
      ->check(CLI::ExistingFile);
  doctor->add_option("--limit", request->limit, "seconds that the ranks may take")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  doctor->callback([request, all = std::move(all)] {
    const Surroundings at = Surroundings::here();
    throw CLI::RuntimeError(at.in_rank() ? run_as_rank(*request, at) : look_around(*request, at, all));
  });
}

}  // namespace mobula::cli
