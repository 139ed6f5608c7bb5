#!/usr/bin/env bash
# cloud/: what it would run and send, checked by the tools and types that would take it. No cloud is asked.
#   cloud.sh SOURCE_DIR BUILD_DIR
set -u
source=$1 build=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$source" || exit 1
fail() { echo "FAILED: $1"; exit 1; }
export AWS_REGION=eu-west-1
cluster=cloud/cluster image=cloud/image

echo "== commands"
"$cluster" up >"$work/out" 2>&1 && fail "up without a subnet"
grep -q "needs --subnet" "$work/out" || fail "$(cat "$work/out")"
"$cluster" --dry-run --name 9 status >"$work/out" 2>&1 && fail "a name that is none"
AWS_REGION='' "$cluster" --dry-run status >"$work/out" 2>&1 && fail "no region"
"$image" --dry-run push mobula mobula:2 >"$work/out" || fail "push"
grep -q "docker push REPOSITORY_URI:2\|podman push REPOSITORY_URI:2" "$work/out" || fail "$(cat "$work/out")"
AWS_REGION='' "$image" --dry-run push mobula >"$work/out" 2>&1 && fail "an image to nowhere"

tried=0
echo "== ParallelCluster"
python=$build/parallelcluster/bin/python
if [ ! -x "$python" ] && python3 -m venv "$build/parallelcluster" >/dev/null 2>&1; then
  timeout 120 "$python" -m pip install --quiet aws-parallelcluster >"$work/out" 2>&1 || tail -n 1 "$work/out"
fi
if "$python" -c 'import pcluster' 2>/dev/null; then
  tried=1
  {
    "$cluster" --dry-run up --subnet subnet-0123456789abcdef0 --key key --bucket bucket --max-nodes 4 &&
      "$cluster" --dry-run status &&
      "$cluster" --dry-run submit slurm/nodes.sbatch -N 2 -- input "another one" &&
      "$cluster" --dry-run attach &&
      "$cluster" --dry-run down
  } >"$work/said" || fail "a dry run"
  AWS_DEFAULT_REGION=$AWS_REGION "$python" tests/cloud/check_cluster.py <"$work/said" || fail "$(cat "$work/said")"
else
  echo "SKIPPED: aws-parallelcluster can't be installed here"
fi

echo "== Kubernetes"
if (cd tests/cloud/mpijob && timeout 150 go build -o "$build/mpijob" .) >"$work/out" 2>&1; then
  tried=1
  "$build/mpijob" cloud/kubernetes/mpijob.yaml || fail "the MPI operator would not take it"
  sed 's/slotsPerWorker/slotPerWorker/' cloud/kubernetes/mpijob.yaml >"$work/wrong.yaml"
  "$build/mpijob" "$work/wrong.yaml" 2>/dev/null && fail "a field that does not exist passed"
  echo "the MPI operator takes mpijob.yaml"
else
  echo "SKIPPED: the MPI operator's types can't be built here: $(tail -n 1 "$work/out")"
fi
[ $tried = 1 ] || exit 77
