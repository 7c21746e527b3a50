"""Operators that only move entries: the atoms are moved by the very same operator.

Where the forward states a number of channels (`x.view(n, 8, h, w)`), the rule notes which channels that number counts;
see `structure/rewrite.py`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from dhp_sr.operators.analysis_state import Count, Path, Size
from dhp_sr.operators.channel_ids import collapse, compact, tie_all
from dhp_sr.operators.context import Call, pinned
from dhp_sr.operators.layers import tie_parts


def moved(call: Call) -> Any:
    """Permutations, repetitions and the like, without a number that counts channels."""
    atoms, static = call.expanded(call.source), call.static
    if call.module is not None:
        result = call.module(atoms)
    elif call.node.op == "call_method":
        result = getattr(atoms, str(call.node.target))(
            *static(call.node.args[1:]), **static(call.node.kwargs)
        )
    else:
        rest = {name: value for name, value in call.node.kwargs.items() if name != "input"}
        result = call.node.target(atoms, *static(call.node.args[1:]), **static(rest))
    return (
        [compact(part) for part in result] if isinstance(result, (tuple, list)) else compact(result)
    )


def roll(call: Call) -> Any:
    """Entries pushed along axes, those at the end to the beginning; along the channels, the width would have a say."""
    dims = call.number(2, "dims")
    if any(
        call.varies(call.source, dim) for dim in ([dims] if isinstance(dims, int) else dims or [0])
    ):
        return pinned(call, f"channels pushed along at {call.layer}")
    return call.atoms[call.source] if dims else moved(call)


def reshape(call: Call) -> Tensor:
    """`view` and `reshape`: entries keep their order."""
    atoms = _reshaped(call.atoms[call.source], call.shape(call.source), tuple(call.value.shape))
    _note_sizes(call, _listed(call, 1, ("shape", "size")), 0, atoms)
    return atoms


def _reshaped(atoms: Tensor, old: tuple[int, ...], new: tuple[int, ...]) -> Tensor:
    """Reshape atoms like their value; last axes that stay, and hold no channels, are left out of the work."""
    same = 0
    while (
        same < min(len(old), len(new))
        and old[-1 - same] == new[-1 - same]
        and atoms.shape[-1 - same] == 1
    ):
        same += 1
    kept, size = len(old) - same, len(new) - same
    result = atoms.reshape(atoms.shape[:kept]).expand(old[:kept]).reshape(new[:size])
    return compact(result).reshape([*compact(result).shape, *[1] * same])


def unflatten(call: Call) -> Tensor:
    """One axis becomes several."""
    dim = call.number(1, "dim") % len(call.shape(call.source))
    atoms = _reshaped(call.atoms[call.source], call.shape(call.source), tuple(call.value.shape))
    _note_sizes(call, _listed(call, 2, ("sizes",)), dim, atoms)
    return atoms


def expand(call: Call) -> Any:
    """Repetition without copies; over as many channels as another value has, the repeated entries go with those."""
    entries = _listed(call, 1, ("size",))
    atoms = compact(call.expanded(call.source).expand(call.value.shape))
    for dim, (_, size) in enumerate(entries):
        counted = call.atoms.get(size) if isinstance(size, fx.Node) else None
        if (
            isinstance(counted, Size)
            and atoms.numel() == 1
            and len(counted.atoms) == call.value.shape[dim]
        ):
            call.book.pin(atoms, f"one value for all channels at {call.layer}")
            atoms = call.spread(counted.atoms, dim)
    _note_sizes(call, entries, 0, atoms)
    return atoms


def like_another(call: Call) -> Any:
    """`view_as`: both values lose the same channels."""
    other = call.argument(1, "other")
    atoms = _reshaped(call.atoms[call.source], call.shape(call.source), tuple(call.value.shape))
    if atoms.shape != call.atoms[other].shape:
        return pinned(call, f"shapes of different channels at {call.layer}")
    return tie_all([atoms, call.atoms[other]], call.book.ties)


def _listed(call: Call, index: int, names: Sequence[str]) -> list[tuple[Path, Any]]:
    """Return place and value of every size given, as a tuple or one by one."""
    path: Path = next(
        (("kwargs", name) for name in names if name in call.node.kwargs), ("args", index)
    )
    given = call.node.kwargs[path[1]] if path[0] == "kwargs" else call.node.args[index:]
    if path[0] == "kwargs" or (
        len(given) == 1 and isinstance(call.static(given[0]), (tuple, list))
    ):
        given = given if path[0] == "kwargs" else given[0]
        return (
            [(path, given)]
            if isinstance(given, fx.Node)
            else [((*path, at), one) for at, one in enumerate(given)]
        )
    return [(("args", index + place), size) for place, size in enumerate(given)]


def _note_sizes(call: Call, entries: list[tuple[Path, Any]], first: int, atoms: Tensor) -> None:
    """Note the sizes that count channels, and the axes whose size the forward works out by itself."""
    for dim, (path, size) in enumerate(entries, start=first):
        if isinstance(call.static(size), (tuple, list)):
            _tie_shapes(call, size, atoms)
            continue
        computed = any(call.sizes(size)) if isinstance(size, fx.Node) else size == -1
        if computed:
            call.book.free.setdefault(call.node.name, set()).add(dim)
        if size == -1 or (isinstance(size, fx.Node) and not computed):
            continue
        length = call.value.shape[dim]
        call.note(path, Count(atoms, dim, length, (0, length)), size)


def _tie_shapes(call: Call, shape: fx.Node, atoms: Tensor) -> None:
    """`x.view(y.shape)`: both values lose the same channels."""
    for dim, size in enumerate(call.atoms.get(shape) or []):
        if isinstance(size, Size) and atoms.numel() == atoms.shape[dim] == len(size.atoms):
            call.book.ties.tie(atoms.flatten(), size.atoms)
        elif isinstance(size, Size):
            call.book.pin(size, f"shapes of different channels at {call.layer}")
            call.book.pin(atoms, f"shapes of different channels at {call.layer}")


def concatenate(call: Call) -> Tensor:
    """Concatenation: of channels, one after the other; along another axis, tied."""
    return _joined(call, call.number(1, "dim", call.node.kwargs.get("axis", 0)) % call.value.dim())


def concatenate_channels(call: Call) -> Any:
    """`hstack`, of values with more than one axis."""
    return (
        _joined(call, 1)
        if call.value.dim() > 1
        else pinned(call, f"vectors joined at {call.layer}")
    )


def _joined(call: Call, dim: int) -> Tensor:
    parts = _parts(call)
    if any(size > 1 for atoms, _ in parts for axis, size in enumerate(atoms.shape) if axis != dim):
        rows = [_level(call, atoms, dim) for atoms, _ in parts]
        return tie_all(rows, call.book.ties)
    rows = [collapse(atoms, shape[dim], dim, call.book.ties) for atoms, shape in parts]
    return call.spread(torch.cat(rows), dim)


def _parts(call: Call) -> list[tuple[Tensor, tuple[int, ...]]]:
    """Return atoms and shape of each part, from a list of values or from another operator's list of results."""
    parts = call.argument(0, "tensors")
    if isinstance(parts, fx.Node):
        return [
            (atoms, tuple(value.shape))
            for atoms, value in zip(call.atoms[parts], call.values[parts], strict=True)
        ]
    return [(call.atoms[node], call.shape(node)) for node in parts]


