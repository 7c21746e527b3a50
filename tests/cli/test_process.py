"""cli/process.py: settings of the whole process."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import resource, torch
from dhp_sr.cli.process import keep_memory
torch.set_num_threads(1)
assert keep_memory()
def maps():
    kept = [torch.ones(2**19) for _ in range(8)]
for _ in range(3):
    maps()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    maps()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_memory_that_is_kept_needs_no_page_faults():
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    anew = 20 * 8 * 512  # pages, were none of them kept
    assert int(done.stdout) < anew / 8, "the system itself may take some back where memory is short"
