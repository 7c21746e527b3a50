"""spandrel in a process that never imports dhp_sr: what other programs make of a file."""

import subprocess
import sys

import torch

_PROGRAM = """
import sys
import torch
# torchvision beside a torch without CUDA lacks these operators, which spandrel never calls
library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    try:
        library.define(f"{name}(Tensor a, Tensor b, float c) -> Tensor")
    except RuntimeError:
        pass
from spandrel import ModelLoader
model = ModelLoader().load_from_file(sys.argv[1])
x = torch.load(sys.argv[2], weights_only=True)
with torch.no_grad():
    torch.save(model.model.eval()(x), sys.argv[3])
assert not any(name.startswith("dhp_sr") for name in sys.modules)
print(model.architecture.id)
"""


def run_in_plain_spandrel(file, x, folder):
    """Return the architecture that spandrel finds in a file, and its result for an input."""
    torch.save(x, folder / "x.pt")
    arguments = [str(file), str(folder / "x.pt"), str(folder / "y.pt")]
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *arguments], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), torch.load(folder / "y.pt", weights_only=True)
