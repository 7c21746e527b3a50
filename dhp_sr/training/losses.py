"""What training makes small: the task's loss, and the distance from a teacher."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from dhp_sr.config.schema import Options
from dhp_sr.tasks.registry import task_of
from dhp_sr.training.distributed import DistributedContext
from dhp_sr.training.search_setup import open_teacher
from dhp_sr.zoo.networks import load_file


class Objective:
    """The loss of a run as a function of a network, in the precision that `train.amp` asks for.

    Attributes:
        teacher: The network to imitate; None before `meet_teacher`, and where `compress.distill` is not set.
    """

    def __init__(self, options: Options, place: DistributedContext) -> None:
        self.options, self.place = options, place
        self.task = task_of(options)
        self.loss = self.task.build_loss(options.train)
        self.teacher: nn.Module | None = None

    def __call__(
        self, forward: Callable[[Tensor], Tensor], images: Tensor, truth: Tensor
    ) -> Tensor:
        """Return the loss, a scalar.

        Args:
            forward: the network.
            images: (N, C, h, w).
            truth: what the output is compared with.
        """
        if self.teacher is None:
            return self.loss(self._computed(forward, images), truth)
        distill = self.options.compress.distill
        images, alone = mixed(images, distill.mix)
        output = self._computed(forward, images)
        with torch.no_grad():
            target = self._computed(self.teacher, images)
        loss = distill.weight * self.task.distance(output, target, distill)
        return loss + self.loss(output[:alone], truth[:alone]) if alone else loss

    def meet_teacher(self, dense_file: Path) -> None:
        """Load the teacher, where `compress.distill` wants one and there is none yet.

        Args:
            dense_file: the dense network of this run, the teacher unless another file is named.

        Raises:
            UserError: the teacher's file is no model, or one for other images.
        """
        distill = self.options.compress.distill
        if distill is None or self.teacher is not None:
            return
        if distill.teacher:
            teacher = open_teacher(distill.teacher, self.options)
        else:
            teacher = self.task.build_network(self.options)
            load_file(teacher, dense_file)
        self.teacher = self.place.to_device(
            teacher.eval().requires_grad_(False), channels_last=self.options.train.channels_last
        )

    def _computed(self, forward: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        bf16 = self.options.train.amp == "bf16"
        with torch.autocast(self.place.device.type, torch.bfloat16, enabled=bf16):
            return forward(images).float()


def mixed(images: Tensor, part: float) -> tuple[Tensor, int]:
    """Mix the last images of a batch with others of it, each by a share of its own.

    Args:
        images: (N, C, h, w).
        part: of the batch, from 0 to 1.

    Returns:
        The images, and how many of them are as they were; these come first.

    Reference: Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018. With a teacher in place of mixed
        labels: Beyer et al., Knowledge distillation: A good teacher is patient and consistent, CVPR 2022.
    """
    alone = len(images) - round(part * len(images))
    if alone == len(images):
        return images, alone
    share = torch.rand(len(images) - alone, 1, 1, 1, device=images.device)
    others = images[torch.randperm(len(images), device=images.device)[alone:]]
    found = images.clone()
    found[alone:] = torch.lerp(others, images[alone:], share)
    return found, alone
