// The one runtime of this process, for the files of this folder.
#pragma once

#include "exec/engine.hpp"

namespace mobula::api {

// Throws Error outside `run`.
exec::Engine& engine();
exec::Engine* engine_or_null();

}  // namespace mobula::api
