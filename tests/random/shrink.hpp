// Makes a failing program smaller, by running it again and again without one step of it.
#pragma once

#include "random/options.hpp"

namespace random_programs {

// Runs `program` (this very binary) under the launcher of the options. Prints the smallest program that still fails.
// Returns 0 if the program has failed at all.
int shrink(const Options& options, const std::string& program);

}  // namespace random_programs
