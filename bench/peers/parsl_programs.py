"""Parsl with its high-throughput executor, on the loopback. No actors, and no tasks that wait for tasks."""
import parsl
from parsl import bash_app, python_app
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider

import common as c


@python_app
def noop(x):
    return x


@python_app
def count(seed):
    import common

    return common.count_kmers(seed)


@bash_app
def command(i):
    return "true"


if __name__ == "__main__":
    executor = HighThroughputExecutor(label="htex", address="127.0.0.1", loopback_address="127.0.0.1", max_workers_per_node=2, cores_per_worker=1,
                                      encrypted=False, provider=LocalProvider(init_blocks=1, max_blocks=1))
    with parsl.load(Config(executors=[executor], usage_tracking=0, initialize_logging=False)):
        noop(0).result()
        c.first_result()
        [f.result() for f in [noop(i) for i in range(200)]]
        c.rate("task_sync", c.SYNC, lambda: [noop(i).result() for i in range(c.SYNC)])
        c.rate("task_async", c.MANY, lambda: [f.result() for f in [noop(i) for i in range(c.MANY)]])
        c.check_kmers(c.took("kmers_ms", lambda: sum(f.result() for f in [count(i) for i in range(c.BLOCKS)])))
        c.rate("commands", 1000, lambda: [f.result() for f in [command(i) for i in range(1000)]])
