"""Settings that do not suit the search method, and those that it makes nothing of."""

from collections.abc import Callable, Iterator

from dhp_sr.config.compress import HSN, Compress
from dhp_sr.config.methods import LATENT_SETTINGS, RULES, rules_of
from dhp_sr.config.schema import Options
from dhp_sr.config.section import Finding, changed


def method_problems(options: Options) -> Iterator[Finding]:
    """Yield the settings that the method cannot work with."""
    compress = options.compress
    if compress is None:
        return
    if (compress.method, compress.preset) == ("dhp", "faithful"):
        yield from _of_faithful(options, compress)
    method, rules = compress.method, rules_of(compress.method)
    if rules.parametrization not in ("", compress.parametrization):
        expected = (
            f"method {method} expects {rules.parametrization}, found {compress.parametrization}"
        )
        yield ("compress", "parametrization"), expected
    if rules.wants_trained and not is_trained_before(options, compress):
        yield (
            ("compress", "dense_iter"),
            f"method {method} {rules.wants_trained}, so it expects trained ones: dense_iter above 0 or "
            "path.pretrain_network_g; found none",
        )


def is_trained_before(options: Options, compress: Compress) -> bool:
    """Return whether the network has learned anything by the time the search begins."""
    return bool(compress.dense_iter or options.path.pretrain_network_g)


def _of_faithful(options: Options, compress: Compress) -> Iterator[Finding]:
    if is_trained_before(options, compress):
        yield (
            ("compress", "preset"),
            "faithful draws its own initial weights and would throw a trained network away: set dense_iter: 0 and "
            "leave path.pretrain_network_g out, or preset: modern",
        )
    if compress.targets[0].kind == "latency":
        yield (
            ("compress", "preset"),
            "faithful knows targets of macs and params, found latency; set preset: modern",
        )
    if compress.parametrization != "full":
        yield (
            ("compress", "parametrization"),
            "preset faithful expects full, the paper's hypernetwork",
        )


def idle_in_search(options: Options) -> Iterator[Finding]:
    """Yield the settings that were given and change nothing of the search."""
    compress = options.compress
    if compress is None:
        return
    for other in RULES:
        if other != compress.method and other in Compress.model_fields and changed(compress, other):
            yield ("compress", other), f"has no effect with method: {compress.method}"
    yield from _idle_in_latents(compress)
    if compress.method in _WITHIN:
        for name, reason in _WITHIN[compress.method](getattr(compress, compress.method)):
            yield ("compress", compress.method, name), reason


def _idle_in_latents(compress: Compress) -> Iterator[Finding]:
    why = rules_of(compress.method).moves_no_latents
    kept = ("price_power",) if rules_of(compress.method).follows_prices else ()
    names = tuple(name for name in LATENT_SETTINGS if name not in kept)
    reason = f"method {compress.method} {why}"
    if not why and compress.preset == "modern":
        names, reason = ("latent_lr", "penalty"), "the modern preset finds its own"
    elif not why:
        names, reason = ("price_power",), "the faithful preset leaves widths to its penalty"
    for name in names:
        if changed(compress, name):
            yield ("compress", name), f"has no effect, {reason}"


def _within_hsn(hsn: HSN) -> Iterator[tuple[str, str]]:
    if hsn.penalty is not None and changed(hsn, "balance"):
        yield "balance", "has no effect beside a fixed penalty"
    if hsn.layer_scaling == "none" and changed(hsn, "scaling_rate"):
        yield "scaling_rate", "has no effect with layer_scaling: none"


_WITHIN: dict[str, Callable[[HSN], Iterator[tuple[str, str]]]] = {"hsn": _within_hsn}
"""Method -> settings of its own section without effect."""
