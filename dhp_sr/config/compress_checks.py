"""Checks of the section `compress`: phases, teacher, budget, and the method of the search."""

from collections.abc import Iterator

from dhp_sr.config.compress import Compress
from dhp_sr.config.datasets import TrainDataset
from dhp_sr.config.schema import Options
from dhp_sr.config.section import Issue, changed
from dhp_sr.utils.cost_kinds import COST_KINDS
from dhp_sr.utils.methods import METHODS


def check_phases(options: Options) -> Iterator[Issue]:
    """Lengths of the phases, and the teacher of distillation."""
    compress = options.compress
    total = options.train.total_iter  # of all phases, not of finetuning alone
    if options.train.warmup_iter > total:
        text = f"expected at most total_iter ({total}), got {options.train.warmup_iter}"
        yield ("train", "warmup_iter"), text
    if compress is None:
        return
    before_cut = compress.dense_iter + compress.search_iter
    if total <= before_cut:
        phases = f"{compress.dense_iter} + {compress.search_iter} = {before_cut}"
        text = f"expected more than dense_iter + search_iter ({phases}), got {total}; "
        yield ("train", "total_iter"), f"{text}the rest finetunes the cut network"
    distill = compress.distill
    # The teacher is the dense network as the search finds it, unless a file is named.
    if distill and distill.teacher is None and not is_trained_before(options, compress):
        sources = "dense_iter above 0, path.pretrain_network_g or distill.teacher"
        yield ("compress", "distill"), f"expected a trained teacher: {sources}; got none"


def check_targets_of_images(options: Options) -> Iterator[Issue]:
    """Images without truths need a teacher that gives the target."""
    train = options.datasets.get("train")
    if not isinstance(train, TrainDataset) or train.has_truths:
        return
    key = "type" if train.reductions is None else "reductions"
    distill = options.compress.distill if options.compress else None
    if distill is None or distill.task_loss:
        text = "these images have no truths: expected compress.distill with task_loss: false"
        yield ("datasets", "train", key), text
    if options.compress and options.compress.dense_iter:
        text = "the teacher is not there before the search: expected compress.dense_iter: 0"
        yield ("datasets", "train", key), text


def check_whole_images(options: Options) -> Iterator[Issue]:
    """The teacher's outputs can be computed once only where inputs and teacher never change."""
    distill = options.compress.distill if options.compress else None
    if options.compress is None or distill is None or not distill.whole_images:
        return
    keys = ("compress", "distill", "whole_images")
    train = options.datasets.get("train")
    if not isinstance(train, TrainDataset) or train.type == "NoiseDataset":
        yield keys, "expects images whose inputs are the same at every visit; set it to false"
    if options.compress.dense_iter and distill.teacher is None:
        yield keys, "expects a teacher that is there from the start: distill.teacher, no dense_iter"
    if distill.mix:
        yield keys, "has no outputs for mixed images; set distill.mix: 0"


def check_method(options: Options) -> Iterator[Issue]:
    """Yield the settings that the method cannot work with."""
    compress = options.compress
    if compress is None:
        return
    method = compress.method
    spec = METHODS[method]
    if spec.has_presets and compress.preset == "paper":
        yield from _check_paper_preset(options, compress)
    if spec.parametrization not in (None, compress.parametrization):
        yield (
            ("compress", "parametrization"),
            f"method {method} expects {spec.parametrization}, got {compress.parametrization}",
        )
    if not spec.is_baseline and not compress.search_iter:
        # Found otherwise when the dense training is done, or not at all.
        text = f"method {method} searches in these iterations: expected above 0, got 0"
        yield ("compress", "search_iter"), text
    elif compress.correction is not None and not compress.search_iter:
        text = "correction takes its inputs from these iterations: expected above 0, got 0"
        yield ("compress", "search_iter"), text
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


def _check_paper_preset(options: Options, compress: Compress) -> Iterator[Issue]:
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


def unused_in_search(options: Options) -> Iterator[Issue]:
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


def unused_in_targets(options: Options) -> Iterator[Issue]:
    """Settings of latency where none is measured."""
    compress = options.compress
    # Kinds that are counted need no device and no input size.
    if compress is None or COST_KINDS[compress.targets[0].kind].is_measured:
        return
    for name in ("latency_size", "latency_threads", "latency_runtime", "latency_table"):
        if changed(compress, name):
            yield ("compress", name), f"has no effect with a target of {compress.targets[0].kind}"
