"""Programs of torch.export: the same numbers at any size, and nothing left behind when they are
not.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dhp_sr.deploy import pt2_export
from dhp_sr.deploy.pt2_export import METADATA, export_pt2
from dhp_sr.utils.errors import UserError

from .conftest import ROWS, cut_network


@pytest.mark.parametrize("name", ROWS)
def test_cut_networks_give_the_same_numbers_at_any_size(name, tmp_path):
    network = cut_network(name)
    more = getattr(network, "input_size", 0)
    path, shape = tmp_path / "small.pt2", (1, network.in_channels, more + 16, more + 24)
    if name == "RLFN":  # whose attention has sizes that torch.export cannot keep free
        with pytest.raises(UserError, match=r"torch\.export"):
            export_pt2(network, path, shape)
        assert not path.exists()
        return
    found = export_pt2(network, path, shape, metadata={"scale": "2"})
    assert found.largest <= 1e-6 and [entry.name for entry in tmp_path.iterdir()] == ["small.pt2"]
    stored = {METADATA: ""}
    module = torch.export.load(path, extra_files=stored).module()
    assert json.loads(stored[METADATA]) == {"scale": "2"}
    for batch, height, width in ((1, 17, 27), (4, 20, 16)):
        x = torch.rand(batch, network.in_channels, more + height, more + width)
        expected = network(x).detach()
        torch.testing.assert_close(
            module(x), expected, rtol=0, atol=1e-6 * max(1, float(expected.abs().max()))
        )


def test_half(tmp_path):
    network = cut_network("DnCNN")
    assert 0 < export_pt2(network, tmp_path / "half.pt2", (1, 1, 8, 12), half=True).largest < 1e-2
    module = torch.export.load(tmp_path / "half.pt2").module()
    assert module(torch.rand(1, 1, 9, 5).half()).dtype == torch.float16
    assert next(network.parameters()).dtype == torch.float32


def test_a_program_that_computes_something_else_is_not_kept(tmp_path, monkeypatch):
    real = pt2_export.export_program

    def forgets(network, *rest):
        network.model[-1].bias += 1
        return real(network, *rest)

    monkeypatch.setattr(pt2_export, "export_program", forgets)
    path = tmp_path / "wrong.pt2"
    path.write_bytes(b"an older file")
    with pytest.raises(UserError, match=r"not written: .*0\.0001"):
        export_pt2(cut_network("DnCNN"), path, (1, 1, 8, 12))
    assert [entry.name for entry in tmp_path.iterdir()] == [
        "wrong.pt2"
    ] and path.read_bytes() == b"an older file"


def test_what_cannot_be_followed_is_named(tmp_path):
    class Branches(torch.nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(UserError, match="Branches"):
        export_pt2(Branches(), tmp_path / "branches.pt2", (1, 1, 8, 8))
    with pytest.raises(UserError, match="multiples of 4"):
        export_pt2(cut_network("DnCNN"), tmp_path / "x.pt2", (1, 1, 10, 8), size_multiple=4)
    assert not list(tmp_path.iterdir())


FULL_DISK = """
import resource, sys
from pathlib import Path
from dhp_sr.archs import build
from dhp_sr.deploy.pt2_export import export_pt2
from dhp_sr.utils.errors import exit_code
network = build("DnCNN", num_in_ch=1, num_feat=32, num_layers=4)
def export():
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    export_pt2(network, Path(sys.argv[1]), (1, 1, 16, 16))
sys.exit(exit_code(export))
"""


@pytest.mark.slow
def test_a_full_disk_ends_with_a_message(tmp_path):
    """A limit on the size of files stands for the disk; torch's own writer would abort (134)."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "x.pt2")],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "x.pt2" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not list(tmp_path.iterdir())
