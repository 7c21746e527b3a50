"""The network on its way through the phases, step by step."""

import pytest
import torch
from tiny_runs import DNCNN
from torch import nn

from dhp_sr.archs import build
from dhp_sr.config import resolve_paths
from dhp_sr.deploy import save_model
from dhp_sr.surgery.cut import kept_entries
from dhp_sr.training.distributed import DistributedContext
from dhp_sr.training.loss import load_teacher_file
from dhp_sr.training.phase import MovingAverage
from dhp_sr.training.run_folder import RunFolder
from dhp_sr.training.trainer import Trainer
from dhp_sr.utils.devices import select_device
from dhp_sr.utils.errors import UserError

CPU = DistributedContext(torch.device("cpu"))


def batch(scale=2, channels=3):
    return {
        "lq": torch.rand(2, channels, 8, 8),
        "gt": torch.rand(2, channels, 8 * scale, 8 * scale),
    }


@pytest.fixture
def make_trainer(make_options):
    return lambda **changes: Trainer(make_options(**changes), CPU)


def train(trainer, start, end, *size):
    logs = []
    for iteration in range(start, end):
        trainer.advance(iteration)
        logs.append(trainer.step(batch(*size), iteration))
    return logs


def names(phases):
    return [phase.name for phase in phases]


def test_phases_are_entered_where_their_spans_begin(make_trainer):
    trainer = make_trainer()
    assert trainer.advance(0) == [] and trainer.phase.name == "dense"
    assert names(trainer.advance(4)) == ["search"]
    assert trainer.advance(4) == []
    train(trainer, 4, 8)
    assert names(trainer.advance(8)) == ["finetune"]
    assert trainer.phase.ratios()["macs_ratio"] == pytest.approx(0.5, abs=0.15)


def test_several_phases_may_begin_at_once(make_trainer):
    trainer = make_trainer(compress={"dense_iter": 0, "search_iter": 0, "method": "magnitude"})
    assert names(trainer.advance(0)) == ["search", "finetune"]


def test_the_converted_network_computes_the_same(make_trainer):
    trainer = make_trainer()
    x = batch()["lq"]
    before = trainer.phase.network_for_validation().eval()(x)
    trainer.advance(4)
    after = trainer.phase.network_for_validation().eval()(x)
    assert torch.allclose(after, before, atol=1e-5)


def test_a_loss_that_is_not_finite_leaves_the_weights(make_trainer):
    trainer = make_trainer()
    before = {key: value.clone() for key, value in trainer.network.state_dict().items()}
    bad = {**batch(), "gt": torch.full((2, 3, 16, 16), float("nan"))}
    with pytest.raises(UserError, match=r"nan at iteration 3 \(phase dense.*train\.optim_g\.lr"):
        trainer.step(bad, 2)
    for key, value in trainer.network.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_the_moving_average_includes_buffers(make_trainer):
    trainer = make_trainer(
        network={**DNCNN, "num_layers": 3}, compress={}, train={"ema_decay": 0.5}
    )
    trainer.step(batch(1, 1), 0)
    first = trainer.network.model[3].running_mean.clone()
    trainer.step(batch(1, 1), 1)
    second = trainer.network.model[3].running_mean
    average = trainer.phase.network_for_validation().model[3].running_mean
    assert torch.allclose(average, (first + second) / 2)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("decay", [0.9, 0.999, 0.9995])
def test_the_moving_average_keeps_indices_and_infinities(decay):
    network = nn.Conv2d(1, 1, 1)
    network.register_buffer("index", torch.arange(500))
    network.register_buffer("attention_mask", torch.tensor([0.0, float("-inf")]))
    network.register_buffer("gain", torch.tensor(0.1))
    average = MovingAverage(network, decay)
    for _ in range(5):
        average.update_parameters(network)
    for name, value in average.module.state_dict().items():
        assert torch.equal(value, network.state_dict()[name]), name


