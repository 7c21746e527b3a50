"""Small ONNX files, made without an exporter."""

import numpy as np
import onnx

from dhp_sr.deploy.onnx_check import write_with_checksum


def other(path, kind="sr", weights=np.float32, props=None):
    """Write an ONNX file as another program would: x2 by shuffling, or down and up again beside a
    skip.
    """
    rng, type_of = np.random.default_rng(0), onnx.helper.np_dtype_to_tensor_dtype(np.dtype(weights))

    def tensor(name, *shape):
        return onnx.numpy_helper.from_array((rng.random(shape) * 0.1).astype(weights), name)

    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    if kind == "sr":
        held = [tensor("w", 12, 3, 3, 3)]
        nodes = [
            node("Conv", ["x", "w"], ["h"], pads=[1, 1, 1, 1]),
            node("DepthToSpace", ["h"], ["y"], blocksize=2),
        ]
    else:
        held = [tensor("w", 3, 3, 2, 2)]
        nodes = [
            node("MaxPool", ["x"], ["h"], kernel_shape=[2, 2], strides=[2, 2]),
            node("ConvTranspose", ["h", "w"], ["u"], strides=[2, 2]),
            node("Add", ["x", "u"], ["y"]),
        ]
    sides = [64, 64] if kind == "fixed" else ["h", "w"]
    ends = [value("x", type_of, ["n", 3, *sides])], [value("y", type_of, ["n", 3, None, None])]
    content = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", *ends, held),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=8,
    )
    if props:
        write_with_checksum(content, props, path)
    else:
        onnx.save(content, path)
    return path
