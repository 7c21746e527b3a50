"""Networks that take more than an image: a mask, a second image, a noise level."""

import pytest
import torch
from torch import nn

from dhp_sr.channels.build_plan import make_plan
from dhp_sr.cost.latency_benchmark import LatencyBenchmark
from dhp_sr.graph.trace_errors import TraceError
from dhp_sr.hyper import convert
from dhp_sr.hyper.gated import use_gates
from dhp_sr.metrics.complexity import complexity
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.network_io import first_samples, inputs_of, with_further_inputs


class Inpainting(nn.Module):
    """Reads the image and the mask together; the result is the image where the mask is 0."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(4, 12, 3, padding=1)
        self.second = nn.Conv2d(6, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, image, mask=None):
        assert mask is not None
        x = self.first(torch.cat([image * (1 - mask), mask], dim=1))
        gate, x = torch.split(x, [6, 6], dim=1)  # a forward that must be rewritten
        x = self.second(x.relu() * gate.sigmoid())
        return image * (1 - mask) + self.last(x.relu()) * mask


class TwoImages(nn.Module):
    """The same encoder reads an image and its neighbor, which may have another size."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Conv2d(3, 10, 3, padding=1)
        self.fusion = nn.Conv2d(20, 8, 1)
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x, neighbor):
        features = [self.encoder(x), self.encoder(neighbor)[..., : x.shape[2], : x.shape[3]]]
        return self.last(self.fusion(torch.cat(features, 1)).relu())


