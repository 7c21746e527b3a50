"""A progress bar while images are restored, and a summary afterwards."""

import sys
import time

from tqdm import tqdm

from dhp_sr.deploy.runner import Runner
from dhp_sr.inference.pipeline import Settings, Summary, restore_images
from dhp_sr.inference.task_list import TaskList
from dhp_sr.utils.errors import abbreviate
from dhp_sr.utils.files import remove_stale_parts

_MEGA = 1e6
_BAR_FORMAT = "{percentage:3.0f}%|{bar:30}| {desc} [{elapsed}<{remaining}]"


class ProgressBar:
    """A bar over the images, with megapixels of results a second; tiles move it by fractions."""

    def __init__(self, images: int, quiet: bool) -> None:
        self._images = images
        self._images_done = 0.0
        self._pixels = 0
        self._start = time.perf_counter()
        # None: shown on terminals only
        disable = quiet or None
        self._bar = tqdm(total=images, bar_format=_BAR_FORMAT, file=sys.stderr, disable=disable)

    def __call__(self, fraction: float, pixels: int) -> None:
        """Count a fraction of an image, and the pixels of results that it is."""
        self._images_done += fraction
        self._pixels += pixels
        rate = self._pixels / _MEGA / max(time.perf_counter() - self._start, 1e-9)
        # fractions do not add up to 1 exactly
        whole = int(self._images_done + 1e-6)
        text = f"{whole}/{self._images} images, {rate:.2f} MP/s"
        self._bar.set_description_str(text, refresh=False)
        self._bar.update(fraction)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


def restore_all(
    task_list: TaskList, runner: Runner, settings: Settings, *, overwrite: bool, quiet: bool
) -> int:
    """Restore images without a result yet; print what was done and what failed.

    Args:
        task_list: The images.
        runner: The model.
        settings: Settings of the run.
        overwrite: Restore images with a result, too.
        quiet: Print failures alone.

    Returns:
        The exit code: 0, or 1 where images failed or a folder cannot be read.

    Raises:
        UserError: The model does not take images, or the disk is full.
    """
    tasks = [task for task in task_list.tasks if overwrite or not task.is_done]
    remove_stale_parts(task.target for task in task_list.tasks)
    bar = ProgressBar(len(tasks), quiet)
    try:
        summary = restore_images(tasks, runner, settings, bar)
    finally:
        bar.close()
    if not quiet:
        done_before = len(task_list.tasks) - len(tasks)
        print(_describe(summary, done_before, task_list))
    for path, reason in summary.failures:
        print(f"failed: {path}: {reason}", file=sys.stderr)
    for path, reason in task_list.unreadable:
        print(f"failed: {path}: the folder cannot be read: {reason}", file=sys.stderr)
    return 1 if summary.failures or task_list.unreadable else 0


def _describe(summary: Summary, done_before: int, task_list: TaskList) -> str:
    megapixels = summary.pixels / _MEGA
    rate = megapixels / max(summary.seconds, 1e-9)
    lines = [
        f"{summary.done} images, {megapixels:.2f} megapixels in {summary.seconds:.1f} s "
        f"({rate:.2f} MP/s)"
    ]
    if done_before:
        lines.append(f"{done_before} done before (--overwrite does them again)")
    if task_list.earlier:
        names = abbreviate([path.name for path in task_list.earlier])
        lines.append(f"{names}: named like results in --input, not restored")
    if task_list.ignored:
        lines.append(f"{len(task_list.ignored)} files not named like images left alone")
    for loss, count in summary.losses.items():
        lines.append(f"{count} results without {loss}")
    if task_list.unreadable:
        lines.append(f"{len(task_list.unreadable)} folders that cannot be read")
    if summary.failures:
        lines.append(f"{len(summary.failures)} failed")
    return "; ".join(lines)
