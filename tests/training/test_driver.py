"""Whole runs, and what they leave behind."""

import csv
import json

import pytest
import torch

from dhp_sr.cli.evaluate import evaluate_files, evaluate_run
from dhp_sr.cli.process import seed_everything
from dhp_sr.config import load_options
from dhp_sr.deploy import load_model, read_manifest
from dhp_sr.training.driver import train

DNCNN = {"type": "HyperDnCNN", "num_in_ch": 1, "num_feat": 8, "num_layers": 4}


def run(options, root) -> dict:
    seed_everything(options.manual_seed)
    return train(options, root=root)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "experiments" / "tiny"


def test_the_files_of_a_run(make_options, tmp_path, folder):
    options = make_options(val={"val_freq": 5, "save_img": True})
    metrics = run(options, tmp_path)
    expected = "options.yml environment.json train.log curves.csv validation.csv metrics.json widths.json widths.txt"
    assert set(expected.split()) <= {path.name for path in folder.iterdir()}
    assert {path.stem for path in (folder / "models").iterdir()} == {"dense", "pruned", "best"}
    assert sorted(int(path.stem) for path in (folder / "training_states").iterdir()) == [9, 12]
    assert {path.name for path in (folder / "visualization" / "A").iterdir()} == {"0.png", "1.png"}
    assert not list(folder.rglob("*.part"))
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert load_options(folder / "options.yml") == options


def test_the_tables_of_a_run(make_options, tmp_path, folder):
    run(make_options(), tmp_path)
    curves = list(csv.DictReader((folder / "curves.csv").read_text().splitlines()))
    assert [(int(row["iteration"]), row["phase"]) for row in curves] == [
        *[
            (2, "dense"),
            (4, "dense"),
            (6, "search"),
            (8, "search"),
            (10, "finetune"),
            (12, "finetune"),
        ]
    ]
    validation = list(csv.DictReader((folder / "validation.csv").read_text().splitlines()))
    assert [(int(row["iteration"]), row["set"]) for row in validation] == [
        (5, "A"),
        (10, "A"),
        (12, "A"),
    ]


def test_the_results_of_a_run(make_options, tmp_path, folder):
    metrics = run(make_options(), tmp_path)
    _, dense, pruned = metrics["rows"]
    assert [row["model"] for row in metrics["rows"]] == ["bicubic", "dense", "pruned"]
    assert pruned["macs"] / dense["macs"] == pytest.approx(
        metrics["achieved"]["macs_ratio"], abs=1e-6
    )
    assert abs(metrics["achieved"]["macs_ratio"] - 0.5) <= 0.15
    small = load_model(folder / "models" / "pruned.safetensors")
    assert sum(p.numel() for p in small.parameters()) == pruned["params"]
    assert read_manifest(folder / "models" / "pruned.safetensors")["parent"] == "dense.safetensors"
    widths = json.loads((folder / "widths.json").read_text())
    assert {row["name"]: row["after"][0] for row in widths["layers"]}[
        "conv_first"
    ] == small.conv_first.out_channels
    assert all(
        group["after"] == group["before"] for group in widths["groups"] if not group["prunable"]
    )


@pytest.mark.parametrize("network", [None, DNCNN], ids=["EDSR", "DnCNN"])
def test_the_saved_file_scores_as_the_run_did(make_options, tmp_path, folder, pictures, network):
    options = make_options(**({"network": network} if network else {}))
    metrics = run(options, tmp_path)
    again = evaluate_run(folder / "options.yml", root=tmp_path)
    assert again["rows"][1]["sets"] == metrics["rows"][2]["sets"]
    last = list(csv.DictReader((folder / "validation.csv").read_text().splitlines()))[-1]
    assert float(last["psnr_y_db"]) == pytest.approx(
        metrics["rows"][2]["sets"]["A"]["psnr_y_db"], abs=1e-6
    )
    sigma = 25.0 if network else None
    free = evaluate_files(
        folder / "models" / "pruned.safetensors", [str(pictures / "val")], sigma=sigma
    )
    assert free["rows"][1]["sets"]["val"] == metrics["rows"][2]["sets"]["A"]


