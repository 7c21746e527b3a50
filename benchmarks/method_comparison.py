"""Compare the quality of the search methods: same data, same time, several seeds.

    $ python benchmarks/method_comparison.py --cases edsr_50 --seeds 0 1 2

Every finished training is a row of results/method_comparison.json. Rows that exist are not trained
again, so an interrupted comparison continues (`--again` repeats them). Lengths follow measured
times, so a repeated row differs a little. All of a table:

    $ python benchmarks/method_comparison.py --rows results/method_comparison.json --out again.json
"""

import argparse
import copy
import itertools
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(ROOT)]  # in place of this folder, whose modules must not hide others

import torch  # noqa: E402
from tqdm import tqdm  # noqa: E402

from benchmarks.result_files import describe_measurement, merge_rows, read_rows  # noqa: E402
from benchmarks.step import step_time_ratio  # noqa: E402
from benchmarks.time_plan import (  # noqa: E402
    CASES,
    FROM_PRETRAINED,
    FROM_SCRATCH,
    Case,
    Entry,
    Iterations,
    find_entry,
    paper_settings,
    plan_iterations,
)
from benchmarks.training import batches, teach  # noqa: E402
from dhp_sr.cli.process import keep_memory, seed_everything  # noqa: E402
from dhp_sr.config import Options, load_options, resolve_paths  # noqa: E402
from dhp_sr.deploy import save_model  # noqa: E402
from dhp_sr.tasks import task_of  # noqa: E402
from dhp_sr.tasks.test_sets import build_test_sets, evaluate  # noqa: E402
from dhp_sr.training.distributed import DistributedContext  # noqa: E402
from dhp_sr.training.trainer import Trainer  # noqa: E402
from dhp_sr.utils.devices import select_device  # noqa: E402
from dhp_sr.utils.errors import UserError, exit_code  # noqa: E402

Batches = Iterator[tuple[int, dict[str, Any]]]
"""Iterations and their batches."""

