"""Hyper network: a network whose weights are generated from a latent vector per channel group."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dhp_sr.channels.plan import ChannelPlan
from dhp_sr.hyper.kept_calls import keep_calls
from dhp_sr.hyper.kept_statistics import keep_statistics, plain_forwards, set_kept
from dhp_sr.hyper.masked_network import MaskedNetwork
from dhp_sr.hyper.parametrization import ChannelIndex, Parametrization, align_to_axis
from dhp_sr.surgery.correct import CorrectionReport, correct
from dhp_sr.surgery.cut import check_cut, cut
from dhp_sr.utils.modules import deep_copy, load_values, parameter_names_by_path
from dhp_sr.utils.network_io import Example, inputs_of, with_further_inputs


@final
class HyperNet(MaskedNetwork):
    """A plain network with generated, masked weights; made by `convert`.

        latents, masks -> parametrization -> weights -> forward of the plain network

    Every weight is a function of the latents of its output and input channels. Weights, biases and
    norm vectors are multiplied by the masks, so the output is that of the pruned network, in
    training and in evaluation.

    Args:
        network: The plain network; the hyper network keeps it and changes its parameters.
        plan: Its plan.
        parametrization: Generates its weights from the latents.
        example_input: One input, or the tuple of a network's inputs; costs are counted for it.
        frozen: Names of the parameters that stay frozen, in a cut network as well.
    """

    def __init__(
        self,
        network: nn.Module,
        plan: ChannelPlan,
        parametrization: Parametrization,
        example_input: Example,
        *,
        frozen: Collection[str] = (),
    ) -> None:
        super().__init__(network, plan, example_input)
        # Not read from requires_grad later: a parametrization may freeze what it generates, and a
        # search may freeze all weights for a while.
        self._frozen = frozenset(frozen)
        self.parametrization = parametrization
        # A list, not a ParameterDict: names of groups have dots, which keys of modules must not.
        self._latents = nn.ParameterList()
        image = inputs_of(example_input)[0]
        for group in plan.prunable:
            self._latents.append(nn.Parameter(image.new_ones(group.width)))
        for channels in plan.kept_statistics:
            keep_statistics(network, channels)
        keep_calls(network, plan.kept_calls)
        self._kept_version: tuple[int, ...] | None = None
        """Versions of the tensors that `_set_kept_statistics` was last called for."""
        self.correction_report: CorrectionReport | None = None
        self._channel_index = ChannelIndex(plan, image.device)
        self._canonical_names = parameter_names_by_path(network)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Call the network with generated weights; it takes the same arguments as the network."""
        generated = self.generate()
        weights = {name: generated[first] for name, first in self._canonical_names.items()}
        # Parameters that two modules share are given under both names. With tie_weights=True,
        # functional_call would find them itself, but leave generated tensors behind in a module
        # that has two names.
        return functional_call(self.network, weights, inputs, tie_weights=False)

    def generate(self) -> dict[str, Tensor]:
        """Return all parameters of the plain network, generated and masked, by name.

        Weights keep their precision, under autocast as well.
        """
        self._set_kept_statistics()
        # Autocast would run the einsum of the full parametrization in half precision.
        with torch.autocast(self.mask.device.type, enabled=False):
            # A last entry stands for all pinned channels: kept, with a latent of 1.
            kept = self.mask.new_ones(1)
            mask = torch.cat((self.mask, kept))
            latent = kept
            # torch.cat does not take an empty list of latents.
            if self.plan.size:
                latent = torch.cat((*self._latents, kept.to(self._latents[0].dtype)))
            masks = self._channel_index.gather(mask)
            # Masks multiply the latents as well, so that a pruned channel is 0 for every
            # parametrization whatever its latent is, and its gradient is 0 with it.
            scales = self._channel_index.gather(latent * mask)
            weights: dict[str, Tensor] = dict(self.network.named_parameters())
            generated = self.parametrization(weights, scales, masks)
            for name, weight in weights.items():
                if name in generated:
                    continue
                # Biases and norm vectors: a pruned channel must not be shifted away from 0, or
                # the masked network would not be the cut one.
                for dim, axis_mask in masks.get(name, {}).items():
                    aligned = align_to_axis(axis_mask.to(weight.dtype), weight.dim(), dim)
                    weight = weight * aligned
                generated[name] = weight
            return generated

    def _set_kept_statistics(self) -> None:
        """Let what takes statistics over channels know which channels the mask keeps.

        Called in every forward; they are told only where mask or latents have changed since.
        """
        if not self.plan.has_kept_statistics:
            return
        kept = self.mask
        # torch counts the changes of a tensor in place.
        version = (id(kept), kept._version)
        # A gate of 0 (HSN) closes a channel as a mask does.
        if self.parametrization.closes_channels and self.plan.size:
            latents = list(self._latents)
            kept = kept & (torch.cat([latent.detach() for latent in latents]) != 0)
            version += tuple(latent._version for latent in latents)
        if version == self._kept_version:
            return
        padded = torch.cat((kept, kept.new_ones(1)))
        set_kept(self.network, self.plan.kept_statistics, padded)
        self._kept_version = version

    @property
    def latents(self) -> Mapping[str, nn.Parameter]:
        """Group name -> latent vector, shape (width,)."""
        names = [group.name for group in self.plan.prunable]
        return dict(zip(names, self._latents, strict=True))

    def cut(
        self,
        *,
        calibration: Sequence[Example] | None = None,
        reference: Mapping[str, Tensor] | None = None,
        check: bool = True,
    ) -> nn.Module:
        """Return the pruned network as a plain, smaller module, in eval mode.

        It is of the network's class. If the class's forward states channel numbers that no longer
        hold, it runs a traced forward with the right ones instead (`surgery.rewrite`). Parameters
        that were frozen before `convert` are frozen, all others are not.

        Args:
            calibration: Batches of inputs, each (N, C, H, W), or a tuple of the network's inputs.
                With them, the layers behind pruned channels are re-solved by least squares, so that
                the outputs come close to those of this network without masks; no training
                (`surgery.correct`). What was done is in `correction_report`.
            reference: State of the dense network that the outputs are compared with, by name;
                default: that of this network without masks. To be given where it was trained under
                masks: the statistics of its norms are then those of the masked network.
            check: Compare it with the masked network on a random input of the example's shape.

        Raises:
            CutError: The cut network does not compute what the masked one does.
            ValueError: `calibration` is empty.
        """
        with torch.no_grad():
            values = self.generate()
            if calibration is not None:
                if reference is None:
                    reference = self.generate_with(torch.ones_like(self.mask))
                # `generate_with` has told the layers of another mask.
                self._set_kept_statistics()
                values, self.correction_report = correct(
                    self.network,
                    self.plan,
                    self.mask,
                    values,
                    calibration,
                    reference=reference,
                )
            self._set_kept_statistics()
            network = self.network
            if self.plan.has_kept_statistics:
                network = plain_forwards(deep_copy(network))
            small = cut(network, self.plan, self.mask, values)
        if check:
            masked: nn.Module = self
            if calibration is not None:  # the masked network is now one with corrected weights
                masked = deep_copy(self.network)
                load_values(masked, values, strict=False)
            check_cut(masked, small, self.random_inputs())
        for name, parameter in small.named_parameters():
            parameter.requires_grad_(name not in self._frozen)
        return small

    def generate_with(self, mask: Tensor) -> dict[str, Tensor]:
        """Return the parameters for another mask, shape (plan.size,); the masks stay as set."""
        mask_before = self.mask.clone()
        self.mask.copy_(mask)
        try:
            return self.generate()
        finally:
            self.mask.copy_(mask_before)

    def default_scores(self) -> Tensor:
        """Return |latent| of all channels, shape (plan.size,)."""
        return self.plan.join({name: z.detach().abs() for name, z in self.latents.items()})

    def random_inputs(self) -> tuple[Tensor, ...]:
        """Return a random image of the example's shape, in [0, 1), and the fixed further inputs."""
        like = self._latents[0] if len(self._latents) else next(self.parameters())
        image = torch.rand(self.example_shape, dtype=like.dtype, device=like.device)
        return with_further_inputs(image, self.plan.further_inputs)

    def network_parameters(self) -> Iterator[nn.Parameter]:
        """Return all parameters that are trained, except the latents."""
        latents = {id(latent) for latent in self._latents}
        for parameter in self.parameters():
            if id(parameter) not in latents and parameter.requires_grad:
                yield parameter
