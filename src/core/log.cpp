#include "core/log.hpp"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

namespace mobula::core {
namespace {

spdlog::logger& logger() {
  // Never destroyed: threads may log until the process ends.
  static auto* const instance = new spdlog::logger("mobula", std::make_shared<spdlog::sinks::stderr_sink_mt>());
  return *instance;
}

}  // namespace

void log_start(const std::string& level, unsigned rank) {
  logger().set_level(level == "off" ? spdlog::level::off : spdlog::level::from_str(level));
  logger().set_pattern("mobula [rank " + std::to_string(rank) + "] %l: %v");
}
void log_error(const std::string& message) { logger().error(message); }
void log_warn(const std::string& message) { logger().warn(message); }
void log_info(const std::string& message) { logger().info(message); }

}  // namespace mobula::core
