"""All that the page shows, from the folders of one run or several."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from dhp_sr.reports.page import key_figures as facts
from dhp_sr.reports.page import layers
from dhp_sr.reports.page.baselines import controls_beside
from dhp_sr.reports.page.curves import compared, curves
from dhp_sr.reports.page.formatting import TIMES
from dhp_sr.reports.page.heat_map import Heat, heat_maps
from dhp_sr.reports.page.image_comparison import Scene, scenes
from dhp_sr.reports.page.published import sources
from dhp_sr.reports.page.scatter import chart
from dhp_sr.reports.page.table import Table, results_table
from dhp_sr.reports.run import Run

MOST_LAYERS = 48
"""More of them are folded away at first."""


@dataclass(frozen=True)
class RunView:
    """One run."""

    name: str
    """What it is called."""
    subtitle: str
    """Network, task and method."""
    state: str
    """How far an unfinished run has come; empty for a finished one."""
    facts: tuple[facts.Fact, ...]
    """What a reader wants to know first."""
    groups: tuple[layers.Group, ...]
    """The plan."""
    cuts: tuple[str, ...]
    """Names of the cut models."""
    planned: bool
    """Whether the run kept its plan: floors, shares of the cost, layers of each group."""
    heats: tuple[Heat, ...]
    """Latents over time; none where nothing changed."""
    latents_kept: bool
    """Whether the run kept its latents."""
    environment: Mapping[str, Any]
    """Versions, device, command."""
    options: str
    """YAML."""

    @property
    def free(self) -> list[layers.Group]:
        """Groups that may be cut."""
        return [group for group in self.groups if not group.reason]

    @property
    def pinned(self) -> list[layers.Group]:
        """Groups that may not."""
        return [group for group in self.groups if group.reason]


@dataclass(frozen=True)
class Context:
    """The page."""

    title: str
    """Name of the run, or names of all."""
    runs: tuple[RunView, ...]
    """In the order given."""
    table: Table | None
    """Results, None where no run is finished."""
    layers: tuple[layers.Layer, ...]
    """Widths before and after."""
    scenes: tuple[Scene, ...]
    """Test pictures."""
    scenes_left_out: int
    """Pictures that there was no room for."""
    data: dict[str, Any] = field(default_factory=dict)
    """For the scripts of the page, JSON-able: `chart` and `curves`, None where there is nothing to draw."""
    sources: tuple[str, ...] = ()
    """Where the published points come from."""
    size: str = ""
    """The input for which costs are stated."""
    fold_layers: bool = False
    """Whether the layers are folded away at first."""


def context(runs: Sequence[Run]) -> Context:
    """Gather what the page shows; a run alone is shown beside its controls in the same folder."""
    several = len(runs) > 1
    controls = [] if several or not runs[0].metrics else controls_beside(runs[0])
    drawn = chart(runs, controls)
    shown, left_out = scenes(runs)
    cuts = {
        f"{run.name}: {model}" if several else model: cut
        for run in runs
        for model, cut in run.cuts.items()
    }
    rows = layers.layers(cuts)
    published = [point for point in (drawn or {}).get("points", []) if point["kind"] == "published"]
    return Context(
        title=" and ".join([", ".join(run.name for run in runs[:-1]), runs[-1].name])
        if several
        else runs[0].name,
        runs=tuple(_view(run) for run in runs),
        table=results_table(runs),
        layers=tuple(rows),
        scenes=tuple(shown),
        scenes_left_out=left_out,
        data=_finite({"chart": drawn, "curves": compared(runs) if several else curves(runs[0])}),
        sources=tuple(sources(published)),
        size=_size(runs),
        fold_layers=len(rows) > MOST_LAYERS,
    )


def _view(run: Run) -> RunView:
    return RunView(
        name=run.name,
        subtitle=facts.subtitle(run),
        state=facts.state(run),
        facts=tuple(facts.facts(run)),
        groups=tuple(layers.groups(run)),
        cuts=tuple(run.cuts),
        planned=run.plan is not None,
        heats=tuple(heat_maps(run)),
        latents_kept=bool(run.latents),
        environment={
            key: value for key, value in run.environment.items() if value not in (None, "")
        },
        options=yaml.safe_dump(dict(run.options), sort_keys=False, allow_unicode=True)
        if run.options
        else "",
    )


def _finite(value: Any) -> Any:
    """Return the same tree with infinite and undefined numbers as None: JavaScript's JSON knows neither."""
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _size(runs: Sequence[Run]) -> str:
    sizes = {tuple((run.metrics or {}).get("macs_input") or ()) for run in runs} - {()}
    return f" {TIMES} ".join(str(side) for side in sizes.pop()[1:]) if len(sizes) == 1 else ""
