#!/usr/bin/env bash
# Each step of a bare GPU machine, here, with a CPU, and with nothing installed but torch, NumPy and the carried wheels:
#   benchmarks/gpu_training/rehearse.sh PACKED WHEELS [SECONDS] [OUT]
# WHEELS are those for this machine's Python (make_wheels.sh WHEELS VERSION).
set -euo pipefail
packed=$(realpath "$1"); wheels=$(realpath "$2"); seconds=${3:-60}; out=${4:-$(mktemp -d)/out}
cd "$(dirname "$0")/../.."
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
step() { echo "== $1, $(($(date +%s) - begin)) s"; }
begin=$(date +%s)
python3 -m venv "$work/bare"
"$work/bare/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt torch numpy
step "torch and NumPy are there, as on the other machine"
"$work/bare/bin/python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --target "$work/site" "$wheels"/*.whl
export PYTHONPATH="$work/site:$PWD"
step "wheels installed"
"$work/bare/bin/python" -c "
import importlib.util as u
print('not installed:', ', '.join(n for n in ('pydicom', 'highdicom', 'nibabel', 'SimpleITK', 'matplotlib', 'PIL', 'jinja2', 'fire') if u.find_spec(n) is None))"
train() {
    "$work/bare/bin/python" -m monai_ldmsr train "$packed" "$out" --stages adversarial \
        --start bundles/ldm_sr/models/model.pt --budget "$1s"
}
train "$seconds"
step "trained for $seconds s and packed"
rm "$out/training/generator.pt"
train "$((seconds * 2))"
step "gone on from the checkpoint for as long again"
ls -l "$out/ldm_sr/models" "$out/training"
