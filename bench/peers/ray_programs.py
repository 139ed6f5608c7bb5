"""Ray, on this machine's cores: no dashboard, and a store that the array fits in."""
import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
import ray

import common as c

ray.init(num_cpus=2, include_dashboard=False, object_store_memory=3 << 30, logging_level="ERROR", log_to_driver=False)
noop, total, count, command = (ray.remote(f) for f in (c.noop, c.total, c.count_kmers, c.command))
Counter = ray.remote(c.Counter)
ray.get(noop.remote(0))
c.first_result()
ray.get([noop.remote(i) for i in range(200)])


@ray.remote
def fib(n):
    return n if n < 2 else sum(ray.get([fib.remote(n - 1), fib.remote(n - 2)]))


c.rate("task_sync", c.SYNC, lambda: [ray.get(noop.remote(i)) for i in range(c.SYNC)])
c.rate("task_async", c.MANY, lambda: ray.get([noop.remote(i) for i in range(c.MANY)]))
counter = Counter.remote()
ray.get(counter.add.remote(1))
c.rate("actor_sync", c.SYNC, lambda: [ray.get(counter.add.remote(1)) for _ in range(c.SYNC)])
c.rate("actor_async", c.MANY, lambda: ray.get([counter.add.remote(1) for _ in range(c.MANY)]))
del counter
array = c.shared_array()


def shared():
    ref = ray.put(array)
    ray.get([total.remote(ref) for _ in range(4)])


c.took("shared_1GiB_ms", shared)
del array
c.check_kmers(c.took("kmers_ms", lambda: sum(ray.get([count.remote(i) for i in range(c.BLOCKS)]))))
c.rate("fib", c.fib_tasks(c.FIB), lambda: ray.get(fib.remote(c.FIB)))
c.rate("commands", 1000, lambda: ray.get([command.remote(i) for i in range(1000)]))
