"""Checks in a forward, told from branches: where a condition fails, it raises an error.

`assert x.shape[1] == self.channels` decides nothing about what is computed. So it pins no channels,
and a cut network whose numbers of channels are others does without it.
"""

import dis
from collections.abc import Mapping, Sequence
from types import FrameType

import torch
from torch import fx

MAX_INSTRUCTIONS = 200
"""Instructions that are looked at behind a condition; messages of errors have fewer."""

_EFFECTS = ("STORE_", "DELETE_", "RETURN_", "YIELD_", "IMPORT_", "POP_TOP")
"""Instructions of a branch that does more than raise: it keeps something, or calls for an effect.
"""

_DECIDES = "decides"


def assert_as_traced(proxy: fx.Proxy, value: float, *, is_check: bool = False) -> None:
    """Assert in the graph that a number is as it was when a branch was decided.

    Args:
        proxy: The number, and its value while tracing.
        value: See `proxy`.
        is_check: Whether the forward itself raises an error where it is not.
    """
    message = (
        f"this forward was followed with {proxy.node.name} = {value}, "
        "not so for an input of this shape"
    )
    arguments = (proxy == value, message)
    assertion = proxy.tracer.create_proxy("call_function", torch._assert, arguments, {})
    assertion.node.meta[_DECIDES] = not is_check


def is_check(node: fx.Node) -> bool:
    """Return whether a node of a graph is a check of the forward's own."""
    return node.target is torch._assert and not node.meta.get(_DECIDES, False)


def belongs_to_check(frame: FrameType) -> bool:
    """Return whether the condition that a frame asks for is one of a check.

    Told from the bytecode, which stands at a conditional jump in `assert` and `if`: from one of its
    two sides, every way raises an error or, as in `assert a or b`, asks for a further condition and
    joins the other side.
    """
    instructions = list(dis.get_instructions(frame.f_code))
    position_of = {instruction.offset: at for at, instruction in enumerate(instructions)}
    here = position_of.get(frame.f_lasti)
    if here is None or not _is_conditional(instructions[here]):
        return False
    next_one, target = here + 1, position_of[instructions[here].argval]
    return _raises_before(instructions, position_of, next_one, target) or _raises_before(
        instructions, position_of, target, next_one
    )


def _raises_before(
    instructions: Sequence[dis.Instruction], position_of: Mapping[int, int], start: int, end: int
) -> bool:
    """Return whether an error is raised on the ways from `start` to `end`, and else nothing done.

    Args:
        instructions: Those of a function.
        position_of: Offset of each instruction -> its position.
        start: Position of the first instruction.
        end: Position at which a way ends without an error.
    """
    has_raised = False
    waiting = [start]
    seen: set[int] = set()
    while waiting:
        at = waiting.pop()
        if at == end or at in seen:
            continue
        seen.add(at)
        instruction = instructions[at]
        if len(seen) > MAX_INSTRUCTIONS or instruction.opname.startswith(_EFFECTS):
            return False
        if instruction.opname == "RAISE_VARARGS":
            has_raised = True
            continue
        if "JUMP" in instruction.opname:
            waiting.append(position_of[instruction.argval])
        if not instruction.opname.startswith("JUMP_"):  # it may also go on with the next one
            waiting.append(at + 1)
    return has_raised


def _is_conditional(instruction: dis.Instruction) -> bool:
    """Return whether an instruction jumps by the truth of a value."""
    name = instruction.opname
    return name.startswith("POP_JUMP") and name.endswith(("IF_TRUE", "IF_FALSE"))
