"""The section `compress`: what to keep of the dense network, and how it is found."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Discriminator, Field, Tag, create_model, field_validator, model_validator

from dhp_sr.config.section import Fraction, NotNegative, Positive, Scheduler, Section, changed
from dhp_sr.utils.cost_kinds import COST_KINDS
from dhp_sr.utils.devices import MAX_THREADS, RuntimeName
from dhp_sr.utils.methods import METHODS, MethodName
from dhp_sr.utils.strict_json import JsonObject


class _Target(Section):
    """`compress.target`: a single cost kind, and the fraction of its dense cost to keep."""

    @model_validator(mode="after")
    def exactly_one(self) -> "_Target":
        """Refuse no budget and two budgets."""
        given = [key for key, value in self if value is not None]
        if len(given) != 1:
            kinds = ", ".join(COST_KINDS)
            raise ValueError(
                f"expected exactly one of {kinds}, got {' and '.join(given) or 'none'}"
            )
        return self

    @property
    def kind(self) -> str:
        """Cost kind, a key of `COST_KINDS`."""
        return next(key for key, value in self if value is not None)

    @property
    def keep_ratio(self) -> float:
        """Fraction of the dense network's cost to keep."""
        return getattr(self, self.kind)

    @property
    def label(self) -> str:
        """Short form for file names, such as `macs0.5`."""
        return f"{self.kind}{self.keep_ratio:g}"


if TYPE_CHECKING:
    Target = _Target
else:
    # The keys are the cost kinds of the table, so that a new kind needs nothing here.
    Target = create_model(
        "Target",
        __base__=_Target,
        __module__=__name__,
        __doc__=_Target.__doc__,
        **{kind: (Fraction | None, None) for kind in COST_KINDS},
    )


# Discriminated by hand: of an untagged union, pydantic reports the mistakes of both forms.
Targets = Annotated[
    Annotated[Target, Tag("single")] | Annotated[list[Target], Tag("several"), Field(min_length=1)],
    Discriminator(lambda value: "several" if isinstance(value, list) else "single"),
]
"""A budget, or a list of them."""


class Distill(Section):
    """`compress.distill`: match the dense network's output, during the search and after it."""

    weight: Annotated[float, Field(gt=0)] = 1.0
    """Factor of the distance from the teacher's output, beside the loss."""
    teacher: str | None = None
    """Model file or `zoo:NAME`; default: this run's dense network as the search began with it."""
    task_loss: bool = True
    """Whether the loss against the ground truth is added. False: the teacher's output is the only
    target, as where there are no truths, or where they would blur what the teacher makes."""
    mix: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Fraction of every batch that is mixed with other images of it (mixup). The target of these is
    the teacher's output alone; more to learn from it where images are few."""
    whole_images: bool = False
    """Super-resolution and ImageDataset: the teacher runs once, over whole training images, and
    patches are cut from its outputs. Shorter steps, for images that are seen many times; its
    outputs take 2 bytes for each value, in the run's folder while it runs."""
    temperature: Annotated[float, Field(gt=0)] | None = None
    """Classification only: divides the logits of both networks before they are compared; default:
    4."""


class MethodOptions(Section):
    """Section of `compress` that holds the settings of a single method, for research on it."""

    def unused_settings(self, method: MethodName, preset: str) -> Iterator[tuple[str, str]]:
        """Yield names of settings that differ from their default without effect, with the reason.

        Args:
            method: `compress.method`; several methods may read the same section.
            preset: `compress.preset`.
        """
        yield from ()


