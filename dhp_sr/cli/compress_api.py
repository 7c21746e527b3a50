"""`dhp_sr.compress`: a network of a program in, a smaller one out."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from dhp_sr.archs import ARCHS
from dhp_sr.cli.compress import compress_checkpoint
from dhp_sr.cli.compress_outputs import CompressReport
from dhp_sr.cli.compress_request import QUALITY, CompressRequest, Target
from dhp_sr.deploy import register
from dhp_sr.deploy.model_info import attach_info, attached_info, is_registered, stated_info
from dhp_sr.utils.cost_kinds import COST_KINDS
from dhp_sr.utils.errors import UserError
from dhp_sr.zoo.checkpoints import Checkpoint
from dhp_sr.zoo.names import register_known
from dhp_sr.zoo.third_party import describe_by_output
from dhp_sr.zoo.value_range import adapt_range


def compress(
    network: nn.Module,
    images: str | Path,
    *,
    minutes: float = 30.0,
    iterations: int | None = None,
    truth: str | Path | None = None,
    degradation: str | None = None,
    output: str | Path | None = None,
    root: str | Path | None = None,
    seed: int = 0,
    remove_blocks: bool = False,
    say: Callable[[str], None] = print,
    **target: float,
) -> tuple[nn.Module, CompressReport]:
    """Compress a trained network; see `dhp_sr.compress`, which calls this."""
    if len(target) != 1:
        known = ", ".join([*COST_KINDS, QUALITY])
        raise UserError(f"expected a single target of {known}, got {target or 'none'}")
    kind, value = next(iter(target.items()))
    register_known()
    checkpoint = checkpoint_of(network)
    request = CompressRequest(
        # Through text, so that the same checks and messages hold as on the command line.
        images=Path(images),
        target=Target.from_text(f"{kind}={value}"),
        minutes=minutes,
        iterations=iterations,
        truths=None if truth is None else Path(truth),
        degradation=degradation,
        name=type(network).__name__,
        output=None if output is None else Path(output),
        remove_blocks=remove_blocks,
        seed=seed,
    )
    folder = Path.cwd() if root is None else Path(root)
    report = compress_checkpoint(checkpoint, request, root=folder, say=say)
    return report.network, report


def checkpoint_of(network: nn.Module) -> Checkpoint:
    """Describe a network of a program, so that a run can build it again.

    A class that nothing knows is registered under `user:CLASS`, as a copy of this object: the
    result can be loaded again where a program registers a constructor of that name.

    Raises:
        UserError: It is no network that restores images.
    """
    # The caller's network stays as it was, on its device and in its mode.
    copied = copy.deepcopy(network).cpu().float().eval()
    name = type(network).__name__
    info = attached_info(copied)
    if info is None and ARCHS.get(name) is type(network):
        info = stated_info(copied)
    if info is not None and is_registered(info.architecture):
        return Checkpoint(copied, info.architecture, dict(info.arguments), name)
    architecture = f"user:{name}"

    # A run builds the network before it loads the weights: copies of this object do for that.
    def construct(**arguments: Any) -> nn.Module:
        return adapt_range(lambda inner: copy.deepcopy(copied), arguments)

    register(architecture, construct)
    convolutions = [layer for layer in copied.modules() if isinstance(layer, nn.Conv2d)]
    # Networks rarely begin otherwise than with a convolution.
    channels = convolutions[0].in_channels if convolutions else 3
    describe_by_output(copied, architecture, {"num_in_ch": channels})
    described = attached_info(copied)
    assert described is not None, "just attached"
    # The number of channels was a hint for the probe; `construct` takes no such argument.
    attach_info(copied, replace(described, arguments={}))
    return Checkpoint(copied, architecture, {}, name)
