"""Choice of the blocks to leave out of a network whose class takes the number of its blocks.

A block's input and result have the same channels. Left out, the layers behind it are re-solved by
least squares, so that they come close to what they gave before (`surgery.correct`). What that
costs is measured on the user's images, as the distance from the original's output.
"""

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dhp_sr.deploy.model_info import attach_info, info_of
from dhp_sr.hyper import HyperNet
from dhp_sr.surgery.correct import correct
from dhp_sr.zoo.checkpoints import Checkpoint
from dhp_sr.zoo.names import build_named


@dataclass(frozen=True)
class BlockCount:
    """Blocks of a class whose constructor takes their number."""

    argument: str
    """Name of the constructor's argument."""
    prefix: str
    """Beginning of the names of the blocks; their number follows."""
    first: int = 0
    """Number of the first block."""

    def number(self, key: str) -> int | None:
        """Return the number behind the prefix, counted from 0; None for other keys."""
        if not key.startswith(self.prefix):
            return None
        digits = key.removeprefix(self.prefix).partition(".")[0]
        return int(digits) - self.first if digits.isdigit() else None


BLOCK_COUNTS = {
    "EDSR": BlockCount("num_block", "body."),
    "RLFN": BlockCount("num_block", "block_", first=1),
    "spandrel:ESRGAN.RRDBNet": BlockCount("num_blocks", "model.1.sub."),
    "spandrel:PLKSR.PLKSR": BlockCount("n_blocks", "feats.", first=1),
    "spandrel:PLKSR.RealPLKSR": BlockCount("n_blocks", "feats.", first=1),
    "spandrel:RCAN.RCAN": BlockCount("n_resgroups", "body."),
    "spandrel:SAFMN.SAFMN": BlockCount("n_blocks", "feats."),
}
"""Network -> its blocks, of the classes whose blocks can be left out."""

SHORTLIST = 3
"""Blocks that are tried with the correction, of those that cost least without it."""

SECONDS_SHARE = 0.15
"""Share of the time of a run, at most, for tries with the correction."""


def renumbered(
    state: Mapping[str, Tensor], blocks: BlockCount, count: int, left_out: Collection[int]
) -> dict[str, Tensor]:
    """Return a state dict without some blocks, the others numbered without gaps.

    What follows the blocks in the same container is numbered anew as well.

    Args:
        state: State of the network with all blocks.
        blocks: Their names.
        count: Their number.
        left_out: Numbers of the blocks to leave out, from 0.
    """
    result = {}
    for key, tensor in state.items():
        number = blocks.number(key)
        if number is not None:
            if number in left_out:
                continue
            before = sum(other < min(number, count) for other in left_out)
            rest = key.removeprefix(blocks.prefix).partition(".")[2]
            key = f"{blocks.prefix}{number - before + blocks.first}.{rest}"
        result[key] = tensor
    return result


class FewerBlocks:
    """Networks of a class with fewer blocks, corrected on images.

    Args:
        checkpoint: The original, of a class in `BLOCK_COUNTS`.
        hyper: The same network, converted.
        calibration: Inputs that layers are re-solved on.
        evaluation: Other inputs, on which networks are compared.
        seconds: For tries with the correction; where they would take longer, the blocks are
            chosen without it.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        hyper: HyperNet,
        calibration: Sequence[Tensor],
        evaluation: Sequence[Tensor],
        seconds: float = math.inf,
    ) -> None:
        self.blocks = BLOCK_COUNTS[checkpoint.name]
        self.count = int(checkpoint.arguments[self.blocks.argument])
        self._checkpoint = checkpoint
        self._hyper = hyper
        self._calibration = calibration
        self._evaluation = evaluation
        self._seconds = seconds
        self._orders: list[frozenset[int]] = [frozenset()]
        self._corrected: dict[frozenset[int], nn.Module] = {}
        with torch.no_grad():
            # Copies: RCAN writes into its input.
            self._targets = [checkpoint.network(x.clone()) for x in evaluation]

    @torch.no_grad()
    def psnr_db(self, network: nn.Module) -> float:
        """Return the PSNR of a network's output to the original's."""
        square = 0.0
        entries = 0
        for x, target in zip(self._evaluation, self._targets, strict=True):
            square += float((network.eval()(x.clone()) - target).square().sum())
            entries += target.numel()
        return -10 * math.log10(max(square / entries, 1e-12))

    def with_count(self, count: int) -> tuple[Checkpoint, tuple[int, ...]]:
        """Return the corrected network with so many blocks, and the numbers of those left out.

        Blocks are left out one after the other: at each step the one that the output can best do
        without.
        """
        while len(self._orders) <= self.count - count:
            self._orders.append(self._next())
        left_out = self._orders[self.count - count]
        network = self._corrected_network(left_out)
        arguments = {**self._checkpoint.arguments, self.blocks.argument: count}
        numbers = tuple(sorted(number + self.blocks.first for number in left_out))
        return replace(self._checkpoint, network=network, arguments=arguments), numbers

    def _next(self) -> frozenset[int]:
        """Return the blocks left out so far and a further one."""
        before = self._orders[-1]
        plain: dict[frozenset[int], float] = {}
        for number in sorted(set(range(self.count)) - before):
            left_out = before | {number}
            state = self._checkpoint.network.state_dict()
            plain[left_out] = self.psnr_db(self._network(state, left_out))
        best = sorted(plain, key=lambda left_out: -plain[left_out])[:SHORTLIST]
        if len(best) == 1 or self._seconds <= 0:
            return best[0]
        start = time.perf_counter()
        scores = {left_out: self.psnr_db(self._corrected_network(left_out)) for left_out in best}
        self._seconds -= time.perf_counter() - start
        return max(best, key=lambda left_out: scores[left_out])

    def _corrected_network(self, left_out: frozenset[int]) -> nn.Module:
        if not left_out:
            return self._checkpoint.network
        if left_out not in self._corrected:
            names = [f"{self.blocks.prefix}{i + self.blocks.first}" for i in sorted(left_out)]
            network = self._checkpoint.network
            values, _ = correct(
                network,
                self._hyper.plan,
                torch.ones_like(self._hyper.mask),
                dict(network.named_parameters()),
                self._calibration,
                left_out=names,
            )
            state = {**network.state_dict(), **values}
            self._corrected[left_out] = self._network(state, left_out)
        return self._corrected[left_out]

    def _network(self, state: Mapping[str, Tensor], left_out: frozenset[int]) -> nn.Module:
        """Build the class with fewer blocks, with the weights of those that stay."""
        count = self.count - len(left_out)
        arguments = {**self._checkpoint.arguments, self.blocks.argument: count}
        network = build_named(self._checkpoint.name, arguments).eval()
        network.load_state_dict(renumbered(state, self.blocks, self.count, left_out))
        info = info_of(self._checkpoint.network)
        attach_info(network, replace(info, arguments=arguments))
        return network
