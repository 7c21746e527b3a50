"""What an ONNX file may hold before onnxruntime opens it: nothing outside itself, and no more than it says.

onnxruntime reads other files that a model names, and computes constants while it opens one; a few bytes can ask for any
amount of memory. Our own files carry a checksum, which finds damage.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dhp_sr.deploy.safetensors_io import ModelFileError

CHECKSUM = "dhp_sr_sha256"
"""Key in the metadata of our files: SHA-256 of the file's bytes, with zeros in the place of the sum."""

_BLANK = "0" * 64
_LARGEST_FILE = 2**31 - 1
_MOST_VALUES = 2**28
"""Of a tensor whose size does not depend on the input."""

_MOST_NODES = 100_000


def seal(model: Any, texts: Mapping[str, str], path: str | Path) -> None:
    """Write a model with metadata and its checksum.

    Args:
        model: an `onnx.ModelProto`; its metadata is replaced.
        texts: the metadata.
        path: the file.
    """
    del model.metadata_props[:]
    for key, value in {**texts, CHECKSUM: _BLANK}.items():
        model.metadata_props.add(key=key, value=value)
    content = model.SerializeToString()
    Path(path).write_bytes(_with_sum(content, _BLANK, _sum(content)))


def check_onnx(path: str | Path) -> None:
    """Look at a file without running it.

    Raises:
        ModelFileError: there is no such file, it is no ONNX file, damaged, or asks for other files or too much memory.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise ModelFileError(
                "is a folder, expected a file" if path.is_dir() else "there is no such file"
            )
        if path.stat().st_size > _LARGEST_FILE:
            raise ModelFileError(
                f"expected at most {_LARGEST_FILE} bytes, found {path.stat().st_size}"
            )
        content = path.read_bytes()
        model = _parse(content)
        _check_sum(model, content)
        _check_graphs(model)
        _check_sizes(model)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error


def _parse(content: bytes) -> Any:
    import onnx

    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's classes differ between its implementations
        raise ModelFileError(
            f"expected an ONNX file that can be read, found a damaged or another one: {error}"
        ) from None
    if not model.graph.node or len(model.graph.input) < 1:
        raise ModelFileError(
            "expected an ONNX file with a graph, found one of another kind or a damaged one"
        )
    if not all(
        isinstance(text, str) for entry in model.metadata_props for text in (entry.key, entry.value)
    ):
        raise ModelFileError(
            "the file is damaged: its metadata is no text"
        )  # protobuf hands out bytes then
    return model


def _check_sum(model: Any, content: bytes) -> None:
    """Compare the checksum of our own files; others have none."""
    entries = {entry.key: entry.value for entry in model.metadata_props}
    if CHECKSUM not in entries and entries.get("format") != "dhp_sr":
        return
    stated = entries.get(CHECKSUM, "")
    if len(stated) != len(_BLANK) or _sum(_with_sum(content, stated, _BLANK)) != stated:
        raise ModelFileError(
            "the file is damaged: its content is not that of its checksum; export or copy it again"
        )


def _with_sum(content: bytes, old: str, new: str) -> bytes:
    place = content.rfind(old.encode())
    return content[:place] + new.encode() + content[place + len(old) :]


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _check_graphs(model: Any) -> None:
    import onnx

    nodes = 0
    for part in _parts(model):
        if isinstance(part, onnx.NodeProto):
            nodes += 1
        elif isinstance(part, onnx.TensorProto):
            _check_tensor(part)
    if nodes > _MOST_NODES:
        raise ModelFileError(f"expected at most {_MOST_NODES} operations, found {nodes}")


def _parts(model: Any) -> Iterator[Any]:
    """Yield every node and every constant of a model, those of inner graphs and of functions included."""
    waiting = [model.graph, *model.functions]
    while waiting:
        graph = waiting.pop()
        yield from getattr(graph, "initializer", ())
        for sparse in getattr(graph, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        for node in graph.node:
            yield node
            for attribute in node.attribute:
                waiting += (
                    [attribute.g, *attribute.graphs]
                    if attribute.HasField("g")
                    else attribute.graphs
                )
                yield from (
                    (attribute.t, *attribute.tensors)
                    if attribute.HasField("t")
                    else attribute.tensors
                )


def _check_tensor(tensor: Any) -> None:
    import onnx

    name = f"constant {tensor.name[:80]!r}"
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise ModelFileError(f"{name} lies in another file; expected all weights in one file")
    if any(side < 0 for side in tensor.dims):
        raise ModelFileError(f"{name} has the shape {list(tensor.dims)}")
    if tensor.HasField("raw_data"):
        try:
            size = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        except (KeyError, TypeError, ValueError):
            raise ModelFileError(
                f"{name} is of an unknown type of numbers ({tensor.data_type})"
            ) from None
        expected, found = math.prod(tensor.dims) * size, len(tensor.raw_data)
    else:
        expected, found = math.prod(tensor.dims), _typed_values(tensor)
    packed = tensor.data_type in (21, 22, 23)  # numbers of four bits
    if found != expected and not packed:
        raise ModelFileError(f"{name} declares {expected} bytes or values, but holds {found}")


def _typed_values(tensor: Any) -> int:
    fields = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
    held = sum(len(getattr(tensor, field)) for field in fields)
    return held // 2 if tensor.data_type in (14, 15) else held  # complex numbers are pairs


def _check_sizes(model: Any) -> None:
    """Infer shapes: what has a size of its own, whatever the input, must not be huge."""
    import onnx

    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:  # of the library's C++ side
        raise ModelFileError(f"the graph's shapes do not fit: {str(error).strip()[:300]}") from None
    for value in [*inferred.graph.value_info, *inferred.graph.output]:
        sides = [
            dim.dim_value if dim.HasField("dim_value") else None
            for dim in value.type.tensor_type.shape.dim
        ]
        if None not in sides and math.prod(sides) > _MOST_VALUES:
            raise ModelFileError(
                f"{value.name[:80]!r} would hold {math.prod(sides)} values; at most {_MOST_VALUES} pass"
            )
