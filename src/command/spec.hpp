// A command as it travels.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/messages.hpp"

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

struct Spec {
  std::vector<Word> words;
  Word input;
  std::string cwd;
  std::vector<std::string> env;
  std::uint64_t capture_limit = 0;
  bool check = false;
  core::WireImage image;
  std::uint64_t memory = 0;
  template <class V>
  void fields(V&& visit) {
    visit(words, input, cwd, env, capture_limit, check, image, memory);
  }
};

}  // namespace mobula::command_task
