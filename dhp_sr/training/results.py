"""Results of a finished run: models, scores, costs, widths, tables and plots."""

from collections.abc import Mapping, Sequence

from torch import nn

from dhp_sr.config.compress_checks import is_trained_before
from dhp_sr.deploy import load_model
from dhp_sr.deploy.manifest import layer_widths
from dhp_sr.deploy.removed import removed_layers
from dhp_sr.metrics import latencies
from dhp_sr.reports.page import write_page
from dhp_sr.reports.plan import widths_text
from dhp_sr.reports.plots import write_reports
from dhp_sr.tasks.base import NamedTestSet
from dhp_sr.tasks.evaluation import Row, input_rows, model_row
from dhp_sr.training.model_writer import best_names, final_names
from dhp_sr.training.run_folder import RunFolder
from dhp_sr.training.trainer import Trainer
from dhp_sr.training.visual_samples import write_samples
from dhp_sr.utils.files import write_json, write_text
from dhp_sr.utils.strict_json import Json, JsonObject, finite
from dhp_sr.zoo.networks import example_shape, load_file
from dhp_sr.zoo.third_party import can_be_loaded

LATENCY_REPEATS = 5
"""Timed passes of each network, interleaved."""


def write_results(
    trainer: Trainer, folder: RunFolder, test_sets: Sequence[NamedTestSet]
) -> JsonObject:
    """Write models, scores, costs, widths and the report of a finished run.

    Args:
        trainer: After its last step.
        folder: Folder of the run.
        test_sets: Test sets of the run's task.

    Returns:
        The content of metrics.json.
    """
    options = trainer.options
    schedule = trainer.schedule
    device = trainer.context.device
    names = final_names(options)
    for target in range(len(names)):
        trainer.write_final(target)
    networks = _load_networks(trainer, folder, names)
    described = networks[names[0]]
    if not hasattr(described, "in_channels"):
        # A traced network has lost the attributes of its class.
        described = trainer.task.build_network(options)
    shape = example_shape(described)

    # Without any training the dense network is noise, and its scores would only confuse.
    is_dense_trained = options.compress is None or is_trained_before(options, options.compress)
    rows = input_rows(trainer.task, test_sets)
    scored: dict[str, nn.Module] = {}
    for name, network in networks.items():
        if name in names or is_dense_trained:
            scored[name] = network
            row = model_row(name, network, trainer.task, test_sets, shape, device)
            row["iterations"] = schedule.dense_iter
            if name in names:
                row["iterations"] = schedule.total_iter
            rows.append(row)
    # The models know their scores, so they are written once more, now that there are any.
    scores = {row["model"]: finite(row["sets"]) for row in rows}
    for target, name in enumerate(names):
        trainer.write_final(target, scores=scores[name])

    write_samples(folder.samples, scored, test_sets, device)
    # On the CPU whatever the run trained on, so that runs of different machines can be compared.
    on_cpu = {name: network.cpu() for name, network in networks.items()}
    times = latencies(on_cpu, shape, repeats=LATENCY_REPEATS)
    for row in rows:
        if row["model"] in times:
            row["latency_ms"] = times[row["model"]].median_ms
    if schedule.has_search:
        _write_widths(trainer, folder, networks)
    metrics = _collect(trainer, folder, networks, rows, shape)
    # metrics.json says that a run is finished, so it comes after all that cannot be made again.
    write_json(folder.path / "metrics.json", metrics)
    write_pages(folder)
    return metrics


def write_pages(folder: RunFolder, *, only_missing: bool = False) -> None:
    """Write tables, plots and report.html from the other files of a run.

    Args:
        folder: Folder of the run.
        only_missing: Write nothing if report.html, the last of them, is as new as the results.
    """
    page = folder.path / "report.html"
    results = folder.path / "metrics.json"
    if only_missing and page.exists() and page.stat().st_mtime_ns >= results.stat().st_mtime_ns:
        return
    write_reports(folder.path)
    write_page(page, [folder.path])


def compare_layer_widths(dense: nn.Module, pruned: nn.Module) -> list[dict[str, Json]]:
    """Return name, kind and [out, in] channels before and after of every weighted layer.

    A layer that went with its branch has [0, 0] after.
    """
    after = layer_widths(pruned)
    for name in removed_layers(pruned):
        after[name] = [0, 0]
    rows: list[dict[str, Json]] = []
    for name, before in layer_widths(dense).items():
        if name in after:
            kind = type(dense.get_submodule(name)).__name__
            rows.append({"name": name, "kind": kind, "before": before, "after": after[name]})
    return rows


def _load_networks(
    trainer: Trainer, folder: RunFolder, names: Sequence[str]
) -> dict[str, nn.Module]:
    """Load the networks from their files, as every user will.

    A network that no model file can name comes from memory, its dense version from bare weights.
    """
    # Scores of the files rather than of the networks in memory: a fault in writing or loading
    # shows in the results of the run, not months later.
    trained = dict(zip(names, trainer.phase.final_networks(), strict=True))
    device = trainer.context.device
    networks: dict[str, nn.Module] = {}
    for name in dict.fromkeys(("dense", *names)):
        if can_be_loaded(trained[names[0]]):
            networks[name] = load_model(folder.model(name), device)
        elif name in trained:
            networks[name] = trained[name].eval()
        else:
            network = trainer.task.build_network(trainer.options).to(device)
            load_file(network, folder.model(name))
            networks[name] = network.eval()
    return networks


def _collect(
    trainer: Trainer,
    folder: RunFolder,
    networks: Mapping[str, nn.Module],
    rows: Sequence[Row],
    shape: Sequence[int],
) -> JsonObject:
    """Collect the content of metrics.json."""
    options = trainer.options
    targets: list[dict[str, float]] = [{}]
    if options.compress is not None:
        targets = [{target.kind: target.keep_ratio} for target in options.compress.targets]
    metrics: JsonObject = {
        "name": options.name,
        "task": trainer.task.name,
        "scale": options.scale,
        "target": targets,
        "achieved": [model.achieved for model in trainer.phase.pruned_models] or [{}],
        "rows": rows,
        "macs_input": list(shape),
        "best": trainer.best,
    }
    # As in the option file: a list only where that holds a list.
    if len(targets) == 1:
        metrics["target"] = targets[0]
        metrics["achieved"] = metrics["achieved"][0]
        metrics["best"] = trainer.best.get("best", {})
    metrics["files"] = {}
    for name in (*networks, *best_names(options)):
        path = folder.model(name)
        if path.exists():  # no model is the best of a run that was never validated
            metrics["files"][name] = str(path.relative_to(folder.path))
    return finite(metrics)


def _write_widths(trainer: Trainer, folder: RunFolder, networks: Mapping[str, nn.Module]) -> None:
    names = final_names(trainer.options)
    for model, name in zip(trainer.phase.pruned_models, names, strict=True):
        widths: JsonObject = {
            "groups": model.groups,
            "layers": compare_layer_widths(networks["dense"], networks[name]),
        }
        if len(names) == 1:
            write_json(folder.path / "widths.json", widths)
        else:
            # reports write the text of widths.json themselves; these are for reading alone
            stem = name.replace("pruned", "widths")
            write_json(folder.path / f"{stem}.json", widths)
            write_text(folder.path / f"{stem}.txt", widths_text(widths))
