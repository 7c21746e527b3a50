"""report.html: a file that needs nothing else, neither network nor other files."""

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import yaml
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from dhp_sr.reports.page.baselines import baselines_of
from dhp_sr.reports.page.charts import compared_training_charts, scatter_chart, training_charts
from dhp_sr.reports.page.heat_map import HeatMap, heat_maps
from dhp_sr.reports.page.image_comparison import ComparedImage, compared_images
from dhp_sr.reports.page.key_figures import (
    KeyFigure,
    input_size,
    key_figures,
    subtitle,
    unfinished_note,
)
from dhp_sr.reports.page.layers import (
    Group,
    Layer,
    groups_of,
    layers_of,
    models_of,
    saving_kinds,
)
from dhp_sr.reports.page.results_table import Table, results_table
from dhp_sr.reports.run import Run, read_run_or_saved
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import write_text
from dhp_sr.utils.strict_json import JsonObject, finite

SCRIPTS = (
    "svg.js",
    "scatter.js",
    "curves.js",
    "image_comparison.js",
    "heat_map.js",
    "start.js",
)
"""Scripts in the order in which the page holds them."""
MAX_UNFOLDED_LAYERS = 48
"""Layers shown at once; a longer list is folded at first."""


@dataclass(frozen=True)
class RunSection:
    """Content of the page for a single run."""

    name: str
    """Name of the run."""
    subtitle: str
    """Network, task and method."""
    unfinished_note: str
    """Progress of an unfinished run, empty for a finished run."""
    key_figures: tuple[KeyFigure, ...]
    """Key figures."""
    prunable_groups: tuple[Group, ...]
    """Channel groups that can be pruned."""
    pinned_groups: tuple[Group, ...]
    """Channel groups that cannot."""
    pruned_models: tuple[str, ...]
    """Names of the pruned models."""
    saving_names: tuple[str, ...]
    """Kinds of cost in `Group.savings`."""
    has_plan: bool
    """Whether the run saved its plan: minimum widths, savings, layers of each group."""
    heat_maps: tuple[HeatMap, ...]
    """Latents over time, none if they never changed."""
    num_heat_maps_left_out: int
    """Groups whose latents were left out for the size of the page."""
    has_latents: bool
    """Whether the run saved its latents."""
    environment: JsonObject
    """Versions, device, command."""
    options: str
    """Options as YAML."""


@dataclass(frozen=True)
class Page:
    """Content of the page."""

    title: str
    """Name of the run, or names of all."""
    runs: tuple[RunSection, ...]
    """Runs in the order given."""
    table: Table | None
    """Table of results, None if no run is finished."""
    layers: tuple[Layer, ...]
    """Widths before and after the cut."""
    layer_models: Mapping[int, str]
    """Models in `layers`: number, which the color follows -> name."""
    fold_layers: bool
    """Whether the layers are folded at first."""
    images: tuple[ComparedImage, ...]
    """Test images."""
    num_images_left_out: int
    """Test images left out for the size of the page."""
    data: JsonObject
    """JSON for the scripts: `scatter` and `curves`, both None if there is nothing to draw."""
    sources: tuple[str, ...]
    """Where the published points come from."""
    input_size: str
    """Input that costs are stated for, empty if it is unknown or differs between runs."""


def write_page(path: str | Path, folders: Sequence[str | Path]) -> Path:
    """Write the page of a run, or of several side by side.

    Args:
        path: HTML file to write.
        folders: Run folders (`experiments/<name>`), finished or not, or files of saved results
            (`results/<name>.json`).

    Returns:
        The file written.

    Raises:
        UserError: No folder is given, or one cannot be read as a run.
        OSError: The file cannot be written.
    """
    if not folders:
        raise UserError("expected at least one run folder (experiments/<name>), found none")
    runs = list(map(read_run_or_saved, folders))
    try:
        text = page_html(runs)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        # The contents of JSON files are not checked value by value: what does not fit shows here.
        names = ", ".join(map(str, folders))
        raise UserError(
            f"{names}: expected the files of a run as it wrote them, found others: {error!r}"
        ) from error
    write_text(path, text)
    return Path(path)


