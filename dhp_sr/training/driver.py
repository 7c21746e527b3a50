"""One training run from options to results."""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from dhp_sr.basicsr_adapter import registries as basicsr_glue
from dhp_sr.basicsr_adapter.model import DHPModel
from dhp_sr.config import dump_options, resolve_paths, run_path
from dhp_sr.config.schema import Options
from dhp_sr.config.yaml import parse
from dhp_sr.data.sampler import train_batches
from dhp_sr.reports.tables import text_table
from dhp_sr.tasks.registry import task_of
from dhp_sr.training.distributed import DistributedContext, destroy_process_group, init_distributed
from dhp_sr.training.environment import environment
from dhp_sr.training.latent_log import is_due, latent_rows
from dhp_sr.training.plan_summary import plan_for_training
from dhp_sr.training.results import finish, write_pages
from dhp_sr.training.run_folder import RunFolder, logging_to
from dhp_sr.training.run_logger import Records
from dhp_sr.training.states import StateFileError, states
from dhp_sr.utils.cost_kinds import COST_KINDS
from dhp_sr.utils.devices import resolve_amp
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import write_json, write_text

Logger = logging.Logger
CUT_TO = {
    kind.measured_ratio_key if kind.is_measured else kind.ratio_key: (
        f"measured {kind.label}" if kind.is_measured else kind.label
    )
    for kind in COST_KINDS.values()
}
"""Key of a kept fraction in the report of a cut -> its name in the log."""


class Interrupted(Exception):
    """The run was asked to stop; its state is saved."""


