"""Activations, arithmetic and other operators that work entry by entry."""

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from dhp_sr.operators.analysis_context import Sign
from dhp_sr.operators.channel_ids import couple_along, union_all
from dhp_sr.operators.context import OpContext, ReceptiveContext
from dhp_sr.operators.receptive_field import ReceptiveField2D
from dhp_sr.operators.signs import (
    sign_of_first_input,
    sign_of_lower_bound,
    sign_of_power,
    sign_of_product,
    sign_of_quotient,
    sign_of_softplus,
    sign_of_sum,
)
from dhp_sr.operators.spatial_layout import combined
from dhp_sr.operators.spec import Activation, OpSpec, Target, Unsupported, spellings


def first_input_channels(op: OpContext) -> Any:
    """Keep the channels of the first input; further inputs only tell a type or a shape."""
    return op.ids[op.tensor_inputs()[0]]


def unary_channels(op: OpContext) -> Any:
    """Keep the channels of the only tensor; bounds that are tensors (clamp) are united with it."""
    if len(op.tensor_inputs()) > 1:
        return binary_channels(op)
    return first_input_channels(op)


def root_channels(op: OpContext) -> Any:
    """Keep the channels of a square root, logarithm or reciprocal of positive values.

    Raises:
        Unsupported: The values may be zero.
    """
    # A masked channel is a zero. There these functions, or their gradients, are infinite, and the
    # mask behind them multiplies infinity by zero: the search would train on NaN.
    if op.sign(op.source) != Sign.POSITIVE:
        raise Unsupported(f"{op.operator} of channels that would be zero at {op.layer}")
    return op.ids[op.source]


def power_channels(op: OpContext) -> Any:
    """Keep the channels of a power with a fixed exponent; below 1 it is a root."""
    exponent = op.arg_value(1, "exponent")
    if not isinstance(exponent, (int, float)) or isinstance(op.source, (int, float)):
        raise Unsupported(
            f"operator {op.operator} at {op.layer} has no rule for exponents that are tensors"
        )
    return unary_channels(op) if exponent >= 1 else root_channels(op)


def binary_channels(op: OpContext) -> Any:
    """Unite the channels of broadcast operands entry by entry."""
    if not isinstance(op.value, Tensor):
        if op.tensor_inputs():
            raise Unsupported(f"{op.operator} at {op.layer} counts or lists entries")
        return None  # sizes that are joined
    operands = [with_rank(op, node, op.value.dim()) for node in op.tensor_inputs()]
    aligned = []
    fixed_axes: set[int] = set()
    for operand in operands:
        shape, ids = operand
        if _is_shared_by_channels(operand, operands):
            # A map with one value for all channels (spatial attention) stays, whatever channels
            # the others lose. United with them it would couple them all.
            op.analysis.union_find.pin(ids, f"one value for all channels at {op.layer}")
            fixed_axes.update(dim for dim, size in enumerate(shape) if size > 1)
        else:
            aligned.append(ids)
    if not aligned:
        raise Unsupported(f"only scalars at {op.layer}")
    # Of weights (n, groups, 1, h, w) for channels viewed as (groups, c), the groups stay, too.
    for dim in fixed_axes:
        for number, ids in enumerate(aligned):
            if ids.shape[dim] > 1:
                aligned[number] = couple_along(ids, dim, op.analysis.union_find, op.layer)
    return union_all(aligned, op.analysis.union_find)


def with_rank(op: OpContext, node: fx.Node, rank: int) -> tuple[list[int], Tensor]:
    """Return shape and channel ids of an operand, with leading axes as in broadcasting."""
    shape, ids = op.shape(node), op.ids[node]
    missing = [1] * (rank - len(shape))
    return [*missing, *shape], ids.reshape([*missing, *ids.shape])


def _is_shared_by_channels(
    operand: tuple[list[int], Tensor], operands: list[tuple[list[int], Tensor]]
) -> bool:
    """Return whether an operand has length 1 along an axis where another holds channels."""
    for _, ids in operands:
        for dim, size in enumerate(operand[0]):
            if size == 1 < ids.shape[dim]:
                return True
    return False


def division_channels(op: OpContext) -> Any:
    """Unite the channels of both operands; a divisor that may be zero is pinned."""
    divisor = op.argument(1, "other")
    # Pruned channels of the divisor are zeros while they are only masked: 0 / 0 is not a number.
    if isinstance(divisor, fx.Node) and not _is_nonzero(op, divisor):
        op.analysis.pin(op.ids.get(divisor), f"division by channels at {op.layer}")
    return binary_channels(op)


def _is_nonzero(op: OpContext, divisor: fx.Node) -> bool:
    # Buffers are not masked: it is enough that they hold no zero.
    if divisor.op == "get_attr" and str(divisor.target) in op.analysis.buffers:
        constant = op.analysis.buffers[str(divisor.target)]
        return not constant.is_meta and bool((constant != 0).all())
    return op.sign(divisor) == Sign.POSITIVE


def first_input_field(op: ReceptiveContext) -> ReceptiveField2D | None:
    """Return the field of the first input, which may be a constant."""
    return op.fields.get(op.source)


def pointwise_field(op: ReceptiveContext) -> ReceptiveField2D | None:
    """Return the field of values that are combined entry by entry."""
    if not isinstance(op.value, Tensor):
        return None
    operands = []
    for node in op.node.all_input_nodes:
        if isinstance(op.values[node], Tensor):
            operands.append((op.fields.get(node), op.shape(node)))
    return combined(op, operands, op.value.shape)


