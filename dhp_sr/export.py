"""Write a model for other programs: `python dhp_sr/export.py --model FILE --format onnx|pt2|safetensors`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if sys.path and sys.path[0] and Path(sys.path[0]).resolve() == ROOT / "dhp_sr":
    sys.path[0] = str(ROOT)  # run as a script: our modules must not hide libraries of the same name

import argparse  # noqa: E402
from collections.abc import Sequence  # noqa: E402

from dhp_sr.utils.errors import exit_code  # noqa: E402

CHOICES = ("output", "arch", "arguments", "opset", "half", "licence", "tolerance")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 success, 2 a user's mistake or an export that disagrees."""
    arguments = _parser().parse_intermixed_args(argv)
    return exit_code(lambda: _export(arguments))


def _export(arguments: argparse.Namespace) -> None:
    from dhp_sr.cli.export import export_model, report
    from dhp_sr.cli.process import plain_warnings
    from dhp_sr.zoo.specs import register_known

    register_known()
    with plain_warnings():
        choices = {name: getattr(arguments, name) for name in CHOICES}
        done = export_model(arguments.model, arguments.format, **choices)
    print(report(done), end="")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Write a model for other programs.", allow_abbrev=False
    )
    what = "a model file of dhp_sr; with --arch, a .pth or safetensors of weights"
    parser.add_argument("--model", metavar="FILE", required=True, help=what)
    parser.add_argument("--format", choices=("onnx", "pt2", "safetensors"), required=True)
    parser.add_argument(
        "--output", metavar="FILE", help="default: beside the model, under its name"
    )
    parser.add_argument(
        "--opset", type=int, choices=(17, 18, 19, 20), help="of an ONNX file; default: 20"
    )
    parser.add_argument(
        "--half", action="store_true", help="weights, computation, input and output in fp16"
    )
    parser.add_argument(
        "--arch", metavar="NAME", help="network that the weights belong to: EDSR, basicsr:RCAN, ..."
    )
    parser.add_argument(
        "arguments", nargs="*", metavar="key=value", help="with --arch: the network's arguments"
    )
    parser.add_argument(
        "--licence", metavar="TEXT", help="stated in the file; default: what the model states"
    )
    parser.add_argument(
        "--tolerance", type=float, help="largest difference to PyTorch; default: 1e-4, half 1e-2"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
