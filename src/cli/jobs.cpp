// mobula status, top, stop and logs: of jobs that run on this host, of this user; of others by Slurm or ssh.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "cli/commands.hpp"
#include "cli/launch.hpp"
#include "exec/door.hpp"
#include "mobula/error.hpp"

namespace mobula::cli {
namespace fs = std::filesystem;

namespace {

using Json = nlohmann::json;

struct Request {
  std::string job;    // the beginning of its name; "": the only one
  std::string host;   // to ask there, over ssh; "": here
  bool here = false;  // somebody has sent us: ask nobody else
  bool json = false;
  bool now = false;
  bool follow = false;
  int rank = -1;
  double every = 1;

  void add_to(CLI::App& app) {
    app.add_option("job", job, "the job: its name, or the beginning of that; the number of a job of Slurm");
    app.add_option("--host", host, "the host of the job's head, which is reached over ssh");
    app.add_flag("--here", here)->group("");
  }
};

struct Found {
  std::string folder;
  Json record;
};

std::vector<Found> jobs_here() {
  std::vector<Found> all;
  const std::string jobs = exec::folder_of_jobs(false);
  if (jobs.empty()) return all;
  std::error_code none;  // the last job has just ended
  for (const auto& entry : fs::directory_iterator(jobs, none)) {
    std::ifstream file(entry.path() / "job.json");
    Json record = Json::parse(file, nullptr, false);
    if (record.is_object()) all.push_back({entry.path(), std::move(record)});
  }
  std::sort(all.begin(), all.end(), [](const Found& a, const Found& b) {
    return a.record.value("started", 0.0) < b.record.value("started", 0.0);
  });
  return all;
}

// Has another host do it, if the job is there. Does not return then.
void ask_elsewhere(const Request& request, const std::string& what, const std::vector<std::string>& more) {
  if (request.here) return;
  const Surroundings at = Surroundings::here();
  Launch launch;
  const bool is_number = !request.job.empty() && request.job.find_first_not_of("0123456789") == std::string::npos;
  if (!request.host.empty()) {
    launch.words = {"ssh", request.host};
  } else if (is_number && at.has("srun")) {
    // The head is on the first node of the job.
    launch.words = {"srun", "--overlap", "--jobid=" + request.job, "--nodes=1", "--ntasks=1", "--relative=0"};
  } else {
    return;
  }
  launch.words.insert(launch.words.end(), {at.self, what});
  if (!request.job.empty()) launch.words.push_back(request.job);
  launch.words.emplace_back("--here");
  launch.words.insert(launch.words.end(), more.begin(), more.end());
  become(launch);
}

Found find(const Request& request, const std::string& what, const std::vector<std::string>& more = {}) {
  if (!request.host.empty()) ask_elsewhere(request, what, more);
  std::vector<Found> all = jobs_here();
  std::erase_if(all, [&](const Found& of) { return !of.record.value("job", "").starts_with(request.job); });
  if (all.size() == 1) return all.front();
  if (all.empty()) {
    ask_elsewhere(request, what, more);
    throw Error("mobula: no job of yours " +
                (request.job.empty() ? "" : "whose name begins with " + request.job + " ") +
                "runs on this host; its head's host is where its rank 0 is (--host)");
  }
  std::string names;
  for (const Found& of : all) names += " " + of.record.value("job", "");
  throw Error("mobula: several jobs run here; say which:" + names);
}

Json ask(const Found& job, const std::string& question) {
  Json answer = Json::parse(exec::ask_door(job.folder, Json{{"ask", question}}.dump()), nullptr, false);
  if (!answer.is_object()) throw Error("mobula: the job gave an answer that can't be read");
  if (answer.contains("error")) throw Error("mobula: " + answer.value("error", ""));
  return answer;
}

std::string duration(double seconds) {
  std::array<char, 32> text{};
  const auto s = static_cast<long>(seconds);
  if (s >= 86400) {
    std::snprintf(text.data(), text.size(), "%ldd%02ldh", s / 86400, s / 3600 % 24);
  } else if (s >= 3600) {
    std::snprintf(text.data(), text.size(), "%ldh%02ldm", s / 3600, s / 60 % 60);
  } else {
    std::snprintf(text.data(), text.size(), "%ldm%02lds", s / 60, s % 60);
  }
  return text.data();
}

std::string name_of_program(const Json& record) { return fs::path(record.value("program", "")).filename().string(); }

// ---- status and top ----------------------------------------------------------------------------------------------

void show_list(const std::vector<Found>& all) {
  if (all.empty()) {
    std::puts("No job of yours runs on this host.");
    return;
  }
  std::printf("%-20s  %-20s  %8s  %6s  %12s  %12s\n", "job", "program", "since", "ranks", "tasks ended", "to do");
  for (const Found& job : all) {
    try {
      const Json status = ask(job, "status");
      const Json& tasks = status.at("tasks");
      const auto number = [&tasks](const char* name) { return tasks.at(name).get<unsigned long long>(); };
      std::printf("%-20s  %-20s  %8s  %6zu  %12llu  %12llu\n", job.record.value("job", "").c_str(),
                  name_of_program(job.record).c_str(),
                  duration(status.value("time", 0.0) - job.record.value("started", 0.0)).c_str(),
                  status.at("ranks").size(), number("ended"),
                  number("waiting") + number("queued") + number("assigned"));
    } catch (const Error&) {
      continue;  // it has ended meanwhile
    }
  }
}

// `before`: the answer some seconds earlier, for rates; null: there is none.
void show_job(const Json& record, const Json& status, const Json& before) {
  const Json& tasks = status.at("tasks");
  const auto number = [&tasks](const char* name) { return tasks.at(name).get<unsigned long long>(); };
  std::printf("%s  %s on %s, since %s%s\n", record.value("job", "").c_str(), name_of_program(record).c_str(),
              record.value("host", "").c_str(),
              duration(status.value("time", 0.0) - record.value("started", 0.0)).c_str(),
              status.value("ends", false) ? ", told to end" : "");
  std::printf("tasks    %llu ended", number("ended"));
  if (before.is_object()) {
    const double seconds = status.value("time", 0.0) - before.value("time", 0.0);
    const auto then = before.at("tasks").at("ended").get<unsigned long long>();
    if (seconds > 0) std::printf(" (%.0f/s)", static_cast<double>(number("ended") - then) / seconds);
  }
  std::printf(", %llu at ranks, %llu queued, %llu wait for inputs; %llu run again\n", number("assigned"),
              number("queued"), number("waiting"), number("retried"));
  std::size_t alive = 0;
  for (const Json& rank : status.at("ranks")) alive += rank.value("alive", false) ? 1 : 0;
  std::printf("ranks    %zu on %llu nodes, %llu lost, %llu left in order\n", alive, status.value("nodes", 0ULL),
              status.value("lost", 0ULL), status.value("left", 0ULL));
  std::printf("actors   %llu; objects %llu\n", status.value("actors", 0ULL), status.value("objects", 0ULL));
  for (const auto& [name, amount] : status.at("total").items()) {
    const double all = amount.get<double>();
    const double free = status.at("free").value(name, 0.0);
    const bool bytes = name == "memory";
    const double unit = bytes ? 1 << 30 : 1;
    if (all > 0)
      std::printf("%-8s %.6g of %.6g %sin use\n", name.c_str(), (all - free) / unit, all / unit, bytes ? "GiB " : "");
  }
}

void show_functions(const Json& status, std::size_t most) {
  std::vector<Json> all(status.at("functions").begin(), status.at("functions").end());
  const auto sum = [](const Json& of) {
    return of.value("assigned", 0ULL) + of.value("queued", 0ULL) + of.value("waiting", 0ULL);
  };
  std::sort(all.begin(), all.end(), [&](const Json& a, const Json& b) { return sum(a) > sum(b); });
  if (all.empty()) return;
  std::printf("\n%12s  %12s  %12s  %s\n", "at ranks", "queued", "waiting", "task");
  for (std::size_t i = 0; i < std::min(all.size(), most); ++i) {
    std::printf("%12llu  %12llu  %12llu  %s\n", all[i].value("assigned", 0ULL), all[i].value("queued", 0ULL),
                all[i].value("waiting", 0ULL), all[i].value("name", "").c_str());
  }
}

// By host, since a large job has too many ranks for a screen.
void show_hosts(const Json& status, std::size_t most) {
  struct Host {
    unsigned long long ranks = 0;
    unsigned long long slots = 0;
    unsigned long long tasks = 0;
    unsigned long long lost = 0;
  };
  std::map<std::string, Host> hosts;
  for (const Json& rank : status.at("ranks")) {
    Host& host = hosts[rank.value("host", "")];
    if (!rank.value("alive", false)) {
      ++host.lost;
      continue;
    }
    ++host.ranks;
    host.slots += rank.value("slots", 0ULL);
    host.tasks += rank.value("tasks", 0ULL);
  }
  std::printf("\n%8s  %8s  %12s  %8s  %s\n", "ranks", "slots", "tasks there", "lost", "host");
  std::size_t shown = 0;
  for (const auto& [name, of] : hosts) {
    if (++shown > most) break;
    std::printf("%8llu  %8llu  %12llu  %8llu  %s\n", of.ranks, of.slots, of.tasks, of.lost, name.c_str());
  }
  if (hosts.size() > most) std::printf("… and %zu hosts more\n", hosts.size() - most);
}

void status(const Request& request) {
  if (request.job.empty() && request.host.empty()) {
    const std::vector<Found> all = jobs_here();
    if (all.size() != 1) {
      show_list(all);
      return;
    }
  }
  const Found job =
      find(request, "status", request.json ? std::vector<std::string>{"--json"} : std::vector<std::string>());
  const Json now = ask(job, "status");
  if (request.json) {
    std::puts(Json{{"record", job.record}, {"status", now}}.dump(2).c_str());
    return;
  }
  constexpr std::size_t kAll = 1 << 20;
  show_job(job.record, now, nullptr);
  show_functions(now, kAll);
  show_hosts(now, kAll);
}

void top(const Request& request) {
  const Found job = find(request, "top");
  const bool on_terminal = isatty(STDOUT_FILENO) != 0;
  constexpr std::size_t kRows = 12;
  Json before;
  while (true) {
    Json now;
    try {
      now = ask(job, "status");
    } catch (const Error&) {
      std::puts("The job has ended.");
      return;
    }
    if (on_terminal) std::fputs("\033[H\033[J", stdout);
    show_job(job.record, now, before);
    show_functions(now, kRows);
    show_hosts(now, kRows);
    if (!on_terminal) std::puts("");
    std::fflush(stdout);
    before = std::move(now);
    std::this_thread::sleep_for(std::chrono::duration<double>(request.every));
  }
}

void stop(const Request& request) {
  const Found job = find(request, "stop", request.now ? std::vector<std::string>{"--now"} : std::vector<std::string>());
  ask(job, request.now ? "stop_now" : "stop");
  std::printf("%s was told to end%s\n", job.record.value("job", "").c_str(),
              request.now ? " at once" : ": what runs may end (its setting grace)");
}

// ---- logs --------------------------------------------------------------------------------------------------------

// What has been added to a rank's file since, each line with its rank.
class RankLog {
 public:
  RankLog(std::string path, std::string rank) : path_(std::move(path)), tag_("[" + std::move(rank) + "] ") {}
  void show() {
    std::ifstream file(path_, std::ios::binary);
    file.seekg(static_cast<std::streamoff>(at_));
    for (std::string line; std::getline(file, line);) {
      if (file.eof()) return;  // not at its end yet
      at_ += line.size() + 1;
      std::printf("%s%s\n", tag_.c_str(), line.c_str());
    }
  }

