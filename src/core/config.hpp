// Layered settings: what the program gives, then mobula.toml, MOBULA_* variables and --mobula-* flags.
#pragma once

#include <string>
#include <vector>

#include "mobula/config.hpp"

namespace mobula::core {

// Applies the layers to `config` and takes --mobula-* flags out of argc/argv. `environment` is a list of NAME=value.
// Throws ConfigError that names the setting and where it came from.
Config load_config(Config config, int& argc, char** argv, const std::vector<std::string>& environment);

// Sets one setting from text. Throws ConfigError; `source` is named in it.
void apply_setting(Config& config, const std::string& name, const std::string& value, const std::string& source);

}  // namespace mobula::core
