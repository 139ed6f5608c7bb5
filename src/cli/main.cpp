// The command `mobula`.
#include <mpi.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cstdio>
#include <stdexcept>
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

// Of those that start a command: CLI11 would take an option that it doesn't know for the command's first word, and what
// comes after `--` for another subcommand's. Takes the `--` out.
void check_options(const CLI::App& app, std::vector<char*>& words) {
  const auto called = [&words](const CLI::App* sub) { return words.size() > 1 && sub->get_name() == words[1]; };
  const std::vector<const CLI::App*> found = app.get_subcommands(called);
  if (found.empty() || !found.front()->get_prefix_command()) return;
  const CLI::App& sub = *found.front();
  for (std::size_t i = 2; i < words.size(); ++i) {
    const std::string word = words[i];
    if (word == "--") {
      words.erase(words.begin() + static_cast<std::ptrdiff_t>(i));
      return;
    }
    if (word.size() < 2 || word.front() != '-') return;
    const std::string name = word.starts_with("--") ? word.substr(0, word.find('=')) : word.substr(0, 2);
    const CLI::Option* option = sub.get_option_no_throw(name);
    const bool is_setting = name.starts_with("--mobula-");
    if (option == nullptr && is_setting && sub.get_name() == "each") continue;
    if (option == nullptr)
      throw std::invalid_argument("mobula " + sub.get_name() + " has no option " + name + ": see mobula " +
                                  sub.get_name() + " --help. " +
                                  (is_setting ? "Settings come behind the program"
                                              : "A program whose name begins with a dash comes behind --"));
    if (option->get_items_expected_min() > 0 && word == name) ++i;
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Mobula: tasks, actors and programs in an MPI job");
  app.require_subcommand(1);
  app.set_version_flag("--version", version);
  std::vector<char*> words(argv, argv + argc);
  const std::vector<std::string> all(words.begin(), words.end());
  mobula::cli::add_run(app);
  mobula::cli::add_submit(app);
  mobula::cli::add_each(app, all);
  mobula::cli::add_doctor(app, all);
  mobula::cli::add_jobs(app);
  mobula::cli::add_journal(app);
  try {
    check_options(app, words);
    app.parse(static_cast<int>(words.size()), words.data());
  } catch (const CLI::ParseError& e) {
    return app.exit(e);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
  return 0;
}
