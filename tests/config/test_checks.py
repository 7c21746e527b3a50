"""Settings that must agree with each other, and settings without effect."""

import pytest

from dhp_sr.config.checks import find_mistakes, find_unused
from dhp_sr.config.compress import Compress
from dhp_sr.config.schema import Options
from dhp_sr.utils.methods import METHODS

SR = {"type": "SRDataset", "dataroot_gt": "a"}
NOISE = {"type": "NoiseDataset", "dataroot_gt": "a", "sigma": 25.0}
PATCHES = {"gt_size": 64, "batch_size_per_gpu": 2}


def options(*, datasets=None, compress=None, train=None, **top):
    raw = {
        "name": "t",
        "scale": 2,
        "network_g": {"type": "EDSR"},
        "datasets": datasets or {"train": {**SR, **PATCHES}, "val": SR},
        "compress": {"target": {"macs": 0.5}, "search_iter": 10, **(compress or {})},
        "train": {"total_iter": 100, "optim_g": {"lr": 0.1}, **(train or {})},
    }
    return Options.model_validate({**raw, **top})


def noise(train=None, val=None, **top):
    sets = {"train": {**NOISE, **PATCHES, **(train or {})}, "val": {**NOISE, **(val or {})}}
    return options(datasets=sets, scale=1, **top)


def classes(scale=1, model_type="DHPClassificationModel", data=None, val=None, **train):
    images = {"type": "ClassificationDataset", "dataroot": "a", **(data or {})}
    return Options.model_validate(
        {
            "name": "t",
            "model_type": model_type,
            "scale": scale,
            "network_g": {"type": "ResNet"},
            "datasets": {"train": {**images, "batch_size_per_gpu": 8}},
            "train": {"total_iter": 9, "optim_g": {"type": "SGD", "lr": 0.1}, **train},
            "val": val or {},
        }
    )


def hsn(own=None, **compress):
    return options(compress={"method": "hsn", "dense_iter": 5, "hsn": own or {}, **compress})


def test_nothing_to_say_about_good_options():
    for good in (
        options(),
        noise(),
        noise({"sigma": [0.5, 55.0]}),
        classes(),
        options(compress={"prune_residual": None}),
        hsn(),
    ):
        assert find_mistakes(good) == [] == find_unused(good)


