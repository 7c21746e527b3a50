"""Any trained restoration network in, a smaller one out. The service of compress.py.

checkpoint -> which network -> plan -> option file -> run of the training driver -> comparison
"""

import argparse
import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

from dhp_sr.allocation.budget import Budget
from dhp_sr.cli.compress_drop_in import WIDTH_ARGUMENTS, DropInShape, find_shape
from dhp_sr.cli.compress_images import (
    BATCH_SIZE,
    Degradation,
    PreparedImages,
    list_images,
    prepare_images,
    read_samples,
)
from dhp_sr.cli.compress_options import (
    QUALITY,
    SEARCH_SAMPLES,
    Length,
    Target,
    make_options,
    network_section,
    option_file_text,
    width_rules,
)
from dhp_sr.cli.compress_outputs import (
    CompressReport,
    CompressRequest,
    write_best_so_far,
    write_outputs,
)
from dhp_sr.cli.compress_plan import (
    MAX_GENERATIONS,
    check_reachable,
    lines_before_start,
    measure_length,
)
from dhp_sr.cli.compress_quality import find_keep_ratio
from dhp_sr.cli.process import keep_memory, plain_warnings, seed_everything, stop_on_signals
from dhp_sr.config import load_options
from dhp_sr.config.schema import Options
from dhp_sr.deploy.model_info import ModelInfo, attach_info, info_of
from dhp_sr.deploy.safetensors_io import write_tensors
from dhp_sr.hyper import HyperNet, convert
from dhp_sr.training.driver import Interrupted, train
from dhp_sr.training.plan_summary import summarize_plan
from dhp_sr.utils.cost_kinds import COST_KINDS
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import write_text
from dhp_sr.zoo.checkpoints import Checkpoint, open_checkpoint
from dhp_sr.zoo.model_zoo import resolve_model
from dhp_sr.zoo.names import build_named, register_known
from dhp_sr.zoo.networks import example_input, plain_type
from dhp_sr.zoo.value_range import find_value_range

NUM_RANGE_SAMPLES = 3
RANGE_SIDE = 64
DROP_IN_TOLERANCE = 1e-6
"""Images, and their side, that value ranges are tried on."""


def run_compress(arguments: argparse.Namespace, root: Path) -> int:
    """Run compress.py.

    Args:
        arguments: Of `parsers.compress_parser`.
        root: Folder that `experiments/` lies in.

    Returns:
        The exit code: 0, or 130 where the user stopped the run.

    Raises:
        UserError: A mistake in arguments or files, or a target that cannot be met.
    """
    target = Target.from_text(arguments.target)
    if arguments.minutes <= 0:
        raise UserError(f"--minutes: expected a time above 0, got {arguments.minutes:g}")
    model = resolve_model(arguments.model)
    register_known()
    keep_memory()
    with plain_warnings(), stop_on_signals() as stop:
        seed_everything(arguments.seed)
        checkpoint = open_checkpoint(model, arguments.arch, arguments.arguments)
        output = arguments.output or f"{model.stem}_{target.label}.safetensors"
        request = CompressRequest(
            images=Path(arguments.images),
            target=target,
            minutes=arguments.minutes,
            iterations=arguments.iterations,
            truths=Path(arguments.truth) if arguments.truth else None,
            degradation=arguments.degradation,
            name=model.stem,
            output=Path(output),
            onnx=arguments.onnx,
            drop_in=arguments.drop_in,
            auto_resume=arguments.auto_resume,
            save_options=Path(arguments.save_options) if arguments.save_options else None,
            seed=arguments.seed,
        )
        try:
            compress_checkpoint(checkpoint, request, root=root, stop=stop, say=print)
        except Interrupted as error:
            print(f"{error}\ngo on with the same command and --auto_resume")
            return 130
    return 0


def compress_checkpoint(
    checkpoint: Checkpoint,
    request: CompressRequest,
    *,
    root: Path,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda line: None,
) -> CompressReport:
    """Search, cut, correct, finetune and compare, as one run of the training driver.

    Args:
        checkpoint: The original network.
        request: What is asked for.
        root: Folder that `experiments/` lies in.
        stop: Asked after every iteration; True ends the run with the best so far.
        say: Takes lines for the user.

    Raises:
        UserError: Images, target or time do not allow it.
        Interrupted: `stop` returned True. What there is by then has been written.
    """
    lines: list[str] = []

    def note(line: str) -> None:
        lines.append(line)
        say(line)

    run_folder = root / "experiments" / request.run_name
    stored = run_folder / "options.yml"
    if request.auto_resume and stored.is_file():
        note(f"continuing {run_folder}, with the iterations that it was begun with")
        # Timed again, a busier machine would get other iterations, and so another run.
        options = load_options(stored)
    else:
        options = prepare_run(checkpoint, request, root, note)
    adapted = _adapted_as_in(checkpoint, options)
    if request.save_options is not None:
        text = option_file_text(options, f"compress.py --images {request.images}")
        write_text(request.save_options, text)
        note(f"option file for train.py: {request.save_options}")
    try:
        with _progress(options, stop) as watched:
            metrics = train(options, root=root, auto_resume=request.auto_resume, stop=watched)
    except Interrupted:
        write_best_so_far(options, request, root, note)
        raise
    report = write_outputs(options, request, adapted, root, metrics, note)
    report.lines = lines
    return report


