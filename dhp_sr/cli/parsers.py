"""Command lines of the entry points. Nothing heavy is imported, so that `--help` is instant."""

import argparse

FORMATS = ("png", "jpg", "webp", "tiff", "bmp", "same")
RUNTIMES = ("torch", "torch.compile", "onnxruntime", "openvino", "tensorrt")
MODEL_HELP = "model file, or zoo:NAME; zoo: lists the models that come with the program"
SET_HELP = "change options, for example compress.target.macs=0.3 or compress=null"


def _parser(description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    # Abbreviations would break scripts whenever an option is added.
    return argparse.ArgumentParser(description=description, epilog=epilog, allow_abbrev=False)


def _add_option_file(parser: argparse.ArgumentParser, help_text: str) -> None:
    parser.add_argument("-opt", "--opt", metavar="FILE", help=help_text)
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="a.b=value", help=SET_HELP
    )


def _add_network_arguments(parser: argparse.ArgumentParser, arch_help: str) -> None:
    parser.add_argument("--arch", metavar="NAME", help=arch_help)
    # After --arch, so the parser must allow positional arguments between options.
    parser.add_argument(
        "arguments", nargs="*", metavar="key=value", help="with --arch: the network's arguments"
    )


def train_parser() -> argparse.ArgumentParser:
    """Return the command line of train.py."""
    parser = _parser("Train, search, prune and finetune.")
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
    parser = _parser("Show what can be pruned in a network.")
    _add_option_file(parser, "option file: its network, and whether its targets can be met")
    _add_network_arguments(parser, "name in dhp_sr/archs or BasicSR, or torchvision:NAME")
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


def evaluate_parser() -> argparse.ArgumentParser:
    """Return the command line of test.py."""
    parser = _parser("Score models on test sets.")
    _add_option_file(parser, "option file: scores the run's models on its test sets")
    parser.add_argument(
        "--model",
        nargs="+",
        metavar="FILE",
        help="model files, .safetensors, .onnx or OpenVINO .xml, or zoo:NAME, side by side; with "
        "-opt, instead of the run's models; zoo: lists the models that come with the program",
    )
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="FOLDER",
        help="ground-truth images, or labeled ones for a classifier; a set for each folder",
    )
    parser.add_argument("--sigma", type=float, help="noise level for denoisers, 0-255 scale")
    parser.add_argument("--max_images", type=int, help="only the first so many of each set")
    parser.add_argument(
        "--crop_border", type=int, help="pixels cropped; default: the scale, 0 for denoising"
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), help="default: cuda where available"
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="input for time and memory; default: 128 128, for a classifier its input size",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        metavar="N",
        help="timed passes of each model; default: 10; 0: time and memory are not measured",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="of the CPU; default: as many as torch takes"
    )
    parser.add_argument(
        "--runtime",
        choices=RUNTIMES,
        help="program that computes and is timed; default: by the file, torch for .safetensors",
    )
    parser.add_argument(
        "--no_images",
        action="store_true",
        help="print means, not every image (--json has them all)",
    )
    parser.add_argument("--json", metavar="FILE", help="write the scores there")
    return parser


def export_parser() -> argparse.ArgumentParser:
    """Return the command line of export.py."""
    parser = _parser("Write a model for other programs.")
    parser.add_argument(
        "--model",
        metavar="FILE",
        required=True,
        help=f"{MODEL_HELP}; with --arch, a .pth or safetensors of weights",
    )
    # Not required by argparse: `--model zoo:` alone lists the models. The service checks it.
    parser.add_argument("--format", choices=("onnx", "openvino", "pt2", "safetensors"))
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="default: beside the model, under its name; of zoo:NAME, in the current folder",
    )
    parser.add_argument(
        "--opset", type=int, choices=(17, 18, 19, 20), help="of an ONNX file; default: 20"
    )
    parser.add_argument(
        "--half",
        action="store_true",
        help="weights, computation, input and output in fp16; OpenVINO: weights alone",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="onnx, openvino: weights and computation in int8, see --calibration",
    )
    parser.add_argument(
        "--calibration",
        metavar="FOLDER",
        help="with --int8: ground-truth images; inputs are made of them as by test.py",
    )
    parser.add_argument("--sigma", type=float, help="noise of a denoiser's --calibration images")
    parser.add_argument(
        "--max_loss",
        type=float,
        metavar="DB",
        help="with --int8: largest loss against fp32; more is an error; default: 0.1",
    )
    _add_network_arguments(parser, "network that the weights belong to: EDSR, basicsr:RCAN, ...")
    parser.add_argument(
        # The second spelling is that of the first edition.
        "--license",
        "--licence",
        dest="license",
        metavar="TEXT",
        help="stated in the file; default: what the model states",
    )
    parser.add_argument(
        "--tolerance", type=float, help="largest difference to PyTorch; default: 1e-4, half 1e-2"
    )
    return parser


