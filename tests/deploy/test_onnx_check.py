"""ONNX files that ask for other files or for too much memory are not opened."""

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
