import pytest
import torch
from labeled_sets import tiny, write_cifar_10

from dhp_sr.archs import ARCHS
from dhp_sr.basicsr_adapter import registries as basicsr_glue
from dhp_sr.basicsr_adapter.shim import build_basicsr_network
from dhp_sr.cli.process import seed_everything
from dhp_sr.hyper import HyperNet
from dhp_sr.training.driver import train
from dhp_sr.utils.errors import UserError


@pytest.fixture(scope="module", autouse=True)
def registries():
    basicsr_glue.register()
    basicsr_glue.register()  # a second time does no harm
    from basicsr.utils import registry

    return registry


def test_every_network_has_a_hyper_variant(registries):
    assert {f"Hyper{name}" for name in ARCHS} <= set(registries.ARCH_REGISTRY.keys())


def test_basicsr_builds_our_networks():
    from basicsr.archs import build_network

    hyper = build_network({"type": "HyperEDSR", "num_feat": 4, "num_block": 1, "upscale": 2})
    assert isinstance(hyper, HyperNet)
    assert hyper(torch.rand(1, 3, 8, 8)).shape == (1, 3, 16, 16)


def test_hyper_takes_our_table_first_then_basicsrs():
    from basicsr.archs import build_network

    ours = build_network(
        {"type": "Hyper", "network": {"type": "EDSR", "num_feat": 4, "num_block": 1, "upscale": 2}}
    )
    assert type(ours.network) is ARCHS["EDSR"]
    arguments = {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 4, "num_conv": 1, "upscale": 2}
    theirs = build_network({"type": "Hyper", "network": {"type": "SRVGGNetCompact", **arguments}})
    assert theirs(torch.rand(1, 3, 8, 8)).shape == (1, 3, 16, 16)


def test_an_unknown_network_is_named():
    with pytest.raises(UserError, match=r"'RCAM' is unknown \(did you mean 'RCAN'\?"):
        build_basicsr_network("RCAM", {})


def test_basicsr_builds_our_datasets(pictures):
    from basicsr.data import build_dataset

    opt = {
        "type": "SRDataset",
        "name": "A",
        "dataroot_gt": str(pictures / "val"),
        "phase": "val",
        "scale": 2,
    }
    assert build_dataset(opt)[0]["lq"].shape == (3, 16, 16)


def test_basicsr_builds_our_classifiers_and_their_data(tmp_path):
    from basicsr.archs import build_network
    from basicsr.data import build_dataset

    hyper = build_network({"type": "HyperResNet", "depth": 8, "num_feat": 4})
    assert hyper.example_shape == (1, 3, 32, 32) and hyper(torch.rand(2, 3, 32, 32)).shape == (
        2,
        10,
    )
    folder = str(write_cifar_10(tmp_path / "set", tiny()))
    opt = {
        "type": "ClassificationDataset",
        "name": "A",
        "dataroot": folder,
        "phase": "val",
        "split": "train",
        "scale": 1,
    }
    assert build_dataset(opt)[0]["image"].shape == (3, 32, 32)
    train = build_dataset({**opt, "phase": "train", "batch_size_per_gpu": 2})
    assert train[(0, 7)]["label"].dtype == torch.int64


def test_losses_and_metrics_of_ours_and_theirs_agree(registries):
    ours, theirs = (
        registries.LOSS_REGISTRY.get("L1Loss_dhp")(0.5),
        registries.LOSS_REGISTRY.get("L1Loss")(0.5),
    )
    a, b = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    assert torch.allclose(ours(a, b), theirs(a, b))
    a, b = (torch.randint(0, 256, (24, 20, 3), dtype=torch.uint8).numpy() for _ in range(2))
    for name in ("calculate_psnr", "calculate_ssim"):
        ours, theirs = (registries.METRIC_REGISTRY.get(name + suffix) for suffix in ("_dhp", ""))
        for luma in (False, True):
            given = {"crop_border": 2, "test_y_channel": luma}
            assert ours(a, b, **given) == pytest.approx(theirs(a, b, **given), abs=1e-4)


def test_basicsr_builds_and_drives_the_model(make_options, tmp_path):
    from basicsr.models import build_model

    options = make_options()
    model = build_model({**options.model_dump(), "run_folder": str(tmp_path / "run")})
    for current_iter in range(1, 13):
        model.update_learning_rate(current_iter, warmup_iter=-1)
        model.feed_data({"lq": torch.rand(2, 3, 8, 8), "gt": torch.rand(2, 3, 16, 16)})
        model.optimize_parameters(current_iter)
    assert model.get_current_log()["l_loss"] > 0
    assert model.get_current_learning_rate() == [model.compression.schedule.learning_rate(11)]
    model.save(0, 12)
    fresh = build_model({**options.model_dump(), "run_folder": str(tmp_path / "run")})
    assert (
        fresh.resume_training(tmp_path / "run" / "training_states" / "12.state")["iteration"] == 12
    )
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(
        fresh.compression.for_validation().eval()(x), model.compression.for_validation().eval()(x)
    )


def test_a_run_with_a_network_of_basicsr(make_options, tmp_path):
    inner = {
        "type": "SRVGGNetCompact",
        "num_feat": 8,
        "num_conv": 2,
        "upscale": 2,
        "act_type": "relu",
    }
    options = make_options(network={"type": "Hyper", "network": inner})
    seed_everything(0)
    metrics = train(options, root=tmp_path)
    assert metrics["rows"][2]["macs"] < 0.7 * metrics["rows"][1]["macs"]
    assert (tmp_path / "experiments" / "tiny" / "models" / "pruned.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "found"),
    [("DHPModl", r"'DHPModl' \(did you mean 'DHPModel'\?\)"), ("SRModel", "'SRModel'")],
)
def test_models_that_this_program_does_not_drive(make_options, name, found):
    with pytest.raises(
        UserError, match=f"model_type: expected DHPModel or DHPClassificationModel, found {found}"
    ):
        basicsr_glue.build_model({**make_options().model_dump(), "model_type": name})
