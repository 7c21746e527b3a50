"""Dry run: whatever would end a run after hours of training is tried before them, on copies."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from dhp_sr.config.schema import Options
from dhp_sr.cost.latency_benchmark import LatencyBenchmark
from dhp_sr.graph.shape_inference import infer_output, to_meta
from dhp_sr.hyper import HyperNet
from dhp_sr.training.distributed import DistributedContext
from dhp_sr.training.loss import load_teacher_file
from dhp_sr.training.pruning import (
    check_counters,
    convert_network,
    cuda_devices,
    make_budgets,
    prune_for_trial,
    start_search,
)
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.modules import copy_network, evaluating, floating_dtype

TRIED_SAMPLES = 2
"""Samples of a step that is tried; batch normalization needs more than one."""
BRANCH_ADVICE = (
    "If its forward branches on the size of its input and states widths as numbers, a cut network "
    "keeps a single branch: write the forward without the branch, or name the layers with such "
    "widths in compress.exclude"
)

Loss = Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Tensor]
"""(network, images, target) -> scalar; see `TrainingLoss`."""
InputShape = tuple[int, int, int]
"""(channels, height, width) of an image that a network gets."""


def dry_run(
    network: nn.Module,
    options: Options,
    context: DistributedContext,
    benchmark: LatencyBenchmark | None = None,
) -> nn.Module:
    """Convert, prune and cut a copy to surface errors before training.

    Layer times are measured once: the benchmark remembers them, and the search writes them when
    the run has a folder.

    Returns:
        The copy, with half of its channels or more cut, in evaluation mode.

    Raises:
        UserError: The network cannot be traced, a budget cannot be met, method and preset do not
            fit, a pattern excludes nothing, a cut network computes something else, or the
            teacher's file does not fit.
    """
    compress = options.compress
    assert compress is not None
    with random_state_kept(context):
        hyper = convert_network(network, options, context.device)
        check_counters(network, hyper)
        if benchmark is not None:
            benchmark = replace(benchmark, path=None)  # the run has no folder yet
        start_search(hyper, options, benchmark)
        for budget in make_budgets(compress, hyper):
            prune_for_trial(hyper, budget)
        # The search may prune any channel of any group, so the cut is tried on half of them all.
        masks = {}
        for number, group in enumerate(hyper.plan.prunable):
            masks[group.name] = uneven_mask(group.width, number)
        hyper.set_masks(masks)
        cut = hyper.cut()
        if compress.removes_blocks and hyper.plan.branches:
            try_removals(hyper)
    if compress.distill and compress.distill.teacher:
        load_teacher_file(compress.distill.teacher, options)
    return cut


def try_removals(hyper: HyperNet) -> None:
    """Cut a network without any of the residual branches that can be removed.

    Raises:
        CutError: The cut network does not compute what the masked one does.
    """
    masks = dict(hyper.masks)
    for branch in hyper.plan.branches:
        for name in branch.groups:
            masks[name] = torch.zeros_like(masks[name])
    hyper.set_masks(masks)
    hyper.cut()


def uneven_mask(width: int, number: int) -> Tensor:
    """Return a mask that keeps up to half of the channels, as groups of a search do: unevenly.

    Groups that meet at another size of the input alone are not known to be coupled. Were all cut
    alike, they would fit each other in the dry run, and not after the search.

    Args:
        width: Width of the group.
        number: Number of the group; neighbors keep different numbers of channels.
    """
    mask = torch.arange(width) % 2 == 0
    half = int(mask.sum())
    # At least two where there are as many: a single channel would be broadcast.
    kept = max(half - number % (half // 2 + 1), min(half, 2))
    mask[2 * kept :] = False
    return mask


@contextmanager
def random_state_kept(context: DistributedContext) -> Iterator[None]:
    """Let a run draw the random numbers that it would draw without a dry run."""
    with torch.random.fork_rng(cuda_devices(context.device)):
        yield


def try_training_step(
    network: nn.Module, name: str, images: Tensor, target: Tensor, loss: Loss
) -> None:
    """Run a copy of a network in training mode, forward and backward.

    Many networks compute something else in training than in evaluation, such as the output of an
    auxiliary head beside their own.

    Args:
        network: Left as it was.
        name: For the message.
        images: (N, C, H, W), on the network's device.
        target: Target that its output is compared with.
        loss: Loss of the run.

    Raises:
        UserError: Its output is no tensor, or a step fails.
    """
    copied = copy_network(network)
    copied.requires_grad_(True)
    copied.train()
    try:
        output: object = copied(images)
        if isinstance(output, Tensor):
            _check_shape(copied, name, images, output)
            loss(copied, images, target).backward()
    except UserError:
        raise
    except Exception as error:  # the author's code: whatever it raises
        raise UserError(
            f"{name} fails in a training step, tried before the training: {_first_line(error)}. "
            "Its forward must run in training mode on patches of the training's size "
            f"({images.shape[2]} x {images.shape[3]}), cut to any width. {BRANCH_ADVICE}"
        ) from error
    if not isinstance(output, Tensor):
        raise UserError(
            f"{name}: expected a tensor as the output, got {type(output).__name__} in training "
            "mode. It has outputs for training alone, such as auxiliary heads; switch them off by "
            "an argument of the network (aux_logits: false for torchvision's googlenet and "
            "inception_v3), or return only the first output"
        )


def _check_shape(network: nn.Module, name: str, images: Tensor, output: Tensor) -> None:
    with torch.no_grad(), evaluating(network):
        expected = network(images).shape
    if output.shape != expected:
        # A loss might broadcast the target, and train something else without a word.
        raise UserError(
            f"{name}: expected an output of {tuple(expected)} as in evaluation mode, got "
            f"{tuple(output.shape)} in training mode. It has outputs for training alone; switch "
            "them off by an argument of the network, or return only the first output"
        )


def try_image_sizes(
    network: nn.Module, name: str, shapes: Iterable[InputShape], where: str
) -> None:
    """Run a network on every size of the test images; only shapes are computed where possible.

    The final networks are scored on these images when all training is done. A network that was
    traced at one size may branch on another.

    Args:
        network: Left as it was.
        name: For the message.
        shapes: Shapes of the images, as the network gets them.
        where: Name of the test set.

    Raises:
        UserError: The network does not run on a size.
    """
    on_meta = to_meta(copy_network(network)).eval()
    computed = False
    for shape in shapes:
        try:
            infer_output(on_meta, (1, *shape), floating_dtype(network))
        except Exception as error:  # the author's code: whatever it raises
            # An operation may have no rule for shapes alone. Values are computed for one size.
            if not computed and _runs(network, shape):
                computed = True
                continue
            if computed and not isinstance(error, AssertionError):
                continue
            height, width = shape[1:]
            raise UserError(
                f"{name} does not run on images of {height} x {width}, a size of test set "
                f"{where}: {_first_line(error)}. {BRANCH_ADVICE}"
            ) from error


def _runs(network: nn.Module, shape: InputShape) -> bool:
    device = next(network.parameters()).device
    image = torch.zeros((1, *shape), dtype=floating_dtype(network), device=device)
    try:
        with torch.no_grad(), evaluating(network):
            network(image)
    except Exception:  # the author's code: whatever it raises
        return False
    return True


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
