"""Whole runs of classifiers: what they leave behind, and that an interrupted one ends the same."""

import csv

import pytest
import torch
from class_pictures import CLASSES, RESNET, class_options, save_classes
from runs import Killed, final_state, kill_before, run
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from dhp_sr.archs import build
from dhp_sr.basicsr_adapter import registries as basicsr_glue
from dhp_sr.cli.evaluate import evaluate_files, evaluate_run
from dhp_sr.config import dump_options
from dhp_sr.deploy import load_model, read_manifest, save_model
from dhp_sr.plan import main as plan_main
from dhp_sr.tasks.classification import Classification, score_classes
from dhp_sr.test import main as score_main
from dhp_sr.train import main as train_main
from dhp_sr.training.compression import Compression
from dhp_sr.training.distributed import DistributedContext
from dhp_sr.utils.errors import UserError

RESNET_ARGUMENTS = {key: value for key, value in RESNET.items() if key != "type"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    save_classes(folder / "train", 6)
    save_classes(folder / "test", 4)
    return folder


@pytest.fixture
def make(pictures, tmp_path):
    return lambda **changes: class_options(pictures, tmp_path, **changes)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "experiments" / "tiny"


METHODS = {"dhp": {"method": "dhp", "distill": {"temperature": 2.0}}, "hsn": {"method": "hsn"}}


@pytest.mark.parametrize("method", METHODS)
def test_a_run_and_its_files(make, tmp_path, folder, pictures, method):
    metrics = run(make(compress=METHODS[method]), tmp_path)
    dense, pruned = metrics["rows"]
    assert (dense["model"], pruned["model"], metrics["task"]) == (
        "dense",
        "pruned",
        "classification",
    )
    assert abs(pruned["macs"] / dense["macs"] - 0.5) <= 0.1
    assert metrics["macs_input"] == [1, 3, 8, 8]
    again = evaluate_run(folder / "options.yml", root=tmp_path)
    copied = tmp_path / "copy" / "pruned.safetensors"
    copied.parent.mkdir()
    copied.write_bytes((folder / "models" / "pruned.safetensors").read_bytes())
    free = evaluate_files([folder / "models" / "pruned.safetensors", copied], [str(pictures)])
    assert [row["model"] for row in free["rows"]] == [f"{folder.name}/pruned", "copy/pruned"]
    assert (
        again["rows"][-1]["sets"]["A"]
        == next(iter(free["rows"][-1]["sets"].values()))
        == pruned["sets"]["A"]
    )
    assert pruned["sets"]["A"]["images"] == 4 * len(CLASSES)
    assert read_manifest(folder / "models" / "pruned.safetensors")["task"] == "classification"
    rows = list(csv.DictReader((folder / "validation.csv").read_text().splitlines()))
    assert [int(row["iteration"]) for row in rows] == [5, 10, 12]
    finetuned = {int(row["iteration"]): float(row["top1_error_percent"]) for row in rows[1:]}
    lowest = min(finetuned.values())
    first = min(iteration for iteration, error in finetuned.items() if error == lowest)
    assert metrics["best"] == {"iteration": first, "top1_error_percent": pytest.approx(lowest)}
    assert "top-1 error %" in (folder / "train.log").read_text()
    assert (folder / "plots" / "curves.png").stat().st_size > 10_000


def test_tensorboard_calls_the_loss_by_its_name(make, tmp_path, folder):
    run(make(compress=None, train={"total_iter": 2}, logger={"use_tb_logger": True}), tmp_path)
    events = b"".join(path.read_bytes() for path in (folder / "tb").glob("events.*"))
    assert b"losses/l_cls" in events and b"l_pix" not in events


CASES = {
    "dhp": {"compress": {"distill": {}}},
    "hsn": {"compress": {"method": "hsn"}},
    "bf16": {"train": {"amp": "bf16", "channels_last": True}},
}


@pytest.mark.parametrize("case", CASES)
def test_killed_in_every_phase(make, tmp_path, monkeypatch, case):
    run(make(name="whole", **CASES[case]), tmp_path)
    again = make(name="killed", **CASES[case])
    for iteration in (2, 5, 8, 9, 12):
        with monkeypatch.context() as patch:
            kill_before(patch, iteration)
            with pytest.raises(Killed):
                run(again, tmp_path, auto_resume=True)
    run(again, tmp_path, auto_resume=True)
    whole, killed = (tmp_path / "experiments" / name for name in ("whole", "killed"))
    for name in ("curves.csv", "validation.csv", "widths.json"):
        assert (whole / name).read_text() == (killed / name).read_text(), name
    for name in ("dense", "pruned", "best"):
        mine, other = (load_file(one / "models" / f"{name}.safetensors") for one in (whole, killed))
        assert mine.keys() == other.keys() and all(
            torch.equal(mine[key], other[key]) for key in mine
        ), name
    (mine, plain), (other, other_plain) = final_state(whole), final_state(killed)
    assert plain == other_plain
    assert mine.keys() == other.keys() and all(torch.equal(mine[key], other[key]) for key in mine)


def compression(options, tmp_path):
    return Compression(
        options, DistributedContext(torch.device("cpu")), tmp_path / "dense.safetensors"
    )


def batch(options):
    items = Classification().train_set(options)
    return items.batch([(number, number) for number in range(4)])


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_weight_decay_leaves_the_latents_alone(make, tmp_path, preset):
    compress = {"dense_iter": 0, "preset": preset, "search_iter": 8}
    compress |= (
        {"parametrization": "full", "dhp": {"penalty": 0.0, "latent_lr": 1e-12}}
        if preset == "paper"
        else {}
    )
    steep = {"type": "SGD", "lr": 1e-12, "momentum": 0.0, "weight_decay": 1e9}
    options = make(compress=compress, train={"optim_g": steep})
    one = compression(options, tmp_path)
    one.advance(0)
    before = {name: latent.detach().clone() for name, latent in one.network.latents.items()}
    weights = [parameter.detach().clone() for parameter in one.network.network_parameters()]
    one.step(batch(options), 0)
    assert all(
        torch.allclose(latent, before[name], atol=1e-6)
        for name, latent in one.network.latents.items()
    )
    shrunk = [
        (new / old)[old != 0]
        for new, old in zip(one.network.network_parameters(), weights, strict=True)
    ]
    shrunk = torch.cat([part.flatten() for part in shrunk])
    assert shrunk.numel() > 100 and torch.allclose(shrunk, torch.tensor(1 - 1e-3), atol=1e-4)


def test_the_moving_average_is_what_is_handed_over(make, tmp_path, folder):
    options = make()
    run(options, tmp_path)
    tensors = load_file(folder / "models" / "pruned.safetensors")
    state, plain = final_state(folder)
    (number, average), trained = (
        next(iter(plain_average(plain, "average").items())),
        plain_average(plain, "network"),
    )
    assert torch.equal(tensors[number.removeprefix("module.")], state[average])
    assert not torch.equal(state[average], state[trained[number.removeprefix("module.")]])


def plain_average(plain, part):
    """Name -> tensor of a part of a packed state, matrices alone."""
    found = dict((key, value) for key, value in plain["dict"])["model"]
    entries = dict((key, value) for key, value in found["dict"])[part]["dict"]
    return {key: value["tensor"] for key, value in entries if key.endswith("conv1.weight")}


def test_errors_are_counted_as_by_hand():
    generator = torch.Generator().manual_seed(1)
    scores, labels = (
        torch.randn(50, 8, generator=generator),
        torch.randint(8, (50,), generator=generator),
    )
    places = [
        sorted(range(8), key=lambda k, row=row: -row[k]).index(y)
        for row, y in zip(scores.tolist(), labels, strict=True)
    ]
    found = score_classes([(scores[:30], labels[:30]), (scores[30:], labels[30:])])
    assert found["top1_error_percent"] == pytest.approx(2 * sum(place > 0 for place in places))
    assert found["top5_error_percent"] == pytest.approx(2 * sum(place > 4 for place in places))
    expected = -torch.log_softmax(scores.double(), 1)[range(50), labels].mean()
    assert found["cross_entropy"] == pytest.approx(float(expected), rel=1e-6)
    assert found["images"] == 50


def test_few_classes_are_all_among_the_first_five():
    found = score_classes([(torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([2]))])
    assert (found["top1_error_percent"], found["top5_error_percent"]) == (100, 0)


def test_scores_that_are_no_numbers_are_wrong():
    found = score_classes([(torch.full((2, 3), torch.nan), torch.tensor([0, 1]))])
    assert (found["top1_error_percent"], found["top5_error_percent"]) == (100, 100)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"network_g": {"num_classes": 4}},
            r"datasets\.train: expected 4 classes.* found 3 \(cat, dog, frog\)",
        ),
        (
            {"network_g": {"input_size": 16}},
            r"datasets\.train: expected images of 16 x 16.* found 8 x 8",
        ),
        ({"network_g": {"num_in_ch": 1}}, r"takes 1 channel\(s\), datasets\.train gives 3"),
    ],
)
def test_data_that_do_not_fit(make, tmp_path, changes, expected):
    with pytest.raises(UserError, match=expected):
        run(make(**changes), tmp_path)
    assert not (tmp_path / "experiments").exists()


