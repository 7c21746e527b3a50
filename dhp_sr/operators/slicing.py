"""Operators that take values apart: chunks, parts of stated sizes, slices.

Where the forward states a number of channels (`split(x, (16, 48))`, `x[:, :4]`), the rule notes which channels that
number counts; see `structure/rewrite.py`. Each part is marked, so that none of them can become empty.
"""

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from dhp_sr.operators.analysis_state import Count, Path
from dhp_sr.operators.channel_ids import along, compact
from dhp_sr.operators.context import Call, pinned
from dhp_sr.operators.layers import tie_parts
from dhp_sr.operators.rearrange import moved


def chunk(call: Call) -> Any:
    """Equal parts of the channels: the same places of all parts are tied, so that the parts stay equal."""
    return _equal_parts(call, call.number(1, "chunks"))


def _equal_parts(call: Call, parts: int) -> Any:
    source, dim = call.source, call.number(2, "dim", 0)
    if not call.varies(source, dim):
        return [call.atoms[source] for _ in call.value]
    channels = call.channels(source, dim)
    if len(channels) % parts:
        return pinned(call, f"{len(channels)} channels in {parts} unequal parts at {call.layer}")
    return [along(row, len(call.shape(source)), dim) for row in tie_parts(call, channels, parts)]


def split(call: Call) -> Any:
    """Parts of stated sizes; sizes that the forward works out itself are those of equal parts."""
    source, dim = call.source, call.number(2, "dim", 0)
    name = next((name for name in call.node.kwargs if name.startswith("split_size")), "")
    given, sizes, varies = (
        call.argument(1, name),
        [part.shape[dim] for part in call.value],
        call.varies(source, dim),
    )
    computed = any(call.sizes(given))
    if varies and computed and len(set(sizes)) == 1:
        rows = tie_parts(call, call.channels(source, dim), len(sizes))
        parts = [along(row, len(call.shape(source)), dim) for row in rows]
    else:
        parts = (
            list(torch.split(call.atoms[source], sizes, dim))
            if varies
            else [call.atoms[source] for _ in sizes]
        )
        for place, part in enumerate(parts if varies else []):
            call.book.ties.mark(part, f"{call.layer}[{place}]")
    if varies or computed:
        ends = list(accumulate(sizes))
        bounds = [(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        call.note(call.place(1, name), [_count(call, dim, one) for one in bounds], given)
    return parts


def tensor_split(call: Call) -> Any:
    """A number of parts, as `chunk` makes them; the places of others, if they lie among the channels, are not moved."""
    name = next((name for name in call.node.kwargs if name not in ("dim", "input")), "")
    stated = call.number(1, name)
    if isinstance(stated, int):
        return _equal_parts(call, stated)
    if call.varies(call.source, call.number(2, "dim", 0)):
        return pinned(call, f"channels in parts between stated places at {call.layer}")
    return [call.atoms[call.source] for _ in call.value]


def _count(call: Call, dim: int, bounds: tuple[int, int]) -> Count:
    shape = call.shape(call.source)
    return Count(call.atoms[call.source], dim % len(shape), shape[dim], bounds)


def unbind(call: Call) -> Any:
    """One part for every entry along an axis."""
    if call.varies(call.source, call.number(1, "dim", 0)):
        return pinned(call, f"channels taken one by one at {call.layer}")
    return moved(call)


def item(call: Call) -> Any:
    """One of several results, a size, or a part of a tensor."""
    source, index = call.node.args
    atoms = call.atoms.get(source)
    if isinstance(atoms, list):
        return atoms[call.static(index)]
    if atoms is None:
        return None
    places = list(index) if isinstance(index, tuple) else [index]
    if not all(one is None or one is Ellipsis or isinstance(one, (slice, int)) for one in places):
        return pinned(call, f"picking by a tensor or a computed place at {call.layer}")
    for dim, path, one in _axes(places, isinstance(index, tuple), atoms.dim()):
        counts = atoms.shape[dim] > 1 or any(call.sizes(_bounds(one)))
        if counts and one != slice(None) and not _note_part(call, atoms, dim, path, one):
            return pinned(call, f"every n-th channel taken at {call.layer}")
    return compact(call.expanded(source)[call.static(index)])


def _bounds(one: Any) -> list[Any]:
    return [one.start, one.stop, one.step] if isinstance(one, slice) else [one]


def _axes(places: list[Any], many: bool, rank: int) -> Iterator[tuple[int, Path, Any]]:
    """Yield the axis that each part of an index is for."""
    indexed = sum(one is not None and one is not Ellipsis for one in places)
    dim = 0
    for place, one in enumerate(places):
        if one is Ellipsis:
            dim += rank - indexed
        elif one is not None:
            yield dim, ("args", 1, place) if many else ("args", 1), one
            dim += 1


def _note_part(call: Call, atoms: Tensor, dim: int, path: Path, one: Any) -> bool:
    """Note the bounds of a part of the channels; returns False for one with steps."""
    size, stated, varies = (
        call.shape(call.node.args[0])[dim],
        call.static(one),
        atoms.shape[dim] > 1,
    )
    if isinstance(stated, int):
        first = stated % size
        if varies:
            call.book.ties.pin(
                atoms.narrow(dim, first, 1), f"a single channel taken at {call.layer}"
            )
        call.note(path, Count(atoms, dim, size, (0, first)), [one])
        return True
    if stated.step not in (None, 1):
        return False
    start, stop, _ = stated.indices(size)
    if varies:
        call.book.ties.mark(atoms.narrow(dim, start, max(stop - start, 0)), call.layer)
    for name, bound in (("start", start), ("stop", stop)):
        if getattr(one, name) is not None:
            call.note((*path, name), Count(atoms, dim, size, (0, bound)), [getattr(one, name)])
    return True


def narrow(call: Call) -> Any:
    """A part of one axis, by start and length."""
    source, dim, start, length = (
        call.source,
        *(call.number(*one) for one in ((1, "dim"), (2, "start"), (3, "length"))),
    )
    atoms, stated = call.atoms[source], [call.argument(2, "start"), call.argument(3, "length")]
    if not call.varies(source, dim) and not any(call.sizes(stated)):
        return atoms
    start %= call.shape(source)[dim]
    call.note(call.place(2, "start"), _count(call, dim, (0, start)), stated[0])
    call.note(call.place(3, "length"), _count(call, dim, (start, start + length)), stated[1])
    if not call.varies(source, dim):
        return atoms
    part = atoms.narrow(dim, start, length)
    call.book.ties.mark(part, call.layer)
    return part


def halves(call: Call) -> Any:
    """Gated linear unit: one half of the channels times a function of the other."""
    dim = call.module.dim if call.module is not None else call.number(1, "dim", -1)
    if not call.varies(call.source, dim):
        return call.atoms[call.source]
    return call.spread(tie_parts(call, call.channels(call.source, dim), 2)[0], dim)
