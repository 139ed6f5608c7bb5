// All rounds of a job, in its driver.
#pragma once

#include "random/options.hpp"

namespace random_programs {

// Returns the exit code.
int run_rounds(const Options& options, const std::string& command_line);

}  // namespace random_programs
