"""A network's description in an ONNX file: texts under keys of the file's metadata.

Names are stored as they are, everything else as JSON. ONNX has no other address for it, and every
program that opens ONNX files can show it. Files of torch.export carry the same texts.
"""

from collections.abc import Mapping

from dhp_sr import __version__
from dhp_sr.deploy.manifest import FORMAT, check_version, read_json
from dhp_sr.deploy.safetensors_io import ModelFileError
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.strict_json import Json, JsonObject, dump_json

FORMAT_VERSION = 1
MAX_TEXT = 2**20

# The spelling of these keys is the file format's, and stays.
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
    "smallest_side": (int, False),
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

`size_multiple`: height and width of the input are multiples of it. `smallest_side`: smaller ones do
not pass (absent where all pass). `input_size`: height and width that a classifier is meant for.
`halo`: input pixels that a tile needs on each side (absent where it is unknown or the whole image);
tiles begin and end at multiples of `tile_multiple`. `bytes_per_pixel`: peak memory for a pixel of
the input. `precision`: "fp32" or "fp16", of weights, computation, input and output alike (OpenVINO:
of weights alone), or "int8", of weights and computation. `macs`: for an input of the shape
`macs_input`.
"""

_FROM_ZERO = ("halo", "macs", "params")


def pack_metadata(facts: Mapping[str, Json]) -> dict[str, str]:
    """Return the texts that a file holds; facts that are None are omitted.

    Args:
        facts: By the names of `KEYS`, without `format`, `format_version` and `tool_version`.

    Raises:
        UserError: A fact is unknown, of another type, or missing.
    """
    stated: dict[str, Json] = {
        **facts,
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "tool_version": __version__,
    }
    known = {key: value for key, value in stated.items() if value is not None}
    problems = _problems(known)
    if problems:
        raise UserError("the metadata of an ONNX file: " + "; ".join(problems))
    texts = {}
    for key, value in sorted(known.items()):
        texts[key] = value if isinstance(value, str) else dump_json(value, sort_keys=True)
    return texts


def unpack_metadata(texts: Mapping[str, str]) -> JsonObject | None:
    """Return a file's description of its network; None for a file of another program.

    Args:
        texts: The file's metadata, as from `session.get_modelmeta().custom_metadata_map`.

    Raises:
        ModelFileError: The file is of a newer format, or its metadata is malformed.
    """
    if texts.get("format") != FORMAT:
        return None
    stated: JsonObject = {key: _parse(key, texts[key]) for key in KEYS if key in texts}
    problems = _problems(stated)
    if problems:
        raise ModelFileError("metadata: " + "; ".join(problems))
    check_version(stated["format_version"], FORMAT_VERSION)
    return stated


def _parse(key: str, text: str) -> Json:
    if len(text) > MAX_TEXT:
        raise ModelFileError(
            f"metadata: expected {key} of at most {MAX_TEXT} characters, got {len(text)}"
        )
    if KEYS[key][0] is str:
        return text
    return read_json(text, f"metadata: {key}")


def _problems(facts: Mapping[str, Json]) -> list[str]:
    """Return everything that is wrong with the facts, to be reported together."""
    problems = [f"unknown key {key!r}" for key in facts if key not in KEYS]
    for key, (_, required) in KEYS.items():
        if required and key not in facts:
            problems.append(f"{key} is missing")
    for key, value in facts.items():
        kind = KEYS.get(key, (object, False))[0]
        minimum = 0 if key in _FROM_ZERO else 1
        # bool is a subclass of int, and no count.
        if not isinstance(value, kind) or isinstance(value, bool):
            problems.append(f"expected {key} of type {kind.__name__}, got {str(value)[:80]!r}")
        elif isinstance(value, int) and not minimum <= value < 2**63:
            problems.append(f"expected {key} from {minimum}, got {str(value)[:80]}")
    return problems
