"""Image restoration with a saved model. The service of infer.py."""

import argparse
import contextlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from dhp_sr.cli.process import keep_memory, plain_warnings
from dhp_sr.deploy.runner import Runner, check_restores_images
from dhp_sr.deploy.runtime_trial import Choice, open_fastest
from dhp_sr.deploy.runtimes import AUTO, open_runner
from dhp_sr.images.decode import read_header
from dhp_sr.images.pillow import allow_large
from dhp_sr.inference.pipeline import Settings
from dhp_sr.inference.progress import restore_all
from dhp_sr.inference.task_list import TaskList, list_tasks
from dhp_sr.inference.tiles import GIB, MemoryBudget, TilingOptions
from dhp_sr.inference.video import FrameSize, restore_video
from dhp_sr.utils.devices import MAX_THREADS, device_by_name
from dhp_sr.utils.errors import UserError
from dhp_sr.zoo.model_zoo import asks_for_listing, resolve_model, zoo_listing
from dhp_sr.zoo.names import register_known

MAX_HEADERS = 100
"""Headers read to estimate the work: those of thousands of images would take seconds."""

FRAMES_EXPECTED = 1000
"""Length of a video, which is not known before its end, for the choice of a runtime."""

RANGES: dict[str, tuple[float, float]] = {
    "memory": (1.0, 1e6),
    "sigma": (0, 1e6),
    "seed": (0, 1e6),
    "tile": (0, 1e6),
    "overlap": (0, 1e6),
    "threads": (1, MAX_THREADS),
    "quality": (1, 100),
}
"""Argument -> smallest and largest value."""


def run_infer(arguments: argparse.Namespace) -> int:
    """Run infer.py.

    Args:
        arguments: Parsed by `model_parsers.infer_parser`.

    Returns:
        0: every image is restored, now or before; 1: images failed, and were listed.

    Raises:
        UserError: An argument, the model or the input is unsuitable.
    """
    if asks_for_listing(arguments.model):
        print(zoo_listing(), end="")
        return 0
    if arguments.input is None or arguments.output is None:
        raise UserError("expected --input PATH and --output FOLDER; see --help")
    # Arguments and input first: opening a model takes seconds.
    settings = settings_from(arguments)
    if arguments.input == "-" or arguments.output == "-" or arguments.size:
        return run_video(arguments, settings)
    task_list = list_tasks(
        Path(arguments.input),
        Path(arguments.output),
        arguments.format,
        arguments.suffix,
        overwrite=arguments.overwrite,
    )
    register_known()
    # Pillow refuses images above its limit; ours are decoded within --memory.
    allow_large()
    keep_memory()
    with plain_warnings():
        runner = open_for(arguments, count_pixels(remaining_paths(arguments, task_list)))
        check_runner(runner, arguments)
        return restore_all(
            task_list, runner, settings, overwrite=arguments.overwrite, quiet=arguments.quiet
        )


def run_video(arguments: argparse.Namespace, settings: Settings) -> int:
    """Restore the frames of stdin; arguments and result as for `run_infer`."""
    size = frame_size(arguments)
    results = sys.stdout.buffer
    register_known()
    keep_memory()
    # among the frames, a message would be taken for pixels
    with contextlib.redirect_stdout(sys.stderr), plain_warnings():
        runner = open_for(arguments, FRAMES_EXPECTED * size.width * size.height)
        check_runner(runner, arguments)
        restore_video(sys.stdin.buffer, results, size, runner, settings, quiet=arguments.quiet)
    return 0


