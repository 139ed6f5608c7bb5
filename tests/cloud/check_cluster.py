"""Checks what `cloud/cluster --dry-run` prints (its standard input) as ParallelCluster itself would: the configuration by
its schema, each command line by its parser, and that the schema refuses a key that does not exist."""
import shlex
import sys
import tempfile

import yaml
from marshmallow import ValidationError
from pcluster.cli.entrypoint import add_cli_commands, gen_parser  # the parser that `pcluster` itself uses
from pcluster.cli.model import load_model, package_spec
from pcluster.schemas.cluster_schema import ClusterSchema

lines = sys.stdin.read().splitlines()
text = "\n".join(line[2:] for line in lines if line.startswith("# "))
config = yaml.safe_load(text)
cluster = ClusterSchema(cluster_name="mobula").load(config)
queue = cluster.scheduling.queues[0]
assert queue.networking.placement_group.enabled and queue.compute_resources[0].efa.enabled is True
assert queue.compute_resources[0].max_count == 4 and queue.job_exclusive_allocation is True
config["Scheduling"]["SlurmQueues"][0]["PlacementGroups"] = {}
try:
    ClusterSchema(cluster_name="mobula").load(config)
    sys.exit("a key that does not exist passed")
except ValidationError:
    pass

parser, commands = gen_parser(load_model(package_spec()))
add_cli_commands(commands)
checked = 0
sent = tempfile.NamedTemporaryFile("w", suffix=".yaml")
sent.write(text)
sent.flush()
for line in lines:
    words = shlex.split(line, comments=True)
    if words[:1] == ["pcluster"]:
        words = [sent.name if word.endswith("/cluster.yaml") else word for word in words]
        known, rest = parser.parse_known_args(words[1:])
        assert not rest or getattr(known, "expects_extra_args", False), rest
        checked += 1
assert checked == 7, checked
print(f"{checked} command lines and the configuration are ParallelCluster's")
