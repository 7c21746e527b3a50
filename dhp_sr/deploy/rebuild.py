"""A network rebuilt from its manifest and the shapes of its tensors, without memory for weights.

The file is not trusted. Layers are made on the meta device and counted, and everything that does
not fit is noticed before a single weight is read. Nothing of the file is ever executed: it names a
registered constructor and gives numbers to it.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from dhp_sr.archs import ARCHS
from dhp_sr.channels.build_plan import make_plan
from dhp_sr.channels.plan import ChannelPlan
from dhp_sr.deploy.manifest import (
    MAX_SIDE,
    derived_keys,
    describe,
    third_party_info,
)
from dhp_sr.deploy.model_info import (
    CLASSIFICATION,
    ModelInfo,
    attach_info,
    construct,
    stated_info,
)
from dhp_sr.deploy.removed import TENSORS_PER_LAYER, remove_layers
from dhp_sr.deploy.safetensors_io import ModelFileError
from dhp_sr.deploy.without_memory import (
    MAX_VALUES,
    TooLargeError,
    check_layer_counts,
    without_memory,
)
from dhp_sr.graph.shape_inference import infer_output
from dhp_sr.operators.resize import resize
from dhp_sr.surgery.rewrite import rewrite
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.modules import deep_copy
from dhp_sr.utils.strict_json import Json, JsonObject

MAX_TENSORS = 4096
"""Limit of a network's tensors; more layers take longer than a second to make, even when they are
not those of the file."""

_MAX_LISTED_KEYS = 50


def rebuild(manifest: JsonObject, shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """Rebuild the network that a manifest describes, with tensors of the given shapes.

    Args:
        manifest: Checked by `manifest.unpack`.
        shapes: Shapes of every tensor of the network's state dict, by key.

    Returns:
        The network in eval mode, with its `ModelInfo`. Its weights are on the meta device;
        constants that are not in the file are real.

    Raises:
        ModelFileError: Manifest and shapes do not make a working network; the message lists
            every key that is missing, unexpected or of another shape.
    """
    if len(shapes) > MAX_TENSORS:
        raise ModelFileError(f"expected at most {MAX_TENSORS} tensors, got {len(shapes)}")
    removed = manifest.get("removed")
    # Removed layers have hardly any tensors in the file, but those of their class at first.
    num_tensors = len(shapes)
    if isinstance(removed, dict):
        num_tensors += TENSORS_PER_LAYER * min(len(removed), MAX_TENSORS)
    check_layer_counts(manifest["arguments"], num_tensors)
    third_party = manifest["architecture"] not in ARCHS
    info = third_party_info(manifest) if third_party else None
    unpruned = _construct(manifest, num_tensors).eval()
    # Kept beside the resized copy: channel numbers in the forward refer to the unpruned network.
    network = deep_copy(unpruned)
    remove_layers(network, removed, shapes)
    resize_layers(network, shapes, manifest["arguments"])
    if info is not None:
        network = restore_forward(unpruned, network, manifest.get("forward"))
        attach_info(network, info)
    check_description(network, manifest)
    # Networks of `archs` describe themselves by attributes, whatever the file says.
    info = stated_info(network)
    info = replace(
        info,
        out_channels=check_forward(network, info),
        license=_text(manifest.get("licence")),
        parent=_text(manifest.get("parent")),
    )
    return attach_info(network, info)


def _text(fact: Json) -> str | None:
    """Return a stored fact if it is text: facts of other people's files can be anything."""
    return fact if isinstance(fact, str) else None


def _construct(manifest: JsonObject, num_tensors: int) -> nn.Module:
    architecture = manifest["architecture"]
    arguments = manifest["arguments"]
    try:
        return without_memory(lambda: construct(architecture, arguments), num_tensors)
    except TooLargeError as error:
        raise ModelFileError(f"manifest: {error}") from error
    except ModelFileError:
        raise
    except Exception as error:
        # Constructors of other packages raise anything; the file's arguments are the reason.
        raise ModelFileError(f"manifest: {str(error)[:500]}") from error


def resize_layers(
    network: nn.Module, shapes: Mapping[str, tuple[int, ...]], arguments: Mapping[str, Json]
) -> None:
    """Give the layers the widths of the file's tensors, in place."""
    # Keys and shapes are reported together: users of a damaged file see the whole extent.
    expected = network.state_dict()
    missing = [key for key in expected if key not in shapes]
    unexpected = [key for key in shapes if key not in expected]
    lines = [*_listing("missing", missing), *_listing("unexpected", unexpected)]
    try:
        resize(network, {key: shape for key, shape in shapes.items() if key in expected})
    except UserError as error:
        lines += ["wrong shape: " + line.strip() for line in str(error).splitlines()[1:]]
    if lines:
        call = ", ".join(f"{name}={value}" for name, value in arguments.items())
        raise ModelFileError(
            f"the tensors are not those of {type(network).__name__}({call}):\n  "
            + "\n  ".join(lines)
        )


