"""Does the search listen to the loss, or keep what the initial latents favor?

    $ python benchmarks/stability_analysis.py      # results/stability_analysis.json

Each preset searches the same small network several times: from other initial latents, everything else equal; with
another seed (latents, order of the images, patches, noise); and with other data and each of these seeds. Where the loss
decides, the initial |z| says little about the final one, the kept channels are much the same again from other latents
and with another seed, and less so with other data. `default` starts from z = 1 and leaves it there; here its latents are
scattered and the weights take up the inverse, so that the network computes what it did. `paper` starts from
random latents and weights, as published, with a rate of shrinking that fits its length.
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
sys.path[:1] = [str(ROOT)]  # in place of this folder

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from tqdm import tqdm  # noqa: E402

from benchmarks.published import published  # noqa: E402
from benchmarks.result_files import circumstances, merge  # noqa: E402
from benchmarks.training import batches  # noqa: E402
from dhp_sr.channels.plan import ChannelPlan  # noqa: E402
from dhp_sr.cli.process import seed_everything  # noqa: E402
from dhp_sr.config import (  # noqa: E402
    Options,
    load_options,
    resolve_paths,
)
from dhp_sr.hyper import HyperNet  # noqa: E402
from dhp_sr.training.distributed import DistributedContext  # noqa: E402
from dhp_sr.training.trainer import Trainer  # noqa: E402
from dhp_sr.utils.devices import select_device  # noqa: E402
from dhp_sr.utils.errors import exit_code  # noqa: E402

SPREAD = 0.5
"""Standard deviation of log z where `default` is scattered."""


@dataclass(frozen=True)
class Found:
    """One search."""

    initial: Tensor
    """|z| before, shape (plan.size,)."""
    final: Tensor
    """The scores after."""
    mask: Tensor


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    given = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser().parse_args(given)
    command = shlex.join(["benchmarks/stability_analysis.py", *given])
    return exit_code(lambda: listen(arguments, command))


def listen(arguments: argparse.Namespace, command: str) -> None:
    """Measure the presets asked for, and keep their rows."""
    place = DistributedContext(select_device("auto"))
    for preset in arguments.presets:
        row = measure(preset, arguments, place)
        print(row)
        row["measured"] = circumstances(place.device, command, arguments.note)
        merge(arguments.out, "stability_analysis", [row], ("preset",))


def measure(
    preset: str, arguments: argparse.Namespace, place: DistributedContext
) -> dict[str, Any]:
    """Search from several initial latents, and with other data; return how alike the outcomes are."""
    changes = [*_changes(preset, arguments), *arguments.set]
    options = _options(arguments.option_file, changes)
    dense = _train_dense(options, place)
    noisier = f"datasets.train.sigma={arguments.other_sigma}"

    def search(latents: int, seed: int, *more: str) -> Found:
        changed = [*changes, f"manual_seed={options.manual_seed + seed}", *more]
        return _search(_options(arguments.option_file, changed), place, dense, latents)

    draws = range(arguments.draws)
    found = [search(latents, 0) for latents in draws]
    seeds = [found[0], *(search(seed, seed) for seed in draws[1:])]
    others = [search(seed, seed, noisier) for seed in draws]
    plan = _begin(options, place, dense, 0)[0].network.plan
    return {
        "preset": preset,
        "option_file": arguments.option_file.name,
        "iterations": [options.compress.dense_iter, options.compress.search_iter],
        "draws": arguments.draws,
        "rank_correlation": [_mean_rank_correlation(plan, one.initial, one.final) for one in found],
        "overlap_other_latents": _overlaps(itertools.combinations(found, 2)),
        "overlap_other_seed": _overlaps(itertools.combinations(seeds, 2)),
        "overlap_other_data": _overlaps(itertools.product(seeds, others)),
        "overlap_by_chance": statistics.mean(
            _chance(plan, found[0].mask, draw) for draw in range(100)
        ),
    }


def scatter(hyper: HyperNet, seed: int) -> None:
    """Draw latents around 1 and let the weights take up the inverse, so that the network computes what it did."""
    generator = torch.Generator().manual_seed(seed)
    before = {name: weight.detach().clone() for name, weight in hyper.generate().items()}
    with torch.no_grad():
        for latent in hyper.latents.values():
            latent.copy_((SPREAD * torch.randn(latent.shape, generator=generator)).exp())
        after = hyper.generate()
        for name, weight in hyper.network.named_parameters():
            weight.mul_(torch.where(after[name] == 0, 1.0, before[name] / after[name]))


def overlap(first: Tensor, second: Tensor) -> float:
    """Return the Jaccard index of two masks: kept by both / kept by one of them at least."""
    return float((first & second).sum() / (first | second).sum())


def _overlaps(pairs: Iterable[tuple[Found, Found]]) -> list[float]:
    return [overlap(one.mask, two.mask) for one, two in pairs]


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Return Spearman's coefficient of two vectors; equal entries are ranked in their order."""
    ranks = torch.stack([one.argsort(stable=True).argsort().double() for one in (first, second)])
    return float(torch.corrcoef(ranks)[0, 1])


