"""Model files ready to run."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx_files import other
from torch import nn

from dhp_sr.archs import build
from dhp_sr.deploy import load_model, save_model
from dhp_sr.deploy.graph_info import describe_graph
from dhp_sr.deploy.model_info import DEFAULT_BYTES_PER_PIXEL
from dhp_sr.deploy.onnx_metadata import pack_metadata
from dhp_sr.deploy.runtimes import open_runner
from dhp_sr.deploy.safetensors_io import ModelFileError
from dhp_sr.deploy.torch_runner import DeterministicConvolutions
from dhp_sr.utils.errors import UserError

SMALL = {
    "edsr": ("EDSR", {"num_feat": 8, "num_block": 1, "upscale": 2}),
    "dncnn": ("DnCNN", {"num_feat": 8, "num_layers": 4}),
    "unet": ("UNet", {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 4, "num_levels": 3}),
}
FACTS = {
    "edsr": ("sr", 2, 3, 3, "RGB", 1, 6, 1),
    "dncnn": ("denoise", 1, 1, 1, "grey", 1, 4, 1),
    "unet": ("denoise", 1, 3, 3, "RGB", 1, 22, 4),
}


# Apart, see test_runtimes.py.
OPENVINO = pytest.param("openvino", marks=pytest.mark.slow)


def built(name):
    kind, arguments = SMALL[name]
    return build(kind, **arguments).eval()


def facts(runner):
    info, tiles = runner.info, runner.tiles
    channels = (info.in_channels, info.out_channels, info.color)
    return (info.task, info.scale, *channels, info.sizes.multiple, tiles.halo, tiles.multiple)


@pytest.fixture
def file(tmp_path):
    def make(name):
        save_model(built(name), tmp_path / f"{name}.safetensors")
        return tmp_path / f"{name}.safetensors"

    return make


@pytest.mark.parametrize("name", SMALL)
def test_safetensors(file, name):
    path = file(name)
    runner = open_runner(path, threads=1)
    assert facts(runner) == FACTS[name] and runner.tiles.reason == ""
    images = torch.rand(2, runner.in_channels, 24, 40)
    with torch.no_grad():
        expected = load_model(path)(images)
    assert torch.equal(runner(images), expected)
    found = runner(images.numpy())
    assert isinstance(found, np.ndarray) and np.array_equal(found, expected.numpy())


def test_onnx_of_others(tmp_path):
    runner = open_runner(other(tmp_path / "x.onnx"), threads=1)
    assert facts(runner) == ("sr", 2, 3, 3, "RGB", 1, None, 1)
    assert (
        "does not say" in runner.tiles.reason
        and runner.tiles.bytes_per_pixel == DEFAULT_BYTES_PER_PIXEL
    )
    runner = open_runner(other(tmp_path / "x.onnx", "unet"), threads=1)
    assert facts(runner) == ("", 1, 3, 3, "RGB", 2, None, 2)
    runner = open_runner(other(tmp_path / "x.onnx", weights=np.float16), threads=1)
    images = torch.rand(1, 3, 8, 10)
    assert runner(images).dtype == torch.float32 and runner(images).shape == (1, 3, 16, 20)
    with pytest.raises(UserError, match=r"x\.onnx: .*fp16.*bf16"):
        open_runner(runner.path, precision="bf16")
    with pytest.raises(UserError, match=r"x\.onnx: .*64, 64"):
        open_runner(other(tmp_path / "x.onnx", "fixed"))


@pytest.mark.parametrize("wrapped", [False, True])
def test_half_precision_between_casts_is_seen(tmp_path, wrapped):
    """Converters of other projects keep input and output in fp32 and compute in fp16."""
    path = other(tmp_path / "x.onnx", weights=np.float16)
    model = onnx.load(path)
    graph = model.graph
    graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    graph.node[0].input[0] = "half"
    graph.node[-1].output[0] = "result"
    if wrapped:  # weights as nodes
        constant = onnx.helper.make_node("Constant", [], ["w"], value=graph.initializer[0])
        del graph.initializer[:]
        graph.node.insert(0, constant)
    graph.node.insert(0, onnx.helper.make_node("Cast", ["x"], ["half"], to=10))
    graph.node.append(onnx.helper.make_node("Cast", ["result"], ["y"], to=1))
    onnx.save(model, path)
    assert open_runner(path, precision="fp16")(torch.rand(1, 3, 8, 10)).shape == (1, 3, 16, 20)
    with pytest.raises(UserError, match=r"x\.onnx: .*fp16.*bf16"):
        open_runner(path, precision="bf16")
    with pytest.raises(UserError, match=r"x\.onnx: .*fp32.*fp16"):
        open_runner(other(path), precision="fp16")


def described(**changes):
    """The metadata of a file of ours."""
    facts = {
        "architecture": "EDSR",
        "task": "sr",
        "scale": 2,
        "in_channels": 3,
        "out_channels": 3,
        "colour": "RGB",
    }
    facts |= {
        "value_range": [0, 1],
        "size_multiple": 1,
        "precision": "fp32",
        "params": 1,
        "halo": 1,
    }
    facts |= {"tile_multiple": 1, "bytes_per_pixel": 512}
    return pack_metadata({**facts, **changes})


def test_onnx_with_our_metadata(tmp_path):
    path = tmp_path / "x.onnx"
    runner = open_runner(other(path, props=described()), threads=1)
    assert facts(runner) == ("sr", 2, 3, 3, "RGB", 1, 1, 1) and runner.tiles.bytes_per_pixel == 512
    with pytest.raises(ModelFileError, match=r"scale 4.* 2"):
        open_runner(other(path, props=described(scale=4)))
    with pytest.raises(ModelFileError, match="halo up to 4096"):
        open_runner(other(path, props=described(halo=10**6)))
    with pytest.raises(ModelFileError, match=r"x\.onnx: metadata: params"):
        props = described()
        del props["params"]
        open_runner(other(path, props=props))


@pytest.mark.parametrize("runtime", ["onnxruntime", OPENVINO])
def test_files_for_a_single_image_take_several(tmp_path, runtime):
    """Channels of a color image go through a gray network as a batch, tiles on a graphics card."""
    pytest.importorskip(runtime)
    path = other(tmp_path / "x.onnx")
    free = open_runner(path, runtime, threads=1)
    images = torch.rand(3, 3, 10, 12)
    expected = free(images)
    model = onnx.load(path)
    axis = model.graph.input[0].type.tensor_type.shape.dim[0]
    axis.ClearField("dim_param")
    axis.dim_value = 1
    onnx.save(model, path)
    single = open_runner(path, runtime, threads=1)
    assert single.is_single and not free.is_single
    torch.testing.assert_close(single(images), expected)
    torch.testing.assert_close(single(images[:1].numpy()), expected[:1].numpy())


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", OPENVINO])
def test_images_that_are_too_small(tmp_path, runtime):
    """A window of 7 does not fit: onnxruntime would end the process, OpenVINO return nothing."""
    pytest.importorskip(runtime)
    path = tmp_path / "rlfn.safetensors"
    save_model(build("RLFN", num_feat=4, num_block=1, upscale=2).eval(), path)
    runner = open_runner(path, runtime, threads=1)
    assert runner(torch.rand(1, 3, 15, 20)).shape == (1, 3, 30, 40)
    for height, width in ((8, 8), (14, 20), (20, 14)):
        with pytest.raises(UserError, match=f"at least 15, got {height} x {width}"):
            runner(torch.rand(1, 3, height, width))


def test_the_smallest_side_that_a_file_states(tmp_path):
    path = tmp_path / "x.onnx"
    runner = open_runner(other(path, props=described(smallest_side=40)), threads=1)
    assert runner.info.sizes.lower_limit == 40
    with pytest.raises(UserError, match="at least 40, got 39 x 50"):
        runner(torch.rand(1, 3, 39, 50))
    with pytest.raises(ModelFileError, match="smallest_side up to 4096"):
        open_runner(other(path, props=described(smallest_side=10**6)))


@pytest.mark.parametrize(
    "changes", [{}, {"task": "classification", "input_size": 4096, "out_channels": 2}]
)
def test_images_of_more_channels_than_fit_the_memory(changes):
    def compute(images):
        raise AssertionError("no image of this size may be made")

    props = described(in_channels=2**40, **changes)
    with pytest.raises(ModelFileError, match=r"x\.onnx: .*1099511627776 channels"):
        describe_graph(compute, props, None, Path("x.onnx"))


def test_inputs_that_pytorch_refuses(file):
    runner = open_runner(file("dncnn"), threads=1)
    with pytest.raises(UserError, match=r"PyTorch: .*channels"):
        runner(torch.rand(1, 2, 16, 16))


def test_what_cannot_run(file, tmp_path):
    path = file("edsr")
    with pytest.raises(UserError, match=r"fp32, bf16, fp16.*'int8'"):
        open_runner(path, precision="int8")
    with pytest.raises(UserError, match="fp16 is for graphics cards"):
        open_runner(path, precision="fp16")
    with pytest.raises(UserError, match="no such file"):
        open_runner(tmp_path / "none.safetensors")
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(UserError, match=r"text\.onnx: "):
        open_runner(tmp_path / "text.onnx")
    with pytest.raises(UserError, match=r"text\.onnx: .*cuda"):
        open_runner(tmp_path / "text.onnx", device="cuda")


def test_bf16_is_near(file):
    path = file("edsr")
    images = torch.rand(1, 3, 24, 40)
    exact, rough = open_runner(path)(images), open_runner(path, precision="bf16")(images)
    assert rough.dtype == torch.float32 and 0 < float((exact - rough).abs().max()) < 0.05
    memory = [open_runner(path, precision=name).tiles.bytes_per_pixel for name in ("fp32", "bf16")]
    assert memory[1] == memory[0] / 2


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(3, 16, 3, padding=1), nn.ConvTranspose2d(8, 16, 2, stride=2)]
)
def test_small_images_are_computed_like_large_ones(layer):
    images = torch.rand(1, layer.in_channels, 200, 200)
    with torch.inference_mode(), DeterministicConvolutions():
        whole, part = layer(images), layer(images[:, :, 50:70, 50:70])
    stride = layer.stride[0]
    inner = slice(stride * 1, stride * 19)
    place = slice(stride * 51, stride * 69)
    assert torch.equal(whole[:, :, place, place], part[:, :, inner, inner])


def scaled(path, before, after):
    """Write a file whose network, an identity within 0 to 1, takes and gives other ranges."""
    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    factors = {"before": before, "after": after}
    held = [onnx.numpy_helper.from_array(np.float32(v), k) for k, v in factors.items()]
    nodes = [
        node("Mul", ["x", "before"], ["u"]),
        node("Clip", ["u"], ["c"]),
        node("Sigmoid", ["c"], ["s"]),
        node("Mul", ["s", "after"], ["y"]),
    ]
    ends = [[value(name, 1, ["n", 3, "h", "w"])] for name in "xy"]
    graph = onnx.helper.make_graph(nodes, "g", *ends, held)
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


@pytest.mark.parametrize(
    ("before", "after", "found"),
    # Sigmoid(0) is 0.5: a network for 0 to 1 gives 0.5, one that gives 0 to 255 half of that.
    [(1e-6, 1.0, None), (1.0, 255.0, "158"), (1e-6, 255.0, "127.5")],
)
def test_a_file_that_works_on_0_to_255_is_refused(tmp_path, before, after, found):
    path = scaled(tmp_path / "x.onnx", before, after)
    if found is None:
        open_runner(path, threads=1)
        return
    with pytest.raises(UserError, match=rf"values from 0 to 1, got {found}.*0 to 255"):
        open_runner(path, threads=1)


def test_a_file_that_takes_and_gives_0_to_255_is_refused(tmp_path):
    """Fed with values up to 1 it sees black, which it darkens further; its own range it keeps."""
    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    held = [onnx.numpy_helper.from_array(np.float32(2.0), "offset")]
    nodes = [node("Sub", ["x", "offset"], ["y"])]
    ends = [[value(name, 1, ["n", 3, "h", "w"])] for name in "xy"]
    graph = onnx.helper.make_graph(nodes, "g", *ends, held)
    opset = [onnx.helper.make_opsetid("", 17)]
    path = tmp_path / "x.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    with pytest.raises(UserError, match=r"got -1\.5 for a gray image of 0\.5, but 125\.5 for"):
        open_runner(path, threads=1)
