"""Tiles against whole images, colors against the model's, levels against PyTorch's."""

import itertools
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_files import other
from third_party import third_party_info
from torch.nn import functional

from dhp_sr.data.noise import add_noise
from dhp_sr.deploy import load_model, save_model
from dhp_sr.deploy.model_info import ModelInfo, TileRequirements
from dhp_sr.deploy.runner import Runner
from dhp_sr.deploy.runtimes import open_runner
from dhp_sr.images import Image
from dhp_sr.inference.restore import ChannelAdapter, NetworkInput, restore_rows
from dhp_sr.inference.tiles import (
    GIB,
    MemoryBudget,
    Tiling,
    TilingOptions,
    choose_tiling,
    tile_spans,
)
from dhp_sr.metrics import to_uint8
from dhp_sr.utils.errors import UserError
from dhp_sr.zoo.names import build_named, register_basicsr


def result(runner, image, tiling=None, **source_options):
    source = NetworkInput(image.color, runner.size_multiple, **source_options)
    tiling = tiling or Tiling(source.height, source.width, 0, 1)
    fit, progress = ChannelAdapter.between(image.color.shape[2], runner), []
    rows = list(restore_rows(image, source, runner, fit, tiling, progress.append))
    height, width = image.color.shape[:2]
    assert sum(progress) == height * width
    return np.concatenate(rows)


@pytest.mark.parametrize("name", ["edsr", "edsr_x4", "srresnet", "dncnn", "unet"])
@pytest.mark.parametrize("size", [(61, 130)])
def test_tiled_equals_whole(runner, noise, name, size):
    runner = runner(name)
    image = Image(noise(*size, runner.in_channels), noise(*size))
    whole = result(runner, image)
    multiple = runner.tiles.multiple
    for rows, columns in ((32, 48), (200, 40)):
        assert np.array_equal(
            result(runner, image, Tiling(rows, columns, runner.tiles.halo, multiple)), whole
        )


@pytest.mark.parametrize("name", ["edsr", "dncnn", "unet"])
def test_tiles_in_batches(runner, noise, name):
    runner = runner(name)
    # A gray model computes the channels of a color image as a batch of their own.
    image = Image(noise(61, 260, 3))
    computed = []
    real = runner.compute
    runner.compute = lambda images: computed.append(len(images)) or real(images)
    expected = result(runner, image, Tiling(32, 48, runner.tiles.halo, runner.tiles.multiple))
    one_by_one = len(computed)
    computed.clear()
    found = result(runner, image, Tiling(32, 48, runner.tiles.halo, runner.tiles.multiple, 3))
    # Sums of other orders: PyTorch takes other kernels for batches.
    assert int(np.abs(found.astype(int) - expected).max()) <= 1
    assert len(computed) < one_by_one and max(computed) == (9 if name == "dncnn" else 3)


def test_batches_are_for_graphics_cards_and_fit_the_memory():
    assert chosen(a_runner(), 500, 500, tile=64).batch == 1
    card = a_runner()
    card.max_batch = 8
    assert chosen(card, 500, 500, tile=64).batch == 8
    assert chosen(card, 5000, 5000, tile=300).batch == 2
    assert chosen(card, 500, 500, tile=500).batch == 1


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_tiles_of_a_network_that_interpolates_its_input(tmp_path, noise, scale):
    """BasicSR's MSRResNet adds a bilinear enlargement, whose positions are no binary fractions."""
    register_basicsr()
    arguments = {"num_feat": 8, "num_block": 1, "upscale": scale}
    torch.manual_seed(0)
    info = third_party_info("basicsr:MSRResNet", arguments, scale=scale)
    path = tmp_path / "msrresnet.safetensors"
    save_model(build_named("basicsr:MSRResNet", arguments), path, info=info)
    runner = open_runner(path, threads=1)
    image = Image(noise(191, 191, 3))
    whole = result(runner, image)
    for rows, columns in ((32, 48), (64, 40)):
        tiling = Tiling(rows, columns, runner.tiles.halo, runner.tiles.multiple)
        assert np.array_equal(result(runner, image, tiling), whole)


