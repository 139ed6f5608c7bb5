// From a run's settings, the machine and the other ranks of the node: what this rank offers, and where its threads run.
#pragma once

#include <string>

#include "exec/engine.hpp"
#include "mobula/config.hpp"
#include "transport/mpi_wire.hpp"

namespace mobula::api {

// `mpi`: nullptr in a program that runs alone. Collective over the ranks of the node. Sets this process's variables
// that tell libraries which GPUs are theirs.
exec::Settings make_settings(const Config& config, transport::MpiWire* mpi, bool is_head);

}  // namespace mobula::api
