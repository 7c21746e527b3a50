"""Images of a compression, and the truth of each: which files of the user's folders they are."""

from collections.abc import Sequence
from pathlib import Path

from dhp_sr.cli.compress_request import CompressRequest
from dhp_sr.data.sources import image_paths
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import walk_folder


def find_images(
    request: CompressRequest, experiments: Path
) -> tuple[list[Path], dict[Path, Path] | None]:
    """Return the images of a request and the truth of each; None: there are no truths.

    Args:
        request: Its folders.
        experiments: Folder of runs; links to the images of earlier ones are no further images.

    Raises:
        UserError: See `list_images` and `match_truths`.
    """
    if request.truths is None:
        return list_images(request.images, [experiments]), None
    # Truths may lie in a folder among the images.
    paths = list_images(request.images, [experiments, request.truths])
    return paths, match_truths(paths, request.images, request.truths)


def list_images(
    folder: Path, without: Sequence[Path] = (), *, option: str = "--images"
) -> list[Path]:
    """Return the images of a folder and the folders in it, see `walk_folder`.

    Args:
        folder: The user's folder.
        without: Folders in it that are left out.
        option: Names the folder on the command line.

    Raises:
        UserError: There is no such folder, it holds fewer than two images, or a link to nothing.
    """
    if not folder.is_dir():
        raise UserError(f"{option} {folder}: expected a folder of images, there is none")
    paths = image_paths(walk_folder(folder, without))
    if len(paths) < 2:
        raise UserError(
            f"{option} {folder}: expected two images at least, one of them to score on; "
            f"found {len(paths)}"
        )
    return paths


def match_truths(paths: Sequence[Path], images: Path, truths: Path) -> dict[Path, Path]:
    """Return the truth of each image: of the same path in its folder, else of the same name.

    Suffixes do not count.

    Args:
        paths: Images.
        images: The folder that they are in, or in folders of.
        truths: The folder of the truths.

    Raises:
        UserError: An image has no truth, or several.
    """
    keys = {path.relative_to(images).with_suffix("") for path in paths}
    of_path: dict[Path, list[Path]] = {}
    of_name: dict[str, list[Path]] = {}
    # The images themselves may lie in a folder among the truths.
    for truth in list_images(truths, [images], option="--truth"):
        key = truth.relative_to(truths).with_suffix("")
        of_path.setdefault(key, []).append(truth)
        # A truth of the path of an image is that of no other image.
        if key not in keys:
            of_name.setdefault(truth.stem, []).append(truth)
    truth_of = {}
    missing: list[str] = []
    for path in paths:
        same_path = of_path.get(path.relative_to(images).with_suffix(""), [])
        candidates = same_path or of_name.get(path.stem, [])
        if len(candidates) > 1:
            listed = ", ".join(str(other.relative_to(truths)) for other in candidates[:3])
            advice = "remove the others" if same_path else "put them into folders like --images"
            raise UserError(
                f"--truth {truths}: expected one truth for {path.relative_to(images)}, found "
                f"{listed}: {advice}"
            )
        if not candidates:
            missing.append(str(path.relative_to(images)))
            continue
        truth_of[path] = candidates[0]
    if missing:
        raise UserError(
            f"--truth {truths}: expected an image of the same name for each of --images; missing: "
            f"{', '.join(missing[:5])}"
        )
    return truth_of
