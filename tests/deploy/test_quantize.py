"""OpenVINO's files, and int8 for both runtimes: the loss is measured, too much is an error."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from dhp_sr.archs import build
from dhp_sr.cli.calibration import MAX_SIDE, calibration_images
from dhp_sr.cli.export import check_options, export_model, export_text
from dhp_sr.cli.export_formats import ExportOptions
from dhp_sr.data.images import encode_png
from dhp_sr.deploy import save_model
from dhp_sr.deploy.graph_info import Graph
from dhp_sr.deploy.int8_simulation import (
    CalibrationImage,
    finetune_for_int8,
    input_ranges,
    layer_losses,
    mean_psnr,
    round_weight,
    simulated_int8,
)
from dhp_sr.deploy.onnx_graph import OPSET, convert_to_onnx
from dhp_sr.deploy.onnx_ranges import clipped_ranges
from dhp_sr.deploy.openvino_runner import capabilities, inner_precision, read_openvino
from dhp_sr.deploy.quantize import Int8Options, quantize
from dhp_sr.deploy.quantizers import (
    float_layers,
    makes_difference,
    onnx_layers,
    openvino_reuse,
    quantize_onnx,
    quantize_openvino,
)
from dhp_sr.deploy.recipes import RECIPES, Recipe
from dhp_sr.deploy.runtimes import open_runner
from dhp_sr.utils.errors import UserError

# NNCF and OpenVINO have ended a test process that had done much else before: in a process apart.
pytestmark = pytest.mark.slow

SUFFIX = {"onnx": ".onnx", "openvino": ".xml"}


@pytest.fixture(autouse=True)
def packages():
    for name in ("onnx", "onnxruntime", "onnxscript", "openvino", "nncf"):
        pytest.importorskip(name)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build("EDSR", num_feat=8, num_block=1, upscale=2).eval()


@pytest.fixture(scope="module")
def model(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "edsr.safetensors"
    save_model(network, path)
    return path


@pytest.fixture(scope="module")
def images(network):
    torch.manual_seed(1)
    made = []
    for _ in range(2):
        lq = torch.rand(1, 3, 24, 32)
        with torch.no_grad():
            # Off by noise, as a network is from the ground truth: 40 dB.
            made.append(CalibrationImage(lq, network(lq) + 0.01 * torch.randn(1, 3, 48, 64)))
    return made


def exported(model, images, monkeypatch, tmp_path, file_format, **options):
    monkeypatch.setattr("dhp_sr.cli.export.calibration_images", lambda *_: images)
    path = tmp_path / f"x{SUFFIX[file_format]}"
    choices = ExportOptions(int8=True, calibration="folder", **options)
    return export_model(model, file_format, path, choices)


ONNX_ALONE = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
run = lambda x: session.run(None, {"input": x})[0]
"""
OPENVINO_ALONE = """
import sys, numpy, openvino
request = openvino.Core().compile_model(sys.argv[1], "CPU").create_infer_request()
run = lambda x: request.infer({0: x})[0]
"""
FRESH = """
for height, width in ((21, 30), (40, 17)):
    x = numpy.full((1, 3, height, width), 0.5, numpy.float32)
    assert run(x).shape == (1, 3, 2 * height, 2 * width)
assert not {"torch", "nncf", "dhp_sr"} & set(sys.modules)
"""


@pytest.mark.parametrize("file_format", SUFFIX)
def test_int8_files_run_in_the_runtime_alone(model, images, monkeypatch, tmp_path, file_format):
    found = exported(model, images, monkeypatch, tmp_path, file_format, max_loss=20.0)
    assert found.facts["precision"] == "int8" and len(found.agreement.differences) == 2
    assert "dB below fp32 on 2 image(s)" in export_text(found)
    script = {"onnx": ONNX_ALONE, "openvino": OPENVINO_ALONE}[file_format] + FRESH
    subprocess.run([sys.executable, "-c", script, str(found.path)], check=True, cwd=tmp_path)
    runner = open_runner(found.path, threads=1)
    assert runner.info.architecture == "EDSR" and runner.tiles.halo == 6
    loss = mean_psnr(open_runner(model, threads=1), images) - mean_psnr(runner, images)
    assert 0 < loss < 20


