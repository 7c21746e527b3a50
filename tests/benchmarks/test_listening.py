"""What the kept channels depend on: the measures in closed form, and the measurement in its smallest size."""

import json

import pytest
import torch

from benchmarks.listening import main, overlap, rank_correlation, scatter
from dhp_sr.archs import build
from dhp_sr.hyper import convert
from dhp_sr.reports import listening_table
from dhp_sr.search.base import slopes


def test_overlap():
    first = torch.tensor([True, True, True, False])
    assert overlap(first, torch.tensor([True, False, False, True])) == pytest.approx(1 / 4)
    assert overlap(first, first) == 1
    assert overlap(first, ~first) == 0


def test_rank_correlation():
    values = torch.tensor([0.1, 5.0, 2.0, 3.0])
    assert rank_correlation(values, values.exp()) == pytest.approx(1)
    assert rank_correlation(values, -values) == pytest.approx(-1)
    assert rank_correlation(torch.arange(3), torch.tensor([0, 2, 1])) == pytest.approx(
        1 - 6 * 2 / 24
    )


def test_scattered_latents_leave_the_function_alone():
    network = build("DnCNN", num_feat=8, num_layers=4).double().eval()
    image = torch.rand(1, 1, 12, 12, dtype=torch.float64)
    hyper = convert(network, image).eval()
    scatter(hyper, seed=3)
    assert all(float(latent.detach().std()) > 0.1 for latent in hyper.latents.values())
    assert torch.allclose(hyper(image), network(image), rtol=0, atol=1e-12)


def test_slopes_do_not_see_the_scale_of_the_latents():
    network = build("DnCNN", num_feat=8, num_layers=4).double()
    image = torch.rand(1, 1, 12, 12, dtype=torch.float64)
    found = []
    for seed in (None, 3):
        hyper = convert(network, image)
        if seed is not None:
            scatter(hyper, seed)
        hyper(image).square().mean().backward()
        found.append(slopes(hyper))
    assert float(found[0].abs().max()) > 0
    assert torch.allclose(found[0], found[1], rtol=1e-4, atol=1e-9)


def test_both_presets_are_measured(tmp_path, noise_options):
    out = tmp_path / "listening.json"
    given = [
        "--option-file",
        str(noise_options),
        "--dense",
        "10",
        "--search",
        "30",
        "--draws",
        "2",
        "--out",
        str(out),
    ]
    assert main(given) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["preset"] for row in rows] == ["faithful", "modern"]
    for row in rows:
        assert [len(row[f"overlap_other_{what}"]) for what in ("latents", "seed", "data")] == [
            1,
            1,
            4,
        ]
        assert len(row["rank_correlation"]) == 2
        assert 0 < row["overlap_by_chance"] < 1
    assert rows[0]["iterations"] == [0, 40] and rows[1]["iterations"] == [10, 30]
    assert listening_table(rows).count("\n") == 4
