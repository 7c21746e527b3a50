"""Frames through pipes."""

import fcntl
import io
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from dhp_sr.images import Image
from dhp_sr.infer import main
from dhp_sr.inference.pipeline import Settings
from dhp_sr.inference.restore import ChannelAdapter, NetworkInput, restore_rows
from dhp_sr.inference.tiles import GIB, MemoryBudget, Tiling
from dhp_sr.inference.video import FrameSize, restore_video
from dhp_sr.utils.errors import UserError

SIZE = FrameSize(width=20, height=12)
SETTINGS = Settings(MemoryBudget(GIB))


@pytest.fixture
def frames():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (3, SIZE.height, SIZE.width, 3), dtype=np.uint8)


class Trickle(io.BytesIO):
    """A pipe that gives a few bytes at a time."""

    def read(self, count=-1):
        return super().read(min(count, 100))


class Sip(io.RawIOBase):
    """A pipe without a buffer that takes a few bytes at a time."""

    def __init__(self):
        super().__init__()
        self.content = b""

    def writable(self):
        return True

    def write(self, data):
        self.content += bytes(data[:100])
        return min(len(data), 100)


def whole_image(runner, frame):
    adapter = ChannelAdapter.between(3, runner)
    network_input = NetworkInput(frame, runner.size_multiple)
    tiling = Tiling(network_input.height, network_input.width, 0, 1)
    (rows,) = restore_rows(Image(frame), network_input, runner, adapter, tiling, lambda _: None)
    return rows


def test_frames_are_those_of_images(runner, frames, capsys):
    target = io.BytesIO()
    count = restore_video(
        Trickle(frames.tobytes()), target, SIZE, runner("edsr"), SETTINGS, quiet=False
    )
    assert count == len(frames)
    expected = np.stack([whole_image(runner("edsr"), frame) for frame in frames])
    assert target.getvalue() == expected.tobytes()
    assert "3 frames" in capsys.readouterr().err


def test_a_target_that_takes_a_part(runner, frames):
    whole, sips = io.BytesIO(), Sip()
    for target in (whole, sips):
        restore_video(
            io.BytesIO(frames.tobytes()), target, SIZE, runner("edsr"), SETTINGS, quiet=True
        )
    assert sips.content == whole.getvalue()


@pytest.mark.parametrize("buffering", [-1, 0])
def test_pipes_that_do_not_block(runner, frames, buffering):
    """A program that starts ours may have set up both of its pipes so."""
    source_read, source_write = os.pipe()
    target_read, target_write = os.pipe()
    for number in (source_read, target_write):
        os.set_blocking(number, False)

    def feed():
        with open(source_write, "wb", buffering=0) as pipe:
            for frame in frames:
                for half in np.split(frame, 2):
                    time.sleep(0.02)
                    pipe.write(half.tobytes())

    content = bytearray()

    def take():
        with open(target_read, "rb", buffering=0) as pipe:
            time.sleep(0.2)
            while piece := pipe.read(500):
                content.extend(piece)

    threads = [threading.Thread(target=feed), threading.Thread(target=take)]
    for thread in threads:
        thread.start()
    with (
        open(source_read, "rb", buffering=buffering) as source,
        open(target_write, "wb", buffering=buffering) as target,
    ):
        fcntl.fcntl(target_write, fcntl.F_SETPIPE_SZ, 4096)  # less than a result
        count = restore_video(source, target, SIZE, runner("edsr_x4"), SETTINGS, quiet=True)
    for thread in threads:
        thread.join()
    assert count == len(frames)
    expected = np.stack([whole_image(runner("edsr_x4"), frame) for frame in frames])
    assert bytes(content) == expected.tobytes()


def test_no_frames(runner, capsys):
    target = io.BytesIO()
    assert restore_video(io.BytesIO(), target, SIZE, runner("edsr"), SETTINGS, quiet=True) == 0
    assert target.getvalue() == b"" and capsys.readouterr().err == ""


def test_source_that_ends_within_a_frame(runner, frames):
    target = io.BytesIO()
    source = io.BytesIO(frames.tobytes()[:-1])
    with pytest.raises(UserError, match=r"720 bytes.* 719"):
        restore_video(source, target, SIZE, runner("edsr"), SETTINGS, quiet=True)


def test_reader_that_has_ended(runner, frames):
    class Closed(io.BytesIO):
        def write(self, data):
            raise BrokenPipeError

    with pytest.raises(UserError, match="--output"):
        restore_video(
            io.BytesIO(frames.tobytes()), Closed(), SIZE, runner("edsr"), SETTINGS, quiet=True
        )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--input", "-", "--output", "-"],
        ["--input", "-", "--output", "folder", "--size", "20x12"],
        ["--input", "folder", "--output", "-", "--size", "20x12"],
        ["--input", "-", "--output", "-", "--size", "20"],
        ["--input", "-", "--output", "-", "--size", "0x12"],
        ["--input", "-", "--output", "-", "--size", "20x12", "--format", "jpg"],
    ],
)
def test_arguments_that_do_not_fit(arguments, capsys):
    assert main(["--model", "zoo:edsr_x2_half", *arguments]) == 2
    assert "--" in capsys.readouterr().err


def test_command_between_pipes(frames):
    command = [sys.executable, "-m", "dhp_sr.infer", "--model", "zoo:edsr_x2_half"]
    command += ["--input", "-", "--size", "20x12", "--output", "-"]
    done = subprocess.run(command, input=frames.tobytes(), capture_output=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) == 4 * frames.nbytes
    assert b"frames/s" in done.stderr
