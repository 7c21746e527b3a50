"""Models that come with the program: listed, small, and better than the input they are given."""

import torch

from dhp_sr.deploy import load_model
from dhp_sr.zoo.model_zoo import FOLDER, zoo_models

MOST_BYTES = 1_000_000
NAMES = {"edsr_x4_half": 4, "edsr_x2_half": 2, "dncnn_s25_half": 1}


def test_the_index_lists_what_is_there():
    models = {model.name: model for model in zoo_models()}
    assert set(models) == set(NAMES) == {path.stem for path in FOLDER.glob("*.safetensors")}
    assert all(model.file_bytes < MOST_BYTES and model.summary for model in models.values())


def smooth_image(channels, height, width):
    """Gentle waves, which every restoration network should reproduce."""
    rows = torch.linspace(0, 3, height)[:, None]
    columns = torch.linspace(0, 4, width)
    return (0.5 + 0.3 * torch.sin(rows + columns)).expand(1, channels, height, width)


def test_upscalers_beat_nearest_neighbors():
    for name, scale in NAMES.items():
        if scale == 1:
            continue
        large = smooth_image(3, 24 * scale, 32 * scale)
        small = torch.nn.functional.interpolate(large, scale_factor=1 / scale, mode="area")
        with torch.no_grad():
            restored = load_model(FOLDER / f"{name}.safetensors")(small)
        nearest = torch.nn.functional.interpolate(small, scale_factor=scale)
        assert (restored - large).abs().mean() < 0.5 * (nearest - large).abs().mean(), name


def test_the_denoiser_takes_away_most_of_the_noise():
    clean = smooth_image(1, 64, 64)
    noisy = clean + 25 / 255 * torch.randn(clean.shape)
    with torch.no_grad():
        restored = load_model(FOLDER / "dncnn_s25_half.safetensors")(noisy)
    assert (restored - clean).square().mean() < 0.1 * (noisy - clean).square().mean()
