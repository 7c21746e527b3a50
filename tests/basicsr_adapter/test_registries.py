"""BasicSR's registries build our networks, datasets, losses, metrics and models."""

import pytest
import torch
import yaml
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


def test_metrics_and_losses_take_the_keys_of_basicsrs_option_files(registries):
    from basicsr.losses import build_loss
    from basicsr.metrics import calculate_metric

    image = torch.randint(0, 255, (24, 20, 3), dtype=torch.uint8).numpy()
    for kind in ("calculate_psnr", "calculate_ssim"):
        section = {"crop_border": 2, "test_y_channel": True, "better": "higher"}
        images = {"img": image, "img2": image + 1}
        expected = calculate_metric(images, {"type": kind, **section})
        ours = {"type": f"{kind}_dhp", **section}
        assert calculate_metric(images, ours) == pytest.approx(expected, abs=1e-4)
        chw = {name: value.transpose(2, 0, 1) for name, value in images.items()}
        flipped = {**ours, "input_order": "CHW"}
        assert calculate_metric(chw, flipped) == pytest.approx(expected, abs=1e-4)
        with pytest.raises(UserError, match="'NHWC'"):
            calculate_metric(chw, {**ours, "input_order": "NHWC"})
    build_loss({"type": "L1Loss_dhp", "loss_weight": 1.0, "reduction": "mean"})
    with pytest.raises(UserError, match="'sum'"):
        build_loss({"type": "L1Loss_dhp", "loss_weight": 1.0, "reduction": "sum"})


def test_basicsrs_own_program_reads_an_option_file(make_options, tmp_path, monkeypatch):
    """Options as `basicsr/train.py` parses them, its data loaders, a step, scores, and a state."""
    from basicsr.data import build_dataloader, build_dataset
    from basicsr.data.data_sampler import EnlargedSampler
    from basicsr.models import build_model
    from basicsr.utils.options import parse_options

    content = make_options().model_dump(mode="json")
    content["datasets"]["train"].update(dataset_enlarge_ratio=3, prefetch_mode=None)
    content["datasets"]["val"].update(name="Mine", crop_border=4, io_backend={"type": "disk"})
    content["path"].update(strict_load_g=True, resume_state=None)
    file = tmp_path / "run.yml"
    file.write_text(yaml.safe_dump(content))
    monkeypatch.setattr("sys.argv", ["train.py", "-opt", str(file)])
    opt, _ = parse_options(str(tmp_path))
    section = opt["datasets"]["train"]
    train = build_dataset(section)
    sampler = EnlargedSampler(train, 1, 0, section["dataset_enlarge_ratio"])
    loader = build_dataloader(train, section, num_gpu=0, dist=False, sampler=sampler, seed=0)
    model = build_model(opt)
    model.feed_data(next(iter(loader)))
    model.optimize_parameters(1)
    val = build_dataset(opt["datasets"]["val"])
    val_loader = build_dataloader(val, opt["datasets"]["val"], num_gpu=0, dist=False, sampler=None)
    assert model.validation(val_loader, 1, None)["images"] == 2
    test_set = model.to_test_set(val_loader)
    assert (test_set.name, test_set.crop_border) == ("Mine", 4)
    model.save(0, 1)
    assert (tmp_path / "experiments" / "tiny" / "training_states" / "1.state").is_file()
    with pytest.raises(UserError, match="gt_siz"):
        build_dataset({**section, "gt_siz": 3})
    with pytest.raises(UserError, match=r"train\.warmup"):
        build_model({**opt, "train": {**opt["train"], "warmup": 3}})


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