def _mean_rank_correlation(plan: ChannelPlan, first: Tensor, second: Tensor) -> float:
    parts = zip(plan.split(first).values(), plan.split(second).values(), strict=True)
    return statistics.mean(rank_correlation(one, two) for one, two in parts)


def _chance(plan: ChannelPlan, mask: Tensor, seed: int) -> float:
    """Return the overlap of a mask with channels drawn at random at its widths."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        part[torch.randperm(len(part), generator=generator)] for part in plan.split(mask).values()
    ]
    return overlap(mask, torch.cat(drawn))


def _changes(preset: str, arguments: argparse.Namespace) -> list[str]:
    length = arguments.dense + arguments.search
    own = {"train.total_iter": 2 * length}  # the rates are those of a run that goes on
    if preset == "default":
        own |= {"compress.dense_iter": arguments.dense, "compress.search_iter": arguments.search}
    else:
        own |= published(length)
    return [f"{key}={value}" for key, value in own.items()]


def _options(option_file: Path, changes: Sequence[str]) -> Options:
    return resolve_paths(load_options(option_file, changes), ROOT)


def _train_dense(options: Options, place: DistributedContext) -> dict[str, Any]:
    seed_everything(options.manual_seed)
    training = Trainer(options, place)
    end = options.compress.dense_iter
    for iteration, batch in tqdm(batches(options, 0, end), "dense", total=end, mininterval=10):
        training.step(batch, iteration)
    return copy.deepcopy(training.state_dict())


def _begin(
    options: Options, place: DistributedContext, dense: dict[str, Any], latents: int
) -> tuple[Trainer, Tensor]:
    """Return a training at the start of the search, from latents of its own, and their |z|."""
    seed_everything(options.manual_seed)
    training = Trainer(options, place)
    training.load_state_dict(copy.deepcopy(dense))
    torch.manual_seed(latents)
    training.advance(options.compress.dense_iter)
    hyper = training.network
    if options.compress.preset == "default":
        scatter(hyper, latents)
    return training, torch.cat([latent.detach().abs().clone() for latent in hyper.latents.values()])


def _search(
    options: Options, place: DistributedContext, dense: dict[str, Any], latents: int
) -> Found:
    training, initial = _begin(options, place, dense, latents)
    start, end = options.compress.dense_iter, training.schedule.prune_at
    label = f"{options.compress.preset} from latents {latents}"
    for iteration, batch in tqdm(
        batches(options, start, end), label, total=end - start, mininterval=10
    ):
        training.step(batch, iteration)
    training.phase.search.finish()
    return Found(initial, training.phase.search.scores().clone(), training.network.mask.clone())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--presets", nargs="+", choices=("paper", "default"), default=["paper", "default"]
    )
    parser.add_argument("--option-file", type=Path, default=ROOT / "options" / "dncnn_s25_cpu.yml")
    parser.add_argument(
        "--dense", type=int, default=1200, help="iterations before the search of the default preset"
    )
    parser.add_argument(
        "--search",
        type=int,
        default=600,
        help="iterations of its search; paper searches all along",
    )
    parser.add_argument("--draws", type=int, default=3, help="initial latents, and seeds")
    parser.add_argument("--other-sigma", type=float, default=70.0, help="noise of the other data")
    parser.add_argument("--set", nargs="+", default=[], metavar="a.b=value", help="changed options")
    parser.add_argument(
        "--note", default="", help="kept in the rows, e.g. what else the machine did"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "stability_analysis.json")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
