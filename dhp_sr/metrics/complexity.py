"""Multiply-adds and parameters of a network, counted from the operators that a forward pass runs.

This counter shares nothing with the costs of the engine (`dhp_sr.cost`), which are computed from
channel widths: tests hold the two against each other. Here PyTorch's dispatcher shows every
operator after functions such as `einsum` or `linear` are decomposed into matrix products and
convolutions.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from dhp_sr.utils.modules import deep_copy
from dhp_sr.utils.network_io import with_further_inputs


@dataclass(frozen=True)
class Complexity:
    """Cost of a forward pass of a network."""

    macs: int
    """Multiply-adds of convolutions, transposed convolutions and matrix products."""
    params: int
    """Parameters, trainable or frozen; shared ones count once, buffers do not count."""
    activations: int
    """Elements of the outputs of convolutions, a hint at memory and at speed on a GPU."""
    convs: int
    """Convolutions that were run; shared ones count each time."""
    uncounted: tuple[str, ...] = ()
    """Sorted names of operators that multiply, or may, and that `macs` leaves out."""


def complexity(
    network: nn.Module,
    input_shape: Sequence[int] = (1, 3, 128, 128),
    further_inputs: Sequence[Tensor] = (),
) -> Complexity:
    """Count the cost of one forward pass, without computing it.

    The pass runs in a copy of the network on the meta device: any size is quick, and the network
    stays as it was. Elementwise products, normalization and interpolation are not counted.

    Args:
        network: Any network.
        input_shape: (N, C, H, W); the counts are for the whole batch.
        further_inputs: The other inputs of a network that takes several, such as a mask.
    """
    # A copy, since the meta device has no values to move back; eval mode, since batch
    # normalization would refuse a batch of one pixel in training.
    traced = deep_copy(network).to("meta").eval()
    params = sum(parameter.numel() for parameter in traced.parameters())
    dtype = next((parameter.dtype for parameter in traced.parameters()), torch.float32)
    image = torch.empty(tuple(input_shape), dtype=dtype, device="meta")
    inputs = with_further_inputs(image, further_inputs)
    try:
        counter = _run(traced, inputs)
    except Exception:
        # A forward that makes tensors on the CPU meets meta tensors; operators raise any class.
        try:
            with torch.device("meta"):
                counter = _run(traced, inputs)
        except Exception:
            # Nor can a forward that looks at values run without them.
            device = next(network.parameters()).device
            image = torch.rand(tuple(input_shape), dtype=dtype, device=device)
            inputs = with_further_inputs(image, further_inputs)
            counter = _run(deep_copy(network).eval(), inputs)
    return Complexity(
        macs=counter.macs,
        params=params,
        activations=counter.activations,
        convs=counter.convs,
        uncounted=tuple(sorted(counter.uncounted)),
    )


@torch.no_grad()
def _run(network: nn.Module, inputs: Sequence[Tensor]) -> "_Counter":
    with decomposed_attention(), _Counter() as counter:
        network(*inputs)
    return counter


@contextmanager
def decomposed_attention() -> Iterator[None]:
    """Keep nn.MultiheadAttention from its fused operator, which would hide its products."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class _Counter(TorchDispatchMode):
    """Sums over the operators that run while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0
        self.activations = 0
        self.convs = 0
        self.uncounted: set[str] = set()

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        # First, since several counts need the size of the result.
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        is_native = func.namespace == "aten"
        if is_native and name in COUNTERS:
            self.macs += COUNTERS[name](args, result)
            if name in CONVOLUTIONS:
                self.activations += result.numel()
                self.convs += 1
        elif not is_native or MULTIPLIES.search(name):
            # Operators of other packages may compute anything.
            self.uncounted.add(f"{func.namespace}.{name}")
        return result


def _convolution_macs(args: Sequence[Any], result: Tensor) -> int:
    image, weight = args[:2]
    is_transposed = args[6]
    # Every input element of a transposed convolution is multiplied with a whole kernel; its output
    # is larger by stride^2. The kernel is weight[1:], since groups divide one of the channel axes.
    elements = image.numel() if is_transposed else result.numel()
    return elements * math.prod(weight.shape[1:])


def _product_macs(args: Sequence[Tensor], result: Tensor) -> int:
    return result.numel() * args[0].shape[-1]


def _added_product_macs(args: Sequence[Tensor], result: Tensor) -> int:
    # args[0] is the summand.
    return result.numel() * args[1].shape[-1]


def _attention_macs(args: Sequence[Tensor], result: object) -> int:
    query_BLE, key_BSE, value_BSV = args[:3]
    attention_elements = math.prod(query_BLE.shape[:-1]) * key_BSE.shape[-2]
    # Twice a product over the attention matrix: query with key, then with value.
    return attention_elements * (query_BLE.shape[-1] + value_BSV.shape[-1])


COUNTERS: dict[str, Callable[[Sequence[Any], Any], int]] = {
    "convolution": _convolution_macs,
    "_convolution": _convolution_macs,
    "mm": _product_macs,
    "bmm": _product_macs,
    "mv": _product_macs,
    "dot": _product_macs,
    "matmul": _product_macs,
    "linear": _product_macs,
    "_int_mm": _product_macs,
    "addmm": _added_product_macs,
    "addmv": _added_product_macs,
    "baddbmm": _added_product_macs,
    "_addmm_activation": _added_product_macs,
    # The batch is summed, so the result does not show its length.
    "addbmm": lambda args, result: args[1].numel() * args[2].shape[-1],
    "_scaled_dot_product_flash_attention": _attention_macs,
    "_scaled_dot_product_flash_attention_for_cpu": _attention_macs,
    "_scaled_dot_product_efficient_attention": _attention_macs,
    "_scaled_dot_product_cudnn_attention": _attention_macs,
    "_scaled_dot_product_fused_attention_overrideable": _attention_macs,
}
"""Name of an ATen operator -> its multiply-adds from its arguments and its result."""

CONVOLUTIONS = ("convolution", "_convolution")

MULTIPLIES = re.compile(
    r"mm|mv$|dot|conv|fft|lstm|gru|rnn|attention|cdist|addr|ger$|kron|linalg(?!_vector_norm)"
    r"|grid_sampler|embedding_bag|trilinear(?!3d)|^linear"
)
"""Names of ATen operators that multiply, whether they are counted or not."""
