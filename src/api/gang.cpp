// Gangs, on the engine of this process.
#include "mobula/gang.hpp"

#include <cerrno>
#include <limits>

#include "api/runtime.hpp"
#include "transport/communicators.hpp"

namespace mobula::detail {

const boost::mpi::communicator& gang_communicator() {
  const worker::Run* run = exec::Engine::current_run();
  return api::communicators().get(*run->body->gang);
}

BatchHandle gang(const FunctionInfo& function, const GangOptions* options, std::size_t members, Draft::State& draft) {
  exec::Engine& engine = api::engine();
  if (members == 0) throw std::invalid_argument("mobula::gang: a gang has at least one member");
  const std::uint32_t ranks = engine.transport().wire().size();
  if (ranks == 1 && members > 1) {
    throw Infeasible("mobula: a gang of " + std::to_string(members) +
                     " needs as many ranks, and this program runs as one process: start it with mpirun -n " +
                     std::to_string(members + 1) + " " + program_invocation_name);
  }
  if (members > ranks) {
    throw Infeasible("mobula: a gang of " + std::to_string(members) +
                     " needs as many ranks with slots, and the job has " + std::to_string(ranks) +
                     ", the head among them: start it with mpirun -n " + std::to_string(members + 1) + " " +
                     program_invocation_name);
  }
  const auto count = static_cast<std::uint32_t>(members);
  {
    std::shared_ptr<const core::WireOptions> wire;
    {
      const exec::Engine::Lock lock(engine);
      wire = engine.worker().gang_options(options, count);
    }
    api::require_feasible(*wire);
  }
  exec::Engine::Lock lock(engine);
  BatchHandle batch(engine.objects().new_batch(function.fixed_result), count);
  engine.worker().submit_gang(*batch.record(), count, function, options, draft, engine.callers_run() != nullptr);
  engine.objects().close(*batch.record());
  engine.submitted(lock, count);
  engine.wait_for_room(lock);
  return batch;
}

}  // namespace mobula::detail
