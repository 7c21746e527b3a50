"""Figures of a run kept without its folder: `results/<name>.json`, as `scripts/results.py add` writes them."""

import json
from collections.abc import Mapping
from pathlib import Path

from dhp_sr.reports.run import Run, read_run
from dhp_sr.utils.errors import UserError


def read_run_or_kept(path: str | Path) -> Run:
    """Read a run folder, or a file of kept figures: that has scores, costs and environment alone.

    Raises:
        UserError: there is neither, or it cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        return read_run(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: expected a run folder or kept figures in JSON, found: {error}"
        ) from error
    metrics = content.get("metrics") if isinstance(content, Mapping) else None
    if not isinstance(metrics, Mapping) or not isinstance(metrics.get("rows"), list):
        raise UserError(
            f"{path}: expected a run folder, or the kept figures of a run, found neither"
        )
    facts = {key: content[key] for key in ("hardware", "minutes", "note") if content.get(key)}
    environment = (
        content.get("environment") if isinstance(content.get("environment"), Mapping) else {}
    )
    return Run(path, metrics, None, (), (), environment={**facts, **environment})
