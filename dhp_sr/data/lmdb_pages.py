"""Reading of LMDB's file format with plain reads instead of a memory map.

The library maps the file and trusts its pages: a damaged page number or a file cut short ends the
process (SIGBUS), with no error that could be reported. Image databases are only looked up by key,
so this reader follows the B+tree itself, with every number checked before it is used.

Reference:
    LMDB 0.9, `mdb.c`: structures MDB_meta, MDB_db, MDB_page and MDB_node; data version 1, as
    written on 64-bit little-endian machines.
"""

import os
import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_PAGE_HEADER = struct.Struct("<QHHHH")  # page number, padding, flags, lower, upper
_OVERFLOW_HEADER = struct.Struct("<QHHI")  # page number, padding, flags, number of pages
_META = struct.Struct("<IIQQ")  # magic, version, address of the map, size of the map
_DATABASE = struct.Struct("<IHHQQQQQ")  # padding, flags, depth, 3 page counts, entries, root
_META_END = struct.Struct("<QQ")  # last page, transaction
_NODE = struct.Struct("<HHHH")  # low and high half of a number, flags, length of the key
_PAGE_NUMBER = struct.Struct("<Q")
_BRANCH, _LEAF, _OVERFLOW, _META_PAGE = 0x01, 0x02, 0x04, 0x08
_LARGE_VALUE = 0x01
_NO_PAGE = 2**64 - 1
_MAX_DEPTH = 32


class LmdbDamageError(Exception):
    """A page of the file contradicts the format; the message says which and how."""


@dataclass(frozen=True)
class _Node:
    """An entry of a page."""

    key: bytes
    flags: int
    number: int
    """Length of the value in a leaf, page number of the child in a branch."""
    value_at: int
    """Position of the value within the page."""