@pytest.mark.parametrize("file_format", SUFFIX)
def test_too_much_loss_names_the_layers(model, images, monkeypatch, tmp_path, file_format):
    with pytest.raises(UserError, match=r"0 dB.*(conv_first|conv_last|upsample)"):
        exported(model, images, monkeypatch, tmp_path, file_format, max_loss=0.0, qat_steps=0)
    assert not list(tmp_path.iterdir())


def test_openvino_files_in_both_precisions(model, tmp_path):
    sizes = {}
    for half in (False, True):
        path = tmp_path / f"{half}.xml"
        found = export_model(model, "openvino", path, ExportOptions(half=half))
        assert found.agreement.largest < (1e-2 if half else 1e-5)
        sizes[half] = path.with_suffix(".bin").stat().st_size
        runner = open_runner(path, threads=1)
        assert runner.runtime == "openvino" and runner.info.architecture == "EDSR"
        assert (runner.scale, runner.tiles.halo, runner.size_multiple) == (2, 6, 1)
    assert sizes[True] < 0.6 * sizes[False]
    assert len(list(tmp_path.iterdir())) == 4


def test_options_that_do_not_fit():
    for file_format, options, named in (
        ("onnx", {"calibration": "x"}, "--calibration"),
        ("onnx", {"max_loss": 1.0}, "--max_loss"),
        ("onnx", {"int8": True}, "--calibration FOLDER"),
        ("pt2", {"int8": True, "calibration": "x"}, "openvino"),
        ("onnx", {"int8": True, "half": True, "calibration": "x"}, "--half"),
        ("onnx", {"int8": True, "calibration": "x", "max_loss": -1.0}, "-1"),
        ("onnx", {"qat_steps": 10}, "--qat_steps"),
        ("onnx", {"int8": True, "calibration": "x", "qat_steps": -1}, "-1"),
    ):
        with pytest.raises(UserError, match=named):
            check_options(file_format, ExportOptions(**options))


class Two(nn.Module):
    """A layer that int8 suits, and one whose input has an outlier."""

    def __init__(self):
        super().__init__()
        self.easy = nn.Conv2d(1, 1, 1)
        self.hard = nn.Conv2d(1, 1, 1)
        for layer in (self.easy, self.hard):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        features = self.easy(x)
        outlier = torch.zeros_like(features)
        outlier[..., 0, 0] = 40.0
        return self.hard(features + outlier) - outlier


def ramp():
    x = torch.linspace(0, 1, 400).reshape(1, 1, 20, 20)
    return [CalibrationImage(x, x + 0.02)]


def test_the_layer_that_costs_most_is_found():
    network = Two().eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    losses = layer_losses(network, ramp())
    assert losses["hard"] > 10 * abs(losses["easy"])
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_weights_are_rounded_per_channel():
    weight = torch.tensor([[[[1.0, 0.3]]], [[[100.0, 30.0]]]])
    rounded = round_weight(weight, 0)
    step = weight.abs().amax((1, 2, 3), keepdim=True) / 127
    assert torch.all((rounded - weight).abs() <= step / 2 + 1e-6)
    assert torch.allclose(rounded[1], 100 * rounded[0])


NAMES = {
    Recipe("ends", layers_only=True, heavy_only=True): "heavy",
    Recipe("ends", layers_only=True): "layers",
    Recipe("ends"): "ends",
    Recipe("first", layers_only=True, heavy_only=True): "heavy, last too",
    Recipe("first", layers_only=True): "layers, last too",
    Recipe("first"): "last too",
    Recipe("none", layers_only=True, heavy_only=True): "heavy, ends too",
    Recipe("none", layers_only=True): "layers, ends too",
    Recipe("none"): "all",
    Recipe("ends", layers_only=True, heavy_only=True, needs_vnni=True): "heavy, vnni",
    Recipe("ends", layers_only=True, needs_vnni=True): "layers, vnni",
    Recipe("ends", needs_vnni=True): "vnni",
}


