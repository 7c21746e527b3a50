"""Measure how much the kept channels depend on initial latents, seed and data.

    $ python benchmarks/stability_analysis.py      # results/stability_analysis.json

Each preset searches the same small network several times: from other initial latents, everything
else equal; with another seed (latents, order of the images, patches, noise); and with other data
and each of these seeds. Where the loss decides, the initial |z| says little about the final scores,
the kept channels are much the same from other latents and with another seed, and less so with other
data.

Preset `default` starts from z = 1 and leaves it there; here its latents are drawn at random and the
weights take up the inverse, so that the network computes the same. Preset `paper` starts from
random latents and weights, as published, with a learning rate that fits its length.
"""

import argparse
import copy
import itertools
import shlex
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(ROOT)]  # in place of this folder, whose modules must not hide others

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from tqdm import tqdm  # noqa: E402

from benchmarks.result_files import describe_measurement, merge_rows  # noqa: E402
from benchmarks.time_plan import paper_settings  # noqa: E402
from benchmarks.training import batches  # noqa: E402
from dhp_sr.channels.plan import ChannelPlan  # noqa: E402
from dhp_sr.cli.process import seed_everything  # noqa: E402
from dhp_sr.config import Options, load_options, resolve_paths  # noqa: E402
from dhp_sr.hyper import HyperNet  # noqa: E402
from dhp_sr.training.distributed import DistributedContext  # noqa: E402
from dhp_sr.training.trainer import Trainer  # noqa: E402
from dhp_sr.utils.devices import select_device  # noqa: E402
from dhp_sr.utils.errors import exit_code  # noqa: E402

KIND = "stability_analysis"
LATENT_SPREAD = 0.5
"""Standard deviation of log z, where the latents of preset `default` are drawn at random."""
NUM_RANDOM_MASKS = 100
"""Random masks that the overlap by chance is the mean over."""


@dataclass(frozen=True)
class Outcome:
    """Result of a search."""

    initial: Tensor
    """|z| before the search, shape (plan.size,)."""
    final: Tensor
    """Scores after the search, shape (plan.size,)."""
    mask: Tensor
    """Kept channels, shape (plan.size,)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    given = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser().parse_args(given)
    command = shlex.join(["benchmarks/stability_analysis.py", *given])
    return exit_code(lambda: analyze(arguments, command))


def analyze(arguments: argparse.Namespace, command: str) -> None:
    """Measure the presets and store their rows."""
    context = DistributedContext(select_device("auto"))
    for preset in arguments.presets:
        row = measure(preset, arguments, context)
        print(row)
        row["measured"] = describe_measurement(context.device, command, arguments.note)
        merge_rows(arguments.out, KIND, [row], ("preset",))


def measure(
    preset: str, arguments: argparse.Namespace, context: DistributedContext
) -> dict[str, Any]:
    """Search under all conditions; return how similar the outcomes are."""
    changes = [*_preset_changes(preset, arguments), *arguments.set]
    options = _options(arguments.option_file, changes)
    dense = _train_dense(options, context)

    def search(latent_seed: int, seed: int, *more_changes: str) -> Outcome:
        seeded = f"manual_seed={options.manual_seed + seed}"
        changed = _options(arguments.option_file, [*changes, seeded, *more_changes])
        return _search(changed, context, dense, latent_seed)

    seeds = range(arguments.draws)
    other_data = f"datasets.train.sigma={arguments.other_sigma}"
    by_latents = [search(seed, 0) for seed in seeds]
    by_seed = [by_latents[0], *(search(seed, seed) for seed in seeds[1:])]
    by_data = [search(seed, seed, other_data) for seed in seeds]

    plan = _start_search(options, context, dense, 0)[0].network.plan
    correlations = []
    for outcome in by_latents:
        correlations.append(_mean_rank_correlation(plan, outcome.initial, outcome.final))
    by_chance = [
        _overlap_by_chance(plan, by_latents[0].mask, seed) for seed in range(NUM_RANDOM_MASKS)
    ]
    return {
        "preset": preset,
        "option_file": arguments.option_file.name,
        "iterations": [options.compress.dense_iter, options.compress.search_iter],
        "draws": arguments.draws,
        "rank_correlation": correlations,
        "overlap_other_latents": _overlaps(itertools.combinations(by_latents, 2)),
        "overlap_other_seed": _overlaps(itertools.combinations(by_seed, 2)),
        "overlap_other_data": _overlaps(itertools.product(by_seed, by_data)),
        "overlap_by_chance": statistics.mean(by_chance),
    }


def randomize_latents(hyper: HyperNet, seed: int) -> None:
    """Draw latents around 1; weights take up the inverse, so that the network computes the same."""
    generator = torch.Generator().manual_seed(seed)
    before = {name: weight.detach().clone() for name, weight in hyper.generate().items()}
    with torch.no_grad():
        for latent in hyper.latents.values():
            latent.copy_((LATENT_SPREAD * torch.randn(latent.shape, generator=generator)).exp())
        after = hyper.generate()
        for name, weight in hyper.network.named_parameters():
            # Where a generated weight is 0, as in new biases, any factor keeps it.
            weight.mul_(torch.where(after[name] == 0, 1.0, before[name] / after[name]))


def overlap(first: Tensor, second: Tensor) -> float:
    """Jaccard index of two masks: channels kept by both / channels kept by either."""
    return float((first & second).sum() / (first | second).sum())


def _overlaps(pairs: Iterable[tuple[Outcome, Outcome]]) -> list[float]:
    return [overlap(first.mask, second.mask) for first, second in pairs]


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's coefficient of two vectors; equal entries are ranked in their order."""
    first_ranks = first.argsort(stable=True).argsort().double()
    second_ranks = second.argsort(stable=True).argsort().double()
    return float(torch.corrcoef(torch.stack([first_ranks, second_ranks]))[0, 1])


