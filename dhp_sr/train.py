"""Train, search, prune, finetune: `python dhp_sr/train.py -opt FILE [--set a.b=v]`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Run as a script, Python puts this folder first on the search path, where our modules would hide
# libraries of the same name.
if sys.path and sys.path[0] and Path(sys.path[0]).resolve() == ROOT / "dhp_sr":
    sys.path[0] = str(ROOT)

import argparse  # noqa: E402
import shlex  # noqa: E402
from collections.abc import Sequence  # noqa: E402

from dhp_sr.cli.parsers import train_parser  # noqa: E402
from dhp_sr.utils.errors import LostProcessError, UserError, memory_shortage  # noqa: E402
from dhp_sr.utils.files import working_root  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 for success, 2 after a user's mistake, 130 if stopped with the state saved.
    """
    arguments = train_parser().parse_args(argv)
    # Not `exit_code`, as the other commands have: hours of training may be lost, so every message
    # says how to resume them.
    try:
        return _train(arguments)
    except LostProcessError as error:
        print(f"error: {error}", file=sys.stderr)
        print(f"resume with: {_resume_command(arguments)}", file=sys.stderr)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except ModuleNotFoundError as error:
        print(
            f"error: {error}; training needs pip install 'dhp_sr[train]'; "
            "is the environment active? see README.md: . .venv/bin/activate",
            file=sys.stderr,
        )
    except (MemoryError, RuntimeError) as error:
        shortage = memory_shortage(error)
        if shortage is None:
            raise
        print(
            f"error: {shortage}\nlower datasets.train.batch_size_per_gpu or gt_size, or use more "
            "processes; such a run starts anew",
            file=sys.stderr,
        )
    except OSError as error:
        print(f"error: cannot read or write: {error}", file=sys.stderr)
        print(f"when that is fixed, resume with: {_resume_command(arguments)}", file=sys.stderr)
    except KeyboardInterrupt:
        # Once there is a state, the driver says `Interrupted`.
        print(f"stopped before a step was taken; {_again(arguments)}", file=sys.stderr)
        return 130
    return 2


def _train(arguments: argparse.Namespace) -> int:
    # Only now: libraries take seconds to import, and --help needs none of them.
    from dhp_sr.cli.process import keep_memory, plain_warnings, seed_everything, stop_on_signals
    from dhp_sr.config import load_options
    from dhp_sr.training.driver import train
    from dhp_sr.training.loop import Interrupted
    from dhp_sr.zoo.names import register_known
    from dhp_sr.zoo.networks import check_network_type

    with plain_warnings(), stop_on_signals() as stop:
        options = load_options(arguments.opt, arguments.set, check_network=check_network_type)
        # Global state is touched here alone, never in the library.
        seed_everything(options.manual_seed)
        register_known()
        keep_memory()
        try:
            train(
                options,
                root=working_root(ROOT),
                auto_resume=arguments.auto_resume,
                launcher=arguments.launcher,
                stop=stop,
            )
        except Interrupted as error:
            print(f"{error}\nresume with: {_resume_command(arguments)}", file=sys.stderr)
            return 130
    return 0


def _again(arguments: argparse.Namespace) -> str:
    """Say what starts a run anew that has saved nothing, or nothing more."""
    if arguments.auto_resume:
        return "earlier states are as they were: the same command resumes from the last one"
    return "nothing is saved: start again with the same command"


def _resume_command(arguments: argparse.Namespace) -> str:
    """Return the command that resumes the run, quoted for a shell."""
    words = ["python", str(Path(__file__)), "-opt", arguments.opt]
    if arguments.set:
        words += ["--set", *arguments.set]
    words.append("--auto_resume")
    if arguments.launcher == "pytorch":
        words += ["--launcher", "pytorch"]
        # torchrun's own arguments, such as the number of processes, are not known here.
        return f"torchrun ... {shlex.join(words[1:])}"
    return shlex.join(words)


if __name__ == "__main__":
    sys.exit(main())
