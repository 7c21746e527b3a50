"""Facts about a network that its users need: what goes in, what comes out, where it comes from.

A `ModelInfo` is made once, when a network is built or a file is opened. It travels with the
network, into model files and ONNX metadata, to the runners and to spandrel. It lives in `deploy`
because files and runners need it; the packages above make it and attach it.

It also holds the table of constructors by name. A model file names its network ("basicsr:RCAN"),
never a path to code, and the program that loads the file decides which names mean something.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from dhp_sr.archs import ARCHS, build, described
from dhp_sr.graph.shape_inference import infer_output
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.modules import floating_dtype
from dhp_sr.utils.pixels import round_up

CLASSIFICATION = "classification"

SIZE_MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
"""Multiples that heights and widths are tried for where a network does not state its multiple."""

DEFAULT_SIDE = 16
"""Height and width in pixels of an example input where nothing is known about sizes."""

DEFAULT_BYTES_PER_PIXEL = 48 * 1024.0
"""Memory per input pixel assumed where a network cannot be traced: a wide x4 network."""

Constructor = Callable[..., nn.Module]

CONSTRUCTORS: dict[str, Constructor] = {}
"""Name in model files ("package:NAME") -> constructor of the unpruned network."""

INSTALL_HINTS = {
    "basicsr": "pip install 'dhp_sr[train]', then call dhp_sr.zoo.names.register_basicsr()",
    "torchvision": "pip install torchvision, then call dhp_sr.zoo.names.register_torchvision()",
}
"""Package -> what makes its networks known."""

ATTRIBUTES = ("arguments", "task", "scale", "in_channels", "size_multiple")
"""Attributes that every network of `dhp_sr.archs` has, see `dhp_sr.archs.build`."""


@dataclass(frozen=True)
class SizeRequirements:
    """Heights and widths in pixels that a network accepts."""

    multiple: int = 1
    """Height and width are multiples of it."""
    minimum: int = 1
    """Smallest side that is known to pass."""
    maximum: int | None = None
    """Largest side, or None."""
    lower_limit: int = 1
    """Smaller sides do not pass."""

    def round_up(self, side: int) -> int:
        """Return the smallest multiple of `multiple` that is at least `side` and `minimum`."""
        return round_up(max(side, self.minimum), self.multiple)

    def check(self, height: int, width: int) -> None:
        """Check the sides of an input that is about to be computed.

        The minimum is not checked: it is what was tried, and smaller images often pass, too.

        Raises:
            UserError: A side is no multiple of `multiple`, below `lower_limit` or above `maximum`.
        """
        for side in (height, width):
            if side % self.multiple:
                raise UserError(
                    f"expected height and width in multiples of {self.multiple}, "
                    f"got {height} x {width}"
                )
            if side < self.lower_limit:
                least = f"at least {self.lower_limit}"
                raise UserError(f"expected height and width of {least}, got {height} x {width}")
            if self.maximum is not None and side > self.maximum:
                raise UserError(
                    f"expected height and width up to {self.maximum}, got {height} x {width}"
                )


@dataclass(frozen=True)
class TileRequirements:
    """Conditions under which tiles give the same pixels as the whole image."""

    halo: int | None = None
    """Input pixels needed around a tile; None: unknown, or every output reads the whole image."""
    multiple: int = 1
    """Tiles begin and end at multiples of it, in input pixels."""
    bytes_per_pixel: float = DEFAULT_BYTES_PER_PIXEL
    """Peak memory of a forward pass in float32, per input pixel."""
    reason: str = "nothing is known about the network's receptive field"
    """Why `halo` is None."""


@dataclass(frozen=True)
class ModelInfo:
    """Description of a network, the same for all of its pruned versions."""

    architecture: str
    """Name in model files: a key of `archs.ARCHS` ("EDSR"), or "package:NAME" ("basicsr:RCAN").
    Empty for another program's ONNX file."""
    arguments: Mapping[str, object] = field(default_factory=dict)
    """Constructor arguments of the unpruned network."""
    task: str = "sr"
    """`sr`, `denoise` or `classification`; empty where an ONNX file does not say."""
    scale: int = 1
    """Enlargement of height and width; 1 for other tasks."""
    in_channels: int = 3
    out_channels: int = 0
    """Channels of the output image, or the number of classes; 0: not inferred yet."""
    sizes: SizeRequirements = SizeRequirements()
    input_size: int | None = None
    """Height and width in pixels that a classifier is meant for; None for image restoration."""
    value_range: tuple[float, float] = (0.0, 1.0)
    """Range of input and output, before any normalization inside the network."""
    tiles: TileRequirements | None = None
    """None: the receptive field has not been computed, see `runner.with_tiles`."""
    license: str | None = None
    """License of the weights."""
    parent: str | None = None
    """Origin of the weights: the file or model that they were made from."""

    @property
    def package(self) -> str:
        """Package that the network's class comes from: `dhp_sr`, `basicsr`, ..."""
        package, colon, _ = self.architecture.partition(":")
        return package if colon else "dhp_sr"

    @property
    def restores_images(self) -> bool:
        """Whether the output is an image."""
        return self.task != CLASSIFICATION

    @property
    def example_side(self) -> int:
        """Height and width in pixels of an input that passes through the network."""
        # Smaller images than a classifier is meant for may shrink to nothing on their way.
        if self.input_size is not None:
            return round_up(self.input_size, self.sizes.multiple)
        if self.sizes.minimum > 1:
            return self.sizes.round_up(1)
        return self.sizes.round_up(DEFAULT_SIDE)

    @property
    def color(self) -> str:
        """Meaning of the input's channels: `grey`, `RGB` or `other`, as files spell it."""
        return color_name(self.in_channels)

    @property
    def size_multiple(self) -> int:
        """Height and width of inputs are multiples of it."""
        return self.sizes.multiple


