"""Every runtime gives PyTorch's results, and the fastest that does is chosen."""

import importlib.util
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx_files import other

from dhp_sr.archs import build
from dhp_sr.deploy import runtime_trial, save_model
from dhp_sr.deploy.graph_info import Graph
from dhp_sr.deploy.onnx_runner import choose_providers, open_session
from dhp_sr.deploy.openvino_runner import FIXED_PIXELS, FIXED_SHAPES, OpenVinoRunner
from dhp_sr.deploy.runtime_trial import candidate_runtimes, check_agreement, open_fastest
from dhp_sr.deploy.runtimes import RUNTIMES, export_in_memory, open_runner, usable_device
from dhp_sr.deploy.safetensors_io import ModelFileError
from dhp_sr.utils.errors import UserError

# OpenVINO has ended a test process that had done much else before: in a process apart.
pytestmark = pytest.mark.slow


CPU = torch.device("cpu")
CUDA = torch.device("cuda")
OTHERS = ("onnxruntime", "openvino")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("runtimes") / "edsr.safetensors"
    save_model(build("EDSR", num_feat=8, num_block=1, upscale=2).eval(), path)
    return path


@pytest.fixture(scope="module")
def graph(file):
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name)
    return export_in_memory(file)


@pytest.mark.parametrize("name", OTHERS)
def test_an_export_in_memory_agrees_with_pytorch(file, graph, name):
    pytest.importorskip(name)
    torch_runner = open_runner(file, threads=1)
    runner = RUNTIMES[name].open(graph, CPU, "fp32", 1)
    assert runner.runtime == name and runner.info == torch_runner.info
    for shape in ((1, 3, 24, 40), (2, 3, 33, 17)):
        images = torch.rand(shape)
        assert float((runner(images) - torch_runner(images)).abs().max()) < 1e-5
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]


def test_openvino_reads_onnx_files(tmp_path):
    pytest.importorskip("openvino")
    path = other(tmp_path / "x.onnx", "unet")
    images = np.random.default_rng(0).random((1, 3, 8, 10), dtype=np.float32)
    runners = [open_runner(path, name, threads=1) for name in OTHERS]
    assert runners[0].info == runners[1].info and runners[1].size_multiple == 2
    np.testing.assert_allclose(runners[0](images), runners[1](images), atol=1e-5)
    half = open_runner(other(tmp_path / "h.onnx", weights=np.float16), "openvino", threads=1)
    assert half(images).dtype == np.float32 and half(images).shape == (1, 3, 16, 20)
    with pytest.raises(UserError, match="64"):
        open_runner(other(tmp_path / "x.onnx", "fixed"), "openvino")


@pytest.mark.parametrize("inside", [False, True])
def test_openvino_values_that_would_fill_the_memory(tmp_path, inside):
    openvino = pytest.importorskip("openvino")
    opset = pytest.importorskip("openvino.opset13")

    def image():
        return opset.parameter(openvino.PartialShape([-1, 3, -1, -1]), np.float32)

    x = image()
    shape = opset.constant(np.array([2**20, 2**20]))
    filled = opset.broadcast(opset.constant(np.float32(0)), shape)
    total = opset.reduce_sum(filled, opset.constant(np.array([0, 1])), keep_dims=False)
    model = openvino.Model([opset.add(x, total)], [x], "m")
    if inside:
        outer, other_branch = image(), image()
        plain = openvino.Model([opset.relu(other_branch)], [other_branch], "n")
        choice = opset.if_op(opset.constant(np.array(True)))
        choice.set_then_body(plain)
        choice.set_else_body(model)
        choice.set_input(outer.output(0), other_branch, x)
        made = choice.set_output(plain.results[0], model.results[0])
        model = openvino.Model([made], [outer], "o")
    openvino.serialize(model, tmp_path / "x.xml")
    with pytest.raises(ModelFileError, match=r"x\.xml: .*would hold 1099511627776 values"):
        open_runner(tmp_path / "x.xml")