def test_a_network_of_another_task(pictures, make, tmp_path):
    options = make()
    other = options.network_g.model_validate({"type": "DnCNN", "num_in_ch": 3})
    with pytest.raises(UserError, match="DnCNN is made for denoise, a ClassificationDataset needs"):
        run(options.model_copy(update={"network_g": other}), tmp_path)


def test_other_classes_in_a_test_set(make, tmp_path):
    save_classes(tmp_path / "other" / "test", 1, classes=("cat", "dog", "fox"))
    options = make()
    val = options.datasets["val"].model_copy(update={"dataroot": str(tmp_path / "other")})
    with pytest.raises(
        UserError, match=r"A: expected the 3 classes of the training set, found 'fox'"
    ):
        run(options.model_copy(update={"datasets": {**options.datasets, "val": val}}), tmp_path)


def test_folders_that_do_not_fit_a_file(make, tmp_path, folder):
    run(make(compress=None, train={"total_iter": 1}), tmp_path)
    model = folder / "models" / "dense.safetensors"
    save_classes(tmp_path / "four" / "test", 1, classes=("a", "b", "c", "d"))
    with pytest.raises(UserError, match=r"dense\.safetensors: --data: expected 3 classes"):
        evaluate_files(model, [str(tmp_path / "four")])
    with pytest.raises(UserError, match="a classifier, --sigma has no effect"):
        evaluate_files(model, [str(tmp_path / "four")], sigma=25.0)


