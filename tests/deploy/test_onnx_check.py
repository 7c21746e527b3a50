"""ONNX files that ask for other files or for too much memory are not opened."""

import itertools

import pytest

from dhp_sr.deploy import ModelFileError
from dhp_sr.deploy.onnx_check import check_onnx, write_with_checksum

onnx = pytest.importorskip("onnx")
TensorProto = pytest.importorskip("onnx").TensorProto


def model(*nodes, constants=(), output="y"):
    helper = onnx.helper
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    made = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    graph = helper.make_graph(list(nodes), "g", [given], [made], initializer=list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def constant(name, values, dims=None):
    tensor = onnx.helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
    if dims is not None:
        tensor.dims[:] = dims
    return tensor


def refusal(built, path):
    path.write_bytes(built.SerializeToString())
    with pytest.raises(ModelFileError) as error:
        check_onnx(path)
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.onnx"


def add(name="c"):
    return onnx.helper.make_node("Add", ["x", name], ["y"])


def test_a_plain_file_passes(path):
    built = model(onnx.helper.make_node("Relu", ["x"], ["y"]))
    path.write_bytes(built.SerializeToString())
    check_onnx(path)
    write_with_checksum(built, {"format": "dhp_sr"}, path)
    check_onnx(path)


def test_weights_in_another_file(path):
    tensor = onnx.helper.make_tensor("c", TensorProto.FLOAT, [1], [0.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    assert "constant 'c' lies in another file" in refusal(model(add(), constants=[tensor]), path)


@pytest.mark.parametrize("dims", [[2**40], [-1], [2**20, 2**20]])
def test_shapes_that_the_file_does_not_hold(path, dims):
    assert "constant 'c'" in refusal(model(add(), constants=[constant("c", [1, 2], dims)]), path)


def test_constants_that_would_fill_the_memory(path):
    fill = onnx.helper.make_node("ConstantOfShape", ["s"], ["c"])
    message = refusal(model(fill, add(), constants=[constant("s", [2**20, 2**20])]), path)
    assert "would hold 1099511627776 values" in message


def test_constants_inside_branches(path):
    inner = onnx.helper.make_tensor("c", TensorProto.FLOAT, [1], [0.0])
    inner.dims[:] = [2**33]
    made = [onnx.helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    branch = onnx.helper.make_graph(
        [onnx.helper.make_node("Constant", [], ["z"], value=inner)], "b", [], made
    )
    node = onnx.helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    assert "constant 'c' declares 8589934592" in refusal(model(node), path)


def fill(shape="s"):
    """A node that makes a value of a constant shape, and its sum."""
    helper = onnx.helper
    return [
        helper.make_node("ConstantOfShape", [shape], ["filled"]),
        helper.make_node("ReduceSum", ["filled"], ["z"], keepdims=0),
    ]


def test_values_inside_branches_that_would_fill_the_memory(path):
    made = [onnx.helper.make_tensor_value_info("z", TensorProto.FLOAT, [])]
    shape = constant("s", [2**20, 2**20])
    branch = onnx.helper.make_graph(fill(), "b", [], made, initializer=[shape])
    node = onnx.helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    condition = onnx.helper.make_tensor("c", TensorProto.BOOL, [], [True])
    built = model(node, add("z"), constants=[condition])
    assert "would hold 1099511627776 values" in refusal(built, path)


def function(name, nodes):
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("own", 1)]
    return onnx.helper.make_function("own", name, ["x"], ["y"], nodes, opsets)


def with_functions(functions, called):
    built = model(onnx.helper.make_node(called, ["x"], ["y"], domain="own"))
    built.opset_import.append(onnx.helper.make_opsetid("own", 1))
    built.functions.extend(functions)
    return built


def test_values_inside_functions_that_would_fill_the_memory(path):
    shape = onnx.helper.make_node("Constant", [], ["s"], value=constant("s", [2**20, 2**20]))
    built = with_functions([function("fill", [shape, *fill(), add("z")])], "fill")
    assert "would hold 1099511627776 values" in refusal(built, path)


def calls(*names):
    """Nodes that call functions one after the other."""
    values = ["x", *(f"v{number}" for number in range(1, len(names))), "y"]
    nodes = []
    for name, (before, after) in zip(names, itertools.pairwise(values), strict=True):
        nodes.append(onnx.helper.make_node(name, [before], [after], domain="own"))
    return nodes


def test_functions_that_double_at_each_level(path):
    functions = [function("f0", [onnx.helper.make_node("Relu", ["x"], ["y"])])]
    for level in range(1, 40):
        functions.append(function(f"f{level}", calls(f"f{level - 1}", f"f{level - 1}")))
    assert "at most 100000 operations" in refusal(with_functions(functions, "f39"), path)
    small = with_functions(functions[:4], "f3")
    path.write_bytes(small.SerializeToString())
    check_onnx(path)


def test_functions_that_call_each_other(path):
    functions = [function("f", calls("g")), function("g", calls("f"))]
    assert "in a circle" in refusal(with_functions(functions, "f"), path)


def test_damage_of_our_own_files(path):
    write_with_checksum(model(add(), constants=[constant("c", [1, 2])]), {"format": "dhp_sr"}, path)
    content = path.read_bytes()
    for damaged in (
        content.replace(b"dhp_sr_sha256", b"dhp_sr_sha255"),
        content.replace(b"Add", b"Sub"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError, match="the file is damaged"):
            check_onnx(path)


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "with a graph"), (b"text", "that can be read")]
)
def test_other_files(path, content, message):
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=message):
        check_onnx(path)
    for other in (path.parent, path.with_name("none.onnx")):
        with pytest.raises(ModelFileError, match=r"is a folder|no such file"):
            check_onnx(other)
