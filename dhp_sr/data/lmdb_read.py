"""Image databases in BasicSR's layout.

`x.lmdb/` holds `data.mdb` (key: file name without extension; value: the bytes of a PNG) and
`meta_info.txt`, with a line for each image: `0001_s001.png (480,480,3) 1`, that is name,
(height,width,channels) and the PNG compression level.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dhp_sr.data.lmdb_pages import LmdbDamageError, LmdbFile
from dhp_sr.utils.errors import UserError

META = "meta_info.txt"
DATA = "data.mdb"
_LINE = re.compile(
    r"(?P<key>.+)\.png \((?P<height>\d+),(?P<width>\d+),(?P<channels>\d+)\) (?P<level>\d+)"
)


class Database:
    """A finished `.lmdb` folder. Nothing stays open: it can be forked, pickled and shared freely.

    Args:
        folder: The folder.

    Raises:
        UserError: The folder or a file in it is missing.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise UserError(f"{self.folder}: expected an LMDB folder, got none: check the path")
        for name in (DATA, META):
            if not (self.folder / name).is_file():
                raise UserError(
                    f"{self.folder}: expected the file {name} in this LMDB folder, got none: "
                    "it is unfinished or of another layout: make it with "
                    "`scripts/prepare_data.py lmdb`"
                )

    def sizes(self) -> dict[str, tuple[int, int, int]]:
        """Return (height, width, channels) by key, as the meta file says.

        Raises:
            UserError: A line of the meta file cannot be read.
        """
        sizes = {}
        # "utf-8-sig": editors on Windows put a byte-order mark in front
        text = (self.folder / META).read_text("utf-8-sig", errors="replace")
        # Not by `splitlines`, to which names may hold ends of lines; they may begin with a blank.
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            match = _LINE.fullmatch(line.rstrip())
            if match is None:
                raise UserError(
                    f"{self.folder / META}, line {number}: expected a line such as "
                    f"`0001.png (480,480,3) 1`, got {line!r}: make the LMDB again"
                )
            size = (int(match["height"]), int(match["width"]), int(match["channels"]))
            sizes[match["key"]] = size
        return sizes

    def read_bytes(self, key: str) -> bytes:
        """Return the PNG file stored under `key`.

        Raises:
            UserError: There is no such key, or the database is damaged.
        """
        return self.read_many([key])[0]

    def read_many(self, keys: Sequence[str]) -> list[bytes]:
        """Return the files stored under several keys; the database is opened once.

        Raises:
            UserError: As for `read_bytes`.
        """
        values = []
        # opened once for all keys, and closed before the images are decoded
        with self._opened() as data:
            for key in keys:
                value = data.get(key.encode("utf-8", "surrogateescape"))
                if value is None:
                    raise UserError(
                        f"{self.folder}: the database does not hold {key!r}, which is listed: "
                        "make the LMDB again"
                    )
                values.append(value)
        return values

    def keys(self) -> list[str]:
        """Return all keys of the database itself, sorted.

        Raises:
            UserError: The database is damaged.
        """
        with self._opened() as data:
            return [key.decode("utf-8", "replace") for key in data.iterate_keys()]

    @contextmanager
    def _opened(self) -> Iterator[LmdbFile]:
        try:
            with open(self.folder / DATA, "rb") as file:
                yield LmdbFile(file)
        except LmdbDamageError as error:
            raise UserError(
                f"{self.folder}: {DATA} is damaged: {error}; copy it again or make the LMDB again"
            ) from error
