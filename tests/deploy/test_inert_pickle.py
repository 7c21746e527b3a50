"""deploy/inert_pickle.py: tensors among objects of other programs, none of which is made."""

import argparse
import collections
import pickle
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dhp_sr.deploy import ModelFileError, load_weights

MODULE = "program_elsewhere"
SOURCE = """
import pathlib
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.utils.spectral_norm(nn.Conv2d(3, 4, 3))
        self.body = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())
        self.scale = nn.Parameter(torch.rand(2))
        self.register_buffer("window", torch.ones(2), persistent=False)
        self.register_buffer("mean", torch.rand(3))

class Trace:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return leave_trace, (self.path,)

def leave_trace(path):
    pathlib.Path(path).mkdir()
"""


@pytest.fixture
def program():
    """A program's module; gone when it ends, as it is not installed where weights are read."""
    module = types.ModuleType(MODULE)
    sys.modules[MODULE] = module
    exec(SOURCE, module.__dict__)
    yield module
    sys.modules.pop(MODULE, None)


def load_elsewhere(path):
    sys.modules.pop(MODULE, None)
    weights = load_weights(path)
    assert MODULE not in sys.modules
    return weights


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


WHOLE = {
    "network": lambda network: network,
    "DataParallel": nn.DataParallel,
    "in a checkpoint": lambda network: {
        "epoch": 3,
        "model": network,
        "optimizer": torch.optim.Adam(network.parameters()),
    },
}


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code:UserWarning")
@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("zipped", [True, False])
def test_whole_networks(program, tmp_path, kind, zipped):
    network = program.Net()
    content = WHOLE[kind](network)
    torch.save(content, tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)
    assert same(load_elsewhere(tmp_path / "net.pth"), network.state_dict())


def test_things_beside_the_weights(program, tmp_path):
    weights = program.Net().state_dict()
    content = {
        "state_dict": weights,
        "args": argparse.Namespace(folder=Path("runs"), network=program.Net, act=nn.ReLU),
        "best_psnr": np.float64(31.5),
        "history": np.arange(3),
        "losses": collections.defaultdict(list, {"l1": [0.5]}),
        "steps": {1, 2},
    }
    for protocol in (2, 4):
        sys.modules[MODULE] = program
        torch.save(content, tmp_path / "net.pth", pickle_protocol=protocol)
        assert same(load_elsewhere(tmp_path / "net.pth"), weights)


def test_weights_in_a_dictionary_of_another_kind(tmp_path):
    weights = nn.Linear(2, 3).state_dict()
    torch.save(collections.defaultdict(int, weights), tmp_path / "net.pth")
    assert same(load_weights(tmp_path / "net.pth"), weights)


def test_functions_of_other_programs_are_not_called(program, tmp_path):
    weights = program.Net().state_dict()
    content = {"params": weights, "hook": program.Trace(str(tmp_path / "trace"))}
    torch.save(content, tmp_path / "net.pth")
    # The function is there to be called.
    assert same(load_weights(tmp_path / "net.pth"), weights)
    assert not (tmp_path / "trace").exists()
    torch.load(tmp_path / "net.pth", weights_only=False)
    assert (tmp_path / "trace").exists()


def test_an_object_in_place_of_weights_is_named(program, tmp_path):
    torch.save(program.Trace("x"), tmp_path / "net.pth")
    with pytest.raises(ModelFileError, match=r"program_elsewhere\.leave_trace"):
        load_elsewhere(tmp_path / "net.pth")
    torch.save({"a": torch.zeros(1), "b": argparse.Namespace(a=1)}, tmp_path / "net.pth")
    with pytest.raises(ModelFileError, match="something else at b"):
        load_weights(tmp_path / "net.pth")


def doubled(num_levels):
    """Modules each of which holds the next one twice: 2^num_levels names."""
    module = nn.Sequential(nn.Linear(1, 1))
    for _ in range(num_levels):
        module = nn.Sequential(module, module)
    return module


def in_itself():
    module = nn.Sequential(nn.Linear(1, 1))
    module._modules["again"] = module
    return module


@pytest.mark.parametrize("make", [lambda: doubled(60), in_itself], ids=["doubled", "in itself"])
def test_modules_that_hold_one_another(tmp_path, make):
    torch.save(make(), tmp_path / "net.pth")
    with pytest.raises(ModelFileError, match="modules that hold one another"):
        load_weights(tmp_path / "net.pth")


def test_a_number_that_asks_for_memory(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "net.pth")
    huge = b"\x80\x02}" + pickle.LONG_BINPUT + b"\xff\xff\xff\x7f."
    with (
        zipfile.ZipFile(tmp_path / "net.pth") as old,
        zipfile.ZipFile(tmp_path / "huge.pth", "w") as new,
    ):
        for entry in old.infolist():
            is_pickle = entry.filename.endswith("data.pkl")
            new.writestr(entry.filename, huge if is_pickle else old.read(entry))
    with pytest.raises(ModelFileError, match="2147483647"):
        load_weights(tmp_path / "huge.pth")
