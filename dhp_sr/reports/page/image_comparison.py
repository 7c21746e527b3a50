"""Test pictures for the before/after comparison, from one run or several."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from dhp_sr.reports.page.formatting import number
from dhp_sr.reports.page.heat_map import png_uri
from dhp_sr.reports.run import Run
from dhp_sr.reports.samples import Picture, Version

MOST_BYTES = 6 * 2**20
"""Of all PNG files on a page; they take a third more as text."""
COMMON = ("input", "bicubic", "truth")
"""Versions that no model made: equal ones of several runs are shown once."""


@dataclass(frozen=True)
class View:
    """One version of a picture as the page shows it."""

    label: str
    """Model, with its run where there are several."""
    score: str
    """As text; empty where there is none."""
    psnr_db: float | None
    """Of the whole picture."""
    data_uri: str
    """PNG."""


@dataclass
class Scene:
    """One picture with all its versions."""

    title: str
    """Picture and test set."""
    height: int
    """Pixels of the truth."""
    width: int
    """Likewise."""
    views: list[View] = field(default_factory=list)
    """In the order to show them."""
    left: int = 0
    """Number of the version that is on the left at first."""
    right: int = 0
    """Number of the one on the right."""


def scenes(runs: Sequence[Run]) -> tuple[list[Scene], int]:
    """Return the pictures of which two versions are there, and how many were left out for the size of the page.

    Pieces of one picture are brought together where the truth is the same, byte by byte.
    """
    gathered: dict[tuple, list[tuple[Run, Picture]]] = {}
    for run in runs:
        for picture in run.pictures:
            gathered.setdefault(_identity(picture), []).append((run, picture))
    shown, bytes_left, left_out = [], MOST_BYTES, 0
    for found in sorted(gathered.values(), key=len, reverse=True):
        versions = _versions(found, several=len(runs) > 1)
        if len(versions) < 2:
            continue
        size = sum(len(version.png) for _, version in versions)
        if size > bytes_left:
            left_out += 1
            continue
        bytes_left -= size
        shown.append(_scene(found[0][1], versions))
    return shown, left_out


def _identity(picture: Picture) -> tuple:
    truth = next((version.png for version in picture.versions if version.name == "truth"), b"")
    return picture.set, picture.key, picture.scale, picture.crop, truth


def _versions(found: Sequence[tuple[Run, Picture]], several: bool) -> list[tuple[str, Version]]:
    """Return (label, version): inputs first, then the models run by run, the truth last."""
    labeled: dict[str, Version] = {}
    for run, picture in found:
        for version in picture.versions:
            own = f"{run.name}: {version.name}" if several else version.name
            known = labeled.get(version.name)
            common = version.name in COMMON and (known is None or known.png == version.png)
            labeled[version.name if common else own] = version
    order = {"input": 0, "bicubic": 1, "truth": 3}
    return sorted(labeled.items(), key=lambda pair: order.get(pair[1].name, 2))


def _scene(picture: Picture, versions: Sequence[tuple[str, Version]]) -> Scene:
    scene = Scene(f"{picture.key}, {picture.set}", *picture.crop[2:])
    for label, version in versions:
        score = "" if version.psnr_db is None else f"{number(version.psnr_db, 2)} dB"
        scene.views.append(View(label, score, version.psnr_db, png_uri(version.png)))
    names = [version.name for _, version in versions]
    models = [place for place, name in enumerate(names) if name not in COMMON]
    scene.left = names.index("bicubic") if "bicubic" in names else 0
    scene.right = models[-1] if models else len(names) - 1
    return scene
