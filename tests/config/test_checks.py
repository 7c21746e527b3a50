"""Settings that must agree with each other, and settings without effect."""

import pytest

from dhp_sr.config.checks import idle_settings, problems
from dhp_sr.config.schema import Options

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


def hsn(own=None, **compress):
    return options(compress={"method": "hsn", "dense_iter": 5, "hsn": own or {}, **compress})


def found(findings):
    return [".".join(keys) + ": " + text for keys, text in findings]


def test_nothing_to_say_about_good_options():
    for good in (
        options(),
        noise(),
        noise({"sigma": [0.5, 55.0]}),
        options(compress={"prune_residual": None}),
        hsn(),
    ):
        assert problems(good) == [] == idle_settings(good)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (options(name="a/b"), "name: expected the name of a folder"),
        (options(name=".."), "name: expected the name of a folder"),
        (options(name="a\nb"), "name: expected the name of a folder"),
        (options(name=" a"), "name: expected the name of a folder"),
        (
            options(datasets={"train": {**SR, **PATCHES}, "val": {**SR, "name": "../x"}}),
            "datasets.val.name: expected a name that can be a folder's",
        ),
        (
            options(train={"total_iter": 30}, compress={"dense_iter": 20}),
            "train.total_iter: expected more than dense_iter + search_iter (20 + 10 = 30), found 30",
        ),
        (
            options(train={"warmup_iter": 101}),
            "train.warmup_iter: expected at most total_iter (100), found 101",
        ),
        (options(compress={"distill": {}}), "compress.distill: expected a trained teacher"),
        (
            options(
                compress={
                    "preset": "paper",
                    "parametrization": "full",
                    "target": {"latency": 0.5},
                }
            ),
            "compress.preset: paper expects a target of macs or params, found latency",
        ),
        (options(scale=1), "datasets.train.type: SRDataset expects scale: 2, 3 or 4, found 1"),
        (
            options(network_g={"type": "EDSR", "upscale": 4}),
            "network_g.upscale: expected the scale of the run (2), found 4",
        ),
        (
            options(network_g={"type": "EDSR", "num_in_ch": 1}),
            "datasets.train.color: rgb images have 3 channel(s), the network expects 1",
        ),
        (
            options(datasets={"train": {**SR, **PATCHES, "gt_size": 65}}),
            "datasets.train.gt_size: expected a multiple of the scale (2), found 65",
        ),
        (
            options(datasets={"train": {**SR, **PATCHES}, "val_x": {**NOISE}}),
            "datasets: expected one type in all of them, found NoiseDataset and SRDataset",
        ),
        (
            options(datasets={"train": {**SR, **PATCHES, "dataroot_gt": ["a", "bundled:test"]}}),
            "datasets.train.dataroot_gt: expected bundled:train or bundled:val, found 'bundled:test'",
        ),
        (
            options(datasets={"train": {**SR, **PATCHES, "dataroot_lq": ["a", "b"]}}),
            "datasets.train.dataroot_lq: expected as many folders as dataroot_gt (1), found 2",
        ),
        (
            options(
                datasets={"train": {**SR, **PATCHES, "dataroot_lq": "b", "filename_tmpl": "x4"}}
            ),
            "datasets.train.filename_tmpl: expected {} where the name goes, found 'x4'",
        ),
        (
            noise({"sigma": None}),
            "datasets.train.sigma: NoiseDataset expects a noise level (0-255 scale), found none",
        ),
        (noise(val={"sigma": None}), "datasets.val.sigma: NoiseDataset expects a noise level"),
        (
            noise({"sigma": [50.0, 5.0]}),
            "datasets.train.sigma: expected [lowest, highest], found [50.0, 5.0]",
        ),
        (
            options(datasets={"train": {**NOISE, **PATCHES}}),
            "datasets.train.type: NoiseDataset expects scale: 1, found 2",
        ),
        (
            options(train={"scheduler": {"type": "multistep"}}),
            "train.scheduler.milestones: multistep expects iterations at which the rate falls, found none",
        ),
        (
            hsn(parametrization="full"),
            "compress.parametrization: method hsn expects factored, found full",
        ),
        (
            hsn(dense_iter=0),
            "compress.dense_iter: method hsn leaves the weights as they are",
        ),
        (
            options(compress={"scheduler": {"type": "multistep", "milestones": [3, 2]}}),
            "compress.scheduler.milestones: expected rising iterations, found [3, 2]",
        ),
    ],
)
def test_contradictions(given, expected):
    assert any(text.startswith(expected) for text in found(problems(given))), found(problems(given))


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
    assert len(problems(given)) == 4


