"""mpi4py.futures, started as mpirun -n 3 python -m mpi4py.futures. It has no actors, shared objects or nested tasks."""
from mpi4py.futures import MPIPoolExecutor

import common as c


if __name__ == "__main__":
    with MPIPoolExecutor() as pool:
        pool.submit(c.noop, 0).result()
        c.first_result()
        c.rate("task_sync", c.SYNC, lambda: [pool.submit(c.noop, i).result() for i in range(c.SYNC)])
        c.rate("task_async", c.MANY, lambda: [f.result() for f in [pool.submit(c.noop, i) for i in range(c.MANY)]])
        c.rate("map", 100 * c.MANY, lambda: list(pool.map(c.noop, range(100 * c.MANY), chunksize=1000)))
        array = c.shared_array()
        c.took("shared_1GiB_ms", lambda: [f.result() for f in [pool.submit(c.total, array) for _ in range(4)]])
        del array
        c.check_kmers(c.took("kmers_ms", lambda: sum(pool.map(c.count_kmers, range(c.BLOCKS)))))
        c.rate("commands", 1000, lambda: list(pool.map(c.command, range(1000), chunksize=10)))
