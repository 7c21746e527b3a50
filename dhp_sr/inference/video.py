"""Frames of a video through a model: raw RGB from a pipe, raw RGB into a pipe."""

import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from dhp_sr.deploy.runner import Runner
from dhp_sr.images.image import Image, Pixels
from dhp_sr.inference.pipeline import Settings
from dhp_sr.inference.restore import ChannelAdapter, NetworkInput, restore_rows
from dhp_sr.inference.tiles import choose_tiling
from dhp_sr.utils.errors import UserError

_CHANNELS = 3
_REPORT_SECONDS = 2.0
_POLL_SECONDS = 0.001
"""Time between two tries of a pipe that does not block, as some programs set theirs up."""


@dataclass(frozen=True)
class FrameSize:
    """Size of all frames, in pixels."""

    width: int
    height: int

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame: RGB, 8 bits a channel, rows from top to bottom."""
        return self.width * self.height * _CHANNELS


def restore_video(
    source: BinaryIO,
    target: BinaryIO,
    size: FrameSize,
    runner: Runner,
    settings: Settings,
    *,
    quiet: bool,
) -> int:
    """Restore frames until the source ends; the frame rate is printed on stderr.

    The next frame is read and the last one written while the network works.

    Args:
        source: Frames without anything between them.
        target: Results, in the same form and `runner.scale` times as large.
        size: Size of the frames of the source.
        runner: The model.
        settings: Settings of the run; noise differs from frame to frame.
        quiet: Print nothing.

    Returns:
        Number of frames.

    Raises:
        UserError: The model does not take images, the source ends within a frame, or nobody reads
            the results any more.
    """
    adapter = ChannelAdapter.between(_CHANNELS, runner)
    frames = 0
    start = time.perf_counter()
    report = _Report(quiet)
    # a thread each: reading must not wait for a reader of the results that is slow, nor vice versa
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        read: Future[Pixels | None] = reader.submit(read_frame, source, size)
        written: Future[None] | None = None
        while (frame := read.result()) is not None:
            read = reader.submit(read_frame, source, size)
            seed = (settings.seed, f"{frames:08d}")
            network_input = NetworkInput(frame, runner.size_multiple, settings.sigma, seed)
            tiling = choose_tiling(
                runner,
                network_input.height,
                network_input.width,
                batch=adapter.batch,
                row_bytes=size.width * runner.scale**2 * _CHANNELS,
                budget=settings.budget,
                options=settings.tiling,
            )
            rows = list(restore_rows(Image(frame), network_input, runner, adapter, tiling))
            if written is not None:
                written.result()
            written = writer.submit(write_frame, target, rows)
            frames += 1
            report(frames, time.perf_counter() - start)
        if written is not None:
            written.result()
    report(frames, time.perf_counter() - start, is_last=True)
    return frames


def read_frame(source: BinaryIO, size: FrameSize) -> Pixels | None:
    """Return the next frame, uint8 (H, W, 3), or None at the end.

    Raises:
        UserError: The source ends within a frame.
    """
    content = bytearray()
    # a pipe gives what it has, which may be less than was asked for
    while len(content) < size.frame_bytes:
        piece = source.read(size.frame_bytes - len(content))
        if piece is None:
            time.sleep(_POLL_SECONDS)  # a pipe that does not block has nothing yet
            continue
        if not piece:
            break
        content += piece
    if not content:
        return None
    if len(content) < size.frame_bytes:
        raise UserError(
            f"--input -: expected frames of {size.frame_bytes} bytes ({size.width}x{size.height}, "
            f"rgb24), the last has {len(content)}: check --size and the pixel format"
        )
    return np.frombuffer(content, np.uint8).reshape(size.height, size.width, _CHANNELS)


def write_frame(target: BinaryIO, rows: Sequence[Pixels]) -> None:
    """Write a frame that is given as strips of rows.

    Raises:
        UserError: Nobody reads any more.
    """
    try:
        for strip in rows:
            remaining = np.ascontiguousarray(strip).reshape(-1).data
            # Without a buffer (python -u) a write may take a part, as of a disk that gets full.
            while len(remaining):
                remaining = remaining[_write_some(target, remaining) :]
        while not _is_flushed(target):
            time.sleep(_POLL_SECONDS)
    except BrokenPipeError as error:
        raise UserError("--output -: the program that reads the frames has ended") from error


def _write_some(target: BinaryIO, content: memoryview) -> int:
    """Write as much as the target takes; return the number of bytes."""
    try:
        written = target.write(content)
    except BlockingIOError as error:
        # The buffer of a pipe that does not block is full; it has taken this much.
        written = error.characters_written
    if not written:
        time.sleep(_POLL_SECONDS)
    return written or 0


def _is_flushed(target: BinaryIO) -> bool:
    """Write out the buffer of the target; return whether all of it went."""
    try:
        target.flush()
    except BlockingIOError:
        return False
    return True


class _Report:
    """Frame rate on stderr, every few seconds and at the end."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._next = _REPORT_SECONDS

    def __call__(self, frames: int, seconds: float, is_last: bool = False) -> None:
        if self._quiet or not (is_last or seconds >= self._next):
            return
        self._next = seconds + _REPORT_SECONDS
        rate = frames / max(seconds, 1e-9)
        print(f"{frames} frames in {seconds:.1f} s ({rate:.2f} frames/s)", file=sys.stderr)
