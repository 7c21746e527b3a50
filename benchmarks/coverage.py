"""Coverage of other people's networks: planned, cut exactly, and counted rightly.

    python -m benchmarks.coverage [--library spandrel timm torchvision] [--only NAME ...]

Every network is built in a small setting with random weights, converted, pruned to half its
multiply-adds, masked at random and cut. Masked and cut network are compared in float64 at two
sizes, and the plan's total is compared with two other counters. Each network runs in a process of
its own with a time limit. The architectures `spandrel_extra_arches` adds are included where that
package is installed.
"""

import argparse
import contextlib
import copy
import importlib
import json
import multiprocessing
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.coverage_networks import NETWORKS, Setting
from dhp_sr.basicsr_adapter.shim import prepare_torchvision
from dhp_sr.hyper import HyperNet, convert
from dhp_sr.metrics.complexity import complexity, decomposed_attention
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.network_io import relative_difference

LIMIT = 1e-8
"""Largest relative difference of masked and cut network, in float64."""

MISCOUNT = 0.01
"""Largest relative difference of two counters."""

RESULTS = Path(__file__).parent.parent / "results" / "coverage.json"

_SLOW = ("torch._dynamo", "torch.utils.flop_counter", "sympy")
"""Packages that torch imports when it is first asked for a shape or a count."""

Row = dict[str, Any]

Inputs = tuple[Tensor, ...]
"""All inputs of a network, the image first."""


