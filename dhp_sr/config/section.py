"""Base class of the sections of an option file, and what several of them share."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(gt=0, le=1)]
Level = Annotated[float, Field(gt=0)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]

Issue = tuple[tuple[str, ...], str]
"""Keys that lead to a setting, and what is wrong with it."""

Color = Literal["rgb", "gray"]
CHANNELS: dict[str, int] = {"rgb": 3, "gray": 1}
"""Value of `color` -> number of image channels."""


def color_of(channels: int) -> str:
    """Value of `color` for images that fit a network with so many input channels."""
    return "gray" if channels == CHANNELS["gray"] else "rgb"


class Section(BaseModel):
    """Frozen group of keys: unknown keys are refused and types are not converted."""

    # Strict: a number in quotes is a mistake. No NaN: no comparison would notice it later.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Scheduler(Section):
    """`train.scheduler`: the learning rate as a closed formula of the iteration."""

    type: Literal["cosine", "multistep", "constant"] = "cosine"
    """Half a cosine down to `eta_min`; a factor at each milestone; or no change."""
    eta_min: Annotated[float, Field(ge=0)] = 0.0
    """Final learning rate of `cosine`."""
    milestones: list[Positive] = []
    """Iterations at which the rate is multiplied by `gamma`."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Factor at each milestone."""


def changed(section: Section, name: str) -> bool:
    """Whether a setting differs from its default."""
    field = type(section).model_fields[name]
    return getattr(section, name) != field.get_default(call_default_factory=True)