def color_name(channels: int) -> str:
    """Return the meaning of an image's channels: `grey`, `RGB` or `other`."""
    # The British spelling is part of the file format of the first edition.
    return {1: "grey", 3: "RGB"}.get(channels, "other")


def register(name: str, constructor: Constructor) -> None:
    """Let model files name a network: `constructor(**arguments)` builds it, unpruned.

    Args:
        name: "package:NAME".
        constructor: Class or function.

    Raises:
        UserError: The name has another form.
    """
    if name.count(":") != 1 or not all(name.split(":")):
        raise UserError(f"expected a name such as 'basicsr:RCAN', got {name!r}")
    CONSTRUCTORS[name] = constructor


def is_registered(architecture: str) -> bool:
    """Return whether model files may name this network in this process."""
    return architecture in ARCHS or architecture in CONSTRUCTORS


def construct(architecture: str, arguments: Mapping[str, object]) -> nn.Module:
    """Construct a network, with fresh weights, from what a model file states.

    Raises:
        UserError: The name is not known here.
    """
    # Ours first: nobody can register a name without a colon, so a file cannot replace them.
    if architecture in ARCHS:
        return build(architecture, **arguments)
    return constructor_of(architecture)(**arguments)


def constructor_of(architecture: str) -> Constructor:
    """Return the registered constructor of a third-party network.

    Raises:
        UserError: Nobody registered it.
    """
    if architecture in CONSTRUCTORS:
        return CONSTRUCTORS[architecture]
    package = architecture.partition(":")[0]
    known = [name for name in CONSTRUCTORS if name.startswith(f"{package}:")]
    hint = INSTALL_HINTS.get(package, "register it by dhp_sr.deploy.register")
    if known:
        hint = f"known: {', '.join(known)}"
    raise UserError(
        f"network {architecture!r} is of another package and not registered here; {hint}"
    )


def attached_info(network: nn.Module) -> ModelInfo | None:
    """Return the description that a network carries, or None."""
    info = getattr(network, "info", None)
    return info if isinstance(info, ModelInfo) else None


def attach_info(network: nn.Module, info: ModelInfo) -> nn.Module:
    """Attach a description to a network; copies and pruned versions of it carry it, too.

    Networks of other packages also get the plain attributes of `dhp_sr.archs`, so that code for
    plain networks does not have to distinguish the two.
    """
    plain: Any = network  # torch types every attribute of a module as Tensor | Module
    plain.info = info
    # Our own classes set these themselves; a class of another package may use a name differently.
    for name in ATTRIBUTES:
        if not hasattr(network, name):
            setattr(network, name, getattr(info, name))
    if info.input_size is not None and not hasattr(network, "input_size"):
        plain.input_size = info.input_size
    return network


def info_of(network: nn.Module) -> ModelInfo:
    """Return a network's description: attached to it, or read from a network of `archs`.

    Args:
        network: Network of `dhp_sr.archs`, or with an attached `ModelInfo`; left as it was.
    """
    info = stated_info(network)
    if info.out_channels:
        return info
    # A pass on the meta device takes milliseconds, and no class states its output channels in a
    # way that all of them share.
    return replace(info, out_channels=infer_out_channels(network, info))


def stated_info(network: nn.Module) -> ModelInfo:
    """Return the facts that a network states about itself; not inferred, so maybe damaged."""
    info = attached_info(network)
    if info is not None:
        return info
    plain = described(network)
    return ModelInfo(
        architecture=type(network).__name__,
        arguments=plain.arguments,
        task=plain.task,
        scale=plain.scale,
        in_channels=plain.in_channels,
        sizes=SizeRequirements(plain.size_multiple),
        input_size=getattr(plain, "input_size", None),
    )


def infer_out_channels(network: nn.Module, info: ModelInfo) -> int:
    """Return the output's length along axis 1; nothing but shapes is computed."""
    shape = (1, info.in_channels, info.example_side, info.example_side)
    return int(infer_output(network, shape, floating_dtype(network)).shape[1])


def traced_shape(info: ModelInfo) -> tuple[int, int, int, int]:
    """Return the shape that an export is traced with: a batch of 2, height unlike width."""
    # Unlike sides: equal ones would let the tracer believe that they are the same number.
    multiple = info.sizes.multiple
    height = max(info.example_side, 2 * multiple, round_up(DEFAULT_SIDE, multiple))
    return 2, info.in_channels, height, height + 2 * multiple


def trial_side(multiple: int) -> int:
    """Return an odd number of times `multiple` that is at least `DEFAULT_SIDE`.

    The odd factor keeps the side from being a multiple of any larger power of two, so that a
    network which passes it needs no more than `multiple`.
    """
    # Rounded up, then made odd by its lowest bit.
    factor = -(-DEFAULT_SIDE // multiple) | 1
    return multiple * factor
