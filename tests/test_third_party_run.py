"""Networks of other packages from the command line: train, search, cut, save, and score the file
again.
"""

import json
from pathlib import Path

import pytest
import torch
from basicsr_modules import from_basicsr
from photographs import save_pieces
from runs import empty_pages
from slow_rows import rows
from third_party import third_party_info

from dhp_sr.deploy import load_model, model_info, read_manifest, register
from dhp_sr.surgery.rewrite import RewrittenNetwork
from dhp_sr.test import main as score_main
from dhp_sr.train import main as run_main

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = str(ROOT / "options" / "quickstart.yml")
NETWORKS = {
    "RCAN": "{type: RCAN, num_in_ch: 3, num_out_ch: 3, num_feat: 16, num_group: 1, num_block: 2, "
    "squeeze_factor: 4, upscale: 2}",
    "MSRResNet": "{type: MSRResNet, num_feat: 16, num_block: 1, upscale: 2}",
    "basicsr:EDSR": "{type: 'basicsr:EDSR', num_in_ch: 3, num_out_ch: 3, num_feat: 16, "
    "num_block: 1, upscale: 2}",
    "RRDBNet": "{type: RRDBNet, num_in_ch: 3, num_out_ch: 3, scale: 2, num_feat: 16, "
    "num_block: 1, num_grow_ch: 8}",
    "ECBSR": "{type: ECBSR, num_in_ch: 3, num_out_ch: 3, num_block: 1, num_channel: 16, "
    "with_idt: true, act_type: prelu, scale: 2}",
}  # fmt: skip

REWRITTEN = {"ECBSR"}
"""Networks whose forward states numbers of channels."""


@pytest.fixture(autouse=True)
def needs_basicsr(monkeypatch):
    """Each test starts with nothing registered, and draws no pages."""
    from_basicsr("utils.registry")
    monkeypatch.setattr(model_info, "CONSTRUCTORS", {})
    with empty_pages():
        yield


def arguments(network, folder, *more):
    changes = [
        f"network_g={{type: Hyper, network: {network}}}",
        f"path.experiments_root={folder}",
        "name=third_party",
    ]
    changes += [
        f"datasets.{key}.dataroot_gt={save_pieces(folder / key, key)}" for key in ("train", "val")
    ]
    changes += ["datasets.train.gt_size=32", "datasets.train.batch_size_per_gpu=1"]
    changes += [
        "datasets.train.num_worker_per_gpu=0",
        "train.total_iter=6",
        "train.warmup_iter=0",
        "num_gpu=0",
    ]
    changes += [
        "compress.dense_iter=2",
        "compress.search_iter=2",
        "compress.tolerance=0.2",
        "compress.round_to=4",
    ]
    return [
        "-opt",
        OPTIONS,
        "--set",
        *changes,
        "compress.min_width=4",
        "logger.use_tb_logger=false",
        *more,
    ]


@pytest.mark.parametrize(
    "name",
    rows(NETWORKS, ["RRDBNet"]),
)
def test_a_run_and_its_file(name, tmp_path, capsys):
    given = arguments(NETWORKS[name], tmp_path)
    assert run_main(given) == 0
    folder = tmp_path / "third_party"
    row = json.loads((folder / "metrics.json").read_text())["rows"][-1]
    model_info.CONSTRUCTORS.clear()
    assert score_main([*given, "--json", str(tmp_path / "again.json")]) == 0
    again = json.loads((tmp_path / "again.json").read_text())["rows"][-1]
    assert (again["sets"], again["macs"], again["params"]) == (
        row["sets"],
        row["macs"],
        row["params"],
    )

    model_info.CONSTRUCTORS.clear()
    model = str(folder / "models" / "pruned.safetensors")
    by_name = ["--model", model, "--data", str(tmp_path / "val"), "--repeats", "0"]
    assert score_main([*by_name, "--json", str(tmp_path / "file.json")]) == 0
    by_file = json.loads((tmp_path / "file.json").read_text())["rows"][-1]["sets"]["val"]
    assert by_file["psnr_y_db"] == pytest.approx(row["sets"]["photographs"]["psnr_y_db"], abs=1e-9)

    manifest = read_manifest(model)
    assert (
        manifest["architecture"] == f"basicsr:{name.removeprefix('basicsr:')}"
        and manifest["scale"] == 2
    )
    assert manifest["size_multiple"] == (2 if name == "RRDBNet" else 1)
    assert manifest["achieved"]["macs_ratio"] < 0.75 and manifest["macs"] == row["macs"]
    network = load_model(model)
    assert network(torch.rand(1, 3, 20, 24)).shape == (1, 3, 40, 48)
    assert isinstance(network, RewrittenNetwork) == (name in REWRITTEN)


