"""Shapes of arithmetic, which are inferred without torch's kernels."""

import operator
import subprocess
import sys

import pytest
import torch

from dhp_sr.graph.shape_inference import infer_arithmetic

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
