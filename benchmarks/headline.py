"""The table of the README: a published network, dense, cut uniformly, and cut by the search.

    $ OMP_NUM_THREADS=1 python benchmarks/headline.py     # results/headline.json

Scores are those of results/method_comparison.json (case `dncnn_corrected_50`: both cuts corrected
by least squares and finetuned for the same time) and results/dncnn_s25_published.json (the dense
network). Here the networks of these widths are timed in turns; weights do not change the time, so
theirs are random.
"""

import argparse
import json
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(ROOT)]  # in place of this folder

import torch  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks.latency import DENSE, Candidate, measure_candidates  # noqa: E402
from benchmarks.result_files import describe_measurement  # noqa: E402
from dhp_sr.cli.process import keep_memory  # noqa: E402
from dhp_sr.config import load_options  # noqa: E402
from dhp_sr.hyper import convert  # noqa: E402
from dhp_sr.tasks import task_of  # noqa: E402
from dhp_sr.utils.errors import exit_code  # noqa: E402
from dhp_sr.utils.files import write_json  # noqa: E402

CASE = "dncnn_corrected_50"
LENGTH = 1.9
"""Factor on the time of the case, as the rows have it."""
TEST_SET = "BSD68"
METHODS = ("uniform", "obs")
RUNTIMES = ("torch", "onnxruntime")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    given = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser().parse_args(given)
    command = shlex.join(["benchmarks/headline.py", *given])
    keep_memory()
    return exit_code(lambda: write_headline(arguments, command))


def write_headline(arguments: argparse.Namespace, command: str) -> None:
    """Collect the scores, time the networks, and write the file."""
    runs = _runs_by_method()
    dense = _dense_network()
    networks = {DENSE: dense}
    for method, rows in runs.items():
        networks[method] = cut_to_widths(dense, rows[0]["widths"])
    candidates = {name: Candidate(network, {}) for name, network in networks.items()}
    timed = measure_candidates(
        "DnCNN, published", candidates, runtimes=RUNTIMES, threads=(1,), rounds=arguments.rounds
    )
    rows = [_row(name, runs.get(name, []), timed) for name in networks]
    about = describe_measurement(torch.device("cpu"), command, arguments.note)
    write_json(arguments.out, {"kind": "headline", "measured": about, "rows": rows})


def cut_to_widths(dense: nn.Module, widths: Mapping[str, int]) -> nn.Module:
    """Return the network with the first channels of every group, as many as `widths` says."""
    hyper = convert(dense, torch.rand(1, dense.in_channels, 32, 32))
    masks = {}
    for name, width in widths.items():
        masks[name] = torch.arange(len(hyper.masks[name])) < width
    hyper.set_masks(masks)
    return hyper.cut()


def _row(name: str, runs: Sequence[dict[str, Any]], timed: Sequence[dict[str, Any]]) -> dict:
    scores = [run["psnr_y_db"][TEST_SET] for run in runs] or [_dense_score()]
    own = [row for row in timed if row["widths"] == name]
    return {
        "model": name,
        "seeds": len(runs),
        "test_set": TEST_SET,
        "psnr_db": statistics.mean(scores),
        "spread_db": statistics.stdev(scores) if len(scores) > 1 else None,
        "macs": own[0]["macs"],
        "macs_ratio": own[0]["macs_ratio"],
        "input": own[0]["input"],
        "cpu_ms": {row["runtime"]: row["cpu_ms"]["median"] for row in own},
        "speedup": {row["runtime"]: row["cpu_speedup"]["median"] for row in own},
    }


def _runs_by_method() -> dict[str, list[dict[str, Any]]]:
    rows = _read("method_comparison")["rows"]
    of_case = [row for row in rows if row["case"] == CASE and row["length"] == LENGTH]
    return {method: [row for row in of_case if row["method"] == method] for method in METHODS}


def _dense_network() -> nn.Module:
    options = load_options(ROOT / "options" / "dncnn_s25_published.yml")
    torch.manual_seed(0)
    return task_of(options).build_network(options).eval()


def _dense_score() -> float:
    rows = _read("dncnn_s25_published")["metrics"]["rows"]
    dense = next(row for row in rows if row["model"] == DENSE)
    return dense["sets"][TEST_SET]["psnr_y_db"]


def _read(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds; default: 15")
    parser.add_argument("--note", default="", help="kept in the file")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "headline.json")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
