"""What takes its statistics over the kept channels: layers, and calls of functions in a forward."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dhp_sr.graph.call_sites import CallSite


@dataclass(frozen=True)
class KeptChannels:
    """A layer whose statistics are taken over the kept channels.

    A normalization over channels, or a convolution that standardizes its filters. Indices are those
    of channels in the flat vector; the vector's length stands for pinned ones.
    """

    layer: str
    """Name of the module."""
    inputs: Mapping[tuple[int | str, int], Tensor]
    """(name or position of an input, axis) -> (length,) channel of each entry."""
    tensors: Mapping[tuple[str, int], Tensor]
    """(name of a tensor of the module, axis) -> (length,) channel of each entry."""
    dim: int
    """Axis of the result that holds its channels, counted from the back."""
    index: Tensor
    """(C,) channel of each entry of the result along this axis."""


@dataclass(frozen=True)
class KeptCall:
    """A call of a function whose statistics are taken over the kept channels, as a mean over them.

    The function is given the kept channels of its first input alone; or, where it sums products of
    channels, an argument in which the others are zeros.
    """

    node: str
    """Name of the node in the trace."""
    module: str
    """Name of the module in whose forward the call is; empty for the network itself."""
    site: CallSite
    """Place of the call in the source."""
    operator: str
    """Name of the function."""
    dim: int
    """Axis of the argument that holds the channels, counted from the back."""
    index: Tensor
    """(C,) channel of each entry along this axis."""
    returns_channels: bool
    """Whether the result has the same channels along the same axis; else it has none."""
    zeroed: int | None = None
    """Position of the argument whose other channels are set to zero; None where the function is
    given the kept ones of its first input."""
    vectors: tuple[str, ...] = ()
    """Names of arguments with an entry for each channel, such as the weight of a normalization."""
    shape_at: int | None = None
    """Position of the argument that states the number of channels, as (C,); None for none."""

    @property
    def name(self) -> str:
        """Name of the call, for the plan."""
        return f"{self.module}.{self.node}()".lstrip(".")

    def kept(self, padded: Tensor) -> Tensor | None:
        """Return the indices of the kept channels; None where all are kept, or none.

        Args:
            padded: (plan.size + 1,) True for kept channels, with True at the end for pinned ones.
        """
        is_kept = padded[self.index.to(padded.device)]
        # Closed gates can leave nothing of the input of a call whose result is still read: all that
        # it is given is zero then, and there are no statistics of nothing.
        has_statistics = bool(is_kept.any()) or self.zeroed is not None
        if bool(is_kept.all()) or not has_statistics:
            return None
        return is_kept.nonzero().flatten()

    def reads_channels(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Return whether the argument that holds the channels is given, and a tensor."""
        if self.zeroed is not None:
            return True
        return isinstance(args[0] if args else kwargs.get("input"), Tensor)

    def run(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        kept: Tensor,
    ) -> Any:
        """Call the function with the kept channels of its first input.

        Args:
            function: The function.
            args: Its arguments; the first one may be given as `input=`.
            kwargs: Those given by name.
            kept: Indices of the kept channels.

        Returns:
            What it returns for them; masked channels of the result are zeros.
        """
        if self.zeroed is not None:
            given: list[Any] = []
            for argument in args:  # the operands of an einsum may be given as a list
                given.extend(argument if isinstance(argument, (list, tuple)) else [argument])
            given[self.zeroed] = _zero_outside(given[self.zeroed], kept, self.dim)
            return function(*given, **kwargs)
        source: Tensor = args[0] if args else kwargs["input"]
        kept = kept.to(source.device)
        selected = source.index_select(self.dim, kept)
        named = dict(kwargs)
        for name in self.vectors:
            if named.get(name) is not None:
                named[name] = named[name].index_select(0, kept)
        if args:
            further = list(args[1:])
            if self.shape_at is not None:
                further[self.shape_at - 1] = (len(kept),)
            result = function(selected, *further, **named)
        else:
            result = function(**{**named, "input": selected})
        if not self.returns_channels:
            return result
        return result.new_zeros(source.shape).index_copy(self.dim, kept, result)


def _zero_outside(values: Tensor, kept: Tensor, dim: int) -> Tensor:
    """Return values that are zero but for some entries along an axis."""
    kept = kept.to(values.device)
    zeros = values.new_zeros(values.shape)
    return zeros.index_copy(dim, kept, values.index_select(dim, kept))
