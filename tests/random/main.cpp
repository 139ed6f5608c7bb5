// Random programs on the public API, beside a model of every value and error. A failure names its seed; the same seed
// is the same program. Exit codes: 0 well, 2 usage, 3 a wrong value or error, 4 a wait that took too long, 5 not at
// rest.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "core/mark.hpp"
#include "random/disturbance.hpp"
#include "random/interpreter.hpp"
#include "random/rounds.hpp"
#include "random/shrink.hpp"

namespace {

namespace programs = random_programs;

void print_programs(const programs::Options& options) {
  for (programs::Number seed = options.first_seed; seed <= options.last_seed; ++seed) {
    for (programs::Number round = 0; round < options.rounds; ++round) {
      std::printf("seed %llu, round %llu: %s\n", static_cast<unsigned long long>(seed),
                  static_cast<unsigned long long>(round),
                  programs::text_of(programs::program_of(options, seed, round)).c_str());
    }
  }
}

// Which rare paths this rank has reached, to a file of its own in $RANDOM_MARKS.
void tell_marks() {
  const char* const folder = std::getenv("RANDOM_MARKS");
  if (folder == nullptr) return;
  std::FILE* const file = std::fopen((std::string(folder) + "/" + std::to_string(getpid())).c_str(), "we");
  if (file == nullptr) return;
  for (const auto& [name, times] : mobula::core::Mark::all()) {
    if (times != 0) std::fprintf(file, "%s\n", name.c_str());
  }
  std::fclose(file);
}

std::string own_path() {
  std::string path(4096, '\0');
  const ssize_t length = readlink("/proc/self/exe", path.data(), path.size());
  path.resize(length < 0 ? 0 : static_cast<std::size_t>(length));
  return path;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], programs::BusyNeighbours::kWord) == 0) programs::BusyNeighbours::compute();
  programs::Options options;
  std::string command_line;
  try {
    options = programs::parse_options({argv + 1, argv + argc});
    for (int i = 0; i < argc; ++i) command_line += (i == 0 ? "" : " ") + std::string(argv[i]);
    if (options.print) {
      print_programs(options);
      return programs::kWell;
    }
    if (options.shrink) return programs::shrink(options, own_path());
  } catch (const std::exception& e) {
    std::fprintf(stderr, "random: %s\n%s", e.what(), programs::usage().c_str());
    return programs::kUsage;
  }
  programs::prepare_watch();
  mobula::Config config;
  config.resources = {{"license", 2}};
  const int code = mobula::run(
      argc, argv, [&] { return programs::run_rounds(options, command_line); }, config);
  tell_marks();
  return code;
}
