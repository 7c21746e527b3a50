"""Crops of the photographs that come with scikit-image: whole ones take seconds to score."""

from pathlib import Path

from dhp_sr.data.images import encode_png
from dhp_sr.data.sources import find_images


def save_pieces(folder: Path, part: str, side: int = 128, count: int = 1) -> Path:
    """Write the upper left corners of the first photographs of `train` or `val` as PNG files.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(find_images(f"bundled:{part}")[:count]):
        (folder / f"{number}.png").write_bytes(encode_png(image.read()[:side, :side]))
    return folder