def prepare_run(
    checkpoint: Checkpoint, request: CompressRequest, root: Path, note: Callable[[str], None]
) -> Options:
    """Plan a run and make its options; everything is said that the user should know before.

    Raises:
        UserError: As for `compress_checkpoint`.
    """
    paths = list_images(request.images)
    checkpoint = _adapt_value_range(checkpoint, paths, note)
    network, info = checkpoint.network, info_of(checkpoint.network)
    if not info.restores_images:
        raise UserError(
            f"{checkpoint.title}: a classifier; compress it by train.py with labeled images"
        )
    experiments = root / "experiments"
    hyper = convert(network, example_input(network))
    rules = width_rules(hyper)
    target = request.target
    keep_ratio = None if target.kind == QUALITY else target.value
    summary = summarize_plan(
        hyper, network, rules["round_to"], rules["min_width"], _counted(target.kind)
    )
    for line in lines_before_start(summary, target.kind, keep_ratio):
        note(line)
    if keep_ratio is not None:
        check_reachable(summary, target.kind, keep_ratio)
    prepared = prepare_images(
        experiments / f"{request.run_name}_images",
        paths,
        network,
        info,
        Degradation.from_text(request.degradation, info.scale),
        request.truths,
    )
    note(prepared.trust)
    weights = _write_weights(network, experiments / f"{request.run_name}_images")
    make = functools.partial(
        make_options,
        name=request.run_name,
        network=network_section(checkpoint.name, checkpoint.arguments),
        weights=weights,
        scale=info.scale,
        datasets=prepared.datasets,
        has_truths=prepared.has_truths,
        seed=request.seed,
        experiments=experiments,
    )
    counted = _counted(target.kind)
    if target.kind == QUALITY:
        least = summary["least"]["macs"]["kept"]
        trial = Length(-(-SEARCH_SAMPLES // BATCH_SIZE), 1, 0)
        options = make(target=Target("macs", 0.5), length=trial, rules=rules)
        keep_ratio = find_keep_ratio(hyper, network, options, target.value, least, note)
        target = Target("macs", keep_ratio)
    assert keep_ratio is not None, "stated, or found by quality"
    if request.drop_in:
        if COST_KINDS[target.kind].is_measured:
            raise UserError("--drop_in: a latency cannot be the target of equal widths; use macs")
        shape = find_shape(checkpoint, hyper, counted, keep_ratio)
        argument = WIDTH_ARGUMENTS[checkpoint.name]
        note(f"drop-in: {argument}={shape.arguments[argument]} keeps {shape.kept:.1%}")
        # A little above: rounded down, these very widths would be over the budget.
        keep_ratio = round(shape.kept + DROP_IN_TOLERANCE / 10, 9)
        target = Target(target.kind, keep_ratio)
        rules = _drop_in_rules(shape)
    budget_rules = {key: value for key, value in rules.items() if key != "obs"}
    tolerance = budget_rules.pop("tolerance", None)
    budget = Budget.from_target(counted, keep_ratio, tolerance, **budget_rules)
    length = _length(hyper, network, info, budget, prepared, request, note)
    return make(target=target, length=length, rules=rules)


def _drop_in_rules(shape: DropInShape) -> dict[str, Any]:
    """Rules of `compress` under which a run takes the very widths of a shape."""
    return {
        "round_to": 1,
        "min_width": 1,
        "tolerance": DROP_IN_TOLERANCE,
        "obs": {"widths": shape.widths},
    }


def _adapted_as_in(checkpoint: Checkpoint, options: Options) -> Checkpoint:
    """Return the checkpoint with the arguments of a run, those of its value range included."""
    _, arguments = plain_type(options.network_g)
    return replace(checkpoint, arguments=arguments)


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
    if info.package == "dhp_sr" or not info.restores_images:
        return checkpoint
    side = max(RANGE_SIDE, info.sizes.round_up(RANGE_SIDE))
    samples = read_samples(paths, info, NUM_RANGE_SAMPLES, side)
    samples = [image for image in samples if min(image.shape[1:]) >= info.sizes.minimum]
    if not samples:
        raise UserError(f"--images: smaller than {info.sizes.minimum} pixels, which passed a trial")
    found, likeness = find_value_range(checkpoint.network, samples, info.scale, info.in_channels)
    note(f"values {found.describe()}, by trial: outputs look like inputs to {likeness:.1f} dB")
    if found.is_plain:
        return checkpoint
    arguments = {**checkpoint.arguments, **found.arguments}
    adapted: Any = build_named(checkpoint.name, arguments).eval()
    adapted.network.load_state_dict(checkpoint.network.state_dict())
    attach_info(adapted, replace(info, arguments=arguments))
    return replace(checkpoint, network=adapted, arguments=arguments)


def _length(
    hyper: HyperNet,
    network: nn.Module,
    info: ModelInfo,
    budget: Budget,
    prepared: PreparedImages,
    request: CompressRequest,
    note: Callable[[str], None],
) -> Length:
    training = prepared.datasets["train"]
    batch_size = training["batch_size_per_gpu"]
    if request.iterations is not None:
        generations = min(MAX_GENERATIONS, request.iterations)
        return Length(-(-SEARCH_SAMPLES // batch_size), request.iterations, generations)
    length, text = measure_length(
        hyper,
        network,
        info,
        budget,
        patch=training["gt_size"] // info.scale,
        batch_size=batch_size,
        minutes=request.minutes,
    )
    note(text)
    return length


def _write_weights(network: nn.Module, folder: Path) -> Path:
    """Write the original's weights for the run, as bare safetensors."""
    path = folder / "original.safetensors"
    tensors = {key: value.clone().contiguous() for key, value in network.state_dict().items()}
    write_tensors(path, tensors, {})
    return path


@contextlib.contextmanager
def _progress(options: Options, stop: Callable[[], bool]) -> Iterator[Callable[[], bool]]:
    """Show a progress bar; yields `stop` with a step of the bar in front of it."""
    with tqdm(total=options.train.total_iter, desc=options.name, unit="it", leave=False) as bar:

        def watched() -> bool:
            bar.update()
            return stop()

        yield watched
