"""BasicSR 1.4.2 can be imported beside today's torchvision, also without its CUDA half."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from dhp_sr.basicsr_adapter.shim import prepare_basicsr


def test_basicsr_imports_in_a_fresh_process():
    code = """
from dhp_sr.basicsr_adapter.shim import prepare_basicsr
prepare_basicsr()
prepare_basicsr()
import basicsr
from basicsr.utils.registry import ARCH_REGISTRY
from basicsr.data.degradations import rgb_to_grayscale
import torch, torchvision
assert "EDSR" in ARCH_REGISTRY
assert rgb_to_grayscale(torch.ones(3, 2, 2)).shape == (1, 2, 2)
prepare_basicsr()
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in list(sys.modules):
        if name.split(".")[0] == "basicsr":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchvision", object())
    with pytest.raises(ModuleNotFoundError, match=r"basicsr.*pip install"):
        prepare_basicsr()
