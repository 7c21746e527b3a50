"""Types as those see them who call us."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
USES = """
import torch
from torch import Tensor, nn

from dhp_sr.archs import EDSR
from dhp_sr.deploy import load_model, read_manifest, save_model
from dhp_sr.hyper import ChannelPlan, HyperNet, convert
from dhp_sr.allocation.budget import BudgetReport
from dhp_sr.channels.plan import Group

hyper: HyperNet = convert(EDSR(num_feat=16), torch.rand(1, 3, 16, 16), parametrisation="factored")
plan: ChannelPlan = hyper.plan
groups: tuple[Group, ...] = plan.groups
name: str = groups[0].name
width: int = groups[0].width
macs: float = hyper.cost().macs
report: BudgetReport = hyper.prune_to(macs=0.5, tolerance=0.01, round_to=8)
small: nn.Module = hyper.cut()
save_model(small, "x.safetensors", macs=1, macs_input=[1, 3, 8, 8])
again: nn.Module = load_model("x.safetensors")
manifest: dict[str, object] = read_manifest("x.safetensors")
"""


@pytest.mark.slow
def test_a_strict_program_and_every_signature(tmp_path):
    (tmp_path / "uses.py").write_text(USES)
    (tmp_path / "wrong.py").write_text(
        "from dhp_sr.deploy import load_model\nname: str = load_model(3)\n"
    )
    checker = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache")]
    for arguments, expected in (
        (["--strict", "--follow-imports=silent", str(tmp_path / "uses.py")], 0),
        (["--config-file=", "--follow-imports=silent", str(tmp_path / "wrong.py")], 1),
        ([], 0),
    ):
        done = subprocess.run(
            [*checker, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == expected, done.stdout + done.stderr
