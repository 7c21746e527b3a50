"""Networks of spandrel, the loader of community upscalers: by name, and detected from weights.

spandrel reads a network's settings from the shapes of its weights. It is imported only when a
network of it is asked for, and it is never given a file: we read files ourselves.
"""

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from torch import Tensor, nn

from dhp_sr.basicsr_adapter.shim import prepare_torchvision
from dhp_sr.utils.errors import UserError, constructor_error, nearest

if TYPE_CHECKING:
    import spandrel

SPANDREL_IN_FILES = (
    "ATD.ATD",
    "AuraSR.UnetUpsampler",
    "CRAFT.CRAFT",
    "Compact.SRVGGNetCompact",
    "DAT.DAT",
    "DCTLSA.DCTLSA",
    "DITN.DITN_Real",
    "DRCT.DRCT",
    "DRUNet.DRUNet",
    "DnCNN.DnCNN",
    "ESRGAN.RRDBNet",
    "FBCNN.FBCNN",
    "FDAT.FDAT",
    "FFTformer.FFTformer",
    "GFPGAN.GFPGANv1Clean",
    "GRL.GRL",
    "HAT.HAT",
    "HVICIDNet.CIDNet",
    "IPT.IPT",
    "KBNet.KBNet_l",
    "KBNet.KBNet_s",
    "LaMa.LaMa",
    "MMRealSR.MMRRDBNet_test",
    "MixDehazeNet.MixDehazeNet",
    "MoESR.MoESR",
    "MoSR.MoSR",
    "NAFNet.NAFNet",
    "OmniSR.OmniSR",
    "PLKSR.PLKSR",
    "PLKSR.RealPLKSR",
    "RCAN.RCAN",
    "RGT.RGT",
    "RealCUGAN.UpCunet2x",
    "RealCUGAN.UpCunet2x_fast",
    "RealCUGAN.UpCunet3x",
    "RealCUGAN.UpCunet4x",
    "RestoreFormer.RestoreFormer",
    "RetinexFormer.RetinexFormer",
    "SAFMN.SAFMN",
    "SAFMNBCIE.SAFMN_BCIE",
    "SCUNet.SCUNet",
    "SPAN.SPAN",
    "SeemoRe.SeemoRe",
    "SwiftSRGAN.Generator",
    "Swin2SR.Swin2SR",
    "SwinIR.SwinIR",
    "Uformer.Uformer",
)
"""Networks of spandrel that model files may name: folder of the architecture, and class."""

INSTALL_HINT = "pip install 'dhp_sr[spandrel]'"


@dataclass(frozen=True)
class Detected:
    """A network that spandrel made for the shapes of a checkpoint's weights."""

    name: str
    """Name for `names.build_named`: `spandrel:Compact.SRVGGNetCompact`."""
    arguments: dict[str, object]
    """Arguments of the constructor."""
    title: str
    """Name of the architecture for people, with its tags: `RealESRGAN Compact (64nf, 16nc)`."""
    scale: int
    in_channels: int
    out_channels: int
    size_multiple: int
    network: nn.Module
    """Network with the weights, in evaluation mode."""


def build_spandrel(name: str, arguments: Mapping[str, object]) -> nn.Module:
    """Construct a network of spandrel with fresh weights.

    Args:
        name: `Compact.SRVGGNetCompact`: folder of the architecture, and class.
        arguments: The constructor's, and those of `value_range.adapt_range`.

    Raises:
        UserError: spandrel is not installed, the name is unknown, or the arguments are refused.
    """
    from dhp_sr.zoo.value_range import adapt_range

    if name not in SPANDREL_IN_FILES:
        raise UserError(f"spandrel has no network {name!r}{nearest(name, SPANDREL_IN_FILES)}")
    import_spandrel()
    folder, class_name = name.split(".")
    module = importlib.import_module(f"spandrel.architectures.{folder}")
    # The folder may export its class under another name: Compact for SRVGGNetCompact.
    candidates: list[type[nn.Module]] = []
    for value in vars(module).values():
        if inspect.isclass(value) and issubclass(value, nn.Module):
            candidates.append(value)
    network_class = next(value for value in candidates if value.__name__ == class_name)
    try:
        return adapt_range(lambda inner: network_class(**inner), arguments)
    except Exception as error:
        raise constructor_error(f"spandrel:{name}", arguments, error) from error


def import_spandrel() -> ModuleType:
    """Import the package.

    Raises:
        UserError: It is not installed.
    """
    # The shim first: spandrel imports torchvision, which fails beside a torch without CUDA.
    prepare_torchvision()
    try:
        return importlib.import_module("spandrel")
    except ModuleNotFoundError as error:
        raise UserError(f"spandrel is not installed: {INSTALL_HINT} ({error})") from error


def detect_networks(
    weights: Mapping[str, Tensor], architecture: str | None = None
) -> tuple[list[Detected], list[str]]:
    """Find all architectures of spandrel that fit weights exactly.

    Args:
        weights: Tensors by key; left as they were.
        architecture: Id of the only architecture to try, such as `Compact`; None tries all.

    Returns:
        Those that fit, and a line for each architecture that recognizes its keys but does not fit.

    Raises:
        UserError: spandrel is not installed, or has no such architecture.
    """
    spandrel = import_spandrel()
    detected: list[Detected] = []
    misfits: list[str] = []
    ids = []
    for support in spandrel.MAIN_REGISTRY:
        identifier = support.architecture.id
        ids.append(identifier)
        is_asked_for = architecture is None or identifier == architecture
        if identifier == "dhp_sr" or not is_asked_for or not support.detect(dict(weights)):
            continue
        try:
            descriptor = support.architecture.load(dict(weights))
        except Exception as error:
            # Constructors and loaders of other people raise anything.
            misfits.append(f"{identifier}: {str(error)[:300]}")
            continue
        if isinstance(descriptor, spandrel.ImageModelDescriptor):
            detected.append(_describe(descriptor))
        else:
            misfits.append(f"{identifier}: takes further inputs beside the image")
    if architecture is not None and architecture not in ids:
        raise UserError(
            f"spandrel has no architecture {architecture!r}{nearest(architecture, ids)}"
        )
    return detected, misfits


def _describe(descriptor: "spandrel.ImageModelDescriptor[nn.Module]") -> Detected:
    network = descriptor.model.eval()
    folder = type(network).__module__.split(".")[2]
    tags = ", ".join(descriptor.tags)
    title = descriptor.architecture.name
    return Detected(
        name=f"spandrel:{folder}.{type(network).__name__}",
        arguments=dict(network.hyperparameters),
        title=f"{title} ({tags})" if tags else title,
        scale=descriptor.scale,
        in_channels=descriptor.input_channels,
        out_channels=descriptor.output_channels,
        size_multiple=descriptor.size_requirements.multiple_of,
        network=network,
    )
