#!/usr/bin/env bash
# Check speechmill on a GPU: run all steps in eight minutes at most, and write their results to a folder.
#
#   tests/gpu/run.sh FOLDER               on a machine with a GPU, with gpu-kit/ from `make gpu-kit`
#   tests/gpu/run.sh FOLDER --small       on a CPU, with tiny models
#
# KIT=PATH names another kit. See README.md.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
kit=$(realpath "${KIT:-$root/gpu-kit}")
folder=$1
mkdir -p "$folder"
export PYTHONPATH="$root/workflow:$root/tests"
# Steps are forked from a process that must not start CUDA.
export PYTORCH_NVML_BASED_CUDA_CHECK=1
# As jobs of the workflow run (see core/environment.py).
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 PYTHONSAFEPATH=1 OMP_WAIT_POLICY=PASSIVE
export PYTORCH_ALLOC_CONF=expandable_segments:True

if [[ " $* " != *" --small "* ]]; then
    packages=$(mktemp -d)
    python -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$packages" "$kit"/wheels/*.whl
    mkdir "$packages/bin"
    python -c 'import lzma, sys; sys.stdout.buffer.write(lzma.open(sys.argv[1]).read())' "$kit/ffmpeg.xz" > "$packages/bin/ffmpeg"
    chmod +x "$packages/bin/ffmpeg"
    export PYTHONPATH="$PYTHONPATH:$packages" PATH="$packages/bin:$PATH"
fi
exec python -m gpu.checks "$@" --kit "$kit"