def _activation(
    name: str,
    modules: tuple[type[nn.Module], ...],
    functions: str = "",
    sign: Any = Sign.ANY,
    activation: Activation = Activation.NONLINEARITY,
) -> OpSpec:
    targets: tuple[Target, ...] = (*modules, *spellings(functions or name, torch, F))
    return OpSpec(
        name,
        targets,
        channels=unary_channels,
        receptive_field=pointwise_field,
        activation=activation,
        sign=sign,
    )


def _unary(name: str, targets: tuple[Target, ...], sign: Any = Sign.ANY) -> OpSpec:
    return OpSpec(name, targets, unary_channels, pointwise_field, sign=sign)


def _binary(name: str, names: str, **facts: Any) -> OpSpec:
    targets = spellings(names, torch, operator)
    return OpSpec(name, targets, binary_channels, pointwise_field, **facts)


def _first_input(name: str, names: str, sign: Any = Sign.ANY) -> OpSpec:
    targets = spellings(names, torch)
    return OpSpec(name, targets, first_input_channels, first_input_field, sign=sign, value_inputs=1)


_ACTIVATIONS = (
    _activation("relu", (nn.ReLU,), "relu relu_", Sign.NONNEGATIVE),
    _activation("relu6", (nn.ReLU6,), sign=Sign.NONNEGATIVE),
    _activation("leaky_relu", (nn.LeakyReLU,), "leaky_relu leaky_relu_"),
    _activation("rrelu", (nn.RReLU,), "rrelu rrelu_"),
    _activation("elu", (nn.ELU,), "elu elu_"),
    _activation("celu", (nn.CELU,), "celu celu_"),
    _activation("selu", (nn.SELU,), "selu selu_"),
    _activation("gelu", (nn.GELU,)),
    _activation("silu", (nn.SiLU,)),
    _activation("mish", (nn.Mish,)),
    _activation("tanh", (nn.Tanh,), "tanh tanh_"),
    _activation("hardtanh", (nn.Hardtanh,), "hardtanh hardtanh_"),
    _activation("hardswish", (nn.Hardswish,)),
    _activation("softplus", (nn.Softplus,), sign=sign_of_softplus),
    _activation("softsign", (nn.Softsign,)),
    _activation("logsigmoid", (nn.LogSigmoid,)),
    _activation("threshold", (nn.Threshold,)),
    _activation("tanhshrink", (nn.Tanhshrink,)),
    _activation("softshrink", (nn.Softshrink,)),
    _activation("hardshrink", (nn.Hardshrink,)),
    _activation("clamp", (), "clamp clamp_min clip", sign_of_lower_bound),
    # Gates multiply the channels of others. Those channels are linear as before, and the gate's own
    # do not count as followed by a non-linearity.
    _activation("sigmoid", (nn.Sigmoid,), "sigmoid sigmoid_", Sign.POSITIVE, Activation.GATE),
    _activation("hardsigmoid", (nn.Hardsigmoid,), activation=Activation.GATE),
)

_DROPOUTS = (
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout),
    *spellings("dropout dropout1d dropout2d dropout3d", F),
    # By its qualified name: torchvision need not be installed.
    "torchvision.ops.stochastic_depth.stochastic_depth",
)

OPS = (
    *_ACTIVATIONS,
    _unary("identity", (nn.Identity,)),
    _unary("dropout", _DROPOUTS),
    _unary("abs", (abs, *spellings("abs abs_", torch, operator)), Sign.NONNEGATIVE),
    _unary("square", spellings("square square_", torch), Sign.NONNEGATIVE),
    _unary("exp", spellings("exp exp_ exp2", torch), Sign.POSITIVE),
    _unary("negation", spellings("neg neg_ pos", torch, operator)),
    # All of them are finite at 0, and so are their slopes.
    _unary("sine and the like", spellings("sin cos tan asin acos atan sinh cosh erf", torch)),
    _unary("round", spellings("round floor ceil trunc frac sign round_ floor_", torch)),
    _unary("upper bound", spellings("clamp_max clamp_", torch)),
    _first_input("copy", "contiguous clone detach", sign_of_first_input),
    _first_input("cast", "float double half bfloat16 to type type_as"),
    _first_input("constant like a value", "zeros_like ones_like"),
    _first_input("predicate", "logical_not isnan isinf isfinite"),
    _binary("add", "add add_ iadd", sign=sign_of_sum, is_sum=True),
    _binary("subtract", "sub sub_ isub", is_sum=True),
    _binary("multiply", "mul mul_ imul", sign=sign_of_product),
    _binary("lerp", "lerp addcmul lerp_ addcmul_"),
    _binary("comparison", "eq ne lt le gt ge logical_and logical_or and_ or_ xor"),
    _binary("masked_fill", "masked_fill masked_fill_"),
    _binary("maximum of two", "maximum minimum"),
    _binary("where", "where"),
    _binary("expand_as", "expand_as"),
    OpSpec(
        "divide",
        spellings("div div_ true_divide truediv itruediv", torch, operator),
        channels=division_channels,
        receptive_field=pointwise_field,
        sign=sign_of_quotient,
    ),
    OpSpec(
        "square root",
        spellings("sqrt", torch),
        channels=root_channels,
        receptive_field=pointwise_field,
        sign=sign_of_first_input,
    ),
    OpSpec(
        "logarithm or reciprocal",
        spellings("rsqrt log log2 log10 log1p reciprocal", torch),
        channels=root_channels,
        receptive_field=pointwise_field,
    ),
    OpSpec(
        "power",
        spellings("pow", torch, operator),
        channels=power_channels,
        receptive_field=pointwise_field,
        sign=sign_of_power,
    ),
)
