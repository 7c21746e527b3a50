"""Make image-restoration networks smaller and faster: search, cut, finetune, export."""

import importlib
from os import PathLike
from typing import Any

__version__ = "0.1.0"


def compress(network: Any, images: str | PathLike[str], **settings: Any) -> tuple[Any, Any]:
    """Compress a trained image-restoration network, with itself as the teacher.

        small, report = dhp_sr.compress(network, "photos/", macs=0.5, minutes=30)

    Args:
        network: Maps images (N, C, H, W) to images; left as it was. Any class: one that no model
            file can name is stored as `user:CLASS`.
        images: Folder of images; 20 and more are useful.
        **settings: A single target: `macs`, `params`, `activations` or `latency`, the fraction to
            keep between 0 and 1, or `quality`, the dB that may be lost. And, with their defaults:
            `minutes` (30) for all of it, or `iterations` of finetuning; `truth`, a folder of
            ground truths; `degradation`, `bicubic` or `noise=25` where the images are truths;
            `drawn`, how many drawn images to train on, too (one for seven of the folder's);
            `remove_blocks` (False), whether residual branches may be removed as a whole;
            `runtime`, the program that a latency is measured in (`torch`); `output`, the model
            file; `root`, the folder that `experiments/` is made in (the working
            directory); `seed` (0); `say` (print), which takes lines for the user.

    Returns:
        The small network in evaluation mode, and a report: its file, kept fractions, scores.

    Raises:
        UserError: Network, images, target or time do not allow it.
    """
    # Only now: torch takes seconds to import, and `import dhp_sr` must stay cheap. By name: every
    # module that reads the version would else be said to import the commands.
    service = importlib.import_module("dhp_sr.cli.compress")
    return service.compress(network, images, **settings)
