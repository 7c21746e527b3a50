"""Runs that are killed at random moments and resumed, compared with one that was left alone.

    python tests/faults/kills.py --runs 100 --output results/killed_runs.json

Every run is a process of its own, killed by SIGKILL several times over, and then resumed to its
end. Half of the moments are a random share of the time that a whole run takes, half of them follow
a random line of its log: most of the time of a tiny run passes before and after its steps.
"""

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import matplotlib.pyplot  # noqa: E402, F401 - imported once, before the processes are forked
import torch  # noqa: E402
import torch.utils.tensorboard  # noqa: E402
import yaml  # noqa: E402
from runs import assert_same_run, empty_pages  # noqa: E402
from tiny_runs import DNCNN, EDSR, save_images, tiny_options  # noqa: E402

from benchmarks.result_files import describe_measurement  # noqa: E402
from dhp_sr.config.schema import Options  # noqa: E402
from dhp_sr.train import main as train  # noqa: E402
from dhp_sr.training.checkpoint import list_states  # noqa: E402
from dhp_sr.utils.errors import UserError  # noqa: E402
from dhp_sr.utils.files import write_json  # noqa: E402

MAX_KILLS = 4
"""Of a run, before it is left alone."""
MAX_SECONDS = 600
PAGES_EVERY = 4
"""Runs of which one draws its pages, which take longer than all of its steps."""
CASES = {
    "distillation": {"compress": {"distill": {"weight": 0.5}}},
    "batch normalization": {"network": DNCNN},
    "hsn": {"network": DNCNN, "compress": {"method": "hsn"}},
    "workers": {"network": EDSR},
    "obs": {"network": DNCNN, "compress": {"method": "obs"}},
    "paper": {"compress": {"preset": "paper", "parametrization": "full", "dense_iter": 0}},
    "correction": {
        "network": DNCNN,
        "compress": {"method": "uniform", "correction": {"samples": 4}},
    },
    "two targets": {"network": DNCNN, "compress": {"target": [{"macs": 0.7}, {"macs": 0.5}]}},
    "dense": {"network": DNCNN, "compress": {}},
}
"""What differs between the runs: methods and phases."""


