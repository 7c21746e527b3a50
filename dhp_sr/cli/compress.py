"""Any trained restoration network in, a smaller one out. The service of compress.py.

checkpoint -> which network -> plan -> option file -> run of the training driver -> comparison

`run_compress` takes a checkpoint and arguments of the command line, `compress` a network and
arguments of a program; both end in `compress_checkpoint`.
"""

import argparse
import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from dhp_sr.archs import ARCHS
from dhp_sr.cli.compress_options import option_file_text
from dhp_sr.cli.compress_outputs import CompressReport, write_best_so_far, write_outputs
from dhp_sr.cli.compress_prepare import prepare_run
from dhp_sr.cli.compress_request import FACTS, QUALITY, CompressRequest, Target
from dhp_sr.cli.process import keep_memory, plain_warnings, seed_everything, stop_on_signals
from dhp_sr.config import load_options
from dhp_sr.deploy import register
from dhp_sr.deploy.model_info import attach_info, attached_info, is_registered, stated_info
from dhp_sr.training.checkpoint import list_states
from dhp_sr.training.driver import train
from dhp_sr.training.loop import Interrupted
from dhp_sr.training.run_folder import RunFolder
from dhp_sr.training.run_lock import RunLock
from dhp_sr.utils.cost_kinds import COST_KINDS
from dhp_sr.utils.errors import LostProcessError, UserError
from dhp_sr.utils.files import write_text
from dhp_sr.utils.strict_json import parse_json
from dhp_sr.zoo.checkpoints import Checkpoint, checkpoint_of_own, open_checkpoint
from dhp_sr.zoo.model_zoo import resolve_model
from dhp_sr.zoo.names import register_known
from dhp_sr.zoo.networks import plain_type
from dhp_sr.zoo.third_party import describe_by_output
from dhp_sr.zoo.user_class import class_file
from dhp_sr.zoo.value_range import adapt_range


def run_compress(arguments: argparse.Namespace, root: Path) -> int:
    """Run compress.py.

    Args:
        arguments: Parsed by `parsers.compress_parser`.
        root: Folder that `experiments/` lies in.

    Returns:
        The exit code: 0, or 130 where the user stopped the run.

    Raises:
        UserError: A mistake in arguments or files, or a target that cannot be met.
    """
    # Mistakes in arguments first: opening a checkpoint takes seconds.
    model = resolve_model(arguments.model)
    target = Target.from_text(arguments.target)
    request = CompressRequest(
        images=Path(arguments.images),
        target=target,
        minutes=arguments.minutes,
        iterations=arguments.iterations,
        truths=Path(arguments.truth) if arguments.truth else None,
        degradation=arguments.degradation,
        drawn=arguments.drawn,
        name=model.stem,
        output=Path(arguments.output or f"{model.stem}_{target.label}.safetensors"),
        onnx=arguments.onnx,
        drop_in=arguments.drop_in,
        remove_blocks=arguments.remove_blocks,
        auto_resume=arguments.auto_resume,
        save_options=Path(arguments.save_options) if arguments.save_options else None,
        seed=arguments.seed,
        runtime=arguments.runtime,
    )
    code = class_file(arguments.arch) if arguments.arch else None
    request.check_keeps(model, code)
    register_known()
    keep_memory()
    with plain_warnings(), stop_on_signals() as stop:
        seed_everything(arguments.seed)
        checkpoint = open_checkpoint(model, arguments.arch, arguments.arguments)
        try:
            compress_checkpoint(checkpoint, request, root=root, stop=stop, say=print)
        except Interrupted as error:
            print(f"{error}\nresume with the same command and --auto_resume")
            return 130
        except KeyboardInterrupt:
            print(_stopped_text(root / "experiments" / request.run_name))
            return 130
        except (OSError, LostProcessError):
            # Such as a full disk: minutes of finetuning need not be lost.
            print(_stopped_text(root / "experiments" / request.run_name))
            raise
    return 0


def _stopped_text(run_folder: Path) -> str:
    """Say what there is of a run that was stopped while no step was taken."""
    states = list_states(RunFolder(run_folder).states)
    if not states:
        return (
            "stopped before the first step: there is no smaller network and no state yet; start "
            "again with the same command"
        )
    return (
        f"stopped; the state of iteration {states[-1][0]} is saved\n"
        "resume with the same command and --auto_resume"
    )


