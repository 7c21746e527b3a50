"""Quality of the methods side by side: same data, same time, several seeds.

    $ python benchmarks/method_comparison.py --cases edsr_50 --seeds 0 1 2     # results/method_comparison.json

Every finished training is a row of the file; what is there already is not trained again, so a stopped contest goes on
where it was (`--again` repeats it). Lengths follow measured times, so a repeated row differs a little.
"""

import argparse
import copy
import itertools
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(ROOT)]  # in place of this folder

import torch  # noqa: E402
from tqdm import tqdm  # noqa: E402

from benchmarks.published import published  # noqa: E402
from benchmarks.result_files import circumstances, merge  # noqa: E402
from benchmarks.step import compare_steps  # noqa: E402
from benchmarks.time_plan import (  # noqa: E402
    CASES,
    FROM_NOTHING,
    Case,
    Entry,
    Iterations,
    entry_of,
    plan_iterations,
)
from benchmarks.training import batches  # noqa: E402
from dhp_sr.cli.process import keep_memory, seed_everything  # noqa: E402
from dhp_sr.config import (  # noqa: E402
    Options,
    load_options,
    resolve_paths,
)
from dhp_sr.tasks.test_sets import TestSet, build_test_sets, evaluate  # noqa: E402
from dhp_sr.training.distributed import DistributedContext  # noqa: E402
from dhp_sr.training.trainer import Trainer  # noqa: E402
from dhp_sr.utils.devices import select_device  # noqa: E402
from dhp_sr.utils.errors import UserError, exit_code  # noqa: E402

Steps = Iterator[tuple[int, dict[str, Any]]]
"""Iterations and their batches."""