 private:
  std::string path_;
  std::string tag_;
  std::size_t at_ = 0;
};

void logs(const Request& request) {
  std::string folder = request.job;
  std::string door;  // while it is there the job runs
  if (folder.empty() || !fs::is_directory(folder)) {
    std::vector<std::string> more;
    if (request.follow) more.emplace_back("--follow");
    if (request.rank >= 0) more.insert(more.end(), {"--rank", std::to_string(request.rank)});
    const Found job = find(request, "logs", more);
    door = job.folder;
    folder = job.record.value("output", "");
    if (folder.empty())
      throw Error(
          "mobula: this job keeps no output: start it with --mobula-job-dir=FOLDER, on a file system that all nodes "
          "see");
  }
  std::map<std::string, RankLog> all;
  while (true) {
    const bool over = !door.empty() && !fs::exists(door);
    for (const auto& entry : fs::directory_iterator(folder)) {
      const std::string name = entry.path().stem();
      if (!name.starts_with("rank-") || entry.path().extension() != ".log") continue;
      const std::string rank = name.substr(5);
      if (request.rank < 0 || rank == std::to_string(request.rank)) all.try_emplace(rank, entry.path(), rank);
    }
    for (auto& [rank, log] : all) log.show();
    std::fflush(stdout);
    if (!request.follow || over) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }
}

}  // namespace

void add_jobs(CLI::App& app) {
  const auto add = [&app](const char* name, const char* text, void (*run)(const Request&), auto&& more) {
    auto request = std::make_shared<Request>();
    CLI::App* const command = app.add_subcommand(name, text);
    request->add_to(*command);
    more(*command, *request);
    command->callback([request, run] { run(*request); });
  };
  add("status", "Show the jobs that run here, or how one is", status,
      [](CLI::App& of, Request& request) { of.add_flag("--json", request.json, "all that is known, for programs"); });
  add("top", "Show how a job is, again and again", top, [](CLI::App& of, Request& request) {
    of.add_option("--every", request.every, "seconds")->check(CLI::PositiveNumber)->capture_default_str();
  });
  add("logs", "Show what the ranks of a job have printed", logs, [](CLI::App& of, Request& request) {
    of.add_flag("-f,--follow", request.follow, "go on until the job ends");
    of.add_option("--rank", request.rank, "only of this rank");
    of.footer("In place of a job it takes the folder that was given as --mobula-job-dir, also when the job has ended.");
  });
  add("stop", "Tell a job to end", stop,
      [](CLI::App& of, Request& request) { of.add_flag("--now", request.now, "at once, and not in order"); });
}

}  // namespace mobula::cli
