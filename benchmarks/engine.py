"""Measure the engine: what a training step of the hyper network costs, and how much faster cut networks run.

    $ python benchmarks/engine.py step                 # results/engine.json
    $ python benchmarks/engine.py latency --threads 1 2  # results/latency.json

Everything that is compared takes turns in one process; ratios are medians over the rounds. Rows of the same network and
setting are replaced in the file, the others stay, so that a part can be measured again. On a machine with other work,
pin the process (`taskset -c 0`, OMP_NUM_THREADS=1) and read the ratios of processor time.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(ROOT)]  # in place of this folder

import torch  # noqa: E402

from benchmarks.latency import KEY as LATENCY_KEY  # noqa: E402
from benchmarks.latency import RUNTIMES, measure_latency, measure_model  # noqa: E402
from benchmarks.result_files import circumstances, merge  # noqa: E402
from benchmarks.step import measure_steps  # noqa: E402
from dhp_sr.cli.process import keep_memory  # noqa: E402
from dhp_sr.hyper.parametrization import PARAMETRIZATIONS  # noqa: E402
from dhp_sr.training.distributed import DistributedContext  # noqa: E402
from dhp_sr.utils.devices import select_device, thread_count  # noqa: E402
from dhp_sr.utils.errors import exit_code  # noqa: E402

OPTION_FILES = {
    "EDSR": "edsr_x4_dhp.yml",
    "SRResNet": "srresnet_x4_dhp.yml",
    "DnCNN": "dncnn_s70_dhp.yml",
    "UNet": "unet_s70_dhp.yml",
}
STEP_KEY = ("network", "parametrization", "device", "threads")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    given = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser().parse_args(given)
    arguments.command = shlex.join(["benchmarks/engine.py", *given])
    return exit_code(lambda: arguments.run(arguments))


def step(arguments: argparse.Namespace) -> int:
    """Measure training steps."""
    place = DistributedContext(
        select_device("auto" if arguments.num_gpu is None else arguments.num_gpu)
    )
    facts = {
        "device": place.device.type,
        "threads": arguments.threads,
        "measured": circumstances(place.device, arguments.command, arguments.note),
    }
    for name in arguments.networks:
        with thread_count(arguments.threads):
            rows = measure_steps(
                ROOT / "options" / OPTION_FILES[name],
                place,
                arguments.rounds,
                parametrizations=arguments.parametrizations,
                changes=arguments.set,
            )
        merge(arguments.out, "step", [{**row, **facts} for row in rows], STEP_KEY)
        for row in rows:
            memory = row["hyper"]["state_bytes"] / row["plain"]["state_bytes"]
            print(
                f"{name} {row['parametrization']}: step x{row['wall_ratio']['median']:.3f} wall, "
                f"x{row['cpu_ratio']['median']:.3f} cpu, state x{memory:.4f}"
            )
    return 0


def latency(arguments: argparse.Namespace) -> int:
    """Measure networks at half their multiply-adds or time, or one model file, against their dense ones."""
    keep_memory()  # as in a run: time must not depend on the state of the heap
    facts = {"measured": circumstances(torch.device("cpu"), arguments.command, arguments.note)}
    possible = len(os.sched_getaffinity(0))
    threads = [count for count in arguments.threads if count <= possible]
    settings = {
        "runtimes": arguments.runtimes,
        "threads": threads,
        "rounds": arguments.rounds,
        "side": arguments.side,
    }
    parts = []
    if arguments.model:
        parts.append(lambda: measure_model(arguments.model, **settings))
    else:
        for name in arguments.networks:
            path = ROOT / "options" / OPTION_FILES[name]
            parts.append(lambda path=path: measure_latency(path, changes=arguments.set, **settings))
    for part in parts:
        rows = part()
        merge(arguments.out, "latency", [{**row, **facts} for row in rows], LATENCY_KEY)
        for row in rows:
            print(
                f"{row['network']} {row['widths']}, {row['runtime']}, {row['threads']} thread(s): "
                f"{row['macs_ratio']:.1%} of the MACs, {row['wall_ms']['median']:.1f} ms, "
                f"x{row['speedup']['median']:.2f} wall, x{row['cpu_speedup']['median']:.2f} cpu"
            )
    left_out = sorted(set(arguments.threads) - set(threads))
    if left_out:
        print(
            f"not measured: {left_out} threads, the process may use {possible} core(s)",
            file=sys.stderr,
        )
    return 1 if left_out else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    commands = parser.add_subparsers(required=True)
    steps = commands.add_parser(
        "step", help="time and memory of a training step against the plain network"
    )
    _common(steps, "engine", rounds=15)
    steps.add_argument(
        "--parametrizations", nargs="+", choices=PARAMETRIZATIONS, default=list(PARAMETRIZATIONS)
    )
    steps.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch"
    )
    steps.add_argument("--num_gpu", type=int, choices=(0, 1), help="default: a GPU if there is one")
    steps.set_defaults(run=step)
    running = commands.add_parser(
        "latency", help="cut networks against their dense ones, on the CPU"
    )
    _common(running, "latency", rounds=15)
    running.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    running.add_argument("--threads", type=int, nargs="+", default=[1], metavar="N")
    running.add_argument(
        "--side", type=int, help="side of the input; default: 64, for denoising 128"
    )
    running.add_argument("--model", type=Path, help="a saved pruned model instead of the networks")
    running.set_defaults(run=latency)
    return parser


def _common(parser: argparse.ArgumentParser, name: str, rounds: int) -> None:
    parser.add_argument("--networks", nargs="+", choices=OPTION_FILES, default=list(OPTION_FILES))
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / f"{name}.json")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="change the option files"
    )
    parser.add_argument("--note", default="", help="kept with the rows, for instance what else ran")


if __name__ == "__main__":
    sys.exit(main())
