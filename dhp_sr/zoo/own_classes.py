"""Our own classes, found out from the keys of weights, and their arguments from the shapes."""

import re
from collections.abc import Iterator, Mapping

from torch import Tensor

from dhp_sr.utils.strict_json import JsonObject


def own_candidates(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, JsonObject]]:
    """Yield our own classes whose keys these weights have, with arguments read from the shapes."""
    if _has_convolutions(weights, "model.0"):
        yield "DnCNN", _dncnn_arguments(weights)
    if _has_convolutions(weights, "block_1.c1_r", "conv_1"):
        yield "RLFN", _rlfn_arguments(weights)
    if _has_convolutions(weights, "conv_first", "conv_after_body", "conv_last"):
        yield "EDSR", _edsr_arguments(weights)


def _has_convolutions(weights: Mapping[str, Tensor], *names: str) -> bool:
    """Return whether weights hold convolutions of all these names."""
    for name in names:
        weight = weights.get(f"{name}.weight")
        # Sizes are divided by each other, so that none may be 0.
        if weight is None or weight.dim() != 4 or not weight.numel():
            return False
    return True


def _dncnn_arguments(weights: Mapping[str, Tensor]) -> JsonObject:
    num_layers = sum(tensor.dim() == 4 for tensor in weights.values())
    first = weights["model.0.weight"]
    return {
        "num_in_ch": first.shape[1],
        "num_feat": first.shape[0],
        "num_layers": num_layers,
        "batch_norm": any(key.endswith("running_mean") for key in weights),
    }


def _rlfn_arguments(weights: Mapping[str, Tensor]) -> JsonObject:
    first = weights["conv_1.weight"]
    arguments = {
        "num_in_ch": first.shape[1],
        "num_feat": first.shape[0],
        "num_block": _count(weights, r"block_(\d+)\."),
    }
    if "block_1.esa.conv1.weight" in weights:
        arguments["esa_feat"] = weights["block_1.esa.conv1.weight"].shape[0]
    if "upsampler.0.weight" in weights:
        out_channels = weights["upsampler.0.weight"].shape[0]
        # As many output channels as input channels, which every published file has.
        arguments["num_out_ch"] = first.shape[1]
        arguments["upscale"] = round((out_channels / first.shape[1]) ** 0.5)
    return arguments


def _edsr_arguments(weights: Mapping[str, Tensor]) -> JsonObject:
    first = weights["conv_first.weight"]
    num_feat = first.shape[0]
    upscale = 1
    for key, tensor in weights.items():
        if re.fullmatch(r"upsample\.\d+\.weight", key):
            upscale *= round((tensor.shape[0] / num_feat) ** 0.5)
    arguments: JsonObject = {
        "num_in_ch": first.shape[1],
        "num_out_ch": weights["conv_last.weight"].shape[0],
        "num_feat": num_feat,
        "num_block": _count(weights, r"body\.(\d+)\."),
        "upscale": max(upscale, 2),
    }
    if first.shape[1] != 3:
        arguments["rgb_mean"] = [0.4371]
    return arguments


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    """Count the different numbers that a pattern finds at the start of the keys."""
    matches = (re.match(pattern, key) for key in weights)
    return len({match.group(1) for match in matches if match})
