#include "random/options.hpp"

#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <stdexcept>

namespace random_programs {
namespace {

Number number_of(const std::string& text) {
  std::size_t end = 0;
  Number number = 0;
  try {
    number = std::stoull(text, &end);
  } catch (const std::exception&) {
    end = std::string::npos;
  }
  if (end != text.size() || text.empty()) throw std::invalid_argument("'" + text + "' is no number");
  return number;
}

std::vector<std::string> list_of(const std::string& text) {
  std::vector<std::string> names;
  std::size_t start = 0;
  while (start <= text.size()) {
    const std::size_t end = std::min(text.find(',', start), text.size());
    if (end != start) names.push_back(text.substr(start, end - start));
    start = end + 1;
  }
  return names;
}

std::string content_of(const std::string& file) {
  std::ifstream in(file);
  if (!in) throw std::invalid_argument("can't read " + file);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

std::string usage() {
  return "usage: random_test [--seed=N | --seeds=FROM..TO] [--rounds=N] [--operations=N]\n"
         "  --program=TEXT, --program-file=FILE  that program in each round\n"
         "  --print                              only says which programs would be run\n"
         "  --only=NAMES, --without=NAMES        operations by the beginnings of their names, with commas between\n"
         "  --no-gangs, --no-groups, --no-actors, --no-blocks, --no-cancel, --no-rare\n"
         "  --threads                            also operations on threads of the program's own\n"
         "  --kills=N                            so many ranks are killed (under mpirun)\n"
         "  --busy                               beside two busy processes\n"
         "  --no-memory-check, --no-rest-check\n"
         "  --shrink=LAUNCHER                    runs itself, by LAUNCHER, with ever smaller programs that fail alike\n"
         "  --mobula-…                           settings of the job\n"
         "RANDOM_PATIENCE=F: waits may take F times as long.\n";
}

Options parse_options(const std::vector<std::string>& words) {
  Options options;
  bool threads = false;
  const auto leave_out = [&](std::vector<std::string> names) {
    options.choice.without.insert(options.choice.without.end(), names.begin(), names.end());
  };
  using Set = std::function<void(const std::string&)>;
  const std::map<std::string, Set> settings{
      {"--seed", [&](const std::string& text) { options.first_seed = options.last_seed = number_of(text); }},
      {"--seeds",
       [&](const std::string& text) {
         const std::size_t dots = text.find("..");
         if (dots == std::string::npos) throw std::invalid_argument("--seeds takes FROM..TO");
         options.first_seed = number_of(text.substr(0, dots));
         options.last_seed = number_of(text.substr(dots + 2));
       }},
      {"--rounds", [&](const std::string& text) { options.rounds = number_of(text); }},
      {"--operations", [&](const std::string& text) { options.choice.operations = number_of(text); }},
      {"--program", [&](const std::string& text) { options.program = text; }},
      {"--program-file", [&](const std::string& text) { options.program = content_of(text); }},
      {"--only", [&](const std::string& text) { options.choice.only = list_of(text); }},
      {"--without", [&](const std::string& text) { leave_out(list_of(text)); }},
      {"--kills", [&](const std::string& text) { options.kills = number_of(text); }},
      {"--shrink", [&](const std::string& text) { options.shrink = text; }},
  };
  const std::map<std::string, std::function<void()>> flags{
      {"--print", [&] { options.print = true; }},
      {"--busy", [&] { options.busy = true; }},
      {"--threads", [&] { threads = true; }},
      {"--shrink", [&] { options.shrink = ""; }},
      {"--no-gangs", [&] { leave_out({"gang"}); }},
      {"--no-groups", [&] { leave_out({"group"}); }},
      {"--no-actors",
       [&] {
         leave_out({"actor", "call", "kill", "task_calls", "relay", "partners", "max_pending", "named_actor",
                    "name_again", "detached", "method"});
       }},
      {"--no-blocks",
       [&] {
         leave_out({"task_block", "map_of_blocks", "method_block", "thread_"});
       }},
      {"--no-cancel",
       [&] {
         leave_out({"cancel", "task_cancel", "gang_cancel", "sandboxed_cancel"});
       }},
      {"--no-rare", [&] { options.choice.rare = false; }},
      {"--no-memory-check", [&] { options.check_memory = false; }},
      {"--no-rest-check", [&] { options.check_rest = false; }},
  };
  for (const std::string& word : words) {
    const std::size_t equals = word.find('=');
    if (word.starts_with("--mobula-")) {
      options.others.push_back(word);
    } else if (const auto setting = settings.find(word.substr(0, equals));
               setting != settings.end() && equals != std::string::npos) {
      setting->second(word.substr(equals + 1));
    } else if (const auto flag = flags.find(word); flag != flags.end()) {
      flag->second();
    } else {
      throw std::invalid_argument("'" + word + "' is not known");
    }
  }
  if (!threads) leave_out({"thread_"});
  options.choice.ranks_are_lost = options.kills != 0;
  return options;
}

Steps program_of(const Options& options, Number seed, Number round) {
  if (!options.program.empty()) return parse(options.program);
  return generate(mix(seed) + round, options.choice);
}

}  // namespace random_programs
