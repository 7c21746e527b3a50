"""From the option file to the search."""

from pathlib import Path

import torch

from dhp_sr.config import load_options
from dhp_sr.models.devices import Place
from dhp_sr.models.networks import build_plain
from dhp_sr.models.searching import begin_search, convert_plain
from dhp_sr.structure import Budget

QUICKSTART = Path(__file__).parents[2] / "options" / "quickstart.yml"


def test_a_search_is_made_as_the_options_say():
    given = {"round_to": 4, "min_width": 6, "tolerance": 0.02, "search_iter": 7, "price_power": 0.5}
    changes = [f"compress.{key}={value}" for key, value in given.items()]
    options = load_options(QUICKSTART, [*changes, "compress.target.macs=0.4", "manual_seed=11"])
    settings = begin_search(convert_plain(build_plain(options), options, Place(torch.device("cpu"))), options).settings
    assert settings.budget == Budget("macs", 0.4, tolerance=0.02, round_to=4, min_width=6)
    assert (settings.iterations, settings.seed, settings.price_power) == (7, 11, 0.5)
    assert settings.preset == "modern"
