"""Shapes of arithmetic, which are inferred without torch's kernels."""

import copy
import operator
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dhp_sr.graph.shape_inference import infer_arithmetic, infer_interpolation, infer_layer

OPERANDS = {
    "image": torch.rand(2, 3, 4, 5),
    "channels": torch.rand(3, 1, 1),
    "double": torch.rand(2, 3, 4, 5, dtype=torch.float64),
    "half": torch.rand(2, 3, 4, 5, dtype=torch.float16),
    "integers": torch.ones(4, 5, dtype=torch.int64),
    "scalar": torch.tensor(2.0, dtype=torch.float64),
    "transposed": torch.rand(2, 3, 5, 4).transpose(2, 3),
    "mismatch": torch.rand(7),
    "int": 3,
    "float": 0.5,
    "text": "a",
}
UNKNOWN = {"transposed", "mismatch", "text"}


def to_meta(operand):
    return operand.to("meta") if isinstance(operand, torch.Tensor) else operand


@pytest.mark.parametrize("first", OPERANDS)
@pytest.mark.parametrize("second", OPERANDS)
def test_arithmetic_has_the_shape_and_type_of_torch(first, second):
    inferred = infer_arithmetic(to_meta(OPERANDS[first]), to_meta(OPERANDS[second]))
    may_be_unknown = {first, second} & UNKNOWN or {first, second} <= {"integers", "int", "float"}
    if may_be_unknown and inferred is None:
        return
    computed = operator.mul(OPERANDS[first], OPERANDS[second])
    assert (inferred.shape, inferred.dtype, inferred.stride()) == (
        computed.shape,
        computed.dtype,
        computed.stride(),
    )


def test_planning_does_not_import_the_compiler():
    script = (
        "import sys\n"
        "from dhp_sr.cli.plan import plan_arch\n"
        "plan_arch('EDSR', ['num_block=1'], size=(16, 16))\n"
        "print([name for name in ('torch._dynamo', 'torchvision', 'basicsr', 'matplotlib')"
        " if name in sys.modules])\n"
    )
    command = [sys.executable, "-c", script]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "[]\n"


LAYERS = {
    "linear": (nn.Linear(4, 6), (2, 3, 4)),
    "linear_vector": (nn.Linear(4, 6, bias=False), (4,)),
    "layer_norm": (nn.LayerNorm((3, 4)), (2, 3, 4)),
    "gelu": (nn.GELU(), (2, 4)),
    "softmax": (nn.Softmax(dim=1), (2, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_layers_of_torch_are_known_by_their_shapes(name, dtype):
    layer, shape = LAYERS[name]
    expected = copy.deepcopy(layer).to(dtype)(torch.rand(shape, dtype=dtype))
    on_meta = copy.deepcopy(layer).to("meta", dtype)
    inferred = infer_layer(on_meta, [torch.empty(shape, dtype=dtype, device="meta")])
    assert inferred.is_meta
    assert (inferred.shape, inferred.dtype) == (expected.shape, expected.dtype)
    assert inferred.stride() == expected.stride()


def test_layers_that_refuse_their_input_are_run():
    x = torch.empty(2, 5, device="meta")
    for layer in (nn.Linear(4, 6), nn.LayerNorm(4), nn.Linear(5, 6).double(), nn.ReLU()):
        assert infer_layer(layer.to("meta"), [x]) is None
    assert infer_layer(nn.GELU(), [torch.rand(2, 5)]) is None


RESIZES = [
    {"scale_factor": 2},
    {"scale_factor": 0.3, "mode": "bilinear", "align_corners": False},
    {"scale_factor": (1.5, 2), "mode": "bicubic", "recompute_scale_factor": True},
    {"size": 7, "mode": "bilinear", "antialias": True},
    {"size": (3, 9), "mode": "nearest-exact"},
    {"size": torch.Size([3, 9])},
]


@pytest.mark.parametrize("options", RESIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_interpolated_image_has_the_shape_of_torch(options, dtype):
    expected = F.interpolate(torch.rand(2, 3, 10, 5, dtype=dtype), **options)
    inferred = infer_interpolation(torch.empty(2, 3, 10, 5, dtype=dtype, device="meta"), **options)
    assert inferred.is_meta
    assert (inferred.shape, inferred.dtype) == (expected.shape, expected.dtype)
    assert inferred.stride() == expected.stride()


def test_interpolations_of_another_kind_are_run():
    x = torch.empty(2, 3, 10, 5, device="meta")
    assert infer_interpolation(x, size=(2, 2), scale_factor=2) is None
    assert infer_interpolation(x) is None
    assert infer_interpolation(x, size=(2, 2, 2)) is None
    assert infer_interpolation(x, scale_factor=0.1) is None
    assert infer_interpolation(x[0], size=4) is None
    assert infer_interpolation(x.to(torch.uint8), size=4) is None
    assert infer_interpolation(torch.rand(2, 3, 10, 5), size=4) is None
