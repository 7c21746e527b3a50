"""An exported graph obeys chaiNNer's rules for ONNX models.

They are: one input and one output, both images of four axes; channels fixed, and at most four;
sides free, so that it cuts large images into tiles; the scale readable by shape inference;
everything inside the one file.
"""

import pytest
from exported import SMALL
from slow_rows import rows

SIDE = 32


@pytest.mark.parametrize("name", rows(SMALL, ["EDSR", "DnCNN"]))
def test_rules(name, exports):
    onnx = pytest.importorskip("onnx")
    network, path = exports[name]
    model = onnx.load(path, load_external_data=False)
    assert [len(model.graph.input), len(model.graph.output)] == [1, 1]
    image, result = (
        value.type.tensor_type.shape.dim for value in (model.graph.input[0], model.graph.output[0])
    )
    assert len(image) == len(result) == 4
    assert image[1].dim_value == network.in_channels and 1 <= result[1].dim_value <= 4
    assert all(side.dim_param and not side.dim_value for side in (*image[2:], *result[2:]))
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert inferred_scale(onnx, model) == (network.scale, network.scale)


def inferred_scale(onnx, model):
    """State the input's size, forget what the file says of its output, and let ONNX find the
    output's size.
    """
    for side, value in zip(
        model.graph.input[0].type.tensor_type.shape.dim, (1, None, SIDE, SIDE), strict=True
    ):
        if value:
            side.dim_value = value
    del model.graph.value_info[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    found = (
        onnx.shape_inference.infer_shapes(model, data_prop=True)
        .graph.output[0]
        .type.tensor_type.shape.dim
    )
    return tuple(side.dim_value / SIDE for side in found[2:])
