"""Names of the models that a run hands over."""

from dhp_sr.config.schema import Options


def final_names(options: Options) -> tuple[str, ...]:
    """Return the final models' names, in the order of the legs: `pruned`; `pruned_macs0.5`, ... for several targets."""
    return _names(options, "pruned") if options.compress else ("dense",)


def best_names(options: Options) -> tuple[str, ...]:
    """Return the names of the best models, in the order of the legs."""
    return _names(options, "best") if options.compress else ("best",)


def _names(options: Options, kind: str) -> tuple[str, ...]:
    targets = options.compress.targets
    return (kind,) if len(targets) == 1 else tuple(f"{kind}_{target.label}" for target in targets)