class NoiseLevel(nn.Module):
    """A number for each image scales the features, as in a conditioned denoiser."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 9, 3, padding=1)
        self.embedding = nn.Linear(1, 9)
        self.last = nn.Conv2d(9, 3, 3, padding=1)

    def forward(self, x, sigma, strength):
        scale = self.embedding(sigma[:, None])[:, :, None, None]
        return x + strength * self.last((self.first(x) * scale).relu())


def inputs_for(network, batch, height, width):
    x = torch.rand(batch, 3, height, width, dtype=torch.float64)
    if isinstance(network, Inpainting):
        return x, (torch.rand(batch, 1, height, width) < 0.5).double()
    if isinstance(network, TwoImages):
        return x, torch.rand(batch, 3, height + 2, width + 4, dtype=torch.float64)
    return x, torch.rand(batch, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)


NETWORKS = (Inpainting, TwoImages, NoiseLevel)


def mask_randomly(hyper):
    masks = {}
    for group in hyper.plan.prunable:
        masks[group.name] = torch.rand(group.width) < 0.5
        masks[group.name][0] = True
    hyper.set_masks(masks)


@pytest.mark.parametrize("network_class", NETWORKS)
def test_cut_equals_masked_and_costs_are_those_that_are_counted(network_class):
    network = network_class().double().eval()
    example = inputs_for(network, 1, 8, 8)
    hyper = convert(network, example).eval()
    assert len(hyper.plan.prunable) >= 1
    assert hyper.dense_cost().macs == complexity(network, example[0].shape, example[1:]).macs
    for _ in range(3):
        mask_randomly(hyper)
        small = hyper.cut()
        assert hyper.cost().macs == complexity(small, example[0].shape, example[1:]).macs
        assert hyper.cost().macs < hyper.dense_cost().macs
        for size in ((8, 8), (11, 6)):
            inputs = inputs_for(network, 2, *size)
            with torch.no_grad():
                expected, actual = hyper(*inputs), small(*inputs)
            assert float((actual - expected).abs().max()) <= 1e-10 * float(expected.abs().max())


@pytest.mark.parametrize("network_class", NETWORKS)
def test_channels_of_every_input_are_pinned(network_class):
    network = network_class().double()
    plan = make_plan(network, inputs_for(network, 2, 8, 8))
    pinned = [group for group in plan.groups if group.reason == "input of the network"]
    # The encoder that reads both images couples their channels.
    expected = {Inpainting: 3 + 1, TwoImages: 3, NoiseLevel: 3 + 1 + 1}
    assert sum(group.width for group in pinned) == expected[network_class]
    assert plan.example_shape == (2, 3, 8, 8)
    assert all(len(tensor) == 1 for tensor in plan.further_inputs if tensor.dim())


def test_the_cut_is_checked_with_the_further_inputs_of_the_example():
    """With this mask the output is the image, whatever the layers compute."""
    network = Inpainting().double().eval()
    image, mask = inputs_for(network, 1, 8, 8)
    hyper = convert(network, (image, torch.zeros_like(mask)))
    random_image, fixed_mask = hyper.random_inputs()
    assert torch.equal(fixed_mask, torch.zeros_like(mask)) and random_image.shape == image.shape
    assert torch.equal(hyper.eval()(random_image, fixed_mask), random_image)


class Guided(nn.Module):
    """The guide may be left out, and its layer is then not used."""

    def __init__(self):
        super().__init__()
        self.first, self.guide = nn.Conv2d(3, 8, 3), nn.Conv2d(1, 8, 3)
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, x, guide=None):
        x = self.first(x)
        return self.last(x if guide is None else x + self.guide(guide))


def test_an_optional_input_counts_where_the_example_has_it():
    network = Guided().double().eval()
    x, guide = (torch.rand(1, planes, 8, 8, dtype=torch.float64) for planes in (3, 1))
    alone, guided = convert(network, x).eval(), convert(network, (x, guide)).eval()
    difference = guided.dense_cost().macs - alone.dense_cost().macs
    assert difference == 9 * 8 * 6 * 6
    for hyper, inputs in ((alone, (x,)), (guided, (x, guide))):
        mask_randomly(hyper)
        torch.testing.assert_close(hyper.cut()(*inputs), hyper(*inputs))


@pytest.mark.parametrize("network_class", NETWORKS)
def test_gates_are_tried_with_all_inputs(network_class):
    network = network_class().double().eval()
    inputs = inputs_for(network, 2, 8, 8)
    hyper = convert(network, inputs).eval()
    use_gates(hyper)
    torch.testing.assert_close(hyper(*inputs), network(*inputs))


@pytest.mark.parametrize("network_class", NETWORKS)
def test_calibration_with_all_inputs_brings_the_cut_closer(network_class):
    network = network_class().double().eval()
    hyper = convert(network, inputs_for(network, 1, 8, 8)).eval()
    mask_randomly(hyper)
    batches = [inputs_for(network, 2, 8, 8) for _ in range(4)]
    plain, corrected = hyper.cut(), hyper.cut(calibration=batches)

    def error(small):
        with torch.no_grad():
            return sum(float((small(*batch) - network(*batch)).square().sum()) for batch in batches)

    assert error(corrected) < error(plain)
    assert hyper.correction_report.layers


def test_latency_is_measured_with_all_inputs():
    network = NoiseLevel().eval()
    example = with_further_inputs(torch.rand(1, 3, 8, 8), inputs_for(network, 1, 8, 8)[1:])
    hyper = convert(network, example)
    hyper.use_latency(LatencyBenchmark(hyper.random_inputs()))
    assert hyper.dense_cost().latency > 0


def test_an_example_that_does_not_suit_the_forward_is_refused():
    network = Inpainting().double()
    image, mask = inputs_for(network, 1, 8, 8)
    with pytest.raises(TraceError, match="3 inputs"):
        convert(network, (image, mask, mask))
    with pytest.raises(TraceError, match="sigma, strength"):
        convert(NoiseLevel().double(), image)
    with pytest.raises(UserError, match="Tensor, float"):
        convert(NoiseLevel().double(), (image, 0.3))
    with pytest.raises(UserError, match="nothing"):
        convert(network, ())


def test_inputs_of_an_example():
    image, mask, level = torch.rand(2, 3, 4, 4), torch.rand(2, 1, 4, 4), torch.tensor([5])
    assert inputs_of(image) == (image,)
    assert first_samples((image, mask, level))[1].shape == (1, 1, 4, 4)
    assert torch.equal(first_samples((image, mask, level))[2], level)
    doubled = with_further_inputs(image.double(), (mask, level))
    assert [tensor.dtype for tensor in doubled] == [torch.float64, torch.float64, torch.int64]