def train(
    options: Options,
    *,
    root: Path,
    auto_resume: bool = False,
    launcher: Literal["none", "pytorch"] = "none",
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Run all phases and write `experiments/<name>/`.

    Args:
        options: A checked option file.
        root: The project's folder; relative paths are sought from the working directory, then from here.
        auto_resume: Go on from the newest state of this run, if there is one. Without, an earlier run of the same name
            is renamed.
        launcher: `pytorch` when started by torchrun.
        stop: Asked after every iteration; True saves the state and ends the run.

    Returns:
        The content of metrics.json; empty in processes that do not write.

    Raises:
        UserError: a mistake in options or files, or a diverged training.
        Interrupted: `stop` said so.
    """
    place = init_distributed(options.num_gpu, launcher)
    run = RunFolder(run_path(options, root), task_of(options).scores)
    options = _with_amp(options, place, run.path / "options.yml" if auto_resume else None)
    try:
        return _Run(resolve_paths(options, root), place, run, stop).execute(auto_resume)
    finally:
        destroy_process_group()


def _with_amp(options: Options, context: DistributedContext, earlier: Path | None) -> Options:
    """Decide `train.amp: auto` once for the whole run.

    Args:
        options: options of the run.
        context: its processes; the first decides for all.
        earlier: stored options of the run to resume, which goes on in the precision it began with.
    """
    amp = options.train.amp
    if amp != "auto":
        return options
    if earlier is not None and earlier.is_file():
        stored, _ = parse(earlier.read_text(encoding="utf-8"), str(earlier))
        amp = stored["train"]["amp"]
    amp = context.broadcast(lambda: resolve_amp(amp, context.device))
    return options.model_copy(update={"train": options.train.model_copy(update={"amp": amp})})


class _Run:
    def __init__(
        self, options: Options, place: DistributedContext, run: RunFolder, stop: Callable[[], bool]
    ) -> None:
        self.options, self.place, self.run, self.stop = options, place, run, stop

    def execute(self, auto_resume: bool) -> dict[str, Any]:
        options, place, run = self.options, self.place, self.run
        # Everything that can be wrong with data and network shows before an earlier run is renamed.
        train_set = self._train_set()
        sets = task_of(options).test_sets(options) if place.is_main else []
        opt = {**options.model_dump(), "run_folder": str(run.path), "place": place}
        self.model: DHPModel = basicsr_glue.build_model(opt)
        self.model.task.check_data(self.model.compression.network, train_set, sets)
        saved = self._resume() if auto_resume else None
        resumed = saved is not None
        if (
            resumed
            and saved["iteration"] == self.model.compression.schedule.end
            and run.results() is not None
        ):
            return self._keep_finished()
        if saved is None:
            saved = {"iteration": 0, "extra": {}}
            self.model.compression.rehearse()
        start = saved["iteration"]
        self.losses: list[float] = saved["extra"].get("losses", [])
        earlier = None
        if place.is_main:
            earlier = run.open(resume=resumed)
            run.rewind(start, saved["extra"].get("log_bytes", 0))
        place.barrier()
        with logging_to(run.log if place.is_main else None, screen=place.is_main) as self.logger:
            if earlier:
                self.logger.info("an earlier run of this name was renamed to %s", earlier.name)
            self._announce(start)
            batches = train_batches(
                train_set,
                batch_size=options.datasets["train"].batch_size_per_gpu,
                workers=options.datasets["train"].num_worker_per_gpu,
                seed=options.manual_seed,
                start_iteration=start,
                world_size=place.world_size,
                rank=place.rank,
            )
            try:
                self._loop(batches, sets, start)
                return self._finish(sets) if place.is_main else {}
            except (UserError, Interrupted) as error:
                self._to_log_file(error)
                raise

    def _keep_finished(self) -> dict[str, Any]:
        """Leave a finished run as it is, but for its pages if it was killed before they were written."""
        if not self.place.is_main:
            return {}
        with logging_to(None, screen=True) as logger:
            advice = "score it on other images by test.py, or remove its metrics.json to have it scored again"
            logger.info("%s is finished, nothing was changed; %s", self.run.path, advice)
        write_pages(self.run, only_missing=True)
        return self.run.results() or {}

    def _resume(self) -> dict[str, Any] | None:
        """Go on from the newest state that can be read; None where there is no state."""
        found = states(self.run.states)
        for number, (_, path) in enumerate(reversed(found), start=1):
            try:
                return self.model.resume_training(path)
            except StateFileError as error:
                if number == len(found):
                    raise UserError(
                        f"{error}; no older state is left: start again without --auto_resume"
                    ) from error
                warnings.warn(f"{error}; going back to the state before it", stacklevel=2)
        return None

    def _to_log_file(self, error: Exception) -> None:
        """Leave the reason of an early end in train.log; on the screen it is the entry point that says it."""
        for handler in self.logger.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handle(
                    self.logger.makeRecord("dhp_sr", logging.ERROR, "", 0, str(error), (), None)
                )

    def _train_set(self) -> Any:
        data = self.options.datasets.get("train")
        if data is None:
            raise UserError(
                f"expected a section datasets.train, found only {', '.join(self.options.datasets)}"
            )
        return task_of(self.options).train_set(self.options)

    def _announce(self, start: int) -> None:
        if not self.place.is_main:
            return
        schedule, network = self.model.compression.schedule, self.options.network_g
        if start:
            self.logger.info(
                "resumed at iteration %d (phase %s)", start, self.model.compression.phase
            )
            return
        write_text(self.run.path / "options.yml", dump_options(self.options))
        write_json(
            self.run.path / "environment.json",
            environment(self.place.world_size, self.place.device),
        )
        if schedule.searches:
            plan = plan_for_training(self.model.compression.network, self.options, self.place)
            write_json(self.run.path / "plan.json", plan)
        phases = f"dense {schedule.dense_iter}"
        if schedule.searches:
            phases += f", search {schedule.search_iter}, finetune {schedule.leg_iter}"
            phases += f" for each of {schedule.legs} targets" if schedule.legs > 1 else ""
        self.logger.info(
            "%s: %s on %s in %s; iterations: %s",
            self.options.name,
            network.type,
            self.place.device,
            "float32" if self.options.train.amp == "none" else self.options.train.amp,
            phases,
        )

    def _loop(self, batches: Iterator[dict[str, Any]], sets: list[Any], start: int) -> None:
        options, schedule = self.options, self.model.compression.schedule
        total = schedule.end
        logger = options.logger
        board = self.model.task.loss_name if logger.use_tb_logger else None
        with _records(self, start, total, logger.print_freq, board) as records:
            if self._advance(start):
                self._save(start)
            for done in range(start + 1, total + 1):
                self.model.feed_data(next(batches))
                self.model.optimize_parameters(done)
                phase = self.model.compression.phase
                if records and records.step(done, phase, self.model.log):
                    records.row(done, phase, self.model.log, self.model.compression.ratios())
                if records and is_due(schedule, done):
                    records.latents(latent_rows(self.model.compression.search, done))
                if records and (done % options.val.val_freq == 0 or done in schedule.stages):
                    self._validate(sets, done, records)
                entered, stopping = self._advance(done), self.place.any_rank(self.stop())
                if entered or stopping or done % logger.save_checkpoint_freq == 0 or done == total:
                    self._save(done)
                if stopping and done < total:
                    raise Interrupted(
                        f"stopped after iteration {done} of {total}; the state is saved"
                    )

    def _advance(self, done: int) -> list[str]:
        entered = self.model.advance(done)
        for phase in entered:
            self.logger.info("%d: phase %s begins", done, phase)
        if "finetune" in entered:
            self.logger.info("%d: cut to %s", done, _kept(self.model.compression.report))
        return entered

    def _save(self, done: int) -> None:
        if self.place.is_main:
            self.model.save(-1, done, {"log_bytes": self.run.log_bytes(), "losses": self.losses})

    def _validate(self, sets: list[Any], done: int, records: Records) -> None:
        phase, scores = self.model.compression.phase, {}
        for test_set in sets:
            folder = self.run.images / test_set.name if self.options.val.save_img else None
            scores[test_set.name] = self.model.validate(test_set, folder)
            records.scores(
                done, phase, test_set.name, scores[test_set.name], self.model.task.summary
            )
        if scores and phase == self.model.compression.schedule.phase(
            self.model.compression.schedule.end
        ):
            self.model.keep_if_best(done, scores)

    def _finish(self, sets: list[Any]) -> dict[str, Any]:
        metrics = finish(self.model, self.run, sets)
        self.logger.info("results\n%s", text_table(metrics))
        written = [str(path.relative_to(self.run.path)) for path in sorted(self.run.path.iterdir())]
        self.logger.info("written to %s: %s", self.run.path, ", ".join(written))
        return metrics


def _kept(report: Mapping[str, Any]) -> str:
    parts = [f"{report[key]:.2%} of the {kind}" for key, kind in CUT_TO.items() if key in report]
    return ", ".join(parts)


@contextlib.contextmanager
def _records(
    run: _Run, start: int, total: int, every: int, board: str | None
) -> Iterator[Records | None]:
    if not run.place.is_main:
        yield None
        return
    with Records(
        run.run, run.losses, total=total, start=start, every=every, board=board
    ) as records:
        yield records
