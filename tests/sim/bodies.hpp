// What tasks and methods do in virtual time.
#pragma once

#include <memory>

#include "sim/cluster.hpp"

namespace mobula::sim {

// The simulated life of one run: virtual time for each task, children, waits, results. `done`: set at its end.
Body run_tasks(Cluster& cluster, RankId rank, std::unique_ptr<Run> run, bool* done);

}  // namespace mobula::sim
