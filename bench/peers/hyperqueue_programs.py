"""HyperQueue by its Python package: a server and one worker with two cores. Its tasks are programs. One at a time is left
out: the package asks once a second whether a job has ended, which says nothing about HyperQueue."""
from hyperqueue import Job
from hyperqueue.cluster import LocalCluster, WorkerConfig

import common as c


def commands(client, n):
    job = Job(default_workdir="/tmp", default_env={})
    for _ in range(n):
        job.program(["true"], stdout=None, stderr=None)
    client.wait_for_jobs([client.submit(job)], raise_on_error=True)


if __name__ == "__main__":
    with LocalCluster() as cluster:
        cluster.start_worker(WorkerConfig(cores=2))
        client = cluster.client()
        commands(client, 1)
        c.first_result()
        c.rate("commands", c.MANY, lambda: commands(client, c.MANY))
