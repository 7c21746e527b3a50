"""Checks of an ONNX file before onnxruntime opens it, and the checksum of dhp_sr's files.

onnxruntime opens other files that a model names, and computes constants while loading; a few
bytes can ask for any amount of memory. So a model may refer to nothing outside itself, and hold no
more than it declares.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dhp_sr.deploy.safetensors_io import ModelFileError, check_is_file

if TYPE_CHECKING:
    import onnx

CHECKSUM = "dhp_sr_sha256"
"""Metadata key of our files: SHA-256 of the file's bytes, with zeros in place of the checksum."""

_BLANK = "0" * 64
MAX_FILE_BYTES = 2**31 - 1
"""Limit of protobuf, for a model with its weights."""

MAX_VALUES = 2**28
"""Limit of a tensor whose size does not depend on the input."""

_MAX_NODES = 100_000
_MAX_FUNCTIONS = 1000
_Name = tuple[str, str]
"""Domain and name of an operator or a function."""

_PACKED_TYPES = (21, 22, 23)
"""Numbers of four bits: two of them share a byte."""

_COMPLEX_TYPES = (14, 15)


def write_with_checksum(
    model: "onnx.ModelProto", metadata: Mapping[str, str], path: str | Path
) -> None:
    """Write a model with its metadata and a checksum.

    Args:
        model: Its metadata is replaced.
        metadata: Texts by key.
        path: The file.

    Raises:
        OSError: The file cannot be written.
    """
    del model.metadata_props[:]
    for key, value in {**metadata, CHECKSUM: _BLANK}.items():
        model.metadata_props.add(key=key, value=value)
    # The blank has the length of a checksum, so filling it in moves no other byte.
    content = model.SerializeToString()
    Path(path).write_bytes(_with_checksum(content, _BLANK, _sha256(content)))


def check_onnx(path: str | Path) -> None:
    """Check a file without running it.

    Raises:
        ModelFileError: There is no such file, it is no ONNX file, is damaged, refers to other
            files or needs too much memory.
    """
    path = Path(path)
    try:
        check_is_file(path)
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ModelFileError(f"expected at most {MAX_FILE_BYTES} bytes, got {size}")
        content = path.read_bytes()
        model = parse_onnx(content)
        verify_onnx_checksum(model, content)
        check_graphs(model)
        check_static_sizes(model)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error


def parse_onnx(content: bytes) -> "onnx.ModelProto":
    """Parse a model without loading files that it refers to.

    Raises:
        ModelFileError: The bytes are no ONNX model.
    """
    import onnx

    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:
        # protobuf's exception classes differ between its implementations.
        raise ModelFileError(
            f"expected an ONNX file that can be read, got damaged or other content: {error}"
        ) from None
    # protobuf reads almost any bytes as an empty message.
    if not model.graph.node or not model.graph.input:
        raise ModelFileError(
            "expected an ONNX file with a graph, got another kind of file or a damaged file"
        )
    for entry in model.metadata_props:
        # Invalid UTF-8 arrives as bytes.
        if not isinstance(entry.key, str) or not isinstance(entry.value, str):
            raise ModelFileError("the file is damaged: its metadata is no text")
    return model


def verify_onnx_checksum(model: "onnx.ModelProto", content: bytes) -> None:
    """Compare the checksum of dhp_sr's files; those of other programs have none."""
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    # A file that calls itself ours must have one: damage may have hit the key itself.
    if CHECKSUM not in metadata and metadata.get("format") != "dhp_sr":
        return
    stated = metadata.get(CHECKSUM, "")
    valid = len(stated) == len(_BLANK)
    if not valid or _sha256(_with_checksum(content, stated, _BLANK)) != stated:
        raise ModelFileError(
            "the file is damaged: its content is not that of its checksum; export or copy it again"
        )


def _with_checksum(content: bytes, old: str, new: str) -> bytes:
    # The last occurrence: metadata comes after the graph, and a graph may hold 64 zeros.
    start = content.rfind(old.encode())
    return content[:start] + new.encode() + content[start + len(old) :]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def check_graphs(model: "onnx.ModelProto") -> None:
    """Check every constant and the number of operations.

    Raises:
        ModelFileError: A constant lies elsewhere or lies about its size, or there are too many
            operations.
    """
    import onnx

    for item in nodes_and_constants(model):
        if isinstance(item, onnx.TensorProto):
            check_constant(item)
    check_calls(model)


def nodes_and_constants(
    model: "onnx.ModelProto",
) -> Iterator["onnx.NodeProto | onnx.TensorProto"]:
    """Yield all nodes and constants, those of inner graphs and functions included."""
    for graph in _with_inner_graphs(model.graph, *model.functions):
        yield from getattr(graph, "initializer", ())
        for sparse in getattr(graph, "sparse_initializer", ()):
            yield sparse.values
            yield sparse.indices
        for node in graph.node:
            yield node
            for attribute in node.attribute:
                yield from attribute.tensors
                if attribute.HasField("t"):
                    yield attribute.t