def test_tiles_of_onnx_files(tmp_path, noise):
    runner = open_runner(other(tmp_path / "x.onnx"), threads=1)
    image = Image(noise(150, 190, 3))
    whole = result(runner, image)
    assert np.array_equal(result(runner, image, Tiling(32, 48, 1, 1)), whole)


@pytest.mark.parametrize("name", ["edsr", "unet"])
def test_less_overlap_is_not_the_same(runner, noise, name):
    runner = runner(name)
    image = Image(noise(96, 96, 3))
    found = result(runner, image, Tiling(32, 32, 0, runner.tiles.multiple))
    assert not np.array_equal(found, result(runner, image))


@pytest.mark.parametrize("name", ["edsr", "dncnn", "unet"])
def test_the_whole_is_what_pytorch_makes(runner, model, noise, name):
    pixels = noise(45, 70, runner(name).in_channels)
    network = load_model(model(name))
    given = torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy()).float().div_(255)
    with torch.no_grad():
        expected = to_uint8(network(given)[0])
    assert np.array_equal(result(runner(name), Image(pixels)), expected)


def test_sixteen_bits_stay(runner, noise):
    runner = runner("edsr")
    pixels = noise(20, 20, 3, dtype=np.uint16)
    deep = result(runner, Image(pixels))
    assert deep.dtype == np.uint16
    expected = (
        runner(torch.from_numpy((pixels / 65535).transpose(2, 0, 1)[None]).float()).clamp(0, 1)[0]
        * 65535
    )
    assert np.abs(deep.transpose(2, 0, 1) - expected.numpy()).max() <= 0.51


def test_alpha_is_enlarged_by_bicubic(runner, noise):
    runner = runner("edsr")
    ramp = np.tile(np.arange(0, 200, 5, dtype=np.uint8), (40, 1))
    tall = Tiling(16, 16, runner.tiles.halo, 1)
    found = result(runner, Image(noise(40, 40, 3), ramp), tall)
    assert found.shape == (80, 80, 4)
    inner = found[4:-4, 4:-4, 3].astype(int)
    assert (
        (np.diff(inner, axis=1) >= 2).all()
        and (np.diff(inner, axis=1) <= 3).all()
        and not np.diff(inner, axis=0).any()
    )
    plain = result(runner, Image(noise(40, 40, 3), np.full((40, 40), 77, np.uint8)))
    assert (plain[:, :, 3] == 77).all()


def test_a_gray_model_takes_colors_one_by_one(runner, noise):
    runner = runner("dncnn")
    pixels = noise(30, 30, 3)
    found = result(runner, Image(pixels))
    for channel in range(3):
        alone = result(runner, Image(pixels[:, :, [channel]]))
        assert np.array_equal(found[:, :, channel], alone[:, :, 0])


def test_a_color_model_gives_gray_for_gray(runner, noise):
    runner = runner("edsr")
    pixels = noise(30, 30, 1)
    found = result(runner, Image(pixels))
    colors = result(runner, Image(np.repeat(pixels, 3, axis=2)))
    assert found.shape == (60, 60, 1)
    luma = colors @ np.array([0.2989, 0.5870, 0.1140])
    assert np.abs(found[:, :, 0] - luma).max() < 1.1


def test_noise_is_that_of_the_test_sets(noise):
    pixels = noise(9, 7, 3)
    clean = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float() / 255
    source = NetworkInput(pixels, 1, noise=25.0, seed=(0, "head"))
    expected = add_noise(clean, 25.0, np.random.default_rng((0, zlib.crc32(b"head"))))
    assert np.array_equal(source.tile(slice(0, 9), slice(0, 7)), expected.numpy())


