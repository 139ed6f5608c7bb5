// A job that may run for 100 seconds: who asks is told, and what would take longer is not started.
#include <chrono>
#include <cstdio>
#include <mobula/mobula.hpp>

namespace {

using namespace std::chrono_literals;

double seconds_left() { return static_cast<double>(mobula::time_left().nanoseconds) / 1e9; }

}  // namespace

int main(int argc, char** argv) {
  const auto driver = [] {
    int wrong = 0;
    for (const double left : {seconds_left(), mobula::get(mobula::remote<seconds_left>())}) {
      if (left > 80 && left <= 100) continue;
      std::printf("%f seconds are left of 100\n", left);
      ++wrong;
    }
    if (mobula::get(mobula::remote<seconds_left>.with({.time_request = 50s})()) <= 0) ++wrong;
    try {
      mobula::get(mobula::remote<seconds_left>.with({.time_request = 200s})());
      std::puts("a task has run that asks for more time than there is");
      ++wrong;
    } catch (const mobula::Infeasible&) {
    }
    return wrong;
  };
  mobula::Config config;
  config.time_limit = 100;
  return mobula::run(argc, argv, driver, config);
}
