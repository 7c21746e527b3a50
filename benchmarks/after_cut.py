"""Comparison of trainings after a cut: schedules, averages, merged branches, the teacher.

    $ DHP_SR_DATA=FOLDER python benchmarks/after_cut.py -opt options/rlfn_x4_published.yml

A trained network is cut once and corrected. Every variant then finetunes a copy of it for the same
number of steps on the same batches, and is scored on held-out images (`--images`), which neither
the training nor the published tests have. `plain` runs at several rates, so that no variant is
compared with a badly tuned run. Rows go to results/after_cut.json.
"""

import argparse
import copy
import math
import shlex
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(ROOT)]  # in place of this folder, whose modules must not hide others

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.nn.utils import parametrize  # noqa: E402
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn  # noqa: E402
from tqdm import tqdm  # noqa: E402

from benchmarks.result_files import describe_measurement, merge_rows  # noqa: E402
from benchmarks.training import batches, teach  # noqa: E402
from dhp_sr.cli.process import keep_memory, seed_everything  # noqa: E402
from dhp_sr.config import Options, load_options, resolve_paths  # noqa: E402
from dhp_sr.tasks import task_named, task_of  # noqa: E402
from dhp_sr.training.distributed import DistributedContext  # noqa: E402
from dhp_sr.training.loss import TrainingLoss  # noqa: E402
from dhp_sr.training.optimizers import build_optimizer  # noqa: E402
from dhp_sr.training.trainer import Trainer  # noqa: E402
from dhp_sr.utils.devices import select_device  # noqa: E402
from dhp_sr.utils.errors import exit_code  # noqa: E402

KEY = ("name", "keep_ratio", "variant", "steps", "seed")
WITH_TRUTHS = ("datasets.train.reductions=null", "compress.distill.weight=3.0")
"""Changes of the option file: variants differ in the truths, so that images must have them."""
WARM_UP = 0.05
"""Share of the steps in which the rate rises linearly."""
ONE_CYCLE_RISE = 0.3
"""The same of the one-cycle schedule (Smith and Topin, 2019)."""
EXPANSION = 2
"""Channels between the two layers of a merged branch, relative to its output channels."""


@dataclass(frozen=True)
class Variant:
    """A way to train after the cut."""

    rate: float = 1.0
    """Factor on the learning rate of the option file."""
    schedule: str = "cosine"
    """cosine, or one-cycle."""
    ema: float = 0.0
    """Decay of the average of the weights that is scored; 0: none."""
    merged: bool = False
    """Whether kernels are trained as sums of branches."""
    task_loss: bool = True
    """Whether the loss against the truths is added to that of the teacher."""
    teacher: bool = True
    """Whether the original is the teacher."""


VARIANTS = {
    "plain, rate x 0.5": Variant(rate=0.5),
    "plain": Variant(),
    "plain, rate x 2": Variant(rate=2.0),
    "one cycle": Variant(schedule="one-cycle"),
    "one cycle, rate x 2": Variant(rate=2.0, schedule="one-cycle"),
    "average, decay 0.99": Variant(ema=0.99),
    "merged branches": Variant(merged=True),
    "merged branches, rate x 0.5": Variant(rate=0.5, merged=True),
    "teacher alone": Variant(task_loss=False),
    "no teacher": Variant(teacher=False),
}


class MergedBranches(nn.Module):
    """A kernel trained as the sum of itself, a 1 x 1 kernel, and a 1 x 1 before a k x k layer.

    All three are merged into one kernel in every step; at the start the new ones add nothing.

    Args:
        weight: the kernel, (O, I, k, k) with an odd k.

    References: Ding et al., RepVGG, CVPR 2021; Zhang et al., Edge-oriented Convolution Block
        (ECB), ACM MM 2021.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        out_channels, in_channels, side, _ = weight.shape
        middle = EXPANSION * out_channels
        self.point = nn.Parameter(torch.zeros(out_channels, in_channels, 1, 1))
        self.first = nn.Parameter(torch.randn(middle, in_channels) / math.sqrt(in_channels))
        self.second = nn.Parameter(torch.zeros(out_channels, middle, side, side))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the merged kernel."""
        border = weight.shape[-1] // 2
        point = F.pad(self.point, [border] * 4)
        return weight + point + torch.einsum("omkl,mi->oikl", self.second, self.first)


def main() -> int:
    """Run the command line; return the exit code."""
    arguments = _parser().parse_args()
    command = shlex.join(["benchmarks/after_cut.py", *sys.argv[1:]])
    keep_memory()
    return exit_code(lambda: run(arguments, command))


