"""Restore images: `python dhp_sr/infer.py --model FILE --input FILE|FOLDER --output FOLDER`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if sys.path and sys.path[0] and Path(sys.path[0]).resolve() == ROOT / "dhp_sr":
    sys.path[0] = str(ROOT)  # run as a script: our modules must not hide libraries of the same name

import argparse  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402

from dhp_sr.utils.errors import UserError, exit_code  # noqa: E402
from dhp_sr.utils.hardware import MAX_THREADS  # noqa: E402

if TYPE_CHECKING:
    from dhp_sr.deploy.runner import Runner
    from dhp_sr.inference.pipeline import Settings

FORMATS = ("png", "jpg", "webp", "tiff", "bmp", "same")
LEAST_GIB = 1.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0: every image is done or was done before; 1: some failed, and were listed; 2: a user's mistake, or nothing
        could be done; 130: stopped by the keyboard.
    """
    arguments = _parser().parse_args(argv)
    return exit_code(lambda: _infer(arguments))


def _infer(arguments: argparse.Namespace) -> int:
    from dhp_sr.cli.process import keep_memory, plain_warnings
    from dhp_sr.deploy.runner import open_model
    from dhp_sr.inference.images import allow_large
    from dhp_sr.inference.names import find_work
    from dhp_sr.inference.progress import restore_all
    from dhp_sr.utils.devices import device_by_name
    from dhp_sr.zoo.specs import register_known

    settings = _settings(arguments)
    work = find_work(
        Path(arguments.input), Path(arguments.output), arguments.format, arguments.suffix
    )
    register_known()
    allow_large()
    keep_memory()
    with plain_warnings():
        runner = open_model(
            arguments.model,
            device_by_name(arguments.device),
            arguments.precision,
            arguments.threads,
        )
        _check(runner, arguments)
        return restore_all(
            work, runner, settings, overwrite=arguments.overwrite, quiet=arguments.quiet
        )


def _settings(arguments: argparse.Namespace) -> "Settings":
    from dhp_sr.inference.pipeline import Settings
    from dhp_sr.inference.tiles import GIB, Budget, Choice

    bounds = {
        "memory": LEAST_GIB,
        "sigma": 0,
        "seed": 0,
        "tile": 0,
        "overlap": 0,
        "threads": 1,
        "quality": 1,
    }
    for name, least in bounds.items():
        value = getattr(arguments, name)
        if value is not None and not least <= value < 1e6:
            raise UserError(f"--{name}: expected a number from {least:g}, found {value:g}")
    if (arguments.threads or 1) > MAX_THREADS:
        raise UserError(
            f"--threads: expected a number from 1 to {MAX_THREADS}, found {arguments.threads}"
        )
    if arguments.quality > 100:
        raise UserError(f"--quality: expected a number from 1 to 100, found {arguments.quality}")
    budget, choice = Budget(int(arguments.memory * GIB)), Choice(arguments.tile, arguments.overlap)
    return Settings(budget, choice, arguments.sigma or 0.0, arguments.seed, arguments.quality)


def _check(runner: "Runner", arguments: argparse.Namespace) -> None:
    if arguments.sigma and runner.scale > 1:
        raise UserError(
            f"--sigma adds noise for a denoiser; {arguments.model} enlarges, leave it out"
        )
    halo = runner.halo
    if arguments.overlap is not None and halo is not None and arguments.overlap < halo:
        print(
            f"--overlap {arguments.overlap}: less than the {halo} pixels that the network looks at; faster, but "
            "results differ from those of whole images near the tiles' edges",
            file=sys.stderr,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Restore images with a saved model.",
        epilog="Exit code: 0 all done, 1 some images failed (they are listed), 2 a mistake in the arguments.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model", required=True, metavar="FILE", help="safetensors of dhp_sr, or .onnx"
    )
    parser.add_argument(
        "--input", required=True, metavar="PATH", help="an image, or a folder with its folders"
    )
    parser.add_argument(
        "--output", required=True, metavar="FOLDER", help="where the results go, by the same names"
    )
    parser.add_argument(
        "--format", choices=FORMATS, default="png", help="of the results; default: png"
    )
    parser.add_argument(
        "--suffix", default="", metavar="TEXT", help="added to the results' names, such as _x4"
    )
    parser.add_argument(
        "--quality", type=int, default=95, help="of JPEG and WebP, to 100; default: 95"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="do images again that have a result"
    )
    parser.add_argument(
        "--sigma", type=float, help="add noise first (0-255 scale), to see a denoiser work"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise; default: 0")
    parser.add_argument(
        "--memory", type=float, default=4.0, metavar="GIB", help="to be used in all; default: 4"
    )
    parser.add_argument(
        "--tile", type=int, metavar="PIXELS", help="side of tiles; 0: none; default: by --memory"
    )
    overlap = "around each tile; default: what the network looks at, so that results are those of whole images"
    parser.add_argument("--overlap", type=int, metavar="PIXELS", help=overlap)
    parser.add_argument(
        "--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="default: fp32"
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: cuda if any"
    )
    parser.add_argument("--threads", type=int, help="of the processor; default: all")
    parser.add_argument("--quiet", action="store_true", help="say only what failed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
