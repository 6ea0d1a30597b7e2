#!/bin/sh
# Some minutes on a GPU: parity with the CPU, slices a second, what is reached of the machine's rate, profile.
# On a machine without a package index, PYTHONPATH names a folder of wheels; see gpu_training/README.md. Arguments go to
# gpu_check.py; the first table is of networks, as in docs/speed.md.
set -eu
cd "$(dirname "$0")/.."
OUT=${OUT:-.}
python3 -m benchmarks.gpu_check "$@" > "$OUT/gpu_check.json"
cat "$OUT/gpu_check.json"
python3 -m benchmarks.speed --device cuda --row-s 60 --output "$OUT/networks_gpu.json"
