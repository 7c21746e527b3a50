"""Image databases in BasicSR's layout.

`x.lmdb/` holds `data.mdb` (key: file name without extension; value: the bytes of a PNG) and `meta_info.txt`, with one
line an image: `0001_s001.png (480,480,3) 1`, that is name, (height,width,channels) and the PNG compression level.
"""

import importlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from dhp_sr.utils.errors import UserError

if TYPE_CHECKING:
    import lmdb

META = "meta_info.txt"
_LINE = re.compile(
    r"(?P<key>.+)\.png \((?P<height>\d+),(?P<width>\d+),(?P<channels>\d+)\) (?P<level>\d+)"
)


def import_lmdb() -> ModuleType:
    """Return the package `lmdb`, which only those need who have databases.

    Raises:
        UserError: It is not installed.
    """
    try:
        return importlib.import_module("lmdb")
    except ImportError as error:
        advice = "`pip install lmdb`, or name a folder of images"
        raise UserError(
            f"reading and writing LMDB needs the package lmdb, which is not installed: {advice}"
        ) from error


class Database:
    """Reads one `.lmdb` folder. It is opened for every access, so that it can be forked, pickled and shared freely."""

    def __init__(self, folder: str | Path) -> None:
        """Check that the folder is complete.

        Raises:
            UserError: The folder or one of its files is missing.
        """
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise UserError(f"{self.folder}: expected an LMDB folder, found none: check the path")
        for name in ("data.mdb", META):
            if not (self.folder / name).is_file():
                advice = "it is unfinished or of another layout: make it with `scripts/prepare_data.py lmdb`"
                raise UserError(
                    f"{self.folder}: expected the file {name} in this LMDB folder, found none: {advice}"
                )

    def sizes(self) -> dict[str, tuple[int, int, int]]:
        """Return (height, width, channels) by key, as the meta file says.

        Raises:
            UserError: A line of the meta file cannot be read.
        """
        found = {}
        for number, line in enumerate(
            (self.folder / META).read_text("utf-8", errors="replace").splitlines(), start=1
        ):
            match = _LINE.fullmatch(line.strip())
            if match is None:
                expected = "expected a line such as `0001.png (480,480,3) 1`"
                raise UserError(
                    f"{self.folder / META}, line {number}: {expected}, found {line!r}: make the LMDB again"
                )
            found[match["key"]] = (
                int(match["height"]),
                int(match["width"]),
                int(match["channels"]),
            )
        return found

    def read_bytes(self, key: str) -> bytes:
        """Return the PNG file stored under `key`.

        Raises:
            UserError: There is no such key.
        """
        with self._transaction() as transaction:
            value = transaction.get(key.encode())
        if value is None:
            raise UserError(
                f"{self.folder}: {META} lists {key!r}, the database does not hold it: make the LMDB again"
            )
        return bytes(value)

    def read_many(self, keys: Sequence[str]) -> list[bytes]:
        """Return the files stored under several keys; the database is opened once."""
        with self._transaction() as transaction:
            found = [transaction.get(key.encode()) for key in keys]
        missing = [key for key, value in zip(keys, found, strict=True) if value is None]
        if missing:
            raise UserError(
                f"{self.folder}: the database does not hold {missing[0]!r}: make the LMDB again"
            )
        return [bytes(value) for value in found if value is not None]

    def keys(self) -> list[str]:
        """Return all keys of the database itself, sorted."""
        with self._transaction() as transaction:
            return [
                bytes(key).decode()
                for key in transaction.cursor().iternext(keys=True, values=False)
            ]

    def _check_whole(self, environment: "lmdb.Environment") -> None:
        """Check that the file holds all of its pages: reading a missing one would end the process, without an error."""
        needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        found = (self.folder / "data.mdb").stat().st_size
        if found < needed:
            cut = f"expected {needed} bytes in data.mdb, found {found}: it is cut short"
            raise UserError(f"{self.folder}: {cut}; copy it again or make the LMDB again")

    @contextmanager
    def _transaction(self) -> "Iterator[lmdb.Transaction]":
        lmdb = import_lmdb()
        try:
            with lmdb.open(
                str(self.folder), readonly=True, lock=False, readahead=False
            ) as environment:
                self._check_whole(environment)
                with environment.begin() as transaction:
                    yield transaction
        except lmdb.Error as error:
            raise UserError(
                f"{self.folder}: cannot read the database ({error}): make the LMDB again"
            ) from error