def _mean_rank_correlation(plan: ChannelPlan, first: Tensor, second: Tensor) -> float:
    # Within groups: scores of different groups are not on the same scale.
    groups = zip(plan.split(first).values(), plan.split(second).values(), strict=True)
    return statistics.mean(rank_correlation(*pair) for pair in groups)


def _overlap_by_chance(plan: ChannelPlan, mask: Tensor, seed: int) -> float:
    """Overlap of a mask with channels drawn at random, as many in each group."""
    generator = torch.Generator().manual_seed(seed)
    shuffled = []
    for group_mask in plan.split(mask).values():
        order = torch.randperm(len(group_mask), generator=generator)
        shuffled.append(group_mask[order])
    return overlap(mask, torch.cat(shuffled))


def _preset_changes(preset: str, arguments: argparse.Namespace) -> list[str]:
    length = arguments.dense + arguments.search
    # Twice as long: the learning rates are those of a run that finetunes afterwards.
    settings: dict[str, Any] = {"train.total_iter": 2 * length}
    if preset == "default":
        settings["compress.dense_iter"] = arguments.dense
        settings["compress.search_iter"] = arguments.search
    else:
        settings |= paper_settings(length)
    return [f"{key}={value}" for key, value in settings.items()]


def _options(option_file: Path, changes: Sequence[str]) -> Options:
    return resolve_paths(load_options(option_file, changes), ROOT)


def _train_dense(options: Options, context: DistributedContext) -> dict[str, Any]:
    """State after the dense phase, which all searches start from."""
    seed_everything(options.manual_seed)
    trainer = Trainer(options, context)
    end = options.compress.dense_iter
    for iteration, batch in tqdm(batches(options, 0, end), "dense", total=end, mininterval=10):
        trainer.step(batch, iteration)
    return copy.deepcopy(trainer.state_dict())


def _start_search(
    options: Options, context: DistributedContext, dense: dict[str, Any], latent_seed: int
) -> tuple[Trainer, Tensor]:
    """Training at the start of a search from random latents, and their |z|."""
    seed_everything(options.manual_seed)
    trainer = Trainer(options, context)
    trainer.load_state_dict(copy.deepcopy(dense))
    torch.manual_seed(latent_seed)
    trainer.advance(options.compress.dense_iter)
    hyper = trainer.network
    if options.compress.preset == "default":
        randomize_latents(hyper, latent_seed)
    latents = [latent.detach().abs().clone() for latent in hyper.latents.values()]
    return trainer, torch.cat(latents)


def _search(
    options: Options, context: DistributedContext, dense: dict[str, Any], latent_seed: int
) -> Outcome:
    trainer, initial = _start_search(options, context, dense, latent_seed)
    start = options.compress.dense_iter
    end = trainer.schedule.prune_at
    title = f"{options.compress.preset} from latents {latent_seed}"
    data = batches(options, start, end)
    for iteration, batch in tqdm(data, title, total=end - start, mininterval=10):
        trainer.step(batch, iteration)
    search = trainer.phase.search
    search.finish()
    return Outcome(initial, search.scores().clone(), trainer.network.mask.clone())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    presets = ("paper", "default")
    default_file = ROOT / "options" / "dncnn_s25_cpu.yml"
    parser.add_argument("--presets", nargs="+", choices=presets, default=list(presets))
    parser.add_argument("--option-file", type=Path, default=default_file)
    parser.add_argument(
        "--dense", type=int, default=1200, help="iterations before the search of preset default"
    )
    parser.add_argument(
        "--search",
        type=int,
        default=600,
        help="iterations of its search; preset paper searches in all of them",
    )
    parser.add_argument("--draws", type=int, default=3, help="number of initial latents and seeds")
    parser.add_argument("--other-sigma", type=float, default=70.0, help="noise of the other data")
    parser.add_argument("--set", nargs="+", default=[], metavar="a.b=value", help="changed options")
    parser.add_argument("--note", default="", help="stored in the rows, such as what else ran")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / f"{KIND}.json")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
