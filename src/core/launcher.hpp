// What launchers tell each process that they start, in its environment.
#pragma once

#include <array>

namespace mobula::core {

// Any of them: this process is one of several, or the single rank of a job.
inline constexpr std::array kSaysRank{"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE"};
// The rank, by the first that is there.
inline constexpr std::array kRank{"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID", "PMI_RANK"};

}  // namespace mobula::core
