# shellcheck shell=bash
# Sourced by the other scripts, from the project's root: leaves PYTHON, a Python that has everything.
#
# Makes .venv with the versions of requirements/, or takes it as it is when it is current. Needs Python 3.11 or 3.12 (or uv).
#   DHP_SR_PYTHON=/path/python   use this Python as it is, install nothing
#   DHP_SR_TORCH=...             another torch, as pip takes it: "torch==2.11.0+cu128 --extra-index-url https://..."
#   DHP_SR_TORCH=system          the torch of the machine's own Python
# The choice of torch is remembered in .venv; DHP_SR_TORCH= (empty) goes back to the default one.

PIP_VERSION=26.3
CPU_WHEELS=https://download.pytorch.org/whl/cpu
VENV=.venv
STAMP=$VENV/dhp_sr.current      # fingerprint of what was installed; written last
BUILDING=$VENV/dhp_sr.building  # there while an installation runs: found again, it was interrupted
CHOICE=$VENV/dhp_sr.torch       # the value of DHP_SR_TORCH

unset PYTHONHOME PYTHONPATH
unset PIP_BUILD_CONSTRAINT # pip refuses it beside --no-build-isolation
export PYTHONNOUSERSITE=1 PIP_DISABLE_PIP_VERSION_CHECK=1

stop() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# Is $1 a Python that the pinned versions support?
suits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1; }

find_python() {
  local name without_venv=""
  for name in python3 python3.12 python3.11 python; do
    suits "$name" || continue
    if "$name" -c 'import ensurepip, venv' >/dev/null 2>&1; then
      BASE_PYTHON=$name
      return
    fi
    without_venv=${without_venv:-$name}
  done
  BASE_PYTHON=""
  if command -v uv >/dev/null 2>&1; then return; fi
  if [ -n "$without_venv" ]; then
    stop "$without_venv has no venv module. On Debian and Ubuntu: sudo apt install python3-venv. Or install uv."
  fi
  stop "expected Python 3.11 or 3.12, found $(python3 --version 2>/dev/null || echo none). Install one of them" \
    "(https://www.python.org/downloads/), or uv (https://docs.astral.sh/uv/), which brings its own."
}

make_venv() {
  local system=""
  if [ "$TORCH_CHOICE" = system ]; then system=--system-site-packages; fi
  if [ -n "$BASE_PYTHON" ]; then
    # shellcheck disable=SC2086
    "$BASE_PYTHON" -m venv $system "$VENV" || stop "could not make $VENV with $BASE_PYTHON"
  else
    # shellcheck disable=SC2086
    uv venv --seed --python 3.11 $system "$VENV" || stop "uv could not make $VENV"
  fi
}

# What .venv must agree with: the pins, this recipe, the choice of torch, the interpreter.
fingerprint() {
  "$PYTHON" - "$TORCH_CHOICE" requirements/*.txt scripts/environment.sh <<'PY'
import hashlib, pathlib, platform, sys
parts = [platform.python_version(), platform.machine(), sys.argv[1]]
parts += [pathlib.Path(name).read_text(encoding="utf-8") for name in sys.argv[2:]]
print(hashlib.sha256("\0".join(parts).encode()).hexdigest())
PY
}

pip_install() { "$PYTHON" -m pip install -qq "$@"; } # errors only

reachable() {
  "$PYTHON" -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5).close()' "$1/torch/" \
    >/dev/null 2>&1
}

installed_torch() { "$PYTHON" -c 'import importlib.metadata as m; print(m.version("torch"))' 2>/dev/null || true; }

# PyPI's torch for Linux holds CUDA, some gigabytes that a machine without an NVIDIA GPU has no use for.
install_torch() {
  local pin
  pin=$(grep '^torch==' requirements/torch.txt)
  if [ "$TORCH_CHOICE" = system ] || { [ -z "$TORCH_CHOICE" ] && [ -n "$(installed_torch)" ]; }; then
    [ -n "$(installed_torch)" ] || stop "DHP_SR_TORCH=system: expected torch in ${BASE_PYTHON:-python}, found none"
    "$PYTHON" -c 'import torchvision' >/dev/null 2>&1 || pip_install "torch==$(installed_torch)" torchvision
  elif [ -n "$TORCH_CHOICE" ]; then
    # shellcheck disable=SC2086
    pip_install $TORCH_CHOICE torchvision
  elif [ "$(uname -s)" != Linux ] || nvidia-smi -L >/dev/null 2>&1; then
    pip_install -r requirements/torch.txt
  elif pip_install --dry-run --no-deps "$pin+cpu" >/dev/null 2>&1; then # pip's own sources have the CPU build
    pip_install "$pin+cpu" -r requirements/torch.txt
  elif reachable "$CPU_WHEELS"; then
    pip_install --extra-index-url "$CPU_WHEELS" -r requirements/torch.txt
  else
    echo "note: $CPU_WHEELS cannot be reached; taking the default torch, which may hold CUDA (some gigabytes)"
    pip_install -r requirements/torch.txt
  fi
}

install_rest() {
  local own_torch
  own_torch=$VENV/constraints.txt
  { cat requirements/constraints.txt && echo "torch==$(installed_torch)"; } >"$own_torch"
  # From here on nothing can bring another torch: it is pinned, and nothing is built in an environment of its own.
  export PIP_CONSTRAINT=$PWD/$own_torch
  pip_install --only-binary :all: -r requirements/environment.txt
  pip_install --no-deps --no-build-isolation -r requirements/basicsr.txt
}

check_imports() {
  "$PYTHON" -c '
from dhp_sr.basicsr_adapter.shim import prepare_basicsr
prepare_basicsr()
import basicsr, cv2, lmdb, matplotlib, pydantic, pytest, safetensors, skimage, tensorboard, torch, torchvision, xdist, yaml
print(f"torch {torch.__version__}, basicsr 1.4.2, CUDA " + ("available" if torch.cuda.is_available() else "not used"))'
}

install_environment() {
  find_python
  if [ -e "$VENV" ] && { [ -e "$BUILDING" ] || [ -e "$STAMP" ] || ! suits "$VENV/bin/python"; }; then
    rm -rf "$VENV" # half made, out of date, or without a Python that works
  fi
  echo "setting up $VENV (about 2.2 GB; the first time only)"
  if [ ! -e "$VENV" ]; then
    mkdir "$VENV"
    touch "$BUILDING"
    make_venv
  fi
  touch "$BUILDING"
  printf '%s' "$TORCH_CHOICE" >"$CHOICE"
  pip_install --upgrade "pip==$PIP_VERSION" &&
    install_torch && install_rest && check_imports ||
    stop "the installation did not succeed, see above; the same command starts it again"
  fingerprint >"$STAMP"
  rm "$BUILDING"
}

use_environment() {
  if [ -n "${DHP_SR_PYTHON:-}" ]; then
    suits "$DHP_SR_PYTHON" || stop "DHP_SR_PYTHON: expected Python 3.11 or 3.12, found $DHP_SR_PYTHON"
    PYTHON=$DHP_SR_PYTHON
    return
  fi
  PYTHON=$VENV/bin/python
  TORCH_CHOICE=${DHP_SR_TORCH-$(cat "$CHOICE" 2>/dev/null || true)}
  if [ -e "$BUILDING" ] || [ ! -e "$STAMP" ] || [ "$(cat "$STAMP")" != "$(fingerprint 2>/dev/null)" ]; then
    install_environment
  fi
}

use_environment
