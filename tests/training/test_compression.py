import pytest
import torch

from dhp_sr.surgery.cut import kept_entries
from dhp_sr.training.compression import Compression
from dhp_sr.training.distributed import DistributedContext
from dhp_sr.utils.devices import select_device
from dhp_sr.utils.errors import UserError

CPU = DistributedContext(torch.device("cpu"))


def batch(scale: int = 2, channels: int = 3) -> dict:
    return {
        "lq": torch.rand(2, channels, 8, 8),
        "gt": torch.rand(2, channels, 8 * scale, 8 * scale),
    }


@pytest.fixture
def compression(make_options, tmp_path):
    def make(**changes) -> Compression:
        return Compression(make_options(**changes), CPU, tmp_path / "dense.safetensors")

    return make


def test_phases_entered_on_the_way(compression):
    one = compression()
    assert one.advance(0) == [] and one.phase == "dense"
    assert one.advance(4) == ["search"] and one.advance(4) == []
    for iteration in range(4, 8):
        one.step(batch(), iteration)
    assert one.advance(8) == ["finetune"]
    assert one.ratios()["macs_ratio"] == pytest.approx(0.5, abs=0.15)


def test_a_converted_network_computes_the_same(compression):
    one, x = compression(), batch()["lq"]
    before = one.for_validation().eval()(x)
    one.advance(4)
    assert torch.allclose(one.for_validation().eval()(x), before, atol=1e-5)


def test_a_loss_that_is_not_finite_says_where_and_leaves_the_weights(compression):
    one = compression()
    before = {key: value.clone() for key, value in one.network.state_dict().items()}
    bad = {**batch(), "gt": torch.full((2, 3, 16, 16), float("nan"))}
    with pytest.raises(
        UserError, match=r"loss is nan at iteration 3 \(phase dense, learning rate .*lower"
    ):
        one.step(bad, 2)
    assert all(torch.equal(value, before[key]) for key, value in one.network.state_dict().items())


def test_the_moving_average_includes_buffers(compression):
    network = {"type": "DnCNN", "num_in_ch": 1, "num_feat": 4, "num_layers": 3}
    one = compression(network=network, compress={}, train={"ema_decay": 0.5})
    one.step(batch(1, 1), 0)
    first = one.network.model[3].running_mean.clone()
    one.step(batch(1, 1), 1)
    second = one.network.model[3].running_mean
    assert torch.allclose(one.for_validation().model[3].running_mean, (first + second) / 2)
    assert not torch.equal(first, second)


def test_no_moving_average_before_the_cut(compression):
    one = compression()
    assert one.average is None and one.for_validation() is one.network


def test_moments_live_on_into_the_search(compression):
    one = compression()
    one.step(batch(), 0)
    name, weight = next(iter(one.network.named_parameters()))
    moment = one.optimizer.state[weight]["exp_avg"].clone()
    one.advance(4)
    assert torch.equal(
        one.optimizer.state[dict(one.network.network.named_parameters())[name]]["exp_avg"], moment
    )


def test_distillation_pulls_to_the_teacher(make_options, tmp_path):
    from dhp_sr.deploy import save_model

    options = make_options(compress={"distill": {"weight": 1000.0}})
    path = tmp_path / "dense.safetensors"
    one = Compression(options, CPU, path, lambda network: save_model(network, path))
    one.advance(4)
    teacher = one.objective.teacher
    assert teacher is not None and not teacher.training
    for iteration in range(4, 8):
        one.step(batch(), iteration)
    assert one.step(batch(), 7)["loss"] > 1, "the weights have moved away from the teacher's"
    one.advance(8)
    assert one.objective.teacher is teacher
    assert one.step(batch(), 8)["loss"] > 10


def test_bf16_and_channels_last(compression):
    one = compression(train={"amp": "bf16", "channels_last": True})
    assert one.network.conv_first.weight.is_contiguous(memory_format=torch.channels_last)
    assert one.network.conv_first.weight.dtype == torch.float32
    for iteration in range(12):
        one.advance(iteration)
        assert one.step(batch(), iteration)["loss"] < 1


