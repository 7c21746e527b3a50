"""Kinds of scores: key, name, unit, precision, and which way is better. The only list of them."""

from collections.abc import Collection
from dataclasses import dataclass

from dhp_sr.reports.formatting import number


@dataclass(frozen=True)
class Score:
    """A kind of score."""

    key: str
    """Key in metrics.json and validation.csv."""
    name: str
    """Name in papers."""
    unit: str
    """Unit, empty for a score without."""
    digits: int
    """Decimal places shown."""
    higher_is_better: bool
    """Whether the best model has the highest score."""

    @property
    def label(self) -> str:
        """Name and unit beside an axis: `PSNR-Y, dB`."""
        if not self.unit:
            return self.name
        return f"{self.name}, {self.unit}"

    @property
    def heading(self) -> str:
        """Name and unit over a column: `PSNR-Y dB`."""
        return f"{self.name} {self.unit}".rstrip()

    def text(self, value: float | None) -> str:
        """Format a value without its unit; an unknown value is a dash."""
        return number(value, self.digits)


PSNR_Y = Score("psnr_y_db", "PSNR-Y", "dB", 2, higher_is_better=True)
SSIM_Y = Score("ssim_y", "SSIM-Y", "", 4, higher_is_better=True)
PSNR_RGB = Score("psnr_rgb_db", "PSNR-RGB", "dB", 2, higher_is_better=True)
SSIM_RGB = Score("ssim_rgb", "SSIM-RGB", "", 4, higher_is_better=True)
TOP1 = Score("top1_error_percent", "top-1 error", "%", 2, higher_is_better=False)
TOP5 = Score("top5_error_percent", "top-5 error", "%", 2, higher_is_better=False)
CROSS_ENTROPY = Score("cross_entropy", "cross-entropy", "", 4, higher_is_better=False)

# Denoisers are scored over all channels, be they one or three. Their names say no more than PSNR
# and SSIM, because no score of the Y channel stands beside them to be told apart.
_PSNR = Score("psnr_rgb_db", "PSNR", "dB", 2, higher_is_better=True)
_SSIM = Score("ssim_rgb", "SSIM", "", 4, higher_is_better=True)

# The order within a task is a convention of the field: super-resolution is compared on the Y
# channel, other restoration on all channels, classification by its top-1 error.
TASKS: dict[str, tuple[Score, ...]] = {
    "sr": (PSNR_Y, SSIM_Y, PSNR_RGB, SSIM_RGB),
    "denoise": (_PSNR, _SSIM),
    "restoration": (_PSNR, _SSIM),
    "classification": (TOP1, TOP5, CROSS_ENTROPY),
}
"""Task -> its scores, the main score first."""

NUM_TABLE_SCORES = 2
"""Number of scores of a task, from the main score on, that have columns in tables."""


def scores_of(task: str | None, available: Collection[str] | None = None) -> tuple[Score, ...]:
    """Look up the scores of a task, the main score first.

    Args:
        task: `sr`, `denoise`, `restoration` or `classification`; anything else counts as `sr`.
        available: Keys of the scores to keep; all by default.
    """
    scores = TASKS.get(task or "", TASKS["sr"])
    if available is None:
        return scores
    return tuple(score for score in scores if score.key in available)
