"""Show what can be pruned: `python dhp_sr/plan.py -opt FILE` or `python dhp_sr/plan.py --arch NAME [key=value ...]`."""

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

CHOICES = ("size", "exclude", "round_to", "min_width")
"""Arguments that an option file says itself."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 success, 2 a user's mistake or a target that cannot be met."""
    arguments = _parser().parse_intermixed_args(argv)
    return exit_code(lambda: _show(arguments))


def _show(arguments: argparse.Namespace) -> int:
    from dhp_sr.cli.plan import unmet
    from dhp_sr.cli.process import keep_memory, plain_warnings
    from dhp_sr.reports.plan import plan_text
    from dhp_sr.utils.files import write_json

    keep_memory()
    with plain_warnings():
        plan = _plan(arguments)
    print(plan_text(plan), end="")
    if arguments.json:
        write_json(arguments.json, plan)
    missed = unmet(plan)
    if missed:
        raise UserError(f"{', '.join(missed)} cannot be met, for the reason given above")
    return 0


def _plan(arguments: argparse.Namespace) -> dict[str, Any]:
    from dhp_sr.cli.plan import plan_arch, plan_run

    given = {
        name: getattr(arguments, name) for name in CHOICES if getattr(arguments, name) is not None
    }
    if arguments.opt and not arguments.arch:
        idle = [*(f"--{name}" for name in given), *arguments.arguments]
        if idle:
            raise UserError(
                f"{', '.join(idle)}: no effect with -opt, whose file says so; use --set, or --arch"
            )
        return plan_run(arguments.opt, arguments.set, root=working_root(ROOT))
    if arguments.arch and not arguments.opt:
        if arguments.set:
            raise UserError(
                "--set: no effect with --arch; give the network's arguments as key=value"
            )
        return plan_arch(arguments.arch, arguments.arguments, **given)
    raise UserError("expected either -opt FILE or --arch NAME; see --help")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Show what can be pruned in a network.", allow_abbrev=False
    )
    parser.add_argument(
        "-opt",
        "--opt",
        metavar="FILE",
        help="option file: its network, and whether its targets can be met",
    )
    changes = "change options, for example compress.target.macs=0.3"
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="a.b=value", help=changes
    )
    parser.add_argument(
        "--arch", metavar="NAME", help="one of dhp_sr/archs or BasicSR's, or torchvision:NAME"
    )
    parser.add_argument(
        "arguments", nargs="*", metavar="key=value", help="with --arch: the network's arguments"
    )
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"), help="input that MACs are stated for"
    )
    parser.add_argument(
        "--exclude",
        nargs="+",
        metavar="PATTERN",
        help="layers that keep their widths, such as 'body.*'",
    )
    parser.add_argument("--round_to", type=int, help="widths are multiples of this; default: 8")
    parser.add_argument("--min_width", type=int, help="no group is cut below this; default: 8")
    parser.add_argument("--json", metavar="FILE", help="write the plan there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
