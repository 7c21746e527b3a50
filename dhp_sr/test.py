"""Score a model: `python dhp_sr/test.py -opt FILE` or `python dhp_sr/test.py --model FILE --data FOLDER ...`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if sys.path and sys.path[0] and Path(sys.path[0]).resolve() == ROOT / "dhp_sr":
    sys.path[0] = str(ROOT)  # run as a script: our modules must not hide libraries of the same name

import argparse  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from typing import Any  # noqa: E402

from dhp_sr.utils.errors import UserError, exit_code  # noqa: E402

CHOICES = ("sigma", "max_images", "crop_border", "device")
"""Arguments that an option file says itself."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 success, 2 a user's mistake."""
    arguments = _parser().parse_args(argv)
    return exit_code(lambda: _score(arguments))


def _score(arguments: argparse.Namespace) -> None:
    from dhp_sr.models.origins import register_known
    from dhp_sr.models.process import plain_warnings
    from dhp_sr.models.scoring import report
    from dhp_sr.utils.files import write_json

    register_known()
    with plain_warnings():
        scores = _scores(arguments)
    print(report(scores), end="")
    if arguments.json:
        write_json(arguments.json, scores)


def _scores(arguments: argparse.Namespace) -> dict[str, Any]:
    from dhp_sr.models.scoring import score_files, score_run

    if arguments.opt:
        idle = [f"--{name}" for name in ("data", *CHOICES) if getattr(arguments, name) is not None]
        if idle:
            raise UserError(f"{', '.join(idle)}: no effect with -opt, whose file says so; use --set, or --model --data")
        return score_run(arguments.opt, arguments.set, root=ROOT, model=arguments.model)
    if arguments.model and arguments.data:
        choices = {name: getattr(arguments, name) for name in CHOICES}
        return score_files(arguments.model, arguments.data, **choices)
    raise UserError("expected -opt FILE, or --model FILE and --data FOLDER; see --help")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Score a model on test sets.", allow_abbrev=False)
    parser.add_argument("-opt", "--opt", metavar="FILE", help="option file: scores the run's model on its test sets")
    changes = "change options, for example compress.target.macs=0.3 or compress=null"
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="a.b=value", help=changes)
    parser.add_argument("--model", metavar="FILE", help="a model file; with -opt, instead of the run's own")
    parser.add_argument("--data", nargs="+", metavar="FOLDER", help="ground-truth images, a set for each folder")
    parser.add_argument("--sigma", type=float, help="noise level for denoisers, 0-255 scale")
    parser.add_argument("--max_images", type=int, help="only the first so many of each set")
    parser.add_argument("--crop_border", type=int, help="pixels shaved; default: the scale, 0 for denoising")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="default: cuda if there is one")
    parser.add_argument("--json", metavar="FILE", help="write the scores there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