@dataclass
class Counts:
    """What happened."""

    runs: int = 0
    identical: int = 0
    kills: int = 0
    partial_files: int = 0
    """Temporary files that were there after a kill."""
    phases: Counter[str] = field(default_factory=Counter)
    """Where the kills happened, as the log and the files tell."""
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        places = ", ".join(f"{count} {place}" for place, count in sorted(self.phases.items()))
        text = (
            f"{self.identical} of {self.runs} runs identical after {self.kills} kills ({places}), "
            f"which left {self.partial_files} partial files"
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


def start(path: Path, log: Path, *, pages: bool = True) -> int:
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
        with contextlib.nullcontext() if pages else empty_pages():
            code = train(["-opt", str(path), "--auto_resume"])
    finally:
        os._exit(code)


def wait(pid: int, seconds: float, is_time: Callable[[], bool] = lambda: False) -> int | None:
    """Wait for a process; return its exit code, None where it has not ended by then."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not is_time():
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


def newest_state(folder: Path) -> int:
    """Return the steps of the newest state of a run; 0 without one."""
    return max((iteration for iteration, _ in list_states(folder / "training_states")), default=0)


def place_of(folder: Path, end: int) -> str:
    """Return where a run was when it was killed, from what it had written.

    Args:
        folder: Of the run.
        end: Steps of the whole run.
    """
    if not (folder / "train.log").exists():
        return "before the first step"
    if (folder / "metrics.json").exists():
        return "while its pages were written"
    phases = re.findall(r"phase (\w+) begins", (folder / "train.log").read_text())
    if newest_state(folder) == end:
        return "while it was scored"
    return f"in phase {phases[-1]}" if phases else "before the first step"


def has_logged(folder: Path, size: int) -> bool:
    """Return whether the log of a run has reached a number of bytes."""
    log = folder / "train.log"
    return log.exists() and log.stat().st_size >= size


def wait_for_a_moment(
    pid: int, rng: random.Random, seconds: float, expected: Path, killed: Path
) -> int | None:
    """Wait until a run is to be killed; return its exit code where it ends before.

    Args:
        pid: Of the run.
        rng: Draws the moment.
        seconds: That a whole run takes.
        expected: Folder of the whole run.
        killed: Folder of this run.
    """
    if rng.random() < 0.5:
        return wait(pid, rng.uniform(0.02, 1.0) * seconds)
    size = rng.randrange((expected / "train.log").stat().st_size)
    code = wait(pid, MAX_SECONDS, lambda: has_logged(killed, size))
    if code is None:
        code = wait(pid, rng.uniform(0, 0.05))
    return code


def run_to_the_end(path: Path, log: Path, *, pages: bool = True) -> float:
    """Run without a kill; return the seconds."""
    started = time.monotonic()
    code = wait(start(path, log, pages=pages), MAX_SECONDS)
    if code != 0:
        raise RuntimeError(f"exit code {code}: {log.read_text()[-2000:]}")
    return time.monotonic() - started


def kill_and_compare(
    folder: Path, runs: int, seed: int, show: Callable[[Counts], None] = lambda counts: None
) -> Counts:
    """Kill runs at random moments.

    Args:
        folder: An empty folder.
        runs: How many.
        seed: Of the moments.
        show: Gets the counts after each run.
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
            whole_log = folder / f"{name}.log"
            seconds = run_to_the_end(write_options(case, name, folder), whole_log, pages=False)
            whole[case] = (experiments / name, seconds)
        expected, seconds = whole[case]
        name = f"killed_{number}"
        path, log = write_options(case, name, folder), folder / f"{name}.log"
        killed = experiments / name
        pages = number % PAGES_EVERY == 0
        counts.runs += 1
        for _ in range(rng.randint(1, MAX_KILLS)):
            pid = start(path, log, pages=pages)
            code = wait_for_a_moment(pid, rng, seconds, expected, killed)
            if code is not None:
                break  # it was resumed near its end
            kill(pid)
            counts.kills += 1
            counts.phases[place_of(killed, newest_state(expected))] += 1
            counts.partial_files += len(list(killed.rglob(".*.part")))
        try:
            run_to_the_end(path, log, pages=pages)
            # more steps where there are two targets
            assert_same_run(expected, killed, newest_state(expected))
            left = [*killed.rglob(".*.part"), *killed.rglob("run.lock")]
            assert not left, left
            assert (killed / "metrics.json").exists()
            assert (killed / "report.html").exists()
            counts.identical += 1
        except (AssertionError, RuntimeError, OSError, UserError) as error:
            counts.failures.append(f"{name} ({case}): {str(error)[:500]}")
        else:
            shutil.rmtree(killed)
        show(counts)
    return counts


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Kill runs at random moments and compare them.")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="write the counts into this JSON file")
    return parser


def main() -> int:
    """Run the command line."""
    arguments = _parser().parse_args()
    command = f"tests/faults/kills.py --runs {arguments.runs} --seed {arguments.seed}"
    note = f"at least 12 steps a run, up to {MAX_KILLS} kills of each; cases: {', '.join(CASES)}"
    measured = describe_measurement(torch.device("cpu"), command, note)
    started = time.monotonic()

    def show(counts: Counts) -> None:
        print(f"{counts.runs}: {counts}", flush=True)
        if arguments.output:
            # after every run: what is interrupted keeps its counts
            minutes = round((time.monotonic() - started) / 60, 1)
            row = {"what": "killed runs", **vars(counts), "minutes": minutes, "measured": measured}
            write_json(arguments.output, {"kind": "killed_runs", "rows": [row]})

    with tempfile.TemporaryDirectory() as folder:
        counts = kill_and_compare(Path(folder), arguments.runs, arguments.seed, show)
    return 0 if counts.identical == counts.runs else 1


if __name__ == "__main__":
    sys.exit(main())
