#!/usr/bin/env bash
# Two "machines", network namespaces with their own addresses, train one model; the second is cut off for a while and comes back.
#   sudo benchmarks/two_machines.sh [seconds before the cut] [seconds of the cut]
# Prints the last metrics line before, during and after the cut. Needs root and iproute2; uses .venv and runs/two-machines.
set -eu
cd "$(dirname "$0")/.."
before=${1:-30} cut=${2:-45} out=runs/two-machines
rm -rf "$out"; mkdir -p "$out"
trap 'for n in m1 m2; do ip netns del $n 2>/dev/null || true; done' EXIT
for n in m1 m2; do ip netns del $n 2>/dev/null || true; ip netns add $n; done
ip link add v1 netns m1 type veth peer name v2 netns m2
ip -n m1 addr add 10.77.0.1/24 dev v1
ip -n m2 addr add 10.77.0.2/24 dev v2
for n in 1 2; do ip -n m$n link set lo up; ip -n m$n link set v$n up; done

machine() {
  GLOO_SOCKET_IFNAME=v$1 OMP_NUM_THREADS=1 ip netns exec m$1 .venv/bin/torchrun --nnodes 2 --nproc-per-node 1 \
    --rdzv-backend c10d --rdzv-endpoint 10.77.0.1:29500 --rdzv-id two --local-addr 10.77.0.$1 --max-restarts 10 \
    --rdzv-conf "is_host=$([ "$1" = 1 ] && echo true || echo false),last_call_timeout=5" \
    -m unnoise train digits --network.base-channels 8 --batch-size 16 --kimg 40 --train.log-every-kimg 0.16 \
    --sample.steps 3 --train.checkpoint-every-kimg 0.8 --train.sample-every-kimg 8 --out "$out/run" > "$out/m$1.log" 2>&1
}
line() { echo "$1: $(grep '"loss"' "$out/run/metrics.jsonl" | tail -n 1)"; }

machine 1 & first=$!
machine 2 & second=$!
sleep "$before"; line "before the cut"
ip -n m2 link set v2 down
sleep "$cut"; line "$cut s later"
ip -n m2 link set v2 up
wait $first; wait $second
line "at the end"