class LmdbFile:
    """An open `data.mdb`.

    Args:
        file: Binary and seekable.

    Raises:
        LmdbDamageError: Neither of the two meta pages is sound, or the file is cut short.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, os.SEEK_END)
        self._page_size, self._root, last_page = self._read_meta()
        # the library would map the file and meet its end by a signal
        needed = (last_page + 1) * self._page_size
        if self._size < needed:
            raise LmdbDamageError(f"expected {needed} bytes, got {self._size}: it is cut short")

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, or None.

        Raises:
            LmdbDamageError: A page on the way to it is damaged.
        """
        if self._root == _NO_PAGE:
            return None
        page_number = self._root
        for _ in range(_MAX_DEPTH):
            page, flags = self._read_page(page_number)
            nodes = self._read_nodes(page, page_number, flags)
            keys = [node.key for node in nodes]
            if flags & _LEAF:
                index = bisect_right(keys, key) - 1
                if index < 0 or keys[index] != key:
                    return None
                return self._read_value(page, nodes[index])
            # the first key of a branch is empty: it stands for everything below the second
            page_number = nodes[max(0, bisect_right(keys, key, lo=1) - 1)].number
        raise LmdbDamageError(f"more than {_MAX_DEPTH} levels of pages")

    def iterate_keys(self) -> Iterator[bytes]:
        """Yield all keys in order.

        Raises:
            LmdbDamageError: A page is damaged.
        """
        if self._root == _NO_PAGE:
            return
        # a damaged child could lead back up, without an end
        visited: set[int] = set()
        pending = [self._root]
        while pending:
            page_number = pending.pop()
            if page_number in visited:
                raise LmdbDamageError(f"page {page_number} is reached twice")
            visited.add(page_number)
            page, flags = self._read_page(page_number)
            nodes = self._read_nodes(page, page_number, flags)
            if flags & _LEAF:
                yield from (node.key for node in nodes)
            else:
                pending += [node.number for node in reversed(nodes)]

    def _read_meta(self) -> tuple[int, int, int]:
        """Return page size, root page and last page of the newer of the two meta pages."""
        sound = []
        page_size = 4096  # where the first meta page is damaged
        for number in (0, 1):
            try:
                content = self._read(number * page_size, 512)
                _, _, flags, _, _ = _PAGE_HEADER.unpack_from(content)
                magic, version, _, _ = _META.unpack_from(content, 16)
                stated_page_size = _DATABASE.unpack_from(content, 40)[0]
                root = _DATABASE.unpack_from(content, 88)[-1]
                last_page, transaction = _META_END.unpack_from(content, 136)
            except LmdbDamageError:
                continue
            if (magic, version) != (_MAGIC, _VERSION) or not flags & _META_PAGE:
                continue
            # that of the operating system of the writer, a power of two
            if stated_page_size not in (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536):
                continue
            page_size = stated_page_size
            sound.append((transaction, page_size, root, last_page))
        # a commit writes the older page, so that a crash leaves the newer of the two intact
        if not sound:
            raise LmdbDamageError("there is no sound meta page of LMDB")
        _, page_size, root, last_page = max(sound)
        return page_size, root, last_page

    def _read(self, position: int, length: int) -> bytes:
        if position + length > self._size:
            raise LmdbDamageError(f"byte {position + length} is beyond the end of the file")
        self._file.seek(position)
        return self._file.read(length)

    def _read_page(self, page_number: int) -> tuple[bytes, int]:
        """Return a branch or leaf page and its flags."""
        page = self._read(page_number * self._page_size, self._page_size)
        stated, _, flags, _, _ = _PAGE_HEADER.unpack_from(page)
        if stated != page_number or flags & 0x0F not in (_BRANCH, _LEAF):
            raise LmdbDamageError(f"page {page_number} is none of a tree (flags {flags:#x})")
        return page, flags

    def _read_nodes(self, page: bytes, page_number: int, flags: int) -> list[_Node]:
        _, _, _, lower, upper = _PAGE_HEADER.unpack_from(page)
        if not _PAGE_HEADER.size <= lower <= upper <= len(page):
            raise LmdbDamageError(f"page {page_number} has wrong bounds")
        # offsets of the entries follow the header, entries grow from the end of the page
        count = (lower - _PAGE_HEADER.size) // 2
        if not count:
            raise LmdbDamageError(f"page {page_number} is empty")
        nodes = []
        for offset in struct.unpack_from(f"<{count}H", page, _PAGE_HEADER.size):
            if offset + _NODE.size > len(page):
                raise LmdbDamageError(f"page {page_number} has an entry beyond its end")
            low, high, node_flags, key_length = _NODE.unpack_from(page, offset)
            key_at = offset + _NODE.size
            value_at = key_at + key_length
            if value_at > len(page):
                raise LmdbDamageError(f"page {page_number} has a key beyond its end")
            number = low | high << 16
            if flags & _BRANCH:
                # page numbers have 48 bits; the flags are the upper 16
                number |= node_flags << 32
            nodes.append(_Node(page[key_at:value_at], node_flags, number, value_at))
        return nodes

    def _read_value(self, page: bytes, node: _Node) -> bytes:
        if node.flags & ~_LARGE_VALUE:
            raise LmdbDamageError("a value is a nested database, or a key has several")
        if not node.flags:
            # a small value, behind its key
            if node.value_at + node.number > len(page):
                raise LmdbDamageError("a value is longer than its page")
            return page[node.value_at : node.value_at + node.number]
        if node.value_at + _PAGE_NUMBER.size > len(page):
            raise LmdbDamageError("the page number of a value is beyond the end of its page")
        # a large value, on pages that follow each other
        (page_number,) = _PAGE_NUMBER.unpack_from(page, node.value_at)
        position = page_number * self._page_size
        header = self._read(position, _OVERFLOW_HEADER.size)
        stated, _, flags, pages = _OVERFLOW_HEADER.unpack(header)
        capacity = pages * self._page_size - _OVERFLOW_HEADER.size
        if stated != page_number or flags & 0x0F != _OVERFLOW or node.number > capacity:
            raise LmdbDamageError(f"page {page_number} does not hold the value that it should")
        return self._read(position + _OVERFLOW_HEADER.size, node.number)
