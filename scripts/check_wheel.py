"""Build sdist and wheel, install the wheel beside its required packages alone, and use it.

    python scripts/check_wheel.py              # required packages are linked, nothing is downloaded
    python scripts/check_wheel.py --download   # pip installs them, as for a user

The sdist is built from the files that git knows, the wheel from the sdist, so that what is missing
in the sdist is missing in the wheel too.
"""

import argparse
import configparser
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IN_SDIST = (
    "LICENSE",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "setup.cfg",
    "pyproject.toml",
)
FOLDERS_IN_SDIST = ("options", "scripts", "requirements", "tests", "benchmarks", "dhp_sr")
NOT_REQUIRED = (
    "basicsr",
    "torchvision",
    "lmdb",
    "skimage",
    "matplotlib",
    "tensorboard",
    "onnx",
    "spandrel",
)

USES = """
import importlib.util, pathlib, sys, torch
import dhp_sr, dhp_sr.hyper, dhp_sr.deploy
from dhp_sr.archs import EDSR
from dhp_sr.hyper import convert
assert "site-packages" in dhp_sr.__file__, dhp_sr.__file__
assert (pathlib.Path(dhp_sr.__file__).parent / "py.typed").is_file()
present = [name for name in sys.argv[1:] if importlib.util.find_spec(name)]
assert not present, f"the environment is not bare: {present}"
hyper = convert(EDSR(num_feat=16, num_block=1, upscale=2), torch.rand(1, 3, 16, 16))
hyper.prune_to(macs=0.5, tolerance=0.05, round_to=1)
small = hyper.cut().eval()
dhp_sr.deploy.save_model(small, "pruned.safetensors")
x = torch.rand(1, 3, 9, 8)
assert torch.equal(dhp_sr.deploy.load_model("pruned.safetensors")(x), small(x))
import numpy as np
from PIL import Image
pathlib.Path("images").mkdir()
pixels = np.random.default_rng(0).integers(0, 256, (40, 44, 3), dtype=np.uint8)
Image.fromarray(pixels).save("images/a.png")
"""
"""The engine and the model files, and an image for the commands after it."""

_MODEL = "--model pruned.safetensors"
COMMANDS: tuple[tuple[str, int, str], ...] = (
    (f"dhp-sr-test {_MODEL} --data images --repeats 1 --size 16 16", 0, ""),
    ("dhp-sr-plan --arch DnCNN num_feat=8 num_layers=3", 0, ""),
    (f"dhp-sr-infer {_MODEL} --input images --output out", 0, ""),
    (f"dhp-sr-export {_MODEL} --format pt2 --output again.pt2", 0, ""),
    (f"dhp-sr-export {_MODEL} --format onnx --output x.onnx", 2, "pip install 'dhp_sr[onnx]'"),
    ("dhp-sr-train -opt quickstart.yml", 2, "pip install 'dhp_sr[train]'"),
)
"""Command, the exit code that is expected, and words of its message."""


