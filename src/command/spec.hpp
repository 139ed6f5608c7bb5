// A command as it travels, and what becomes of it on the rank that runs it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "mobula/command.hpp"

namespace mobula::command_task {

struct Word {
  std::string text;
  bool from_ref = false;  // it is what the next input of the task gives
  bool is_result = false;
  template <class V>
  void fields(V&& visit) {
    visit(text, from_ref, is_result);
  }
};

struct Image {
  std::string name;  // empty: no container
  std::vector<std::string> binds;
  std::vector<std::string> env;
  bool gpus = false;
  std::string runtime;
  template <class V>
  void fields(V&& visit) {
    visit(name, binds, env, gpus, runtime);
  }
};

struct Spec {
  std::vector<Word> words;
  Word input;
  std::string cwd;
  std::vector<std::string> env;
  std::uint64_t capture_limit = 0;
  bool check = false;
  Image image;
  template <class V>
  void fields(V&& visit) {
    visit(words, input, cwd, env, capture_limit, check, image);
  }
};

// All that is needed to start a process.
struct Program {
  std::vector<std::string> words;
  std::vector<std::string> env;  // all of it
  std::string cwd;
  std::string input;
  std::size_t capture_limit = 0;
  std::string files;  // how the files for output over the limit begin
  std::function<bool()> is_unwanted;
  std::function<void()> when_stopped = [] {};  // something else is to be told when the process is ended
};

// The environment of this process without what a launcher has put there for ranks, so that the command may start ranks
// of its own; then with `more`.
std::vector<std::string> environment(const std::vector<std::string>& more);

// Where the program is, by the PATH of `env`; empty: nowhere.
std::string find_program(const std::string& name, const std::vector<std::string>& env);

// The command line that runs the words in a container, and what ends that. Throws CommandFailed.
struct Contained {
  std::vector<std::string> words;
  std::vector<std::string> end;  // empty: it ends with its process
  std::string runtime;
};
Contained contain(const Image& image, const std::vector<std::string>& words, const std::string& cwd,
                  const std::string& name, bool has_input, const std::vector<std::string>& env);

// Runs it to its end on the calling thread. Throws CommandFailed where it can't be started, Cancelled.
CommandResult run_program(const Program& program);

}  // namespace mobula::command_task
