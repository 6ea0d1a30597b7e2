#!/bin/sh
# Collect what a machine with torch and NumPy, but no package index, needs to train: about 3 MB of wheels in WHEELS.
#   benchmarks/gpu_training/make_wheels.sh WHEELS [PYTHON_VERSION]
set -eu
folder=${1:?usage: make_wheels.sh WHEELS [PYTHON_VERSION]}
python3 -m pip download --no-deps --only-binary=:all: --dest "$folder" \
    --python-version "${2:-3.12}" --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 \
    'monai>=1.6.1,<1.7' 'pytorch-ignite>=0.5.1' 'einops>=0.8' 'pyyaml>=6.0' packaging