@pytest.mark.parametrize(
    ("noise", "faster", "expected"),
    [
        # the loss of each recipe in their order
        ((*[0.0] * 8, 0.001, *[0.0] * 3), True, "all"),
        ((*[0.0] * 8, 0.001, *[0.0] * 3), False, "heavy"),
        ((None, 0.0, 0.5, None, 0.5, 0.5, None, 0.5, 0.5, None, 0.0, 0.0), True, "layers"),
        ((None, 0.0, 0.5, None, 0.001, 0.5, None, 0.5, 0.5, *[0.0] * 3), True, "layers, last too"),
        ((*[0.5] * 9, 0.0, 0.5, 0.5), True, "heavy, vnni"),
        ((*[0.5] * 9, None, 0.0, 0.5), True, "layers, vnni"),
        ((*[0.5] * 10, 0.5, float("nan")), True, None),
    ],
)
def test_the_recipe(monkeypatch, noise, faster, expected):
    monkeypatch.setattr("dhp_sr.deploy.quantize._is_faster", lambda *_: faster)
    options = Int8Options(ramp(), max_loss=0.5, finetune_steps=0)

    noise_of = dict(zip(NAMES.values(), noise, strict=True))
    assert list(NAMES) == list(RECIPES)

    def make(recipe):
        """None where the recipe would do what another does."""
        name = NAMES[replace(recipe, clips=False)]
        return None if noise_of[name] is None else name

    def choose():
        return quantize(
            nn.Identity(), options, lambda _: make, lambda name: lambda x: x - noise_of[name]
        )

    if expected is None:
        with pytest.raises(UserError):
            choose()
    else:
        assert choose().model == expected


def test_a_recipe_that_rounds_more_than_one_that_lost_too_much_is_not_tried():
    tried = []

    def make(recipe):
        tried.append(recipe)
        return recipe

    def loses_too_much(recipe):
        amount = 0.5 if recipe.needs_vnni or not recipe.layers_only else 0.0
        return lambda x: x - amount

    options = Int8Options(ramp(), max_loss=0.5, finetune_steps=0)
    quantize(nn.Identity(), options, lambda _: make, loses_too_much)
    assert [recipe for recipe in tried if not recipe.layers_only] == [Recipe("ends")]
    assert len(tried) == 1 + sum(recipe.layers_only and not recipe.needs_vnni for recipe in RECIPES)
    light = Recipe("ends", layers_only=True, heavy_only=True)
    assert all(recipe.rounds_all_of(light) != recipe.needs_vnni for recipe in RECIPES)
    assert not light.rounds_all_of(Recipe("ends", layers_only=True))


def test_ranges_clip_where_that_loses_less():
    options = Int8Options(ramp(), max_loss=0.5, finetune_steps=0)

    def chosen(extremes, clipped):
        def make_run(recipe):
            return lambda x: x - (clipped if recipe.clips else extremes)

        return quantize(nn.Identity(), options, lambda _: lambda recipe: recipe, make_run)

    assert not chosen(0.0, 0.0).recipe.clips
    # Within the allowed loss, the extremes are kept.
    assert not chosen(1e-6, 0.0).recipe.clips
    clipping = chosen(0.01, 0.001)
    assert clipping.recipe.clips and "0.01% of the activations clipped" in clipping.label
    assert chosen(float("nan"), 0.001).recipe.clips
    assert not chosen(0.001, float("nan")).recipe.clips


