#!/usr/bin/env bash
# Tries everything on a graphics card, the most important first: scripts/gpu_check.sh [STEPS]
#
#   1. a short run of every phase in bf16 (no data needed); the same again from the state after the cut; an export, checked
#   2. time of a training step: the network searched beside the plain one, EDSR 8 x 128, batches of 16
#   3. with DHP_SR_DATA and experiments/pretrained_models/rlfn_x4.pth: RLFN at half and at 30 %, finetuned for STEPS each (default: 2000)
#
# GPU_CHECK=small takes small sizes and any device, to try the script itself.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -z "${PYTHON:-}" ]; then source scripts/environment.sh; fi
STEPS_OF_RLFN=${1:-2000}
OUT=${OUT:-experiments/gpu_check_results}
RUN=experiments/gpu_check
mkdir -p "$OUT"

train() { "$PYTHON" dhp_sr/train.py -opt options/quickstart.yml --set name=gpu_check "${SIZES[@]}" "${MORE[@]}"; }

SIZES=(train.amp=bf16 num_gpu=1 'datasets.train.batch_size_per_gpu=16')
STEPS=(step --networks EDSR --num_gpu 1 --rounds 7)
if [ "${GPU_CHECK:-}" = small ]; then
  SIZES=(train.amp=bf16 num_gpu=0 compress.dense_iter=2 compress.search_iter=2 train.total_iter=8 train.warmup_iter=0 val.val_freq=8
    logger.save_checkpoint_freq=2 datasets.train.batch_size_per_gpu=2 network_g.num_block=1 compress.tolerance=0.2)
  STEPS=()
fi

echo "== 1. Every phase in bf16, resume, export"
rm -rf "$RUN"
MORE=()
train
cp "$RUN/models/pruned.safetensors" "$OUT/straight.safetensors"
# As if it had been stopped after the cut: later states and what was written at the end are gone.
"$PYTHON" - "$RUN" <<'TEXT'
import re
import sys
from pathlib import Path

run = Path(sys.argv[1])
states = sorted((run / "training_states").iterdir(), key=lambda path: int(re.search(r"\d+", path.name)[0]))
assert len(states) > 1, f"expected several states to resume from, found {len(states)}"
states[-1].unlink()
for model in (run / "models").glob("pruned*"):
    model.unlink()
TEXT
MORE=(--auto_resume)
train
"$PYTHON" - "$OUT/straight.safetensors" "$RUN/models/pruned.safetensors" <<'TEXT'
import sys

import torch

from dhp_sr.deploy import load_model

straight, resumed = [load_model(path).double() for path in sys.argv[1:]]
x = torch.rand(1, 3, 48, 48, dtype=torch.double)
with torch.no_grad():
    expected = straight(x)
    difference = float((resumed(x) - expected).abs().max() / expected.abs().max())
print(f"resumed beside uninterrupted: outputs differ by {difference:.1e} of the largest")
assert difference < 1e-2, "more than the order of sums on a graphics card explains"
TEXT
"$PYTHON" dhp_sr/export.py --model "$RUN/models/pruned.safetensors" --format onnx --output "$OUT/pruned.onnx"

if [ ${#STEPS[@]} -gt 0 ]; then
  echo "== 2. Time of a training step"
  "$PYTHON" benchmarks/engine.py "${STEPS[@]}" --out "$OUT/steps.json"
fi

if [ -n "${DHP_SR_DATA:-}" ] && [ -e experiments/pretrained_models/rlfn_x4.pth ] && [ "${GPU_CHECK:-}" != small ]; then
  echo "== 3. RLFN"
  for target in 0.5 0.3; do
    # The teacher runs on patches: whole images would take it minutes before the first step.
    "$PYTHON" dhp_sr/train.py -opt options/rlfn_x4_published.yml --set "name=gpu_rlfn_$target" "compress.target.macs=$target" \
      compress.distill.whole_images=false train.amp=bf16 num_gpu=1 "train.total_iter=$STEPS_OF_RLFN"
    cp "experiments/gpu_rlfn_$target/metrics.json" "$OUT/rlfn_$target.json"
  done
fi
echo "== Done: $OUT"
