// mobula journal ls|show|rm
#include "journal/journal.hpp"

#include <CLI/CLI.hpp>
#include <array>
#include <cstdio>
#include <ctime>
#include <memory>
#include <string>
#include <vector>

#include "cli/commands.hpp"
#include "mobula/error.hpp"

namespace mobula::cli {
namespace {

using journal::Entry;
using journal::Key;
using journal::Reader;

// Which results are meant. Empty: any.
struct Choice {
  std::string function;
  std::string name;
  std::string version;
  bool is_empty() const { return function.empty() && name.empty() && version.empty(); }
  bool has(const Entry& entry) const {
    return (function.empty() || entry.function == function) && (name.empty() || entry.name == name) &&
           (version.empty() || entry.version == version);
  }
  void add_to(CLI::App& app) {
    app.add_option("--function", function, "only of this function, or class of actors");
    app.add_option("--name", name, "only of this name");
    app.add_option("--version", version, "only of this version");
  }
};

struct Arguments {
  std::string folder;
  Choice choice;
  std::vector<std::string> keys;
  bool all = false;
  bool raw = false;
};

std::string when(double seconds) {
  const auto time = static_cast<std::time_t>(seconds);
  std::tm local{};
  localtime_r(&time, &local);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%S", &local);
  return text.data();
}

Key key_in(const std::string& text) {
  const auto key = journal::to_key(text);
  if (!key) throw Error("mobula: '" + text + "' is no key: `mobula journal ls` shows them");
  return *key;
}

void warn_if_in_use(const Reader& reader) {
  if (reader.in_use()) std::fprintf(stderr, "A job is using this journal; what it adds is not shown yet.\n");
}

void list(const Arguments& arguments) {
  Reader reader(arguments.folder, false);
  warn_if_in_use(reader);
  std::printf("%-32s  %-19s  %9s  %12s  %s\n", "key", "made", "seconds", "bytes", "what");
  std::size_t n = 0;
  reader.for_each([&](const Entry& entry) {
    if (!arguments.choice.has(entry)) return;
    ++n;
    std::string what = entry.function;
    if (!entry.name.empty()) what += (what.empty() ? "'" : " '") + entry.name + "'";
    if (!entry.version.empty()) what += " version " + entry.version;
    std::printf("%s  %s  %9.3f  %12llu  %s\n", to_string(entry.key).c_str(), when(entry.made).c_str(), entry.seconds,
                static_cast<unsigned long long>(entry.size), what.c_str());
  });
  std::printf("%zu results\n", n);
}

void show(const Arguments& arguments) {
  Reader reader(arguments.folder, false);
  warn_if_in_use(reader);
  const Key key = key_in(arguments.keys.front());
  Entry entry;
  detail::Buffer value;
  if (!reader.find(key, entry, value)) throw Error("mobula: the journal has no result of this key, or it is damaged");
  if (arguments.raw) {
    std::fwrite(value.data(), 1, value.size(), stdout);
    return;
  }
  std::printf("function  %s\nname      %s\nversion   %s\nmade      %s\nseconds   %.6f\nbytes     %zu\n",
              entry.function.c_str(), entry.name.c_str(), entry.version.c_str(), when(entry.made).c_str(),
              entry.seconds, value.size());
  constexpr std::size_t kMost = 256;
  constexpr std::size_t kRow = 16;
  const std::size_t shown = std::min(value.size(), kMost);
  for (std::size_t row = 0; row < shown; row += kRow) {
    std::printf("%08zx ", row);
    std::string text;
    for (std::size_t i = row; i < row + kRow; ++i) {
      if (i >= shown) {
        std::printf("   ");
        continue;
      }
      const auto byte = static_cast<unsigned char>(value.data()[i]);
      std::printf(" %02x", byte);
      text += byte >= ' ' && byte < 127 ? static_cast<char>(byte) : '.';
    }
    std::printf("  %s\n", text.c_str());
  }
  if (shown < value.size()) std::printf("… (all of it: --raw)\n");
}

void remove(const Arguments& arguments) {
  if (arguments.keys.empty() && arguments.choice.is_empty() && !arguments.all) {
    throw Error("mobula: say which results: their keys, --function, --name, --version, or --all");
  }
  Reader reader(arguments.folder, true);
  std::vector<Key> keys;
  for (const std::string& text : arguments.keys) keys.push_back(key_in(text));
  if (arguments.keys.empty()) {
    reader.for_each([&](const Entry& entry) {
      if (arguments.choice.has(entry)) keys.push_back(entry.key);
    });
  }
  for (const Key& key : keys) reader.remove(key);
  std::printf("%zu results removed\n", keys.size());
}

}  // namespace

void add_journal(CLI::App& app) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* const journal = app.add_subcommand("journal", "Results that jobs have left for later ones");
  journal->require_subcommand(1);

  CLI::App* const ls = journal->add_subcommand("ls", "List the results, the oldest first");
  ls->add_option("folder", arguments->folder, "of the journal")->required();
  arguments->choice.add_to(*ls);
  ls->callback([arguments] { list(*arguments); });

  CLI::App* const of = journal->add_subcommand("show", "Show one result and its bytes, as they travel");
  of->add_option("folder", arguments->folder, "of the journal")->required();
  of->add_option("key", arguments->keys, "as ls shows it")->required()->expected(1);
  of->add_flag("--raw", arguments->raw, "only the bytes, all of them");
  of->callback([arguments] { show(*arguments); });

  CLI::App* const rm = journal->add_subcommand("rm", "Remove results: their tasks run again");
  rm->add_option("folder", arguments->folder, "of the journal")->required();
  rm->add_option("keys", arguments->keys, "as ls shows them");
  arguments->choice.add_to(*rm);
  rm->add_flag("--all", arguments->all, "all of them");
  rm->callback([arguments] { remove(*arguments); });
}

}  // namespace mobula::cli
