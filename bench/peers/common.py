"""What the programs of the peers share: the work, and how a figure is said. Each figure is a line `name value`; names that
end in _ms are times, all others are rates a second."""
import subprocess
import sys
import time

import numpy as np

SYNC = 300          # calls one after the other
MANY = 10_000       # at once, where the system is fast enough
SHARED = 1 << 30    # bytes
BLOCKS = 32         # of MI bases each
K = 8
FIB = 10            # 177 tasks


def say(name, value):
    print(f"{name} {value:.6g}", flush=True)


def rate(name, n, run):
    start = time.perf_counter()
    run()
    say(name, n / (time.perf_counter() - start))


def took(name, run):
    start = time.perf_counter()
    result = run()
    say(name, (time.perf_counter() - start) * 1000)
    return result


def noop(x):
    return x


def command(_):
    return subprocess.run(["true"]).returncode


class Counter:
    def __init__(self):
        self.n = 0

    def add(self, x):
        self.n += x
        return self.n


def total(array):
    return float(array.sum())


def shared_array():
    return np.ones(SHARED // 8)


def count_kmers(seed):
    """Of a block of bases: how often each of the 4^K words of K bases is in it."""
    bases = np.random.default_rng(seed).integers(0, 4, 1 << 20, dtype=np.uint8)
    words = np.zeros(len(bases) - K + 1, dtype=np.int64)
    for i in range(K):
        words = words * 4 + bases[i : len(bases) - K + 1 + i]
    return np.bincount(words, minlength=4**K)


def check_kmers(counts):
    assert int(counts.sum()) == BLOCKS * ((1 << 20) - K + 1)


def fib_tasks(n):
    return 1 if n < 2 else 1 + fib_tasks(n - 1) + fib_tasks(n - 2)


def first_result():
    """When the driver has the first result; the one who started the process knows when that was."""
    print(f"epoch {time.time_ns()}", flush=True)


sys.setrecursionlimit(10_000)
