"""Dask distributed: a process for each core."""
import dask
from distributed import Client, LocalCluster, get_client, secede, rejoin

import common as c


def fib(n):
    if n < 2:
        return n
    client = get_client()
    parts = [client.submit(fib, n - 1, pure=False), client.submit(fib, n - 2, pure=False)]
    secede()
    values = client.gather(parts)
    rejoin()
    return sum(values)


if __name__ == "__main__":
    dask.config.set({"distributed.admin.log-format": "", "distributed.worker.memory.terminate": False})
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit="8GiB")
    client = Client(cluster)
    client.submit(c.noop, -1).result()
    c.first_result()
    client.gather(client.map(c.noop, range(200), pure=False))
    c.rate("task_sync", c.SYNC, lambda: [client.submit(c.noop, i, pure=False).result() for i in range(c.SYNC)])
    c.rate("task_async", c.MANY, lambda: client.gather(client.map(c.noop, range(c.MANY), pure=False)))
    counter = client.submit(c.Counter, actor=True).result()
    counter.add(1).result()
    c.rate("actor_sync", c.SYNC, lambda: [counter.add(1).result() for _ in range(c.SYNC)])
    c.rate("actor_async", 2000, lambda: [f.result() for f in [counter.add(1) for _ in range(2000)]])
    array = c.shared_array()

    def shared():
        everywhere = client.scatter(array, broadcast=True, hash=False)
        client.gather([client.submit(c.total, everywhere, pure=False) for _ in range(4)])

    c.took("shared_1GiB_ms", shared)
    del array
    c.check_kmers(c.took("kmers_ms", lambda: sum(client.gather(client.map(c.count_kmers, range(c.BLOCKS), pure=False)))))
    c.rate("fib", c.fib_tasks(c.FIB), lambda: client.submit(fib, c.FIB, pure=False).result())
    c.rate("commands", 1000, lambda: client.gather(client.map(c.command, range(1000), pure=False)))
    client.close()
    cluster.close()
