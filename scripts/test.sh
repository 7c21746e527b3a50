#!/usr/bin/env bash
# Checks everything: lint, format, spelling, types, import contracts, the wheel, tests.
# Arguments go to pytest and leave the wheel out: scripts/test.sh tests/config -k yaml
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
export OMP_NUM_THREADS=1 # several workers share the cores

failed=()
check() {
  local name=$1
  shift
  echo "== $name"
  "$@" || failed+=("$name")
}

check "ruff check" "$PYTHON" -m ruff check .
check "ruff format" "$PYTHON" -m ruff format --check .
check "codespell" "$PYTHON" -m codespell_lib
check "mypy" "$PYTHON" -m mypy
check "import contracts" "$PYTHON" -c "from importlinter.cli import lint_imports_command as run; run()" --no-cache
if [ $# -eq 0 ]; then
  check "wheel" "$PYTHON" scripts/check_wheel.py
fi
if [ "${#failed[@]}" -gt 0 ]; then
  joined=$(printf ', %s' "${failed[@]}")
  echo "== FAILED: ${joined:2}; the tests run all the same, but this script will not succeed"
fi

# The whole suite runs in as many workers as there are cores; single tests are faster in one.
workers=()
if [ $# -eq 0 ]; then
  if "$PYTHON" -c 'import xdist' 2>/dev/null; then
    workers=(-n auto --maxprocesses 4 --dist worksteal)
  else
    echo "note: $PYTHON has no pytest-xdist; the tests run one after the other"
  fi
fi

echo "== tests"
status=0
"$PYTHON" -m pytest ${workers[@]+"${workers[@]}"} "$@" || status=$?
if [ "${#failed[@]}" -gt 0 ] && [ "$status" -eq 0 ]; then status=1; fi
exit "$status"
