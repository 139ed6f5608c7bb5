// The one runtime of this process, for the files of this folder.
#pragma once

#include "exec/engine.hpp"

namespace mobula::transport {
class Communicators;
}

namespace mobula::api {

// Throws Error outside `run`.
exec::Engine& engine();
exec::Engine* engine_or_null();
transport::Communicators& communicators();
// Asks the head. Throws Infeasible.
void require_feasible(const core::WireOptions& options);

}  // namespace mobula::api