def test_openvino_refuses_what_it_cannot_do(file, graph, tmp_path):
    openvino = pytest.importorskip("openvino")
    capable = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" in capable:
        rough = RUNTIMES["openvino"].open(graph, CPU, "bf16", 1)
        image = np.random.default_rng(0).random((1, 3, 24, 24), dtype=np.float32)
        assert 0 < np.abs(rough(image) - open_runner(file)(image)).max() < 0.05
    else:
        with pytest.raises(UserError, match="bf16"):
            RUNTIMES["openvino"].open(graph, CPU, "bf16", 1)
    with pytest.raises(UserError, match="cuda"):
        RUNTIMES["openvino"].open(graph, CUDA, "fp32", 1)
    present = {name.partition(".")[0] for name in openvino.Core().available_devices}
    for device in {"GPU", "NPU"} - present:
        with pytest.raises(UserError, match=f"CPU.*{device}"):
            RUNTIMES[f"openvino-{device.lower()}"].open(graph, CPU, "fp32", 1)
    (tmp_path / "x.xml").write_text("<net/>")
    with pytest.raises(UserError, match=r"x\.bin"):
        open_runner(tmp_path / "x.xml")
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"x\.xml"):
        open_runner(tmp_path / "x.xml")


def test_a_model_that_openvino_cannot_compile_is_no_crash(file, graph, monkeypatch):
    openvino = pytest.importorskip("openvino")

    class Core(openvino.Core):
        def compile_model(self, *arguments):
            raise RuntimeError("Exception from src/core.cpp:\nunsupported operation Foo")

    monkeypatch.setattr(openvino, "Core", Core)
    with pytest.raises(UserError, match=r"cannot compile.*CPU.*unsupported operation Foo"):
        RUNTIMES["openvino"].open(graph, CPU, "fp32", 1)
    broken = replace(graph, content=b"nothing")
    with pytest.raises(UserError, match=r"edsr\.safetensors, exported"):
        RUNTIMES["openvino"].open(broken, CPU, "fp32", 1)


def test_providers_of_graphics_cards():
    cpu, cuda, tensorrt = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))
    everything = [tensorrt, cuda, cpu]
    assert choose_providers("onnxruntime", CPU, everything) == [cpu]
    assert choose_providers("onnxruntime", CUDA, everything) == [cuda, cpu]
    assert choose_providers("tensorrt", CUDA, everything) == everything
    for runtime, device, available, named in (
        ("onnxruntime", CUDA, [cpu], "onnxruntime-gpu"),
        ("tensorrt", CUDA, [cuda, cpu], tensorrt),
        ("tensorrt", CPU, everything, "--device cuda"),
    ):
        with pytest.raises(UserError, match=named):
            choose_providers(runtime, device, available)


@pytest.mark.parametrize(
    ("name", "providers", "expected"),
    [
        ("torch", (), "cuda"),
        ("tensorrt", (), "cuda"),
        ("openvino", (), "cpu"),
        ("onnxruntime", ("CPUExecutionProvider",), "cpu"),
        ("onnxruntime", ("CUDAExecutionProvider", "CPUExecutionProvider"), "cuda"),
    ],
)
def test_a_runtime_computes_on_the_card_where_it_can(monkeypatch, name, providers, expected):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*providers])
    assert usable_device(name, CUDA).type == expected
    assert usable_device(name, CPU).type == "cpu"


class Session:
    """onnxruntime on a machine that lacks the libraries of some providers."""

    missing = ()
    made = ()

    def __init__(self, source, options, *, providers, provider_options, **_):
        Session.made = dict(zip(providers, provider_options, strict=True))

    def get_providers(self):
        return [name for name in Session.made if name not in Session.missing]


def test_a_card_that_cannot_be_used_is_an_error_not_a_slow_result(monkeypatch):
    """onnxruntime computes on the CPU without a word where CUDA's libraries are missing."""
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    cpu, cuda, tensorrt = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))
    assert open_session(b"", 1, [tensorrt, cuda, cpu]).get_providers() == [tensorrt, cuda, cpu]
    # As exact as PyTorch, whose TF32 is off, too.
    assert Session.made == {tensorrt: {}, cuda: {"use_tf32": "0"}, cpu: {}}
    monkeypatch.setattr(Session, "missing", (tensorrt,))
    with pytest.raises(UserError, match=rf"{tensorrt} could not.*{cuda} would.*TensorRT"):
        open_session(b"", 1, [tensorrt, cuda, cpu])
    monkeypatch.setattr(Session, "missing", (cuda,))
    with pytest.raises(UserError, match=rf"{cuda} could not be loaded.*{cpu}.*cuDNN"):
        open_session(b"", 1, [cuda, cpu])


