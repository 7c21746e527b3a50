"""Every kind of score: its key, name and unit, how it is written, and which way is better. The only list of them."""

from collections.abc import Collection
from dataclasses import dataclass

MISSING = "-"


@dataclass(frozen=True)
class Score:
    """A kind of score."""

    key: str
    """In metrics.json and validation.csv."""
    name: str
    """As papers call it."""
    unit: str
    """Empty where it has none."""
    digits: int
    """After the point."""
    highest: bool
    """Whether the highest is the best."""

    @property
    def label(self) -> str:
        """Name and unit beside an axis: `PSNR-Y, dB`."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    @property
    def heading(self) -> str:
        """Name and unit over a column: `PSNR-Y dB`."""
        return f"{self.name} {self.unit}".rstrip()

    def text(self, value: float | None) -> str:
        """Return a value without its unit; what is not known is a dash."""
        return MISSING if value is None else f"{value:.{self.digits}f}"


PSNR_Y = Score("psnr_y_db", "PSNR-Y", "dB", 2, highest=True)
SSIM_Y = Score("ssim_y", "SSIM-Y", "", 4, highest=True)
PSNR_RGB = Score("psnr_rgb_db", "PSNR-RGB", "dB", 2, highest=True)
SSIM_RGB = Score("ssim_rgb", "SSIM-RGB", "", 4, highest=True)
TOP1 = Score("top1_error_percent", "top-1 error", "%", 2, highest=False)
TOP5 = Score("top5_error_percent", "top-5 error", "%", 2, highest=False)
CROSS_ENTROPY = Score("cross_entropy", "cross-entropy", "", 4, highest=False)

_PSNR = Score("psnr_rgb_db", "PSNR", "dB", 2, highest=True)
_SSIM = Score("ssim_rgb", "SSIM", "", 4, highest=True)
"""Over all channels, one or three; the others' names say which, for they stand beside those of the Y channel."""

TASKS: dict[str, tuple[Score, ...]] = {
    "sr": (PSNR_Y, SSIM_Y, PSNR_RGB, SSIM_RGB),
    "denoise": (_PSNR, _SSIM),
    "classification": (TOP1, TOP5, CROSS_ENTROPY),
}
"""Task -> its scores, the one that counts first. Super-resolution is compared on the Y channel, denoising on all."""

COLUMNS = 2
"""So many of them, from the first on, have columns in tables."""


def scores_of(task: str | None, found: Collection[str] | None = None) -> tuple[Score, ...]:
    """Return the scores of a task, the one that counts first.

    Args:
        task: `sr`, `denoise` or `classification`; anything else is taken for `sr`.
        found: keys to choose from; all by default.
    """
    return tuple(
        score for score in TASKS.get(task or "", TASKS["sr"]) if found is None or score.key in found
    )
