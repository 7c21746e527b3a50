"""Whole runs of classifiers: the files they write, and that an interrupted one ends the same."""

import csv
import shutil
import warnings

import pytest
import torch
from class_images import CLASSES, RESNET, class_options, save_classes
from runs import assert_same_run, run, run_with_kills, saved_state
from safetensors.torch import load_file
from slow_rows import rows
from torch.utils.data import DataLoader

from dhp_sr.archs import build
from dhp_sr.basicsr_adapter import registries
from dhp_sr.cli.evaluate import evaluate_files, evaluate_run
from dhp_sr.config import dump_options
from dhp_sr.deploy import load_model, read_manifest, save_model
from dhp_sr.plan import main as plan_main
from dhp_sr.tasks.classification import Classification, score_classes
from dhp_sr.test import main as score_main
from dhp_sr.train import main as train_main
from dhp_sr.training.distributed import DistributedContext
from dhp_sr.training.trainer import Trainer
from dhp_sr.utils.errors import UserError


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    save_classes(folder / "train", 6)
    save_classes(folder / "test", 4)
    return folder


@pytest.fixture
def make(image_folder, tmp_path):
    return lambda **changes: class_options(image_folder, tmp_path, **changes)


METHODS = {"dhp": {"method": "dhp", "distill": {"temperature": 2.0}}, "hsn": {"method": "hsn"}}


@pytest.fixture(scope="module", params=METHODS)
def finished(request, image_folder, tmp_path_factory):
    """Root, folder and results of a run."""
    root = tmp_path_factory.mktemp("finished")
    options = class_options(image_folder, root, compress=METHODS[request.param])
    return root, root / "experiments" / "tiny", run(options, root, pages=True)


def test_a_run_and_its_files(finished):
    root, folder, metrics = finished
    dense, pruned = metrics["rows"]
    assert (dense["model"], pruned["model"]) == ("dense", "pruned")
    assert metrics["task"] == "classification" and metrics["macs_input"] == [1, 3, 8, 8]
    assert abs(pruned["macs"] / dense["macs"] - 0.5) <= 0.1
    assert pruned["sets"]["A"]["images"] == 4 * len(CLASSES)
    assert read_manifest(folder / "models" / "pruned.safetensors")["task"] == "classification"
    assert (folder / "plots" / "curves.png").stat().st_size > 10_000
    again = evaluate_run(folder / "options.yml", root=root)
    assert again["rows"][-1]["sets"]["A"] == pruned["sets"]["A"]


def test_the_best_model_has_the_lowest_error(finished):
    _, folder, metrics = finished
    rows = list(csv.DictReader((folder / "validation.csv").read_text().splitlines()))
    assert [int(row["iteration"]) for row in rows] == [5, 10, 12]
    errors = {int(row["iteration"]): float(row["top1_error_percent"]) for row in rows[1:]}
    lowest = min(errors.values())
    first = min(iteration for iteration, error in errors.items() if error == lowest)
    assert metrics["best"] == {"iteration": first, "top1_error_percent": pytest.approx(lowest)}
    assert "top-1 error %" in (folder / "train.log").read_text()


def test_a_file_scores_as_the_run_did(finished, image_folder, tmp_path):
    _, folder, metrics = finished
    model = folder / "models" / "pruned.safetensors"
    copied = tmp_path / "copy" / "pruned.safetensors"
    copied.parent.mkdir()
    shutil.copy(model, copied)
    scores = evaluate_files([model, copied], [str(image_folder)])
    assert [row["model"] for row in scores["rows"]] == [f"{folder.name}/pruned", "copy/pruned"]
    for row in scores["rows"]:
        assert list(row["sets"].values()) == [metrics["rows"][1]["sets"]["A"]]


def test_the_moving_average_is_handed_over(finished):
    _, folder, _ = finished
    pruned = load_file(folder / "models" / "pruned.safetensors")
    tensors, skeleton = saved_state(folder)

    def entries(tree):
        return dict((key, value) for key, value in tree["dict"])

    phase = entries(entries(entries(skeleton)["trainer"])["state"])
    average, trained = entries(phase["average"]), entries(phase["network"])
    name = "conv1.weight" if "conv1.weight" in trained else next(iter(trained))
    assert torch.equal(pruned[name], tensors[average[f"module.{name}"]["tensor"]])
    assert not torch.equal(pruned[name], tensors[trained[name]["tensor"]])


def test_tensorboard_calls_the_loss_by_its_name(make, tmp_path):
    run(make(compress=None, train={"total_iter": 2}, logger={"use_tb_logger": True}), tmp_path)
    files = (tmp_path / "experiments" / "tiny" / "tb").glob("events.*")
    events = b"".join(path.read_bytes() for path in files)
    assert b"losses/l_cls" in events and b"l_pix" not in events


