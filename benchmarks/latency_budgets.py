"""Budgets of time in the runtime of the user: what was asked for, and what is measured again.

    $ python benchmarks/latency_budgets.py    # results/latency_budgets.json

Each network has its default size and random weights, which do not change the time. It is pruned to
a fraction of its time in a runtime: the times of its layers are measured, widths are chosen, and
cut networks are timed until one meets the budget. That one is then exported and compared with the
dense network anew, several times. Widths are multiples of what the table of layer times shows.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(ROOT)]  # in place of this folder, whose modules must not hide others

import torch  # noqa: E402

from benchmarks.latency import INPUT_SIZES  # noqa: E402
from benchmarks.result_files import describe_measurement, merge_rows, processor_name  # noqa: E402
from dhp_sr.archs import build  # noqa: E402
from dhp_sr.cli.process import keep_memory  # noqa: E402
from dhp_sr.cost.latency_benchmark import LatencyBenchmark  # noqa: E402
from dhp_sr.deploy.timed_runtimes import timed_runtime  # noqa: E402
from dhp_sr.hyper import convert  # noqa: E402
from dhp_sr.utils.errors import exit_code  # noqa: E402

KEY = ("network", "runtime", "asked", "threads", "processor")
NETWORKS = ("EDSR", "SRResNet", "DnCNN", "UNet", "RLFN")
RUNTIMES = ("torch", "onnxruntime", "openvino")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    given = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser().parse_args(given)
    command = shlex.join(["benchmarks/latency_budgets.py", *given])
    return exit_code(lambda: run(arguments, command))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", nargs="+", default=NETWORKS, help="networks of their sizes")
    parser.add_argument("--runtime", nargs="+", default=RUNTIMES, choices=RUNTIMES)
    parser.add_argument("--latency", type=float, default=0.5, help="fraction of the time to keep")
    parser.add_argument("--again", type=int, default=3, help="measurements of the result")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--note", default="", help="about the machine, such as other work on it")
    parser.add_argument("--out", default=ROOT / "results" / "latency_budgets.json", type=Path)
    return parser


def run(arguments: argparse.Namespace, command: str) -> None:
    """Prune every network in every runtime, and write the rows."""
    keep_memory()
    measured = describe_measurement(torch.device("cpu"), command, arguments.note)
    for arch in arguments.arch:
        for runtime in arguments.runtime:
            row = measure(arch, runtime, arguments)
            print(row, flush=True)
            row.update(processor=processor_name(), measured=measured)
            merge_rows(arguments.out, "latency_budgets", [row], KEY)


def measure(arch: str, runtime: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Prune a network to a fraction of its time in a runtime; return its row."""
    torch.manual_seed(0)
    dense: Any = build(arch).eval()
    side = INPUT_SIZES[dense.task]
    image = torch.rand(1, dense.in_channels, side, side)
    hyper = convert(dense, image)
    began = time.process_time()
    benchmark = LatencyBenchmark(image, arguments.threads, runtime=timed_runtime(runtime))
    hyper.use_latency(benchmark)
    table_seconds = time.process_time() - began
    report = hyper.prune_to(latency=arguments.latency)
    cut = hyper.cut()
    again = []
    for _ in range(arguments.again):
        # A runtime of its own for each, so that both networks are exported and opened anew.
        fresh = LatencyBenchmark(image, arguments.threads, runtime=timed_runtime(runtime))
        again.append(fresh.ratio(cut, dense))
    return {
        "network": arch,
        "runtime": runtime,
        "asked": arguments.latency,
        "threads": arguments.threads,
        "input": list(image.shape),
        "round_to": report.budget.round_to,
        "macs_ratio": report.macs_ratio,
        "at_the_cut": report.measured_latency_ratio,
        "again": again,
        "table_seconds": table_seconds,
    }


if __name__ == "__main__":
    sys.exit(main())