def main() -> int:
    """Run the check; 0 if everything holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--download", action="store_true", help="let pip install the required packages"
    )
    parser.add_argument(
        "--torch", default="torch", help="with --download: which torch, installed first"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build(folder)
        python = fresh_environment(folder, wheel, arguments.torch if arguments.download else None)
        use(python, folder)
    print("the wheel is whole, and works with its required packages alone")
    return 0


def build(folder: Path) -> Path:
    """Return the wheel, built from the sdist, once both hold what they should."""
    source = folder / "source"
    for name in run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], ROOT
    ).splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    sdist = source / "dist" / _backend("build_sdist", source)
    with tarfile.open(sdist) as archive:
        # Python 3.11.2, as Debian has it, knows no filters yet; the archive is our own.
        filters = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(folder / "sdist", **filters)
    unpacked = next((folder / "sdist").iterdir())
    missing = [name for name in IN_SDIST if not (unpacked / name).is_file()]
    missing += [
        str(path) for path in _files(source, FOLDERS_IN_SDIST) if not (unpacked / path).is_file()
    ]
    _expect(not missing, f"the sdist lacks {missing}")
    wheel = unpacked / "dist" / _backend("build_wheel", unpacked)
    check_wheel(wheel, source)
    return wheel


def check_wheel(wheel: Path, source: Path) -> None:
    """Find out whether the wheel holds every module and no other, the license and the commands."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = next(name.split("/")[0] for name in names if ".dist-info/" in name)
        commands = archive.read(f"{info}/entry_points.txt").decode()
        metadata = archive.read(f"{info}/METADATA").decode()
    expected = {str(path) for path in _files(source, ["dhp_sr"])}
    found = {name for name in names if not name.startswith(info)}
    _expect(
        found == expected,
        f"the wheel lacks {sorted(expected - found)}, has too much: {sorted(found - expected)}",
    )
    _expect(f"{info}/licenses/LICENSE" in names, "the wheel lacks the license")
    _expect("License-File: LICENSE" in metadata, "the wheel's metadata do not name the license")
    parsed = configparser.ConfigParser()
    parsed.read_string(commands)
    for command, target in parsed["console_scripts"].items():
        module = target.split(":")[0].replace(".", "/") + ".py"
        _expect(module in names, f"the command {command} calls {module}, which is not there")
    for command in {line.split()[0] for line, *_ in COMMANDS}:
        _expect(command in parsed["console_scripts"], f"the wheel has no command {command}")


def fresh_environment(folder: Path, wheel: Path, torch: str | None) -> Path:
    """Make an environment with the wheel and its required packages alone; return its Python."""
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "-qq",
        "--disable-pip-version-check",
    ]
    if torch is None:
        site_packages = run(
            [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder
        )
        link_required(Path(site_packages.strip()))
        install += ["--no-deps", "--no-index"]
    else:
        run([*install, torch], folder)
    run([*install, str(wheel)], folder)
    return python


def link_required(place: Path) -> None:
    """Link this environment's copies of the required packages and their dependencies."""
    for name in closure(required()):
        files = importlib.metadata.distribution(name).files or []
        for top in {path.parts[0] for path in files} - {"..", "__pycache__", "bin"}:
            target = Path(str(importlib.metadata.distribution(name).locate_file(top)))
            if target.exists() and not (place / top).exists():
                (place / top).symlink_to(target)


def required() -> list[str]:
    """Return the packages that setup.cfg requires."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config["options"]["install_requires"].split("\n")[1:]


def closure(wanted: Sequence[str]) -> set[str]:
    """Return the names of packages and of everything that they require here."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    left = [Requirement(text) for text in wanted]
    while left:
        requirement = left.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        left += [Requirement(text) for text in importlib.metadata.distribution(name).requires or []]
    return found


def use(python: Path, folder: Path) -> None:
    """Run the engine and every command there, in an empty folder."""
    place = folder / "place"
    place.mkdir()
    run([str(python), "-c", USES, *NOT_REQUIRED], place)
    shutil.copy(ROOT / "options" / "quickstart.yml", place)
    for line, code, message in COMMANDS:
        command = [python.parent / line.split()[0], *line.split()[1:]]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
        found = f"found {done.returncode}:\n{done.stdout}{done.stderr}"
        _expect(
            done.returncode == code and message in done.stderr,
            f"{line}: expected {code} and {message!r}, {found}",
        )
        print(f"as expected: {line}", flush=True)
    _expect((place / "out").is_dir() and any((place / "out").iterdir()), "infer left no image")


def run(command: Sequence[str], place: Path) -> str:
    """Run a command and return its output; fail with it."""
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    _expect(done.returncode == 0, f"{' '.join(command)[:300]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _backend(call: str, place: Path) -> str:
    """Let setuptools build in a folder; return the name of the file in `dist`."""
    code = f"from setuptools.build_meta import {call}; print('FILE', {call}('dist'))"
    return run([sys.executable, "-c", code], place).split("FILE ")[-1].strip()


def _files(source: Path, folders: Sequence[str]) -> list[Path]:
    return [
        path.relative_to(source)
        for folder in folders
        for path in (source / folder).rglob("*")
        if path.is_file()
    ]


def _expect(holds: object, message: str) -> None:
    if not holds:
        sys.exit(f"error: {message}")


if __name__ == "__main__":
    sys.exit(main())