def _with_inner_graphs(
    *graphs: "onnx.GraphProto | onnx.FunctionProto",
) -> Iterator["onnx.GraphProto | onnx.FunctionProto"]:
    """Yield graphs, and all branches and bodies of loops inside them."""
    waiting = list(graphs)
    # A loop rather than recursion: a file may nest graphs deeper than Python's stack.
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                waiting += attribute.graphs
                if attribute.HasField("g"):
                    waiting.append(attribute.g)


def check_calls(model: "onnx.ModelProto") -> None:
    """Check the number of operations with the functions written out at every call.

    Functions that call each other twice double it at each level: thirty of them are a billion.

    Raises:
        ModelFileError: There are too many, or functions call each other in a circle.
    """
    if len(model.functions) > _MAX_FUNCTIONS:
        raise ModelFileError(
            f"expected at most {_MAX_FUNCTIONS} functions, got {len(model.functions)}"
        )
    waiting: dict[_Name, Counter[_Name]] = {}
    for function in model.functions:
        # Two of the same name count together: which of them is called, a runtime decides.
        name = (function.domain, function.name)
        waiting.setdefault(name, Counter()).update(_called(function))
    sizes: dict[_Name, int] = {}
    while waiting:
        ready = [name for name, called in waiting.items() if not called.keys() & waiting.keys()]
        if not ready:
            raise ModelFileError("the functions of the graph call each other in a circle")
        for name in ready:
            sizes[name] = _num_operations(waiting.pop(name), sizes)
    _num_operations(_called(model.graph), sizes)


def _called(graph: "onnx.GraphProto | onnx.FunctionProto") -> "Counter[_Name]":
    """Count the nodes of a graph by the operator or function that they call."""
    counts: Counter[_Name] = Counter()
    for inner in _with_inner_graphs(graph):
        counts.update((node.domain, node.op_type) for node in inner.node)
    return counts


def _num_operations(called: "Counter[_Name]", sizes: Mapping[_Name, int]) -> int:
    """Return the number of operations, of functions those inside; check it."""
    total = sum(count * sizes.get(name, 1) for name, count in called.items())
    if total > _MAX_NODES:
        raise ModelFileError(f"expected at most {_MAX_NODES} operations, got {total}")
    return total


def check_constant(tensor: "onnx.TensorProto") -> None:
    """Check that a constant lies in the file and has as many values as it declares."""
    import onnx

    name = f"constant {tensor.name[:80]!r}"
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise ModelFileError(f"{name} lies in another file; expected all weights in this file")
    if any(side < 0 for side in tensor.dims):
        raise ModelFileError(f"{name} has the shape {list(tensor.dims)}")
    declared = math.prod(tensor.dims)
    # Values are stored as raw bytes, or as typed numbers in a field for each type.
    if tensor.HasField("raw_data"):
        try:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        except (KeyError, TypeError, ValueError):
            raise ModelFileError(
                f"{name} is of an unknown type of numbers ({tensor.data_type})"
            ) from None
        declared *= dtype.itemsize
        held = len(tensor.raw_data)
    else:
        held = sum(len(getattr(tensor, field)) for field in _TYPED_FIELDS)
        if tensor.data_type in _COMPLEX_TYPES:  # stored as pairs
            held //= 2
    if held != declared and tensor.data_type not in _PACKED_TYPES:
        raise ModelFileError(f"{name} declares {declared} bytes or values, but holds {held}")


_TYPED_FIELDS = (
    "float_data",
    "int32_data",
    "string_data",
    "int64_data",
    "double_data",
    "uint64_data",
)


def check_static_sizes(model: "onnx.ModelProto") -> None:
    """Check that no value whose size is independent of the input is huge.

    Values inside branches, loops and functions are checked as well.
    """
    import onnx
    from onnx import inliner

    try:
        if model.functions:
            model = inliner.inline_local_functions(model)
        # With data propagation: sizes may be computed from constants by a chain of nodes.
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:
        # The library's C++ side raises exceptions without a common base class.
        reason = str(error).strip()[:300]
        raise ModelFileError(f"the graph's shapes do not fit: {reason}") from None
    values: list[onnx.ValueInfoProto] = []
    for graph in _with_inner_graphs(inferred.graph):
        values += graph.value_info
        values += getattr(graph, "output", ())
    for value in values:
        dims = value.type.tensor_type.shape.dim
        if not all(dim.HasField("dim_value") for dim in dims):
            continue
        num_values = math.prod(dim.dim_value for dim in dims)
        if num_values > MAX_VALUES:
            raise ModelFileError(
                f"{value.name[:80]!r} would hold {num_values} values; at most {MAX_VALUES} pass"
            )