def test_other_devices_of_openvino(file, graph, monkeypatch):
    """Where one is present it is asked for by its name, without settings of the CPU."""
    openvino = pytest.importorskip("openvino")
    asked = []

    class Core(openvino.Core):
        available_devices = ("CPU", "GPU.0")

        def get_property(self, device, name):
            return ["FP32", "FP16"]

        def compile_model(self, model, device, settings):
            asked.append((device, settings))
            hint = {"INFERENCE_PRECISION_HINT": settings["INFERENCE_PRECISION_HINT"]}
            return super().compile_model(model, "CPU", hint)

    monkeypatch.setattr(openvino, "Core", Core)
    runner = RUNTIMES["openvino-gpu"].open(graph, CPU, "fp32", 1)
    ((device, settings),) = asked
    assert device == "GPU" and runner.runtime == "openvino-gpu"
    assert settings["INFERENCE_PRECISION_HINT"] == "f32" and "NUM_STREAMS" not in settings
    image = torch.rand(1, 3, 24, 30)
    assert float((runner(image) - open_runner(file)(image)).abs().max()) < 1e-4


def test_openvino_compiles_for_small_shapes_that_come_again(graph):
    pytest.importorskip("openvino")
    runner = RUNTIMES["openvino"].open(graph, CPU, "fp32", 1)
    again = [(1, 3, 20 + number, 24) for number in range(FIXED_SHAPES + 1)]
    large = (1, 3, FIXED_PIXELS // 24, 25)
    once = (2, 3, 20, 24)
    results = {}
    for shape in (*again, once, large, large, *again):
        image = np.random.default_rng(0).random(shape, dtype=np.float32)
        result = runner(image)
        assert np.abs(result - results.setdefault(shape, result)).max() < 1e-5
    # No more than a few: each takes time to compile, and memory.
    assert list(runner._requests) == again[:FIXED_SHAPES]


def test_missing_packages_are_named(file, graph, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=r"dhp_sr\[openvino\]"):
        RUNTIMES["openvino"].open(graph, CPU, "fp32", 1)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"dhp_sr\[onnx\]"):
        RUNTIMES["onnxruntime"].open(graph, CPU, "fp32", 1)


def test_compiled_models_take_any_size(file, monkeypatch):
    # The compiler itself takes half a minute and is PyTorch's; what is ours is around it.
    monkeypatch.setattr(torch, "compile", lambda network, dynamic: network)
    runner = open_runner(file, "torch.compile", threads=1)
    image = torch.rand(1, 3, 20, 30)
    assert runner.runtime == "torch.compile"
    assert float((runner(image) - open_runner(file)(image)).abs().max()) < 1e-5


@pytest.mark.slow
# torch.compile imports parts of torch that use what torch deprecates
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_torch_compile_agrees_with_pytorch(file):
    runner = open_runner(file, "torch.compile", threads=1)
    for shape in ((1, 3, 24, 40), (1, 3, 33, 17)):
        images = torch.rand(shape)
        assert float((runner(images) - open_runner(file)(images)).abs().max()) < 1e-5


def test_little_work_is_not_worth_a_trial(file, monkeypatch):
    monkeypatch.setattr(runtime_trial, "export_in_memory", None)
    choice = open_fastest(file, pixels=100, threads=1)
    assert choice.runner.runtime == "torch" and not choice.reason


def timed_as(monkeypatch, **milliseconds):
    def time_interleaved(calls, *_, **__):
        return {name: [milliseconds.get(name, 1000.0)] for name in calls}

    monkeypatch.setattr(runtime_trial, "time_interleaved", time_interleaved)


@pytest.fixture
def trial(graph, monkeypatch):
    for name in OTHERS:
        pytest.importorskip(name)
    monkeypatch.setattr(runtime_trial, "export_in_memory", lambda *_: graph)