@pytest.mark.parametrize(
    "given",
    [
        options(compress={"distill": {}, "dense_iter": 5}),
        options(compress={"distill": {"teacher": "x.safetensors"}}),
        options(compress={"distill": {}}, path={"pretrain_network_g": "x.pth"}),
    ],
)
def test_a_teacher_from_any_of_three_places(given):
    assert problems(given) == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            options(train={"scheduler": {"gamma": 0.1}}),
            "train.scheduler.gamma: has no effect with type: cosine",
        ),
        (
            options(compress={"scheduler": {"type": "constant", "eta_min": 0.1}}),
            "compress.scheduler.eta_min: has no effect with type: constant",
        ),
        (
            options(train={"optim_g": {"type": "SGD", "lr": 0.1, "betas": [0.5, 0.9]}}),
            "train.optim_g.betas: has no effect with type: SGD",
        ),
        (
            options(train={"optim_g": {"lr": 0.1, "momentum": 0.5}}),
            "train.optim_g.momentum: has no effect with type: Adam",
        ),
        (
            options(datasets={"train": {**SR, **PATCHES, "sigma": 5.0}}),
            "datasets.train.sigma: has no effect, SRDataset adds no noise",
        ),
        (
            options(datasets={"train": {**SR, **PATCHES}, "val": {**SR, "noise_seed": 1}}),
            "datasets.val.noise_seed: has no effect, SRDataset adds no noise",
        ),
        (
            options(datasets={"train": {**SR, **PATCHES, "filename_tmpl": "{}x4"}}),
            "datasets.train.filename_tmpl: has no effect without dataroot_lq",
        ),
        (
            noise({"dataroot_lq": "b"}),
            "datasets.train.dataroot_lq: has no effect, NoiseDataset makes its inputs itself",
        ),
        (
            options(compress={"dhp": {"penalty": 0.5}}),
            "compress.dhp.penalty: has no effect, which preset paper alone reads",
        ),
        (
            options(compress={"latency_threads": 2}),
            "compress.latency_threads: has no effect with a target of macs",
        ),
        (
            options(compress={"hsn": {"lr": 1e-2}}),
            "compress.hsn: has no effect with method: dhp",
        ),
        (
            options(compress={"method": "uniform", "dhp": {"cost_exponent": 0.5}}),
            "compress.dhp: has no effect with method: uniform",
        ),
        (hsn(preset="paper"), "compress.preset: has no effect with method: hsn"),
        (
            hsn({"penalty": 4.0, "gradient_balance": 2.0}),
            "compress.hsn.gradient_balance: has no effect beside a fixed penalty",
        ),
        (
            hsn({"layer_scaling": "none", "scaling_lr": 0.1}),
            "compress.hsn.scaling_lr: has no effect with layer_scaling: none",
        ),
        (
            options(
                compress={
                    "preset": "paper",
                    "parametrization": "full",
                    "dhp": {"cost_exponent": 0.5},
                }
            ),
            "compress.dhp.cost_exponent: has no effect, for preset paper has no width prior",
        ),
        (
            options(
                compress={
                    "method": "prior_widths",
                    "dhp": {"cost_exponent": 0.5, "latent_lr": 0.1},
                }
            ),
            "compress.dhp.latent_lr: has no effect, which preset paper alone reads",
        ),
    ],
)
def test_settings_without_effect(given, expected):
    assert found(idle_settings(given)) == [expected]


def test_the_file_and_the_line_are_named(tmp_path):
    from dhp_sr.config import dump_options, load_options

    path = tmp_path / "run.yml"
    path.write_text(dump_options(options(train={"scheduler": {"gamma": 0.1}})))
    with pytest.warns(
        UserWarning, match=r"run.yml: train.scheduler.gamma \(line \d+\): has no effect"
    ):
        load_options(path)
