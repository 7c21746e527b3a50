"""Images in, batches out: super-resolution pairs and noisy images from folders, LMDB and bundled photographs."""

from dhp_sr.data.build import build_train_set, build_val_set
from dhp_sr.data.sampler import train_batches

__all__ = ["build_train_set", "build_val_set", "train_batches"]
