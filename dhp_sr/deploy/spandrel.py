"""Our model files in spandrel, the loader of chaiNNer, ComfyUI and others.

    import dhp_sr.deploy.spandrel  # registers our files in spandrel
    import spandrel

    descriptor = spandrel.ModelLoader().load_from_file("pruned.safetensors")

Spandrel gives an architecture the tensors of a file alone; ours reads the manifest embedded among
them, see `model_file.embed`. Importing the module registers: there is no other reason to import it.
"""

import torch
from torch import Tensor, nn

from dhp_sr.basicsr_adapter.shim import prepare_torchvision
from dhp_sr.deploy.model_file import extract, fill_weights
from dhp_sr.deploy.model_info import ModelInfo, info_of
from dhp_sr.deploy.rebuild import rebuild
from dhp_sr.deploy.runner import check_restores_images, find_lower_limit
from dhp_sr.deploy.safetensors_io import DESCRIPTION, ModelFileError
from dhp_sr.utils.modules import deep_copy

prepare_torchvision()  # before spandrel, which imports torchvision
import spandrel  # noqa: E402

ARCHITECTURE_ID = "dhp_sr"
MAX_HALF = 65504.0
"""Largest number of fp16."""

MARGIN = 16
"""Factor by which the largest value of a trial pass must stay below `MAX_HALF`: other images
reach further."""


class UnusableFileError(ModelFileError, spandrel.UnsupportedModelError):
    """A file of ours that is damaged or of another task, as spandrel's users expect the error."""


class DhpSrArchitecture(spandrel.Architecture[nn.Module]):
    """Every network that `save_model` has written, dense or pruned."""

    def __init__(self) -> None:
        super().__init__(
            id=ARCHITECTURE_ID, name="dhp_sr", detect=lambda state_dict: DESCRIPTION in state_dict
        )

    def load(self, state_dict: dict[str, Tensor]) -> "spandrel.ImageModelDescriptor[nn.Module]":
        """Return the descriptor of a model.

        Args:
            state_dict: All tensors of a file, by key.

        Raises:
            UnusableFileError: Manifest and tensors do not make a working network, or it does
                not restore images.
        """
        try:
            return self._descriptor(state_dict)
        except ModelFileError as error:
            raise UnusableFileError(str(error)) from error

    def _descriptor(
        self, state_dict: dict[str, Tensor]
    ) -> "spandrel.ImageModelDescriptor[nn.Module]":
        manifest, weights = extract(state_dict)
        shapes = {key: tuple(tensor.shape) for key, tensor in weights.items()}
        network = rebuild(manifest, shapes)
        info = info_of(network)
        # Spandrel knows no classifiers.
        check_restores_images(info, DESCRIPTION)
        lower_limit = find_lower_limit(network, info)
        if lower_limit == info.sizes.multiple:
            lower_limit = 0  # every image passes
        network = fill_weights(network, weights)
        return spandrel.ImageModelDescriptor(
            network,
            weights,
            architecture=self,
            purpose="SR" if info.task == "sr" else "Restoration",
            tags=[info.architecture, f"{manifest['params'] / 1e6:.2f}M params"],
            supports_half=fits_half(network, info),
            supports_bfloat16=True,
            scale=info.scale,
            input_channels=info.in_channels,
            output_channels=info.out_channels,
            size_requirements=spandrel.SizeRequirements(
                # What passed a trial, and of our networks what passes.
                minimum=manifest.get("smallest_side", lower_limit),
                # The file's requirement may be stricter than that of today's class.
                multiple_of=manifest["size_multiple"],
            ),
            tiling=spandrel.ModelTiling.SUPPORTED,
        )


def register(registry: "spandrel.ArchRegistry" = spandrel.MAIN_REGISTRY) -> None:
    """Add our files to a registry of spandrel; harmless when called again.

    Args:
        registry: By default that of every `ModelLoader`.
    """
    # Ours is asked first: its key is in no other file, while other architectures are detected by
    # names of layers that our files also have.
    others = []
    for support in registry:
        if support.architecture.id != ARCHITECTURE_ID:
            others.append(support.architecture.id)
    support = spandrel.ArchSupport.from_architecture(DhpSrArchitecture(), before=tuple(others))
    registry.add(support, ignore_duplicates=True)


@torch.no_grad()
def fits_half(network: nn.Module, info: ModelInfo) -> bool:
    """Return whether all layers' outputs stay far inside the range of fp16.

    Args:
        network: With its weights; left as it was.
        info: Its description.
    """
    peaks: list[Tensor] = []

    def record_peak(_: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        values = output if isinstance(output, tuple) else (output,)
        for value in values:
            # Of a removed layer an empty map may be left.
            if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
                peaks.append(value.abs().max())

    watched = deep_copy(network).cpu().float().eval()
    # Layers without children: what happens between them is not seen, hence the margin.
    for layer in watched.modules():
        if not list(layer.children()):
            layer.register_forward_hook(record_peak)
    # Noise, and stripes of both signs: full edges drive the features furthest.
    side = info.sizes.round_up(32)
    shape = (1, info.in_channels, side, side)
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    stripes = (torch.arange(side) // 4 % 2).float().expand(shape)
    watched(torch.cat([noise, stripes, 1 - stripes]))
    return bool(torch.stack(peaks).max() * MARGIN < MAX_HALF)


register()