@pytest.mark.parametrize("fastest", OTHERS)
def test_the_fastest_runtime_is_chosen(file, trial, monkeypatch, fastest):
    timed_as(monkeypatch, **{fastest: 400.0})
    choice = open_fastest(file, pixels=1e9, threads=1)
    assert choice.runner.runtime == fastest and f"{fastest} 2.50x" in choice.reason


def test_the_default_stays_where_others_are_hardly_faster(file, trial, monkeypatch):
    timed_as(monkeypatch, openvino=950.0)
    assert open_fastest(file, pixels=1e9, threads=1).runner.runtime == "torch"


def test_a_runtime_that_disagrees_is_not_chosen(file, trial, monkeypatch):
    timed_as(monkeypatch, openvino=1.0, onnxruntime=500.0)
    real = check_agreement

    def check(runner, *arguments):
        if runner.runtime == "openvino":
            raise UserError("a difference of 3")
        real(runner, *arguments)

    monkeypatch.setattr(runtime_trial, "check_agreement", check)
    choice = open_fastest(file, pixels=1e9, threads=1)
    assert choice.runner.runtime == "onnxruntime" and "a difference of 3" in choice.reason


def in_int8(path):
    """Write a program's int8 file: a rounded input, weights of 8 bits."""
    other(path)
    model = onnx.load(path)
    (weights,) = model.graph.initializer
    # At most 64: processors without VNNI add pairs of products in 16 bits.
    values = np.round(onnx.numpy_helper.to_array(weights) * 500).astype(np.int8)
    constants = {
        "scale": np.float32(1 / 255),
        "zero": np.uint8(0),
        "w_scale": np.float32(0.002),
        "w_int8": values,
    }
    del model.graph.initializer[:]
    for name, value in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    rounding = [
        onnx.helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x_int8"]),
        onnx.helper.make_node("DequantizeLinear", ["x_int8", "scale", "zero"], ["rounded"]),
        onnx.helper.make_node("DequantizeLinear", ["w_int8", "w_scale"], ["w"]),
    ]
    model.graph.node[0].input[0] = "rounded"
    nodes = [*rounding, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_files_of_others_are_compared_in_their_own_precision(tmp_path, monkeypatch, precision):
    for name in OTHERS:
        pytest.importorskip(name)
    path = tmp_path / "x.onnx"
    path = in_int8(path) if precision == "int8" else other(path, weights=np.float16)
    assert runtime_trial.precision_of(Graph(path), None) == precision
    timed_as(monkeypatch, openvino=1.0)

    def away(runner, image):
        # Half of what the precision explains, as of a large network.
        return np.asarray(compute(runner, image)) + allowed / 2

    allowed = runtime_trial.ALLOWED_DIFFERENCES[precision]
    compute = OpenVinoRunner.compute
    monkeypatch.setattr(OpenVinoRunner, "compute", away)
    assert open_fastest(path, pixels=1e9, threads=1).runner.runtime == "openvino"
    # Without a word about precision, an export in memory is of fp32.
    assert runtime_trial.precision_of(replace(Graph(path), content=b""), None) == "fp32"


def test_agreement_is_refused_with_the_difference(file, graph):
    default = open_runner(file, threads=1)
    image = runtime_trial.trial_image(default)
    check_agreement(default, default, image, "fp32")

    class Shifted:
        def __call__(self, images):
            return np.asarray(default(images)) + 0.01

    with pytest.raises(UserError, match=r"0\.01"):
        check_agreement(Shifted(), default, image, "fp32")


def test_candidates(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    ours, onnx, openvino = (tmp_path / f"x.{suffix}" for suffix in ("safetensors", "onnx", "xml"))
    assert candidate_runtimes(ours, CPU) == ["onnxruntime", "openvino"]
    assert candidate_runtimes(ours, CUDA) == ["onnxruntime", "tensorrt"]
    assert candidate_runtimes(onnx, CPU) == ["openvino"]
    assert candidate_runtimes(openvino, CPU) == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert candidate_runtimes(ours, CPU) == []


def test_a_graph_names_its_file(file, graph):
    assert graph.path == file and Graph(file).content is None
