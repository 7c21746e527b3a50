"""Networks by name, and arguments of constructors on the command line."""

import subprocess
import sys
from pathlib import Path

import pytest
from basicsr_modules import from_basicsr

from dhp_sr.archs import EDSR
from dhp_sr.utils.errors import UserError
from dhp_sr.zoo.names import build_named, full_name, named_arguments


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
