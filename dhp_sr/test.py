"""Score models: `python dhp_sr/test.py -opt FILE` or `python dhp_sr/test.py --model FILE ... --data FOLDER ...`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if sys.path and sys.path[0] and Path(sys.path[0]).resolve() == ROOT / "dhp_sr":
    sys.path[0] = str(ROOT)  # run as a script: our modules must not hide libraries of the same name

import argparse  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from typing import Any  # noqa: E402

from dhp_sr.utils.errors import UserError, exit_code  # noqa: E402
from dhp_sr.utils.files import working_root  # noqa: E402
from dhp_sr.utils.hardware import MAX_THREADS  # noqa: E402

CHOICES = ("sigma", "max_images", "crop_border", "device")
MEASURES = ("size", "repeats", "threads")
"""Arguments that have no effect with an option file, which says some of them itself."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 success, 2 a user's mistake."""
    arguments = _parser().parse_args(argv)
    return exit_code(lambda: _score(arguments))


def _score(arguments: argparse.Namespace) -> None:
    from dhp_sr.cli.process import keep_memory, plain_warnings
    from dhp_sr.utils.files import write_json
    from dhp_sr.zoo.specs import register_known

    register_known()
    keep_memory()
    with plain_warnings():
        scores, text = _of_run(arguments) if arguments.opt else _of_files(arguments)
    print(text, end="")
    if arguments.json:
        write_json(arguments.json, scores)


def _of_run(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from dhp_sr.cli.score import report, score_run

    idle = [
        f"--{name}"
        for name in ("data", *CHOICES, *MEASURES)
        if getattr(arguments, name) is not None
    ]
    idle += ["--no_images"] if arguments.no_images else []
    if idle:
        raise UserError(
            f"{', '.join(idle)}: no effect with -opt, whose file says so; use --set, or --model --data"
        )
    scores = score_run(
        arguments.opt, arguments.set, root=working_root(ROOT), models=arguments.model or ()
    )
    return scores, report(scores)


def _of_files(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    if not (arguments.model and arguments.data):
        raise UserError("expected -opt FILE, or --model FILE and --data FOLDER; see --help")
    if arguments.set:
        raise UserError("--set: no effect without -opt")
    from dhp_sr.cli.evaluate import Measuring, evaluate_files
    from dhp_sr.reports.tables import evaluation_text

    choices = {name: getattr(arguments, name) for name in CHOICES}
    asked = {
        name: getattr(arguments, name) for name in MEASURES if getattr(arguments, name) is not None
    }
    if min([*asked.get("size", ()), asked.get("threads", 1), asked.get("repeats", 1) + 1]) < 1:
        raise UserError(
            f"--size and --threads: expected at least 1, and --repeats at least 0, found {asked}"
        )
    if asked.get("threads", 1) > MAX_THREADS:
        raise UserError(
            f"--threads: expected a number from 1 to {MAX_THREADS}, found {asked['threads']}"
        )
    scores = evaluate_files(
        arguments.model, arguments.data, **choices, measuring=Measuring(**asked)
    )
    return scores, evaluation_text(scores, images=not arguments.no_images)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Score a model on test sets.", allow_abbrev=False)
    parser.add_argument(
        "-opt", "--opt", metavar="FILE", help="option file: scores the run's model on its test sets"
    )
    changes = "change options, for example compress.target.macs=0.3 or compress=null"
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="a.b=value", help=changes
    )
    model = "model files, .safetensors or .onnx, side by side; with -opt, instead of the run's own"
    parser.add_argument("--model", nargs="+", metavar="FILE", help=model)
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="FOLDER",
        help="ground-truth images, or labeled ones for a classifier; a set for each folder",
    )
    parser.add_argument("--sigma", type=float, help="noise level for denoisers, 0-255 scale")
    parser.add_argument("--max_images", type=int, help="only the first so many of each set")
    parser.add_argument(
        "--crop_border", type=int, help="pixels shaved; default: the scale, 0 for denoising"
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), help="default: cuda if there is one"
    )
    size = "input for time and memory; default: 128 128, for a classifier what it is meant for"
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help=size)
    repeats = "timed passes of each model; default: 10; 0: time and memory are not measured"
    parser.add_argument("--repeats", type=int, metavar="N", help=repeats)
    parser.add_argument(
        "--threads", type=int, metavar="N", help="of the CPU; default: as many as torch takes"
    )
    parser.add_argument(
        "--no_images",
        action="store_true",
        help="print means, not every image (--json has them all)",
    )
    parser.add_argument("--json", metavar="FILE", help="write the scores there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