def test_a_recipe_that_holds_on_other_images_goes_before_a_faster_one(monkeypatch):
    monkeypatch.setattr("dhp_sr.deploy.quantize._is_faster", lambda *_: True)
    (image,) = ramp()
    unlike = [CalibrationImage(image.lq.reshape(1, 1, 10, 40), image.gt.reshape(1, 1, 10, 40))]
    options = Int8Options(ramp(), unlike, max_loss=0.5, finetune_steps=0)

    def chosen(noise_of):
        """Quantize where the recipes lose so much on the other images alone."""
        noise = dict(zip(RECIPES, noise_of, strict=True))

        def make_run(recipe):
            return lambda x: x - (noise[recipe] if x.shape[-1] == 40 else 0.0)

        return quantize(nn.Identity(), options, lambda _: lambda recipe: recipe, make_run)

    faster_is_worse = chosen([0.0, 0.001, *[0.5] * 10])
    assert faster_is_worse.recipe == RECIPES[1]
    assert faster_is_worse.unlike_db == pytest.approx(0.42, abs=0.02)
    assert f"{faster_is_worse.unlike_db:.3f} dB on drawn ones" in faster_is_worse.label
    # A later one may hold where the first does not, and where none does the fastest is taken.
    assert chosen([0.5, 0.5, 0.0, *[0.5] * 9]).recipe == RECIPES[2]
    assert chosen([0.5] * 12).recipe == RECIPES[8]
    # Not a number is no loss that is held to.
    assert chosen([0.0, float("nan"), *[0.5] * 10]).recipe == RECIPES[0]


@pytest.fixture
def denoiser():
    """A network of which every layer sees single pixels."""
    torch.manual_seed(0)
    network = build("DnCNN", num_feat=8, num_layers=4, batch_norm=False).eval()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.dim() == 4:
                center = weight[:, :, 1:2, 1:2] * (4 if "0." not in name else 1)
                weight.zero_()[:, :, 1:2, 1:2] = center
    return network


def psnr_by(recipe, network, images, file_format, folder):
    """PSNR to the original's output of a network quantized by a recipe, in the runtime."""
    path = folder / f"plain{SUFFIX[file_format]}"
    if not path.exists():
        save_model(network, folder / "x.safetensors")
        export_model(folder / "x.safetensors", file_format, path)
    if file_format == "onnx":
        import onnxruntime

        made = quantize_onnx(path.read_bytes(), images, recipe).SerializeToString()
        session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
        return mean_psnr(
            lambda lq: session.run(None, {session.get_inputs()[0].name: lq})[0], images
        )
    import openvino

    made = quantize_openvino(openvino.Core().read_model(path), images, recipe)
    request = openvino.Core().compile_model(made, "CPU").create_infer_request()
    return mean_psnr(lambda lq: request.infer({0: lq})[0], images)


@pytest.mark.parametrize("file_format", SUFFIX)
def test_a_few_large_values_do_not_coarsen_the_others(denoiser, file_format, tmp_path):
    images = []
    for _ in range(2):
        lq = torch.rand(1, 1, 128, 128)
        lq[..., 5, 7] = 60.0
        with torch.no_grad():
            images.append(CalibrationImage(lq, denoiser(lq).clamp(0, 1)))
    recipe = Recipe("ends", layers_only=True)
    clipping = replace(recipe, clips=True)
    coarse, fine = (
        psnr_by(each, denoiser, images, file_format, tmp_path) for each in (recipe, clipping)
    )
    assert fine > coarse + 6


def test_an_odd_image_does_not_widen_the_ranges(monkeypatch):
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["y"], ["z"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, "h", "w"])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 1, "h", "w"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    lq = torch.linspace(-1, 1, 100 * 100).reshape(1, 1, 100, 100)
    images = [CalibrationImage(factor * lq, lq) for factor in (1.0, 1.0, 50.0)]
    ranges = clipped_ranges(model, images, None)
    assert [*ranges] == ["x", "y", "z"]
    ends = {name: (entry["rmin"], entry["rmax"]) for name, (entry,) in ranges.items()}
    # A value of 10,000 is left out at each end.
    end = 1 - 2e-4
    for name, expected in {"x": (-end, end), "y": (0, end), "z": (-end, 0)}.items():
        np.testing.assert_allclose(ends[name], expected, atol=1e-5)
    assert [*clipped_ranges(model, images, ["Relu"])] == ["x", "y"]
    monkeypatch.setattr("dhp_sr.deploy.onnx_ranges.TENSORS_AT_ONCE", 1)
    assert clipped_ranges(model, images, None) == ranges


