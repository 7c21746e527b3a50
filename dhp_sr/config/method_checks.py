"""Settings that a search method cannot work with, and settings that have no effect on it."""

from collections.abc import Iterator

from dhp_sr.config.compress import Compress
from dhp_sr.config.schema import Options
from dhp_sr.config.section import Issue, changed
from dhp_sr.utils.cost_kinds import COST_KINDS
from dhp_sr.utils.methods import METHODS


def method_problems(options: Options) -> Iterator[Issue]:
    """Yield the settings that the method cannot work with."""
    compress = options.compress
    if compress is None:
        return
    method = compress.method
    spec = METHODS[method]
    if spec.has_presets and compress.preset == "paper":
        yield from _paper_preset_problems(options, compress)
    if spec.parametrization not in (None, compress.parametrization):
        yield (
            ("compress", "parametrization"),
            f"method {method} expects {spec.parametrization}, got {compress.parametrization}",
        )
    # Gates on random weights would choose channels at random.
    if spec.freezes_weights and not is_trained_before(options, compress):
        yield (
            ("compress", "dense_iter"),
            f"method {method} leaves the weights as they are during the search, so it expects "
            "trained ones: dense_iter above 0 or path.pretrain_network_g; got none",
        )


def is_trained_before(options: Options, compress: Compress) -> bool:
    """Return whether the network has learned anything by the time the search begins."""
    return bool(compress.dense_iter or options.path.pretrain_network_g)


def _paper_preset_problems(options: Options, compress: Compress) -> Iterator[Issue]:
    if is_trained_before(options, compress):
        yield (
            ("compress", "preset"),
            "paper draws its own initial weights and would throw a trained network away: set "
            "dense_iter: 0 and leave path.pretrain_network_g out, or preset: default",
        )
    kind = compress.targets[0].kind
    if COST_KINDS[kind].is_measured:
        counted = [name for name, info in COST_KINDS.items() if not info.is_measured]
        yield (
            ("compress", "preset"),
            f"paper expects a target of {' or '.join(counted)}, got {kind}; set preset: default",
        )
    if compress.parametrization != "full":
        yield (
            ("compress", "parametrization"),
            "preset paper expects full, the paper's hypernetwork",
        )


def idle_in_search(options: Options) -> Iterator[Issue]:
    """Yield the settings that were given and have no effect on the search."""
    compress = options.compress
    if compress is None:
        return
    spec = METHODS[compress.method]
    if not spec.has_presets and changed(compress, "preset"):
        yield ("compress", "preset"), f"has no effect with method: {compress.method}"
    if compress.remove_blocks and not spec.removes_blocks:
        yield ("compress", "remove_blocks"), f"has no effect with method: {compress.method}"
    elif compress.remove_blocks and compress.obs.widths is not None:
        yield ("compress", "remove_blocks"), "has no effect on widths that are given"
    # Options of another method are often left in a file to switch back to, hence no mistake.
    names = dict.fromkeys(other.section for other in METHODS.values())
    for name in names:
        if name not in (None, spec.section) and changed(compress, name):
            yield ("compress", name), f"has no effect with method: {compress.method}"
    section = compress.method_section
    if section is None or spec.section is None:
        return
    for name, reason in section.unused_settings(compress.method, compress.preset):
        yield ("compress", spec.section, name), reason
