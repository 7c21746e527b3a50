"""Training loss: the task's loss and distillation from a teacher, in the precision of the run."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from dhp_sr.config.schema import Options
from dhp_sr.config.yaml import parse
from dhp_sr.data.augment import to_tensor
from dhp_sr.data.inputs import TaughtTrainSet, TeacherOutputs
from dhp_sr.deploy import load_model
from dhp_sr.tasks import task_of
from dhp_sr.tasks.test_sets import run_padded
from dhp_sr.training.distributed import DistributedContext
from dhp_sr.utils.devices import resolve_amp
from dhp_sr.utils.errors import UserError
from dhp_sr.zoo.model_zoo import resolve_model
from dhp_sr.zoo.networks import load_file


class TrainingLoss:
    """Loss of a run as a function of a network, in the precision of `train.amp`.

    Attributes:
        teacher: The network to imitate; None before `load_teacher`, and without distillation.
    """

    def __init__(self, options: Options, context: DistributedContext) -> None:
        self.options = options
        self.context = context
        self.task = task_of(options)
        self.task_loss = self.task.build_loss(options.train)
        self.distill = options.compress.distill if options.compress else None
        self.teacher: nn.Module | None = None

    def __call__(
        self,
        forward: Callable[[Tensor], Tensor],
        images: Tensor,
        target: Tensor,
        taught: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss.

        With a teacher it is `weight * distillation loss + task loss`, the latter if wanted.
        The last images of a batch may be mixed with others; no label says what is right there, so
        they count for the distillation alone.

        Args:
            forward: The network.
            images: (N, C, h, w), its input.
            target: Target that its output is compared with.
            taught: The teacher's output, where it was computed before, see
                `teach_whole_images`.

        Returns:
            A scalar.
        """
        if self.teacher is None or self.distill is None:
            return self.task_loss(self._run(forward, images), target)
        images, unmixed = mixup(images, self.distill.mix)
        output = self._run(forward, images)
        # The teacher sees the mixed images, too: there is nothing else to say what is right.
        if taught is None:
            with torch.no_grad():
                taught = self._run(self.teacher, images)
        loss = self.distill.weight * self.task.distillation_loss(output, taught, self.distill)
        # The mean of no images would be nan.
        if unmixed and self.distill.task_loss:
            loss = loss + self.task_loss(output[:unmixed], target[:unmixed])
        return loss

    def load_teacher(self, dense_file: Path | None) -> None:
        """Load the teacher if `compress.distill` asks for one and it is not there yet.

        Args:
            dense_file: The dense network of this run: the teacher unless another file is named;
                None where the run writes no files.

        Raises:
            UserError: The teacher's file is no model, does not fit the images, or there is none.
        """
        if self.distill is None or self.teacher is not None:
            return
        if self.distill.teacher:
            teacher = load_teacher_file(self.distill.teacher, self.options)
        elif dense_file is None:
            raise UserError(
                "compress.distill: expected a file with the dense network as the teacher, got "
                "none; set compress.distill.teacher, or give the run a folder"
            )
        else:
            # From the file, not from memory: a resumed run has nothing else to load it from.
            teacher = self.task.build_network(self.options)
            load_file(teacher, dense_file)
        # In evaluation mode for good: its norms must not follow the batches of the student.
        self.teacher = self.context.to_device(
            teacher.eval().requires_grad_(False), channels_last=self.options.train.channels_last
        )

    @torch.no_grad()
    def teach_whole_images(self, train_set: Dataset, folder: Path) -> None:
        """Let the samples of a training set hold the teacher's output, where options say so.

        A run that sees its images many times asks the teacher for the same pixels again and again.
        Run once over whole images, it costs a step nothing; and along the border of a patch its
        output knows what lies beyond, which makes it the better target there. Noise that is new in
        every patch cannot be taught so.

        Every process computes all outputs: they are the same, and nothing has to be sent.

        Args:
            train_set: Pairs, or inputs alone; options of other sets are refused before.
            folder: Where the outputs take their space, 2 bytes for each value.

        Raises:
            UserError: There is not enough space.

        Reference: labels stored once for a patient student: Shen and Xing, A Fast Knowledge
            Distillation Framework for Visual Recognition, ECCV 2022.
        """
        if self.distill is None or not self.distill.whole_images:
            return
        assert isinstance(train_set, TaughtTrainSet), "checked with the options"
        assert self.teacher is not None, "there is no dense phase before, and it is loaded"
        scale = self.options.scale
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
            lq = to_tensor(image)[None].to(self.context.device)
            taught = run_padded(self.teacher, lq, scale)[0]
            outputs[index][...] = taught.float().cpu().numpy()
        train_set.teacher_outputs = outputs

    def _run(self, forward: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        use_bf16 = self.options.train.amp == "bf16"
        with torch.autocast(self.context.device.type, torch.bfloat16, enabled=use_bf16):
            # A copy: RCAN writes into its input, which the teacher sees next. Losses are computed
            # in float32 whatever the network was.
            return forward(images.clone()).float()


def load_teacher_file(path: str, options: Options) -> nn.Module:
    """Load `compress.distill.teacher`.

    Raises:
        UserError: The file is no model, or its network does not fit the images.
    """
    try:
        file = resolve_model(path)
    except UserError as error:
        raise UserError(f"compress.distill.teacher: {error}") from error
    teacher = load_model(file)
    try:
        task_of(options).check_fit(teacher, "the teacher", options)
    except UserError as error:
        raise UserError(f"compress.distill.teacher: {path} does not fit: {error}") from error
    return teacher


def mixup(images: Tensor, fraction: float) -> tuple[Tensor, int]:
    """Mix the last images of a batch with others of it, each in a proportion of its own.

    Args:
        images: (N, C, h, w).
        fraction: Fraction of the batch, from 0 to 1.

    Returns:
        The images, and how many of them are unmixed; these come first.

    Reference: Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018. With a teacher
        in place of mixed labels: Beyer et al., Knowledge distillation: A good teacher is patient
        and consistent, CVPR 2022.
    """
    unmixed = len(images) - round(fraction * len(images))
    if unmixed == len(images):
        return images, unmixed
    weights = torch.rand(len(images) - unmixed, 1, 1, 1, device=images.device)
    partners = images[torch.randperm(len(images), device=images.device)[unmixed:]]
    mixed = images.clone()  # keeps the memory layout, which torch.cat would not
    mixed[unmixed:] = torch.lerp(partners, images[unmixed:], weights)
    return mixed, unmixed


def with_precision(
    options: Options, context: DistributedContext, stored: Path | None = None
) -> Options:
    """Decide `train.amp: auto` once for the whole run.

    Args:
        options: Options of the run.
        context: Rank 0 decides for all processes.
        stored: Stored options of the run to resume, which keeps the precision it began with.
    """
    amp = options.train.amp
    if amp != "auto":
        return options
    # Another machine may be resumed on, whose processor would decide otherwise; the losses would
    # then differ from those of an uninterrupted run.
    if stored is not None and stored.is_file():
        amp = _stored_precision(stored)
    amp = context.broadcast(lambda: resolve_amp(amp, context.device))
    return options.model_copy(update={"train": options.train.model_copy(update={"amp": amp})})


def _stored_precision(path: Path) -> Literal["none", "bf16"]:
    """Read `train.amp` of the stored options of a run.

    Raises:
        UserError: The file is damaged.
    """
    try:
        earlier, _ = parse(path.read_text(encoding="utf-8"), str(path))
        amp = earlier["train"]["amp"]
    except (UnicodeError, LookupError, TypeError) as error:
        raise UserError(
            f"{path}: expected the options that the run began with, got: {error!r}; copy the file "
            "again, or set train.amp to none or bf16, as the first lines of train.log say"
        ) from error
    if amp not in ("none", "bf16"):
        raise UserError(f"{path}: expected none or bf16 as train.amp, got {amp!r}")
    return amp