def _listing(problem: str, keys: list[str]) -> list[str]:
    lines = [f"{problem}: {key}" for key in keys[:_MAX_LISTED_KEYS]]
    if len(keys) > _MAX_LISTED_KEYS:
        lines.append(f"{problem}: and {len(keys) - _MAX_LISTED_KEYS} more")
    return lines


def restore_forward(unpruned: nn.Module, small: nn.Module, forward: JsonObject | None) -> nn.Module:
    """Write the channel numbers that a file states into a traced forward.

    Only arguments that the plan of the unpruned network names are changed, and only to numbers of
    channels that exist: a file cannot put anything else into the forward.
    """
    if forward is None:
        return small
    try:
        shape = [int(side) for side in forward["example_shape"]]
        if not 0 < len(shape) < 6 or not 0 < math.prod(shape) < MAX_VALUES:
            raise ValueError(f"example_shape {shape}")
        # On the meta device: the file chooses the shape.
        plan = make_plan(unpruned, torch.zeros(shape, device="meta"))
        stated = _all_numbers(plan, forward)
        return rewrite(unpruned, small, plan, stated)
    except Exception as error:
        # Tracing and rewriting fail in many ways; the file's numbers are the reason.
        raise ModelFileError(
            f"manifest: the forward cannot be rewritten as stated: {str(error)[:500]}"
        ) from error


def _all_numbers(plan: ChannelPlan, forward: JsonObject) -> list[int | list[int]]:
    """Return a value for every number of channels that a plan finds in the forward.

    A network that was pruned in some of its layers alone states only theirs; the other numbers are
    as they were. Files that do not name their numbers state all of them.
    """
    values = forward["stated"]
    names = forward.get("numbers")
    # By position where there are as many: names of nodes may differ from run to run.
    if names is None or len(values) == len(plan.size_patches):
        pairs = list(zip(plan.size_patches, values, strict=True))
    else:
        given = dict(zip(names, values, strict=True))
        everything = torch.ones(plan.size + 1, dtype=torch.bool)
        pairs = []
        for number in plan.size_patches:
            pairs.append((number, given.pop(number.name, number.kept_size(everything))))
        if given:
            raise ValueError(f"{', '.join(given)}: no such number in the forward")
    for number, value in pairs:
        counts = value if number.is_list else [value]
        # A stated size counts no more channels than there are.
        for count, index in zip(counts, number.counted, strict=True):
            if not isinstance(count, int) or not 0 <= count <= len(index):
                raise ValueError(
                    f"{number.node}: expected at most {len(index)} channels, got {count!r}"
                )
    return [value for _, value in pairs]


def check_description(network: nn.Module, manifest: JsonObject) -> None:
    """Compare the manifest with the description of the network that was rebuilt from it."""
    actual = describe(network)
    stated_multiple = manifest["size_multiple"]
    # The first edition's UNet required multiples of a power of two; today's pads inside. Such
    # files may state a stricter requirement than the network has.
    stricter = stated_multiple % actual["size_multiple"] == 0 if stated_multiple > 0 else False
    if stricter and stated_multiple <= MAX_SIDE:
        actual["size_multiple"] = stated_multiple
    for key in derived_keys(manifest):
        # Arguments may lack what the class has learned since; widths get a line each below.
        if key not in ("arguments", "widths") and manifest[key] != actual[key]:
            raise ModelFileError(
                f"manifest: {key} is {manifest[key]!r}, but the tensors make it {actual[key]!r}"
            )
    for name in {**actual["widths"], **manifest["widths"]}:
        stated_width = manifest["widths"].get(name)
        actual_width = actual["widths"].get(name)
        if stated_width != actual_width:
            raise ModelFileError(
                f"manifest: width of {name} is {stated_width!r}, "
                f"but the tensors make it {actual_width!r}"
            )


def check_forward(network: nn.Module, info: ModelInfo) -> int:
    """Pass a shape through the network and return its output channels.

    Layers whose widths do not fit each other fail here, before any memory is spent on weights.
    """
    side = info.example_side
    try:
        result = infer_output(network, (1, info.in_channels, side, side))
    except Exception as error:
        # The shapes come from a file: any failure means that they do not fit.
        raise ModelFileError(
            f"the layers' widths do not fit each other: {str(error)[:500]}"
        ) from error
    shape = tuple(result.shape)
    if info.task == CLASSIFICATION:
        valid = len(shape) == 2
        expected = "(images, classes)"
    else:
        valid = shape[-2:] == (side * info.scale, side * info.scale)
        expected = f"{info.scale} times that size"
    if not valid:
        raise ModelFileError(
            f"expected an output of {expected} for a {side}x{side} input, got {shape}"
        )
    return shape[1]