KEY = ("case", "method", "seed", "length")
LOOKS = 6
"""How often a step of the cut network is measured on the way; within minutes the ratio drifts by a tenth."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    given = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser().parse_args(given)
    command = shlex.join(["benchmarks/method_comparison.py", *given])
    keep_memory()
    return exit_code(lambda: contest(arguments, command))


def contest(arguments: argparse.Namespace, command: str) -> None:
    """Train what is asked for and not there yet."""
    done = {} if arguments.again else _done(arguments.out)
    place = DistributedContext(select_device("auto"))
    for case, seed in ((case, seed) for case in arguments.cases for seed in arguments.seeds):
        for method in arguments.methods:
            identity = (case, method, seed, arguments.length)
            if identity in done:
                if done[identity] != arguments.set:
                    raise UserError(
                        f"{arguments.out}: expected rows with --set {arguments.set}, found {done[identity]} at "
                        f"{identity}; give another file (--out), or --again"
                    )
                print(f"{identity}: kept")
                continue
            row = dict(zip(KEY, identity, strict=True))
            row |= train(CASES[case], method, seed, arguments.length, arguments.set, place)
            row["measured"] = circumstances(place.device, command, arguments.note)
            merge(arguments.out, "method_comparison", [row], KEY)
            print(
                f"{case} {method} seed {seed}: {row['macs_ratio']:.1%} of the MACs, {row['mean_psnr_y_db']:.3f} dB"
            )


def train(
    case: Case,
    method: str,
    seed: int,
    length: float,
    changes: Sequence[str],
    place: DistributedContext,
) -> dict[str, Any]:
    """Train one network from start to end; return its figures.

    Args:
        case: network, data and budget.
        method: of `FROM_NOTHING`.
        seed: of weights, batches and search.
        length: factor on the time.
        changes: `section.key=value` each, for all methods alike.
        place: where to compute.
    """
    entry = entry_of(case, method)
    phases = plan_iterations(case, entry, length)
    options, dense = (
        _options(case, one, seed, phases, changes) for one in (entry, entry_of(case, "dense"))
    )
    seed_everything(seed)
    training, steps = _begin(options, place), batches(options, 0)
    cpu_s = _train_on(training, steps, phases.dense, f"{method} {seed}")
    search_ratio, step_ratios = 1.0, []
    if phases.search:
        search_ratio = _step_ratio(lambda: _begin(options, place, phases.dense), dense)
        cpu_s += _train_on(training, steps, phases.search, f"{method} {seed} search")
    if method != "dense":
        training.advance(phases.dense + phases.search)
        plan = partial(plan_iterations, case, entry, length, search_ratio=search_ratio)
        finetune_s, phases, step_ratios = _finetune(
            training, steps, dense, plan, f"{method} {seed} cut"
        )
        cpu_s += finetune_s
    training.advance(phases.total)
    sets = [one for one in build_test_sets(options) if one.name in case.test_sets]
    facts = {"set": list(changes), "search_ratio": round(search_ratio, 3)}
    facts |= {
        "step_ratio": round(statistics.fmean(step_ratios or [1.0]), 3),
        "step_ratios": step_ratios,
    }
    facts |= {"iterations": phases.__dict__, "cpu_s": round(cpu_s)}
    return {**_figures(training, sets, place), **facts}


def _finetune(
    training: Trainer, steps: Steps, dense: Options, plan: Callable[..., Iterations], title: str
) -> tuple[float, Iterations, list[float]]:
    """Train a cut network for as long as there is time; return processor time, phases, and the ratios measured."""
    cut_at = done = training.schedule.prune_at
    cpu_s, ratios = 0.0, []
    for parts in range(LOOKS, 0, -1):
        ratios.append(_step_ratio(lambda: copy.deepcopy(training), dense))
        total = plan(step_ratio=statistics.fmean(ratios)).total
        if total < done:
            print(
                f"{title}: measured times jump ({ratios}); it has had more time than the others",
                file=sys.stderr,
            )
        number = max(0, round((total - done) / parts))
        training.schedule = replace(training.schedule, total_iter=max(total, done + number))
        cpu_s += _train_on(training, steps, number, f"{title}, {parts} to go")
        done += number
    return cpu_s, replace(plan(), finetune=done - cut_at), [round(ratio, 3) for ratio in ratios]


def _begin(options: Options, place: DistributedContext, iteration: int = 0) -> Trainer:
    """Return a training as it is at `iteration`, without the steps before."""
    training = Trainer(options, place)
    training.advance(iteration)
    return training


def _step_ratio(make: Callable[[], Trainer], dense: Options) -> float:
    """Return the time of a step of what is made, in steps of the dense network; random numbers go on as before."""
    with torch.random.fork_rng():
        rival = make()
        return compare_steps(rival, _begin(dense, rival.context), next(batches(dense, 0, 1))[1])


def _train_on(training: Trainer, steps: Steps, number: int, title: str) -> float:
    """Take that many steps; return the processor time in seconds."""
    began = time.process_time()
    for iteration, batch in tqdm(
        itertools.islice(steps, number), title, total=number, mininterval=10
    ):
        training.advance(iteration)
        training.step(batch, iteration)
    return time.process_time() - began


def _options(
    case: Case, entry: Entry, seed: int, phases: Iterations, changes: Sequence[str]
) -> Options:
    own = [f"manual_seed={seed}", f"train.total_iter={phases.total}"]
    if entry.method == "dense":
        own.append("compress=null")
    else:
        own += [f"compress.method={entry.method}", f"compress.target.macs={case.keep_ratio}"]
        own += [f"compress.dense_iter={phases.dense}", f"compress.search_iter={phases.search}"]
    if entry.preset == "paper":
        own += [f"{key}={value}" for key, value in published(phases.search).items()]
    rounding = [f"compress.round_to={entry.round_to}"] if entry.round_to else []
    return resolve_paths(
        load_options(ROOT / "options" / case.option_file, [*rounding, *changes, *own]), ROOT
    )


def _figures(
    training: Trainer, sets: Sequence[TestSet], place: DistributedContext
) -> dict[str, Any]:
    network = training.phase.network_for_validation()
    pruned = training.phase.pruned_models
    achieved = pruned[0].achieved if pruned else {}
    scores = {one.name: evaluate(network, one, place.device)["psnr_y_db"] for one in sets}
    groups = {
        group["name"]: group["after"]
        for model in pruned
        for group in model.groups
        if group["prunable"]
    }
    return {
        "macs_ratio": achieved.get("macs_ratio", 1.0),
        "params_ratio": achieved.get("params_ratio", 1.0),
        "widths": groups,
        "psnr_y_db": scores,
        "mean_psnr_y_db": sum(scores.values()) / len(scores),
    }


def _done(path: Path) -> dict[tuple, list[str]]:
    """Return the changes of what is in the file."""
    if not path.exists():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {tuple(row[name] for name in KEY): row.get("set", []) for row in rows}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=FROM_NOTHING,
        default=["dhp", "magnitude", "uniform", "random"],
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--length", type=float, default=1.0, help="factor on the time of every run")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="a.b=value",
        help="changes to the option files, for all",
    )
    parser.add_argument(
        "--note", default="", help="kept in the rows, e.g. what else the machine did"
    )
    parser.add_argument("--again", action="store_true", help="train again what is in the file")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "method_comparison.json")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
