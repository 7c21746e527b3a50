"""The four networks in the papers' sizes, cut to half their multiply-adds: every export says what PyTorch says."""

import io

import numpy as np
import pytest
import torch

from dhp_sr.archs import build
from dhp_sr.deploy import load_into, load_weights
from dhp_sr.deploy.onnx import export_onnx, open_onnx
from dhp_sr.deploy.pt2 import export_pt2
from dhp_sr.hyper import convert

NETWORKS = {
    "EDSR": {"num_feat": 128, "num_block": 8},
    "SRResNet": {},
    "DnCNN": {},
    "UNet": {},
}
SHAPES = ((1, 33, 57), (1, 100, 17), (2, 64, 40))


def halved(name):
    hyper = convert(build(name, **NETWORKS[name]), torch.zeros(1, build(name, **NETWORKS[name]).in_channels, 32, 32))
    hyper.prune_to(macs=0.5)
    return hyper.cut().eval()


def up(side, multiple):
    return multiple * -(-side // multiple)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_half_the_network_agrees_within_1e_5(name, tmp_path, capsys):
    network = halved(name)
    channels, multiple = network.in_channels, network.size_multiple
    shape, where = (1, channels, up(32, multiple), up(48, multiple)), {"size_multiple": multiple}
    export_onnx(network, tmp_path / "x.onnx", shape, **where)
    export_pt2(network, tmp_path / "x.pt2", shape, **where)
    half = export_onnx(network, tmp_path / "half.onnx", shape, half=True, **where).largest
    session = open_onnx(tmp_path / "x.onnx")
    module = torch.export.load(io.BytesIO((tmp_path / "x.pt2").read_bytes())).module()
    found = {}
    for batch, height, width in SHAPES:
        x = torch.rand(batch, channels, up(height, multiple), up(width, multiple))
        with torch.no_grad():
            expected, program = network(x), module(x)
        (runtime,) = session.run(None, {"input": x.numpy()})
        differences = (np.abs(runtime - expected.numpy()).max(), float((program - expected).abs().max()))
        found[tuple(x.shape)] = differences
        assert max(differences) <= 1e-5
    with capsys.disabled():
        print(f"\n{name}: onnxruntime and pt2 from PyTorch: {found}; fp16 {half:g}")


def psnr(found, truth):
    return -10 * np.log10(np.mean((np.clip(found, 0, 1) - truth) ** 2))


@pytest.mark.data
def test_half_precision_denoises_as_well(shared_data, shared_weights, tmp_path):
    """The published DnCNN on Set5's grey pictures, sigma 25."""
    from dhp_sr.data.images import decode, to_color

    network = build("DnCNN", batch_norm=False).eval()
    load_into(network, load_weights(shared_weights / "dncnn_25.pth"))
    runs = {}
    for kind, half in ((np.float32, False), (np.float16, True)):
        export_onnx(network, tmp_path / "x.onnx", (1, 1, 16, 24), half=half)
        runs[kind] = open_onnx(tmp_path / "x.onnx")
    scores = {kind: [] for kind in runs}
    for path in sorted((shared_data / "Set5" / "HR").glob("*.png")):
        truth = (
            to_color(decode(path.read_bytes(), path.name), "grey")[:96, :96].astype(np.float32).reshape(1, 1, 96, 96)
            / 255
        )
        noisy = truth + np.random.default_rng(0).normal(0, 25 / 255, truth.shape).astype(np.float32)
        for kind, session in runs.items():
            scores[kind].append(psnr(session.run(None, {"input": noisy.astype(kind)})[0].astype(np.float32), truth))
    full, half = (np.mean(scores[kind]) for kind in (np.float32, np.float16))
    assert len(scores[np.float16]) == 5 and full > 28 and abs(full - half) < 0.01