def test_a_resumed_run_ends_with_the_same_file(tmp_path, monkeypatch):
    given = arguments(NETWORKS["MSRResNet"], tmp_path, "logger.save_checkpoint_freq=1")
    assert run_main(given) == 0
    model = tmp_path / "third_party" / "models" / "pruned.safetensors"
    straight = model.read_bytes()
    for state in (5, 6):
        (tmp_path / "third_party" / "training_states" / f"{state}.state").unlink()
    model.unlink()
    assert run_main([*given, "--auto_resume"]) == 0
    assert model.read_bytes() == straight


@pytest.mark.filterwarnings("ignore:network_g.*weights alone:UserWarning")
def test_a_network_that_files_cannot_name_is_said_before_the_training(tmp_path, capsys):
    """Its weights are kept; once its constructor is registered, its files are whole."""
    from basicsr.utils.registry import ARCH_REGISTRY

    class OwnOfTheUser(torch.nn.Sequential):
        def __init__(self, width=16):
            super().__init__(
                torch.nn.Conv2d(3, width, 3, padding=1),
                torch.nn.ReLU(),
                torch.nn.Conv2d(width, 12, 3, padding=1),
                torch.nn.PixelShuffle(2),
            )

    if "OwnOfTheUser" not in ARCH_REGISTRY:
        ARCH_REGISTRY.register(OwnOfTheUser)
    given = arguments("{type: OwnOfTheUser, width: 16}", tmp_path)
    with pytest.warns(
        UserWarning, match=r"basicsr:OwnOfTheUser is not among .* hold weights alone"
    ):
        assert run_main(given) == 0
    assert score_main(given) == 2
    assert "without dhp_sr's description of the network" in capsys.readouterr().err
    register("basicsr:OwnOfTheUser", OwnOfTheUser)
    assert run_main(given) == 0
    assert score_main(given) == 0


@pytest.mark.parametrize(("network", "expected"), [
    (
        "{type: MSRResNet, num_feat: 16, num_block: 1, upscale: 4}",
        "expected an output of (1, 3, 128, 128) for an",
    ),
    ("{type: 'torchvision:resnet18'}", "torchvision:resnet18 does not suit"),
    ("{type: RCAM}", "did you mean 'RCAN'"),
    ("{type: RCAN, num_fet: 3}", "RCAN cannot be built from"),
    ("{type: 'basicsr:RCAM'}", "did you mean 'RCAN'"),
])  # fmt: skip
def test_mistakes_end_with_2_before_the_training(network, expected, tmp_path, capsys):
    assert run_main(arguments(network, tmp_path)) == 2
    message = capsys.readouterr().err
    assert expected in message and "Traceback" not in message
    assert not (tmp_path / "third_party").exists()


def test_a_classifier_is_not_scored_on_images(tmp_path, capsys):
    from dhp_sr.deploy import save_model
    from dhp_sr.zoo.names import build_classifier, register_known

    register_known()
    info = third_party_info(
        "torchvision:resnet18", {"num_classes": 10}, task="classification", smallest_side=64
    )
    save_model(
        build_classifier("resnet18", {"num_classes": 10}), tmp_path / "c.safetensors", info=info
    )
    assert score_main(["--model", str(tmp_path / "c.safetensors"), "--data", str(tmp_path)]) == 2
    assert "expected class folders" in capsys.readouterr().err


def test_a_file_does_not_make_torchvision_download(tmp_path):
    from dhp_sr.utils.errors import UserError
    from dhp_sr.zoo.names import build_classifier

    for asked in ({"weights": "DEFAULT"}, {"pretrained": True}):
        with pytest.raises(UserError, match="would download weights"):
            build_classifier("resnet18", asked)