CASES = {
    "dhp": {"compress": {"distill": {}}},
    "hsn": {"compress": {"method": "hsn"}},
    "bf16": {"train": {"amp": "bf16", "channels_last": True}},
}


@pytest.mark.parametrize("case", rows(CASES, ["dhp"]))
def test_killed_in_every_phase(make, tmp_path, monkeypatch, case):
    run(make(name="whole", **CASES[case]), tmp_path)
    again = make(name="killed", **CASES[case])
    run_with_kills(again, tmp_path, monkeypatch, (2, 8, 9, 12))
    experiments = tmp_path / "experiments"
    assert_same_run(experiments / "whole", experiments / "killed")


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_weight_decay_leaves_the_latents_alone(make, preset):
    compress = {"dense_iter": 0, "preset": preset, "search_iter": 8}
    if preset == "paper":
        compress["parametrization"] = "full"
        compress["dhp"] = {"penalty": 0.0, "latent_lr": 1e-12}
    # A step of lr * weight_decay = 1e-3 of every weight, and next to nothing by the gradient.
    decay_only = {"type": "SGD", "lr": 1e-12, "momentum": 0.0, "weight_decay": 1e9}
    options = make(compress=compress, train={"optim_g": decay_only})
    trainer = Trainer(options, DistributedContext(torch.device("cpu")))
    trainer.advance(0)
    hyper = trainer.network
    latents = {name: latent.detach().clone() for name, latent in hyper.latents.items()}
    weights = [parameter.detach().clone() for parameter in hyper.network_parameters()]
    items = Classification().train_set(options)
    trainer.step(items.batch([(number, number) for number in range(4)]), 0)
    for name, latent in hyper.latents.items():
        assert torch.allclose(latent, latents[name], atol=1e-6)
    factors = []
    for after, before in zip(hyper.network_parameters(), weights, strict=True):
        factors.append((after / before)[before != 0].flatten())
    decayed = torch.cat(factors)
    assert decayed.numel() > 100
    assert torch.allclose(decayed, torch.tensor(1 - 1e-3), atol=1e-4)


def test_errors_are_counted_as_by_hand():
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(50, 8, generator=generator)
    labels = torch.randint(8, (50,), generator=generator)
    ranks = []
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        ranks.append(sorted(range(8), key=lambda k, row=row: -row[k]).index(label))
    found = score_classes([(scores[:30], labels[:30]), (scores[30:], labels[30:])])
    assert found["top1_error_percent"] == pytest.approx(2 * sum(rank > 0 for rank in ranks))
    assert found["top5_error_percent"] == pytest.approx(2 * sum(rank > 4 for rank in ranks))
    expected = -torch.log_softmax(scores.double(), 1)[range(50), labels].mean()
    assert found["cross_entropy"] == pytest.approx(float(expected), rel=1e-6)
    assert found["images"] == 50


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([[1.0, 2.0, 0.0]], [2], (100, 0)),  # three classes are all among the first five
        ([[float("nan")] * 3] * 2, [0, 1], (100, 100)),
    ],
)
def test_errors_of_special_scores(scores, labels, expected):
    found = score_classes([(torch.tensor(scores), torch.tensor(labels))])
    assert (found["top1_error_percent"], found["top5_error_percent"]) == expected


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ({"num_classes": 4}, r"datasets\.train: .*4 classes.*3 \(cat, dog, frog\)"),
        ({"input_size": 16}, r"datasets\.train: .*16 x 16.*8 x 8"),
        ({"num_in_ch": 1}, r"1 channel.*datasets\.train gives 3"),
    ],
)
def test_data_that_do_not_fit(make, tmp_path, network, expected):
    with pytest.raises(UserError, match=expected):
        run(make(network_g=network), tmp_path)
    assert not (tmp_path / "experiments").exists()


def test_a_network_of_another_task(make, tmp_path):
    options = make()
    other = options.network_g.model_validate({"type": "DnCNN", "num_in_ch": 3})
    with pytest.raises(UserError, match=r"DnCNN .*denoise.*ClassificationDataset"):
        run(options.model_copy(update={"network_g": other}), tmp_path)


def test_other_classes_in_a_test_set(make, tmp_path):
    save_classes(tmp_path / "other" / "test", 1, classes=("cat", "dog", "fox"))
    options = make()
    val = options.datasets["val"].model_copy(update={"dataroot": str(tmp_path / "other")})
    with pytest.raises(UserError, match=r"A: .*'fox'"):
        run(options.model_copy(update={"datasets": {**options.datasets, "val": val}}), tmp_path)