def compress_checkpoint(
    checkpoint: Checkpoint,
    request: CompressRequest,
    *,
    root: Path,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda line: None,
) -> CompressReport:
    """Search, cut, correct, finetune and compare, as one run of the training driver.

    Args:
        checkpoint: The original network.
        request: Target, images and files.
        root: Folder that `experiments/` lies in.
        stop: Asked after every iteration; True ends the run with the best so far.
        say: Takes lines for the user.

    Raises:
        UserError: Images, target or time do not allow it.
        FolderInUseError: A compression of the same name is running.
        Interrupted: `stop` returned True, or Ctrl-C came after a state had been saved. What there
            is by then has been written.
    """
    lines: list[str] = []

    def note(line: str) -> None:
        lines.append(line)
        say(line)

    # Stored with the run before it begins, by the training driver.
    run_folder = root / "experiments" / request.run_name
    stored = run_folder / "options.yml"
    images = request.images_folder(root)
    # From here on: the preparation of another run of this name would replace the images of this.
    with RunLock.acquire(images):
        if request.auto_resume and stored.is_file():
            check_same_run(request, checkpoint, images)
            note(f"continuing {run_folder}, with the iterations that it was begun with")
            # Timed again, a busier machine would get other iterations, and so another run.
            options = load_options(stored)
        else:
            options = prepare_run(checkpoint, request, root, note)
        # They state the arguments of the value range, too, which preparation may have found.
        _, arguments = plain_type(options.network_g)
        adapted = replace(checkpoint, arguments=arguments)
        if request.save_options is not None:
            text = option_file_text(options, f"compress.py --images {request.images}")
            write_text(request.save_options, text)
            note(f"option file for train.py: {request.save_options}")
        try:
            metrics = train(options, root=root, auto_resume=request.auto_resume, stop=stop)
        except Interrupted:
            # Minutes of finetuning are worth something even where the rest is missing.
            write_best_so_far(options, request, adapted, root, note)
            raise
        report = write_outputs(options, request, adapted, root, metrics, note)
    report.lines = lines
    return report


def check_same_run(request: CompressRequest, checkpoint: Checkpoint, folder: Path) -> None:
    """Check that the run of a request's name was begun with the same checkpoint and images.

    Args:
        request: The request, to resume.
        checkpoint: The original, as its file has it.
        folder: See `CompressRequest.images_folder`.

    Raises:
        UserError: It was begun with others.
    """
    record = folder / FACTS
    if not record.is_file():
        return  # begun by an earlier version
    try:
        stored = dict(parse_json(record.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise UserError(f"{record}: expected a JSON object, got: {error}") from error
    facts = request.facts(checkpoint)
    differing = [option for option in facts if stored.get(option) != facts[option]]
    if differing:
        raise UserError(
            f"--auto_resume: the run {request.run_name} was begun with another "
            f"{', '.join(differing)}; give the same, or omit --auto_resume: the earlier run is "
            "then renamed"
        )


def compress(
    network: nn.Module,
    images: str | Path,
    *,
    minutes: float = 30.0,
    iterations: int | None = None,
    truth: str | Path | None = None,
    degradation: str | None = None,
    drawn: int | None = None,
    output: str | Path | None = None,
    root: str | Path | None = None,
    seed: int = 0,
    remove_blocks: bool = False,
    runtime: str | None = None,
    say: Callable[[str], None] = print,
    **target: float,
) -> tuple[nn.Module, CompressReport]:
    """Compress a trained network; see `dhp_sr.compress`, which calls this."""
    if len(target) != 1:
        known = ", ".join([*COST_KINDS, QUALITY])
        raise UserError(f"expected a single target of {known}, got {target or 'none'}")
    kind, value = next(iter(target.items()))
    register_known()
    checkpoint = checkpoint_of(network)
    request = CompressRequest(
        # Through text, so that the same checks and messages hold as on the command line.
        images=Path(images),
        target=Target.from_text(f"{kind}={value}"),
        minutes=minutes,
        iterations=iterations,
        truths=None if truth is None else Path(truth),
        degradation=degradation,
        drawn=drawn,
        name=type(network).__name__,
        output=None if output is None else Path(output),
        remove_blocks=remove_blocks,
        runtime=runtime,
        seed=seed,
    )
    # Absolute: paths of a run's options would be looked up from this folder once more.
    folder = Path.cwd() if root is None else Path(root).absolute()
    report = compress_checkpoint(checkpoint, request, root=folder, say=say)
    return report.network, report


def checkpoint_of(network: nn.Module) -> Checkpoint:
    """Describe a network of a program, so that a run can build it again.

    A class that nothing knows is registered under `user:CLASS`, as a copy of this object: the
    result can be loaded again where a program registers a constructor of that name.

    Raises:
        UserError: It is no network that restores images.
    """
    if not isinstance(network, nn.Module):
        raise UserError(
            f"expected a network (torch.nn.Module), got {type(network).__name__}; files are for "
            "compress.py --model, a state dict is loaded into its network first"
        )
    if isinstance(network, torch.jit.ScriptModule):
        raise UserError(
            "expected a network in Python, got one of TorchScript, which has no forward to follow; "
            "give the network that was scripted"
        )
    # The caller's network stays as it was, on its device and in its mode.
    copied = copy.deepcopy(network).cpu().float().eval()
    name = type(network).__name__
    info = attached_info(copied)
    if info is None and ARCHS.get(name) is type(network):
        info = stated_info(copied)
    if info is not None and is_registered(info.architecture):
        return replace(checkpoint_of_own(attach_info(copied, info)), title=name)
    architecture = f"user:{name}"

    # A run builds the network before it loads the weights: copies of this object do for that.
    def construct(**arguments: object) -> nn.Module:
        return adapt_range(lambda inner: copy.deepcopy(copied), arguments)

    register(architecture, construct)
    convolutions = [layer for layer in copied.modules() if isinstance(layer, nn.Conv2d)]
    # Networks rarely begin otherwise than with a convolution.
    channels = convolutions[0].in_channels if convolutions else 3
    describe_by_output(copied, architecture, {"num_in_ch": channels})
    described = attached_info(copied)
    assert described is not None, "just attached"
    # The number of channels was a hint for the probe; `construct` takes no such argument.
    attach_info(copied, replace(described, arguments={}))
    return Checkpoint(copied, architecture, {}, name)
