"""The section `compress`: what to keep of the dense network, and how it is found."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from dhp_sr.config.methods import rules_of
from dhp_sr.config.section import Fraction, NotNegative, Positive, Section
from dhp_sr.utils.hardware import MAX_THREADS


class Scheduler(Section):
    """`train.scheduler`: the learning rate as a closed formula of the iteration."""

    type: Literal["cosine", "multistep", "constant"] = "cosine"
    eta_min: Annotated[float, Field(ge=0)] = 0.0
    milestones: list[Positive] = []
    """Iterations at which the rate is multiplied by `gamma`."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.5


class Target(Section):
    """`compress.target`: what to keep of the dense network. Exactly one key."""

    macs: Fraction | None = None
    params: Fraction | None = None
    latency: Fraction | None = None
    """Of the time measured on the device of the run, see `latency_size`, `latency_threads` and `latency_table`."""

    @model_validator(mode="after")
    def exactly_one(self) -> "Target":
        """Refuse no budget and two budgets."""
        given = [key for key, value in self if value is not None]
        if len(given) != 1:
            raise ValueError(
                f"expected exactly one of macs, params, latency, found {' and '.join(given) or 'none'}"
            )
        return self

    @property
    def kind(self) -> str:
        """`macs`, `params` or `latency`."""
        return next(key for key, value in self if value is not None)

    @property
    def keep_ratio(self) -> float:
        """The kept fraction asked for."""
        return getattr(self, self.kind)

    @property
    def label(self) -> str:
        """Short form for names of files: `macs0.5`."""
        return f"{self.kind}{self.keep_ratio:g}"


def _one_or_several(value: Any) -> str:
    return "several" if isinstance(value, list) else "one"


Targets = Annotated[
    Annotated[Target, Tag("one")] | Annotated[list[Target], Tag("several"), Field(min_length=1)],
    Discriminator(_one_or_several),
]
"""One budget, or a list of them."""


class Distill(Section):
    """`compress.distill`: match the dense network's output, during the search and after it."""

    weight: Annotated[float, Field(gt=0)] = 1.0
    teacher: str | None = None
    """A model file; default: the dense network of this very run, as it was when the search began."""
    mix: Annotated[float, Field(ge=0, le=1)] = 0.0
    """This part of every batch is mixed with other images of it, and only the teacher says what is right there: more
    to learn from it where images are few."""
    temperature: Annotated[float, Field(gt=0)] | None = None
    """Classification only: what both networks' scores are divided by before they are compared; default: 4."""


class HSN(Section):
    """`compress.hsn`: the structure network and its objective, loss + penalty * budget term.

    What the paper says of these is not known; the values are of its authors' later code unless a line says otherwise.
    """

    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Of AdamW, constant."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    temperature: Annotated[float, Field(gt=0)] = 0.4
    """Of the gates' sigmoid."""
    offset: float = 3.0
    """Added to every logit, so that the search begins with nearly all channels open."""
    penalty: Annotated[float, Field(ge=0)] | None = None
    """Weight of the budget's term beside the loss; default: as `balance` says. 4 is usual for cross-entropy."""
    balance: Annotated[float, Field(gt=0)] = 1.0
    """Norm of the budget's gradient on the gates, where there is one, in terms of the loss's; ours."""
    approach: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Fraction of the search in which the kept fraction asked for falls from 1 to the budget; 0: at once, as in the
    authors' code. The line is ours."""
    budget_term: Literal["two_sided", "one_sided", "distance"] = "two_sided"
    """The absolute value of log(kept / asked); log(max(kept, asked) / asked); or log(1 + |kept - asked|)."""
    budget_gates: Literal["mask", "drawn"] = "mask"
    """What is priced: the mask as it would be cut (ours), or a second draw, as in the authors' code."""
    task_gates: Literal["hard", "soft"] = "hard"
    """Whether the loss sees rounded gates, as in the formulas, or the sigmoid's values, as in most of the code."""
    layer_scaling: Literal["loss", "flops", "none"] = "loss"
    """Which gradient the learned factors of the layers multiply; none is the ablation without them."""
    scaling_rate: Annotated[float, Field(ge=0)] = 0.01
    """Step of these factors; ours."""


class Compress(Section):
    """`compress`: the method, the budget, the length of the phases. Without it a run trains the dense network."""

    method: str = "dhp"
    preset: Literal["modern", "faithful"] = "modern"
    parametrization: Literal["factored", "full"] = "factored"
    target: Targets
    """A list gives several models from one search: each is cut after it and finetuned on its own, for as many
    iterations as a single one would be."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Largest distance between the kept fraction and the target, for latency as a fraction of the target; default:
    0.01, for latency 0.05."""
    round_to: Positive = 8
    """Widths of layers are multiples of this (or the dense width)."""
    min_width: Positive = 8
    """No layer of a prunable group is cut below this many channels."""
    exclude: list[str] = []
    """Module names or patterns (`up.*`) that keep their widths."""
    dense_iter: NotNegative = 0
    """Iterations of ordinary training before the search."""
    search_iter: NotNegative
    """Iterations of the search; what remains of `train.total_iter` finetunes the cut network."""
    latent_lr: Annotated[float, Field(gt=0)] | None = None
    """Step size of the latents; the default is the preset's."""
    penalty: Annotated[float, Field(ge=0)] | None = None
    """Fixed lambda of the faithful preset; the modern one finds its own."""
    price_power: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How much the modern preset leans on prices: a layer is aimed at a part of its weights that goes with this power
    of the weights that a unit of cost buys there. 0: equal parts; 0.5: wide where weights are cheap, as deep in a
    ResNet."""
    scheduler: Scheduler | None = None
    """Own schedule of dense training and search. With it, `train.scheduler` counts from the cut."""
    distill: Distill | None = None
    keep_streams: bool | None = None
    """Whether channels of tensors that are summed, as in residual streams, all stay; default: true for hsn, as in its
    paper, false for the others."""
    hsn: HSN = HSN()
    latency_size: Annotated[list[Positive], Field(min_length=2, max_length=2)] | None = None
    """Height and width of the input that times are measured for; default: 128 and 128, of a classifier its own size."""
    latency_threads: Annotated[int, Field(gt=0, le=MAX_THREADS)] = 1
    """CPU threads that times are measured with."""
    latency_table: str | None = None
    """File of layer times, read and added to; default: `latency_table.json` in the folder of the run."""

    @field_validator("target")
    @classmethod
    def comparable(cls, target: Target | list[Target]) -> Target | list[Target]:
        """Refuse a list of several kinds, and the same budget twice."""
        several = target if isinstance(target, list) else [target]
        kinds = sorted({one.kind for one in several})
        if len(kinds) > 1:
            raise ValueError(f"expected targets of one kind, found {' and '.join(kinds)}")
        labels = [one.label for one in several]
        if len(set(labels)) < len(labels):
            raise ValueError(f"expected different targets, found {', '.join(labels)}")
        return target

    @property
    def streams_stay(self) -> bool:
        """Whether channels of summed tensors all stay."""
        return (
            rules_of(self.method).streams_stay if self.keep_streams is None else self.keep_streams
        )

    @property
    def own(self) -> dict[str, Any]:
        """The section of the method alone."""
        section = getattr(self, self.method, None)
        return dict(section) if isinstance(section, Section) else {}

    @property
    def targets(self) -> tuple[Target, ...]:
        """All targets, the largest first."""
        several = self.target if isinstance(self.target, list) else [self.target]
        return tuple(sorted(several, key=lambda one: -one.keep_ratio))
