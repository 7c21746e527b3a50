"""What a finished run leaves behind: scores, costs, widths, tables and plots."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from dhp_sr.basicsr_adapter.model import DHPModel, achieved
from dhp_sr.config.schema import Options
from dhp_sr.deploy import load_model
from dhp_sr.metrics import latencies
from dhp_sr.reports.page import write_page
from dhp_sr.reports.plan import widths_text
from dhp_sr.reports.plots import write_reports
from dhp_sr.training.final_names import best_names, final_names
from dhp_sr.training.result_rows import Row, input_rows, model_row
from dhp_sr.training.run_folder import RunFolder
from dhp_sr.training.visual_samples import write_samples
from dhp_sr.training.widths import layer_rows
from dhp_sr.utils.files import write_json, write_text
from dhp_sr.utils.strict_json import finite
from dhp_sr.zoo.networks import example_shape, load_file
from dhp_sr.zoo.third_party import can_be_loaded

REPEATS = 5
"""Timed passes of each network, taken in turns."""


def finish(model: DHPModel, run: RunFolder, sets: Sequence[Any]) -> dict[str, Any]:
    """Write models, scores, costs and widths of a finished run; return the content of metrics.json."""
    options, schedule = model.options, model.compression.schedule
    finals = final_names(options)
    for leg in range(len(finals)):
        model.save_final(leg)
    networks = _final_networks(model, run, finals)
    iterations = {"dense": schedule.dense_iter, **dict.fromkeys(finals, schedule.total_iter)}
    scored = [name for name in networks if name in finals or _is_trained(options)]
    rows = input_rows(model.task, sets)
    for name in scored:
        shape = _shape(networks[name], model)
        rows.append(
            model_row(name, networks[name], model.task, sets, shape, model.device, iterations[name])
        )
    scores = {row["model"]: finite(row["sets"]) for row in rows}
    for leg, name in enumerate(finals):
        model.save_final(leg, scores=scores[name])
    write_samples(run.samples, {name: networks[name] for name in scored}, sets, model.device)
    _add_latencies(rows, networks, _shape(networks[finals[0]], model))
    if schedule.searches:
        _write_widths(model, run, networks)
    written = {
        name: run.model(name)
        for name in (*networks, *best_names(options))
        if run.model(name).exists()
    }
    targets = (
        [{target.kind: target.keep_ratio} for target in options.compress.targets]
        if options.compress
        else [{}]
    )
    found = [achieved(leg.report) for leg in model.compression.legs] or [{}]
    metrics = {
        "name": options.name,
        "task": model.task.name,
        "scale": options.scale,
        "target": _one_or_all(targets),
        "achieved": _one_or_all(found),
        "rows": rows,
        "macs_input": list(_shape(networks[finals[0]], model)),
        "best": model.best if len(finals) > 1 else model.best.get("best", {}),
        "files": {name: str(path.relative_to(run.path)) for name, path in written.items()},
    }
    metrics = finite(metrics)
    write_json(run.path / "metrics.json", metrics)
    write_pages(run)
    return metrics


def write_pages(run: RunFolder, *, only_missing: bool = False) -> None:
    """Write tables, plots and report.html from the run's other files.

    Args:
        run: The folder.
        only_missing: Nothing is written if report.html, the last of them, is as new as the results.
    """
    page, results = run.path / "report.html", run.path / "metrics.json"
    if only_missing and page.exists() and page.stat().st_mtime_ns >= results.stat().st_mtime_ns:
        return
    write_reports(run.path)
    write_page(page, [run.path])


def _one_or_all(values: list[dict[str, Any]]) -> Any:
    """Return what one target gives as itself, and what several give as a list, as in the option file."""
    return values[0] if len(values) == 1 else values


def _is_trained(options: Options) -> bool:
    """Return whether the dense network has learned anything by the time the search begins."""
    return (
        options.compress is None
        or options.compress.dense_iter > 0
        or bool(options.path.pretrain_network_g)
    )


def _final_networks(model: DHPModel, run: RunFolder, finals: Sequence[str]) -> dict[str, nn.Module]:
    """Load the networks from their files, as everybody else will; one that files cannot name comes from memory."""
    trained = dict(zip(finals, model.compression.finals(), strict=True))
    networks: dict[str, nn.Module] = {}
    for name in dict.fromkeys(("dense", *finals)):
        if can_be_loaded(trained[finals[0]]):
            networks[name] = load_model(run.model(name), model.device)
        elif name in trained:
            networks[name] = trained[name].eval()
        else:
            networks[name] = model.task.build_network(model.options).to(model.device).eval()
            load_file(networks[name], run.model(name))
    return networks


def _shape(network: nn.Module, model: DHPModel) -> tuple[int, ...]:
    described = (
        network if hasattr(network, "in_channels") else model.task.build_network(model.options)
    )
    return example_shape(described)


def _add_latencies(
    rows: list[Row], networks: Mapping[str, nn.Module], shape: tuple[int, ...]
) -> None:
    on_cpu = {name: network.cpu() for name, network in networks.items()}
    times = latencies(on_cpu, shape, repeats=REPEATS)
    for row in rows:
        if row["model"] in times:
            row["latency_ms"] = times[row["model"]].median_ms


def _write_widths(model: DHPModel, run: RunFolder, networks: Mapping[str, nn.Module]) -> None:
    finals = final_names(model.options)
    for leg, name in zip(model.compression.legs, finals, strict=True):
        widths = {
            "groups": leg.report["groups"],
            "layers": layer_rows(networks["dense"], networks[name]),
        }
        if len(finals) == 1:
            write_json(run.path / "widths.json", widths)
        else:
            path = run.path / name.replace("pruned", "widths")
            write_json(f"{path}.json", widths)
            write_text(f"{path}.txt", widths_text(widths))
