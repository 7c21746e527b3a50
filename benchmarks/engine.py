"""Measure the cost of training with latents, and the latency of pruned networks.

    $ python benchmarks/engine.py step                   # results/engine.json
    $ python benchmarks/engine.py latency --threads 1 2  # results/latency.json

What is compared is interleaved in one process; ratios are medians over the rounds. Rows of the same
network and setting are replaced in the file, the others stay, so that a single row can be measured
again. On a machine with other work, pin the process (`taskset -c 0`, OMP_NUM_THREADS=1) and read
the ratios of processor time.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(ROOT)]  # in place of this folder, whose modules must not hide others

import torch  # noqa: E402

from benchmarks.latency import KEY as LATENCY_KEY  # noqa: E402
from benchmarks.latency import RUNTIMES, measure_model, measure_network  # noqa: E402
from benchmarks.result_files import describe_measurement, merge_rows  # noqa: E402
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
    num_gpu = "auto" if arguments.num_gpu is None else arguments.num_gpu
    context = DistributedContext(select_device(num_gpu))
    setting = {
        "device": context.device.type,
        "threads": arguments.threads,
        "measured": describe_measurement(context.device, arguments.command, arguments.note),
    }
    for name in arguments.networks:
        with thread_count(arguments.threads):
            rows = measure_steps(
                ROOT / "options" / OPTION_FILES[name],
                context,
                arguments.rounds,
                parametrizations=arguments.parametrizations,
                changes=arguments.set,
            )
        merge_rows(arguments.out, "step", [{**row, **setting} for row in rows], STEP_KEY)
        for row in rows:
            memory = row["hyper"]["state_bytes"] / row["plain"]["state_bytes"]
            print(
                f"{name} {row['parametrization']}: step x{row['wall_ratio']['median']:.3f} wall, "
                f"x{row['cpu_ratio']['median']:.3f} cpu, state x{memory:.4f}"
            )
    return 0


def latency(arguments: argparse.Namespace) -> int:
    """Measure pruned networks, or a model file, relative to their dense networks."""
    keep_memory()  # as in a run: time must not depend on the state of the heap
    device = torch.device("cpu")
    measured = describe_measurement(device, arguments.command, arguments.note)
    available = len(os.sched_getaffinity(0))
    threads = [count for count in arguments.threads if count <= available]
    settings = {
        "runtimes": arguments.runtimes,
        "threads": threads,
        "rounds": arguments.rounds,
        "size": arguments.size,
    }
    if arguments.model:
        _keep_latency(arguments, measure_model(arguments.model, **settings), measured)
    else:
        for name in arguments.networks:
            path = ROOT / "options" / OPTION_FILES[name]
            rows = measure_network(path, changes=arguments.set, **settings)
            _keep_latency(arguments, rows, measured)
    skipped = sorted(set(arguments.threads) - set(threads))
    if skipped:
        reason = f"the process may use {available} core(s)"
        print(f"not measured: {skipped} threads, {reason}", file=sys.stderr)
        return 1
    return 0


def _keep_latency(arguments: argparse.Namespace, rows: list[dict], measured: dict) -> None:
    """Write rows after each network, so that an interrupted run keeps the earlier ones."""
    rows = [{**row, "measured": measured} for row in rows]
    merge_rows(arguments.out, "latency", rows, LATENCY_KEY)
    for row in rows:
        print(
            f"{row['network']} {row['widths']}, {row['runtime']}, {row['threads']} thread(s): "
            f"{row['macs_ratio']:.1%} of the MACs, {row['wall_ms']['median']:.1f} ms, "
            f"x{row['speedup']['median']:.2f} wall, x{row['cpu_speedup']['median']:.2f} cpu"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    commands = parser.add_subparsers(required=True)
    steps = commands.add_parser("step", help="time and memory of a training step")
    _add_common(steps, "engine")
    steps.add_argument(
        "--parametrizations", nargs="+", choices=PARAMETRIZATIONS, default=list(PARAMETRIZATIONS)
    )
    steps.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch"
    )
    steps.add_argument("--num_gpu", type=int, choices=(0, 1), help="default: a GPU if there is one")
    steps.set_defaults(run=step)
    latencies = commands.add_parser("latency", help="latency of pruned networks on the CPU")
    _add_common(latencies, "latency")
    latencies.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    latencies.add_argument("--threads", type=int, nargs="+", default=[1], metavar="N")
    latencies.add_argument(
        "--size",
        "--side",
        type=int,
        help="height and width of the input; default: 64, for denoising 128",
    )
    latencies.add_argument("--model", type=Path, help="a saved pruned model, not the networks")
    latencies.set_defaults(run=latency)
    return parser


def _add_common(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument("--networks", nargs="+", choices=OPTION_FILES, default=list(OPTION_FILES))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / f"{name}.json")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="change the option files"
    )
    parser.add_argument("--note", default="", help="stored in the rows, such as what else ran")


if __name__ == "__main__":
    sys.exit(main())