@pytest.mark.parametrize(
    ("given", "keys", "facts"),
    [
        (options(name="a/b"), "name", ["'a/b'"]),
        (options(name=".."), "name", ["'..'"]),
        (options(name="a\nb"), "name", []),
        (options(name=" a"), "name", ["' a'"]),
        (
            options(datasets={"train": {**SR, **PATCHES}, "val": {**SR, "name": "../x"}}),
            "datasets.val.name",
            ["'../x'"],
        ),
        (
            options(datasets={"train": {**SR, **PATCHES}, "val_../../x": SR}),
            "datasets.val_../../x",
            ["'val_../../x'"],
        ),
        (
            options(
                datasets={"train": {**SR, **PATCHES}, "val": SR, "val_1": {**SR, "name": "Val"}}
            ),
            "datasets.val_1.name",
            ["datasets.val:", "Val"],
        ),
        (
            options(train={"total_iter": 30}, compress={"dense_iter": 20}),
            "train.total_iter",
            ["20 + 10 = 30", "got 30"],
        ),
        (options(train={"warmup_iter": 101}), "train.warmup_iter", ["100", "got 101"]),
        (options(compress={"distill": {}}), "compress.distill", ["path.pretrain_network_g"]),
        (options(scale=1), "datasets.train.type", ["SRDataset", "2, 3 or 4", "got 1"]),
        (
            options(network_g={"type": "EDSR", "upscale": 4}),
            "network_g.upscale",
            ["(2)", "got 4"],
        ),
        (
            options(network_g={"type": "EDSR", "num_in_ch": 1}),
            "datasets.train.color",
            ["rgb", "3 channel", "expects 1"],
        ),
        (
            options(datasets={"train": {**SR, **PATCHES, "gt_size": 65}}),
            "datasets.train.gt_size",
            ["(2)", "got 65"],
        ),
        (
            options(datasets={"train": {**SR, **PATCHES}, "val_x": {**NOISE}}),
            "datasets",
            ["NoiseDataset and SRDataset"],
        ),
        (
            options(datasets={"train": {**SR, **PATCHES, "dataroot_gt": ["a", "bundled:test"]}}),
            "datasets.train.dataroot_gt",
            ["bundled:train", "bundled:val", "'bundled:test'"],
        ),
        (
            options(datasets={"train": {**SR, **PATCHES, "dataroot_lq": ["a", "b"]}}),
            "datasets.train.dataroot_lq",
            ["dataroot_gt (1)", "got 2"],
        ),
        (
            options(
                datasets={"train": {**SR, **PATCHES, "dataroot_lq": "b", "filename_tmpl": "x4"}}
            ),
            "datasets.train.filename_tmpl",
            ["{}", "'x4'"],
        ),
        (noise({"sigma": None}), "datasets.train.sigma", ["0-255", "none"]),
        (noise(val={"sigma": None}), "datasets.val.sigma", ["0-255", "none"]),
        (noise({"sigma": [50.0, 5.0]}), "datasets.train.sigma", ["[50.0, 5.0]"]),
        (
            options(datasets={"train": {**NOISE, **PATCHES}}),
            "datasets.train.type",
            ["NoiseDataset", "got 2"],
        ),
        (
            options(train={"scheduler": {"type": "multistep"}}),
            "train.scheduler.milestones",
            ["none"],
        ),
        (
            options(compress={"scheduler": {"type": "multistep", "milestones": [3, 2]}}),
            "compress.scheduler.milestones",
            ["[3, 2]"],
        ),
        (hsn(parametrization="full"), "compress.parametrization", ["hsn", "factored", "full"]),
        (
            options(
                compress={
                    "preset": "paper",
                    "parametrization": "full",
                    "target": {"latency": 0.5},
                }
            ),
            "compress.preset",
            ["macs or params or activations", "latency"],
        ),
        (options(compress={"search_iter": 0}), "compress.search_iter", ["dhp", "above 0"]),
        (hsn(search_iter=0), "compress.search_iter", ["hsn", "above 0"]),
        (
            options(compress={"method": "uniform", "search_iter": 0, "correction": {}}),
            "compress.search_iter",
            ["correction", "above 0"],
        ),
        (hsn(dense_iter=0), "compress.dense_iter", ["hsn", "path.pretrain_network_g"]),
        (classes(scale=4), "datasets.train.type", ["scale: 1", "got 4"]),
        (
            classes(model_type="DHPModel"),
            "model_type",
            ["SRDataset or NoiseDataset", "ClassificationDataset", "set DHPClassificationModel"],
        ),
        (
            options(model_type="DHPClassificationModel"),
            "model_type",
            ["ClassificationDataset", "SRDataset", "set DHPModel"],
        ),
        (classes(pixel_opt={"type": "MSELoss"}), "train.pixel_opt", ["train.cls_opt"]),
        (classes(val={"save_img": True}), "val.save_img", ["false"]),
        (options(train={"cls_opt": {}}), "train.cls_opt", ["train.pixel_opt"]),
        (
            options(compress={"distill": {"temperature": 2.0}, "dense_iter": 5}),
            "compress.distill.temperature",
            ["ClassificationDataset"],
        ),
        (
            classes(optim_g={"type": "SGD", "lr": 0.1, "nesterov": True, "momentum": 0.0}),
            "train.optim_g.nesterov",
            ["above 0"],
        ),
        (
            classes(data={"mean": [0.5]}),
            "datasets.train.mean",
            ["3 value", "rgb", "[0.5]"],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_contradictions(given, keys, facts):
    texts = [text for path, text in find_mistakes(given) if ".".join(path) == keys]
    assert len(texts) == 1, find_mistakes(given)
    assert [fact for fact in facts if fact not in texts[0]] == []


@pytest.mark.parametrize(
    ("given", "pruned"),
    [
        (hsn(), False),
        (hsn(prune_residual=True), True),
        (options(), True),
        (options(compress={"prune_residual": False}), False),
    ],
)
def test_the_method_has_a_default_for_residual_channels(given, pruned):
    assert given.compress.prunes_residual is pruned


def test_contradictions_come_together():
    given = options(scale=1, name="a/b", train={"total_iter": 3})
    assert len(find_mistakes(given)) == 4


@pytest.mark.parametrize(
    "given",
    [
        options(compress={"distill": {}, "dense_iter": 5}),
        options(compress={"distill": {"teacher": "x.safetensors"}}),
        options(compress={"distill": {}}, path={"pretrain_network_g": "x.pth"}),
    ],
)
def test_a_teacher_from_any_of_three_places(given):
    assert find_mistakes(given) == []


@pytest.mark.parametrize(
    ("given", "keys", "fact"),
    [
        (
            options(train={"scheduler": {"gamma": 0.1}}),
            "train.scheduler.gamma",
            "type: cosine",
        ),
        (
            options(compress={"scheduler": {"type": "constant", "eta_min": 0.1}}),
            "compress.scheduler.eta_min",
            "type: constant",
        ),
        (
            options(train={"optim_g": {"type": "SGD", "lr": 0.1, "betas": [0.5, 0.9]}}),
            "train.optim_g.betas",
            "type: SGD",
        ),
        (
            options(train={"optim_g": {"lr": 0.1, "momentum": 0.5}}),
            "train.optim_g.momentum",
            "type: Adam",
        ),
        (
            options(datasets={"train": {**SR, **PATCHES, "sigma": 5.0}}),
            "datasets.train.sigma",
            "SRDataset adds no noise",
        ),
        (
            options(datasets={"train": {**SR, **PATCHES}, "val": {**SR, "noise_seed": 1}}),
            "datasets.val.noise_seed",
            "SRDataset adds no noise",
        ),
        (
            options(datasets={"train": {**SR, **PATCHES, "filename_tmpl": "{}x4"}}),
            "datasets.train.filename_tmpl",
            "without dataroot_lq",
        ),
        (
            noise({"dataroot_lq": "b"}),
            "datasets.train.dataroot_lq",
            "NoiseDataset makes its inputs itself",
        ),
        (
            options(compress={"dhp": {"penalty": 0.5}}),
            "compress.dhp.penalty",
            "preset paper",
        ),
        (
            options(compress={"latency_threads": 2}),
            "compress.latency_threads",
            "a target of macs",
        ),
        (
            options(compress={"hsn": {"lr": 1e-2}}),
            "compress.hsn",
            "method: dhp",
        ),
        (
            options(compress={"method": "uniform", "dhp": {"cost_exponent": 0.5}}),
            "compress.dhp",
            "method: uniform",
        ),
        (hsn(preset="paper"), "compress.preset", "method: hsn"),
        (
            hsn({"penalty": 4.0, "gradient_balance": 2.0}),
            "compress.hsn.gradient_balance",
            "fixed penalty",
        ),
        (
            hsn({"layer_scaling": "none", "scaling_lr": 0.1}),
            "compress.hsn.scaling_lr",
            "layer_scaling: none",
        ),
        (
            options(
                compress={
                    "preset": "paper",
                    "parametrization": "full",
                    "dhp": {"cost_exponent": 0.5},
                }
            ),
            "compress.dhp.cost_exponent",
            "preset paper",
        ),
        (
            options(
                compress={
                    "method": "prior_widths",
                    "dhp": {"cost_exponent": 0.5, "latent_lr": 0.1},
                }
            ),
            "compress.dhp.latent_lr",
            "preset paper",
        ),
        (options(compress={"remove_blocks": True}), "compress.remove_blocks", "method: dhp"),
    ],
)
def test_settings_without_effect(given, keys, fact):
    ((path, text),) = find_unused(given)
    assert ".".join(path) == keys and fact in text


def test_the_file_and_the_line_are_named(tmp_path):
    from dhp_sr.config import dump_options, load_options

    path = tmp_path / "run.yml"
    path.write_text(dump_options(options(train={"scheduler": {"gamma": 0.1}})))
    with pytest.warns(UserWarning, match=r"run.yml: train.scheduler.gamma \(line \d+\)"):
        load_options(path)


@pytest.mark.parametrize("method", METHODS)
def test_the_section_of_every_method_knows_its_settings_without_effect(method):
    compress = Compress(method=method, target={"macs": 0.5}, search_iter=1)
    section = compress.method_section
    assert section is None or list(section.unused_settings(method, compress.preset)) == []


@pytest.mark.parametrize(
    "train, compress, words",
    [
        ({}, {}, ["task_loss: false"]),
        ({}, {"dense_iter": 5, "distill": {"task_loss": False}}, ["dense_iter: 0"]),
        ({"dataroot_lq": "b"}, {"distill": {"task_loss": False}}, ["no noise or dataroot_lq"]),
    ],
)
def test_reduced_images_have_no_truths(train, compress, words):
    sets = {"train": {**SR, **PATCHES, "reductions": [2, 3], **train}, "val": SR}
    made = options(
        datasets=sets,
        compress={"dense_iter": 0, **compress},
        path={"pretrain_network_g": "trained.pth"},
    )
    found = [text for keys, text in find_mistakes(made) if "reductions" in keys]
    assert len(found) == len(words)
    assert all(word in text for word, text in zip(words, found, strict=True))