def test_a_run_without_search_trains_the_dense_network(make_options, tmp_path, folder):
    metrics = run(make_options(compress={}), tmp_path)
    assert [row["model"] for row in metrics["rows"]] == ["bicubic", "dense"]
    assert {path.stem for path in (folder / "models").iterdir()} == {"dense", "best"}
    assert not (folder / "widths.json").exists()


@pytest.mark.parametrize("method", ["uniform", "random", "magnitude", "prior_widths"])
def test_the_controls(make_options, tmp_path, method):
    metrics = run(make_options(compress={"method": method}), tmp_path)
    assert abs(metrics["achieved"]["macs_ratio"] - 0.5) <= 0.15


def test_a_start_from_trained_weights(make_options, tmp_path, folder):
    run(make_options(compress={}), tmp_path)
    trained = folder / "models" / "dense.safetensors"
    path = {"experiments_root": str(tmp_path / "experiments"), "pretrain_network_g": str(trained)}
    run(make_options(name="second", path=path, compress={"dense_iter": 0}), tmp_path)
    before, after = (
        load_model(one / "models" / "dense.safetensors")
        for one in (folder, folder.parent / "second")
    )
    assert all(
        torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)
    )


def test_a_diverged_run_keeps_its_last_state(make_options, tmp_path, folder):
    from dhp_sr.utils.errors import UserError

    options = make_options(train={"optim_g": {"type": "SGD", "lr": 1e30}, "grad_clip": None})
    with pytest.raises(UserError, match=r"lower train\.optim_g\.lr"):
        run(options, tmp_path)
    assert "the loss is" in (folder / "train.log").read_text()


@pytest.mark.parametrize("dense_iter", [0, 4])
@pytest.mark.parametrize(
    ("compress", "expected"),
    [
        ({"target": {"macs": 0.01}, "tolerance": 0.001}, "cannot be met"),
        ({"preset": "paper"}, "compress.parametrization: full"),
        (
            {"exclude": ["body*", "bodi.0.conv1"]},
            "'bodi.0.conv1' names no layer .did you mean 'body.0.conv1'",
        ),
        ({"exclude": ["*"]}, "no channels to prune; pinned: "),
        (
            {"distill": {"teacher": "/no/such.safetensors"}},
            "no/such.safetensors: there is no such file",
        ),
    ],
)
def test_what_the_search_cannot_do_fails_before_the_training(
    make_options, tmp_path, folder, compress, expected, dense_iter
):
    from dhp_sr.utils.errors import UserError

    folder.mkdir(parents=True)
    with pytest.raises(UserError, match=expected):
        run(make_options(compress={"dense_iter": dense_iter, **compress}), tmp_path)
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"] and not list(
        folder.iterdir()
    )


def test_a_teacher_of_another_scale(make_options, tmp_path):
    from dhp_sr.archs import build
    from dhp_sr.deploy import save_model
    from dhp_sr.utils.errors import UserError

    path = tmp_path / "x3.safetensors"
    save_model(build("EDSR", num_feat=8, num_block=1, upscale=3), path)
    with pytest.raises(UserError, match=r"x3\.safetensors does not fit: .*enlarges 3 times"):
        run(make_options(compress={"distill": {"teacher": str(path)}}), tmp_path)


def test_the_rehearsal_draws_no_random_numbers(make_options, tmp_path):
    import torch

    from dhp_sr.training.compression import Compression
    from dhp_sr.training.distributed import DistributedContext

    faithful = make_options(compress={"preset": "paper", "parametrization": "full"})
    one = Compression(
        faithful, DistributedContext(torch.device("cpu")), tmp_path / "dense.safetensors"
    )
    before = torch.get_rng_state()
    one.rehearse()
    assert torch.equal(torch.get_rng_state(), before)


def test_tensorboard(make_options, tmp_path, folder):
    logger = {"print_freq": 1, "save_checkpoint_freq": 5, "use_tb_logger": True}
    run(make_options(compress={}, train={"total_iter": 2}, logger=logger), tmp_path)
    assert b"losses/l_pix" in b"".join(
        path.read_bytes() for path in (folder / "tb").glob("events.*")
    )
