"""Wrappings of checkpoints: what training programs put around the weights of a network.

Weights lie in dictionaries (`params_ema`, `state_dict`), beside those of other networks
(`generator.`, `discriminator.`), behind the names of wrappers (`module.`, `_orig_mod.`, `model.`),
and next to their moving average (`ema_model.`). A wrapping is taken away where that is unambiguous.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dhp_sr.deploy.safetensors_io import ModelFileError

AVERAGED_KEYS = (
    "params_ema",
    "state_dict_ema",
    "ema_state_dict",
    "model_ema",
    "ema_model",
    "generator_ema",
    "net_g_ema",
    "ema",
)
"""Names of moving averages, which are what their authors score and publish."""

WRAPPER_KEYS = (
    *AVERAGED_KEYS,
    "params",
    "state_dict",
    "model_state_dict",
    "model",
    "generator",
    "netG",
    "net_g",
    "net",
    "network",
    "module",
    "weights",
)
"""Keys under which training programs store the weights, in order of preference."""

PREFIXES = tuple(f"{key}." for key in (*WRAPPER_KEYS, "_orig_mod"))
"""Names in front of those of the layers, for weights of a network that is not known."""

MAX_WRAPPERS = 3
"""Wrappings inside each other, at most, as in `model._orig_mod.module.`."""

_COUNTER = "n_averaged"
"""Key of the counter that torch's AveragedModel stores beside the weights."""
_AVERAGED = re.compile(r"(^|[._])(ema|swa|averaged?)([._]|$)")


@dataclass(frozen=True)
class Reading:
    """Weights as one interpretation of a file has them."""

    weights: Mapping[str, Tensor]
    prefix: str = ""
    """Text that was removed from the beginning of the keys; empty for the file as it is."""
    num_others: int = 0
    """Keys beside the weights, which were left out."""

    @property
    def note(self) -> str:
        """Describe what was left out; empty for the file as it is."""
        if not self.prefix:
            return ""
        note = f"weights below {self.prefix!r}"
        if self.num_others:
            note += f"; {self.num_others} keys beside them left out"
        return note


def unwrap_dictionaries(content: object) -> object:
    """Return the innermost dictionary that holds weights.

    Raises:
        ModelFileError: Several dictionaries hold some, under keys that say nothing.
    """
    for _ in range(MAX_WRAPPERS):
        if not isinstance(content, Mapping):
            break
        inner = {key: value for key, value in content.items() if isinstance(value, Mapping)}
        # Optimizers and schedules have dictionaries, too.
        holding = {key: value for key, value in inner.items() if _holds_weights(value)}
        known = [key for key in WRAPPER_KEYS if key in (holding or inner)]
        if known:
            content = inner[known[0]]
        elif len(holding) == 1:
            (content,) = holding.values()
        elif holding:
            raise ModelFileError(
                "expected the weights of one network, got several dictionaries of weights: "
                f"{', '.join(sorted(map(str, holding)))}; save the one that is meant alone"
            )
        else:
            break
    return content


def _holds_weights(value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    for key, inner in value.items():
        if torch.is_tensor(inner) and isinstance(key, str):
            return True
        if key in WRAPPER_KEYS and _holds_weights(inner):
            return True
    return False


def match_keys(
    expected: Collection[str], weights: Mapping[str, Tensor], is_optional: re.Pattern[str]
) -> Reading:
    """Find the weights of a known network in a file, below whatever prefix they are.

    Args:
        expected: Keys of the network.
        weights: Weights of the file.
        is_optional: Matches keys that a file need not have.

    Returns:
        The weights below the prefix that all expected keys are found below. Where there is none,
        the weights as they are: the caller says what is missing.

    Raises:
        ModelFileError: There are several such prefixes, and none is that of a moving average.
    """
    required = [key for key in expected if not is_optional.search(key)]
    plain = Reading(weights)
    if not required or all(key in weights for key in required):
        return plain
    anchor = required[0]
    complete = []
    for key in weights:
        prefix = key.removesuffix(anchor)
        is_prefix = key.endswith(anchor) and prefix.endswith(".")
        if is_prefix and all(prefix + name in weights for name in required):
            complete.append(prefix)
    if not complete:
        return plain
    if len(complete) > 1:
        averaged = [prefix for prefix in complete if _AVERAGED.search(prefix)]
        if len(averaged) != 1:
            names = ", ".join(map(repr, complete))
            raise ModelFileError(
                f"expected the weights of one network, got several that fit, below {names}; save "
                "the one that is meant alone"
            )
        complete = averaged
    return _below(weights, complete[0], "")


def possible_readings(weights: Mapping[str, Tensor]) -> Iterable[Reading]:
    """Yield weights of an unknown network as they are, and then without prefixes.

    A prefix that only some keys have marks the network among others, such as a discriminator or
    the modules of a loss: the keys without it are left out in that reading.
    """
    reading = Reading(weights)
    yield reading
    for _ in range(MAX_WRAPPERS):
        prefix = _choose_prefix(reading.weights)
        if prefix is None:
            return
        inner = _below(reading.weights, prefix, reading.prefix)
        others = reading.num_others + inner.num_others
        reading = Reading(inner.weights, inner.prefix, others)
        yield reading


def _below(weights: Mapping[str, Tensor], prefix: str, outer: str) -> Reading:
    inner = {}
    num_others = 0
    for key, tensor in weights.items():
        name = key.removeprefix(prefix)
        if name != key and name != _COUNTER:
            inner[name] = tensor
        elif not key.endswith(_COUNTER):
            num_others += 1
    return Reading(inner, outer + prefix, num_others)


def _choose_prefix(weights: Mapping[str, Tensor]) -> str | None:
    counts = {}
    for prefix in PREFIXES:
        counts[prefix] = sum(key.startswith(prefix) for key in weights)
    most = max(counts.values(), default=0)
    if most:
        # The first of equals: averages come before what they are averages of.
        return next(prefix for prefix in PREFIXES if counts[prefix] == most)
    names = first_names(weights)
    return f"{names[0]}." if len(names) == 1 else None


def first_names(weights: Iterable[str]) -> list[str]:
    """List the beginnings of the keys up to the first dot, each name once."""
    names = dict.fromkeys(key.partition(".")[0] for key in weights if key != _COUNTER)
    return list(names)


def check_finite(weights: Mapping[str, Tensor]) -> None:
    """Check that weights hold numbers; infinite ones are in use, in masks.

    Raises:
        ModelFileError: They hold NaN, as after a training that diverged, or levels of 8 bits.
    """
    damaged = []
    quantized = []
    for key, tensor in weights.items():
        # Vectors and single numbers of this type may be settings.
        if tensor.dtype in (torch.int8, torch.uint8) and tensor.dim() > 1:
            quantized.append(key)
        if tensor.is_floating_point() and bool(tensor.isnan().any()):
            count = int(tensor.isnan().sum())
            damaged.append(f"{key} ({count} of {tensor.numel()})")
    if quantized:
        shown = ", ".join(quantized[:4]) + (", ..." if len(quantized) > 4 else "")
        raise ModelFileError(
            f"expected weights in floating point, got levels of 8 bits in {len(quantized)} of "
            f"{len(weights)} tensors: {shown}; give the file that was quantized"
        )
    if damaged:
        shown = ", ".join(damaged[:4]) + (", ..." if len(damaged) > 4 else "")
        raise ModelFileError(
            f"expected numbers as weights, got NaN in {len(damaged)} of {len(weights)} tensors: "
            f"{shown}; the training that wrote them diverged, or the file is damaged"
        )
