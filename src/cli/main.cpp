// The command `mobula`.
#include <mpi.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cstdio>
#include <string>
#include <vector>

#include "cli/commands.hpp"
#include "core/version.hpp"

namespace {

std::string version() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> mpi{};
  int length = 0;
  MPI_Get_library_version(mpi.data(), &length);
  std::string text(mpi.data(), static_cast<std::size_t>(length));
  return "mobula " + std::string(mobula::core::kVersion) + ", built with " + text.substr(0, text.find(','));
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Mobula: tasks, actors and programs in an MPI job");
  app.require_subcommand(1);
  app.set_version_flag("--version", version);
  const std::vector<std::string> all(argv, argv + argc);
  mobula::cli::add_run(app);
  mobula::cli::add_submit(app);
  mobula::cli::add_each(app, all);
  mobula::cli::add_doctor(app, all);
  mobula::cli::add_jobs(app);
  mobula::cli::add_journal(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
  return 0;
}
