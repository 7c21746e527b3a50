"""Train, search, cut and finetune: `python dhp_sr/train.py -opt FILE [--auto_resume] [--set a.b=value ...]`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if sys.path and sys.path[0] and Path(sys.path[0]).resolve() == ROOT / "dhp_sr":
    sys.path[0] = str(ROOT)  # run as a script: our modules must not hide libraries of the same name

import argparse  # noqa: E402
import shlex  # noqa: E402
from collections.abc import Sequence  # noqa: E402

from dhp_sr.utils.errors import UserError  # noqa: E402
from dhp_sr.utils.files import working_root  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 success, 2 a user's mistake, 130 stopped with the state saved."""
    arguments = _parser().parse_args(argv)
    try:
        return _train(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        extra = "training needs pip install 'dhp_sr[train]'"
        print(
            f"error: {error}; {extra}; is the environment active? see README.md: . .venv/bin/activate",
            file=sys.stderr,
        )
        return 2
    except OSError as error:
        print(
            f"error: cannot read or write: {error}\nonce that is mended: {_again(arguments)}",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print(
            f"stopped at once; go on from the last state with: {_again(arguments)}", file=sys.stderr
        )
        return 130


def _train(arguments: argparse.Namespace) -> int:
    from dhp_sr.cli.process import keep_memory, plain_warnings, seed_everything, stop_on_signals
    from dhp_sr.config import load_options
    from dhp_sr.training.driver import Interrupted, train
    from dhp_sr.zoo.names import register_known
    from dhp_sr.zoo.networks import check_network_type

    with plain_warnings(), stop_on_signals() as stop:
        options = load_options(arguments.opt, arguments.set, check_network=check_network_type)
        seed_everything(options.manual_seed)
        register_known()
        keep_memory()
        try:
            root, launcher = working_root(ROOT), arguments.launcher
            train(
                options, root=root, auto_resume=arguments.auto_resume, launcher=launcher, stop=stop
            )
        except Interrupted as error:
            print(f"{error}\ngo on with: {_again(arguments)}", file=sys.stderr)
            return 130
    return 0


def _again(arguments: argparse.Namespace) -> str:
    """Return the command that goes on where this one stopped."""
    script = shlex.quote(str(Path(__file__)))
    start = f"torchrun ... {script}" if arguments.launcher == "pytorch" else f"python {script}"
    changes = f" --set {shlex.join(arguments.set)}" if arguments.set else ""
    launcher = " --launcher pytorch" if arguments.launcher == "pytorch" else ""
    return f"{start} -opt {shlex.quote(arguments.opt)}{changes} --auto_resume{launcher}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0] + ".", allow_abbrev=False)
    parser.add_argument(
        "-opt", "--opt", required=True, metavar="FILE", help="option file, see options/"
    )
    parser.add_argument(
        "--auto_resume", action="store_true", help="go on from the newest state of the same run"
    )
    parser.add_argument(
        "--launcher",
        choices=("none", "pytorch"),
        default="none",
        help="pytorch: started by torchrun",
    )
    changes = "change options, for example compress.target.macs=0.3 or compress=null"
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="a.b=value", help=changes
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
