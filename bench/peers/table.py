"""The table of what bench/peers/run measured: medians, and how often Mobula's."""
import importlib.metadata
import statistics
import sys

PROGRAMS = [
    ("first_result_ms", "start to first result, ms"),
    ("task_sync", "tasks one at a time, a second"),
    ("task_async", "tasks submitted one by one, a second"),
    ("map", "tasks by map in chunks, a second"),
    ("actor_sync", "actor calls one at a time, a second"),
    ("actor_async", "actor calls, all at once, a second"),
    ("shared_1GiB_ms", "1 GiB shared, and added up by 4 tasks, ms"),
    ("kmers_ms", "map-reduce of 8-mers of 32 Mi bases, ms"),
    ("fib", "nested tasks (fib), a second"),
    ("commands", "commands (`true`), a second"),
]
NAMES = {"mobula": "Mobula", "ray": "Ray", "ray_cpp": "Ray C++", "dask": "Dask", "mpi4py": "mpi4py", "parsl": "Parsl",
         "charm4py": "charm4py", "hyperqueue": "HyperQueue", "parallel": "GNU parallel"}
PACKAGES = {"ray": "ray", "dask": "distributed", "mpi4py": "mpi4py", "parsl": "parsl", "charm4py": "charm4py", "hyperqueue": "hyperqueue"}

found = {}
for line in open(sys.argv[1]):
    _, system, name, value = line.split()
    found.setdefault((system, name), []).append(float(value))
systems = [s for s in NAMES if any(key[0] == s for key in found)]
print("| |", " | ".join(NAMES[s] for s in systems), "|")
print("|---|" + "---|" * len(systems))


def short(value):
    return f"{value:,.0f}" if value < 1e6 else f"{value / 1e6:,.1f} M"


for name, what in PROGRAMS:
    cells = []
    ours = statistics.median(found.get(("mobula", name), [float("nan")]))
    for system in systems:
        values = found.get((system, name))
        if not values:
            cells.append("–")
            continue
        middle = statistics.median(values)
        ratio = middle / ours if name.endswith("_ms") else ours / middle
        cells.append(short(middle) + ("" if system == "mobula" else f" ({ratio:,.2g} x)" if ratio < 100 else f" ({ratio:,.0f} x)"))
    print(f"| {what} |", " | ".join(cells), "|")
versions = [f"{NAMES[s]} {importlib.metadata.version(p)}" for s, p in PACKAGES.items()]
spread = max((max(v) / min(v), k) for k, v in found.items())
print(f"\nIn brackets: how many times as fast Mobula is (below 1: slower). Medians of {max(len(v) for v in found.values())} rounds; largest spread "
      f"{spread[0]:.1f} x ({NAMES[spread[1][0]]}, {spread[1][1]}). {', '.join(versions)}.")