def page_html(runs: Sequence[Run]) -> str:
    """Render the page of a run, or of several side by side."""
    environment = Environment(
        loader=FunctionLoader(_asset),
        autoescape=True,
        undefined=StrictUndefined,  # a misspelt name in a template is an error
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = "\n".join(map(_asset, SCRIPTS))
    # The browser runs no script but this, known by its digest, whatever a name in the page holds.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )
    return environment.get_template("page.html.j2").render(
        page=page_content(runs),
        style=Markup(_asset("style.css")),
        script=Markup(script),
        policy=policy,
    )


def page_content(runs: Sequence[Run]) -> Page:
    """Collect what the page shows; a single run is shown beside the baselines in its folder."""
    several = len(runs) > 1
    if several:
        # Widths, images and lines are told apart by the names of their runs.
        runs = with_distinct_names(runs)
        *first_names, last_name = [run.name for run in runs]
        title = f"{', '.join(first_names)} and {last_name}"
        scatter = scatter_chart(runs)
        curves = compared_training_charts(runs)
    else:
        run = runs[0]
        title = run.name
        scatter = scatter_chart(runs, baselines_of(run) if run.metrics else ())
        curves = training_charts(run)
    # Models of several runs are often called alike: pruned. The run's name tells them apart.
    cut_widths = {}
    for run in runs:
        for model, widths in run.cut_widths.items():
            label = f"{run.name}: {model}" if several else model
            cut_widths[label] = widths
    layers = layers_of(cut_widths)
    images, num_left_out = compared_images(runs)
    sizes = set(map(input_size, runs)) - {""}
    return Page(
        title=title,
        runs=tuple(map(run_section, runs)),
        table=results_table(runs),
        layers=tuple(layers),
        layer_models=models_of(layers),
        fold_layers=len(layers) > MAX_UNFOLDED_LAYERS,
        images=tuple(images),
        num_images_left_out=num_left_out,
        # JavaScript's JSON knows neither NaN nor Infinity.
        data=finite({"scatter": scatter, "curves": curves}),
        sources=published_sources(scatter),
        input_size=sizes.pop() if len(sizes) == 1 else "",
    )


def with_distinct_names(runs: Sequence[Run]) -> list[Run]:
    """Return runs with names that tell them apart.

    An archived run, and a copy of a run's folder, keep the name that is in their options: they get
    the name of their folder, then its path, then a number.
    """
    names = [run.name for run in runs]
    paths = [run.folder.resolve() for run in runs]
    numbered = [f"{path} ({number})" for number, path in enumerate(paths, start=1)]
    for longer_names in ([path.name for path in paths], list(map(str, paths)), numbered):
        counts = Counter(names)
        for index, longer_name in enumerate(longer_names):
            if counts[names[index]] > 1:
                names[index] = longer_name
    return [replace(run, shown_name=name) for run, name in zip(runs, names, strict=True)]


def run_section(run: Run) -> RunSection:
    """Collect what the page shows of a single run."""
    groups = groups_of(run)
    maps = heat_maps(run)
    options = ""
    if run.options:
        options = yaml.safe_dump(dict(run.options), sort_keys=False, allow_unicode=True)
    # Unknown versions and empty notes would only take space.
    environment = {}
    for key, value in run.environment.items():
        if value not in (None, ""):
            environment[key] = value
    return RunSection(
        name=run.name,
        subtitle=subtitle(run),
        unfinished_note=unfinished_note(run),
        key_figures=tuple(key_figures(run)),
        prunable_groups=tuple(group for group in groups if not group.reason),
        pinned_groups=tuple(group for group in groups if group.reason),
        pruned_models=tuple(run.cut_widths),
        saving_names=tuple(kind.label for kind in saving_kinds(run)),
        has_plan=run.plan is not None,
        heat_maps=tuple(maps),
        num_heat_maps_left_out=len(run.latents) - len(maps) if maps else 0,
        has_latents=bool(run.latents),
        environment=environment,
        options=options,
    )


def published_sources(scatter: JsonObject | None) -> tuple[str, ...]:
    """Sources of the published points and how they were scored, each once."""
    if scatter is None:
        return ()
    details = []
    for point in scatter["points"]:
        if point["kind"] == "published":
            details.append(point["detail"])
    return tuple(dict.fromkeys(details))


def _asset(name: str) -> str:
    return (files(__package__) / "assets" / name).read_text(encoding="utf-8")
