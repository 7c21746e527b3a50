"""What every section of an option file is, and the numbers that several of them take."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(gt=0, le=1)]
Level = Annotated[float, Field(gt=0)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Finding = tuple[tuple[str, ...], str]
"""The keys that lead to a setting, and what is wrong there."""

Color = Literal["rgb", "grey"]
CHANNELS: dict[str, int] = {"rgb": 3, "grey": 1}
"""Colour of the images in an option file -> their channels."""


def color_of(channels: int) -> str:
    """Return the colour of the images that a network with so many input channels takes."""
    return "grey" if channels == CHANNELS["grey"] else "rgb"


class Section(BaseModel):
    """A group of keys: unknown ones are refused, types are not converted, values cannot be reassigned."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def changed(section: Section, name: str) -> bool:
    """Return whether a setting differs from its default."""
    return getattr(section, name) != type(section).model_fields[name].get_default(
        call_default_factory=True
    )