def _level(call: Call, atoms: Tensor, dim: int) -> Tensor:
    """Tie what differs along `dim`."""
    first = atoms.narrow(dim, 0, 1)
    if atoms.shape[dim] > 1:
        call.book.ties.tie(atoms, first.expand_as(atoms))
    return first


def stack(call: Call) -> Tensor:
    """A new axis: the parts are tied, so that they stay equally wide."""
    dim = call.number(1, "dim", 0) % call.value.dim()
    return tie_all([atoms.unsqueeze(dim) for atoms, _ in _parts(call)], call.book.ties)


def pixel_shuffle(call: Call) -> Tensor:
    """Every r^2 consecutive channels become one."""
    channels = call.channels(call.source)
    rows = channels.reshape(call.value.shape[1], -1)
    call.book.ties.tie(rows, rows[:, :1].expand_as(rows))
    return call.spread(rows[:, 0])


def pixel_unshuffle(call: Call) -> Tensor:
    """Every channel becomes r^2 consecutive ones."""
    channels = call.channels(call.source)
    return call.spread(channels.repeat_interleave(call.value.shape[1] // len(channels)))


def channel_shuffle(call: Call) -> Tensor:
    """The channels of equal parts take turns; the parts stay equally wide."""
    groups = call.module.groups if call.module is not None else call.number(1, "groups")
    return call.spread(tie_parts(call, call.channels(call.source), groups).t().flatten())
