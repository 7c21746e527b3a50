"""The teacher's outputs on whole training images, computed once instead of patch by patch.

A run that sees its images many times asks the teacher for the same pixels again and again. Run
once over whole images, it costs a step nothing; and along the border of a patch its output knows
what lies beyond, which makes it the better target there. Noise that is new in every patch cannot be
taught so.

Reference: labels stored once for a patient student: Shen and Xing, A Fast Knowledge Distillation
    Framework for Visual Recognition, ECCV 2022.
"""

from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm

from dhp_sr.data.augment import to_tensor
from dhp_sr.data.teacher_outputs import TaughtTrainSet, TeacherOutputs
from dhp_sr.tasks.test_sets import run_padded
from dhp_sr.training.distributed import DistributedContext


@torch.no_grad()
def teach_whole_images(
    train_set: Dataset, teacher: nn.Module, scale: int, context: DistributedContext, folder: Path
) -> None:
    """Let the samples of a training set hold the teacher's output, as `taught`.

    Every process computes all outputs: they are the same, and nothing has to be sent.

    Args:
        train_set: Of pairs, or of inputs alone; options of other sets are refused before.
        teacher: In evaluation mode, on the device of the run.
        scale: Enlargement.
        context: Device of the run.
        folder: Where the outputs take their space, 2 bytes for each value.

    Raises:
        UserError: There is not enough space.
    """
    assert isinstance(train_set, TaughtTrainSet), "checked with the options"
    shapes = []
    for image in train_set.whole_inputs():
        channels, height, width = image.shape
        shapes.append((channels, height * scale, width * scale))
    outputs = TeacherOutputs(shapes, folder)
    images = tqdm(
        train_set.whole_inputs(),
        desc="Teacher on whole images",
        total=len(outputs),
        unit="image",
        disable=None,
        leave=False,
    )
    for index, image in enumerate(images):
        lq = to_tensor(image)[None].to(context.device)
        outputs[index][...] = run_padded(teacher, lq, scale)[0].float().cpu().numpy()
    train_set.teacher_outputs = outputs
