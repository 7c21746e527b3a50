"""Model files of a run: the dense network, the best and the final models of every target."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from dhp_sr import __version__
from dhp_sr.config.schema import Options
from dhp_sr.deploy import load_weights, save_model
from dhp_sr.metrics import complexity
from dhp_sr.training.checkpoint import pack, write_tensors
from dhp_sr.training.handover import PrunedModel
from dhp_sr.training.schedule import Schedule
from dhp_sr.utils.errors import UserError
from dhp_sr.zoo.model_zoo import resolve_model
from dhp_sr.zoo.networks import example_shape
from dhp_sr.zoo.third_party import can_be_loaded


def final_names(options: Options) -> tuple[str, ...]:
    """Return the names of the final models, in the order of the targets.

    `dense` without a search, `pruned` for one target, `pruned_macs0.5`, ... for several.
    """
    return _names(options, "pruned") if options.compress else ("dense",)


def best_names(options: Options) -> tuple[str, ...]:
    """Return the names of the models with the best validation scores, in the order of targets."""
    return _names(options, "best")


def _names(options: Options, kind: str) -> tuple[str, ...]:
    if options.compress is None or len(options.compress.targets) == 1:
        return (kind,)
    return tuple(f"{kind}_{target.label}" for target in options.compress.targets)


class ModelWriter:
    """Writes model files into the folder of a run.

    Args:
        options: The run's options.
        folder: `models/` of the run; None where a program drives the training without a folder.
        is_main: Whether this process writes; the other ones only read.
    """

    def __init__(self, options: Options, folder: Path | None, *, is_main: bool) -> None:
        self.options = options
        self.folder = folder
        self.writes = folder is not None and is_main
        self.schedule = Schedule.from_options(options)

    def path(self, name: str) -> Path:
        """Return the file of a model.

        Raises:
            UserError: The run has no folder.
        """
        if self.folder is None:
            raise UserError("expected a folder for the run's files, got none: set run_folder")
        return self.folder / f"{name}.safetensors"

    @property
    def dense_file(self) -> Path | None:
        """File of the dense network as it was when the search began.

        Without a folder that is the file the run started from, if it trained nothing before the
        search, else None.
        """
        if self.folder is not None:
            return self.path("dense")
        pretrained = self.options.path.pretrain_network_g
        if not pretrained or self.schedule.dense_iter:
            return None
        return resolve_model(pretrained)

    def write(self, network: nn.Module, name: str, **facts: Any) -> None:
        """Write a network as `<name>.safetensors`.

        Args:
            network: In float32.
            name: Name of the file.
            **facts: Further entries of the manifest, see `deploy.save_model`.
        """
        path = self.path(name)
        # A class that nobody registered cannot be rebuilt from a name; its weights are kept all
        # the same, since the user has the code.
        if not can_be_loaded(network):
            _write_weights(network, path, facts)
            return
        # Files state the cost for the shape that results and reports use.
        shape = example_shape(network)
        save_model(
            network,
            path,
            macs=complexity(network, shape).macs,
            macs_input=list(shape),
            run=self.options.name,
            **facts,
        )

    def write_dense(self, network: nn.Module) -> None:
        """Write the dense network as it is when the search begins."""
        if self.writes:
            self.write(network, "dense", training={"iterations": self.schedule.dense_iter})

    def write_final(
        self,
        network: nn.Module,
        target: int,
        pruned: PrunedModel | None,
        *,
        is_average: bool,
        **facts: object,
    ) -> None:
        """Write the final network of a target, or the dense one of a run without a search.

        Args:
            network: To write.
            target: Index of the target, from 0.
            pruned: Facts of its pruning; None without a search.
            is_average: Whether its weights are a moving average.
            **facts: Further entries of the manifest, such as `scores`.
        """
        if not self.writes:
            return
        # Iterations with a single target: further targets repeat the last phase alone.
        facts["training"] = {
            "iterations": self.schedule.total_iter,
            "moving_average": is_average,
        }
        if pruned is not None:
            facts["parent"] = "dense.safetensors"  # beside it, whatever the folder is called
            facts["achieved"] = pruned.achieved
            facts["groups"] = {group["name"]: group["after"] for group in pruned.groups}
        self.write(network, final_names(self.options)[target], **facts)

    def check_dense_file(self) -> None:
        """Read the dense network's file, so that its loss shows before hours of training.

        Raises:
            UserError: It is missing or damaged.
        """
        # Read whole: a file that is there may still be damaged.
        try:
            load_weights(self.path("dense"))
        except UserError as error:
            raise UserError(
                f"{error}. A run past its dense phase needs the file that it wrote there: put it "
                "back, or start again without --auto_resume"
            ) from error


def _write_weights(network: nn.Module, path: Path, facts: Mapping[str, object]) -> None:
    """Write the bare weights of a network that no model file can name."""
    # Packing makes independent, contiguous copies: safetensors refuses shared storage.
    state = network.state_dict()
    tensors, _ = pack(list(state.values()))
    weights = dict(zip(state, tensors.values(), strict=True))
    metadata = {
        "class": type(network).__name__,
        "facts": json.dumps(facts),
        "tool": __version__,
    }
    write_tensors(path, weights, metadata)
