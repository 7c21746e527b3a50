"""The summary of many images."""

import errno

from PIL import Image as PillowImage

from dhp_sr.inference import background
from dhp_sr.inference.pipeline import Settings, restore_images
from dhp_sr.inference.task_list import ImageTask
from dhp_sr.inference.tiles import GIB, MemoryBudget


def test_results_count_when_they_are_written(tmp_path, runner, noise, monkeypatch):
    """A writer may fail at its end, when the network is done with the image."""
    tasks = []
    for name in ("a", "b"):
        source = tmp_path / f"{name}.png"
        PillowImage.fromarray(noise(8, 6, 4)).save(source)
        tasks.append(ImageTask(source, tmp_path / f"{name}.jpg", "jpg"))

    def write(path, result, strips, write=background.write_result):
        write(path, result, strips)
        if path.stem == "b":
            path.unlink()
            raise OSError(errno.EIO, "the disk is damaged")

    monkeypatch.setattr(background, "write_result", write)
    settings = Settings(MemoryBudget(GIB))
    summary = restore_images(tasks, runner("edsr"), settings, lambda fraction, pixels: None)
    assert (summary.done, summary.pixels) == (1, 16 * 12)
    assert summary.losses == {"transparency": 1}
    assert summary.failures == [(tasks[1].source, "cannot be written: the disk is damaged")]
