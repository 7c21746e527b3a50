"""The constructor's shape for a target: narrower, or with fewer blocks, by what each loses.

target macs=0.5       num_blocks=6, dim=24      the search chooses channels  -.
num_blocks=5, dim=28      one block left out, likewise  |-> nearest to the
num_blocks=3, dim=36      three blocks left out        -'   original's output
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from dhp_sr.cli.compress_blocks import BLOCK_COUNTS, SECONDS_SHARE, FewerBlocks
from dhp_sr.cli.compress_drop_in import WIDTH_ARGUMENTS, DropInShape, find_shape
from dhp_sr.cli.compress_images import BATCH_SIZE
from dhp_sr.cli.compress_options import SEARCH_SAMPLES, Length, RunTemplate, WidthRules
from dhp_sr.cli.compress_quality import CORRECTION_BATCHES, CorrectedCuts, training_inputs
from dhp_sr.cli.compress_request import Target
from dhp_sr.hyper import HyperNet, convert
from dhp_sr.utils.cost_kinds import COST_KINDS
from dhp_sr.utils.errors import UserError
from dhp_sr.zoo.checkpoints import Checkpoint
from dhp_sr.zoo.names import build_named
from dhp_sr.zoo.networks import example_input
from dhp_sr.zoo.value_range import SCALE_ARGUMENT

MOST_PAIRS = 4
"""Numbers of blocks that are tried, the original's included."""

PAIRS_SHARE = 0.3
"""Share of the time of a run: after it no further pair is tried."""

EVALUATION_BATCHES = 4
"""Further batches, on which the pairs are compared."""

TOLERANCE = 1e-6
"""Under it, no other widths than those of the constructor's shape meet the budget."""

