#!/usr/bin/env bash
# All that one GPU has to tell, in one call of ten minutes, on a machine without a network.
#
#   bash tests/benchmarks/one_gpu_call.sh pack WHEELS       here: what such a machine lacks, as wheels
#   bash tests/benchmarks/one_gpu_call.sh run WHEELS OUT    there: the tests, whole runs, the parts
#
# The machine has Python 3.12, torch, transformers, accelerate, peft, triton and pytest. OUT gets the
# log of the tests and the tables of h100_app.py and h100.py; all three are printed at the end, also
# of what ran out of its time. SMOKE=1 rehearses it on a CPU, with tiny shapes.
set -u
cd "$(dirname "$0")/../.." || exit

pack() { # antlr4's runtime is published as source alone, and runs on any Python 3
  local to=$1
  python3 -m pip wheel -q --no-deps --wheel-dir "$to" antlr4-python3-runtime==4.9.3 || return
  # Versions of constraints.txt, where it names them.
  python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 \
    --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
    --platform manylinux2014_x86_64 -c constraints.txt --dest "$to" \
    hydra-core omegaconf gguf zstandard pytest-timeout hypothesis liger-kernel einops \
    flash-linear-attention fla-core
}

run() {
  local wheels=$1 out=$2 site smoke=() marked=gpu
  site=$(mktemp -d)
  mkdir -p "$out"
  [ -n "${SMOKE:-}" ] && smoke=(--smoke) && marked='not slow'
  python3 -m pip install -q --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl || return
  export PYTHONPATH="$site:$PWD" PYTHONUNBUFFERED=1
  nvidia-smi >"$out/machine.txt" 2>&1
  timeout 150 python3 -m pytest -m "$marked" -rs tests/training/test_on_cuda.py >"$out/tests.txt" 2>&1
  timeout 290 python3 -m tests.benchmarks.h100_app "${smoke[@]}" --out "$out/app" --seconds 270
  timeout 150 python3 tests/benchmarks/h100.py "${smoke[@]}" --out "$out/parts" --seconds 130
  tail -n 40 "$out/tests.txt"
  cat "$out"/app/one_gpu_app.md "$out"/parts/one_gpu.md
}

case "${1:-}-$#" in
  pack-2) pack "$2" ;;
  run-3) run "$2" "$3" ;;
  *) sed -n 2,10p "$0"; exit 2 ;;
esac
