"""Where a path in an option file leads."""

from pathlib import Path

from dhp_sr.config.schema import Options

BUNDLED = "bundled:"
_ROOTS = ("dataroot_gt", "dataroot_lq", "dataroot")


def resolve_path(root: str | Path, text: str) -> str:
    """Return the absolute path that `text` means: seen from the working directory if it exists there, else from `root`.

    Args:
        root: the project's folder.
        text: a path as it stands in an option file; `~` is the home folder. `bundled:...` stays as it is.
    """
    if text.startswith(BUNDLED):
        return text
    path = Path(text).expanduser()
    here = Path.cwd() / path
    return str((here if here.exists() else Path(root) / path).resolve())


def run_path(options: Options, root: str | Path) -> Path:
    """Return the folder that a run writes to: `<experiments_root>/<name>`, seen from `root`."""
    return Path(root) / Path(options.path.experiments_root).expanduser() / options.name


def resolve_paths(options: Options, root: str | Path) -> Options:
    """Return `options` with every path to read from made absolute by `resolve_path`; those to write to stay."""

    def resolved(value: str | list[str] | None) -> str | list[str] | None:
        if value is None:
            return None
        return (
            resolve_path(root, value)
            if isinstance(value, str)
            else [resolve_path(root, one) for one in value]
        )

    datasets = {
        key: one.model_copy(
            update={
                name: resolved(getattr(one, name))
                for name in _ROOTS
                if name in one.model_fields_set
            }
        )
        for key, one in options.datasets.items()
    }
    path = options.path.model_copy(
        update={"pretrain_network_g": resolved(options.path.pretrain_network_g)}
    )
    compress = options.compress
    if compress and compress.distill and compress.distill.teacher:
        distill = compress.distill.model_copy(
            update={"teacher": resolved(compress.distill.teacher)}
        )
        compress = compress.model_copy(update={"distill": distill})
    if compress and compress.latency_table:
        compress = compress.model_copy(
            update={"latency_table": resolve_path(root, compress.latency_table)}
        )
    return options.model_copy(update={"datasets": datasets, "path": path, "compress": compress})
