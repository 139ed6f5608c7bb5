"""charm4py: its pool for tasks, chares for actors; started as charmrun +p3 ++local, where process 0 gives out the pool's tasks."""
from charm4py import Chare, Group, charm

import common as c


class Counter(Chare):
    def __init__(self):
        self.n = 0

    def add(self, x):
        self.n += x
        return self.n


def main(args):
    charm.pool.map(c.noop, range(2), ncores=2)
    c.first_result()
    c.rate("task_sync", c.SYNC, lambda: [charm.pool.map(c.noop, [i], ncores=2) for i in range(c.SYNC)])
    c.rate("task_async", c.MANY, lambda: charm.pool.map(c.noop, range(c.MANY), ncores=2))
    c.rate("map", 10 * c.MANY, lambda: charm.pool.map(c.noop, range(10 * c.MANY), ncores=2, chunksize=1000))

    group = Group(Counter)
    group[1].add(1, ret=True).get()
    c.rate("actor_sync", c.SYNC, lambda: [group[1].add(1, ret=True).get() for _ in range(c.SYNC)])
    c.rate("actor_async", c.MANY, lambda: [f.get() for f in [group[1].add(1, ret=True) for _ in range(c.MANY)]])
    c.check_kmers(c.took("kmers_ms", lambda: sum(charm.pool.map(c.count_kmers, range(c.BLOCKS), ncores=2))))
    charm.exit()


charm.start(main)