def test_no_moving_average_before_pruning(make_trainer):
    trainer = make_trainer()
    assert trainer.phase.average is None
    assert trainer.phase.network_for_validation() is trainer.network


def test_the_optimizer_state_goes_along_into_the_search(make_trainer):
    trainer = make_trainer()
    trainer.step(batch(), 0)
    before = {}
    for name, weight in trainer.network.named_parameters():
        before[name] = trainer.phase.optimizer.state[weight]["exp_avg"].clone()
    trainer.advance(4)
    after = dict(trainer.network.network.named_parameters())
    for name, moment in before.items():
        assert torch.equal(trainer.phase.optimizer.state[after[name]]["exp_avg"], moment), name


def test_the_optimizer_state_is_sliced_to_the_kept_channels(make_trainer):
    trainer = make_trainer()
    train(trainer, 0, 8)
    hyper, before = trainer.network, trainer.phase.optimizer
    trainer.advance(8)
    kept = kept_entries(hyper.plan, hyper.mask)
    sources = dict(hyper.network.named_parameters())
    num_narrower = 0
    for name, parameter in trainer.network.named_parameters():
        expected = before.state[sources[name]]["exp_avg"]
        for dim in range(expected.dim()):
            if (name, dim) in kept:
                expected = expected.index_select(dim, kept[name, dim])
        state = trainer.phase.optimizer.state[parameter]
        assert torch.equal(state["exp_avg"], expected)
        assert state["step"] == 8
        num_narrower += state["exp_avg"].numel() < sources[name].numel()
    assert num_narrower >= 4


def test_the_dense_network_is_the_teacher(make_options, tmp_path):
    options = make_options(compress={"distill": {"weight": 1000.0}})
    trainer = Trainer(options, CPU, RunFolder(tmp_path / "run"))
    x = batch()["lq"]
    expected = trainer.network.eval()(x)
    trainer.advance(4)
    teacher = trainer.resources.loss.teacher
    assert not teacher.training and torch.equal(teacher(x), expected)
    train(trainer, 4, 8)
    # By then the weights have moved away from the teacher's.
    assert trainer.step(batch(), 7)["loss"] > 1
    trainer.advance(8)
    assert trainer.resources.loss.teacher is teacher
    assert trainer.step(batch(), 8)["loss"] > 10


def test_the_dense_network_as_the_teacher_needs_a_file(make_trainer):
    trainer = make_trainer(compress={"distill": {}})
    with pytest.raises(UserError, match=r"compress\.distill"):
        trainer.advance(4)


def test_bf16_and_channels_last(make_trainer):
    trainer = make_trainer(train={"amp": "bf16", "channels_last": True})
    weight = trainer.network.conv_first.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert weight.dtype == torch.float32
    assert all(log["loss"] < 1 for log in train(trainer, 0, 12))


@pytest.mark.parametrize(
    "network, expected",
    [
        ({"type": "HyperEDSX"}, "'EDSR'"),
        ({"type": "EDSR", "num_feat": 8, "upscale": 3}, "scale: 2"),
        (
            {"type": "EDSR", "num_in_ch": 1, "num_out_ch": 1, "rgb_mean": [0.4], "upscale": 2},
            r"1 channel.*gives 3",
        ),
        ({"type": "EDSR", "num_feats": 8, "upscale": 2}, "'num_feat'"),
        ({"type": "Hyper", "num_feat": 8}, "network:"),
    ],
)
def test_networks_that_do_not_fit(make_trainer, network, expected):
    with pytest.raises(UserError, match=expected):
        make_trainer(network=network)


def test_pretrained_weights_of_another_network(make_options, tmp_path):
    from safetensors.torch import save_file

    other = tmp_path / "other.safetensors"
    save_file({"conv.weight": torch.zeros(1)}, other)
    options = make_options()
    path = options.path.model_copy(update={"pretrain_network_g": str(other)})
    with pytest.raises(UserError, match=r"conv\.weight"):
        Trainer(options.model_copy(update={"path": path}), CPU)


