"""Test images of one run or several, prepared for the comparison before and after the cut."""

from collections.abc import Sequence
from dataclasses import dataclass

from dhp_sr.reports.formatting import page_number
from dhp_sr.reports.page.heat_map import png_uri
from dhp_sr.reports.run import Run
from dhp_sr.reports.run_files import BICUBIC, GROUND_TRUTH, INPUT, Sample, SampleVersion

MAX_BYTES = 6 * 2**20
"""All PNG files of a page in bytes; as text in the page they take a third more."""

_ORDER = {INPUT: 0, BICUBIC: 1, GROUND_TRUTH: 3}
_MODEL_ORDER = 2


@dataclass(frozen=True)
class ShownVersion:
    """Version of a test image as the page shows it."""

    label: str
    """Model, with its run where there are several."""
    score: str
    """PSNR as text, empty if unknown."""
    psnr_db: float | None
    """PSNR of the whole image."""
    data_uri: str
    """PNG file as an address."""


@dataclass(frozen=True)
class ComparedImage:
    """Crop of a test image with all its versions."""

    title: str
    """Image and test set."""
    height: int
    """Height of the crop in pixels of the GT image."""
    width: int
    """Width of the crop in pixels of the GT image."""
    versions: tuple[ShownVersion, ...]
    """Versions in the order to show them."""
    left: int
    """Index of the version shown on the left at first."""
    right: int
    """Index of the version shown on the right at first."""


def compared_images(runs: Sequence[Run]) -> tuple[list[ComparedImage], int]:
    """Collect the images that have two versions, those that most runs have first.

    Crops of an image in several runs are shown together.

    Returns:
        The images, and the number of those left out to keep the page small.
    """
    shared: dict[tuple[object, ...], list[tuple[Run, Sample]]] = {}
    for run in runs:
        for sample in run.samples:
            shared.setdefault(sample_identity(sample), []).append((run, sample))
    # Images that the runs share come first: they are what a comparison is about.
    images = []
    num_left_out = 0
    remaining_bytes = MAX_BYTES
    for same_image in sorted(shared.values(), key=len, reverse=True):
        versions = label_versions(same_image, several=len(runs) > 1)
        if len(versions) < 2:
            continue  # a divider needs two sides
        size = sum(len(version.png) for _, version in versions)
        if size > remaining_bytes:
            num_left_out += 1
            continue
        remaining_bytes -= size
        _, sample = same_image[0]
        images.append(compare_versions(sample, versions))
    return images, num_left_out


def sample_identity(sample: Sample) -> tuple[object, ...]:
    """Key that is equal for samples of the same crop of the same image."""
    reference = b""
    for version in sample.versions:
        if version.name == GROUND_TRUTH:
            # Two runs may call different images alike, for example after a data set was changed.
            reference = version.png
    return sample.test_set, sample.image, sample.scale, sample.crop, reference


def label_versions(
    same_image: Sequence[tuple[Run, Sample]], several: bool
) -> list[tuple[str, SampleVersion]]:
    """Label the versions of an image: inputs first, then models by run, the GT image last."""
    labeled: dict[str, SampleVersion] = {}
    for run, sample in same_image:
        for version in sample.versions:
            known = labeled.get(version.name)
            is_new = known is None or known.png == version.png
            # Inputs and GT images that are equal in several runs are shown once.
            is_shared = version.name in _ORDER and is_new
            if several and not is_shared:
                labeled[f"{run.name}: {version.name}"] = version
            else:
                labeled[version.name] = version
    return sorted(labeled.items(), key=lambda item: _ORDER.get(item[1].name, _MODEL_ORDER))


def compare_versions(
    sample: Sample, versions: Sequence[tuple[str, SampleVersion]]
) -> ComparedImage:
    """Prepare the labeled versions of an image, and choose the two that are shown at first."""
    shown = []
    models = []
    left = 0
    for index, (label, version) in enumerate(versions):
        score = ""
        if version.psnr_db is not None:
            score = f"{page_number(version.psnr_db, 2)} dB"
        shown.append(ShownVersion(label, score, version.psnr_db, png_uri(version.png)))
        if version.name == BICUBIC:
            left = index
        if version.name not in _ORDER:
            models.append(index)
    # The last model is the smallest one: what the run is about.
    right = models[-1] if models else len(versions) - 1
    _, _, height, width = sample.crop
    title = f"{sample.image}, {sample.test_set}"
    return ComparedImage(title, height, width, tuple(shown), left, right)
