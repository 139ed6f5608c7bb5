#include "sim/task.hpp"

#include <algorithm>

#include "sim/bodies.hpp"

namespace mobula::sim {

Body take_cpus_back(Task& task) {
  worker::Worker& worker = task.worker();
  Run& run = task.run;
  if (worker.resume(run)) co_return;
  worker.want_resume(1);
  co_await task.cluster.until(task.rank, [&worker, &run] { return worker.resume(run); });
  worker.want_resume(-1);
}

Body get(Task& task, const Handle& handle, Seen* seen) {
  Cluster& cluster = task.cluster;
  worker::Worker& worker = task.worker();
  const RankId r = task.rank;
  Run& run = task.run;
  ValuePtr kept;
  if (!cluster.is_here(handle, r)) {
    if (auto inner = worker.claim(handle, run, cluster.now())) {
      bool inner_done = false;
      run_tasks(cluster, r, std::move(inner), &inner_done).start();
      co_await cluster.until(r, [&inner_done] { return inner_done; });
    }
  }
  if (!cluster.is_here(handle, r)) {
    worker.lend(run);
    co_await cluster.here(r, handle, &kept);
    const Body resume = take_cpus_back(task);
    co_await resume;
  }
  *seen = cluster.seen(handle, r, kept);
}

Body join_all(Task& task, const std::vector<Handle>& children) {
  for (const Handle& child : children) {
    Seen seen;
    const Body wait = get(task, child, &seen);
    co_await wait;
    if (!seen.value) {
      task.fail(*seen.error);
      break;
    }
    task.result = join(task.result, *seen.value);
  }
}

Body await_some(Task& task, const std::vector<Handle>& handles, std::size_t count) {
  const auto is_ready = [&](const Handle& handle) {
    if (handle.record()->ready(handle.index())) return true;
    task.worker().request(handle);
    return handle.record()->ready(handle.index());
  };
  const auto enough = [&] {
    return static_cast<std::size_t>(std::count_if(handles.begin(), handles.end(), is_ready)) >= count;
  };
  if (enough()) co_return;
  task.worker().lend(task.run);
  co_await task.cluster.until(task.rank, [&enough] { return enough(); });
  const Body resume = take_cpus_back(task);
  co_await resume;
}

}  // namespace mobula::sim
