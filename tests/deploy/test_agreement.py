"""The four networks in the papers' sizes, cut to half their multiply-adds: every export says what
PyTorch says.
"""

import io

import numpy as np
import pytest
import torch

from dhp_sr.archs import build
from dhp_sr.deploy import load_into, load_weights
from dhp_sr.deploy.onnx_export import export_onnx
from dhp_sr.deploy.onnx_runner import open_session
from dhp_sr.deploy.pt2_export import export_pt2
from dhp_sr.hyper import convert

PAPERS = {
    "EDSR": {"num_feat": 128, "num_block": 8},
    "SRResNet": {},
    "DnCNN": {},
    "UNet": {},
}
SMALL = {
    "EDSR": {"num_feat": 16, "num_block": 1},
    "SRResNet": {"num_feat": 16, "num_block": 1},
    "DnCNN": {"num_feat": 16, "num_layers": 4},
    "UNet": {"num_feat": 8},
}
SHAPES = ((1, 33, 57), (1, 100, 17), (2, 64, 40))
TINY = ((1, 1, 1), (1, 2, 2), (1, 17, 1))


def halved(name, arguments, **budget):
    torch.manual_seed(0)
    network = build(name, **arguments)
    hyper = convert(network, torch.zeros(1, network.in_channels, 32, 32))
    hyper.prune_to(macs=0.5, **budget)
    return hyper.cut().eval()


def differences(network, folder, shapes):
    """Export a network; return (batch, height, width) -> how far onnxruntime and the program are
    from PyTorch.
    """
    example = (1, network.in_channels, 32, 48)
    export_onnx(network, folder / "x.onnx", example)
    export_pt2(network, folder / "x.pt2", example)
    session = open_session(folder / "x.onnx")
    module = torch.export.load(io.BytesIO((folder / "x.pt2").read_bytes())).module()
    found = {}
    for batch, height, width in shapes:
        x = torch.rand(batch, network.in_channels, height, width)
        with torch.no_grad():
            expected, program = network(x), module(x)
        assert expected.shape == (
            batch,
            network.in_channels,
            network.scale * height,
            network.scale * width,
        )
        (runtime,) = session.run(None, {"input": x.numpy()})
        found[batch, height, width] = (
            float(np.abs(runtime - expected.numpy()).max()),
            float((program - expected).abs().max()),
        )
    return found


# The two exports apart are in test_onnx and test_pt2.
@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_half_a_small_network_agrees_at_any_size(name, tmp_path):
    network = halved(name, SMALL[name], round_to=1, min_width=1, tolerance=0.05)
    found = differences(network, tmp_path, (*SHAPES, *TINY))
    assert max(map(max, found.values())) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPERS)
def test_half_the_network_agrees_within_1e_5(name, tmp_path, capsys):
    network = halved(name, PAPERS[name])
    found = differences(network, tmp_path, SHAPES)
    half = export_onnx(
        network, tmp_path / "half.onnx", (1, network.in_channels, 32, 48), half=True
    ).largest
    assert max(map(max, found.values())) <= 1e-5
    with capsys.disabled():
        print(f"\n{name}: onnxruntime and pt2 from PyTorch: {found}; fp16 {half:g}")


def psnr(found, gt):
    return -10 * np.log10(np.mean((np.clip(found, 0, 1) - gt) ** 2))


@pytest.mark.slow
@pytest.mark.data
def test_half_precision_denoises_as_well(shared_data, shared_weights, tmp_path):
    """The published DnCNN on Set5's gray images, sigma 25."""
    from dhp_sr.data.images import decode, to_color

    network = build("DnCNN", batch_norm=False).eval()
    load_into(network, load_weights(shared_weights / "dncnn_25.pth"))
    runs = {}
    for kind, half in ((np.float32, False), (np.float16, True)):
        export_onnx(network, tmp_path / "x.onnx", (1, 1, 16, 24), half=half)
        runs[kind] = open_session(tmp_path / "x.onnx")
    scores = {kind: [] for kind in runs}
    for path in sorted((shared_data / "Set5" / "HR").glob("*.png")):
        gt = (
            to_color(decode(path.read_bytes(), path.name), "gray")[:96, :96]
            .astype(np.float32)
            .reshape(1, 1, 96, 96)
            / 255
        )
        noisy = gt + np.random.default_rng(0).normal(0, 25 / 255, gt.shape).astype(np.float32)
        for kind, session in runs.items():
            scores[kind].append(
                psnr(session.run(None, {"input": noisy.astype(kind)})[0].astype(np.float32), gt)
            )
    full, half = (np.mean(scores[kind]) for kind in (np.float32, np.float16))
    assert len(scores[np.float16]) == 5 and full > 28 and abs(full - half) < 0.01
