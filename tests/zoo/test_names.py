"""Networks by name, and arguments of constructors on the command line."""

import subprocess
import sys
from pathlib import Path

import pytest
from basicsr_modules import from_basicsr

from dhp_sr.archs import EDSR
from dhp_sr.config.schema import Network
from dhp_sr.deploy import model_info, register
from dhp_sr.utils.errors import UserError
from dhp_sr.zoo import names
from dhp_sr.zoo.names import build_named, full_name, named_arguments, register_known
from dhp_sr.zoo.networks import plain_type


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("EDSR", "EDSR"),
        ("RCAN", "basicsr:RCAN"),
        ("SRVGGNetCompact_basicsr", "basicsr:SRVGGNetCompact"),
        ("torchvision:resnet18", "torchvision:resnet18"),
    ],
)
def test_names_in_files(name, expected):
    assert full_name(name) == expected


def test_our_own_table_comes_first():
    assert type(build_named("EDSR", {"num_feat": 4, "num_block": 1})) is EDSR


def test_basicsr_by_name():
    from_basicsr("archs")
    theirs = build_named("basicsr:EDSR", {"num_in_ch": 3, "num_out_ch": 3, "num_block": 1})
    assert type(theirs) is not EDSR and type(theirs).__name__ == "EDSR"


@pytest.mark.parametrize(
    ("name", "fact"), [("basicsir:EDSR", "'basicsr'"), ("torchvision:resnet19", "'resnet18'")]
)
def test_unknown_names_suggest_the_nearest(name, fact):
    with pytest.raises(UserError, match=fact):
        build_named(name, {})


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("torchvision:resnet18", {"num_clases": 10}),
        ("torchvision:resnet18", {"num_classes": -1}),
        ("basicsr:SRVGGNetCompact", {"num_in_ch": 3, "num_out_ch": 3, "act_type": "gelu"}),
        ("SRVGGNetCompact", {"num_in_ch": 3, "num_out_ch": 3, "num_feat": -3}),
        ("spandrel:Compact.SRVGGNetCompact", {"act_type": "gelu"}),
        ("test:Odd", {"stages": 5}),
    ],
)
def test_whatever_a_constructor_raises_is_the_users_mistake(name, arguments, monkeypatch):
    def odd(stages):
        return {}[stages]

    monkeypatch.setattr(model_info, "CONSTRUCTORS", dict(model_info.CONSTRUCTORS))
    monkeypatch.setattr(names, "CONSTRUCTORS", model_info.CONSTRUCTORS)
    register_known()  # as every command does: model files may name these networks, too
    register("test:Odd", odd)
    with pytest.raises(UserError) as caught:
        build_named(name, arguments)
    assert name.rpartition(":")[2] in str(caught.value)
    assert all(key in str(caught.value) for key in arguments)


def test_the_class_of_a_user_raises_what_it_likes(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, kind='plain'):\n"
        "        super().__init__()\n"
        "        self.kind = {'plain': 1}[kind]\n"
    )
    assert build_named(f"{path}:Net", {}).kind == 1
    wrong = [{"kind": "odd"}, {"value_shift": 0.5}, {"value_shift": ["a"]}, {"value_scale": "255"}]
    for arguments in wrong:
        (key,) = arguments
        with pytest.raises(UserError, match=key):
            build_named(f"{path}:Net", arguments)


@pytest.mark.parametrize("statement", ["raise SystemExit(0)", "import sys; sys.exit('usage')"])
def test_a_file_of_the_user_that_ends_the_program(tmp_path, statement):
    path = tmp_path / "script.py"
    path.write_text(f"{statement}\n")
    with pytest.raises(UserError, match=r"script\.py.*SystemExit"):
        build_named(f"{path}:Net", {})


@pytest.mark.parametrize("network", [5, {"type": 5}, {"type": ["EDSR"]}, {}])
def test_the_network_behind_hyper_is_named_by_text(network):
    with pytest.raises(UserError, match=r"network_g: .*type: NAME"):
        plain_type(Network(type="Hyper", network=network))


def test_arguments_are_yaml():
    texts = ["num_feat=8", "rgb_mean=[0.1, 0.2]", "norm=null", "name=a=b"]
    expected = {"num_feat": 8, "rgb_mean": [0.1, 0.2], "norm": None, "name": "a=b"}
    assert named_arguments(texts) == expected
    for text in ("num_feat", "=3", "a b=3"):
        with pytest.raises(UserError, match=text):
            named_arguments([text])


WITHOUT_PACKAGES = """
import sys
from importlib.machinery import PathFinder

class Hidden(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = ("basicsr", "torchvision")
        return None if name in hidden else super().find_spec(name, path, target)

sys.meta_path[:] = [Hidden if finder is PathFinder else finder for finder in sys.meta_path]
from dhp_sr.utils.errors import UserError
from dhp_sr.zoo.names import build_named
for name in ("EDRS", "torchvision:resnet18"):
    try:
        build_named(name, {})
    except UserError as error:
        print(error)
"""


def test_names_of_packages_that_are_not_installed():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGES],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    unknown, torchvision = done.stdout.splitlines()
    assert "did you mean 'EDSR'?" in unknown and "is not installed" in unknown
    assert "torchvision is not installed: pip install 'dhp_sr[train]'" in torchvision
