#include "core/config.hpp"

#include <toml++/toml.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <functional>

#include "core/error.hpp"

namespace mobula::core {
namespace {

[[noreturn]] void bad(const std::string& source, const std::string& value, const std::string& expected) {
  throw ConfigError("mobula: bad setting " + source + ": '" + value + "' is not " + expected);
}

template <class T>
T number(const std::string& value, const std::string& source, T least, T most, const std::string& expected) {
  T result{};
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), result);
  if (error != std::errc() || end != value.data() + value.size() || result < least || result > most) {
    bad(source, value, expected);
  }
  return result;
}

// "64k", "3GiB", "100".
std::size_t bytes(const std::string& value, const std::string& source) {
  const std::size_t digits = std::min(value.find_first_not_of("0123456789"), value.size());
  std::string unit = value.substr(digits);
  std::transform(unit.begin(), unit.end(), unit.begin(), [](unsigned char c) { return std::tolower(c); });
  if (unit.ends_with("ib")) unit.resize(unit.size() - 2);
  if (unit.ends_with("b")) unit.resize(unit.size() - 1);
  const auto count =
      number<std::size_t>(value.substr(0, digits), source, 0, std::size_t{1} << 50, "a size such as 64k or 3GiB");
  const std::size_t at = std::string("kmgt").find(unit);
  if (unit.empty()) return count;
  if (unit.size() != 1 || at == std::string::npos) bad(source, value, "a size such as 64k or 3GiB");
  return count << (10 * (at + 1));
}

bool flag(const std::string& value, const std::string& source) {
  if (value == "1" || value == "true" || value == "on" || value == "yes") return true;
  if (value == "0" || value == "false" || value == "off" || value == "no") return false;
  bad(source, value, "on or off");
}

std::string one_of(const std::string& value, const std::string& source, std::initializer_list<const char*> choices) {
  std::string expected = "one of";
  for (const char* choice : choices) {
    if (value == choice) return value;
    expected += std::string(" ") + choice;
  }
  bad(source, value, expected);
}

std::map<std::string, double> resources(const std::string& value, const std::string& source) {
  std::map<std::string, double> result;
  std::size_t at = 0;
  while (at < value.size()) {
    const std::size_t end = std::min(value.find(',', at), value.size());
    const std::string item = value.substr(at, end - at);
    const std::size_t equals = item.find('=');
    if (equals == 0 || equals == std::string::npos) bad(source, value, "a list like license=4,scratch=100");
    const std::string name = item.substr(0, equals);
    if (name == "cpus" || name == "gpus" || name == "memory")
      bad(source, value, "a list of custom resources: " + name + " has a setting of its own");
    result[name] = number<double>(item.substr(equals + 1), source, 0.0, 1e15, "a list like license=4,scratch=100");
    at = end + 1;
  }
  return result;
}

using Apply = std::function<void(Config&, const std::string& value, const std::string& source)>;

const std::map<std::string, Apply>& settings() {
  static const std::map<std::string, Apply> table = {
      {"slots", [](Config& c, const auto& v,
                   const auto& s) { c.slots = number<int>(v, s, 0, 4096, "a number of slots from 0 to 4096"); }},
      {"pin",
       [](Config& c, const auto& v, const auto& s) {
         c.pin = one_of(v, s, {"core", "numa", "off"});
       }},
      {"inline_limit",
       [](Config& c, const auto& v, const auto& s) {
         c.inline_limit = bytes(v, s);
         if (c.inline_limit < 64 || c.inline_limit > 16384) bad(s, v, "between 64 and 16384 bytes");
       }},
      {"spin_us", [](Config& c, const auto& v,
                     const auto& s) { c.spin_us = number<int>(v, s, -1, 1'000'000, "a number of microseconds"); }},
      {"resources", [](Config& c, const auto& v, const auto& s) { c.resources = resources(v, s); }},
      {"node_resources", [](Config& c, const auto& v, const auto& s) { c.node_resources = resources(v, s); }},
      {"gpus",
       [](Config& c, const auto& v, const auto& s) {
         c.gpus = v == "found" ? -1 : number<double>(v, s, 0.0, 1024.0, "a number of GPUs, or found");
       }},
      {"memory", [](Config& c, const auto& v, const auto& s) { c.memory = bytes(v, s); }},
      {"store",
       [](Config& c, const auto& v, const auto& s) {
         c.store = bytes(v, s);
         if (c.store < 64 << 10) bad(s, v, "a size of at least 64 KiB");
       }},
      {"scratch", [](Config& c, const auto& v, const auto&) { c.scratch = v; }},
      {"images", [](Config& c, const auto& v, const auto&) { c.images = v; }},
      {"time_limit", [](Config& c, const auto& v,
                        const auto& s) { c.time_limit = number<double>(v, s, 0.0, 1e9, "a number of seconds"); }},
      {"keeper", [](Config& c, const auto& v, const auto& s) { c.keeper = flag(v, s); }},
      {"lost_after",
       [](Config& c, const auto& v, const auto& s) {
         c.lost_after =
             std::chrono::milliseconds(number<int>(v, s, 100, 86'400'000, "a number of milliseconds from 100"));
       }},
      {"crash_limit",
       [](Config& c, const auto& v, const auto& s) {
         c.crash_limit = number<int>(v, s, 1, 1'000'000, "a number of ranks from 1");
       }},
      {"lineage_limit", [](Config& c, const auto& v, const auto& s) { c.lineage_limit = bytes(v, s); }},
      {"grace",
       [](Config& c, const auto& v, const auto& s) {
         c.grace = std::chrono::milliseconds(number<int>(v, s, 0, 86'400'000, "a number of milliseconds"));
       }},
      {"journal", [](Config& c, const auto& v, const auto&) { c.journal = v; }},
      {"stop_grace",
       [](Config& c, const auto& v, const auto& s) {
         c.stop_grace = std::chrono::milliseconds(number<int>(v, s, 0, 3'600'000, "a number of milliseconds"));
       }},
      {"output",
       [](Config& c, const auto& v, const auto& s) {
         c.output = one_of(v, s, {"tag", "plain"});
       }},
      {"job_dir", [](Config& c, const auto& v, const auto&) { c.job_dir = v; }},
      {"status", [](Config& c, const auto& v, const auto& s) { c.status = flag(v, s); }},
      {"log",
       [](Config& c, const auto& v, const auto& s) {
         c.log = one_of(v, s, {"off", "error", "warn", "info", "debug"});
       }},
      {"trace", [](Config& c, const auto& v, const auto&) { c.trace = v; }},
      {"trace_events", [](Config& c, const auto& v, const auto& s) { c.trace_events = flag(v, s); }},
  };
  return table;
}

