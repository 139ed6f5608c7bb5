// mobula each: runs a command for each line or file of the input over the ranks of a job.
//
// It is a program of Mobula's like any other. Where no launcher has started it yet, it starts itself by one, as `mobula
// run` would, if there are to be several ranks. Items are read as there is room for them, so their number has no limit.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <optional>

#include "cli/commands.hpp"
#include "cli/launch.hpp"
#include "cli/template.hpp"
#include "core/host.hpp"
#include "mobula/mobula.hpp"

namespace mobula::cli {
namespace {

constexpr std::size_t kCapture = 16 << 20;  // bytes of a command's output that travel; more goes by a file
constexpr int kMostCode = 101;              // as GNU parallel's: how many failed, up to this

struct Request {
  Wish wish;  // its words: the command, and perhaps ::: and items
  std::string from;
  bool by_zero = false;
  bool in_order = false;
  bool tags = false;
  bool dry = false;
  bool quiet = false;
  bool shows_progress = false;
  int slots = 0;
  int tries = 1;
  int halt = 0;
  double timeout = 0;
  double cpus = 1;
  double gpus = 0;
  std::uint64_t memory = 0;
  std::string journal;
  std::string log;
  std::string each_image;
};

// The items: those after `:::`, or of a file, or of the standard input.
class Items {
 public:
  Items(const Request& request, std::vector<std::string> given, bool is_given)
      : given_(std::move(given)), is_given_(is_given), end_(request.by_zero ? '\0' : '\n') {
    if (is_given || request.from.empty() || request.from == "-") return;
    file_.open(request.from);
    if (!file_) throw Error("mobula: the file of items " + request.from + " can't be read");
  }
  std::optional<std::string> next() {
    if (is_given_) return at_ < given_.size() ? std::optional(given_[at_++]) : std::nullopt;
    std::istream& in = file_.is_open() ? file_ : std::cin;
    std::string item;
    if (!std::getline(in, item, end_)) return std::nullopt;
    if (end_ == '\n' && item.ends_with('\r')) item.pop_back();
    return item;
  }

 private:
  std::vector<std::string> given_;
  bool is_given_;
  char end_;
  std::size_t at_ = 0;
  std::ifstream file_;
};

struct Running {
  std::uint64_t number = 0;
  std::string item;
  std::vector<std::string> words;
  int tries = 1;
  Ref<CommandResult> result;
};

struct Done {
  Running of;
  std::optional<CommandResult> result;  // none: it could not be run
  std::string error;
  bool is_good() const { return result && result->exit_code == 0; }
};

std::string line_of(const std::vector<std::string>& words) {
  if (words.size() == 3 && words[0] == "sh" && words[1] == "-c") return words[2];
  std::string line;
  for (const std::string& word : words) line += (line.empty() ? "" : " ") + quoted(word);
  return line;
}

// One line that is written over on a terminal, plain lines from time to time elsewhere.
class Progress {
 public:
  explicit Progress(bool wanted) : on_terminal_(isatty(STDERR_FILENO) != 0), wanted_(wanted) {}
  void show(std::uint64_t done, std::uint64_t failed, std::size_t in_flight, bool last = false) {
    if (!wanted_) return;
    const auto now = std::chrono::steady_clock::now();
    const auto pause = on_terminal_ ? std::chrono::milliseconds(200) : std::chrono::milliseconds(10'000);
    if (!last && now - shown_ < pause) return;
    shown_ = now;
    const double seconds = std::chrono::duration<double>(now - begun_).count();
    std::fprintf(stderr, "%s%llu done, %llu failed, %zu in flight, %.0f/s%s",
                 on_terminal_ ? "\r" : "mobula: ", static_cast<unsigned long long>(done),
                 static_cast<unsigned long long>(failed), in_flight,
                 seconds > 0 ? static_cast<double>(done) / seconds : 0.0, on_terminal_ && !last ? "\033[K" : "\n");
  }
  // The line must not stand among a command's output.
  void clear() const {
    if (wanted_ && on_terminal_) std::fputs("\r\033[K", stderr);
  }

 private:
  bool on_terminal_;
  bool wanted_;
  std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point shown_ = begun_;
};

// In GNU parallel's columns, whose tools can read it.
class Log {
 public:
  explicit Log(const std::string& path) {
    if (path.empty()) return;
    file_.open(path);
    if (!file_) throw Error("mobula: the log of the commands " + path + " can't be written");
    file_ << "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n";
  }
  void add(const Done& done) {
    if (!file_.is_open()) return;
    CommandResult result;
    result.exit_code = 255;
    if (done.result) result = *done.result;
    const double now = core::system_seconds();
    std::array<char, 128> numbers{};
    std::snprintf(numbers.data(), numbers.size(), "%llu\t:\t%.3f\t%.3f\t0\t%zu\t%d\t%d\t",
                  static_cast<unsigned long long>(done.of.number), now - result.wall, result.wall, result.out.size(),
                  result.signal != 0 ? 0 : result.exit_code, result.signal);
    file_ << numbers.data() << line_of(done.of.words) << '\n' << std::flush;
  }