@pytest.mark.parametrize(
    "network, expected",
    [
        ({"type": "HyperEDSX"}, "did you mean 'EDSR'"),
        ({"type": "EDSR", "num_feat": 8, "upscale": 3}, "enlarges 3 times"),
        (
            {"type": "EDSR", "num_in_ch": 1, "num_out_ch": 1, "rgb_mean": [0.4], "upscale": 2},
            "takes 1 channel",
        ),
        ({"type": "EDSR", "num_feats": 8, "upscale": 2}, "did you mean 'num_feat'"),
        ({"type": "Hyper", "num_feat": 8}, "expects exactly `network:"),
    ],
)
def test_networks_that_do_not_fit(compression, network, expected):
    with pytest.raises(UserError, match=expected):
        compression(network=network)


def test_pretrained_weights_of_another_network(make_options, tmp_path):
    from safetensors.torch import save_file

    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    options = make_options()
    path = options.path.model_copy(
        update={"pretrain_network_g": str(tmp_path / "other.safetensors")}
    )
    with pytest.raises(UserError, match=r"conv\.weight"):
        Compression(options.model_copy(update={"path": path}), CPU, tmp_path)


def test_a_missing_graphics_card():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert select_device("auto").type == "cpu" and select_device(0).type == "cpu"
    with pytest.raises(UserError, match=r"expected 1 CUDA device\(s\).*num_gpu: 0"):
        select_device(1)


def test_the_optimizer_goes_on_with_the_moments_of_what_stays(compression):
    """Right after the cut every moment is the kept part of the uncut network's."""
    training = compression()
    for iteration in range(8):
        training.advance(iteration)
        training.step(batch(), iteration)
    hyper, before = training.network, training.optimizer
    training.advance(8)
    kept = kept_entries(hyper.plan, hyper.mask)
    sources = dict(hyper.network.named_parameters())
    narrower = 0
    for name, parameter in training.network.named_parameters():
        expected = before.state[sources[name]]["exp_avg"]
        for dim in range(expected.dim()):
            expected = (
                expected.index_select(dim, kept[name, dim]) if (name, dim) in kept else expected
            )
        found = training.optimizer.state[parameter]
        assert torch.equal(found["exp_avg"], expected)
        assert found["step"] == before.state[sources[name]]["step"] == 8
        narrower += found["exp_avg"].numel() < sources[name].numel()
    assert narrower >= 4


def test_a_search_that_leaves_the_weights_alone(compression):
    """hsn: weights, statistics and moments are those of the dense phase's end, and go on from there after the cut."""
    network = {"type": "DnCNN", "num_in_ch": 1, "num_feat": 8, "num_layers": 4}
    one = compression(network=network, compress={"method": "hsn"})
    for iteration in range(4):
        one.advance(iteration)
        one.step(batch(1, 1), iteration)
    before = {name: tensor.clone() for name, tensor in one.network.state_dict().items()}
    moments = {
        name: one.optimizer.state[weight]["exp_avg"].clone()
        for name, weight in one.network.named_parameters()
    }
    assert one.advance(4) == ["search"]
    logs = [one.step(batch(1, 1), iteration) for iteration in range(4, 8)]
    searched = one.network.network
    assert not one.network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in searched.state_dict().items())
    assert all(
        torch.equal(one.optimizer.state[w]["exp_avg"], moments[name])
        for name, w in searched.named_parameters()
    )
    assert logs[-1]["lr"] == 1e-3 and logs[-1]["regularized_ratio"] <= 1
    assert one.advance(8) == ["finetune"]
    narrow = {name: weight.clone() for name, weight in one.network.named_parameters()}
    assert any(weight.numel() < before[name].numel() for name, weight in narrow.items())
    one.step(batch(1, 1), 8)
    assert one.network.training
    assert all(
        not torch.equal(weight, narrow[name])
        for name, weight in one.network.named_parameters()
        if weight.any()
    )
