"""Preparation of a compression before it is trained: plan, images, options, in this order.

Everything that the user should know is said here, and every mistake is found here, since training
takes minutes.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import nn

from dhp_sr.cli.compress_images import (
    BATCH_SIZE,
    PreparedImages,
    prepare_images,
    read_samples,
)
from dhp_sr.cli.compress_options import (
    SEARCH_SAMPLES,
    Length,
    RunTemplate,
    WidthRules,
    network_section,
    width_rules,
)
from dhp_sr.cli.compress_plan import (
    MAX_GENERATIONS,
    check_reachable,
    describe_length,
    lines_before_start,
    measure_steps,
    plan_length,
)
from dhp_sr.cli.compress_quality import find_keep_ratio
from dhp_sr.cli.compress_request import (
    FACTS,
    QUALITY,
    CompressRequest,
    Degradation,
    Target,
    check_request,
)
from dhp_sr.cli.compress_shapes import choose_shape
from dhp_sr.cli.compress_sources import find_images
from dhp_sr.config.schema import Options
from dhp_sr.deploy import save_model
from dhp_sr.deploy.model_info import attach_info, info_of
from dhp_sr.deploy.safetensors_io import write_tensors
from dhp_sr.hyper import HyperNet, convert
from dhp_sr.training.plan_summary import summarize_plan
from dhp_sr.training.run_folder import RunFolder
from dhp_sr.utils.cost_kinds import COST_KINDS
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import write_json
from dhp_sr.utils.strict_json import JsonObject
from dhp_sr.zoo.checkpoints import Checkpoint
from dhp_sr.zoo.names import FILE, build_named
from dhp_sr.zoo.networks import example_input
from dhp_sr.zoo.value_range import find_value_range

NUM_RANGE_SAMPLES = 3
RANGE_SIDE = 64
"""Images, and their side, that value ranges are tried on."""


def prepare_run(
    checkpoint: Checkpoint, request: CompressRequest, root: Path, note: Callable[[str], None]
) -> Options:
    """Plan a run and make its options.

    Args:
        checkpoint: The original.
        request: Target, images and files.
        root: Folder that `experiments/` lies in.
        note: Takes lines for the user.

    Raises:
        UserError: Images, target or time do not allow it.
    """
    start = time.perf_counter()
    folder = request.images_folder(root)
    check_request(request, folder)
    facts = request.facts(checkpoint)
    paths, truths = find_images(request, root / "experiments")
    checkpoint = _adapt_value_range(checkpoint, paths, note)
    network, info = checkpoint.network, info_of(checkpoint.network)
    if not info.restores_images:
        raise UserError(
            f"{checkpoint.title}: a classifier; compress it by train.py with labeled images"
        )
    hyper = convert(network, example_input(network))
    rules = width_rules(hyper, request.target, remove_blocks=request.remove_blocks)
    # Before images are written: a target that cannot be met needs none.
    least = _least_macs(hyper, network, rules, request.target, note)
    prepared, template = _prepare_files(checkpoint, request, root, paths, truths, facts, note)
    target = request.target
    # Quality becomes a fraction of the multiply-adds, any fraction what a shape of the class keeps.
    if target.kind == QUALITY:
        trial = Length(-(-SEARCH_SAMPLES // BATCH_SIZE), 1, 0)
        options = template.options(Target("macs", 0.5), trial, rules)
        ratio = find_keep_ratio(hyper, network, options, target.value, least, note)
        target = Target("macs", ratio)
    if request.drop_in:
        shape = choose_shape(checkpoint, hyper, target, template, request.minutes, note)
        hyper, target, rules = shape.hyper, shape.target, shape.rules
        if not shape.has_all_blocks:
            template = _with_fewer_blocks(template, shape.checkpoint, network, folder)
    # Reading images, and the trials of both, are part of the time that was given.
    spent_minutes = (time.perf_counter() - start) / 60
    length = _length(hyper, network, target, rules, prepared, request, spent_minutes, note)
    return template.options(target, length, rules)


def _prepare_files(
    checkpoint: Checkpoint,
    request: CompressRequest,
    root: Path,
    paths: Sequence[Path],
    truths: Mapping[Path, Path] | None,
    facts: JsonObject,
    note: Callable[[str], None],
) -> tuple[PreparedImages, RunTemplate]:
    """Write images, weights and facts of a run, once the images are known to do.

    Returns:
        What is known about the images, and the run but for its target.
    """
    network, info = checkpoint.network, info_of(checkpoint.network)
    folder = request.images_folder(root)

    def set_earlier_run_aside() -> None:
        # Without its images it cannot be resumed, only looked at.
        earlier = RunFolder(root / "experiments" / request.run_name).set_aside()
        if earlier is not None:
            note(f"an earlier run of this name was renamed to {earlier}")

    degradation = Degradation.from_text(request.degradation, info.scale)
    prepared = prepare_images(
        folder, paths, network, info, degradation, truths, request.drawn, set_earlier_run_aside
    )
    write_json(folder / FACTS, facts)
    name = checkpoint.name
    if name == FILE:
        # A pruned network, which no constructor makes. A copy: the user's may be moved meanwhile.
        copied = folder.absolute() / "network.safetensors"
        save_model(network, copied)
        name += str(copied)
    note(prepared.trust)
    template = RunTemplate(
        name=request.run_name,
        network=network_section(name, checkpoint.arguments),
        weights=_write_weights(network, folder),
        scale=info.scale,
        datasets=prepared.datasets,
        has_truths=prepared.has_truths,
        seed=request.seed,
        experiments=root / "experiments",
        runtime=request.runtime or "torch",
    )
    return prepared, template


def _least_macs(
    hyper: HyperNet,
    network: nn.Module,
    rules: WidthRules,
    target: Target,
    note: Callable[[str], None],
) -> float:
    """Say what can be pruned, and return the least possible fraction of the multiply-adds.

    Raises:
        UserError: The target is below the least possible cost.
    """
    keep_ratio = None if target.kind == QUALITY else target.value
    counted = _counted(target.kind)
    summarize = partial(summarize_plan, hyper, network, rules.round_to, rules.min_width, counted)
    summary = summarize(remove_blocks=rules.remove_blocks)
    for line in lines_before_start(summary, target.kind, keep_ratio):
        note(line)
    if keep_ratio is not None:
        without_branches = None
        if hyper.plan.branches and not rules.remove_blocks:
            without_branches = partial(summarize, remove_blocks=True)
        check_reachable(summary, target.kind, keep_ratio, without_branches)
    return summary["lower_bound"]["macs"]["kept"]


def _with_fewer_blocks(
    template: RunTemplate, shortened: Checkpoint, original: nn.Module, folder: Path
) -> RunTemplate:
    """Write a network with fewer blocks, and the original as its teacher; return their run."""
    teacher = folder / "teacher.safetensors"
    save_model(original, teacher)
    weights = _write_weights(shortened.network, folder, "fewer_blocks.safetensors")
    return template.of_network(shortened, weights, teacher)


def _counted(kind: str) -> str:
    """Return a cost kind that needs no measurement: multiply-adds stand in for others."""
    return kind if kind in COST_KINDS and not COST_KINDS[kind].is_measured else "macs"


def _adapt_value_range(
    checkpoint: Checkpoint, paths: list[Path], note: Callable[[str], None]
) -> Checkpoint:
    """Find the value range of a network that does not state it, and adapt it to [0, 1]."""
    info = info_of(checkpoint.network)
    note(f"{checkpoint.title}: {info.task}, scale {info.scale}, {info.color} images")
    for line in checkpoint.notes:
        note(line)
    if info.restores_images and info.in_channels not in (1, 3):
        raise UserError(
            f"{checkpoint.title}: takes {info.in_channels} channels, images have 3 or 1; of a "
            "network with a further map, such as a noise level, wrap it in one that adds the map"
        )
    # A pruned network is one of a file of ours, which adapts it where its class needs that.
    if info.package == "dhp_sr" or checkpoint.name == FILE or not info.restores_images:
        return checkpoint
    # Small crops suffice: a wrong range shows in every pixel.
    side = max(RANGE_SIDE, info.sizes.round_up(RANGE_SIDE))
    samples = read_samples(paths, info, NUM_RANGE_SAMPLES, side)
    samples = [image for image in samples if min(image.shape[1:]) >= info.sizes.minimum]
    if not samples:
        raise UserError(f"--images: smaller than {info.sizes.minimum} pixels, which passed a trial")
    value_range, likeness_db = find_value_range(
        checkpoint.network, samples, info.scale, info.in_channels
    )
    # Written so that nan is refused, too; a network that changes nothing is at infinity.
    if not likeness_db > -math.inf:
        raise UserError(
            f"{checkpoint.title}: its outputs for --images are no numbers (nan or infinite); are "
            "these the weights of this network?"
        )
    note(
        f"values {value_range.describe()}, by trial: outputs look like inputs to "
        f"{likeness_db:.1f} dB"
    )
    if value_range.is_plain:
        return checkpoint
    # The range travels among the constructor's arguments, so that model files hold it.
    arguments = {**checkpoint.arguments, **value_range.arguments}
    adapted = build_named(checkpoint.name, arguments).eval()
    adapted.get_submodule("network").load_state_dict(checkpoint.network.state_dict())
    attach_info(adapted, replace(info, arguments=arguments))
    return replace(checkpoint, network=adapted, arguments=arguments)


def _length(
    hyper: HyperNet,
    network: nn.Module,
    target: Target,
    rules: WidthRules,
    prepared: PreparedImages,
    request: CompressRequest,
    spent_minutes: float,
    note: Callable[[str], None],
) -> Length:
    """Iterations of the run: as asked for, or as many as the minutes that are left allow."""
    training = prepared.datasets["train"]
    batch_size = training["batch_size_per_gpu"]
    if request.iterations is not None:
        generations = min(MAX_GENERATIONS, request.iterations)
        return Length(-(-SEARCH_SAMPLES // batch_size), request.iterations, generations)
    info = info_of(network)
    patch = training["gt_size"] // info.scale
    budget = rules.budget(_counted(target.kind), target.value)
    length = plan_length(
        measure_steps(hyper, network, budget, patch, batch_size),
        info,
        patch=patch,
        batch_size=batch_size,
        minutes=request.minutes,
        spent_minutes=spent_minutes,
        input_pixels=prepared.input_pixels,
    )
    note(describe_length(length))
    return length


def _write_weights(network: nn.Module, folder: Path, name: str = "original.safetensors") -> Path:
    """Write the weights that a run begins with, as bare safetensors."""
    path = folder / name
    # Copies: safetensors refuses tensors that share memory.
    tensors = {key: value.clone().contiguous() for key, value in network.state_dict().items()}
    write_tensors(path, tensors, {})
    return path
