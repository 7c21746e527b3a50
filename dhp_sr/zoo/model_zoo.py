"""Trained models that come with the program: `zoo:NAME` wherever a command takes a model file.

The files lie in `dhp_sr/model_zoo/`, inside the package, so that they are there after
installation. A model file describes itself; `index.json` beside them adds a sentence about each
(how it was trained), and its order is the order of the listing. Adding a model is a file and a
line in the index.
"""

from dataclasses import dataclass
from pathlib import Path

from dhp_sr.config.paths import ZOO
from dhp_sr.deploy import read_manifest
from dhp_sr.reports.scores import scores_of
from dhp_sr.utils.errors import UserError, unknown_name
from dhp_sr.utils.strict_json import JsonObject, parse_json

PREFIX = ZOO
FOLDER = Path(__file__).resolve().parents[1] / "model_zoo"
INDEX = "index.json"
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class ZooModel:
    """A trained model of the zoo."""

    name: str
    """Name, as in `zoo:NAME`."""
    path: Path
    summary: str
    """One sentence from the index."""

    @property
    def file_bytes(self) -> int:
        """Size of the file."""
        return self.path.stat().st_size

    def manifest(self) -> JsonObject:
        """Return the description in the file.

        Raises:
            ModelFileError: The file is damaged.
        """
        return read_manifest(self.path)

    def table_row(self) -> tuple[str, ...]:
        """Return name, task, size, multiply-adds, score and summary for the listing.

        Raises:
            ModelFileError: The file is damaged.
        """
        manifest = self.manifest()
        task = str(manifest["task"])
        if manifest["scale"] > 1:
            task += f" x{manifest['scale']}"
        macs = "-"
        if manifest.get("macs") is not None:
            height, width = manifest["macs_input"][-2:]
            macs = f"{manifest['macs'] / 1e9:.3g} G at {width}x{height}"
        size = f"{self.file_bytes / 1e6:.2f} MB"
        return f"{PREFIX}{self.name}", task, size, macs, _score_text(manifest), self.summary


def zoo_models(folder: Path | None = None) -> list[ZooModel]:
    """Return the models of a folder in the order of its index.

    Args:
        folder: With `index.json`; None: the folder that comes with the program.

    Raises:
        UserError: The index is malformed, or names a file that is not there.
    """
    folder = folder or FOLDER
    # A wheel may be built without the models, which is no error before a model is asked for.
    index = folder / INDEX
    if not index.is_file():
        return []
    try:
        summaries = parse_json(index.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{index}: {error}") from error
    if not isinstance(summaries, dict):
        raise UserError(f"{index}: expected an object, got {type(summaries).__name__}")
    models = []
    for name, summary in summaries.items():
        # The index lies in the package, as trusted as its code.
        path = folder / f"{name}{SUFFIX}"
        if not path.is_file():
            raise UserError(f"{index}: names {name!r}, but {path.name} is not beside it")
        models.append(ZooModel(name, path, str(summary)))
    return models


def resolve_model(model: str | Path, folder: Path | None = None) -> Path:
    """Return the path of a model file; `zoo:NAME` stands for a file of the zoo.

    Args:
        model: Path, or `zoo:NAME`.
        folder: As for `zoo_models`.

    Raises:
        UserError: The zoo has no model of this name, or the prefix of one was left out.
    """
    text = str(model)
    if not text.startswith(PREFIX):
        if not Path(model).exists() and any(text == entry.name for entry in zoo_models(folder)):
            raise UserError(f"{text}: there is no such file; did you mean {PREFIX}{text}?")
        return Path(model)
    # The name is looked up, never joined to a path: `zoo:../x` is only an unknown name.
    name = text.removeprefix(PREFIX)
    models = {entry.name: entry for entry in zoo_models(folder)}
    if name not in models:
        raise UserError(unknown_name("zoo model", name, models))
    return models[name].path


def asks_for_listing(models: str | list[str] | None) -> bool:
    """Return whether the value of `--model` is `zoo:` alone, which lists the zoo."""
    return models == PREFIX or models == [PREFIX]


def zoo_listing(folder: Path | None = None) -> str:
    """Return a table of the zoo's models: name, task, size, multiply-adds, score.

    Raises:
        UserError: The index or a file is damaged.
    """
    models = zoo_models(folder)
    if not models:
        return f"{folder or FOLDER}: no models\n"
    rows: list[tuple[str, ...]] = [("model", "task", "size", "MACs", "score", "")]
    rows += [model.table_row() for model in models]
    # Transposed: the width of a column is that of its longest cell.
    columns = zip(*rows, strict=True)
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        # No blanks at the ends of lines, which the last column would be filled up with.
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def _score_text(manifest: JsonObject) -> str:
    """Return the first score of the first test set, such as `Set5: PSNR-Y 31.9 dB`."""
    # The first score that the task is compared by, see `reports.scores`.
    for test_set, values in manifest.get("scores", {}).items():
        for score in scores_of(manifest["task"], values):
            return f"{test_set}: {score.name} {score.text(values[score.key])} {score.unit}".rstrip()
    return "-"
