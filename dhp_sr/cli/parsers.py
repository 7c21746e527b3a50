"""Command lines of train, plan, compress and report.

Those of finished models are in `model_parsers`. Neither imports anything heavy, so that `--help`
is instant.
"""

import argparse

from dhp_sr.utils.devices import RUNTIME_NAMES

SET_HELP = "change options, for example compress.target.macs=0.3 or compress=null"


def new_parser(description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    """Return a parser that knows options by their full names alone."""
    # Abbreviations would break scripts whenever an option is added.
    return argparse.ArgumentParser(description=description, epilog=epilog, allow_abbrev=False)


def add_option_file(parser: argparse.ArgumentParser, help_text: str) -> None:
    """Add `-opt FILE` and `--set`, which changes its options."""
    parser.add_argument("-opt", "--opt", metavar="FILE", help=help_text)
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="a.b=value", help=SET_HELP
    )


def add_network_arguments(parser: argparse.ArgumentParser, arch_help: str) -> None:
    """Add `--arch NAME` and the constructor's arguments after it."""
    parser.add_argument("--arch", metavar="NAME", help=arch_help)
    # After --arch, so the parser must allow positional arguments between options.
    parser.add_argument(
        "arguments", nargs="*", metavar="key=value", help="with --arch: the network's arguments"
    )


def train_parser() -> argparse.ArgumentParser:
    """Return the command line of train.py."""
    parser = new_parser("Train, search, prune and finetune.")
    # With one hyphen as in BasicSR, whose users type it by habit.
    parser.add_argument(
        "-opt", "--opt", required=True, metavar="FILE", help="option file, see options/"
    )
    parser.add_argument(
        "--auto_resume", action="store_true", help="resume from the newest state of the same run"
    )
    parser.add_argument(
        "--launcher",
        choices=("none", "pytorch"),
        default="none",
        help="pytorch: started by torchrun",
    )
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="a.b=value", help=SET_HELP
    )
    return parser


def plan_parser() -> argparse.ArgumentParser:
    """Return the command line of plan.py."""
    # Defaults are None where an option file may state the value: what was given can be told apart.
    parser = new_parser("Show what can be pruned in a network.")
    add_option_file(parser, "option file: its network, and whether its targets can be met")
    add_network_arguments(parser, "name in dhp_sr/archs or BasicSR, or torchvision:NAME")
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
    parser.add_argument("--min_width", type=int, help="no group is pruned below this; default: 8")
    parser.add_argument("--json", metavar="FILE", help="write the plan there")
    return parser


def report_parser() -> argparse.ArgumentParser:
    """Return the command line of report.py."""
    parser = new_parser("Make an HTML file, which needs nothing else, of a run or of a comparison.")
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder of a run, finished or not (experiments/NAME), or its saved results "
        "(results/NAME.json)",
    )
    parser.add_argument(
        "--output", metavar="FILE.html", help="default for one run: RUN/report.html"
    )
    return parser


def compress_parser() -> argparse.ArgumentParser:
    """Return the command line of compress.py."""
    parser = new_parser(
        "Make a trained image-restoration network smaller and faster.",
        epilog="Exit code: 0 done, 2 a mistake or a target that cannot be met, 130 stopped by "
        "Ctrl-C, with the best so far written.",
    )
    parser.add_argument(
        "--model",
        required=True,
        metavar="FILE",
        help="checkpoint: .pth, .ckpt, .safetensors of any project that is recognized by its "
        "weights, or a model file of ours, dense or pruned, or zoo:NAME",
    )
    parser.add_argument(
        "--images", required=True, metavar="FOLDER", help="any images; 20 and more are useful"
    )
    parser.add_argument(
        "--target",
        default="macs=0.5",
        metavar="KIND=VALUE",
        help="fraction to keep: macs=0.5, params=..., activations=..., latency=...; or dB that may "
        "be lost: quality=0.1; default: macs=0.5",
    )
    parser.add_argument(
        "--runtime",
        choices=RUNTIME_NAMES,
        help="program that a target of latency is measured in; default: torch",
    )
    # How far minutes reach depends on the machine; a number of iterations can be repeated.
    parser.add_argument("--minutes", type=float, default=30.0, help="for all of it; default: 30")
    parser.add_argument(
        "--iterations", type=int, metavar="N", help="of finetuning, instead of --minutes"
    )
    parser.add_argument(
        "--truth",
        metavar="FOLDER",
        help="ground truths of --images, by name; default: the original's outputs are the target",
    )
    parser.add_argument(
        "--degradation",
        metavar="KIND",
        help="--images are truths, inputs are made from them: bicubic, or noise=25; "
        "none: they are inputs; default: none",
    )
    parser.add_argument(
        "--drawn",
        type=int,
        metavar="N",
        help="drawn images (text, charts, full colors) to train on as well, which photographs "
        "lack; default: one for seven of --images, at most 100; 0: none",
    )
    add_network_arguments(
        parser,
        "network of the checkpoint: EDSR, basicsr:RCAN, spandrel:Compact, or a class of your own, "
        "path/to/net.py:CLASS; default: found out from the weights",
    )
    _add_compress_outputs(parser)
    return parser


def _add_compress_outputs(parser: argparse.ArgumentParser) -> None:
    """Add what compress.py writes, and how a run is repeated or resumed."""
    parser.add_argument(
        "--output", metavar="FILE", help="default: MODEL_TARGET.safetensors in this folder"
    )
    parser.add_argument(
        "--drop_in",
        action="store_true",
        help="keep the constructor's shape (one width; fewer blocks where the class has a count), "
        "for programs that know only the original class",
    )
    parser.add_argument(
        "--remove_blocks",
        action="store_true",
        help="residual branches may be removed as a whole, down to the constant that they leave; "
        "the plan says which",
    )
    parser.add_argument("--onnx", action="store_true", help="write an ONNX file as well")
    parser.add_argument(
        "--auto_resume", action="store_true", help="resume from the newest state of the same run"
    )
    parser.add_argument(
        "--save_options", metavar="FILE", help="write the option file that train.py would take"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
