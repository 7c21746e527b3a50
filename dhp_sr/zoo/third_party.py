"""Networks of other packages: their scale and sizes, probed, and whether files can name them."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from dhp_sr.config.schema import Options
from dhp_sr.deploy import ModelInfo, SizeRequirements, check_saved
from dhp_sr.deploy.model_info import (
    SIZE_MULTIPLES,
    attach_info,
    attached_info,
    is_registered,
    trial_side,
)
from dhp_sr.graph.shape_inference import infer_output
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.modules import copy_network
from dhp_sr.zoo.names import full_name, register_known

CHANNEL_ARGUMENTS = ("num_in_ch", "in_channels", "in_nc")
"""Names that constructors of image-restoration networks give to the input channels."""


@dataclass(frozen=True)
class _Trial:
    """Result of passing the shape of a square image through a network."""

    multiple: int
    side: int
    shape: tuple[int, ...] | None
    """Shape of the output; None where the image did not pass."""
    problem: str
    """Why there is no shape."""

    @property
    def scale(self) -> int | None:
        """Enlargement, or None where the output is no enlarged image."""
        if self.shape is None or len(self.shape) != 4 or self.shape[2] != self.shape[3]:
            return None
        # Square, so a single side says it all.
        scale, rest = divmod(self.shape[3], self.side)
        return scale if scale > 0 and rest == 0 else None


def describe_by_images(
    network: nn.Module, name: str, arguments: Mapping[str, object], options: Options, task: str
) -> nn.Module:
    """Attach a description to a third-party network, from the images of an option file.

    Args:
        network: With fresh weights.
        name: As in `network_g.network.type`.
        arguments: Arguments of its constructor.
        options: The run's options.
        task: Name of the run's task.

    Returns:
        The same network, with a `ModelInfo`.

    Raises:
        UserError: It does not give images of the right size for the option file's images.
    """
    register_known()
    # Of the first dataset: a network has one number of input channels, whatever the others say.
    channels = next(iter(options.datasets.values())).channels
    problem = ""
    for trial in _trials(network, channels):
        side = trial.side
        expected = (1, channels, side * options.scale, side * options.scale)
        if trial.shape == expected:
            info = ModelInfo(
                architecture=full_name(name),
                arguments=arguments,
                task=task,
                scale=options.scale,
                in_channels=channels,
                out_channels=channels,
                # The side that passed; smaller ones may pass, too, but nobody has tried.
                sizes=SizeRequirements(trial.multiple, minimum=side),
            )
            return attach_info(network, info)
        problem = trial.problem or (
            f"expected an output of {expected} for an input of {side} x {side}, got {trial.shape}"
        )
    raise UserError(
        f"network_g: {name} does not suit the images (scale: {options.scale}, "
        f"{channels} channels): {problem}"
    )


def describe_by_output(network: nn.Module, name: str, arguments: Mapping[str, object]) -> nn.Module:
    """Attach a description to a third-party network, from its output alone.

    Args:
        network: With any weights.
        name: As for `names.build_named`.
        arguments: Arguments of its constructor.

    Returns:
        The same network, with a `ModelInfo`.

    Raises:
        UserError: No image passes, or the output is not an enlargement by a whole number.
    """
    register_known()
    channels = 3
    for key in CHANNEL_ARGUMENTS:
        if key in arguments:
            channels = cast(int, arguments[key])
            break
    problem = ""
    for trial in _trials(network, channels):
        # The first multiple that passes is the smallest, and larger ones pass as well.
        scale = trial.scale
        if scale is not None and trial.shape is not None:
            info = ModelInfo(
                architecture=full_name(name),
                arguments=arguments,
                # Nothing in a network tells denoising from other restoration at scale 1.
                task="sr" if scale > 1 else "denoise",
                scale=scale,
                in_channels=channels,
                out_channels=trial.shape[1],
                sizes=SizeRequirements(trial.multiple, minimum=trial.side),
            )
            return attach_info(network, info)
        problem = trial.problem or (
            f"an input of {trial.side} x {trial.side} gives an output of {trial.shape}"
        )
    raise UserError(
        f"{name}: expected a network that restores images of {channels} channels: {problem}"
    )


def _trials(network: nn.Module, channels: int) -> Iterator[_Trial]:
    """Pass images whose sides are odd multiples of 1, 2, 4, ...; only shapes are computed."""
    # A copy in eval mode: batch normalization refuses a single value per channel otherwise.
    copied = copy_network(network).eval()
    for multiple in SIZE_MULTIPLES:
        side = trial_side(multiple)
        try:
            output = infer_output(copied, (1, channels, side, side))
        except Exception as error:
            # The author's code: whatever it raises, the image did not pass.
            problem = f"an input of {side} x {side} does not pass: {str(error)[:300]}"
            yield _Trial(multiple, side, None, problem)
            continue
        if isinstance(output, Tensor):
            yield _Trial(multiple, side, tuple(output.shape), "")
        else:
            kind = type(output).__name__
            problem = f"an input of {side} x {side} gives an output of type {kind}"
            yield _Trial(multiple, side, None, problem)


def can_be_loaded(network: nn.Module) -> bool:
    """Return whether a model file can name the network, so that the file alone rebuilds it."""
    info = attached_info(network)
    return info is None or is_registered(info.architecture)


def check_files(network: nn.Module) -> None:
    """Check before a run which kind of files it will write.

    A network that files cannot name causes a warning: its files hold weights alone.

    Raises:
        UserError: Files can name the network, but would not rebuild it.
    """
    info = attached_info(network)
    if info is None:
        return
    if can_be_loaded(network):
        check_saved(network)
        return
    # A warning: weights alone can still be loaded into the class by hand.
    name = info.architecture
    warnings.warn(
        f"network_g: {name} is not among the networks that model files can name; the files of "
        f"this run will hold weights alone. dhp_sr.deploy.register({name!r}, CLASS) before the "
        "run lets them name it",
        stacklevel=2,
    )
