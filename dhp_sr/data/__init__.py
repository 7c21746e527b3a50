"""Images in, batches out.

Start with `build.py`, which makes data sets (`paired.py`, `noise.py`) of the images of
`sources.py`; `classification.py` does the same for labeled images, `sampler.py` makes batches, and
`prepare.py` is behind `scripts/prepare_data.py`.
"""

from dhp_sr.data.build import build_train_set, build_val_set
from dhp_sr.data.sampler import train_batches

__all__ = ["build_train_set", "build_val_set", "train_batches"]
