"""Files of benchmark results: new rows replace older ones of the same key, the others stay."""

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

Row = dict[str, Any]
"""A measurement."""


def describe_measurement(device: torch.device, command: str, note: str) -> dict[str, Any]:
    """Entry `measured` of every row: hardware, versions, date, command and a note."""
    hardware = device_name(device)
    if device.type == "cpu":
        # Fewer than the machine has where the process is pinned.
        cores = f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores"
        hardware = f"{cores}, {hardware}"
    return {
        "hardware": hardware,
        "torch": torch.__version__,
        "dhp_sr": __version__,
        "date": date.today().isoformat(),
        "command": command,
        "note": note,
    }


def processor_name() -> str:
    """Name of the processor with the instructions that int8 is fast with, where it has them."""
    name = device_name(torch.device("cpu"))
    flags: set[str] = set()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("flags"):
                flags = set(line.partition(":")[2].split())
                break
    fast_with_int8 = []
    if flags & {"avx512_vnni", "avx_vnni"}:
        fast_with_int8.append("VNNI")
    if "amx_int8" in flags:
        fast_with_int8.append("AMX")
    return ", ".join([name.removesuffix(")"), *fast_with_int8]) + ")"


def merge_rows(path: Path, kind: str, rows: Sequence[Row], key: Sequence[str]) -> None:
    """Write rows into a file; each replaces the row with equal values under `key`.

    Args:
        path: JSON file; made if it does not exist.
        kind: kind of table that the rows make, see `scripts/results.py`.
        rows: new rows.
        key: names of the entries that identify a row.

    Raises:
        UserError: the file holds something else.
    """
    merged = {}
    for row in (*read_rows(path, kind), *rows):
        merged[tuple(str(row[name]) for name in key)] = row
    write_json(path, {"kind": kind, "rows": list(merged.values())})


def read_rows(path: Path, kind: str) -> list[Row]:
    """Rows of a file; none if it does not exist.

    Raises:
        UserError: the file holds something else.
    """
    if not path.exists():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: expected JSON, got: {error}; give another --out") from error
    if not isinstance(content, Mapping) or content.get("kind") != kind:
        raise UserError(f"{path}: expected rows of kind {kind!r}; give another --out")
    return content["rows"]
