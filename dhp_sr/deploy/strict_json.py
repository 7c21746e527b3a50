"""What files say in text: JSON without Python's extensions, and the version of the format."""

import json
from typing import Any

from dhp_sr.deploy.safetensors_io import ModelFileError

FORMAT = "dhp_sr"
"""How files of ours name themselves."""


def read_json(text: str | bytes, where: str) -> Any:
    """Return what JSON says; NaN and Infinity, which Python would take, are refused.

    Raises:
        ModelFileError: it is not JSON.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{where}: not valid JSON ({error})") from None


def check_version(found: int, newest: int) -> None:
    """Refuse files of a later version of a format than this one.

    Raises:
        ModelFileError: the file is of one.
    """
    if found > newest:
        raise ModelFileError(
            f"written in format version {found}, this dhp_sr reads up to {newest}; install a newer dhp_sr"
        )


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