def test_models_of_the_zoo_as_weights_and_as_teacher(make_options, monkeypatch, tmp_path):
    network = build("EDSR", num_feat=8, num_block=1, upscale=2)
    zoo = tmp_path / "zoo"
    save_model(network, zoo / "tiny.safetensors")
    (zoo / "index.json").write_text('{"tiny": ""}')
    monkeypatch.setattr("dhp_sr.zoo.model_zoo.FOLDER", zoo)
    distill = {"teacher": "zoo:tiny"}
    options = make_options(compress={"dense_iter": 0, "distill": distill})
    path = options.path.model_copy(update={"pretrain_network_g": "zoo:tiny"})
    options = resolve_paths(options.model_copy(update={"path": path}), tmp_path)
    trainer = Trainer(options, CPU)
    assert torch.equal(trainer.network.conv_first.weight, network.conv_first.weight)
    assert trainer.models.dense_file == zoo / "tiny.safetensors"
    teacher = load_teacher_file(options.compress.distill.teacher, options)
    assert torch.equal(teacher.conv_first.weight, network.conv_first.weight)
    with pytest.raises(UserError, match=r"distill\.teacher: .*'large'.*tiny"):
        load_teacher_file("zoo:large", options)


def test_a_missing_cuda_device():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert select_device("auto").type == select_device(0).type == "cpu"
    with pytest.raises(UserError, match="num_gpu: 1"):
        select_device(1)


def test_a_search_that_freezes_the_weights(make_trainer):
    """hsn: weights, statistics and optimizer state stay those of the dense phase's end."""
    trainer = make_trainer(network=DNCNN, compress={"method": "hsn"})
    train(trainer, 0, 4, 1, 1)
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    moments = {}
    for name, weight in trainer.network.named_parameters():
        moments[name] = trainer.phase.optimizer.state[weight]["exp_avg"].clone()

    logs = train(trainer, 4, 8, 1, 1)
    assert trainer.phase.name == "search" and not trainer.network.training
    assert logs[-1]["lr"] == 1e-3
    plain = trainer.network.network
    for name, value in plain.state_dict().items():
        assert torch.equal(value, before[name]), name
    for name, weight in plain.named_parameters():
        assert torch.equal(trainer.phase.optimizer.state[weight]["exp_avg"], moments[name]), name

    trainer.advance(8)
    narrow = {name: weight.clone() for name, weight in trainer.network.named_parameters()}
    assert any(weight.numel() < before[name].numel() for name, weight in narrow.items())
    trainer.step(batch(1, 1), 8)
    assert trainer.network.training
    for name, weight in trainer.network.named_parameters():
        if weight.any():
            assert not torch.equal(weight, narrow[name]), name


def test_the_best_model_is_kept_for_each_target(make_options, tmp_path):
    trainer = Trainer(make_options(), CPU, RunFolder(tmp_path / "run"))
    best = tmp_path / "run" / "models" / "best.safetensors"
    for iteration, scores in ((1, (30.0, 31.0)), (2, (30.0, 30.5)), (3, (32.0, 30.0))):
        before = best.stat().st_mtime_ns if best.exists() else None
        sets = {name: {"psnr_y_db": value} for name, value in zip("AB", scores, strict=True)}
        trainer.keep_if_best(iteration, sets)
        assert (best.stat().st_mtime_ns == before) == (iteration == 2)
    assert trainer.best == {"best": {"iteration": 3, "psnr_y_db": 31.0}}


@pytest.mark.parametrize(("fast", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_trainer_of_its_own_decides_the_precision(make_trainer, monkeypatch, fast, expected):
    monkeypatch.setattr("dhp_sr.utils.devices.has_fast_bf16", lambda device: fast)
    trainer = make_trainer(train={"amp": "auto"})
    types = []
    first = next(m for m in trainer.network.modules() if isinstance(m, torch.nn.Conv2d))
    first.register_forward_hook(lambda module, inputs, output: types.append(output.dtype))
    train(trainer, 0, 1)
    assert set(types) == {expected}
