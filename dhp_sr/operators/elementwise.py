"""Activations, arithmetic and other operators that work entry by entry."""

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from dhp_sr.operators.analysis_context import Sign
from dhp_sr.operators.channel_ids import union_all
from dhp_sr.operators.context import OpContext
from dhp_sr.operators.spatial_layout import ReceptiveContext, ReceptiveField2D, combined
from dhp_sr.operators.spec import Activation, OpSpec, Target, Unsupported, spellings


def pass_through(op: OpContext) -> Any:
    """Keep the channels of the first input; further inputs only tell a type or a shape."""
    return op.ids[op.tensor_inputs()[0]]


def unary(op: OpContext) -> Any:
    """Keep the channels of the one tensor; bounds that are tensors (clamp) are united with it."""
    return binary(op) if len(op.tensor_inputs()) > 1 else pass_through(op)


def root(op: OpContext) -> Any:
    """Keep the channels of a square root, logarithm or reciprocal of positive values.

    A masked channel is a zero, where these functions or their gradients are infinite: it cannot be masked in training.
    """
    if op.sign(op.source) != Sign.POSITIVE:
        raise Unsupported(f"{op.operator} of channels that would be zero at {op.layer}")
    return op.ids[op.source]


def _power(op: OpContext) -> Any:
    exponent = op.arg_value(1, "exponent")
    if not isinstance(exponent, (int, float)) or isinstance(op.source, (int, float)):
        raise Unsupported(
            f"operator {op.operator} at {op.layer} has no rule for exponents that are tensors"
        )
    return unary(op) if exponent >= 1 else root(op)


def binary(op: OpContext) -> Any:
    """Unite the channels of broadcast operands entry by entry."""
    if not isinstance(op.value, Tensor):
        return None
    operands = [_with_rank(op, node, op.value.dim()) for node in op.tensor_inputs()]
    aligned = []
    for operand in operands:
        others = [other for other in operands if other is not operand]
        if _is_shared_by_channels(operand, others):
            # A map with one value for all channels stays whatever channels the others lose.
            op.analysis.union_find.pin(operand[1], f"one value for all channels at {op.layer}")
        else:
            aligned.append(operand[1])
    if not aligned:
        raise Unsupported(f"only scalars at {op.layer}")
    return union_all(aligned, op.analysis.union_find)


def _with_rank(op: OpContext, node: fx.Node, rank: int) -> tuple[list[int], Tensor]:
    """Return shape and channel ids of an operand, with leading axes as in broadcasting."""
    shape, ids = op.shape(node), op.ids[node]
    missing = [1] * (rank - len(shape))
    return [*missing, *shape], ids.reshape([*missing, *ids.shape])


def _is_shared_by_channels(
    operand: tuple[list[int], Tensor], others: list[tuple[list[int], Tensor]]
) -> bool:
    """Return whether an operand has length 1 along an axis where another one holds channels."""
    for _, other_ids in others:
        for dim, size in enumerate(operand[0]):
            if size == 1 < other_ids.shape[dim]:
                return True
    return False


def _divide(op: OpContext) -> Any:
    """Pin the channels of a divisor that may be zero: those of a pruned channel would divide by zero."""
    divisor = op.argument(1, "other")
    if isinstance(divisor, fx.Node) and not _is_nonzero(op, divisor):
        op.analysis.pin(op.ids.get(divisor), f"division by channels at {op.layer}")
    return binary(op)


def _is_nonzero(op: OpContext, divisor: fx.Node) -> bool:
    # Constants are not masked: it is enough that they hold no zero.
    if divisor.op == "get_attr" and str(divisor.target) in op.analysis.buffers:
        constant = op.analysis.buffers[str(divisor.target)]
        return not constant.is_meta and bool((constant != 0).all())
    return op.sign(divisor) == Sign.POSITIVE


def _set_item(op: OpContext) -> None:
    """`x[index] = value`, for an index that takes all channels: value and x are united."""
    target, index, value = op.node.args
    items = index if isinstance(index, tuple) else (index,)
    for dim, item in enumerate(items):
        is_slice = isinstance(item, slice)
        if not is_slice or (item != slice(None) and op.varies_along(target, dim)):
            raise Unsupported(f"assignment to channels at {op.layer}")
    if isinstance(value, fx.Node):
        value_ids = _with_rank(op, value, len(op.shape(target)))[1]
        union_all([op.ids[target], value_ids], op.analysis.union_find)


def sign_of_input(op: OpContext) -> Sign:
    """Return the sign of the first input, for operators that keep it."""
    return op.sign(op.argument(0, "input"))


def _sign_of_lower_bound(op: OpContext) -> Sign:
    return op.sign(op.argument(1, "min"))


def _sign_of_power(op: OpContext) -> Sign:
    even = Sign.NONNEGATIVE if op.argument(1, "exponent") == 2 else Sign.ANY
    return max(op.sign(op.argument(0, "input")), even)


def _sign_of_sum(op: OpContext) -> Sign:
    left, right = _signs(op)
    return Sign.ANY if Sign.ANY in (left, right) else max(left, right)


def _sign_of_product(op: OpContext) -> Sign:
    """Product or quotient: a square is never negative, and the signs of both factors must be known otherwise."""
    left, right = _signs(op)
    if left == Sign.ANY and op.argument(0, "input") is op.argument(1, "other"):
        return Sign.NONNEGATIVE
    return min(left, right)


def _signs(op: OpContext) -> tuple[Sign, Sign]:
    return op.sign(op.argument(0, "input")), op.sign(op.argument(1, "other"))


