"""What an ONNX file of ours says about its network: texts under keys in the file's metadata.

Names stand there as they are, everything else as JSON. The file has no other place for it, and every program that opens
ONNX files can show it.
"""

import json
from collections.abc import Mapping
from typing import Any

from dhp_sr import __version__
from dhp_sr.deploy.safetensors_io import ModelFileError
from dhp_sr.deploy.strict_json import FORMAT, check_version, read_json
from dhp_sr.utils.errors import UserError

FORMAT_VERSION = 1
LARGEST_TEXT = 2**20

KEYS: dict[str, tuple[type, bool]] = {
    "format": (str, True),
    "format_version": (int, True),
    "architecture": (str, True),
    "task": (str, True),
    "scale": (int, True),
    "in_channels": (int, True),
    "out_channels": (int, True),
    "colour": (str, True),
    "value_range": (list, True),
    "size_multiple": (int, True),
    "precision": (str, True),
    "tool_version": (str, True),
    "params": (int, True),
    "input_size": (int, False),
    "halo": (int, False),
    "tile_multiple": (int, False),
    "bytes_per_pixel": (int, False),
    "macs": (int, False),
    "macs_input": (list, False),
    "scores": (dict, False),
    "licence": (str, False),
    "parent": (str, False),
}
"""Key -> its type, and whether every file of ours has it.

`size_multiple`: sides of the input are multiples of it. `input_size`: side of the images that a classifier names.
`halo`: input pixels that a tile needs on each side (absent where it is unknown or the whole image); tiles begin and end
at multiples of `tile_multiple`. `bytes_per_pixel`: memory that a pixel of the input takes. `precision`: "fp32" or
"fp16", of weights, computation, input and output alike. `macs`: for an input of the shape `macs_input`.
"""


def pack_metadata(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts that a file holds; facts that are None are left out.

    Args:
        facts: by the names of `KEYS`, without `format`, `format_version` and `tool_version`.

    Raises:
        UserError: a fact is unknown, of another type, or missing.
    """
    versions = {"format": FORMAT, "format_version": FORMAT_VERSION, "tool_version": __version__}
    found = {key: value for key, value in {**facts, **versions}.items() if value is not None}
    wrong = _complaints(found)
    if wrong:
        raise UserError("the metadata of an ONNX file: " + "; ".join(wrong))
    return {
        key: value if isinstance(value, str) else _text(value)
        for key, value in sorted(found.items())
    }


def unpack_metadata(texts: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what a file says about its network; None for a file of another program.

    Args:
        texts: the file's metadata, as from `session.get_modelmeta().custom_metadata_map`.

    Raises:
        ModelFileError: the file is of a newer format, or its metadata is not well formed.
    """
    if texts.get("format") != FORMAT:
        return None
    found = {key: _value(key, texts[key]) for key in KEYS if key in texts}
    wrong = _complaints(found)
    if wrong:
        raise ModelFileError("metadata: " + "; ".join(wrong))
    check_version(found["format_version"], FORMAT_VERSION)
    return found


def _complaints(found: Mapping[str, Any]) -> list[str]:
    lines = [f"unknown key {key!r}" for key in found if key not in KEYS]
    lines += [
        f"{key} is missing" for key, (_, required) in KEYS.items() if required and key not in found
    ]
    for key, value in found.items():
        kind = KEYS.get(key, (object, False))[0]
        least = 0 if key in ("halo", "macs", "params") else 1
        if not isinstance(value, kind) or isinstance(value, bool):
            lines.append(f"expected {key} of type {kind.__name__}, found {str(value)[:80]!r}")
        elif isinstance(value, int) and not least <= value < 2**63:
            lines.append(f"expected {key} from {least}, found {str(value)[:80]}")
    return lines


def _text(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"), sort_keys=True)


def _value(key: str, text: str) -> Any:
    if len(text) > LARGEST_TEXT:
        raise ModelFileError(
            f"metadata: expected {key} of at most {LARGEST_TEXT} characters, found {len(text)}"
        )
    if KEYS[key][0] is str:
        return text
    return read_json(text, f"metadata: {key}")