class DHPOptions(MethodOptions):
    """`compress.dhp`: settings for research on the default search and on the paper's."""

    cost_exponent: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Preset `default`, and method `prior_widths`: exponent p of the width prior. A layer is aimed
    at a fraction of its weights that is proportional to (weights / cost)**p. 0: equal fractions;
    0.5: wide where weights are cheap, as deep in a ResNet."""
    penalty: Annotated[float, Field(ge=0)] = 0.1
    """Preset `paper`: the fixed lambda of the l1 penalty."""
    latent_lr: Annotated[float, Field(gt=0)] = 1e-4
    """Preset `paper`: learning rate of the latents."""

    def unused_settings(self, method: MethodName, preset: str) -> Iterator[tuple[str, str]]:
        """Yield settings of the other preset."""
        names = ["penalty", "latent_lr"]
        reason = "has no effect, which preset paper alone reads"
        # The baseline prior_widths has no presets, it always follows the prior.
        if method == "dhp" and preset == "paper":
            names = ["cost_exponent"]
            reason = "has no effect, for preset paper has no width prior"
        for name in names:
            if changed(self, name):
                yield name, reason


class HSNOptions(MethodOptions):
    """`compress.hsn`: the structure network and its objective, loss + penalty * cost regularizer.

    What the paper says of these is not known; the values are those of its authors' later code
    unless a field says "ours".
    """

    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Learning rate of AdamW for the structure network, constant."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    """Weight decay of AdamW."""
    temperature: Annotated[float, Field(gt=0)] = 0.4
    """Temperature of the gates' sigmoid."""
    logit_bias: float = 3.0
    """Added to every logit, so that the search begins with nearly all channels kept."""
    penalty: Annotated[float, Field(ge=0)] | None = None
    """Fixed weight of the cost regularizer beside the loss; 4 is usual for cross-entropy. Default:
    found by `gradient_balance`."""
    gradient_balance: Annotated[float, Field(gt=0)] = 1.0
    """Norm of the regularizer's gradient on the logits, relative to that of the loss; ours."""
    target_ramp: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Fraction of the search in which the target falls linearly from 1 to the budget; 0: at once,
    as in the authors' code. The ramp is ours."""
    cost_regularizer: Literal["two_sided", "one_sided", "distance"] = "two_sided"
    """|log(kept / target)|; log(max(kept, target) / target); or log(1 + |kept - target|)."""
    cost_gates: Literal["mask", "sampled"] = "mask"
    """Channels whose cost is regularized: those that a cut would keep now (ours), or a second
    sample of the gates, as in the authors' code."""
    task_gates: Literal["hard", "soft"] = "hard"
    """Whether the loss sees rounded gates, as in the formulas, or the values of the sigmoid, as in
    most of the authors' code."""
    layer_scaling: Literal["loss", "cost", "none"] = "loss"
    """Gradient that the learned factor of each layer multiplies; none: no such factors."""
    scaling_lr: Annotated[float, Field(ge=0)] = 0.01
    """Step size of these factors; ours."""

    def unused_settings(self, method: MethodName, preset: str) -> Iterator[tuple[str, str]]:
        """Yield settings that another setting replaces."""
        if self.penalty is not None and changed(self, "gradient_balance"):
            yield "gradient_balance", "has no effect beside a fixed penalty"
        if self.layer_scaling == "none" and changed(self, "scaling_lr"):
            yield "scaling_lr", "has no effect with layer_scaling: none"


class Correction(Section):
    """`compress.correction`: least-squares correction of the cut network, before finetuning.

    The layers behind pruned channels are re-solved so that their outputs come close to the dense
    network's, on inputs of the search phase.
    """

    samples: Positive = 64
    """Training patches that the layers are re-solved on: the first ones of the search phase."""


class OBSOptions(MethodOptions):
    """`compress.obs`: statistics and width search of method `obs`."""

    statistics_samples: Positive = 128
    """Training patches whose statistics decide about channels."""
    evaluation_samples: Positive = 32
    """Further patches, on which choices of widths are compared."""
    generations: NotNegative = 200
    """Choices of widths tried for each budget."""
    ridge: Annotated[float, Field(gt=0)] = 1e-4
    """Added to the diagonal of every covariance, relative to its mean."""
    order: Literal["obs", "fisher", "taylor", "magnitude", "random"] = "obs"
    """Which channels of a group are kept; the widths are searched alike. Others than obs are for
    comparison: by the Fisher information, the first-order Taylor term, the L1 norm, by chance."""
    widths: dict[str, Positive] | None = None
    """Width of every prunable group, where they are given, as for a class with a single width; the
    search then chooses the channels alone, and `target` is what these widths keep."""


