"""Tables of models: the results of a run, and the measurements of finished model files."""

from collections.abc import Mapping, Sequence

from dhp_sr.reports.formatting import (
    MISSING,
    CostColumn,
    aligned,
    cost_columns,
    markdown,
    number,
    shape_text,
)
from dhp_sr.reports.run import Row, dense_row, set_names
from dhp_sr.reports.scores import (
    NUM_TABLE_SCORES,
    PSNR_RGB,
    PSNR_Y,
    SSIM_Y,
    scores_of,
)
from dhp_sr.utils.strict_json import JsonObject

_IMAGE_SCORES = (PSNR_Y, PSNR_RGB, SSIM_Y)
_NTIRE_INPUT = "256x256"


def text_table(metrics: JsonObject) -> str:
    """Format the results of a run as text: a row per model, two columns per test set.

    Args:
        metrics: Contents of metrics.json.
    """
    return aligned(_result_cells(metrics))


def markdown_table(metrics: JsonObject) -> str:
    """Format the results of a run in markdown: a row per model, two columns per test set.

    Args:
        metrics: Contents of metrics.json.
    """
    return markdown(_result_cells(metrics))


def evaluation_text(evaluation: JsonObject, images: bool = True) -> str:
    """Format quality, cost, time and memory of finished models side by side.

    Args:
        evaluation: Result of `dhp_sr.cli.evaluate.evaluate_files`.
        images: Whether to list the scores of every image beside the means.
    """
    rows = evaluation["rows"]
    models = [row for row in rows if "costs" in row]  # the other rows are inputs
    sections = []
    for test_set, crop_border in evaluation.get("shaved", {}).items():
        sections.append(image_score_table(test_set, rows, crop_border, images))
    sections.append(f"{evaluation['name']}\n{text_table(evaluation)}")
    sections.append(cost_table(models))
    # Time and memory are measured on request only.
    timed = [row for row in models if row.get("latency")]
    if timed:
        sections.append(latency_table(timed))
    measured = [row for row in models if "memory" in row]
    if measured:
        sections.append(memory_table(measured))
    if evaluation["task"] == "sr":
        sections.append(ntire_table(models, evaluation["shaved"]))
    return "\n".join(sections)


def _result_cells(metrics: JsonObject) -> list[list[str]]:
    rows = metrics["rows"]
    sets = set_names(rows)
    scores = scores_of(metrics.get("task"))[:NUM_TABLE_SCORES]
    header = ["model", "iterations"]
    for name in sets:
        for score in scores:
            # The test set is named above its first score alone: the table is wide enough.
            header.append(f"{name} {score.heading}" if score is scores[0] else score.heading)
    columns = cost_columns(rows)
    for column in columns:
        header.append(column.heading)
    table = [header]
    dense = dense_row(rows) or {}
    for row in rows:
        iterations = row.get("iterations")
        cells = [str(row["model"]), MISSING if iterations is None else f"{iterations:,}"]
        for name in sets:
            values = row["sets"].get(name, {})
            for score in scores:
                cells.append(score.text(values.get(score.key)))
        for column in columns:
            cells.append(_cost_cell(column, row, dense))
        table.append(cells)
    return table


def _cost_cell(column: CostColumn, row: Row, dense: Row) -> str:
    """Format a cost, and what it is of the dense network's: `36.141 (40.0%)`."""
    value = row.get(column.key)
    text = number(value, column.digits, column.kind.divisor)
    dense_value = dense.get(column.key)
    # A measured cost fluctuates, so that a percentage with a decimal would promise too much.
    if column.kind.is_measured or value is None or not dense_value or value == dense_value:
        return text
    return f"{text} ({value / dense_value:.1%})"


def image_score_table(test_set: str, rows: Sequence[Row], crop_border: int, images: bool) -> str:
    """Format the scores of a test set: a line per image and one for the mean, all models."""
    headings = " / ".join(score.heading for score in _IMAGE_SCORES)
    border = "no border cropped"
    if crop_border:
        border = f"border of {crop_border} pixels cropped"
    title = f"{test_set}: {headings} (a gray image is its own Y); {border}\n"

    means = [row["sets"][test_set] for row in rows]
    models = [row["model"] for row in rows]
    table = [[f"{means[0]['images']} images", *models]]
    if images:
        # From a list of images per model to a list of models per image.
        scores_of_models = [row["images"][test_set] for row in rows]
        for same_image in zip(*scores_of_models, strict=True):
            table.append([same_image[0]["image"], *map(_joined_scores, same_image)])
    table.append(["mean", *map(_joined_scores, means)])
    return title + aligned(table)


