// What the command line asks for.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "random/program.hpp"

namespace random_programs {

#ifdef MOBULA_SANITIZE
inline constexpr bool kIsSanitized = true;
#else
inline constexpr bool kIsSanitized = false;
#endif

struct Options {
  Number first_seed = 1;
  Number last_seed = 1;
  Number rounds = 1;    // of each seed, each with a program of its own
  std::string program;  // in place of one that is generated
  Choice choice;
  Number kills = 0;                   // ranks that are killed
  bool busy = false;                  // beside two other busy processes
  bool print = false;                 // only says what would be run
  bool check_memory = !kIsSanitized;  // sanitizers keep what is freed, and much about what is used
  bool check_rest = true;
  std::optional<std::string> shrink;  // the words of a launcher, as in "mpirun -n 3"; may be empty
  std::vector<std::string> others;    // words that are not ours, for mobula
};

// Throws std::invalid_argument that says which word is wrong.
Options parse_options(const std::vector<std::string>& words);
std::string usage();

// The program of a round.
Steps program_of(const Options& options, Number seed, Number round);

}  // namespace random_programs