class Compress(Section):
    """`compress`: method, budget and phases. Without it, only a dense network is trained."""

    method: MethodName = "dhp"
    """The search; or one of the baselines uniform, random, magnitude, prior_widths."""
    preset: Literal["default", "paper"] = "default"
    """Method dhp: our search, or the published one for reproduction."""
    parametrization: Literal["factored", "full"] = "factored"
    """Weights times the outer product of two latents, or the hypernetwork of the DHP paper."""
    target: Targets
    """Budget. A list gives several models from a single search: each is cut after it and finetuned
    separately, for as many iterations as with a single budget."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Largest distance between the kept fraction and the target, for latency as a fraction of the
    target; default: 0.01, for latency 0.05."""
    round_to: Positive | None = None
    """Widths of layers are multiples of this, or the dense width. Default: 8; for a target of
    latency, the multiple that the measured times of the layers show."""
    min_width: Positive = 8
    """No layer of a prunable group is cut below this many channels."""
    remove_blocks: bool = False
    """Method obs: whether the residual branch of a block may be removed as a whole, down to the
    constant that it leaves. The plan says which branches can."""
    exclude: list[str] = []
    """Module names or patterns (`up.*`) that keep their widths."""
    dense_iter: NotNegative = 0
    """Iterations of ordinary training before the search."""
    search_iter: NotNegative
    """Iterations of the search; what remains of `train.total_iter` finetunes the cut network."""
    scheduler: Scheduler | None = None
    """Schedule of dense training and search alone; `train.scheduler` then counts from the cut."""
    distill: Distill | None = None
    """The dense network, or another one, as teacher. Default: none."""
    correction: Correction | None = None
    """Default: no correction. Meant for trained weights; any method can use it."""
    prune_residual: bool | None = None
    """Whether channels that are coupled by additions, as along a residual connection, may be
    pruned. Default: false for hsn, as in its paper, true for the others."""
    dhp: DHPOptions = DHPOptions()
    """Settings of method dhp, and of prior_widths."""
    hsn: HSNOptions = HSNOptions()
    """Settings of method hsn."""
    obs: OBSOptions = OBSOptions()
    """Settings of method obs."""
    latency_size: Annotated[list[Positive], Field(min_length=2, max_length=2)] | None = None
    """Height and width of the input that times are measured for; default: 128 and 128, for
    classifiers the size that they are made for."""
    latency_threads: Annotated[int, Field(gt=0, le=MAX_THREADS)] = 1
    """CPU threads that times are measured with."""
    latency_runtime: RuntimeName = "torch"
    """Program that the finished model is to run in: times are measured there. PyTorch's are those
    on the run's device, those of onnxruntime and openvino on the CPU, whatever the run uses."""
    latency_table: str | None = None
    """File of layer times, read and added to; default: `latency_table.json` in the run's folder."""

    @field_validator("target")
    @classmethod
    def comparable(cls, target: Target | list[Target]) -> Target | list[Target]:
        """Refuse a list of several kinds, and the same budget twice."""
        targets = target if isinstance(target, list) else [target]
        # All models come from the same search, whose penalty and widths are made for a cost kind.
        kinds = sorted({target.kind for target in targets})
        if len(kinds) > 1:
            raise ValueError(f"expected targets of the same kind, got {' and '.join(kinds)}")
        # Labels become names of files.
        labels = [target.label for target in targets]
        if len(set(labels)) < len(labels):
            raise ValueError(f"expected different targets, got {', '.join(labels)}")
        return target

    @property
    def prunes_residual(self) -> bool:
        """`prune_residual`, or the default of the method."""
        if self.prune_residual is None:
            return METHODS[self.method].prune_residual
        return self.prune_residual

    @property
    def removes_blocks(self) -> bool:
        """`remove_blocks`, where the method can."""
        return self.remove_blocks and METHODS[self.method].removes_blocks

    @property
    def method_section(self) -> MethodOptions | None:
        """Section that the method reads; None if it has no settings of this kind."""
        name = METHODS[self.method].section
        return None if name is None else getattr(self, name)

    @property
    def method_options(self) -> JsonObject:
        """Settings of the method alone, by name; empty if it has none."""
        section = self.method_section
        return {} if section is None else dict(section)

    @property
    def targets(self) -> tuple[Target, ...]:
        """All targets, the largest first."""
        targets = self.target if isinstance(self.target, list) else [self.target]
        # The search runs down to the last of them.
        return tuple(sorted(targets, key=lambda target: -target.keep_ratio))
