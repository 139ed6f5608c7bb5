// Programs as tasks.
//
//   auto stats = mobula::command({"samtools", "stats", file});
//   std::puts(mobula::get(stats).out.c_str());
#pragma once

#include <concepts>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "mobula/options.hpp"
#include "mobula/ref.hpp"

namespace mobula {

namespace detail {
std::string number_text(long long number);
std::string number_text(unsigned long long number);
std::string number_text(double number);
}  // namespace detail

struct CommandResult {
  int exit_code = 0;  // 128 + signal where a signal has ended it
  int signal = 0;     // 0: none
  std::string out;    // what it wrote to stdout and stderr, up to CommandOptions::capture_limit bytes of each
  std::string err;
  std::string out_file;  // where there was more: the file, in its working directory, that has all of it
  std::string err_file;
  double wall = 0;          // seconds
  std::size_t max_rss = 0;  // bytes of memory, of it and those of its children that it has waited for

  template <class Archive>
  void serialize(Archive& archive, unsigned) {
    archive& exit_code& signal& out& err& out_file& err_file& wall& max_rss;
  }
};

// A word of a command line, or its input: text, a number, or what a task or an earlier command gives. A Ref is a
// dependency. Of a command's result it is `out`, without the newline at its end.
class CommandText {
 public:
  CommandText() = default;
  CommandText(const char* text) : text_(text) {}             // NOLINT: words are meant to become this
  CommandText(std::string text) : text_(std::move(text)) {}  // NOLINT
  CommandText(char letter) : text_(1, letter) {}             // NOLINT
  template <std::signed_integral T>
  CommandText(T number) : text_(detail::number_text(static_cast<long long>(number))) {}  // NOLINT
  template <std::unsigned_integral T>
  CommandText(T number) : text_(detail::number_text(static_cast<unsigned long long>(number))) {}  // NOLINT
  template <std::floating_point T>
  CommandText(T number) : text_(detail::number_text(static_cast<double>(number))) {}             // NOLINT
  CommandText(const Ref<std::string>& text) : from_(text.handle()) {}                            // NOLINT
  CommandText(const Ref<CommandResult>& earlier) : from_(earlier.handle()), is_result_(true) {}  // NOLINT

  const std::string& text() const { return text_; }
  const detail::Handle& from() const { return from_; }
  bool is_result() const { return is_result_; }

 private:
  std::string text_;
  detail::Handle from_;
  bool is_result_ = false;
};

// Those of tasks, and:
struct CommandOptions {
  double cpus = 1;
  double gpus = 0;
  std::size_t memory = 0;
  std::map<std::string, double> resources = {};
  std::vector<Demand> alternatives = {};
  int retries = 3;
  bool retry_exceptions = false;
  int priority = 0;
  std::string name = {};  // default: the program's
  Duration timeout = none;
  Duration time_request = none;
  Placement placement = any;
  Isolation isolation = in_process;             // or container
  CommandText stdin_bytes = {};                 // what it reads; nothing: the end at once
  std::string cwd = {};                         // default: the rank's
  std::map<std::string, std::string> env = {};  // set besides what the rank was started with
  std::size_t capture_limit = 1 << 20;          // bytes of stdout and of stderr; where there is more, a file has it all
  bool check = false;                           // an exit code other than 0 throws CommandFailed
  bool durable = false;                         // as of tasks; only an exit code of 0 is kept
  std::string version = {};
};

// Runs a program: its first word is looked up in PATH; no shell has a part in it (that would be {"sh", "-c", text}). It
// sees the cores of its task. What the launcher of this job has put into the environment for our own ranks is taken
// out, so that it may itself be an MPI program's launcher. It ends with its rank, with its timeout, and when it is
// cancelled, and so do the processes that it has started. Throws Infeasible, and std::invalid_argument for no program
// and for more than 60 Refs. The Ref throws CommandFailed where the program can't be started, and as `check` says.
Ref<CommandResult> command(const std::vector<CommandText>& words, const CommandOptions& options = {});
template <class Words>
requires std::same_as<Words, std::vector<std::string>> Ref<CommandResult> command(const Words& words,
                                                                                  const CommandOptions& options = {}) {
  return command(std::vector<CommandText>(words.begin(), words.end()), options);
}

}  // namespace mobula