@pytest.mark.parametrize("file_format", SUFFIX)
def test_what_an_activation_removes_is_not_rounded(denoiser, file_format, tmp_path):
    """A channel far below zero, which the activation removes, costs the others nothing."""
    with torch.no_grad():
        denoiser.model[2].bias[0] = -200.0
    images = []
    for _ in range(2):
        lq = torch.rand(1, 1, 64, 64)
        with torch.no_grad():
            images.append(CalibrationImage(lq, denoiser(lq).clamp(0, 1)))
    layers = psnr_by(Recipe("ends", layers_only=True), denoiser, images, file_format, tmp_path)
    everything = psnr_by(Recipe("ends"), denoiser, images, file_format, tmp_path)
    assert layers > everything - 3


def test_finetuning_where_every_recipe_loses_more(monkeypatch):
    monkeypatch.setattr("dhp_sr.deploy.quantize._is_faster", lambda *_: False)
    tuned = nn.Identity()
    asked = []

    def finetune(network, images, steps, size_multiple, least_side):
        asked.append((steps, size_multiple))
        return tuned

    monkeypatch.setattr("dhp_sr.deploy.quantize.finetune_for_int8", finetune)
    said = []

    def choose(noise, tuned_noise):
        options = Int8Options(
            ramp(), max_loss=0.5, finetune_steps=20, size_multiple=4, report=said.append
        )
        return quantize(
            nn.Identity(),
            options,
            lambda network: lambda recipe: tuned_noise if network is tuned else noise,
            lambda amount: lambda x: x - amount,
        )

    assert choose(0.001, 0.0).finetune_steps == 0 and not asked
    chosen = choose(0.5, 0.001)
    assert chosen.finetune_steps == 20 and asked == [(20, 4)] and "20 steps" in chosen.label
    (message,) = said
    assert "dB" in message and "20 steps" in message
    with pytest.raises(UserError, match="dB"):
        choose(0.5, 0.4)


def test_finetuning_brings_rounded_results_closer_to_the_original(images):
    torch.manual_seed(3)
    network = build("EDSR", num_feat=8, num_block=2, upscale=2).eval()
    # Weights of very different sizes in a channel, which 7 bits cannot hold.
    with torch.no_grad():
        for block in network.body:
            block.conv1.weight[:, :, 1, 1] *= 30
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    tuned = finetune_for_int8(network, images, 60)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    assert [*tuned.state_dict()] == [*before] and type(tuned) is type(network)
    assert not any(value.requires_grad for value in tuned.parameters())
    ranges = input_ranges(network, images)
    inner = {name: ranges[name] for name in [*ranges][1:-1]}
    errors = []
    for candidate in (network, tuned):
        error = 0.0
        with torch.no_grad(), simulated_int8(candidate, inner):
            for image in images:
                rounded = candidate(image.lq)
                error += float((rounded - plain(before, image.lq)).square().mean())
        errors.append(error)
    assert errors[1] < 0.7 * errors[0]


def plain(state, lq):
    network = build("EDSR", num_feat=8, num_block=2, upscale=2).eval()
    network.load_state_dict(state)
    return network(lq)


