// What a running job says of itself to those who ask at its door.
#pragma once

#include <memory>
#include <string>

#include "exec/door.hpp"
#include "mobula/config.hpp"

namespace mobula::exec {
class Engine;
}

namespace mobula::api {

// On the head. nullptr, and a line in the log, where it can't be. `stop`: the job is to end, as by that signal.
std::unique_ptr<exec::Door> open_door(exec::Engine& engine, const Config& config, std::function<void(int)> stop);

}  // namespace mobula::api
