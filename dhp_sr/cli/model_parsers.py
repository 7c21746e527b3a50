"""Command lines of test, export and infer, which take finished models."""

import argparse

from dhp_sr.cli.export_formats import EXPORT_FORMATS
from dhp_sr.cli.parsers import add_network_arguments, add_option_file, new_parser
from dhp_sr.utils.devices import RUNTIME_NAMES

IMAGE_FORMATS = ("png", "jpg", "webp", "tiff", "bmp", "same")
MODEL_HELP = "model file, or zoo:NAME; zoo: lists the models that come with the program"


def evaluate_parser() -> argparse.ArgumentParser:
    """Return the command line of test.py."""
    # No defaults: beside -opt, what was given must be told apart from what was not.
    parser = new_parser("Score models on test sets.")
    add_option_file(parser, "option file: scores the run's models on its test sets")
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
        choices=RUNTIME_NAMES,
        help="program that computes and is timed; default: by the file, torch for .safetensors",
    )
    _add_precision(parser)
    parser.add_argument(
        "--no_images",
        action="store_true",
        help="print means, not every image (--json has them all)",
    )
    parser.add_argument("--json", metavar="FILE", help="write the scores there")
    return parser


def export_parser() -> argparse.ArgumentParser:
    """Return the command line of export.py."""
    parser = new_parser("Write a model for other programs.")
    parser.add_argument(
        "--model",
        metavar="FILE",
        required=True,
        help=f"{MODEL_HELP}; with --arch, a .pth or safetensors of weights",
    )
    # Not required by argparse: `--model zoo:` alone lists the models. The service checks it.
    parser.add_argument("--format", choices=tuple(EXPORT_FORMATS))
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
    _add_int8(parser)
    add_network_arguments(parser, "network that the weights belong to: EDSR, basicsr:RCAN, ...")
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


def _add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16", "fp16"),
        help="default: fp32; between the int8 layers of OpenVINO's files bf16 where the processor "
        "has it",
    )


def _add_int8(parser: argparse.ArgumentParser) -> None:
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
    parser.add_argument(
        "--qat_steps",
        type=int,
        metavar="N",
        help="with --int8: steps of quantization-aware finetuning where int8 loses more than "
        "--max_loss without; 0: none; default: 300",
    )


def infer_parser() -> argparse.ArgumentParser:
    """Return the command line of infer.py."""
    parser = new_parser(
        "Restore images with a saved model.",
        epilog="Exit code: 0 all done, 1 some images failed (they are listed), "
        "2 a mistake in the arguments.",
    )
    parser.add_argument(
        "--model", required=True, metavar="FILE", help=f"{MODEL_HELP}; or .onnx, .xml"
    )
    _add_images(parser)
    _add_computation(parser)
    parser.add_argument("--quiet", action="store_true", help="print only what failed")
    return parser


def _add_images(parser: argparse.ArgumentParser) -> None:
    """Add what infer.py reads and writes."""
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
        "--format", choices=IMAGE_FORMATS, default="png", help="of the results; default: png"
    )
    parser.add_argument(
        "--suffix",
        default="",
        metavar="TEXT",
        help="added to the results' names, such as _x4; with it --output may be --input",
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
    # Fixed unless asked otherwise: two models are compared on the same noise.
    parser.add_argument("--seed", type=int, default=0, help="of the noise; default: 0")


def _add_computation(parser: argparse.ArgumentParser) -> None:
    """Add where and how infer.py computes: memory, tiles, precision, runtime."""
    # Of the whole process: users know what their machine has, not what a tile takes.
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
    _add_precision(parser)
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: cuda if any"
    )
    parser.add_argument(
        "--runtime",
        choices=(*RUNTIME_NAMES, "auto"),
        default="auto",
        help="program that computes; default: the fastest installed one that agrees with the "
        "file's usual one, tried where the work takes longer than half a minute",
    )
    parser.add_argument("--threads", type=int, help="of the processor; default: all")
