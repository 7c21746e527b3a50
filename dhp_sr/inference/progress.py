"""What the user sees: a bar while images are restored, and a summary."""

import sys
import time

from tqdm import tqdm

from dhp_sr.deploy.runner import Runner
from dhp_sr.inference.names import Work
from dhp_sr.inference.pipeline import Settings, Summary, run

_MEGA = 1e6


class Bar:
    """A bar over the images, with megapixels of results per second; a large image moves it in parts."""

    def __init__(self, images: int, quiet: bool) -> None:
        self._images, self._parts, self._pixels, self._start = images, 0.0, 0, time.perf_counter()
        form = "{percentage:3.0f}%|{bar:30}| {desc} [{elapsed}<{remaining}]"
        self._bar = tqdm(
            total=images, bar_format=form, file=sys.stderr, disable=True if quiet else None
        )

    def __call__(self, part: float, pixels: int) -> None:
        """Count a part of an image, and the pixels of results in it."""
        self._parts, self._pixels = self._parts + part, self._pixels + pixels
        rate = self._pixels / _MEGA / max(time.perf_counter() - self._start, 1e-9)
        self._bar.set_description_str(
            f"{int(self._parts + 1e-6)}/{self._images} images, {rate:.2f} MP/s", refresh=False
        )
        self._bar.update(part)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


def restore_all(
    work: Work, runner: Runner, settings: Settings, *, overwrite: bool, quiet: bool
) -> int:
    """Restore what has no result yet; say what was done and what failed.

    Returns:
        The exit code: 0, or 1 where images failed.

    Raises:
        UserError: the model does not take images, or the disk is full.
    """
    jobs = [job for job in work.jobs if overwrite or not job.target.exists()]
    bar = Bar(len(jobs), quiet)
    try:
        summary = run(jobs, runner, settings, bar)
    finally:
        bar.close()
    if not quiet:
        print(_told(summary, len(work.jobs) - len(jobs), len(work.left_alone)))
    for path, reason in summary.failures:
        print(f"failed: {path}: {reason}", file=sys.stderr)
    return 1 if summary.failures else 0


def _told(summary: Summary, before: int, left_alone: int) -> str:
    megapixels = summary.pixels / _MEGA
    rate = megapixels / max(summary.seconds, 1e-9)
    parts = [
        f"{summary.done} images, {megapixels:.2f} megapixels in {summary.seconds:.1f} s ({rate:.2f} MP/s)"
    ]
    parts += [f"{before} done before (--overwrite does them again)"] if before else []
    parts += [f"{left_alone} files not named like images left alone"] if left_alone else []
    parts += [
        f"{count} results without {what}, which their format cannot hold"
        for what, count in summary.lost.items()
    ]
    parts += [f"{len(summary.failures)} failed"] if summary.failures else []
    return "; ".join(parts)
