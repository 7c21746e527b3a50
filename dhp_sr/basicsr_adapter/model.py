"""The model that BasicSR's registry builds: `model_type: DHPModel`. Its methods are those of BasicSR's models."""

import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from dhp_sr import __version__
from dhp_sr.config.schema import Options
from dhp_sr.deploy import load_weights, save_model
from dhp_sr.metrics import complexity
from dhp_sr.tasks.registry import task_of
from dhp_sr.tasks.test_sets import TestSet
from dhp_sr.training.compression import Compression
from dhp_sr.training.distributed import DistributedContext
from dhp_sr.training.final_names import best_names, final_names
from dhp_sr.training.states import (
    differences,
    load_state,
    pack,
    random_state,
    save_state,
    set_random_state,
    write_tensors,
)
from dhp_sr.utils.devices import select_device
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.strict_json import finite
from dhp_sr.zoo.networks import example_shape
from dhp_sr.zoo.third_party import can_be_loaded, check_files

FIXED = ("scale", "manual_seed", "network_g", "compress", "train")
"""Options that a resumed run cannot change."""


class DHPModel:
    """Trains, searches, cuts and finetunes one network.

    Iterations are counted from 1, as in BasicSR: `current_iter` is the step that is taken, or that was taken last.

    Args:
        opt: The fields of an option file, and beside them `run_folder` (a path, needed to save) and `place` (a DistributedContext).

    Raises:
        UserError: the options do not fit together, or the network cannot be built.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        fields = {key: value for key, value in opt.items() if key in Options.model_fields}
        self.options = Options.model_validate(fields)
        self.task = task_of(self.options)
        self.place = opt.get("place") or DistributedContext(select_device(self.options.num_gpu))
        self.device, self.is_train = self.place.device, True
        self.run_folder = Path(opt["run_folder"]) if opt.get("run_folder") else None
        dense_file = self.model_path("dense") if self.run_folder else Path()
        self.compression = Compression(
            self.options, self.place, dense_file, self._keep_dense, self._keep_leg
        )
        if self.run_folder:
            check_files(self.compression.network)
        self.log: dict[str, float] = {}
        self.batch: dict[str, Any] = {}
        self.best: dict[str, dict[str, Any]] = {}
        """File name of each best model -> when it was best, and how good."""

    def feed_data(self, data: dict[str, Any]) -> None:
        """Take the batch of the next step."""
        self.batch = data

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """Do nothing: the rate is a closed formula of the iteration, set by the step itself."""

    def optimize_parameters(self, current_iter: int) -> None:
        """Take step `current_iter` with the batch fed last, entering a new phase first where one begins."""
        self.advance(current_iter - 1)
        self.log = self.compression.step(self.batch, current_iter - 1)

    def advance(self, finished: int) -> list[str]:
        """Enter the phase that follows after `finished` iterations; return the phases entered."""
        return list(self.compression.advance(finished))

    def get_current_log(self) -> OrderedDict[str, float]:
        """Return the figures of the last step, the loss under BasicSR's `l_` prefix."""
        return OrderedDict(
            (f"l_{key}" if key == "loss" else key, value) for key, value in self.log.items()
        )

    def get_current_learning_rate(self) -> list[float]:
        """Return the learning rate of the last step."""
        return [group["lr"] for group in self.compression.optimizer.param_groups]

    def validate(self, test_set: Any, save_to: Path | None = None) -> dict[str, float]:
        """Score the network as it is now on one test set."""
        return self.task.evaluate(self.compression.for_validation(), test_set, self.device, save_to)

    def validation(
        self, dataloader: Any, current_iter: int, tb_logger: Any, save_img: bool = False
    ) -> dict[str, float]:
        """Score on a test set, or on a loader of BasicSR (batches of one); write the scores to TensorBoard."""
        test_set = (
            self._as_test_set(dataloader) if isinstance(dataloader, DataLoader) else dataloader
        )
        folder = (
            self.run_folder / "visualization" / test_set.name
            if save_img and self.run_folder
            else None
        )
        scores = self.validate(test_set, folder)
        if tb_logger is not None:
            for key in (key for key in scores if key != "images"):
                tb_logger.add_scalar(f"metrics/{test_set.name}/{key}", scores[key], current_iter)
        return scores

    def save(self, epoch: int, current_iter: int, extra: dict[str, Any] | None = None) -> None:
        """Write the training state after `current_iter` iterations (and `extra`, given back by `resume_training`)."""
        tree = {
            "iteration": current_iter,
            "options": self._fixed(),
            "model": self.compression.state_dict(),
            "best": self.best,
            "extra": extra or {},
            "random": random_state(),
        }
        save_state(self.run_folder / "training_states", current_iter, tree)

    def resume_training(self, path: str | Path) -> dict[str, Any]:
        """Go on from a state file; return its `iteration` and `extra`.

        Raises:
            StateFileError: the file is no training state, or damaged.
            UserError: it is one of other options (every differing key is named), or the dense network's file is lost.
        """
        tree = load_state(Path(path))
        found = differences(_without_free(tree["options"]), self._fixed())
        if found:
            advice = "set them as they were, or start again without --auto_resume (this run is kept under another name)"
            raise UserError(
                f"{path}: the state belongs to other options; {advice}:\n  " + "\n  ".join(found)
            )
        if tree["model"]["phase"] != "dense":
            self._check_dense()
        self.compression.load_state_dict(tree["model"])
        self.best = tree["best"]
        set_random_state(tree["random"])
        return tree

    def save_network(self, name: str, **facts: Any) -> Path:
        """Write the network as it is now (the moving average, if there is one) as `models/<name>.safetensors`."""
        return self._write(self.compression.for_validation(), name, **facts)

    def save_final(self, leg: int, **facts: Any) -> Path:
        """Write the network of a leg, or the dense one of a run without search, under its final name."""
        compression, schedule = self.compression, self.compression.schedule
        facts["training"] = {
            "iterations": schedule.total_iter,
            "moving_average": compression.average is not None,
        }
        if compression.legs:
            report = compression.legs[leg].report
            groups = {group["name"]: group["after"] for group in report["groups"]}
            facts |= {"parent": "dense.safetensors", "achieved": achieved(report), "groups": groups}
        return self._write(compression.finals()[leg], final_names(self.options)[leg], **facts)

    def keep_if_best(self, current_iter: int, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Write `models/best.safetensors` if the task's deciding score, a mean over sets, is this leg's best so far."""
        name, key = best_names(self.options)[self.compression.leg], self.task.best.key
        mean, improved = self.task.improves(
            scores, self.best[name][key] if name in self.best else None
        )
        if improved:
            self.best[name] = {"iteration": current_iter, key: mean}
            self.save_network(name, scores=finite(scores), training={"iterations": current_iter})

    def model_path(self, name: str) -> Path:
        """Return where model `name` is written."""
        return self.run_folder / "models" / f"{name}.safetensors"

    def _check_dense(self) -> None:
        """Miss the dense network's file now, not when the finished run is scored."""
        try:
            load_weights(self.model_path("dense"))
        except UserError as error:
            raise UserError(
                f"{error}. A run past its dense phase needs the file that it wrote there: put it back, or start again "
                "without --auto_resume"
            ) from error

    def _keep_dense(self, network: nn.Module) -> None:
        if self.run_folder and self.place.is_main:
            self._write(
                network, "dense", training={"iterations": self.compression.schedule.dense_iter}
            )

    def _keep_leg(self, leg: int) -> None:
        if self.run_folder and self.place.is_main:
            self.save_final(leg)

    def _write(self, network: nn.Module, name: str, **facts: Any) -> Path:
        path = self.model_path(name)
        if not can_be_loaded(network):
            _write_weights(network, path, facts)
            return path
        shape = example_shape(network)
        macs = complexity(network, shape).macs
        save_model(network, path, macs=macs, macs_input=list(shape), run=self.options.name, **facts)
        return path

    def _fixed(self) -> dict[str, Any]:
        whole = self.options.model_dump(mode="json")
        data = {
            key: value
            for key, value in whole["datasets"].get("train", {}).items()
            if key not in _FREE_IN_DATA
        }
        fixed = {
            **{key: whole[key] for key in FIXED},
            "datasets": {"train": data},
            "processes": self.place.world_size,
        }
        return _without_free(fixed)

    def _as_test_set(self, loader: Any) -> TestSet:
        scale, options = self.options.scale, getattr(loader.dataset, "opt", {})
        border = options.get("crop_border")
        usual = scale if scale > 1 else 0
        return TestSet(
            options.get("name", "val"), loader.dataset, scale, usual if border is None else border
        )


def achieved(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the kept fractions in the report of a cut."""
    return {key: value for key, value in report.items() if key != "groups"}


_FREE_IN_COMPRESS = ("tolerance", "round_to", "min_width", "latency_table")
"""Keys of `compress` that may change, so that a search whose budget was missed by a little need not start again."""


def _without_free(fixed: dict[str, Any]) -> dict[str, Any]:
    compress = fixed["compress"]
    if compress:
        compress = {key: value for key, value in compress.items() if key not in _FREE_IN_COMPRESS}
    return {**fixed, "compress": compress}


_FREE_IN_DATA = ("name", "dataroot", "dataroot_gt", "dataroot_lq", "cache", "num_worker_per_gpu")
"""Keys of `datasets.train` that may change: they say where images are, not which."""


def _write_weights(network: nn.Module, path: Path, facts: Mapping[str, Any]) -> None:
    """Write the weights of a network that a file cannot name."""
    tensors, _ = pack(list(network.state_dict().values()))
    weights = dict(zip(network.state_dict(), tensors.values(), strict=True))
    write_tensors(
        path,
        weights,
        {"class": type(network).__name__, "facts": json.dumps(facts), "tool": __version__},
    )
