#!/usr/bin/env bash
# run.sh [STEP...]: everything that wants a GPU, from build/gpu-pack (tests/gpu/pack.sh), in under eight
# minutes. Only runs: builds nothing, fetches nothing. Steps: tests sanitizer demo repeat bench model
# load overlap torch. Results: $OUT/gpu.json (OUT: build/gpu-out) and one screen. No GPU: says so, exit 0.
set -u -o pipefail
cd "$(dirname "$0")/../.." || exit 1
if ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then
    echo "no GPU here: nothing was run"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
fi
if [ ! -f build/gpu-pack/pack.tar.xz ]; then
    echo "no build/gpu-pack: run tests/gpu/pack.sh where nvcc is"
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
fi
export OUT=${OUT:-$PWD/build/gpu-out} PYTHONUNBUFFERED=1
mkdir -p "$OUT"
exec python3 tests/gpu/run_all.py "$@" 2>&1 | tee "$OUT/gpu.log"
