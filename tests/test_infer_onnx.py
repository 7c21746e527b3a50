"""ONNX files of other programs on the command line: run, or refused with what was expected and what
was found.
"""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_files import other
from PIL import Image

from dhp_sr.infer import main

ANY = ["n", 3, "h", "w"]


def graph(path, nodes, inputs, outputs, held=()):
    """Write a graph of nodes; ends are name -> shape, or (type, shape)."""

    def ends(stated):
        pairs = {
            name: one if isinstance(one, tuple) else (TensorProto.FLOAT, one)
            for name, one in stated.items()
        }
        return [
            helper.make_tensor_value_info(name, kind, shape)
            for name, (kind, shape) in pairs.items()
        ]

    content = helper.make_graph(
        [helper.make_node(*node) for node in nodes], "g", ends(inputs), ends(outputs), held
    )
    onnx.save(
        helper.make_model(content, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path


def infer(model, tmp_path, *more):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 31, 3), dtype=np.uint8)).save(
        tmp_path / "a.png"
    )
    command = ["--model", model, "--input", tmp_path / "a.png", "--output", tmp_path / "out", *more]
    return main([str(part) for part in command])


ADD, COPY = ("Add", ["x", "z"], ["y"]), ("Identity", ["x"], ["y"])
REFUSED = {
    "two inputs": ([ADD], {"x": ANY, "z": ANY}, {"y": ANY}, "(N, C, H, W)"),
    "two outputs": (
        [COPY, ("Neg", ["x"], ["z"])],
        {"x": ANY},
        {"y": ANY, "z": ANY},
        "2 out",
    ),
    "no batch": ([COPY], {"x": [3, "h", "w"]}, {"y": [3, "h", "w"]}, "(N, C, H, W)"),
    "video": (
        [COPY],
        {"x": ["n", "t", 3, "h", "w"]},
        {"y": ["n", "t", 3, "h", "w"]},
        "(N, C, H, W)",
    ),
    "bytes": (
        [COPY],
        {"x": (TensorProto.UINT8, ANY)},
        {"y": (TensorProto.UINT8, ANY)},
        "tensor(uint8)",
    ),
    "fixed": (
        [COPY],
        {"x": [1, 3, 64, 64]},
        {"y": [1, 3, 64, 64]},
        "expected a free height and width",
    ),
    "fixed width": (
        [COPY],
        {"x": ["n", 3, "h", 64]},
        {"y": ["n", 3, "h", 64]},
        "expected a free height and width",
    ),
    "classes": (
        [("GlobalAveragePool", ["x"], ["y"])],
        {"x": ANY},
        {"y": ["n", 3, 1, 1]},
        "gives an output of (1, 3, 1",
    ),
    "channels": (
        [COPY],
        {"x": ["n", 7, "h", "w"]},
        {"y": ["n", 7, "h", "w"]},
        "7 channels in and 7 out",
    ),
    "a text out": (
        [("Shape", ["x"], ["y"])],
        {"x": ANY},
        {"y": (TensorProto.INT64, [4])},
        "gives an output of (4,)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_network_from_image_to_image_is_refused(case, tmp_path, capsys):
    nodes, inputs, outputs, message = REFUSED[case]
    assert infer(graph(tmp_path / "x.onnx", nodes, inputs, outputs), tmp_path) == 2
    error = capsys.readouterr().err
    assert (
        error.startswith(f"error: {tmp_path / 'x.onnx'}: ")
        and message in error
        and error.count("\n") == 1
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["sr", "unet"])
def test_others_that_suit_images_are_run(kind, tmp_path):
    """Twice as large; or a network that insists on even sides, fed with a image of 20 x 31."""
    assert infer(other(tmp_path / "x.onnx", kind), tmp_path) == 0
    with Image.open(tmp_path / "out" / "a.png") as result:
        assert result.size == ((62, 40) if kind == "sr" else (31, 20))


def test_a_batch_of_one_is_enough(tmp_path):
    assert (
        infer(
            graph(tmp_path / "x.onnx", [COPY], {"x": [1, 3, "h", "w"]}, {"y": [1, 3, "h", "w"]}),
            tmp_path,
        )
        == 0
    )
    with Image.open(tmp_path / "out" / "a.png") as result, Image.open(tmp_path / "a.png") as given:
        assert np.array_equal(np.asarray(result), np.asarray(given))
