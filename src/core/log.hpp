// Messages for people, on stderr, with the rank. Rare: what happens per task goes to the trace.
#pragma once

#include <string>

namespace mobula::core {

void log_start(const std::string& level, unsigned rank);
void log_error(const std::string& message);
void log_warn(const std::string& message);
void log_info(const std::string& message);

}  // namespace mobula::core