def _joined_scores(values: JsonObject) -> str:
    return " / ".join(score.text(values[score.key]) for score in _IMAGE_SCORES)


def cost_table(models: Sequence[Row]) -> str:
    """Format what models cost, for the input sizes that papers state it for."""
    inputs = list(models[0]["costs"])
    table = [["cost", "runs in", "params M", "convolutions", *inputs]]
    for row in models:
        costs = row["costs"]
        # Parameters and convolutions are the same whatever the input.
        params, convs = costs[inputs[0]]["params"], costs[inputs[0]]["convs"]
        program = row["runtime"]
        # Metrics of older versions do not state one.
        if row.get("precision"):
            program += f", {row['precision']}"
        cells = [row["model"], program, number(params, 4, 1e6), number(convs, 0)]
        for name in inputs:
            macs = number(costs[name]["macs"], 3, 1e9)
            activations = number(costs[name]["activations"], 3, 1e6)
            cells.append(f"{macs} / {activations}")
        table.append(cells)
    shapes = []
    for name in inputs:
        # A network for other inputs than images in color has other channels than the name says.
        shapes.append(f"{name}: {shape_text(models[0]['costs'][name]['input'][1:])}")
    title = "Cost, MACs G / activations M (elements of the convolutions' outputs); inputs are"
    return f"{title} {', '.join(shapes)}\n{aligned(table)}"


def latency_table(models: Sequence[Row]) -> str:
    """Format measured times with their quartiles, a column per device."""
    devices: dict[str, None] = {}
    for row in models:
        devices.update(dict.fromkeys(row.get("latency", {})))
    table = [["time of a pass"]]
    for device in devices:
        table[0].append(f"{device} ms (quartiles)")
    for row in models:
        cells = [row["model"]]
        for device in devices:
            time = row["latency"].get(device)
            if time is None:
                cells.append(MISSING)
            else:
                cells.append("{median_ms:.1f} ({low_ms:.1f}-{high_ms:.1f})".format(**time))
        table.append(cells)
    first = next(iter(models[0]["latency"].values()))
    # The models take turns, so that a slow minute of the machine hits all of them.
    title = (
        f"Time for an input of {shape_text(first['input'][1:])}, models in turns, "
        f"CPU with {first['threads']} thread(s)\n"
    )
    return title + aligned(table)


def memory_table(models: Sequence[Row]) -> str:
    """Format the peak memory of a pass in a fresh process."""
    table = [["memory", "added by the pass MiB", "whole process MiB", "graphics card MiB"]]
    for row in models:
        memory = row["memory"]
        cells = [row["model"]]
        for key in ("pass_mib", "process_mib", "cuda_peak_mib"):
            cells.append(number(memory[key], 0))
        table.append(cells)
    shape = shape_text(models[0]["memory"]["input"][1:])
    return f"Peak memory in a fresh process, input of {shape}\n{aligned(table)}"


def ntire_table(models: Sequence[Row], crop_borders: Mapping[str, int]) -> str:
    """Format the table of the NTIRE challenge on efficient super-resolution.

    Its conventions: PSNR over RGB with a border of the scale cropped, costs for an input of
    256 x 256, memory as torch counts it on a graphics card; without a card it is what the pass
    adds to the process. Its "FLOPs" are multiply-adds.

    Reference: Ren et al., The Tenth NTIRE 2025 Efficient Super-Resolution Challenge Report.
    """
    header = ["Model"]
    for name in crop_borders:
        header.append(f"PSNR [{name}]")
    # Names and units are those of the challenge, so that rows can be pasted into its table.
    header += ["Time [ms]", "Params [M]", "FLOPs [G]", "Acts [M]", "Mem [M]", "#Conv"]
    table = [header]
    measured_at = ""
    for row in models:
        cost = row["costs"][_NTIRE_INPUT]
        memory = row.get("memory", {})
        cells = [row["model"]]
        for name in crop_borders:
            cells.append(PSNR_RGB.text(row["sets"][name][PSNR_RGB.key]))
        cells += [
            number(row["latency_ms"]),
            number(cost["params"], 3, 1e6),
            number(cost["macs"], 2, 1e9),
            number(cost["activations"], 2, 1e6),
            number(memory.get("cuda_peak_mib") or memory.get("pass_mib")),
            number(cost["convs"], 0),
        ]
        table.append(cells)
        if "input" in memory and not measured_at:
            shape = shape_text(memory["input"][1:])
            measured_at = f"; time and memory for {shape} here"
    title = f"NTIRE efficient SR (PSNR over RGB, FLOPs are MACs, input of 256 x 256{measured_at})"
    return f"{title}\n{aligned(table)}"