KIND = "method_comparison"
KEY = ("case", "method", "seed", "length")
"""Entries of a row that identify it."""
METHODS = sorted({*FROM_SCRATCH, *FROM_PRETRAINED})
NUM_MEASUREMENTS = 6
"""Measurements of the pruned network's step; within minutes its ratio drifts by a tenth."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    given = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser().parse_args(given)
    command = shlex.join(["benchmarks/method_comparison.py", *given])
    keep_memory()
    return exit_code(lambda: compare(arguments, command))


def compare(arguments: argparse.Namespace, command: str) -> None:
    """Train every combination of case, seed and method that has no row yet.

    Raises:
        UserError: a row was made with other changes of the options.
    """
    done = {}
    if not arguments.again:
        done = dict(_rows_of(arguments.out))
    context = DistributedContext(select_device("auto"))
    for key, changes in _wanted_rows(arguments):
        case, method, seed, length = key
        if key in done:
            if done[key] != changes:
                found = f"--set {done[key]} at {key}"
                hint = "give another file (--out), or --again"
                raise UserError(
                    f"{arguments.out}: expected rows with --set {changes}, got {found}; {hint}"
                )
            print(f"{key}: kept")
            continue
        row = dict(zip(KEY, key, strict=True))
        file = None
        if arguments.networks is not None:
            file = arguments.networks / f"{case}_{method}_{seed}.safetensors"
        row |= train(CASES[case], method, seed, length, changes, context, file)
        row["measured"] = describe_measurement(context.device, command, arguments.note)
        merge_rows(arguments.out, KIND, [row], KEY)
        result = f"{row['macs_ratio']:.1%} of the MACs, {row['mean_psnr_y_db']:.3f} dB"
        print(f"{case} {method} seed {seed}: {result}")


def _rows_of(path: Path) -> Iterator[tuple[tuple[Any, ...], list[str]]]:
    """Yield key and changes of the options of every row of a file."""
    for row in read_rows(path, KIND):
        yield tuple(row[name] for name in KEY), row.get("set", [])


def _wanted_rows(arguments: argparse.Namespace) -> Iterator[tuple[tuple[Any, ...], list[str]]]:
    """Yield key and changes of the options of every row to be trained."""
    if arguments.rows is not None:
        yield from _rows_of(arguments.rows)
        return
    combinations = itertools.product(arguments.cases, arguments.seeds, arguments.methods)
    for case, seed, method in combinations:
        yield (case, method, seed, arguments.length), arguments.set


def train(
    case: Case,
    method: str,
    seed: int,
    length: float,
    changes: Sequence[str],
    context: DistributedContext,
    file: Path | None = None,
) -> dict[str, Any]:
    """Train a network from start to end; return its results.

    Args:
        case: network, data and budget.
        method: of `METHODS`.
        seed: seed of weights, batches and search.
        length: factor on the time.
        changes: `section.key=value` each, the same for all methods.
        context: device.
        file: where the network is written; None: nowhere.
    """
    entry = find_entry(case, method)
    collect = _iterations_of_calibration(case, entry, changes)
    phases = plan_iterations(case, entry, length, collect=collect)
    options = _options(case, entry, seed, phases, changes)
    dense_options = _options(case, find_entry(case, "dense"), seed, phases, changes)
    title = f"{method} {seed}"
    seed_everything(seed)
    trainer = _trainer_at(options, context, 0)
    train_set = task_of(options).train_set(options)
    start_s = _clock(context)
    teach(trainer, train_set)
    once_s = _clock(context) - start_s
    data = batches(options, 0, train_set=train_set)
    cpu_s = _take_steps(trainer, data, phases.dense, title)
    search_ratio = 1.0
    step_ratios: list[float] = []
    if phases.search:
        # Of a second trainer at the start of the search, since measuring trains.
        make_trainer = partial(_trainer_at, options, context, phases.dense)
        search_ratio, _ = _measure(make_trainer, dense_options, train_set)
        cpu_s += _take_steps(trainer, data, phases.search, f"{title} search")
    if method != "dense":
        start_s = _clock(context)
        trainer.advance(phases.dense + phases.search)
        once_s += _clock(context) - start_s
        plan = partial(
            plan_iterations, case, entry, length, search_ratio=search_ratio, collect=collect
        )
        finetune_s, phases, step_ratios = _finetune(
            trainer, data, dense_options, train_set, plan, once_s, f"{title} cut"
        )
        cpu_s += finetune_s
    trainer.advance(phases.total)
    if file is not None:
        save_model(trainer.phase.network_for_validation(), file)
    return {
        **_results(trainer, case, options, context),
        "set": list(changes),
        "search_ratio": round(search_ratio, 3),
        "step_ratio": round(statistics.fmean(step_ratios or [1.0]), 3),
        "step_ratios": step_ratios,
        "iterations": asdict(phases),
        "once_s": round(once_s),
        "cpu_s": round(cpu_s + once_s),
        "amp": trainer.options.train.amp,
    }


def _iterations_of_calibration(case: Case, entry: Entry, changes: Sequence[str]) -> int:
    """Iterations whose inputs a cut is calculated from; 0: from the weights alone."""
    options = load_options(
        ROOT / "options" / case.option_file, [*case.changes, *entry.changes, *changes]
    )
    compress = options.compress
    if entry.method == "dense" or compress is None:
        return 0
    needs_inputs = entry.method == "obs" or compress.correction is not None
    return (compress.search_iter or 0) if needs_inputs else 0


def _clock(context: DistributedContext) -> float:
    """Seconds: processor time on a CPU, wall time on a graphics card."""
    return time.process_time() if context.device.type == "cpu" else time.perf_counter()


def _finetune(
    trainer: Trainer,
    data: Batches,
    dense_options: Options,
    train_set: Any,
    plan: Callable[..., Iterations],
    once_s: float,
    title: str,
) -> tuple[float, Iterations, list[float]]:
    """Train a pruned network for the remaining time, measuring its steps on the way.

    Args:
        trainer: training at the cut.
        data: batches from there on.
        dense_options: options of the dense network, the unit of time.
        train_set: images that `data` draws from.
        plan: `plan_iterations` but for the ratio of the steps and the time of the cut.
        once_s: time of the cut, and of all else that happened once, in seconds.
        title: title of the progress bar.

    Returns:
        Processor time in seconds, the lengths of the phases, and the measured ratios.
    """
    prune_at = trainer.schedule.prune_at
    done = prune_at
    cpu_s = 0.0
    step_ratios: list[float] = []
    dense_steps_s: list[float] = []
    for remaining in range(NUM_MEASUREMENTS, 0, -1):
        ratio, dense_s = _measure(lambda: copy.deepcopy(trainer), dense_options, train_set)
        step_ratios.append(ratio)
        dense_steps_s.append(dense_s)
        cut = once_s / statistics.fmean(dense_steps_s)
        planned = plan(step_ratio=statistics.fmean(step_ratios), cut=cut)
        total = planned.total
        if total < done:
            warning = f"measured times jump ({step_ratios}); it had more time than the others"
            print(f"{title}: {warning}", file=sys.stderr)
        num_steps = max(0, round((total - done) / remaining))
        # The learning rate falls to its end at the length that is known by now.
        trainer.schedule = replace(trainer.schedule, total_iter=max(total, done + num_steps))
        cpu_s += _take_steps(trainer, data, num_steps, f"{title}, {remaining} to go")
        done += num_steps
    phases = replace(planned, finetune=done - prune_at)
    return cpu_s, phases, [round(ratio, 3) for ratio in step_ratios]


def _trainer_at(options: Options, context: DistributedContext, iteration: int) -> Trainer:
    """Training in the phase of an iteration, without the steps before."""
    trainer = Trainer(options, context)
    trainer.advance(iteration)
    return trainer


def _measure(
    make_trainer: Callable[[], Trainer], dense_options: Options, train_set: Any
) -> tuple[float, float]:
    """Time of a step relative to the dense network, and that of the latter in seconds.

    The random state stays as it was.
    """
    with torch.random.fork_rng():
        trainer = make_trainer()
        reference = _trainer_at(dense_options, trainer.context, 0)
        _, batch = next(batches(dense_options, 0, 1, train_set=train_set))
        return step_time_ratio(trainer, reference, batch)


def _take_steps(trainer: Trainer, data: Batches, num_steps: int, title: str) -> float:
    """Take training steps; return their processor time in seconds."""
    start = time.process_time()
    steps = itertools.islice(data, num_steps)
    for iteration, batch in tqdm(steps, title, total=num_steps, mininterval=10):
        trainer.advance(iteration)
        trainer.step(batch, iteration)
    return time.process_time() - start


def _options(
    case: Case, entry: Entry, seed: int, phases: Iterations, changes: Sequence[str]
) -> Options:
    settings: dict[str, Any] = {"manual_seed": seed, "train.total_iter": phases.total}
    if entry.method == "dense":
        settings["compress"] = "null"
        settings["datasets.train.reductions"] = "null"  # there is no teacher
    else:
        settings["compress.method"] = entry.method
        settings["compress.target.macs"] = case.keep_ratio
        settings["compress.dense_iter"] = phases.dense
        settings["compress.search_iter"] = phases.search
    if entry.preset == "paper":
        settings |= paper_settings(phases.search)
    overrides = [f"{key}={value}" for key, value in settings.items()]
    rounding = [f"compress.round_to={entry.round_to}"] if entry.round_to else []
    # The entry's rounding wins over that of the case: equal widths at half the MACs are no multiple
    # of 16. The changes of the user win over both, but not over the plan.
    path = ROOT / "options" / case.option_file
    all_changes = [*case.changes, *rounding, *entry.changes, *changes, *overrides]
    return resolve_paths(load_options(path, all_changes), ROOT)


def _results(
    trainer: Trainer, case: Case, options: Options, context: DistributedContext
) -> dict[str, Any]:
    network = trainer.phase.network_for_validation()
    scores = {}
    for test_set in build_test_sets(options):
        if test_set.name in case.test_sets:
            scores[test_set.name] = evaluate(network, test_set, context.device)["psnr_y_db"]
    achieved: dict[str, float] = {}
    widths = {}
    for model in trainer.phase.pruned_models:  # none for the dense network
        achieved = model.achieved
        for group in model.groups:
            if group["prunable"]:
                widths[group["name"]] = group["after"]
    return {
        "macs_ratio": achieved.get("macs_ratio", 1.0),
        "params_ratio": achieved.get("params_ratio", 1.0),
        "widths": widths,
        "psnr_y_db": scores,
        "mean_psnr_y_db": statistics.fmean(scores.values()),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    default_methods = ["dhp", "magnitude", "uniform", "random"]
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=default_methods)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--length", type=float, default=1.0, help="factor on the time of every run")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="a.b=value",
        help="changes of the option files, the same for all methods",
    )
    parser.add_argument(
        "--rows",
        type=Path,
        help="file whose rows are trained, instead of --cases, --methods, --seeds, --length, --set",
    )
    parser.add_argument("--note", default="", help="stored in the rows, such as what else ran")
    parser.add_argument("--networks", type=Path, help="folder that the networks are written to")
    parser.add_argument("--again", action="store_true", help="train again what has a row")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / f"{KIND}.json")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
