"""What a run tells while it trains: progress bar, log lines, tables and TensorBoard."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from tqdm import tqdm

from dhp_sr.training.run_folder import RunFolder
from dhp_sr.utils.cost_kinds import COST_KINDS
from dhp_sr.utils.errors import UserError

KEPT = {
    kind.ratio_key: f"{kind.name} (predicted)" if kind.is_measured else kind.name
    for kind in COST_KINDS.values()
}
"""Kept fraction -> what a log line calls it."""


class Records:
    """Writes the figures of a run; a context manager that ends with all files closed.

    Args:
        run: The folder.
        losses: Those since the last row of the curves; changed in place, so that the caller can save them.
        total: Iterations of the run.
        start: Iterations done before; files are rewound to it already.
        every: Iterations between two rows of the curves.
        board: What TensorBoard calls the loss; None: nothing is written for it.
    """

    def __init__(
        self,
        run: RunFolder,
        losses: list[float],
        *,
        total: int,
        start: int,
        every: int,
        board: str | None,
    ) -> None:
        self.run, self.total, self.every, self.loss_name = run, total, every, board
        self.logger = logging.getLogger("dhp_sr")
        self.bar = tqdm(
            total=total, initial=start, disable=None, dynamic_ncols=True, smoothing=0.05
        )
        self.board = _board(run, start) if board else None
        self.losses = losses
        self.since, self.last = time.monotonic(), start

    def __enter__(self) -> "Records":
        """Return itself."""
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close bar and event file."""
        self.bar.close()
        if self.board is not None:
            self.board.close()

    def step(self, iteration: int, phase: str, log: Mapping[str, float]) -> bool:
        """Take in the figures of step `iteration` (from 1); return whether a row of the curves is due."""
        self.losses.append(log["loss"])
        self.bar.set_description(phase, refresh=False)
        self.bar.update()
        return iteration % self.every == 0 or iteration == self.total

    def row(
        self, iteration: int, phase: str, log: Mapping[str, float], ratios: Mapping[str, float]
    ) -> None:
        """Write a row of the curves; its loss is the mean since the row before.

        Args:
            iteration: From 1.
            phase: The phase of the step.
            log: Figures of the step; while a search has a budget of latency, `latency_ratio` as its table predicts.
            ratios: Kept fractions `macs_ratio` and `params_ratio`.
        """
        loss = sum(self.losses) / len(self.losses)
        self.losses.clear()
        self.run.curves.append(
            {"iteration": iteration, "phase": phase, "loss": loss, "lr": log["lr"], **ratios}
        )
        self.bar.set_postfix_str(f"loss {loss:.4g}, macs {ratios['macs_ratio']:.1%}", refresh=False)
        found = {**log, **ratios}
        kept = [f"{kind} {found[key]:.1%}" for key, kind in KEPT.items() if key in found]
        self.logger.info(
            "%d/%d %s  loss %.5g  lr %.3g  %s  %s",
            *(
                iteration,
                self.total,
                phase,
                loss,
                log["lr"],
                "  ".join(kept),
                self._remaining(iteration),
            ),
        )
        self._scalars(iteration, {f"losses/{self.loss_name}": loss, "lr": log["lr"], **ratios})
        self._scalars(
            iteration,
            {f"search/{key}": value for key, value in log.items() if key not in ("loss", "lr")},
        )

    def latents(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a sample of the search's latents, see `latents.latent_rows`."""
        for row in rows:
            self.run.latents.append(row)

    def scores(
        self,
        iteration: int,
        phase: str,
        name: str,
        scores: Mapping[str, float],
        summary: Callable[..., str],
    ) -> None:
        """Write the scores on test set `name`, and what `summary` makes of them to the log."""
        self.run.validation.append({"iteration": iteration, "phase": phase, "set": name, **scores})
        self.logger.info("%d %s  %s: %s", iteration, phase, name, summary(scores))
        self._scalars(
            iteration, {f"metrics/{name}/{key}": scores[key] for key in scores if key != "images"}
        )

    def _scalars(self, iteration: int, values: Mapping[str, float]) -> None:
        if self.board is not None:
            for key, value in values.items():
                self.board.add_scalar(key, value, iteration)

    def _remaining(self, iteration: int) -> str:
        now = time.monotonic()
        rate = (iteration - self.last) / max(now - self.since, 1e-9)
        self.since, self.last = now, iteration
        seconds = round((self.total - iteration) / max(rate, 1e-9))
        return (
            f"{rate:.2f} it/s, {seconds // 3600}:{seconds % 3600 // 60:02d}:{seconds % 60:02d} left"
        )


def _board(run: RunFolder, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            "logger.use_tb_logger: true expects tensorboard, which is not installed; "
            "pip install tensorboard, or set logger.use_tb_logger: false"
        ) from error
    return SummaryWriter(str(run.board), purge_step=start + 1 if start else None)
