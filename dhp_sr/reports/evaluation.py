"""Finished models side by side: quality per image, cost, time, memory, and the row of the NTIRE challenge."""

from collections.abc import Mapping, Sequence
from typing import Any

from dhp_sr.reports.scores import MISSING, PSNR_RGB, PSNR_Y, SSIM_Y
from dhp_sr.reports.tables import aligned, number, text_table

Row = Mapping[str, Any]

_SCORES = (PSNR_Y, PSNR_RGB, SSIM_Y)
_NTIRE_SIZE = "256x256"


def evaluation_text(found: Mapping[str, Any], images: bool = True) -> str:
    """Return everything that was found about models as text.

    Args:
        found: the result of `dhp_sr.cli.evaluate.evaluate_files`.
        images: with the scores of every image, not of every set alone.
    """
    rows = found["rows"]
    models = [row for row in rows if "costs" in row]
    pictures = [
        images_text(name, rows, shaved, images) for name, shaved in found.get("shaved", {}).items()
    ]
    table = f"{found['name']}\n{text_table(found)}"
    measured = [text for text in (latency_text(models), memory_text(models)) if text]
    ntire = [ntire_text(models, found["shaved"])] if found["task"] == "sr" else []
    return "\n".join([*pictures, table, cost_text(models), *measured, *ntire])


def images_text(name: str, rows: Sequence[Row], shaved: int, images: bool = True) -> str:
    """Return the scores of a test set, a line for each image and one for their mean, all models side by side."""
    sets = [row["sets"][name] for row in rows]
    header = [f"{sets[0]['images']} images", *(row["model"] for row in rows)]
    lines = [
        [one[0]["image"], *_scores(one)]
        for one in zip(*(row["images"][name] for row in rows), strict=True)
    ]
    border = f"border of {shaved} pixels shaved" if shaved else "no border shaved"
    headings = " / ".join(score.heading for score in _SCORES)
    title = f"{name}: {headings} (a grey image is its own Y); {border}\n"
    return title + aligned([header, *(lines if images else []), ["mean", *_scores(sets)]])


def cost_text(rows: Sequence[Row]) -> str:
    """Return what models cost, for the inputs that papers state it for."""
    sizes = list(rows[0]["costs"])
    inputs = [_size(rows[0]["costs"][name]["input"]) for name in sizes]
    table = [["cost", "runs in", "params M", "convolutions", *sizes]]
    for row in rows:
        first = row["costs"][sizes[0]]
        cells = [
            row["model"],
            row["runtime"],
            _share(first["params"], 1e6, "{:.4f}"),
            number(first["convs"], "{:d}"),
        ]
        for name in sizes:
            cost = row["costs"][name]
            cells.append(f"{_share(cost['macs'], 1e9)} / {_share(cost['activations'], 1e6)}")
        table.append(cells)
    stated = ", ".join(f"{name}: {size}" for name, size in zip(sizes, inputs, strict=True))
    title = "MACs G / activations M (elements of the convolutions' outputs)"
    return f"Cost, {title}; inputs are {stated}\n{aligned(table)}"


def latency_text(rows: Sequence[Row]) -> str:
    """Return times with their quartiles; empty where none were measured."""
    devices = list(dict.fromkeys(device for row in rows for device in row.get("latency", {})))
    if not devices:
        return ""
    table = [["time of a pass", *(f"{device} ms (quartiles)" for device in devices)]]
    for row in rows:
        times = [row["latency"].get(device) for device in devices]
        spread = "{median_ms:.1f} ({low_ms:.1f}-{high_ms:.1f})"
        table.append([row["model"], *(spread.format(**one) if one else MISSING for one in times)])
    first = next(iter(rows[0]["latency"].values()))
    title = f"Time for an input of {_size(first['input'])}, models in turns, CPU with {first['threads']} thread(s)\n"
    return title + aligned(table)


def memory_text(rows: Sequence[Row]) -> str:
    """Return the memory of a pass in a fresh process; empty where it was not measured."""
    measured = [row for row in rows if "memory" in row]
    if not measured:
        return ""
    table = [["memory", "added by the pass MiB", "whole process MiB", "graphics card MiB"]]
    names = ("pass_mib", "process_mib", "cuda_peak_mib")
    table += [
        [row["model"], *(number(row["memory"][name], "{:.0f}") for name in names)]
        for row in measured
    ]
    title = f"Peak memory in a fresh process, input of {_size(measured[0]['memory']['input'])}\n"
    return title + aligned(table)


def ntire_text(rows: Sequence[Row], shaved: Mapping[str, int]) -> str:
    """Return rows with the columns of the NTIRE challenge on efficient super-resolution.

    Its conventions: PSNR over RGB with a border of the scale shaved, everything else for an input of 256 x 256, memory
    as torch counts it on a graphics card. Without a card it is what the pass adds to the process.
    """
    header = ["Model", *(f"PSNR [{name}]" for name in shaved)]
    table = [[*header, "Time [ms]", "Params [M]", "FLOPs [G]", "Acts [M]", "Mem [M]", "#Conv"]]
    for row in rows:
        cost, memory = row["costs"][_NTIRE_SIZE], row.get("memory", {})
        held = memory.get("cuda_peak_mib") or memory.get("pass_mib")
        cells = [row["model"], *(PSNR_RGB.text(row["sets"][name][PSNR_RGB.key]) for name in shaved)]
        cells += [
            number(row["latency_ms"]),
            _share(cost["params"], 1e6),
            _share(cost["macs"], 1e9, "{:.2f}"),
        ]
        table.append(
            [
                *cells,
                _share(cost["activations"], 1e6, "{:.2f}"),
                number(held),
                number(cost["convs"], "{:d}"),
            ]
        )
    timed = [size for row in rows for size in [row.get("memory", {}).get("input")] if size]
    place = f"; time and memory for {_size(timed[0])} here" if timed else ""
    return f"NTIRE efficient SR (PSNR over RGB, FLOPs are MACs, input of 256 x 256{place})\n{aligned(table)}"


def _scores(sets: Sequence[Mapping[str, Any]]) -> list[str]:
    return [" / ".join(score.text(one[score.key]) for score in _SCORES) for one in sets]


def _share(value: float | None, unit: float, form: str = "{:.3f}") -> str:
    return number(None if value is None else value / unit, form)


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape[1:]))
