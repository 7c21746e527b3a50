"""Quality of a trained network right after the cut: with and without least-squares correction.

    $ python benchmarks/cut_without_training.py -opt options/dncnn_s25_published.yml

For each method and budget the trained network is cut, once as it is and once corrected on patches
of the training images, and scored on the test sets. Nothing is trained, unless `--finetune` says
for how many steps: every method then has the same batches, schedule and teacher, the original. Rows
go to results/cut_without_training.json. The methods torch-pruning and torch-kirigami need these
packages.
"""

import argparse
import copy
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(ROOT)]  # in place of this folder

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks.after_cut import Variant, finetune  # noqa: E402
from benchmarks.result_files import describe_measurement, merge_rows  # noqa: E402
from benchmarks.rival_libraries import LIBRARIES, set_masks_of_library  # noqa: E402
from benchmarks.training import batches  # noqa: E402
from dhp_sr.allocation.budget import Budget  # noqa: E402
from dhp_sr.cli.process import seed_everything  # noqa: E402
from dhp_sr.config import Options, load_options, resolve_paths  # noqa: E402
from dhp_sr.hyper import HyperNet  # noqa: E402
from dhp_sr.search import SearchSettings, build_search  # noqa: E402
from dhp_sr.tasks import task_of  # noqa: E402
from dhp_sr.training.distributed import DistributedContext  # noqa: E402
from dhp_sr.training.pruning import convert_network  # noqa: E402
from dhp_sr.training.trainer import Trainer  # noqa: E402
from dhp_sr.utils.errors import exit_code  # noqa: E402
from dhp_sr.zoo.networks import load_file  # noqa: E402

KEY = ("name", "method", "keep_ratio", "seed")
"""Keys of a row that tell rows apart."""


def collect_patches(options: Options, count: int) -> Tensor:
    """Network inputs (count, C, H, W) from the training set, as training would see them."""
    patches: list[Tensor] = []
    for _, batch in batches(options, 0):
        patches.extend(batch["image" if "image" in batch else "lq"])
        if len(patches) >= count:
            break
    return torch.stack(patches[:count])


def score(options: Options, network: torch.nn.Module, sets: list[Any]) -> dict[str, float]:
    """Main score of a network on every test set."""
    task = task_of(options)
    scores = {}
    for test_set in sets:
        scores[test_set.name] = round(task.evaluate(network, test_set)[task.main_score.key], 4)
    return scores


def select_masks(
    hyper: HyperNet,
    network: torch.nn.Module,
    options: Options,
    method: str,
    budget: Budget,
    seed: int,
    inputs: Tensor,
) -> float:
    """Set the masks of a method for a budget; return the kept fraction of its cost."""
    if method in LIBRARIES:
        return set_masks_of_library(method, network, hyper, budget, inputs[:1])
    compress = options.compress
    assert compress is not None, "the option file has a section compress"
    everything = {group.name: torch.ones(group.width) > 0 for group in hyper.plan.prunable}
    hyper.set_masks(everything)
    section = getattr(compress, method, None)
    method_options = {} if section is None else dict(section)
    if method == "prior_widths":
        method_options = dict(compress.dhp)
    settings = SearchSettings(budget, 1, seed, method_options=method_options)
    search = build_search(method, hyper, settings)
    search.observe(inputs)
    return search.finish().achieved(budget.kind)


def label(method: str, options: Options) -> str:
    """Name of a method in the rows, with the order of the channels where it is not its own."""
    assert options.compress is not None, "the option file has a section compress"
    order = options.compress.obs.order
    if method != "obs" or order == "obs":
        return method
    return f"obs, channels by {order}"


def measure(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row for each method, budget and seed, and one for the dense network."""
    seed_everything(0)
    options = resolve_paths(load_options(arguments.option_file, arguments.overrides), ROOT)
    task = task_of(options)
    network = task.build_network(options).eval()
    load_file(network, options.path.pretrain_network_g)
    sets = task.test_sets(options)
    inputs = collect_patches(options, arguments.patches)
    calibration = list(inputs[: arguments.calibration].split(8))
    hyper = convert_network(network, options, torch.device("cpu")).eval()
    base = {
        "name": options.name,
        "patches": arguments.patches,
        "calibration": arguments.calibration,
    }
    if arguments.dense:
        dense = {
            "method": "dense",
            "keep_ratio": 1.0,
            "seed": 0,
            "scores": score(options, network, sets),
        }
        yield {**base, **dense}
    for method in arguments.methods:
        for ratio in arguments.ratios:
            for seed in arguments.seeds:
                budget = Budget(
                    "macs", ratio, arguments.tolerance, arguments.round_to, arguments.round_to
                )
                started = time.process_time()
                kept = select_masks(hyper, network, options, method, budget, seed, inputs)
                searched = time.process_time()
                corrected = hyper.cut(calibration=calibration)
                finished = time.process_time()
                row = {
                    **base,
                    "method": label(method, options),
                    "keep_ratio": ratio,
                    "seed": seed,
                    "kept": round(kept, 4),
                    "widths": [int(mask.sum()) for mask in hyper.masks.values()],
                    "cpu_seconds_search": round(searched - started, 1),
                    "cpu_seconds_correction": round(finished - searched, 1),
                    "scores": score(options, corrected, sets),
                }
                if arguments.uncorrected:
                    row["scores_uncorrected"] = score(options, hyper.cut(), sets)
                if arguments.finetune:
                    trained = train(corrected, network, options, arguments.finetune, method)
                    row["steps"] = arguments.finetune
                    row["scores_finetuned"] = score(options, trained, sets)
                yield row


def train(
    small: torch.nn.Module, teacher: torch.nn.Module, options: Options, steps: int, method: str
) -> torch.nn.Module:
    """Return a cut network after some steps with the option file's rate, and a cosine."""
    seed_everything(0)
    trainer = Trainer(options, DistributedContext(torch.device("cpu")))
    trainer.resources.loss.teacher = copy.deepcopy(teacher).requires_grad_(False)
    return finetune(trainer, small, Variant(), batches(options, 0, steps), steps, method)


def main() -> int:
    """Parse the command line, measure and write every row when it is there."""
    arguments = _parser().parse_args()
    command = "python " + shlex.join([str(Path(sys.argv[0])), *sys.argv[1:]])
    said = describe_measurement(torch.device("cpu"), command, arguments.note)
    for row in measure(arguments):
        print(row, flush=True)
        merge_rows(arguments.out, "cut_without_training", [{**row, **said}], KEY)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-opt", dest="option_file", type=Path, required=True)
    parser.add_argument("--set", dest="overrides", nargs="+", default=[], metavar="a.b=v")
    parser.add_argument("--methods", nargs="+", default=["uniform", "random", "magnitude", "obs"])
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.7, 0.5, 0.3])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--patches", type=int, default=160, help="inputs that a method sees")
    parser.add_argument("--calibration", type=int, default=128, help="inputs of the correction")
    parser.add_argument("--tolerance", type=float, default=0.005)
    parser.add_argument("--round_to", type=int, default=1)
    parser.add_argument("--dense", action="store_true", help="score the dense network, too")
    parser.add_argument("--uncorrected", action="store_true", help="score cuts without correction")
    parser.add_argument("--finetune", type=int, default=0, help="steps after the cut")
    parser.add_argument("--note", default="")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "cut_without_training.json")
    return parser


if __name__ == "__main__":
    sys.exit(exit_code(main))