def test_rounding_inputs_and_weights_is_simulated_exactly():
    layer = nn.Conv2d(1, 2, 1, bias=False).eval()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([63.0, 10.4]).reshape(2, 1, 1, 1))
    network = nn.Sequential(layer)
    with simulated_int8(network, {"0": (0.0, 255.0)}):
        result = network(torch.tensor([0.4, 3.6, 300.0]).reshape(1, 1, 1, 3))
    # Inputs 0, 4 and 255, clipped; a step per output channel keeps its largest weight exactly.
    expected = torch.tensor([0.0, 4.0, 255.0]).outer(torch.tensor([63.0, 10.4])).T
    torch.testing.assert_close(result[0, :, 0], expected)
    assert type(layer) is nn.Conv2d and layer.weight[1, 0, 0, 0] == 10.4


@pytest.mark.parametrize("file_format", SUFFIX)
def test_weights_do_not_overflow_anywhere(model, images, monkeypatch, tmp_path, file_format):
    """Steps of 7 bits: the largest weight of a channel is 63 or 64 steps from zero."""
    found = exported(model, images, monkeypatch, tmp_path, file_format, max_loss=20.0)
    assert "VNNI" not in found.agreement.note
    assert largest_int8_weight(found.path) in (63, 64)


def largest_int8_weight(path):
    if path.suffix == ".onnx":
        import onnx
        from onnx import numpy_helper

        tensors = onnx.load(path).graph.initializer
        arrays = [numpy_helper.to_array(entry) for entry in tensors if len(entry.dims) == 4]
    else:
        import openvino

        arrays = []
        for operation in openvino.Core().read_model(path).get_ordered_ops():
            if operation.get_type_name() == "Constant" and len(operation.shape) == 4:
                arrays.append(operation.data)
    return max(int(abs(array.astype(int)).max()) for array in arrays if array.dtype.name == "int8")


