#include "sim/checks.hpp"

namespace mobula::sim {

void check_step(const Cluster& cluster, RankId r) {
  const Cluster::Rank& rank = cluster.ranks()[r];
  cluster.require(rank.worker->cpus_in_use() <= rank.worker->settings().slots + 1e-6, "no slot runs two tasks");
  cluster.require(!rank.worker->has_runnable(), "nothing that can run stays idle");
  if (rank.head) rank.head->check_invariants();
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
  if (worker.interests() != 0) cluster.wrong("nobody waits for anything" + where);
  if (worker.pending_calls() != 0) cluster.wrong("no call is pending" + where);
  if (worker.actors() != 0) cluster.wrong("no actor outlives its handles" + where);
  if (worker.members() != 0) cluster.wrong("no gang has a member" + where);
  if (worker.loans() != 0) cluster.wrong("nothing is kept for others" + where);
  if (worker.queued_tasks() != 0 || worker.running() != 0) cluster.wrong("nothing is queued" + where);
}

}  // namespace

void check_rest(const Cluster& cluster) {
  const head::Head& head = cluster.head();
  if (!cluster.driver_ended()) {
    cluster.wrong("the driver waits for ever for " + cluster.awaited() +
                  "; unfinished tasks: " + std::to_string(head.unfinished()) + "; entries: " + head.describe_entries());
  }
  cluster.require(head.unfinished() == 0, "all tasks have ended");
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