def frame_size(arguments: argparse.Namespace) -> FrameSize:
    """Return the size of a video's frames.

    Raises:
        UserError: It is missing, or an argument is meant for images.
    """
    if (arguments.input, arguments.output) != ("-", "-") or not arguments.size:
        raise UserError("a video needs all of --input -, --size WxH and --output -")
    unused = []
    # The default passes: that it was given cannot be seen.
    if arguments.format != "png":
        unused.append("--format")
    for name in ("suffix", "overwrite"):
        if getattr(arguments, name):
            unused.append(f"--{name}")
    if unused:
        raise UserError(f"{', '.join(unused)}: no effect on a video, whose frames are raw; omit it")
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", arguments.size)
    if match is None:
        raise UserError(
            f"--size: expected width and height such as 640x360, got {arguments.size!r}"
        )
    return FrameSize(width=int(match[1]), height=int(match[2]))


def open_for(arguments: argparse.Namespace, pixels: float) -> Runner:
    """Open the model with the runtime of the command line; a choice is reported on stderr.

    Args:
        arguments: Arguments of the command line.
        pixels: Estimate of all that will be restored; little work is not worth a trial.
    """
    path = resolve_model(arguments.model)
    device = device_by_name(arguments.device)
    if arguments.runtime == AUTO:
        choice = open_fastest(
            path,
            pixels=pixels,
            device=device,
            precision=arguments.precision,
            threads=arguments.threads,
        )
    else:
        runner = open_runner(
            path,
            arguments.runtime,
            device=device,
            precision=arguments.precision,
            threads=arguments.threads,
        )
        choice = Choice(runner, "")
    # The results of a video go to stdout.
    for line in (choice.reason, choice.runner.note):
        if line and not arguments.quiet:
            print(line, file=sys.stderr)
    return choice.runner


def remaining_paths(arguments: argparse.Namespace, task_list: TaskList) -> list[Path]:
    """List the images that will be restored."""
    # Images that are done already must not argue for a trial of runtimes.
    remaining = []
    for task in task_list.tasks:
        if arguments.overwrite or not task.is_done:
            remaining.append(task.source)
    return remaining


def count_pixels(paths: Sequence[Path]) -> float:
    """Estimate the pixels of images from the headers of at most `MAX_HEADERS` of them."""
    # Spread over the list: images beside each other are often of one size.
    pixels = 0
    sampled = paths[:: max(1, len(paths) // MAX_HEADERS)]
    for path in sampled:
        try:
            height, width, _ = read_header(path).shape
        except (UserError, OSError):
            # Reported where the image is restored.
            continue
        pixels += height * width
    return pixels * len(paths) / max(1, len(sampled))


def settings_from(arguments: argparse.Namespace) -> Settings:
    """Return the settings of a command line.

    Raises:
        UserError: A number is out of its range.
    """
    for name, (minimum, maximum) in RANGES.items():
        value = getattr(arguments, name)
        # "not <=" refuses NaN, too.
        if value is not None and not minimum <= value <= maximum:
            raise UserError(
                f"--{name}: expected a number from {minimum:g} to {maximum:g}, got {value:g}"
            )
    budget = MemoryBudget(int(arguments.memory * GIB))
    tiling = TilingOptions(arguments.tile, arguments.overlap)
    return Settings(budget, tiling, arguments.sigma or 0.0, arguments.seed, arguments.quality)


def check_runner(runner: Runner, arguments: argparse.Namespace) -> None:
    """Check that a model suits the arguments; a small overlap is reported on stderr.

    Raises:
        UserError: The model is a classifier, or enlarges although noise is to be added.
    """
    # open_runner opens classifiers, too, which give no image.
    check_restores_images(runner.info, runner.path)
    if arguments.sigma and runner.scale > 1:
        raise UserError(
            f"--sigma adds noise for a denoiser; {arguments.model} enlarges, omit --sigma"
        )
    # A message, not an error: a small overlap is a choice of speed over exactness.
    halo = runner.tiles.halo
    if arguments.overlap is not None and halo is not None and arguments.overlap < halo:
        print(
            f"--overlap {arguments.overlap}: less than the {halo} pixels of the network's "
            "receptive field; faster, but results differ from those of whole images near the "
            "tiles' edges",
            file=sys.stderr,
        )
