"""Run logger: progress bar, log lines, CSV tables and TensorBoard events of a training."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from tqdm import tqdm

from dhp_sr.search import Search
from dhp_sr.training.run_folder import RunFolder
from dhp_sr.training.schedule import Schedule
from dhp_sr.utils.cost_kinds import COST_KINDS
from dhp_sr.utils.errors import UserError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

RATIO_LABELS = {
    kind.ratio_key: f"{kind.name} (predicted)" if kind.is_measured else kind.name
    for kind in COST_KINDS.values()
}
"""Kept fraction -> its label in a log line."""

LATENT_SAMPLES = 40
"""Samples of the latents over a search, at most; a chart shows no more."""


class RunLogger:
    """Writes the figures of a run; a context manager that closes its files.

    Args:
        folder: Folder of the run.
        losses: Losses since the last row of the curves. Changed in place: they are part of the
            training state, for the mean of a row must not depend on an interruption.
        total: Iterations of the run.
        start: Iterations finished before; the tables are rewound to it already.
        print_freq: Iterations between two rows of the curves.
        loss_name: Name of the loss in TensorBoard; None writes no events.
    """

    def __init__(
        self,
        folder: RunFolder,
        losses: list[float],
        *,
        total: int,
        start: int,
        print_freq: int,
        loss_name: str | None,
    ) -> None:
        self.folder = folder
        self.losses = losses
        self.total = total
        self.print_freq = print_freq
        self.loss_name = loss_name
        self.logger = logging.getLogger("dhp_sr")
        # disable=None: no bar where the output is no terminal, such as in a log file.
        self._bar = tqdm(
            total=total, initial=start, disable=None, dynamic_ncols=True, smoothing=0.05
        )
        self._events = _open_events(folder, start) if loss_name else None
        self._last_time = time.monotonic()
        self._last_iteration = start
        self._data_s = 0.0
        """Seconds since the last row in which the next batch was waited for."""

    def __enter__(self) -> "RunLogger":
        """Return itself."""
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close progress bar and event file."""
        self._bar.close()
        if self._events is not None:
            self._events.close()

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Count the time within as that of the data: rows say its share of the whole."""
        start = time.monotonic()
        yield
        self._data_s += time.monotonic() - start

    def log_step(
        self,
        iteration: int,
        phase: str,
        log: Mapping[str, float],
        ratios: Callable[[], Mapping[str, float]],
    ) -> None:
        """Record a step; every `print_freq` steps write a row of the curves.

        Args:
            iteration: Finished iterations, this step included.
            phase: Phase of the step.
            log: Figures of the step: `loss`, `lr`, those of the search.
            ratios: Computes the kept fractions `macs_ratio` and `params_ratio`; called for rows
                alone, since a cost takes time to count.
        """
        self.losses.append(log["loss"])
        self._bar.set_description(phase, refresh=False)
        self._bar.update()
        if iteration % self.print_freq == 0 or iteration == self.total:
            self._write_row(iteration, phase, log, ratios())

    def _write_row(
        self, iteration: int, phase: str, log: Mapping[str, float], ratios: Mapping[str, float]
    ) -> None:
        loss = sum(self.losses) / len(self.losses)
        self.losses.clear()  # not a new list: the driver saves this object
        self.folder.curves.append(
            {"iteration": iteration, "phase": phase, "loss": loss, "lr": log["lr"], **ratios}
        )
        self._bar.set_postfix_str(
            f"loss {loss:.4g}, macs {ratios['macs_ratio']:.1%}", refresh=False
        )
        figures = {**log, **ratios}
        kept = []
        for key, label in RATIO_LABELS.items():
            if key in figures:
                kept.append(f"{label} {figures[key]:.1%}")
        self.logger.info(
            "%d/%d %s  loss %.5g  lr %.3g  %s  %s",
            iteration,
            self.total,
            phase,
            loss,
            log["lr"],
            "  ".join(kept),
            self._time_left(iteration),
        )
        self._write_events(iteration, {f"losses/{self.loss_name}": loss, "lr": log["lr"], **ratios})
        # What the search reports beside the loss is grouped under its own heading.
        of_search = {
            f"search/{key}": value for key, value in log.items() if key not in ("loss", "lr")
        }
        self._write_events(iteration, of_search)

    def log_latents(self, iteration: int, search: Search) -> None:
        """Write a sample of the search's latents, a row for each prunable group."""
        latents = search.hyper.plan.split(search.remaining().detach().float().cpu())
        for group, values in latents.items():
            # Three digits are enough for a chart, and bound the file for wide networks.
            text = " ".join(f"{value:.3g}" for value in values.tolist())
            self.folder.latents.append({"iteration": iteration, "group": group, "latents": text})

    def log_scores(
        self, iteration: int, phase: str, name: str, scores: Mapping[str, float], summary: str
    ) -> None:
        """Write the scores on a test set.

        Args:
            iteration: Finished iterations.
            phase: Phase of the last step.
            name: Name of the test set.
            scores: Score -> value, and `images`, their number.
            summary: The scores as text, for the log.
        """
        self.folder.validation.append(
            {"iteration": iteration, "phase": phase, "set": name, **scores}
        )
        self.logger.info("%d %s  %s: %s", iteration, phase, name, summary)
        events = {
            f"metrics/{name}/{key}": value for key, value in scores.items() if key != "images"
        }
        self._write_events(iteration, events)

    def _write_events(self, iteration: int, values: Mapping[str, float]) -> None:
        if self._events is not None:
            for key, value in values.items():
                self._events.add_scalar(key, value, iteration)

    def _time_left(self, iteration: int) -> str:
        now = time.monotonic()
        elapsed = max(now - self._last_time, 1e-9)  # two rows within the clock's resolution
        rate = (iteration - self._last_iteration) / elapsed
        data_share = self._data_s / elapsed
        self._last_time = now
        self._last_iteration = iteration
        self._data_s = 0.0
        seconds = round((self.total - iteration) / max(rate, 1e-9))
        minutes, seconds = divmod(seconds, 60)
        hours, minutes = divmod(minutes, 60)
        time_left = f"{hours}:{minutes:02d}:{seconds:02d} left"
        return f"{rate:.2f} it/s (data {data_share:.1%} of the time), {time_left}"


def _open_events(folder: RunFolder, start: int) -> "SummaryWriter":
    # Imported here: it takes a second, and few runs want it.
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            "logger.use_tb_logger: true expects tensorboard, which is not installed; "
            "pip install tensorboard, or set logger.use_tb_logger: false"
        ) from error
    # Events of a killed run after the resumed iteration must not show, be it that of the start.
    return SummaryWriter(str(folder.tensorboard), purge_step=start + 1)


def is_latent_sample_due(schedule: Schedule, iteration: int) -> bool:
    """Whether the latents are sampled: at even distances, and at the end of the search.

    Args:
        schedule: Schedule of the run.
        iteration: Finished iterations.
    """
    finished = iteration - schedule.dense_iter
    if not schedule.has_search or not 0 < finished <= schedule.search_iter:
        return False
    # Rounded up, so that there are never more samples than a chart shows.
    interval = math.ceil(schedule.search_iter / LATENT_SAMPLES)
    return finished % interval == 0 or finished == schedule.search_iter
