// A program: steps, each the name of an operation, a seed for all that it draws, and, of those that run a program of
// their own elsewhere, the steps of that. As text: `task_words#17 task_block#3[ get#9 put_small#1 ]`.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "random/values.hpp"

namespace random_programs {

struct Operation;

struct Step {
  const Operation* operation = nullptr;
  Number seed = 0;
  std::vector<Step> block = {};
};
using Steps = std::vector<Step>;

// What the generator may choose from.
struct Choice {
  Number operations = 30;                 // of the driver
  std::vector<std::string> only = {};     // names, or beginnings of names; empty: all
  std::vector<std::string> without = {};  // the same, of those to leave out
  bool rare = true;                       // also those that cost much
  bool ranks_are_lost = false;            // then without those that need all ranks
};

// The same for equal seeds and choices. Throws std::invalid_argument if nothing is left to choose from.
Steps generate(Number seed, const Choice& choice);

std::string text_of(const Steps& steps);
// Throws std::invalid_argument for what is no program.
Steps parse(std::string_view text);

// The number of steps, with those of blocks.
Number size_of(const Steps& steps);
// Without the steps of those numbers, and without their blocks, counted as the text has them.
Steps without_steps(const Steps& steps, Number first, Number count);

}  // namespace random_programs