@pytest.mark.parametrize(
    ("size", "mode"), [((5, 9), "reflect"), ((2, 9), "replicate"), ((1, 1), "replicate")]
)
def test_sides_are_filled_up(noise, size, mode):
    pixels = noise(*size, 1)
    source = NetworkInput(pixels, 4)
    given = torch.from_numpy(pixels[:, :, 0].astype(np.float32))[None, None] / 255
    expected = functional.pad(given, (0, -size[1] % 4, 0, -size[0] % 4), mode=mode)[0]
    assert (source.height, source.width) == expected.shape[1:]
    assert np.array_equal(
        source.tile(slice(0, source.height), slice(0, source.width)), expected.numpy()
    )


class FakeRunner(Runner):
    """A network without weights, for the choice of tiles."""

    runtime = "fake"

    def __init__(self, info, compute):
        super().__init__(Path("x.onnx"), info)
        self._compute = compute

    def compute(self, images):
        return self._compute(images)


def a_runner(scale=4, in_channels=3, compute=lambda x: x, **changes):
    fields = {"halo": 20, "reason": "", "multiple": 1, "bytes_per_pixel": 4096.0}
    tiles = TileRequirements(**{**fields, **changes})
    info = ModelInfo("x", scale=scale, in_channels=in_channels, out_channels=3, tiles=tiles)
    return FakeRunner(info, compute)


def chosen(runner, height, width, *, gib=4.0, **choice):
    row_bytes = width * runner.scale**2 * 3
    budget = MemoryBudget(int(gib * GIB))
    return choose_tiling(
        runner,
        height,
        width,
        batch=1,
        row_bytes=row_bytes,
        budget=budget,
        options=TilingOptions(**choice),
    )


def test_tiles_fit_the_memory():
    assert chosen(a_runner(), 500, 500).rows == 500  # whole
    for gib in (1, 2, 4):
        tiling = chosen(a_runner(), 20000, 20000, gib=gib)
        fed = (tiling.rows + 40) * (tiling.columns + 40)
        assert 0.1 < fed * 4096 / (0.3 * gib * GIB) <= 1
        assert tiling.rows == 32 or tiling.rows * 20000 * 16 * 3 <= gib * GIB / 40
    assert chosen(a_runner(bytes_per_pixel=2**20), 20000, 20000, gib=1).columns == 32


def test_the_users_tiles():
    assert chosen(a_runner(), 500, 500, tile=0) == Tiling(500, 500, 0, 1)
    assert chosen(a_runner(), 20000, 20000, tile=0).rows == 20000
    assert chosen(a_runner(), 500, 500, tile=64) == Tiling(64, 64, 20, 1)
    assert chosen(a_runner(), 500, 500, tile=64, overlap=4) == Tiling(64, 64, 4, 1)
    assert chosen(a_runner(multiple=16), 512, 512, tile=50).rows == 64


def test_without_a_halo_large_images_need_an_overlap():
    unknown = a_runner(halo=None, reason="the file does not say")
    assert chosen(unknown, 400, 400).rows == 400
    for height, choice in ((20000, {}), (400, {"tile": 64})):
        with pytest.raises(UserError, match=r"the file does not say.*give --overlap"):
            chosen(unknown, height, height, **choice)
    assert chosen(unknown, 400, 400, tile=64, overlap=8).overlap == 8


@pytest.mark.parametrize("multiple", [1, 4])
def test_spans_cover_an_axis_once(multiple):
    tiling = Tiling(16, 16, 10, multiple)
    found = list(tile_spans(100, 16, tiling))
    assert [span.first for span in found] == list(range(0, 100, 16)) and found[-1].last == 100
    for span, following in itertools.pairwise(found):
        assert span.last == following.first
    for span in found:
        assert span.start % multiple == 0 and span.start <= max(0, span.first - 10)
        assert min(100, span.last + 10) <= span.end <= 100


def test_models_for_other_images_are_refused():
    with pytest.raises(UserError, match="4 channels in and 3 out"):
        ChannelAdapter.between(3, a_runner(in_channels=4))


def test_what_is_not_finite_is_refused(noise):
    broken = a_runner(scale=1, compute=lambda x: np.full_like(x, np.nan))
    with pytest.raises(UserError, match="not finite"):
        result(broken, Image(noise(8, 8, 3)))
