"""Results as text and as what JSON can hold."""

import math
from collections.abc import Mapping, Sequence
from typing import Any


def finite(value: Any) -> Any:
    """Return the same tree with infinite and undefined numbers as None, which JSON can hold."""
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as text with columns of equal width, one line each."""
    lengths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(length) for cell, length in zip(row, lengths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def results_text(metrics: Mapping[str, Any]) -> str:
    """Return the rows of metrics.json as an aligned table, scores on the Y channel."""
    sets = list(metrics["rows"][0]["sets"])
    heads = [f"{name} PSNR(Y)/SSIM" for name in sets]
    _, _, height, width = metrics["macs_input"]
    table = [("model", *heads, f"GMACs@{width}x{height}", "params", "CPU ms")]
    for row in metrics["rows"]:
        scores = [_score(row["sets"][name]) for name in sets]
        costs = (f"{row['macs'] / 1e9:.4g}", f"{row['params']:,}") if row["params"] else ("-", "-")
        time = "-" if row["latency_ms"] is None else f"{row['latency_ms']:.4g}"
        table.append((row["model"], *scores, *costs, time))
    return aligned(table)


def _score(scores: Mapping[str, float]) -> str:
    psnr, similarity = scores["psnr_y_db"], scores["ssim_y"]
    return f"{'inf' if psnr is None else format(psnr, '.3f')}/{similarity:.4f}"