def test_the_commands_end_with_exit_code_2(make, pictures, tmp_path, capsys):
    path = tmp_path / "one.yml"
    path.write_text(dump_options(make()))
    assert train_main(["-opt", str(path), "--set", "network_g.num_classes=7"]) == 2
    assert "expected 7 classes, as many as the network names, found 3" in capsys.readouterr().err
    assert train_main(["-opt", str(path), "--set", "datasets.train.dataroot=/no/such/folder"]) == 2
    assert "datasets.train: " in capsys.readouterr().err
    save_model(
        build("ResNet", **{**RESNET_ARGUMENTS, "num_classes": 7}), tmp_path / "seven.safetensors"
    )
    assert (
        score_main(["--model", str(tmp_path / "seven.safetensors"), "--data", str(pictures)]) == 2
    )
    assert "expected 7 classes" in capsys.readouterr().err


def test_plan_says_what_an_option_file_can_cut(make, tmp_path, capsys):
    path = tmp_path / "one.yml"
    path.write_text(dump_options(make()))
    assert plan_main(["-opt", str(path)]) == 0
    text = capsys.readouterr().out
    assert "an input of 1 x 3 x 8 x 8" in text and "macs 0.5: can be met" in text


def test_basicsr_builds_and_drives_the_model(make, pictures, tmp_path):
    basicsr_glue.register()
    from basicsr.utils.registry import DATASET_REGISTRY

    opt = {**make(compress=None).model_dump(), "run_folder": str(tmp_path / "run")}
    model = basicsr_glue.build_model(opt)
    section = {"type": "ClassificationDataset", "dataroot": str(pictures)}
    train = {**section, "phase": "train", "padding": 1, "batch_size_per_gpu": 4}
    items = DATASET_REGISTRY.get("ClassificationDataset")(train)
    model.feed_data(items.batch([(number, number) for number in range(4)]))
    model.optimize_parameters(1)
    assert model.get_current_log()["l_loss"] > 0
    loader = DataLoader(DATASET_REGISTRY.get("ClassificationDataset")({**section, "phase": "val"}))
    scores = model.validation(loader, 1, None)
    assert scores == model.validate(Classification().test_sets(make())[0])


@pytest.mark.slow
def test_a_network_of_torchvision(make, tmp_path, folder, pictures):
    network = {
        "type": "Hyper",
        "network": {"type": "torchvision:mobilenet_v3_small", "num_classes": 3},
    }
    data = {
        "train": {
            "type": "ClassificationDataset",
            "dataroot": str(pictures),
            "size": 32,
            "batch_size_per_gpu": 2,
        },
        "val": {
            "type": "ClassificationDataset",
            "name": "A",
            "dataroot": str(pictures),
            "size": 32,
        },
    }
    compress = {
        "dense_iter": 0,
        "search_iter": 1,
        "round_to": 8,
        "min_width": 8,
        "method": "uniform",
    }
    options = make(datasets=data, compress=compress, train={"total_iter": 2})
    options = options.model_copy(
        update={"network_g": type(options.network_g).model_validate(network)}
    )
    metrics = run(options, tmp_path)
    assert metrics["macs_input"] == [1, 3, 32, 32]
    loaded = load_model(folder / "models" / "pruned.safetensors")
    assert loaded(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    assert (
        evaluate_run(folder / "options.yml", root=tmp_path)["rows"][-1]["sets"]
        == metrics["rows"][-1]["sets"]
    )
