"""Layers and networks are computed by the runtime that their times are for."""

import time

import numpy as np
import pytest
import torch
from torch import nn

from dhp_sr.archs import build
from dhp_sr.cost.latency_benchmark import TORCH, LatencyBenchmark
from dhp_sr.cost.latency_lut import LatencyLUT
from dhp_sr.deploy.onnx_runner import open_session
from dhp_sr.deploy.runtimes import RUNTIMES
from dhp_sr.deploy.timed_runtimes import layer_to_onnx, timed_runtime
from dhp_sr.hyper import convert
from dhp_sr.utils.devices import RUNTIME_NAMES
from dhp_sr.utils.errors import UserError

# OpenVINO has ended a test process that had done much else before: in a process apart.
pytestmark = pytest.mark.slow


LAYERS = {
    "conv": (nn.Conv2d(4, 6, 3, stride=2, padding=1), (1, 4, 9, 12)),
    "grouped, no bias": (nn.Conv2d(4, 6, 3, groups=2, dilation=2, bias=False), (2, 4, 9, 12)),
    "same": (nn.Conv2d(4, 6, 3, padding="same"), (1, 4, 9, 12)),
    "1-D": (nn.Conv1d(4, 6, 3, padding=1), (1, 4, 9)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1), (1, 4, 5, 6)),
    "linear": (nn.Linear(4, 6), (2, 5, 4)),
    "linear, no bias": (nn.Linear(4, 6, bias=False), (2, 4)),
}


@pytest.fixture(autouse=True)
def packages():
    for name in ("onnx", "onnxruntime", "onnxscript", "openvino"):
        pytest.importorskip(name)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_those_of_pytorch(name):
    layer, shape = LAYERS[name]
    x = torch.rand(shape)
    (result,) = open_session(layer_to_onnx(layer, x)).run(None, {"input": x.numpy()})
    np.testing.assert_allclose(result, layer(x).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_budget_is_measured_in_the_runtime(name, monkeypatch, tmp_path):
    runtime = timed_runtime(name)
    computed = []
    real = runtime.prepare._compile

    def compile_onnx(content, image, threads):
        computed.append((image.shape, threads))
        return real(content, image, threads)

    monkeypatch.setattr(runtime.prepare, "_compile", compile_onnx)
    for constant in ("NETWORK_SECONDS", "GRID_SECONDS"):
        monkeypatch.setattr(f"dhp_sr.cost.latency_benchmark.{constant}", 0.01)
    network = build("DnCNN", num_feat=8, num_layers=3, batch_norm=False).eval()
    x = torch.rand(1, 1, 16, 16)
    hyper = convert(network, x)
    path = tmp_path / "table.json"
    hyper.use_latency(LatencyBenchmark(x, path=path, runtime=runtime))
    assert hyper.prune_to(latency=0.7, round_to=1, tolerance=0.5).measured_latency_ratio > 0
    # The dense network and its cuts take the whole image, layers have one grid each.
    shapes = {shape for shape, _ in computed}
    assert (1, 1, 16, 16) in shapes and (1, 8, 16, 16) in shapes
    assert {threads for _, threads in computed} == {1}
    stored = LatencyBenchmark(x, runtime=runtime)._conditions()
    assert stored[name] == runtime.version and "torch" not in stored
    assert LatencyLUT.read(path, stored).layers
    with pytest.warns(UserWarning, match="torch"):
        assert not LatencyLUT.read(path, LatencyBenchmark(x)._conditions()).layers


class Halving(nn.Module):
    """A network of another package, for even heights and widths alone."""

    size_multiple = 2

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(12, 12, 3, padding=1)

    def forward(self, x):
        features = self.body(nn.functional.pixel_unshuffle(x, 2))
        return nn.functional.pixel_shuffle(features, 2)


def test_networks_that_need_multiples_are_timed():
    timed_runtime("onnxruntime").prepare(Halving().eval(), torch.rand(1, 3, 10, 14), 1)()


def test_names(monkeypatch):
    assert timed_runtime("torch") is TORCH
    assert set(RUNTIME_NAMES) == set(RUNTIMES)
    with pytest.raises(UserError, match="onnxruntime"):
        timed_runtime("onnxrt")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="cuda"):
        timed_runtime("tensorrt")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="TensorrtExecutionProvider"):
        timed_runtime("tensorrt")


def test_times_of_other_devices(monkeypatch):
    """Wall time under the name of the device: the processor only waits for it."""
    openvino = pytest.importorskip("openvino")
    compiled = []

    class Core(openvino.Core):
        available_devices = ("CPU", "GPU.0")

        def get_property(self, device, name):
            return "Some GPU" if name == "FULL_DEVICE_NAME" else ["FP32"]

        def compile_model(self, model, device, settings):
            compiled.append(device)
            return super().compile_model(model, "CPU", {})

    monkeypatch.setattr(openvino, "Core", Core)
    runtime = timed_runtime("openvino-gpu")
    x = torch.rand(1, 4, 9, 12)
    benchmark = LatencyBenchmark(x, runtime=runtime)
    runtime.prepare(nn.Conv2d(4, 6, 3), x, 1)()
    assert compiled == ["GPU"] and benchmark._clock() is time.perf_counter
    conditions = benchmark._conditions()
    assert conditions["device"] == "Some GPU" and conditions["threads"] == 0
    assert conditions["openvino-gpu"] == openvino.__version__
    on_cpu = LatencyBenchmark(x, runtime=timed_runtime("openvino"))
    assert on_cpu._clock() is time.thread_time and on_cpu._conditions()["threads"] == 1
    with pytest.raises(UserError, match=r"CPU, GPU\.0, got NPU"):
        timed_runtime("openvino-npu")


def test_whole_networks_are_compiled_and_layers_are_not(monkeypatch):
    compiled = []

    def compile_module(module, dynamic):
        compiled.append((type(module).__name__, dynamic))
        return module

    monkeypatch.setattr(torch, "compile", compile_module)
    runtime = timed_runtime("torch.compile")
    x = torch.rand(1, 1, 8, 8)
    network = build("DnCNN", num_feat=2, num_layers=3).eval()
    calls = []
    network.register_forward_hook(lambda *_: calls.append(torch.get_num_threads()))
    run = runtime.prepare(network, x, 1)
    # Compiling takes half a minute: it must not fall into the time of the first pass.
    assert calls == [1]
    run()
    runtime.prepare(nn.Conv2d(1, 2, 3), x, 1)()
    assert compiled == [("DnCNN", False)] and len(calls) == 2
    assert runtime.is_torch and LatencyBenchmark(x, runtime=runtime)._conditions()["torch.compile"]


def test_a_network_is_compiled_once(monkeypatch):
    runtime = timed_runtime("onnxruntime")
    compiled = []

    def compile_onnx(content, image, threads):
        compiled.append(content)
        return lambda: None

    monkeypatch.setattr(runtime.prepare, "_compile", compile_onnx)
    monkeypatch.setattr("dhp_sr.deploy.timed_runtimes.network_to_onnx", lambda *_: b"")
    x = torch.rand(1, 1, 8, 8)
    widths = (2, 4, *range(5, 14), 2, 4)
    for width in widths:
        runtime.prepare(build("DnCNN", num_feat=width, num_layers=3), x, 1)
    # The dense network is kept, the second is forgotten by the time it comes again.
    assert len(compiled) == len(widths) - 1
