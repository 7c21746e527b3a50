"""Whole runs, and the files they write."""

import csv
import itertools
import json

import pytest
import torch
from runs import assert_same_tensors, run
from safetensors.torch import load_file
from tiny_runs import DNCNN, tiny_options

from dhp_sr.archs import build
from dhp_sr.cli.evaluate import evaluate_files, evaluate_run
from dhp_sr.config import load_options, resolve_paths
from dhp_sr.deploy import load_model, read_manifest, save_model
from dhp_sr.training.phase import Phase
from dhp_sr.utils.errors import UserError


@pytest.fixture(scope="module")
def finished(image_folder, tmp_path_factory):
    """Root, folder and results of a run that also saves its images."""
    root = tmp_path_factory.mktemp("finished")
    options = tiny_options(image_folder, root, val={"val_freq": 5, "save_img": True})
    return root, root / "experiments" / "tiny", options, run(options, root, pages=True)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "experiments" / "tiny"


def rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_the_files_of_a_run(finished):
    root, folder, options, metrics = finished
    names = "options.yml environment.json train.log curves.csv validation.csv latents.csv plan.json"
    names += " metrics.json widths.json widths.txt report.html"
    assert set(names.split()) <= {path.name for path in folder.iterdir()}
    assert {path.stem for path in (folder / "models").iterdir()} == {"dense", "pruned", "best"}
    assert sorted(int(path.stem) for path in (folder / "training_states").iterdir()) == [9, 12]
    assert {path.name for path in (folder / "visualization" / "A").iterdir()} == {"0.png", "1.png"}
    assert not list(folder.rglob("*.part"))
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    stored = load_options(folder / "options.yml")
    assert stored.train.amp in ("none", "bf16"), "decided at the start"
    train = options.train.model_copy(update={"amp": stored.train.amp})
    assert stored == resolve_paths(options, root).model_copy(update={"train": train})


def test_the_tables_of_a_run(finished):
    _, folder, _, _ = finished
    curves = rows(folder / "curves.csv")
    assert [int(row["iteration"]) for row in curves] == [2, 4, 6, 8, 10, 12]
    assert [row["phase"] for row in curves] == ["dense"] * 2 + ["search"] * 2 + ["finetune"] * 2
    validation = rows(folder / "validation.csv")
    assert [int(row["iteration"]) for row in validation] == [5, 10, 12]
    assert {row["set"] for row in validation} == {"A"}


def test_the_results_of_a_run(finished):
    _, folder, _, metrics = finished
    _, dense, pruned = metrics["rows"]
    assert [row["model"] for row in metrics["rows"]] == ["bicubic", "dense", "pruned"]
    assert [row["iterations"] for row in metrics["rows"]] == [None, 4, 12]
    achieved = metrics["achieved"]["macs_ratio"]
    assert pruned["macs"] / dense["macs"] == pytest.approx(achieved, abs=1e-6)
    assert abs(achieved - 0.5) <= 0.15
    path = folder / "models" / "pruned.safetensors"
    small = load_model(path)
    assert sum(p.numel() for p in small.parameters()) == pruned["params"]
    assert read_manifest(path)["parent"] == "dense.safetensors"
    assert read_manifest(path)["scores"] == pruned["sets"]
    widths = json.loads((folder / "widths.json").read_text())
    layers = {row["name"]: row["after"][0] for row in widths["layers"]}
    assert layers["conv_first"] == small.conv_first.out_channels
    for group in widths["groups"]:
        assert group["after"] == group["before"] or group["prunable"]


def assert_scores_as_the_run(root, folder, metrics, image_folder, sigma):
    pruned = metrics["rows"][2]["sets"]
    again = evaluate_run(folder / "options.yml", root=root)
    assert again["rows"][1]["sets"] == pruned
    last = rows(folder / "validation.csv")[-1]
    assert float(last["psnr_y_db"]) == pytest.approx(pruned["A"]["psnr_y_db"], abs=1e-6)
    model = folder / "models" / "pruned.safetensors"
    free = evaluate_files(model, [str(image_folder / "val")], sigma=sigma)
    assert free["rows"][1]["sets"]["val"] == pruned["A"]


def test_the_saved_file_scores_as_the_run_did(finished, image_folder):
    root, folder, _, metrics = finished
    assert_scores_as_the_run(root, folder, metrics, image_folder, None)


def test_the_saved_denoiser_scores_as_the_run_did(make_options, tmp_path, folder, image_folder):
    metrics = run(make_options(network=DNCNN), tmp_path)
    assert_scores_as_the_run(tmp_path, folder, metrics, image_folder, 25.0)


def test_a_run_without_search_and_one_that_starts_from_it(make_options, tmp_path, folder):
    metrics = run(make_options(compress={}), tmp_path)
    assert [row["model"] for row in metrics["rows"]] == ["bicubic", "dense"]
    assert {path.stem for path in (folder / "models").iterdir()} == {"dense", "best"}
    assert not (folder / "widths.json").exists()

    trained = folder / "models" / "dense.safetensors"
    path = {"experiments_root": str(tmp_path / "experiments"), "pretrain_network_g": str(trained)}
    run(make_options(name="second", path=path, compress={"dense_iter": 0}), tmp_path)
    second = folder.parent / "second" / "models" / "dense.safetensors"
    assert_same_tensors(load_file(trained), load_file(second))