class DoublePrecision(TorchFunctionMode):
    """Lets a network that casts to single precision compute in double precision throughout.

    Args:
        is_hidden: whether tensors in double precision say that they are single, for a forward that
            asserts single precision.
    """

    def __init__(self, is_hidden: bool = False) -> None:
        super().__init__()
        self._is_hidden = is_hidden

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch with other types."""
        if self._is_hidden and func == Tensor.dtype.__get__:  # type: ignore[attr-defined]
            dtype = func(*args)
            return torch.float32 if dtype is torch.float64 else dtype
        if func is Tensor.float:
            func = Tensor.double
        args, kwargs = torch.utils._pytree.tree_map(
            lambda value: torch.float64 if value is torch.float32 else value, (args, kwargs or {})
        )
        return func(*args, **kwargs)


def build(library: str, setting: Setting) -> nn.Module:
    """Build a network in float64 and evaluation mode, with random norms, biases and scales."""
    torch.manual_seed(0)
    module = importlib.import_module(setting.module)
    constructor = getattr(module, setting.constructor)
    network = constructor(*setting.positional, **setting.arguments).double().eval()
    with torch.no_grad():
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if name.endswith("running_var"):
                tensor.uniform_(0.8, 1.2)
            elif tensor.dim() == 1 and tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor) * 0.1)
    return network


def judge(library: str, name: str) -> Row:
    """Return the result of one network."""
    setting = NETWORKS[library][name]
    network = build(library, setting)
    example = random_inputs(setting)
    row: Row = {"library": library, "network": name}
    try:
        hyper = convert(network, example)
    except UserError as error:
        return {**row, "result": "refused", "reason": str(error)}
    row["training_time_form"] = hyper.plan.training_time_form
    counts = _counts(network, example, hyper.plan.training_time_form)
    counts["plan"] = hyper.dense_cost().macs
    row["macs"] = counts
    difference = _difference(network, hyper, example)
    if difference > LIMIT:
        return {**row, "result": "WRONG", "reason": f"converted differs by {difference:.1e}"}
    try:
        report = hyper.prune_to(macs=0.5, round_to=1, min_width=1)
        row["result"] = "exact"
        row["keep_ratio"] = report.macs_ratio
    except UserError as error:
        row["result"] = "to less"
        row["reason"] = str(error)
        row["keep_ratio"] = _lower_bound(hyper)
    problems = []
    # Without prunable channels the cut network is the network.
    for seed in (1, 2) if hyper.plan.prunable else ():
        _mask_randomly(hyper, seed)
        problems += _compare(hyper, setting, counted=seed == 1)
    macs = list(counts.values())
    if max(macs) > (1 + MISCOUNT) * min(macs):
        problems.append(("miscounted", f"plan {counts}"))
    if problems:
        row["result"], row["reason"] = problems[0]
    return row


def random_inputs(setting: Setting, second: bool = False) -> Inputs:
    """Return inputs of the network with random values, a random mask included.

    Args:
        setting: row of the network.
        second: whether they have the second size and batch.
    """
    shape = setting.second_shape if second else setting.shape
    image = torch.rand(shape, dtype=torch.float64)
    if not setting.takes_mask:
        return (image,)
    mask = (torch.rand(shape[0], 1, *shape[2:]) < 0.5).double()
    return image, mask


def _copies(inputs: Inputs) -> Inputs:
    """Return copies of inputs, for operators that write into them."""
    return tuple(tensor.clone() for tensor in inputs)


def _counts(network: nn.Module, example: Inputs, training: bool) -> dict[str, float]:
    """Count a network; one that was planned in its training-time form is counted in that form."""
    counts: dict[str, float] = {}
    if not training:
        counts["complexity"] = complexity(network, example[0].shape, example[1:]).macs
    counts["torch"] = _torch_macs(network, example, training)
    return counts


def _torch_macs(network: nn.Module, example: Inputs, training: bool) -> float:
    twin = copy.deepcopy(network).train(training)
    # Of the fused kernels of attention torch counts only those of GPUs.
    kernels = sdpa_kernel(SDPBackend.MATH)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), decomposed_attention(), kernels, counter:
        twin(*_copies(example))
    return counter.get_total_flops() / 2


def _difference(first: nn.Module, second: nn.Module, example: Inputs) -> float:
    outputs = []
    with torch.no_grad():
        for network in (first, second):
            torch.manual_seed(0)
            outputs.append(network.eval()(*_copies(example)))
    return relative_difference(*outputs)


def _lower_bound(hyper: HyperNet) -> float:
    mask = torch.zeros_like(hyper.mask)
    for group in hyper.plan.prunable:
        mask[group.start] = True
    return hyper.cost_ratio("macs", mask)


def _mask_randomly(hyper: HyperNet, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for group in hyper.plan.prunable:
        mask = torch.rand(group.width, generator=generator) < 0.6
        mask[int(torch.randint(group.width, (1,), generator=generator))] = True
        masks[group.name] = mask
    hyper.set_masks(masks)


def _compare(hyper: HyperNet, setting: Setting, counted: bool) -> list[tuple[str, str]]:
    """List the faults of the cut network, its multiply-adds included if they are counted."""
    try:
        small = hyper.cut(check=False)
    except Exception as error:
        return [("WRONG", f"cut fails: {type(error).__name__}: {error}")]
    problems = []
    for is_second in (False, True):
        example = random_inputs(setting, is_second)
        shape = tuple(example[0].shape)
        try:
            with torch.no_grad():
                hyper(*_copies(example))
        except Exception:  # the network itself does not take this size
            if not is_second:
                raise
            continue
        try:
            difference = _difference(hyper, small, example)
        except Exception as error:
            text = str(error)
            kind = "WRONG"
            if "this forward was followed with" in text:
                kind = "one size"
            problems.append((kind, f"cut at {shape}: {type(error).__name__}: {text[:300]}"))
            continue
        if not difference <= LIMIT:
            problems.append(("WRONG", f"cut differs by {difference:.1e} at {shape}"))
    if counted:
        example = random_inputs(setting)
        macs = _torch_macs(small, example, hyper.plan.training_time_form)
        planned = hyper.cost().macs
        if abs(macs - planned) > MISCOUNT * macs:
            problems.append(("miscounted", f"cut: plan {planned:.4g}, counted {macs:.4g}"))
    return problems


def run(library: str, name: str, path: str, seconds: int) -> None:
    """Judge a network in a process of its own."""
    torch.set_num_threads(1)
    # Of the tables that a forward makes, too.
    torch.set_default_dtype(torch.float64)
    # Of processor time: other work on the machine does not count. SIGPROF ends the process.
    signal.setitimer(signal.ITIMER_PROF, seconds)
    precision: Any = contextlib.nullcontext()
    setting = NETWORKS[library][name]
    if setting.casts_to_single:
        precision = DoublePrecision(setting.asserts_single)
    try:
        with precision:
            row = judge(library, name)
    except Exception as error:
        row = {"library": library, "network": name, "result": "error"}
        row["reason"] = f"{type(error).__name__}: {error}"
        row["traceback"] = traceback.format_exc()[-1500:]
    Path(path).write_text(json.dumps(row))


def main() -> None:
    """Judge the networks, write and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", nargs="+", default=list(NETWORKS))
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--seconds", type=int, default=240)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    prepare_torchvision()
    for package in ("spandrel", "spandrel_extra_arches", "timm", "torchvision.models", *_SLOW):
        try:  # imported once, shared by all processes
            importlib.import_module(package)
        except ImportError:
            print(f"{package} is not installed")
    context = multiprocessing.get_context("fork")
    rows = json.loads(options.output.read_text())["rows"] if options.output.exists() else []
    table = {(row["library"], row["network"]): row for row in rows}
    for library in options.library:
        for name in NETWORKS[library]:
            if options.only and name not in options.only:
                continue
            path = Path(f"{options.output}.{os.getpid()}")
            process = context.Process(target=run, args=(library, name, str(path), options.seconds))
            process.start()
            process.join()
            row = {"library": library, "network": name, "result": "no time"}
            if path.exists():
                row = json.loads(path.read_text())
                path.unlink()
            table[library, name] = row
            print(_line(row), flush=True)
            rows = [table[key] for key in sorted(table)]
            options.output.write_text(
                json.dumps({"kind": "coverage", "rows": rows}, indent=1) + "\n"
            )
    for library in options.library:
        results = [table[key]["result"] for key in table if key[0] == library]
        counts = {result: results.count(result) for result in sorted(set(results))}
        print(f"{library}: {len(results)} networks, {counts}")


def _line(row: Row) -> str:
    ratio = f"{row['keep_ratio']:.3f}" if "keep_ratio" in row else ""
    return f"{row['library']:12}{row['network']:28}{row['result']:11}{ratio:7}" + str(
        row.get("reason", "")
    )[:300].replace("\n", " ")


if __name__ == "__main__":
    sys.exit(main())
