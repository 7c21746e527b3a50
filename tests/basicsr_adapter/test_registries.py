"""BasicSR's registries build our networks, datasets, losses, metrics and models."""

import pytest
import torch
from labeled_sets import tiny, write_cifar_10
from runs import run

from dhp_sr.archs import ARCHS
from dhp_sr.basicsr_adapter import registries as adapter
from dhp_sr.basicsr_adapter.shim import build_basicsr_network
from dhp_sr.hyper import HyperNet
from dhp_sr.utils.errors import UserError


@pytest.fixture(scope="module", autouse=True)
def registries():
    adapter.register()
    adapter.register()  # a second time does no harm
    from basicsr.utils import registry

    return registry


def build_network(opt):
    from basicsr.archs import build_network as build

    return build(opt)


def test_every_network_has_a_hyper_variant(registries):
    assert {f"Hyper{name}" for name in ARCHS} <= set(registries.ARCH_REGISTRY.keys())


def test_basicsr_builds_our_networks():
    hyper = build_network({"type": "HyperEDSR", "num_feat": 4, "num_block": 1, "upscale": 2})
    assert isinstance(hyper, HyperNet)
    assert hyper(torch.rand(1, 3, 8, 8)).shape == (1, 3, 16, 16)


def test_hyper_looks_up_our_table_first_then_basicsrs():
    edsr = {"type": "EDSR", "num_feat": 4, "num_block": 1, "upscale": 2}
    ours = build_network({"type": "Hyper", "network": edsr})
    assert type(ours.network) is ARCHS["EDSR"]
    compact = {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 4, "num_conv": 1, "upscale": 2}
    theirs = build_network({"type": "Hyper", "network": {"type": "SRVGGNetCompact", **compact}})
    assert theirs(torch.rand(1, 3, 8, 8)).shape == (1, 3, 16, 16)


def test_mistakes_in_a_network_of_basicsr():
    with pytest.raises(UserError, match=r"'RCAM'.*'RCAN'"):
        build_basicsr_network("RCAM", {})
    with pytest.raises(UserError, match=r"RCAN.*num_feats"):
        build_basicsr_network("RCAN", {"num_feats": 4})


def test_basicsr_builds_our_datasets(image_folder):
    from basicsr.data import build_dataset

    section = {"name": "A", "dataroot_gt": str(image_folder / "val"), "phase": "val"}
    sr = build_dataset({**section, "type": "SRDataset", "scale": 2})
    assert sr[0]["lq"].shape == (3, 16, 16)
    noise = build_dataset({**section, "type": "NoiseDataset", "sigma": 25.0, "scale": 1})
    assert noise[0]["lq"].shape == (3, 32, 32)


def test_basicsr_builds_our_classifiers_and_their_data(tmp_path):
    from basicsr.data import build_dataset

    hyper = build_network({"type": "HyperResNet", "depth": 8, "num_feat": 4})
    assert hyper.example_shape == (1, 3, 32, 32)
    assert hyper(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    opt = {
        "type": "ClassificationDataset",
        "name": "A",
        "dataroot": str(write_cifar_10(tmp_path / "set", tiny())),
        "phase": "val",
        "split": "train",
        "scale": 1,
    }
    assert build_dataset(opt)[0]["image"].shape == (3, 32, 32)
    train = build_dataset({**opt, "phase": "train", "batch_size_per_gpu": 2})
    assert train[(0, 7)]["label"].dtype == torch.int64


def test_losses_and_metrics_of_ours_and_theirs_agree(registries):
    a, b = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    ours = registries.LOSS_REGISTRY.get("L1Loss_dhp")(0.5)
    theirs = registries.LOSS_REGISTRY.get("L1Loss")(0.5)
    assert torch.allclose(ours(a, b), theirs(a, b))
    a, b = (torch.randint(0, 256, (24, 20, 3), dtype=torch.uint8).numpy() for _ in range(2))
    for name in ("calculate_psnr", "calculate_ssim"):
        ours = registries.METRIC_REGISTRY.get(f"{name}_dhp")
        theirs = registries.METRIC_REGISTRY.get(name)
        for luma in (False, True):
            settings = {"crop_border": 2, "test_y_channel": luma}
            assert ours(a, b, **settings) == pytest.approx(theirs(a, b, **settings), abs=1e-4)


def test_basicsr_builds_and_drives_the_model(make_options, tmp_path):
    from basicsr.models import build_model

    opt = {**make_options().model_dump(), "run_folder": str(tmp_path / "run")}
    model = build_model(opt)
    for current_iter in range(1, 13):
        model.update_learning_rate(current_iter, warmup_iter=-1)
        model.feed_data({"lq": torch.rand(2, 3, 8, 8), "gt": torch.rand(2, 3, 16, 16)})
        model.optimize_parameters(current_iter)
    assert model.get_current_log()["l_loss"] > 0
    assert model.get_current_learning_rate() == [model.trainer.schedule.learning_rate(11)]
    model.save(0, 12)

    fresh = build_model(opt)
    state = fresh.resume_training(tmp_path / "run" / "training_states" / "12.state")
    assert state["iteration"] == 12
    x = torch.rand(1, 3, 8, 8)
    expected = model.trainer.phase.network_for_validation().eval()(x)
    assert torch.equal(fresh.trainer.phase.network_for_validation().eval()(x), expected)


def test_a_model_without_a_folder_trains_but_does_not_save(make_options):
    model = adapter.DHPModel(make_options(compress={}).model_dump())
    model.feed_data({"lq": torch.rand(2, 3, 8, 8), "gt": torch.rand(2, 3, 16, 16)})
    model.optimize_parameters(1)
    with pytest.raises(UserError, match="run_folder"):
        model.save(0, 1)


def test_a_run_with_a_network_of_basicsr(make_options, tmp_path):
    inner = {
        "type": "SRVGGNetCompact",
        "num_feat": 8,
        "num_conv": 2,
        "upscale": 2,
        "act_type": "relu",
    }
    options = make_options(network={"type": "Hyper", "network": inner})
    metrics = run(options, tmp_path)
    assert metrics["rows"][2]["macs"] < 0.7 * metrics["rows"][1]["macs"]
    assert (tmp_path / "experiments" / "tiny" / "models" / "pruned.safetensors").exists()
