"""The course of a search: what is left of every channel's latent, sampled while it runs."""

import math
from typing import Any

from dhp_sr.search import Search
from dhp_sr.training.schedule import Schedule

SAMPLES = 40
"""Samples over a search, at most; a chart shows no more."""


def is_due(schedule: Schedule, done: int) -> bool:
    """Return whether a sample is taken after `done` iterations: at even distances, and at the end of the search."""
    within = done - schedule.dense_iter
    if not schedule.searches or not 0 < within <= schedule.search_iter:
        return False
    return within % math.ceil(schedule.search_iter / SAMPLES) == 0 or within == schedule.search_iter


def latent_rows(search: Search, done: int) -> list[dict[str, Any]]:
    """Return one row for each prunable group: its latents, three digits each, separated by blanks."""
    parts = search.hyper.plan.split(search.remaining().detach().float().cpu())
    return [
        {
            "iteration": done,
            "group": name,
            "latents": " ".join(f"{value:.3g}" for value in part.tolist()),
        }
        for name, part in parts.items()
    ]