@pytest.fixture
def saved_classifier(tmp_path):
    arguments = {key: value for key, value in RESNET.items() if key != "type"}

    def save(**changes):
        path = tmp_path / "dense.safetensors"
        save_model(build("ResNet", **{**arguments, **changes}), path)
        return path

    return save


def test_folders_that_do_not_fit_a_file(saved_classifier, tmp_path):
    save_classes(tmp_path / "four" / "test", 1, classes=("a", "b", "c", "d"))
    model = saved_classifier()
    with pytest.raises(UserError, match=r"dense\.safetensors: --data: .*3 classes"):
        evaluate_files(model, [str(tmp_path / "four")])
    with pytest.raises(UserError, match="--sigma"):
        evaluate_files(model, [str(tmp_path / "four")], sigma=25.0)


def test_the_commands_end_with_exit_code_2(make, image_folder, saved_classifier, tmp_path, capsys):
    path = tmp_path / "one.yml"
    path.write_text(dump_options(make()))
    model = saved_classifier(num_classes=7)
    for command, arguments, expected in (
        (train_main, ["-opt", str(path), "--set", "network_g.num_classes=7"], "7 classes"),
        (train_main, ["-opt", str(path), "--set", "datasets.train.dataroot=/no/such"], "/no/such"),
        (score_main, ["--model", str(model), "--data", str(image_folder)], "7 classes"),
    ):
        assert command(arguments) == 2
        assert expected in capsys.readouterr().err


def test_plan_says_what_an_option_file_can_cut(make, tmp_path, capsys):
    path = tmp_path / "one.yml"
    path.write_text(dump_options(make()))
    assert plan_main(["-opt", str(path)]) == 0
    text = capsys.readouterr().out
    assert "1 x 3 x 8 x 8" in text and "macs 0.5" in text


def test_basicsr_builds_and_drives_the_model(make, image_folder, tmp_path):
    registries.register()
    from basicsr.models import build_model
    from basicsr.utils.registry import DATASET_REGISTRY

    open_dataset = DATASET_REGISTRY.get("ClassificationDataset")
    model = build_model({**make(compress=None).model_dump(), "run_folder": str(tmp_path / "run")})
    section = {"type": "ClassificationDataset", "dataroot": str(image_folder)}
    items = open_dataset({**section, "phase": "train", "padding": 1, "batch_size_per_gpu": 4})
    model.feed_data(items.batch([(number, number) for number in range(4)]))
    model.optimize_parameters(1)
    assert model.get_current_log()["l_loss"] > 0
    loader = DataLoader(open_dataset({**section, "phase": "val"}))
    scores = model.validation(loader, 1, None)
    assert scores == model.trainer.validate(Classification().test_sets(make())[0])


@pytest.mark.slow
def test_a_network_of_torchvision(make, tmp_path, image_folder):
    inner = {"type": "torchvision:mobilenet_v3_small", "num_classes": 3}
    data = {"type": "ClassificationDataset", "dataroot": str(image_folder), "size": 32}
    options = make(
        datasets={"train": {**data, "batch_size_per_gpu": 2}, "val": {**data, "name": "A"}},
        compress={
            "dense_iter": 0,
            "search_iter": 1,
            "round_to": 8,
            "min_width": 8,
            "method": "uniform",
        },
        train={"total_iter": 2},
    )
    network = options.network_g.model_validate({"type": "Hyper", "network": inner})
    metrics = run(options.model_copy(update={"network_g": network}), tmp_path)
    assert metrics["macs_input"] == [1, 3, 32, 32]
    folder = tmp_path / "experiments" / "tiny"
    loaded = load_model(folder / "models" / "pruned.safetensors")
    assert loaded(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    again = evaluate_run(folder / "options.yml", root=tmp_path)
    assert again["rows"][-1]["sets"] == metrics["rows"][-1]["sets"]


def test_scores_on_the_training_images_are_reported(image_folder, tmp_path):
    task = Classification()
    mixed = shutil.copytree(image_folder, tmp_path / "mixed")
    image = sorted((mixed / "train").glob("*/*.png"))[0]
    shutil.copy(image, mixed / "test" / image.parent.name / "copy.png")
    counts = {image_folder: [], image_folder / "train": ["18 of 18"], mixed: ["1 of 1"]}
    for folder, expected in counts.items():
        options = class_options(folder, tmp_path)
        network = task.build_network(options)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            task.check_data(network, task.train_set(options), task.test_sets(options))
        assert [str(one.message)[3 : 3 + len(expected[0])] for one in caught] == expected
