// What must hold of the ranks, whatever the program.
#pragma once

#include "sim/cluster.hpp"

namespace mobula::sim {

// After each step of the rank.
void check_step(const Cluster& cluster, RankId rank);
// At the end, when nothing happens any more: all is done, and nothing is left of it.
void check_rest(const Cluster& cluster);

}  // namespace mobula::sim
