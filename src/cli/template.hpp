// A command line with places for an item, as GNU parallel has them: {} the item, {.} without its last extension, {/}
// its name without folders, {//} its folder, {/.} its name without extension, {#} its number from 1.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace mobula::cli {

class Template {
 public:
  // One word is a line for the shell, in which items are quoted; several are a program and its arguments. Without a
  // place for it, the item comes last. No words: each item is itself a line for the shell.
  explicit Template(std::vector<std::string> words);
  std::vector<std::string> with(const std::string& item, std::uint64_t number) const;

 private:
  std::vector<std::string> words_;
  bool by_shell_ = false;
};

}  // namespace mobula::cli