TRIAL = Length(-(-SEARCH_SAMPLES // BATCH_SIZE), 1, 0)


@dataclass(frozen=True)
class ConstructorShape:
    """A network of the original's class to prune, and the widths to prune it to."""

    checkpoint: Checkpoint
    """The original; or with fewer blocks, corrected."""
    hyper: HyperNet
    """The same network, converted."""
    target: Target
    """Cost that the widths keep, relative to this network's."""
    rules: WidthRules
    """Rules that fix the width of every group."""
    kept: float
    """Cost that they keep, relative to the original's."""
    text: str
    """The constructor's numbers, for people."""
    has_all_blocks: bool

    @property
    def is_full_width(self) -> bool:
        """Whether only blocks are removed, and no channels."""
        return self.target.value == 1.0


def choose_shape(
    checkpoint: Checkpoint,
    hyper: HyperNet,
    target: Target,
    template: RunTemplate,
    minutes: float,
    note: Callable[[str], None],
) -> ConstructorShape:
    """Find the shape of the constructor that meets a target and loses least.

    Args:
        checkpoint: The original.
        hyper: The same network, converted.
        target: A cost kind, and the fraction to keep.
        template: Template of the run.
        minutes: For the whole run.
        note: Takes lines for the user.

    Raises:
        UserError: The target is measured, or the class has no such shape.
    """
    if COST_KINDS[target.kind].is_measured:
        raise UserError("--drop_in: a latency cannot be the target of equal widths; use macs")
    blocks = BLOCK_COUNTS.get(checkpoint.name)
    is_plain = SCALE_ARGUMENT not in checkpoint.arguments
    if blocks is None or not is_plain or checkpoint.arguments.get(blocks.argument, 1) < 2:
        shape = find_shape(checkpoint, hyper, target.kind, target.value)
        chosen = _constructor_shape(checkpoint, hyper, target.kind, shape)
        note(f"drop-in: {chosen.text} keeps {shape.kept:.1%}")
        return chosen
    start = time.perf_counter()
    options = template.options(Target("macs", 0.5), TRIAL, WidthRules(1, 1))
    inputs = training_inputs(options, TRIAL.search_iter + EVALUATION_BATCHES)
    trial = _Trial(template, inputs[: TRIAL.search_iter])
    fewer = FewerBlocks(
        checkpoint,
        hyper,
        calibration=inputs[:CORRECTION_BATCHES],
        evaluation=inputs[TRIAL.search_iter :],
        seconds=60 * minutes * SECONDS_SHARE,
    )
    shapes = _shapes(fewer, checkpoint, hyper, target, note)
    return _best_of(shapes, fewer, trial, note, deadline=start + 60 * minutes * PAIRS_SHARE)


def _best_of(
    shapes: Iterator[ConstructorShape],
    fewer: FewerBlocks,
    trial: "_Trial",
    note: Callable[[str], None],
    *,
    deadline: float,
) -> ConstructorShape:
    """Return the shape whose network is nearest to the original's output before finetuning."""
    best: ConstructorShape | None = None
    best_db = -math.inf
    for shape in shapes:
        small = trial.cut(shape)
        if small is None:
            continue
        score = fewer.psnr_db(small)
        note(
            f"  {shape.text} keeps {shape.kept:.1%}: {score:.2f} dB to the original's output after "
            "the corrected cut"
        )
        if score > best_db:
            best, best_db = shape, score
        if time.perf_counter() > deadline:
            note("no time for further shapes")
            break
    if best is None:
        raise UserError("--drop_in: none of these shapes can be cut")
    note(f"drop-in: {best.text}")
    return best


def _shapes(
    fewer: FewerBlocks,
    checkpoint: Checkpoint,
    hyper: HyperNet,
    target: Target,
    note: Callable[[str], None],
) -> Iterator[ConstructorShape]:
    """Yield shapes that meet a target: narrow with all blocks, at full width, and between.

    Raises:
        UserError: There is none; with the reason of the shape with all blocks.
    """
    dense = hyper.dense_cost()[target.kind]
    refusal: UserError | None = None
    found = False
    for count in counts_to_try(checkpoint, dense, target):
        shortened, left_out = fewer.with_count(count)
        short_hyper = hyper
        if left_out:
            names = ", ".join(map(str, left_out))
            note(f"of {fewer.count} blocks, the output can best do without: {names}")
            short_hyper = convert(shortened.network, example_input(shortened.network))
        share = short_hyper.dense_cost()[target.kind] / dense
        try:
            if share <= target.value:
                widths = {group.name: group.width for group in short_hyper.plan.prunable}
                shape = DropInShape(shortened.arguments, widths, kept=1.0)
            else:
                shape = find_shape(shortened, short_hyper, target.kind, target.value / share)
        except UserError as error:
            refusal = refusal or error
            continue
        found = True
        yield _constructor_shape(
            shortened, short_hyper, target.kind, shape, share, has_all_blocks=not left_out
        )
    if not found:
        assert refusal is not None, "there is at least the number of blocks of the original"
        raise refusal


def counts_to_try(checkpoint: Checkpoint, dense: float, target: Target) -> list[int]:
    """Return numbers of blocks: the original's, the largest that is enough by itself, and between.

    Args:
        checkpoint: The original.
        dense: Its cost.
        target: Cost kind, and the fraction of it to keep.
    """
    argument = BLOCK_COUNTS[checkpoint.name].argument
    count = int(checkpoint.arguments[argument])
    arguments = {**checkpoint.arguments, argument: count - 1}
    one_less = build_named(checkpoint.name, arguments).eval()
    example = example_input(checkpoint.network)
    block_cost = dense - convert(one_less, example).dense_cost()[target.kind]
    # All blocks cost the same.
    needed = math.ceil(round((1 - target.value) * dense / block_cost, 6))
    most = min(count - 1, needed)
    steps = min(MOST_PAIRS - 1, most)
    first, *between, last = [count - round(most * step / steps) for step in range(steps + 1)]
    # Both ends first: they tell most where the time ends before all are tried.
    return [first, last, *between]


def _constructor_shape(
    checkpoint: Checkpoint,
    hyper: HyperNet,
    kind: str,
    shape: DropInShape,
    share: float = 1.0,
    *,
    has_all_blocks: bool = True,
) -> ConstructorShape:
    """Work out the settings of a run that prunes to a shape.

    Args:
        checkpoint: The network to prune.
        hyper: The same, converted.
        kind: Cost kind.
        shape: To prune it to.
        share: Share of the original's cost that the network has.
        has_all_blocks: Whether it is the original.
    """
    names = [WIDTH_ARGUMENTS[checkpoint.name]]
    if checkpoint.name in BLOCK_COUNTS:
        names.append(BLOCK_COUNTS[checkpoint.name].argument)
    # A little above: rounded down, these very widths would be over the budget.
    kept = min(1.0, round(shape.kept + TOLERANCE / 10, 9))
    return ConstructorShape(
        checkpoint,
        hyper,
        Target(kind, kept),
        WidthRules(1, 1, tolerance=TOLERANCE, widths=shape.widths),
        share * shape.kept,
        ", ".join(f"{name}={shape.arguments[name]}" for name in names),
        has_all_blocks,
    )


@dataclass(frozen=True)
class _Trial:
    """Cuts as the run's search would make them, without finetuning."""

    template: RunTemplate
    inputs: Sequence[Tensor]
    """Inputs of the first training batches."""

    def cut(self, shape: ConstructorShape) -> nn.Module | None:
        """Return the network of a shape; None if it cannot be cut."""
        if shape.is_full_width:
            return shape.checkpoint.network
        template = self.template.of_network(shape.checkpoint)
        options = template.options(shape.target, TRIAL, shape.rules)
        return CorrectedCuts(shape.hyper, options, self.inputs).cut(shape.target.value)
