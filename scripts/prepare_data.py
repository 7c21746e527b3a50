r"""Prepare images for training: sub-images, low-resolution images, LMDBs, classification sets.

An interrupted run is resumed when the same command is given again, and a target has its name only
once it is complete.

Usage::

    python scripts/prepare_data.py lr     datasets/DIV2K/HR datasets/DIV2K/X4 --scale 4
    python scripts/prepare_data.py crop   datasets/DIV2K/HR datasets/DIV2K/HR_sub --size 480 \
        --step 240 --multiple 4
    python scripts/prepare_data.py crop   datasets/DIV2K/X4 datasets/DIV2K/X4_sub --size 120 \
        --step 60
    python scripts/prepare_data.py lmdb   datasets/DIV2K/HR_sub datasets/DIV2K/HR_sub.lmdb
    python scripts/prepare_data.py verify datasets/DIV2K/HR_sub.lmdb --source datasets/DIV2K/HR_sub
    python scripts/prepare_data.py classes datasets/cifar-10-batches-bin datasets/CIFAR10.lmdb \
        --format lmdb
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

# runs from a checkout that is not installed
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dhp_sr.data.class_writers import WRITERS, make_classes
from dhp_sr.data.prepare import Crop, Shrink, check_database, fill_folder, make_database
from dhp_sr.utils.errors import exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command.

    Args:
        arguments: the command line without the program's name; default: that of the process.

    Returns:
        The exit code: 0 for success, 2 for a user's mistake, 130 after an interruption from the
        keyboard.
    """
    options = _make_parser().parse_args(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    try:
        print(options.run(options))
    except KeyboardInterrupt:
        print("interrupted: give the same command again to resume", file=sys.stderr)
        raise


def crop(options: argparse.Namespace) -> str:
    """Run `crop` and return what to print."""
    task = Crop(options.size, options.step, options.threshold, options.multiple)
    count = fill_folder(options.source, options.target, task, options.workers)
    return _describe(options.target, count)


def make_lr(options: argparse.Namespace) -> str:
    """Run `lr` and return what to print."""
    task = Shrink(options.scale, options.template)
    count = fill_folder(options.source, options.target, task, options.workers)
    return _describe(options.target, count)


def make_lmdb(options: argparse.Namespace) -> str:
    """Run `lmdb`, check the result, and return what to print."""
    count = make_database(options.source, options.target)
    check_database(options.target)
    return _describe(options.target, count)


def verify(options: argparse.Namespace) -> str:
    """Run `verify` and return what to print."""
    check_database(options.target, options.source)
    return f"{options.target}: sound"


def classes(options: argparse.Namespace) -> str:
    """Run `classes` and return what to print."""
    count = make_classes(
        options.source, options.target, options.format, side=options.size, labels=options.labels
    )
    return _describe(options.target, count)


def _describe(target: str, count: int) -> str:
    if count:
        return f"{target}: made from {count} images"
    return f"{target}: already complete, nothing to do"


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="crop|lr|lmdb|verify|classes")
    _add_crop(commands)
    _add_lr(commands)
    command = _add(commands, "lmdb", make_lmdb, "make an LMDB in BasicSR's layout and check it")
    _add_folders(command, "name.lmdb to make")
    text = "decode a whole LMDB and compare it with its meta file"
    command = _add(commands, "verify", verify, text)
    command.add_argument("target", help="the LMDB folder")
    command.add_argument("--source", help="also compare the pixels with the images of this folder")
    _add_classes(commands)
    return parser


def _add_classes(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = _add(commands, "classes", classes, "write a classification set in another format")
    command.add_argument(
        "source",
        help="class folders, CIFAR's binary files, sheets with INDEX.tsv, or an .lmdb folder",
    )
    command.add_argument("target", help="folder to make; name.lmdb with --format lmdb")
    command.add_argument(
        "--format",
        "--form",  # the name of earlier versions
        choices=list(WRITERS),
        required=True,
        help="format to write",
    )
    command.add_argument(
        "--size", type=_positive, help="first resize the shorter side, and crop the middle"
    )
    command.add_argument(
        "--labels", choices=["fine", "coarse"], default="fine", help="which of CIFAR-100's labels"
    )


def _add_crop(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = _add(commands, "crop", crop, "cut images into sub-images, which decode faster")
    _add_folders(command, "folder to make")
    command.add_argument(
        "--size", type=_positive, default=480, help="side in pixels (default: %(default)s)"
    )
    command.add_argument(
        "--step", type=_positive, default=240, help="distance of neighbors (default: %(default)s)"
    )
    command.add_argument(
        "--threshold",
        type=_not_negative,
        default=0,
        help="add a last row or column when more than this many pixels would be lost "
        "(default: %(default)s)",
    )
    command.add_argument(
        "--multiple",
        type=_positive,
        default=1,
        help="first cut sides to multiples of this, the scale of LR images cropped alike "
        "(default: %(default)s)",
    )
    _add_workers(command)


def _add_lr(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = _add(commands, "lr", make_lr, "make low-resolution images by exact bicubic")
    _add_folders(command, "folder to make")
    command.add_argument(
        "--scale", type=int, choices=(2, 3, 4), required=True, help="HR side by LR side"
    )
    command.add_argument(
        "--template",
        default="{}",
        help="LR name from the HR name, e.g. {}x4 (default: %(default)s)",
    )
    _add_workers(command)


def _add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], str],
    text: str,
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.set_defaults(run=run)
    return command


def _add_folders(command: argparse.ArgumentParser, target: str) -> None:
    command.add_argument(
        "source", help="folder of images, .lmdb folder, bundled:train or bundled:val"
    )
    command.add_argument("target", help=target)


def _add_workers(command: argparse.ArgumentParser) -> None:
    count = os.cpu_count() or 1
    command.add_argument(
        "--workers", type=_positive, default=count, help="processes (default: %(default)s)"
    )


def _at_least(lowest: int, text: str) -> int:
    if not text.isdecimal() or int(text) < lowest:
        raise argparse.ArgumentTypeError(
            f"expected a whole number of at least {lowest}, found {text!r}"
        )
    return int(text)


_positive = partial(_at_least, 1)
_not_negative = partial(_at_least, 0)


if __name__ == "__main__":
    sys.exit(main())
