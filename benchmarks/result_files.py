"""The file of the figures: new rows take the place of older ones of the same key, the others stay."""

import json
import os
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from dhp_sr import __version__
from dhp_sr.utils.devices import device_name
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import write_json


def circumstances(device: torch.device, command: str, note: str) -> dict[str, Any]:
    """Return what every row says about its measurement."""
    processors = (
        f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores, "
        if device.type == "cpu"
        else ""
    )
    return {
        "hardware": processors + device_name(device),
        "torch": torch.__version__,
        "dhp_sr": __version__,
        "date": date.today().isoformat(),
        "command": command,
        "note": note,
    }


def merge(path: Path, kind: str, rows: Sequence[Mapping[str, Any]], key: Sequence[str]) -> None:
    """Write `rows` into the file, each in the place of the one with equal values under `key`, or at the end.

    Args:
        path: the file; made if it is not there.
        kind: `step` or `latency`; the kind of table that the rows make.
        rows: the new rows.
        key: names of the entries that tell rows apart.

    Raises:
        UserError: the file holds something else.
    """
    kept = {_identity(row, key): row for row in (*_rows(path, kind), *rows)}
    write_json(path, {"kind": kind, "rows": list(kept.values())})


def _identity(row: Mapping[str, Any], key: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in key)


def _rows(path: Path, kind: str) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: expected JSON, found: {error}; give another --out") from error
    if not isinstance(found, dict) or found.get("kind") != kind:
        raise UserError(
            f"{path}: expected rows of kind {kind!r}, found something else; give another --out"
        )
    return found["rows"]
