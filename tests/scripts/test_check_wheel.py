"""The wheel, installed where only the required packages are."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_wheel_works_with_the_required_packages_alone():
    done = subprocess.run(
        [sys.executable, "scripts/check_wheel.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
