"""Published results beside ours: facts from `published.json`, which names their source."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any


def published_points(
    task: str | None, scale: int | None, sigma: float | None, sets: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the published networks that were scored on the same task and on one of the same test sets.

    Args:
        task: sr or denoise.
        scale: enlargement.
        sigma: noise level (0-255 scale) of a denoiser.
        sets: names of the test sets.
    """
    points = []
    for table in _tables():
        if (table["task"], table["scale"], table["sigma"]) == (task, scale, sigma):
            rows = [row for row in table["rows"] if set(row["scores"]) & set(sets)]
            points += [_point(table, row) for row in rows]
    return points


def sources(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return where points come from and how they were scored, each once."""
    return list(dict.fromkeys(point["detail"] for point in points))


@cache
def _tables() -> list[dict[str, Any]]:
    text = (files(__package__) / "assets" / "published.json").read_text(encoding="utf-8")
    return json.loads(text)["tables"]


def _point(table: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": "published",
        "run": "published",
        "label": f"{row['network']}, {row['method']}",
        "short": f"{row['network'].split()[0]} {row['method']}"
        if row["method"].startswith(("DHP", "Base"))
        else "",
        "detail": f"{table['source']}. {table['conventions']}",
        "macs": row["macs"],
        "params": row["params"],
        "latency_ms": None,
        "iterations": None,
        "sets": {name: {table["score"]: value} for name, value in row["scores"].items()},
    }
