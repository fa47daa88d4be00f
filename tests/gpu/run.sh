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
# As jobs of the workflow run: no network, nothing imported from the working directory, no threads that spin.
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 PYTHONSAFEPATH=1 OMP_WAIT_POLICY=PASSIVE

if [[ " $* " != *" --small "* ]]; then
    packages=$(mktemp -d)
    python -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$packages" "$kit"/wheels/*.whl
    export PYTHONPATH="$PYTHONPATH:$packages"
fi
exec python -m gpu.checks "$@" --kit "$kit"