 private:
  std::ofstream file_;
};

// All of a command's output; what was too long to travel is in a file, which may be on another host.
void pass_on(const std::string& text, const std::string& file, const std::string& tag, std::FILE* to) {
  std::string all = text;
  if (!file.empty()) {
    if (std::ifstream in(file, std::ios::binary); in) {
      all.assign(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
      in.close();
      unlink(file.c_str());
    } else {
      std::fprintf(stderr, "mobula: the whole output is in %s, which can't be read here\n", file.c_str());
    }
  }
  if (tag.empty()) {
    std::fwrite(all.data(), 1, all.size(), to);
    return;
  }
  for (std::size_t at = 0; at < all.size();) {
    const std::size_t end = std::min(all.find('\n', at), all.size());
    std::fprintf(to, "%s\t%.*s\n", tag.c_str(), static_cast<int>(end - at), all.data() + at);
    at = end + 1;
  }
}

class Each {
 public:
  Each(const Request& request, Template line, Items items)
      : request_(request),
        line_(std::move(line)),
        items_(std::move(items)),
        log_(request.log),
        progress_(request.shows_progress || (!request.quiet && isatty(STDERR_FILENO) && !isatty(STDOUT_FILENO))) {
    options_.cpus = request.cpus;
    options_.gpus = request.gpus;
    options_.memory = request.memory;
    if (request.timeout > 0) options_.timeout = std::chrono::duration<double>(request.timeout);
    options_.capture_limit = kCapture;
    options_.durable = !request.journal.empty();
    if (!request.each_image.empty()) options_.isolation = container{.image = request.each_image};
  }

  int run() {
    const auto slots = static_cast<std::size_t>(std::max(cluster().slots, 1));
    // What is in flight waits at the ranks, and begins there.
    const std::size_t room = request_.halt > 0 ? slots : std::max<std::size_t>(64, slots * 16);
    while (true) {
      while (!stops_ && running_.size() < room && waiting_.size() < 4 * room) {
        auto item = items_.next();
        if (!item) break;
        Running next{++number_, *item, line_.with(*item, number_), 1, {}};
        start(std::move(next));
      }
      if (running_.empty()) break;
      take_ended();
    }
    progress_.show(done_, failed_, 0, true);
    std::fflush(nullptr);
    if (stops_)
      std::fprintf(stderr, "mobula: %llu commands failed, so no others were begun (--halt)\n",
                   static_cast<unsigned long long>(failed_));
    return static_cast<int>(std::min<std::uint64_t>(failed_, kMostCode));
  }

 private:
  void start(Running next) {
    next.result = command(std::vector<std::string>(next.words), options_);
    refs_.push_back(next.result);
    running_.push_back(std::move(next));
  }

  void take_ended() {
    const auto ready = wait(refs_, {.count = 1, .timeout = std::chrono::seconds(1)}).ready;
    for (auto at = ready.rbegin(); at != ready.rend(); ++at) {
      Running ended = std::move(running_[*at]);
      running_[*at] = std::move(running_.back());
      running_.pop_back();
      refs_[*at] = std::move(refs_.back());
      refs_.pop_back();
      end(std::move(ended));
    }
    progress_.show(done_, failed_, running_.size());
  }

  void end(Running of) {
    Done done{std::move(of), std::nullopt, ""};
    try {
      done.result = get(done.of.result);
    } catch (const Cancelled&) {
      throw;  // the job was told to end
    } catch (const std::exception& e) {
      done.error = e.what();
    }
    done.of.result = {};
    if (!done.is_good() && done.of.tries < request_.tries && !stops_) {
      ++done.of.tries;
      start(std::move(done.of));
      return;
    }
    ++done_;
    if (!done.is_good()) ++failed_;
    stops_ = stops_ || (request_.halt > 0 && failed_ >= static_cast<std::uint64_t>(request_.halt));
    log_.add(done);
    if (!request_.in_order) {
      show(done);
      return;
    }
    waiting_.emplace(done.of.number, std::move(done));
    for (auto next = waiting_.begin(); next != waiting_.end() && next->first == shown_ + 1; next = waiting_.begin()) {
      show(next->second);
      ++shown_;
      waiting_.erase(next);
    }
  }

  void show(const Done& done) {
    progress_.clear();
    const std::string tag = request_.tags ? done.of.item : "";
    if (done.result) {
      pass_on(done.result->out, done.result->out_file, tag, stdout);
      std::fflush(stdout);
      pass_on(done.result->err, done.result->err_file, tag, stderr);
    }
    if (done.is_good()) return;
    const std::string how = !done.error.empty()        ? done.error
                            : done.result->signal != 0 ? "ended by signal " + std::to_string(done.result->signal)
                                                       : "exit code " + std::to_string(done.result->exit_code);
    std::fprintf(stderr, "mobula: command %llu failed (%s): %s\n", static_cast<unsigned long long>(done.of.number),
                 how.c_str(), line_of(done.of.words).c_str());
  }

  const Request& request_;
  Template line_;
  Items items_;
  CommandOptions options_;
  Log log_;
  Progress progress_;
  std::vector<Running> running_;
  std::vector<Ref<CommandResult>> refs_;   // of those
  std::map<std::uint64_t, Done> waiting_;  // for earlier ones to be shown
  std::uint64_t number_ = 0;
  std::uint64_t shown_ = 0;
  std::uint64_t done_ = 0;
  std::uint64_t failed_ = 0;
  bool stops_ = false;
};

int run_here(const Request& request, const std::vector<std::string>& settings) {
  const auto colons = std::find(request.wish.words.begin(), request.wish.words.end(), ":::");
  const bool is_given = colons != request.wish.words.end();
  Template line({request.wish.words.begin(), colons});
  const auto open = [&] {
    std::vector<std::string> given;
    if (is_given) given.assign(colons + 1, request.wish.words.end());
    return Items(request, std::move(given), is_given);
  };
  if (request.dry) {
    std::uint64_t number = 0;
    Items items = open();
    while (const auto item = items.next()) std::puts(line_of(line.with(*item, ++number)).c_str());
    return 0;
  }
  Config config;
  config.slots = request.slots;
  config.journal = request.journal;
  std::vector<std::string> words{"mobula"};
  words.insert(words.end(), settings.begin(), settings.end());
  std::vector<char*> arguments;
  arguments.reserve(words.size() + 1);
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  int count = static_cast<int>(words.size());
  return mobula::run(
      count, arguments.data(), [&] { return Each(request, std::move(line), open()).run(); }, config);
}

}  // namespace

void add_each(CLI::App& app, std::vector<std::string> all) {
  auto request = std::make_shared<Request>();
  CLI::App* const each =
      app.add_subcommand("each", "Run a command for each item of the input, over the ranks of a job");
  each->footer(
      "mobula each [OPTIONS] COMMAND… ::: ITEM…     items in the line\n"
      "mobula each [OPTIONS] COMMAND… < LIST        one in each line\n"
      "mobula each [OPTIONS] < COMMANDS             a command in each line\n"
      "In the command, {} is the item, {.} the item without its extension, {/} its name, {//} its folder, {/.} its "
      "name\n"
      "without extension, {#} its number. A command of one word is a line for the shell: mobula each 'gzip -c {} > "
      "{}.gz'.\n"
      "The exit code is the number of commands that failed, at most 101; 128 and a signal where the job was told to "
      "end.\n"
      "Mobula's settings come right before the command, as in --mobula-log=info.");
  request->wish.add_to(*each);
  each->add_option("-a,--items", request->from, "the file of the items; by default the standard input");
  each->add_flag("-0,--null", request->by_zero,
                 "items end with a zero byte, not with a line, as find -print0 has them");
  each->add_option("-j,--jobs", request->slots, "commands at once on each rank; by default one for each of its cores")
      ->check(CLI::PositiveNumber);
  each->add_flag("-k,--keep-order", request->in_order, "show output in the order of the items");
  each->add_flag("--tag", request->tags, "begin each line of output with its item");
  each->add_option("--retries", request->tries, "how often a command that fails is run in all")
      ->check(CLI::PositiveNumber);
  each->add_option("--timeout", request->timeout, "seconds after which a command is ended, and has failed")
      ->check(CLI::PositiveNumber);
  each->add_option("--halt", request->halt, "begin no others once so many have failed")->check(CLI::PositiveNumber);
  each->add_option("--cpus-each", request->cpus, "cores that each command needs")->check(CLI::NonNegativeNumber);
  each->add_option("--gpus-each", request->gpus, "GPUs that each command needs")->check(CLI::NonNegativeNumber);
  each->add_option("--memory-each", request->memory, "memory that each command needs and may use, as in 2GB")
      ->transform(CLI::AsSizeValue(false));
  each->add_option("--container-each", request->each_image, "the image in which each command runs");
  each->add_option("--resume,--journal", request->journal,
                   "a folder in which results are kept: commands that have ended well before are not run again");
  each->add_option("--joblog", request->log, "a file that gets a line for each command, as GNU parallel writes them");
  each->add_flag("--dry-run", request->dry, "print the commands, and run none");
  each->add_flag("--progress", request->shows_progress, "say how far it is, also where the output is a terminal");
  each->add_flag("--quiet", request->quiet, "don't");
  each->prefix_command();
  each->callback([each, request, all = std::move(all)] {
    const std::vector<std::string> rest = each->remaining();
    const auto command =
        std::find_if(rest.begin(), rest.end(), [](const auto& w) { return !w.starts_with("--mobula-"); });
    const std::vector<std::string> settings(rest.begin(), command);
    request->wish.words.assign(command, rest.end());
    const Surroundings at = Surroundings::here();
    const bool alone = request->wish.launcher == "none" ||
                       (request->wish.ranks <= 1 && request->wish.hosts.empty() && !at.in_allocation());
    if (!request->dry && !at.in_rank() && !alone) {
      Wish self = request->wish;
      self.code_counts = true;
      self.words = {at.self};
      self.words.insert(self.words.end(), all.begin() + 1, all.end());
      start(plan(self, at));
    }
    throw CLI::RuntimeError(run_here(*request, settings));
  });
}

}  // namespace mobula::cli
