// Programs: what they are started with, and what becomes of them.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "mobula/command.hpp"

namespace mobula::programs {

// All that is needed to start a process.
struct Program {
  std::vector<std::string> words;
  std::vector<std::string> env;  // all of it
  std::string cwd;
  std::string input;
  std::size_t capture_limit = 0;
  std::string files;       // how the files for output over the limit begin
  std::size_t memory = 0;  // bytes of data that each of its processes may have; 0: no limit
  std::function<bool()> is_unwanted = [] { return false; };
  std::function<void()> when_stopped = [] {};  // something else is to be told when the process is ended
};

// The environment of this process without what a launcher has put there for ranks, so that the program may start ranks
// of its own; then with `more`.
std::vector<std::string> environment(const std::vector<std::string>& more);

// Where the program is, by the PATH of `env`; empty: nowhere.
std::string find_program(const std::string& name, const std::vector<std::string>& env);

// As execve takes them; they point into the texts.
std::vector<char*> pointers(const std::vector<std::string>& texts);

// Runs it to its end on the calling thread. Throws CommandFailed where it can't be started, Cancelled.
CommandResult run_program(const Program& program);

// The last bytes of an output, as they travel with errors.
std::string last_of(const std::string& output);

}  // namespace mobula::programs
