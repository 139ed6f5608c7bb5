#include "sim/checks.hpp"

namespace mobula::sim {

void check_step(const Cluster& cluster, RankId r) {
  const Cluster::Rank& rank = cluster.ranks()[r];
  cluster.require(rank.worker->cpus_in_use() <= rank.worker->settings().slots + 1e-6, "no slot runs two tasks");
  cluster.require(!rank.worker->has_runnable(), "nothing that can run stays idle");
  // Looking at all pieces after each step would make long queues cost their square.
  constexpr std::uint64_t kFew = 100;
  const bool looks = rank.head && (rank.head->unfinished() < kFew || cluster.outcome().events % 32 == 0);
  if (looks) rank.head->check_invariants();
  rank.store->check_invariants();
}

namespace {

void check_rank(const Cluster& cluster, RankId r) {
  const Cluster::Rank& rank = cluster.ranks()[r];
  const std::string where = " on rank " + std::to_string(r);
  if (rank.objects->records() > 1)
    cluster.wrong("no record outlives its handles" + where + ": " + rank.objects->describe());
  if (rank.store->size() != 0 || rank.store->used() != 0 || !rank.files.empty()) {
    cluster.wrong("no value outlives its refs" + where + ": " + rank.store->describe() +
                  std::to_string(rank.store->used()) + " bytes, " + std::to_string(rank.files.size()) + " files");
  }
  const worker::Worker& worker = *rank.worker;
  if (worker.interests() != 0) cluster.wrong("nobody waits for anything" + where + ": " + worker.describe());
  if (worker.pending_calls() != 0) cluster.wrong("no call is pending" + where);
  if (worker.actors() != 0) cluster.wrong("no actor outlives its handles" + where);
  if (worker.members() != 0) cluster.wrong("no gang has a member" + where);
  if (worker.loans() != 0) cluster.wrong("nothing is kept for others" + where);
  if (worker.queued_tasks() != 0 || worker.running() != 0) cluster.wrong("nothing is queued" + where);
}

// For what, and who has it.
std::string who_waits(const Cluster& cluster) {
  constexpr std::size_t kMost = 2'000;  // of each
  std::string text = cluster.head().describe_pieces().substr(0, kMost);
  for (RankId r = 0; r < cluster.ranks().size() && text.size() < 3 * kMost; ++r) {
    const Cluster::Rank& rank = cluster.ranks()[r];
    if (!rank.alive || (rank.worker->interests() == 0 && rank.worker->running() + rank.worker->queued_tasks() == 0))
      continue;
    text += "rank " + std::to_string(r) + ": " + rank.worker->describe().substr(0, kMost) + "\n";
  }
  return text + "entries: " + cluster.head().describe_entries().substr(0, kMost);
}

}  // namespace

void check_rest(const Cluster& cluster) {
  const head::Head& head = cluster.head();
  if (!cluster.driver_ended()) {
    cluster.wrong("the driver waits for ever for " + cluster.awaited() + "\n" + who_waits(cluster));
  }
  if (head.unfinished() != 0) cluster.wrong("tasks have not ended\n" + who_waits(cluster));
  for (RankId r = 0; r < cluster.ranks().size(); ++r) {
    if (cluster.ranks()[r].alive) check_rank(cluster, r);
  }
  if (head.entries() != 0) cluster.wrong("the head keeps no entry: " + head.describe_entries());
  cluster.require(head.actors() == 0, "the head knows no actor that has ended");
  cluster.require(head.groups() == 0, "no bundle is set aside for nobody");
  cluster.require(!head.is_draining() || head.drained(), "a job that was told to end is at rest when all is done");
  cluster.require(head.gangs() == 0 && head.stuck() == 0, "the head knows no gang that has ended");
}

}  // namespace mobula::sim