@pytest.mark.parametrize(
    "method",
    [
        "uniform",
        "magnitude",
        pytest.param("random", marks=pytest.mark.slow),  # runs in test_resume
        pytest.param("prior_widths", marks=pytest.mark.slow),
    ],
)
def test_the_baselines(make_options, tmp_path, method):
    metrics = run(make_options(compress={"method": method}), tmp_path)
    assert abs(metrics["achieved"]["macs_ratio"] - 0.5) <= 0.15


def test_the_log_says_why_a_run_diverged(make_options, tmp_path, folder):
    options = make_options(train={"optim_g": {"type": "SGD", "lr": 1e30}, "grad_clip": None})
    with pytest.raises(UserError, match=r"train\.optim_g\.lr") as error:
        run(options, tmp_path)
    assert str(error.value) in (folder / "train.log").read_text()


@pytest.mark.parametrize("dense_iter", [0, 4])
@pytest.mark.parametrize(
    ("compress", "expected"),
    [
        ({"target": {"macs": 0.01}, "tolerance": 0.001}, "0.01 of macs"),
        ({"preset": "paper"}, "compress.parametrization: full"),
        ({"exclude": ["body*", "bodi.0.conv1"]}, r"'bodi\.0\.conv1'.*'body\.0\.conv1'"),
        ({"exclude": ["*"]}, "pinned"),
        ({"distill": {"teacher": "/no/such.safetensors"}}, r"no/such\.safetensors"),
    ],
)
def test_errors_of_the_search_show_before_the_training(
    make_options, tmp_path, folder, compress, expected, dense_iter
):
    folder.mkdir(parents=True)
    with pytest.raises(UserError, match=expected):
        run(make_options(compress={"dense_iter": dense_iter, **compress}), tmp_path)
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"], "nothing is renamed"
    assert not list(folder.iterdir())


def test_a_teacher_of_another_scale(make_options, tmp_path):
    path = tmp_path / "x3.safetensors"
    save_model(build("EDSR", num_feat=8, num_block=1, upscale=3), path)
    with pytest.raises(UserError, match=r"compress\.distill\.teacher: .*x3\.safetensors.*3 times"):
        run(make_options(compress={"distill": {"teacher": str(path)}}), tmp_path)


def test_tensorboard(make_options, tmp_path, folder):
    logger = {"print_freq": 1, "save_checkpoint_freq": 5, "use_tb_logger": True}
    run(make_options(compress={}, train={"total_iter": 2}, logger=logger), tmp_path)
    events = b"".join(path.read_bytes() for path in (folder / "tb").glob("events.*"))
    assert b"losses/l_pix" in events


# Losses of a run with one thread, in float32. Other processors round differently in the last
# digits, which ten steps do not amplify beyond the tolerance.
GOLDEN_LOSSES = "training_losses.txt"


def test_ten_steps_give_the_recorded_losses(make_options, tmp_path, folder, golden_losses):
    train = {"total_iter": 10, "amp": "none"}
    compress = {"dense_iter": 3, "search_iter": 4}
    logger = {"print_freq": 1, "save_checkpoint_freq": 100, "use_tb_logger": False}
    torch.manual_seed(0)
    run(make_options(train=train, compress=compress, logger=logger), tmp_path)
    losses = [float(row["loss"]) for row in rows(folder / "curves.csv")]
    golden_losses(losses)


@pytest.fixture
def golden_losses(request):
    from pathlib import Path

    path = Path(__file__).parents[1] / "golden" / GOLDEN_LOSSES

    def compare(losses):
        if request.config.getoption("--regen"):
            path.write_text("".join(f"{loss:.6f}\n" for loss in losses))
        expected = [float(line) for line in path.read_text().split()]
        assert losses == pytest.approx(expected, rel=1e-4)

    return compare


@pytest.mark.parametrize(("step", "phase"), [(4, "dense"), (9, "finetune"), (12, "finetune")])
def test_a_gradient_that_is_not_a_number_spoils_no_file(
    make_options, tmp_path, monkeypatch, step, phase
):
    """The loss of the next step would tell; there is none before the cut, a state, and the end."""
    steps = itertools.count(1)

    def update(self, update=Phase._step_optimizer):
        if next(steps) == step:
            next(iter(self.trained_parameters())).grad[:] = float("nan")
        update(self)

    monkeypatch.setattr(Phase, "_step_optimizer", update)
    options = make_options(val={"val_freq": 12}, logger={"save_checkpoint_freq": 9})
    fact = rf"after iteration {step} \(phase {phase}, learning rate"
    with pytest.raises(UserError, match=fact):
        run(options, tmp_path)
    root = tmp_path / "experiments" / "tiny"
    files = [*root.rglob("*.state"), *root.rglob("*.safetensors")]
    assert files or step == 4
    for path in files:
        for name, tensor in load_file(path).items():
            assert tensor.isfinite().all(), (path, name)
