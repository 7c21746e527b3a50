"""Time of a plain training step against that of BasicSR's SRModel.

    $ python benchmarks/step_basicsr.py    # results/step_basicsr.json

Network, batch, loss (L1) and optimizer (Adam) are the same; EDSR is BasicSR's own there, DnCNN,
which it does not have, is ours. Steps take turns in one process, and processor times of a round are
compared. BasicSR computes in float32. Rows `fp32` compare the same arithmetic; the others add what
option files can switch on, and `compile` is `torch.compile` around the same step.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(ROOT)]  # in place of this folder, whose modules must not hide others

import torch  # noqa: E402

from benchmarks.result_files import describe_measurement, merge_rows, processor_name  # noqa: E402
from benchmarks.timing import measure, quartiles, ratios  # noqa: E402
from dhp_sr.archs import build  # noqa: E402
from dhp_sr.basicsr_adapter.shim import prepare_basicsr  # noqa: E402
from dhp_sr.cli.process import keep_memory  # noqa: E402
from dhp_sr.config import load_options  # noqa: E402
from dhp_sr.training.distributed import DistributedContext  # noqa: E402
from dhp_sr.training.trainer import Trainer  # noqa: E402
from dhp_sr.utils.devices import has_fast_bf16  # noqa: E402
from dhp_sr.utils.errors import exit_code  # noqa: E402

OPTION_FILES = {"EDSR": "edsr_x4_cpu.yml", "DnCNN": "dncnn_s25_cpu.yml"}
COMMON = (
    "compress=null",
    "train.optim_g={type: Adam, lr: 1e-4}",
    "train.grad_clip=null",
    "train.pixel_opt={type: L1Loss}",
)
SETTINGS: dict[str, tuple[str, ...]] = {
    "fp32": ("train.amp=none", "train.channels_last=false"),
    "fp32, channels_last": ("train.amp=none", "train.channels_last=true"),
    "bf16, channels_last": ("train.amp=bf16", "train.channels_last=true"),
}
COMPILED = {
    "fp32, compile": SETTINGS["fp32"],
    "fp32, compile, channels_last": SETTINGS["fp32, channels_last"],
}
KEY = ("network", "setting", "threads", "processor")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=OPTION_FILES, default=list(OPTION_FILES))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="needs a compiler for C++")
    parser.add_argument("--out", default=ROOT / "results" / "step_basicsr.json", type=Path)
    parser.add_argument("--note", default="", help="about the machine, such as other work on it")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    given = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser().parse_args(given)
    command = shlex.join(["benchmarks/step_basicsr.py", *given])
    return exit_code(lambda: run(arguments, command))


def run(arguments: argparse.Namespace, command: str) -> int:
    """Measure the networks and write the rows."""
    keep_memory()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cpu")
    for network in arguments.networks:
        steps, shape = make_steps(network, arguments.batch, arguments.compile)
        times = measure(steps, arguments.rounds, device)
        rows = []
        for setting in steps:
            if setting == "basicsr":
                continue
            rows.append(
                {
                    "network": network,
                    "option_file": OPTION_FILES[network],
                    "setting": setting,
                    "threads": arguments.threads,
                    "input": shape,
                    "rounds": arguments.rounds,
                    "basicsr_ms": quartiles(times["basicsr"].cpu_ms),
                    "dhp_sr_ms": quartiles(times[setting].cpu_ms),
                    "speed": ratios(times["basicsr"].cpu_ms, times[setting].cpu_ms),
                    "processor": processor_name(),
                    "measured": describe_measurement(device, command, arguments.note),
                }
            )
            print(f"{network} {setting}: {rows[-1]['speed']['median']:.2f}x BasicSR")
        merge_rows(arguments.out, "step_basicsr", rows, KEY)
    return 0


def make_steps(
    network: str, batch_size: int, with_compile: bool
) -> tuple[dict[str, Callable[[], object]], list[int]]:
    """Make a function for a step in each setting; return them and the shape of the input."""
    settings = dict(SETTINGS)
    if with_compile:
        settings |= COMPILED
    if not has_fast_bf16(torch.device("cpu")):
        # Emulated, it is slower than fp32.
        settings = {name: changes for name, changes in settings.items() if "bf16" not in name}
    steps: dict[str, Callable[[], object]] = {}
    batch: dict[str, torch.Tensor] = {}
    for setting, changes in settings.items():
        options = load_options(
            ROOT / "options" / OPTION_FILES[network], [*COMMON, *changes], check_network=None
        )
        if not batch:
            batch = make_batch(options, batch_size)
        trainer = Trainer(options, DistributedContext(torch.device("cpu")))
        trainer.advance(0)
        if setting in COMPILED:
            trainer.network.compile()
        steps[setting] = partial(trainer.step, batch, 1000)
    model = make_basicsr_model(network, options)
    steps["basicsr"] = partial(step_of_basicsr, model, batch)
    return steps, list(batch["lq"].shape)


def make_batch(options: Any, batch_size: int) -> dict[str, torch.Tensor]:
    """Return random images of the size that the option file trains on."""
    data = options.datasets["train"]
    generator = torch.Generator().manual_seed(0)
    batch = {}
    for key, side in (("lq", data.gt_size // options.scale), ("gt", data.gt_size)):
        shape = (batch_size, data.channels, side, side)
        batch[key] = torch.rand(shape, generator=generator)
    return batch


def make_basicsr_model(network: str, options: Any) -> Any:
    """Return an SRModel of BasicSR with the same network, loss and optimizer."""
    prepare_basicsr()
    from basicsr.models.sr_model import SRModel
    from basicsr.utils.registry import ARCH_REGISTRY

    arguments = options.network_g.arguments
    name = network
    if network == "DnCNN":
        # BasicSR has none
        name = "DnCNNOfOurs"
        ARCH_REGISTRY._do_register(name, partial(build, "DnCNN"))
    else:
        arguments = {"num_in_ch": 3, "num_out_ch": 3, **arguments}
    settings = {
        "num_gpu": 0,
        "is_train": True,
        "dist": False,
        "scale": options.scale,
        "network_g": {"type": name, **arguments},
        "path": {},
        "train": {
            "optim_g": {"type": "Adam", "lr": 1e-4},
            "scheduler": {"type": "MultiStepLR", "milestones": [10**6], "gamma": 0.5},
            "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
        },
    }
    return SRModel(settings)


def step_of_basicsr(model: Any, batch: dict[str, torch.Tensor]) -> None:
    """Take a step as BasicSR's train.py does; the learning rate is constant."""
    model.feed_data(batch)
    model.optimize_parameters(1000)


if __name__ == "__main__":
    sys.exit(main())
