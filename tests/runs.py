"""Whole runs, killed where a test says so."""

from dhp_sr.basicsr_adapter.model import DHPModel
from dhp_sr.cli.process import seed_everything
from dhp_sr.training.driver import train
from dhp_sr.training.states import load_state, pack


class Killed(Exception):
    """Raised in the place of a training step."""


def run(options, root, **more):
    """Train as train.py does."""
    seed_everything(options.manual_seed)
    return train(options, root=root, **more)


def kill_before(monkeypatch, iteration: int) -> None:
    """Let a run die before a step."""
    step = DHPModel.optimize_parameters

    def dying(self, current_iter):
        if current_iter == iteration:
            raise Killed
        step(self, current_iter)

    monkeypatch.setattr(DHPModel, "optimize_parameters", dying)


def final_state(folder, iteration=12):
    """Return a saved state as named tensors and the plain rest."""
    state = load_state(folder / "training_states" / f"{iteration}.state")
    state["extra"].pop("log_bytes")  # the log also says when a run was resumed
    return pack(state)