class Reused(nn.Module):
    """Layers whose products per value of their input are known."""

    def __init__(self):
        super().__init__()
        self.plain = nn.Conv2d(3, 16, 3, padding=1)
        self.strided = nn.Conv2d(16, 8, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(8, 16, 3, padding=1, groups=4)
        self.transposed = nn.ConvTranspose2d(16, 5, 4, stride=2)
        self.product = nn.Linear(5, 4)

    def forward(self, x):
        features = self.transposed(self.grouped(self.strided(self.plain(x))))
        return self.product(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


REUSE = [16 * 9, 8 * 9 / 4, 16 * 9 / 4, 5 * 16, 4]


def test_products_per_value_of_the_input(tmp_path):
    torch.manual_seed(0)
    model = convert_to_onnx(Reused().eval(), (2, 3, 16, 24), 1, OPSET)
    assert [*onnx_layers(model).values()] == REUSE
    graph = read_openvino(Graph(tmp_path / "x.onnx", model.SerializeToString()))
    counted = [openvino_reuse(operation) for operation in openvino_layers(graph)]
    assert counted == REUSE


def openvino_layers(graph):
    kinds = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul")
    return [entry for entry in graph.get_ordered_ops() if entry.get_type_name() in kinds]


def test_layers_in_float():
    layers = {"first": 144.0, "light": 48.0, "heavy": 288.0, "last": 432.0}
    heavy = Recipe("none", heavy_only=True)
    assert float_layers(layers, Recipe("none")) == []
    assert float_layers(layers, Recipe("ends")) == ["first", "last"]
    assert float_layers(layers, Recipe("first")) == ["first"]
    assert float_layers(layers, heavy) == ["light"]
    assert float_layers(layers, replace(heavy, in_float="ends")) == ["first", "last", "light"]
    assert float_layers({"alone": 9.0}, Recipe("ends")) == ["alone"]
    assert makes_difference(layers, heavy)
    # Where all are light none would be in int8, and where none is nothing changes.
    for alike in (9.0, 144.0):
        assert not makes_difference({"first": alike, "last": alike}, heavy)
        assert makes_difference({"first": alike, "last": alike}, Recipe("none"))


def test_what_int8_leaves_is_bf16_where_the_processor_has_it(model, images, monkeypatch, tmp_path):
    found = exported(model, images, monkeypatch, tmp_path, "openvino", max_loss=20.0)
    has_bf16 = "BF16" in capabilities("CPU")
    expected = "bf16" if has_bf16 else "fp32"
    runner = open_runner(found.path, threads=1)
    exact = open_runner(found.path, precision="fp32", threads=1)
    assert (runner.precision, exact.precision) == (expected, "fp32")
    assert ("bf16" in runner.note) == has_bf16
    assert not exact.note
    image = images[0].lq.numpy()
    difference = float(np.abs(runner(image) - exact(image)).max())
    assert (difference > 0) == has_bf16 and difference < 0.05


def test_int8_without_bf16(monkeypatch):
    monkeypatch.setattr("dhp_sr.deploy.openvino_runner.capabilities", lambda device: ["FP32"])
    assert inner_precision({"precision": "int8"}) == "fp32"
    monkeypatch.setattr("dhp_sr.deploy.openvino_runner.capabilities", lambda device: ["BF16"])
    assert inner_precision({"precision": "int8"}) == "bf16"
    assert inner_precision({"precision": "fp16"}) == inner_precision({}) == "fp32"


@pytest.mark.parametrize("task", ["sr", "denoise"])
def test_calibration_images_are_those_of_test(tmp_path, task):
    pixels = torch.randint(0, 256, (420, 30, 3), dtype=torch.uint8).numpy()
    (tmp_path / "a.png").write_bytes(encode_png(pixels))
    name, arguments = ("EDSR", {"upscale": 2}) if task == "sr" else ("DnCNN", {"num_in_ch": 3})
    network = build(name, num_feat=4, **arguments).eval()
    (image,) = calibration_images(network, tmp_path, None if task == "sr" else 25.0)
    scale = network.scale
    height = min(420 // scale, MAX_SIDE)
    assert image.lq.shape == (1, 3, height, 30 // scale)
    assert image.gt.shape == (1, 3, height * scale, 30 // scale * scale)


def test_a_network_without_layers_leaves_none_in_float():
    assert float_layers({}, Recipe("ends")) == []


def test_patches_are_as_large_as_the_network_needs():
    """Reflection refuses sides up to its padding, here 60."""
    convolution = nn.Conv2d(1, 1, 5, padding=60, dilation=30, padding_mode="reflect")
    network = nn.Sequential(convolution, nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1))
    image = torch.rand(1, 1, 80, 70)
    images = [CalibrationImage(image, image)]
    assert finetune_for_int8(network, images, 1, least_side=61)
    with pytest.raises(RuntimeError, match="Padding"):
        finetune_for_int8(network, images, 1)


class CallsByKeyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x):
        features = torch.relu(self.second(input=torch.relu(self.first(input=x))))
        return x + self.last(input=features)


def test_layers_that_are_called_by_keyword_are_simulated():
    torch.manual_seed(0)
    network = CallsByKeyword().eval()
    images = ramp()
    assert set(input_ranges(network, images)) == {"first", "second", "last"}
    assert all(math.isfinite(loss) for loss in layer_losses(network, images).values())
    tuned = finetune_for_int8(network, images, 1)
    assert not torch.equal(tuned.second.weight, network.second.weight)


class StatesItsSize(nn.Module):
    """Enlarges to the size that it is told, which is not the layer's own."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.down = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1)
        self.last = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x):
        features = torch.relu(self.down(self.first(x)))
        return x + self.last(self.up(input=features, output_size=x.shape[2:]))


def test_further_arguments_of_a_simulated_layer_are_kept():
    torch.manual_seed(0)
    network = StatesItsSize().eval()
    image = torch.rand(1, 1, 32, 32)
    images = [CalibrationImage(image, image)]
    assert set(layer_losses(network, images)) == {"first", "down", "up", "last"}
    tuned = finetune_for_int8(network, images, 1)
    assert not torch.equal(tuned.up.weight, network.up.weight)