def pass_field_through(op: ReceptiveContext) -> ReceptiveField2D | None:
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


def _assignment_field(op: ReceptiveContext) -> ReceptiveField2D:
    # The first rows of a tile are not the first rows of the image.
    raise op.unbounded("assigns to some of the pixels")


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
        channels=unary,
        receptive_field=pointwise_field,
        activation=activation,
        sign=sign,
    )


def _pointwise(name: str, functions: tuple[Target, ...], sign: Any = Sign.ANY) -> OpSpec:
    return OpSpec(name, functions, channels=unary, receptive_field=pointwise_field, sign=sign)


def _binary(name: str, names: str, **facts: Any) -> OpSpec:
    targets = spellings(names, torch, operator)
    return OpSpec(name, targets, channels=binary, receptive_field=pointwise_field, **facts)


ACTIVATIONS = (
    _activation("relu", (nn.ReLU,), "relu relu_", Sign.NONNEGATIVE),
    _activation("relu6", (nn.ReLU6,), sign=Sign.NONNEGATIVE),
    _activation("leaky_relu", (nn.LeakyReLU,), "leaky_relu leaky_relu_"),
    _activation("rrelu", (nn.RReLU,)),
    _activation("elu", (nn.ELU,), "elu elu_"),
    _activation("celu", (nn.CELU,)),
    _activation("selu", (nn.SELU,)),
    _activation("gelu", (nn.GELU,)),
    _activation("silu", (nn.SiLU,)),
    _activation("mish", (nn.Mish,)),
    _activation("tanh", (nn.Tanh,)),
    _activation("hardtanh", (nn.Hardtanh,)),
    _activation("hardswish", (nn.Hardswish,)),
    _activation("softplus", (nn.Softplus,), sign=Sign.POSITIVE),
    _activation("softsign", (nn.Softsign,)),
    _activation("logsigmoid", (nn.LogSigmoid,)),
    _activation("threshold", (nn.Threshold,)),
    _activation("tanhshrink", (nn.Tanhshrink,)),
    _activation("softshrink", (nn.Softshrink,)),
    _activation("hardshrink", (nn.Hardshrink,)),
    _activation("clamp", (), "clamp clamp_min clip", _sign_of_lower_bound),
    _activation("sigmoid", (nn.Sigmoid,), sign=Sign.POSITIVE, activation=Activation.GATE),
    _activation("hardsigmoid", (nn.Hardsigmoid,), activation=Activation.GATE),
)

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)

OPS = (
    *ACTIVATIONS,
    _pointwise("identity", (nn.Identity,)),
    _pointwise(
        "dropout",
        (
            *_DROPOUTS,
            *spellings("dropout dropout1d dropout2d dropout3d", F),
            "torchvision.ops.stochastic_depth.stochastic_depth",
        ),
    ),
    _pointwise("abs", (abs, *spellings("abs", torch, operator)), Sign.NONNEGATIVE),
    _pointwise("square", spellings("square", torch), Sign.NONNEGATIVE),
    _pointwise("exp", spellings("exp", torch), Sign.POSITIVE),
    _pointwise("negation", spellings("neg pos", torch, operator)),
    _pointwise("trigonometric", spellings("sin cos erf", torch)),
    _pointwise("round", spellings("round", torch)),
    _pointwise("upper bound", spellings("clamp_max clamp_", torch)),
    OpSpec(
        "copy",
        spellings("contiguous clone detach", torch),
        channels=pass_through,
        receptive_field=pass_field_through,
        sign=sign_of_input,
        value_inputs=1,
    ),
    OpSpec(
        "cast",
        spellings("float double half to type_as", torch),
        channels=pass_through,
        receptive_field=pass_field_through,
        value_inputs=1,
    ),
    OpSpec(
        "constant like another value",
        spellings("zeros_like ones_like", torch),
        channels=pass_through,
        receptive_field=pass_field_through,
        value_inputs=1,
    ),
    OpSpec(
        "predicate",
        spellings("logical_not isnan", torch),
        channels=pass_through,
        receptive_field=pass_field_through,
        value_inputs=1,
    ),
    _binary("add", "add add_ iadd", sign=_sign_of_sum, is_sum=True),
    _binary("subtract", "sub sub_ isub"),
    _binary("multiply", "mul mul_ imul", sign=_sign_of_product),
    _binary("interpolation between values", "lerp addcmul"),
    _binary("comparison", "eq ne lt le gt ge logical_and logical_or"),
    _binary("extreme of two", "maximum minimum"),
    _binary("where", "where"),
    _binary("expand_as", "expand_as"),
    OpSpec(
        "divide",
        spellings("div div_ true_divide truediv itruediv", torch, operator),
        channels=_divide,
        receptive_field=pointwise_field,
        sign=_sign_of_product,
    ),
    OpSpec(
        "square root",
        spellings("sqrt", torch),
        channels=root,
        receptive_field=pointwise_field,
        sign=sign_of_input,
    ),
    OpSpec(
        "logarithm or reciprocal",
        spellings("rsqrt log log2 log10 log1p reciprocal", torch),
        channels=root,
        receptive_field=pointwise_field,
    ),
    OpSpec(
        "power",
        spellings("pow", torch, operator),
        channels=_power,
        receptive_field=pointwise_field,
        sign=_sign_of_power,
    ),
    OpSpec(
        "assignment to a slice",
        (operator.setitem,),
        channels=_set_item,
        receptive_field=_assignment_field,
    ),
)
