#include "random/shrink.hpp"

#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>

namespace random_programs {
namespace {

class Shrinker {
 public:
  Shrinker(const Options& options, std::string program) : options_(options), program_(std::move(program)) {
    std::string name = "/tmp/mobula-random-XXXXXX";
    const int file = mkstemp(name.data());
    if (file < 0) throw std::runtime_error("no file can be made in /tmp");
    file_ = fdopen(file, "w");
    name_ = name;
  }
  Shrinker(const Shrinker&) = delete;
  Shrinker& operator=(const Shrinker&) = delete;
  ~Shrinker() {
    std::fclose(file_);
    std::remove(name_.c_str());
  }

  // How the program ends: its exit code, or another number where a signal has ended it.
  int run(const Steps& steps) {
    {
      std::ofstream out(name_, std::ios::trunc);
      out << text_of(steps);
    }
    std::string line = "timeout -k 5 120 " + *options_.shrink + " '" + program_ + "' --program-file=" + name_;
    line += " --rounds=" + std::to_string(options_.rounds) + " --seed=" + std::to_string(options_.first_seed);
    if (options_.kills != 0) line += " --kills=" + std::to_string(options_.kills);
    if (options_.busy) line += " --busy";
    if (!options_.check_memory) line += " --no-memory-check";
    for (const std::string& word : options_.others) line += " '" + word + "'";
    const int status = std::system((line + " >/dev/null 2>&1").c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : 256;
  }

 private:
  const Options& options_;
  std::string program_;
  std::string name_;
  std::FILE* file_ = nullptr;
};

}  // namespace

int shrink(const Options& options, const std::string& program) {
  Shrinker shrinker(options, program);
  Steps steps = program_of(options, options.first_seed, 0);
  const int code = shrinker.run(steps);
  if (code == 0) {
    std::printf("random: it does not fail\n");
    return 1;
  }
  std::printf("random: it ends with code %d\n", code);
  // Large parts first, from the end: later steps depend on earlier ones.
  for (Number part = (size_of(steps) + 1) / 2; part > 0; part /= 2) {
    bool has_shrunk = true;
    while (has_shrunk) {
      has_shrunk = false;
      for (Number first = size_of(steps) / part * part;; first -= part) {
        Steps smaller = without_steps(steps, first, part);
        if (!smaller.empty() && size_of(smaller) < size_of(steps) && shrinker.run(smaller) == code) {
          steps = std::move(smaller);
          has_shrunk = part == 1;
          std::printf("random: %llu steps: %s\n", static_cast<unsigned long long>(size_of(steps)),
                      text_of(steps).c_str());
          std::fflush(stdout);
        }
        if (first < part) break;
      }
    }
  }
  std::printf("random: smallest: %s\n", text_of(steps).c_str());
  return 0;
}

}  // namespace random_programs
