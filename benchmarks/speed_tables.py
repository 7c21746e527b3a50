"""Markdown tables of what runs how fast: runtimes, budgets, infer.py, loaders, training steps."""

from collections.abc import Mapping, Sequence
from typing import Any

from dhp_sr.reports.formatting import MISSING, markdown

Row = Mapping[str, Any]
"""One measurement, as it is stored in `results/*.json`."""


def runtimes_table(rows: Sequence[Row]) -> str:
    """Markdown table of runtimes and precisions, a pair of columns per thread count.

    Milliseconds are processor time with one thread, else wall time; a speed-up is the median of
    the ratios within a round to the dense network in onnxruntime, fp32, with as many threads.

    Args:
        rows: those of `results/runtimes.json`.
    """
    threads = sorted({row["threads"] for row in rows})
    grouped: dict[tuple[str, ...], dict[int, Row]] = {}
    for row in rows:
        key = (row["processor"], row["network"], row["widths"], row["runtime"], row["precision"])
        grouped.setdefault(key, {})[row["threads"]] = row
    header = ["processor", "network", "widths", "runtime", "precision", "loss, dB"]
    for count in threads:
        header += [f"{count} thread{'s' * (count > 1)}", "speed-up"]
    table = [header]
    for key, measured in grouped.items():
        first = next(iter(measured.values()))
        loss = MISSING if first["loss_db"] is None else f"{first['loss_db']:.3f}"
        cells = [*key, loss]
        for count in threads:
            row = measured.get(count)
            if row is None:
                cells += [MISSING, MISSING]
                continue
            milliseconds = row["cpu_ms" if count == 1 else "wall_ms"]["median"]
            cells += [f"{milliseconds:.1f} ms", f"{row['speedup']['median']:.2f}x"]
        table.append(cells)
    return markdown(table)


def latency_budgets_table(rows: Sequence[Row]) -> str:
    """Markdown table of budgets of time: measured at the cut, and again.

    Args:
        rows: those of `results/latency_budgets.json`.
    """
    header = ["processor", "network", "runtime", "asked", "at the cut", "again"]
    table = [[*header, "MACs kept", "steps of"]]
    for row in rows:
        table.append(
            [
                row["processor"],
                row["network"],
                row["runtime"],
                f"{row['asked']:g}",
                f"{row['at_the_cut']:.3f}",
                f"{min(row['again']):.3f} to {max(row['again']):.3f}",
                f"{row['macs_ratio']:.1%}",
                str(row["round_to"]),
            ]
        )
    return markdown(table)


def inference_table(rows: Sequence[Row]) -> str:
    """Markdown table of infer.py's wall time against that of its network alone.

    Args:
        rows: those of `results/inference.json`.
    """
    header = ["processor", "model", "runtime", "threads", "photographs", "tiles each", "all, s"]
    table = [[*header, "network alone, s", "ratio", "quartiles"]]
    for row in rows:
        ratio = row["ratio"]
        table.append(
            [
                row["processor"],
                row["model"],
                row["runtime"],
                str(row["threads"]),
                f"{row['images']} of {row['megapixels']:g} MP",
                str(row["tiles_per_image"]),
                f"{row['whole_s']['median']:.1f}",
                f"{row['network_s']['median']:.1f}",
                f"{ratio['median']:.3f}",
                f"{ratio['low']:.3f} to {ratio['high']:.3f}",
            ]
        )
    return markdown(table)


def peers_table(rows: Sequence[Row]) -> str:
    """Markdown table of the time per image of programs that restore images.

    Args:
        rows: those of `results/peers.json`.
    """
    header = ["processor", "program", "network", "threads", "s per image", "speed"]
    table = [header]
    for row in rows:
        table.append(
            [
                row["processor"],
                row["program"],
                row["network"],
                str(row["threads"]),
                f"{row['cpu_seconds_per_image']['median']:.2f}",
                f"{row['speedup']['median']:.2f}x",
            ]
        )
    return markdown(table)


def loader_table(rows: Sequence[Row]) -> str:
    """Markdown table of the speed of training batches against BasicSR's loader.

    Args:
        rows: those of `results/loader.json`.
    """
    settings = list(dict.fromkeys((row["cache"], row["epoch"]) for row in rows))
    grouped: dict[tuple[str, ...], dict[tuple[str, str], Row]] = {}
    for row in rows:
        key = (row["processor"], row["source"], row["gt"])
        grouped.setdefault(key, {})[row["cache"], row["epoch"]] = row
    header = ["processor", "pairs in", "HR images"]
    table = [header + [f"{cache}, {epoch} epoch" for cache, epoch in settings]]
    for key, measured in grouped.items():
        cells = []
        for setting in settings:
            row = measured.get(setting)
            cells.append(MISSING if row is None else f"{row['speed']['median']:.2f}x")
        table.append([*key, *cells])
    return markdown(table)


def step_basicsr_table(rows: Sequence[Row]) -> str:
    """Markdown table of training steps against BasicSR's SRModel.

    Args:
        rows: those of `results/step_basicsr.json`.
    """
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    grouped: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        grouped.setdefault((row["processor"], row["network"]), {})[row["setting"]] = row
    table = [["processor", "network", "BasicSR, ms", *settings]]
    for key, measured in grouped.items():
        first = next(iter(measured.values()))
        cells = [f"{first['basicsr_ms']['median']:.0f}"]
        for setting in settings:
            row = measured.get(setting)
            cells.append(MISSING if row is None else f"{row['speed']['median']:.2f}x")
        table.append([*key, *cells])
    return markdown(table)