std::string to_name(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return c == '-' ? '_' : std::tolower(c); });
  return text;
}

void apply_file(Config& config, const std::string& path) {
  toml::table table;
  try {
    table = toml::parse_file(path);
  } catch (const toml::parse_error& e) {
    throw ConfigError("mobula: " + path + ", line " + std::to_string(e.source().begin.line) + ": " +
                      std::string(e.description()));
  }
  for (const auto& [key, node] : table) {
    const std::string name(key.str());
    const std::string source = path + ": " + name;
    std::string value;
    if (const auto* text = node.as_string()) {
      value = text->get();
    } else if (const auto* integer = node.as_integer()) {
      value = std::to_string(integer->get());
    } else if (const auto* real = node.as_floating_point()) {
      value = std::to_string(real->get());
    } else if (const auto* boolean = node.as_boolean()) {
      value = boolean->get() ? "on" : "off";
    } else if (const auto* inner = node.as_table();
               inner != nullptr && (name == "resources" || name == "node_resources")) {
      for (const auto& [resource, amount] : *inner) {
        const auto n = amount.value<double>();
        if (!n) bad(source, std::string(resource.str()), "a resource with a number");
        value += (value.empty() ? "" : ",") + std::string(resource.str()) + "=" + std::to_string(*n);
      }
    } else {
      throw ConfigError("mobula: bad setting " + source + ": it is neither a text nor a number");
    }
    apply_setting(config, name, value, source);
  }
}

}  // namespace

void apply_setting(Config& config, const std::string& name, const std::string& value, const std::string& source) {
  const auto found = settings().find(name);
  if (found == settings().end()) {
    std::string known;
    for (const auto& entry : settings()) known += (known.empty() ? "" : ", ") + entry.first;
    throw ConfigError("mobula: unknown setting " + source + "; there are: " + known);
  }
  found->second(config, value, source);
}

Config load_config(Config config, int& argc, char** argv, const std::vector<std::string>& environment) {
  std::string file;
  std::vector<std::pair<std::string, std::string>> variables;
  for (const std::string& entry : environment) {
    if (!entry.starts_with("MOBULA_")) continue;
    const std::size_t equals = entry.find('=');
    const std::string name = entry.substr(0, equals);
    const std::string value = equals == std::string::npos ? "" : entry.substr(equals + 1);
    if (name == "MOBULA_CONFIG") {
      file = value;
    } else {
      variables.emplace_back(name, value);
    }
  }
  if (!file.empty()) {
    if (!std::filesystem::exists(file))
      throw ConfigError("mobula: MOBULA_CONFIG names " + file + ", which does not exist");
    apply_file(config, file);
  } else if (std::filesystem::exists("mobula.toml")) {
    apply_file(config, "mobula.toml");
  }
  for (const auto& [name, value] : variables) apply_setting(config, to_name(name.substr(7)), value, name);

  int kept = 0;
  for (int i = 0; i < argc && argv[i] != nullptr; ++i) {
    const std::string arg = argv[i];
    if (i == 0 || !arg.starts_with("--mobula-")) {
      argv[kept++] = argv[i];
      continue;
    }
    const std::size_t equals = arg.find('=');
    const std::string flag_name = arg.substr(0, equals);
    std::string value;
    if (equals != std::string::npos) {
      value = arg.substr(equals + 1);
    } else if (i + 1 < argc) {
      value = argv[++i];
    } else {
      throw ConfigError("mobula: " + flag_name + " needs a value, as in " + flag_name + "=…");
    }
    apply_setting(config, to_name(flag_name.substr(9)), value, flag_name);
  }
  for (const auto& [name, amount] : config.node_resources) {
    if (config.resources.contains(name)) {
      throw ConfigError("mobula: bad settings: the resource " + name + " is both of each rank and of each node");
    }
  }
  if (kept < argc) argv[kept] = nullptr;
  argc = kept;
  return config;
}

}  // namespace mobula::core
