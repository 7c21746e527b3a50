"""Runs that are killed at random moments and resumed, compared with one that was left alone.

    python tests/faults/kills.py --runs 100 --seed 0

Every run is a process of its own, killed by SIGKILL after a random share of the time that a whole
run takes, several times over, and then resumed to its end.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import matplotlib.pyplot  # noqa: E402, F401 - imported once, before the processes are forked
import torch  # noqa: E402
import torch.utils.tensorboard  # noqa: E402
import yaml  # noqa: E402
from runs import assert_same_run  # noqa: E402
from tiny_runs import DNCNN, EDSR, save_images, tiny_options  # noqa: E402

from dhp_sr.config.schema import Options  # noqa: E402
from dhp_sr.train import main as train  # noqa: E402

MAX_KILLS = 4
"""Of a run, before it is left alone."""
CASES = {
    "EDSR": {"compress": {"distill": {"weight": 0.5}}},
    "DnCNN": {"network": DNCNN},
    "hsn": {"network": DNCNN, "compress": {"method": "hsn"}},
    "workers": {"network": EDSR},
}


@dataclass
class Counts:
    """What happened."""

    runs: int = 0
    identical: int = 0
    kills: int = 0
    partial_files: int = 0
    """Temporary files that were there after a kill."""
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = (
            f"{self.identical} of {self.runs} runs identical after {self.kills} kills, which left "
            f"{self.partial_files} partial files"
        )
        return "\n".join([text, *self.failures])


def write_options(case: str, name: str, folder: Path) -> Path:
    """Write the option file of a run."""
    options: Options = tiny_options(folder / "pictures", folder, name=name, **CASES[case])
    fields = options.model_dump(mode="json", exclude_unset=True)
    fields["datasets"]["train"]["num_worker_per_gpu"] = 1 if case == "workers" else 0
    path = folder / f"{name}.yml"
    path.write_text(yaml.safe_dump(fields))
    return path


def start(path: Path, log: Path) -> int:
    """Start or resume a run in a process of its own; return the number of the process."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setpgid(0, 0)  # its workers end with it
        with open(log, "ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        code = train(["-opt", str(path), "--auto_resume"])
    finally:
        os._exit(code)


def wait(pid: int, seconds: float) -> int | None:
    """Wait for a process; return its exit code, None where it has not ended by then."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def kill(pid: int) -> None:
    """Kill a run as a machine that fails does: with all that belongs to it."""
    for target in (lambda: os.killpg(pid, signal.SIGKILL), lambda: os.kill(pid, signal.SIGKILL)):
        try:
            target()
        except ProcessLookupError:
            continue
    os.waitpid(pid, 0)


def run_to_the_end(path: Path, log: Path) -> float:
    """Run without a kill; return the seconds."""
    started = time.monotonic()
    code = wait(start(path, log), 600)
    if code != 0:
        raise RuntimeError(f"exit code {code}: {log.read_text()[-2000:]}")
    return time.monotonic() - started


def kill_and_compare(
    folder: Path, runs: int, seed: int, show: Callable[[str], None] = lambda text: None
) -> Counts:
    """Kill runs at random moments.

    Args:
        folder: An empty folder.
        runs: How many.
        seed: Of the moments.
        show: Gets a line after each run.
    """
    torch.set_num_threads(1)
    save_images(folder / "pictures" / "train", 3, 40)
    save_images(folder / "pictures" / "val", 2, 32)
    rng = random.Random(seed)
    counts = Counts()
    whole: dict[str, tuple[Path, float]] = {}
    experiments = folder / "experiments"
    for number in range(runs):
        case = list(CASES)[number % len(CASES)]
        if case not in whole:
            name = f"whole_{case}"
            seconds = run_to_the_end(write_options(case, name, folder), folder / f"{name}.log")
            whole[case] = (experiments / name, seconds)
        expected, seconds = whole[case]
        name = f"killed_{number}"
        path, log = write_options(case, name, folder), folder / f"{name}.log"
        killed = experiments / name
        counts.runs += 1
        for _ in range(rng.randint(1, MAX_KILLS)):
            pid = start(path, log)
            code = wait(pid, rng.uniform(0.02, 1.0) * seconds)
            if code is not None:
                break  # it was resumed near its end
            kill(pid)
            counts.kills += 1
            counts.partial_files += len(list(killed.rglob(".*.part")))
        try:
            run_to_the_end(path, log)
            assert_same_run(expected, killed)
            left = [*killed.rglob(".*.part"), *killed.rglob("run.lock")]
            assert not left, left
            assert (killed / "metrics.json").exists()
            assert (killed / "report.html").exists()
            counts.identical += 1
        except (AssertionError, RuntimeError, OSError) as error:
            counts.failures.append(f"{name} ({case}): {str(error)[:500]}")
        else:
            shutil.rmtree(killed)
        show(f"{number + 1}: {counts}")
    return counts


def main() -> int:
    """Run the command line."""
    import tempfile

    parser = argparse.ArgumentParser(description="Kill runs at random moments and compare them.")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = kill_and_compare(
            Path(folder), arguments.runs, arguments.seed, lambda text: print(text, flush=True)
        )
    return 0 if counts.identical == counts.runs else 1


if __name__ == "__main__":
    sys.exit(main())
