#!/usr/bin/env bash
# Shrinks a small super-resolution network by half on this machine, from training to the finished file. No data, no GPU needed.
# Arguments go to dhp_sr/train.py: scripts/quickstart.sh --set compress.target.macs=0.3
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

"$PYTHON" dhp_sr/train.py -opt options/quickstart.yml "$@"

cat <<'TEXT'

Done. In the folder named above:
  models/pruned.safetensors   the small network          models/dense.safetensors   the one it came from
  report.html                 all of it on one page      widths.txt                 what was cut where
  metrics.json                sizes and scores           validation.csv curves.csv  the course of training
TEXT