def run(arguments: argparse.Namespace, command: str) -> None:
    """Cut once, train every variant, and write the rows."""
    changes = [*WITH_TRUTHS, *arguments.overrides]
    options = resolve_paths(load_options(arguments.option_file, changes), ROOT)
    context = DistributedContext(select_device("auto"))
    assert options.compress is not None, "the option file has a section compress"
    seed_everything(arguments.seed)
    trainer = Trainer(options, context)
    options = trainer.options
    train_set = task_of(options).train_set(options)
    teach(trainer, train_set)
    data = batches(options, 0, train_set=train_set)
    cut_at = trainer.schedule.prune_at
    for _ in range(cut_at):
        iteration, batch = next(data)
        trainer.advance(iteration)
        trainer.step(batch, iteration)
    trainer.advance(cut_at)
    base = {
        "name": options.name,
        "keep_ratio": trainer.phase.pruned_models[0].achieved["macs_ratio"],
        "steps": arguments.steps,
        "seed": arguments.seed,
        "measured": describe_measurement(context.device, command, arguments.note),
    }
    small = trainer.phase.network_for_validation()
    test_set = held_out(small, arguments.images, arguments.num_images, arguments.sigma)
    score = partial(_score, options, test_set)
    teacher = trainer.resources.loss.teacher
    assert teacher is not None, "expected compress.distill in the option file"
    rows = [
        {**base, "variant": "original", "psnr_y_db": score(teacher)},
        {**base, "variant": "corrected", "psnr_y_db": score(small)},
    ]
    for name in arguments.variants:
        # Every variant sees the same batches.
        fresh = batches(options, cut_at, cut_at + arguments.steps, train_set=train_set)
        seed_everything(arguments.seed)
        start = time.process_time()
        network = finetune(trainer, small, VARIANTS[name], fresh, arguments.steps, name)
        seconds = time.process_time() - start
        rows.append({**base, "variant": name, "psnr_y_db": score(network), "cpu_s": round(seconds)})
        print(f"{name}: {rows[-1]['psnr_y_db']:.3f} dB, {seconds:.0f} s", flush=True)
        merge_rows(arguments.out, "after_cut", rows, KEY)


def finetune(
    trainer: Trainer,
    small: nn.Module,
    variant: Variant,
    data: Iterable[tuple[int, dict[str, Any]]],
    steps: int,
    title: str,
) -> nn.Module:
    """Train a copy of a cut network; return it as it is to be scored."""
    options = trainer.options
    network = copy.deepcopy(small).train().requires_grad_(True)
    if variant.merged:
        merge_branches(network)
    settings = options.train.optim_g
    optimizer = build_optimizer(settings, network.parameters())
    average = None
    if variant.ema:
        average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(variant.ema))
    rate_at = {"cosine": _cosine, "one-cycle": _one_cycle}[variant.schedule]
    loss = _loss(trainer, variant)
    to_device = partial(trainer.context.to_device, channels_last=options.train.channels_last)
    for step, (_, batch) in enumerate(tqdm(data, title, total=steps, mininterval=10)):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * variant.rate * rate_at(step / steps)
        optimizer.zero_grad()
        taught = batch.get("taught")
        if taught is not None:
            taught = to_device(taught)
        loss(network, to_device(batch["lq"]), to_device(batch["gt"]), taught).backward()
        if options.train.grad_clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), options.train.grad_clip)
        optimizer.step()
        if average is not None:
            average.update_parameters(network)
    trained = network if average is None else average.module
    for module in trained.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
    return trained.eval()


def merge_branches(network: nn.Module) -> None:
    """Let all convolutions with larger kernels than 1 x 1 be trained as merged branches."""
    for layer in list(network.modules()):
        if isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.kernel_size[0] > 1:
            parametrize.register_parametrization(layer, "weight", MergedBranches(layer.weight))


def held_out(network: nn.Module, folder: str, count: int, sigma: float | None) -> Any:
    """Return the first images of a folder as a test set."""
    described: Any = network
    choices = {"sigma": sigma, "max_images": count, "crop_border": None}
    task = task_named(described.task)
    (test_set,) = task.open_folders(network, {"held out": folder}, choices)
    return test_set


def _score(options: Options, test_set: Any, network: nn.Module) -> float:
    return round(task_of(options).evaluate(network.eval(), test_set)["psnr_y_db"], 4)


def _loss(trainer: Trainer, variant: Variant) -> TrainingLoss:
    """Return the run's loss, without the distances that a variant leaves out."""
    compress = trainer.options.compress
    assert compress is not None and compress.distill is not None, "the option file has both"
    distill = None
    if variant.teacher:
        # No mixed images: every variant sees the same batches.
        distill = compress.distill.model_copy(update={"task_loss": variant.task_loss, "mix": 0.0})
    compress = compress.model_copy(update={"distill": distill})
    options = trainer.options.model_copy(update={"compress": compress})
    loss = TrainingLoss(options, trainer.context)
    loss.teacher = trainer.resources.loss.teacher
    return loss


def _cosine(progress: float) -> float:
    """Factor on the rate: a short rise, then half a cosine to 0."""
    if progress < WARM_UP:
        return progress / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


def _one_cycle(progress: float) -> float:
    """Factor on the rate: a long rise, then half a cosine to 0."""
    if progress < ONE_CYCLE_RISE:
        return 0.04 + 0.96 * progress / ONE_CYCLE_RISE
    return 0.5 * (1 + math.cos(math.pi * (progress - ONE_CYCLE_RISE) / (1 - ONE_CYCLE_RISE)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("-opt", dest="option_file", type=Path, required=True)
    parser.add_argument("--set", dest="overrides", nargs="+", default=[], metavar="a.b=v")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", required=True, help="folder of held-out images")
    parser.add_argument("--num_images", type=int, default=20)
    parser.add_argument("--sigma", type=float, help="noise of a denoiser's images")
    parser.add_argument("--note", default="", help="stored in the rows, such as what else ran")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "after_cut.json")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
