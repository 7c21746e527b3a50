"""Our model files in spandrel, the loader of chaiNNer, ComfyUI and others.

    import spandrel
    import dhp_sr.deploy.spandrel  # from here on spandrel knows our files

    descriptor = spandrel.ModelLoader().load_from_file("pruned.safetensors")

Spandrel gives an architecture the tensors of a file alone; ours finds the description among them, see `embedded.py`.
Importing the module registers: whoever imports it wants nothing else of it.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from dhp_sr.basicsr_adapter.shim import prepare_torchvision
from dhp_sr.deploy.embedded_manifest import extract
from dhp_sr.deploy.model_file import fill
from dhp_sr.deploy.probe_shapes import out_channels
from dhp_sr.deploy.rebuild import rebuild
from dhp_sr.deploy.safetensors_io import DESCRIPTION, ModelFileError
from dhp_sr.deploy.third_party import check_restores
from dhp_sr.utils.pixels import round_up

prepare_torchvision()  # which spandrel imports
import spandrel  # noqa: E402

ARCHITECTURE_ID = "dhp_sr"
LARGEST_HALF = 65504.0
MARGIN = 16
"""How far the largest value seen in a pass stays below the largest number of fp16, for images that are worse."""


class UnusableFileError(ModelFileError, spandrel.UnsupportedModelError):
    """A file of ours that is damaged or does another job, in the class that users of spandrel's loader expect."""


class DhpSrArchitecture(spandrel.Architecture[nn.Module]):
    """Every network that `save_model` has written, dense or pruned."""

    def __init__(self) -> None:
        super().__init__(
            id=ARCHITECTURE_ID, name="dhp_sr", detect=lambda state_dict: DESCRIPTION in state_dict
        )

    def load(self, state_dict: dict[str, Any]) -> "spandrel.ImageModelDescriptor[nn.Module]":
        """Return the descriptor of a model.

        Args:
            state_dict: all tensors of a file, by key.

        Raises:
            UnusableFileError: description and tensors do not make one working network, or it does not restore images.
        """
        try:
            return self._descriptor(state_dict)
        except ModelFileError as error:
            raise UnusableFileError(str(error)) from error

    def _descriptor(self, state_dict: dict[str, Any]) -> "spandrel.ImageModelDescriptor[nn.Module]":
        manifest, weights = extract(state_dict)
        check_restores(manifest["task"], DESCRIPTION)
        shapes = {key: tuple(tensor.shape) for key, tensor in weights.items()}
        network = fill(rebuild(manifest, shapes), weights)
        return spandrel.ImageModelDescriptor(
            network,
            weights,
            architecture=self,
            purpose="SR" if manifest["task"] == "sr" else "Restoration",
            tags=_tags(manifest),
            supports_half=fits_half(network, manifest["in_channels"], manifest["size_multiple"]),
            supports_bfloat16=True,
            scale=manifest["scale"],
            input_channels=manifest["in_channels"],
            output_channels=out_channels(network),
            size_requirements=spandrel.SizeRequirements(
                minimum=manifest.get("smallest_side", 0), multiple_of=manifest["size_multiple"]
            ),
            tiling=spandrel.ModelTiling.SUPPORTED,
        )


def register(registry: "spandrel.ArchRegistry" = spandrel.MAIN_REGISTRY) -> None:
    """Let a registry of spandrel know our files; harmless when called again.

    Ours is asked first: its key is in no other file, while names of layers are.

    Args:
        registry: by default the one that every `ModelLoader` uses.
    """
    others = tuple(
        support.architecture.id
        for support in registry
        if support.architecture.id != ARCHITECTURE_ID
    )
    support = spandrel.ArchSupport.from_architecture(DhpSrArchitecture(), before=others)
    registry.add(support, ignore_duplicates=True)


@torch.no_grad()
def fits_half(network: nn.Module, in_channels: int, size_multiple: int = 1) -> bool:
    """Return whether every layer's output stays far inside the range of fp16, on an image of noise and of full edges.

    Args:
        network: with its weights; left as it was.
        in_channels: of its input.
        size_multiple: of the sides of its input.
    """
    peaks: list[Tensor] = []
    watched = copy.deepcopy(network).cpu().float().eval()
    for layer in watched.modules():
        if not list(layer.children()):
            layer.register_forward_hook(lambda _, inputs, output: peaks.append(output.abs().max()))
    side = round_up(32, size_multiple)
    noise = torch.rand(1, in_channels, side, side, generator=torch.Generator().manual_seed(0))
    edges = (torch.arange(side) // 4 % 2).float().expand(1, in_channels, side, side)
    watched(torch.cat([noise, edges, 1 - edges]))
    return bool(torch.stack(peaks).max() * MARGIN < LARGEST_HALF)


def _tags(manifest: dict[str, Any]) -> list[str]:
    return [manifest["architecture"], f"{manifest['params'] / 1e6:.2f}M params"]


register()