def infer_parser() -> argparse.ArgumentParser:
    """Return the command line of infer.py."""
    parser = _parser(
        "Restore images with a saved model.",
        epilog="Exit code: 0 all done, 1 some images failed (they are listed), "
        "2 a mistake in the arguments.",
    )
    parser.add_argument(
        "--model", required=True, metavar="FILE", help=f"{MODEL_HELP}; or .onnx, .xml"
    )
    # Not required by argparse: `--model zoo:` alone lists the models. The service checks them.
    parser.add_argument(
        "--input",
        metavar="PATH",
        help="an image, or a folder with its folders; -: frames of a video (raw rgb24) from stdin",
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="where the results go, under the same names; -: frames to stdout",
    )
    parser.add_argument("--size", metavar="WxH", help="of the frames, with --input -")
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
        "--overwrite", action="store_true", help="restore images again that have a result"
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
    parser.add_argument(
        "--overlap",
        type=int,
        metavar="PIXELS",
        help="around each tile; default: the network's receptive field, so that results are "
        "those of whole images",
    )
    parser.add_argument(
        "--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="default: fp32"
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: cuda if any"
    )
    parser.add_argument(
        "--runtime",
        choices=(*RUNTIMES, "auto"),
        default="auto",
        help="program that computes; default: the fastest installed one that agrees with the "
        "file's usual one, tried where the work takes longer than half a minute",
    )
    parser.add_argument("--threads", type=int, help="of the processor; default: all")
    parser.add_argument("--quiet", action="store_true", help="print only what failed")
    return parser


def report_parser() -> argparse.ArgumentParser:
    """Return the command line of report.py."""
    parser = _parser("Make one HTML file, which needs nothing else, of a run or of a comparison.")
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
    parser = _parser(
        "Make a trained image-restoration network smaller and faster.",
        epilog="Exit code: 0 done, 2 a mistake or a target that cannot be met, 130 stopped by "
        "Ctrl-C, with the best so far written.",
    )
    parser.add_argument(
        "--model",
        required=True,
        metavar="FILE",
        help="checkpoint: .pth, .ckpt, .safetensors of any project that is recognized by its "
        "weights, or a model file, or zoo:NAME",
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
    parser.add_argument("--minutes", type=float, default=30.0, help="for all of it; default: 30")
    parser.add_argument(
        "--iterations", type=int, metavar="N", help="of finetuning, instead of --minutes"
    )
    parser.add_argument(
        "--output", metavar="FILE", help="default: MODEL_TARGET.safetensors in this folder"
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
    _add_network_arguments(
        parser,
        "network of the checkpoint: EDSR, basicsr:RCAN, spandrel:Compact, or a class of your own, "
        "path/to/net.py:CLASS; default: found out from the weights",
    )
    parser.add_argument(
        "--drop_in",
        action="store_true",
        help="keep the constructor's shape, for programs that know only the original class",
    )
    parser.add_argument("--onnx", action="store_true", help="write an ONNX file as well")
    parser.add_argument(
        "--auto_resume", action="store_true", help="go on from the newest state of the same run"
    )
    parser.add_argument(
        "--save_options", metavar="FILE", help="write the option file that train.py would take"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    return parser
