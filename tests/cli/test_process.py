"""cli/process.py: settings of the whole process."""

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dhp_sr.cli.process import stop_on_signals

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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_a_step_alone(number, capfd):
    before = signal.getsignal(number)
    with stop_on_signals() as stop:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        with stop.deferred():
            assert not stop()
            os.kill(os.getpid(), number)
            assert stop() and "after this iteration" in capfd.readouterr().err
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_loader_processes_leave_ctrl_c_to_the_run(capfd):
    with stop_on_signals() as stop:
        process = os.fork()
        if not process:
            with stop.deferred():
                os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(1)  # not reached
        _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGTERM
    assert not capfd.readouterr().err
