"""Reading option files: values, lines, mistakes reported together, and the way back to text."""

import copy
import math

import pytest
import yaml

from dhp_sr.config import dump_options, load_options, resolve_path, resolve_paths, run_path
from dhp_sr.utils.errors import UserError

GOOD = {
    "name": "trial",
    "scale": 4,
    "network_g": {"type": "HyperEDSR", "num_feat": 32, "upscale": 4},
    "datasets": {
        "train": {
            "type": "SRDataset",
            "dataroot_gt": ["a", "b"],
            "gt_size": 128,
            "batch_size_per_gpu": 16,
        },
        "val": {"type": "SRDataset", "dataroot_gt": "bundled:val"},
    },
    "compress": {"target": {"macs": 0.5}, "dense_iter": 10, "search_iter": 10},
    "train": {"total_iter": 100, "optim_g": {"lr": 1e-3}},
}


def changed(changes):
    """GOOD with {"a.b": value} put in; `...` removes the key."""
    raw = copy.deepcopy(GOOD)
    for path, value in changes.items():
        *above, last = path.split(".")
        section = raw
        for key in above:
            section = section.setdefault(key, {})
        if value is ...:
            del section[last]
        else:
            section[last] = value
    return raw


@pytest.fixture
def write(tmp_path):
    def write_file(content):
        path = tmp_path / "run.yml"
        path.write_text(
            content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
        )
        return path

    return write_file


def refusal(path, *overrides):
    with pytest.raises(UserError) as caught:
        load_options(path, overrides)
    text = str(caught.value)
    assert "pydantic" not in text and "http" not in text and "Value error" not in text
    return text


def test_values_and_defaults(write):
    options = load_options(write(GOOD))
    assert options.network_g.arguments == {"num_feat": 32, "upscale": 4}
    assert (options.compress.target.kind, options.compress.target.keep_ratio) == ("macs", 0.5)
    assert options.datasets["train"].gt_size == 128
    assert options.datasets["val"].crop_border is None
    assert options.train.optim_g.lr == 1e-3


@pytest.mark.parametrize(
    "text", ["1e-4", "1.e-4", "1E-4", "+1e-4", ".1e-3", "!!float 1e-4", "0.0001", "1_0e-5"]
)
def test_numbers_as_people_write_them(write, text):
    path = write(yaml.safe_dump(GOOD).replace("lr: 0.001", f"lr: {text}"))
    assert math.isclose(load_options(path).train.optim_g.lr, 1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"compress": ...},
        {
            "compress.distill": {},
            "network_g": {"type": "Hyper", "network": {"type": "RCAN", "names": ["yes", "1e-4"]}},
        },
        {
            "compress.scheduler": {"type": "multistep", "milestones": [5], "gamma": 0.1},
            "train.optim_g.type": "SGD",
        },
    ],
)
def test_dump_loads_again_to_the_same(write, changes):
    options = load_options(write(changed(changes)))
    assert load_options(write(dump_options(options))) == options


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            "a: 1\nb: 2\na: 3\n",
            "line 3, column 1: expected YAML, found: the key 'a' twice (first on line 1)",
        ),
        ("x:\n  b: 1\n  b: 2\n", "line 3, column 3"),
        ("a: [1\nb: 2\n", "line 2"),
        ("a: 1\n b: 2\n", "line 2"),
        ("- a\n", "line 1: expected a mapping of option keys"),
        ("", "found nothing"),
        ("a: !!python/object/apply:os.getcwd []\n", "line 1, column 4"),
        ("--- 1\n--- 2\n", "found another document"),
        ("? [1]\n: 2\n", "unhashable"),
        ("a: \x00", "expected YAML"),
    ],
)
def test_text_that_is_no_option_file(write, content, expected):
    assert expected in refusal(write(content))


def test_missing_and_unreadable_files(tmp_path):
    assert "nosuch.yml: expected an option file, found nothing there" in refusal(
        tmp_path / "nosuch.yml"
    )
    assert "expected a readable text file" in refusal(tmp_path)
    (tmp_path / "latin.yml").write_bytes(b"name: caf\xe9\n")
    assert "expected a readable text file" in refusal(tmp_path / "latin.yml")


def test_all_mistakes_in_one_message_with_their_lines(write):
    raw = changed(
        {
            "scal": 4,
            "datasets.train.gt_siz": 3,
            "datasets.val.type": "SRDatase",
            "datasets.tset": {},
            "compress.target.macs": 1.5,
            "compress.search_iter": -1,
            "train.total_iter": 1e5,
            "train.optim_g.lr": math.nan,
            "train.optim_g.type": "adam",
            "network_g.type": ...,
        }
    )
    path = write(raw)
    text = refusal(path)
    assert "10 mistakes in the options" in text
    lines = path.read_text().splitlines()
    line = next(number for number, content in enumerate(lines, 1) if "macs" in content)
    for expected in [
        "scal (line ",
        "unknown key (did you mean 'scale'?)",
        "unknown key (did you mean 'gt_size'?)",
        "expected one of 'SRDataset', 'NoiseDataset', 'ClassificationDataset', found 'SRDatase' "
        "(did you mean 'SRDataset'?)",
        "expected the key train, val or val_..., found 'tset'",
        f"compress.target.macs (line {line}): expected a number above 0 and at most 1, found 1.5",
        "expected a whole number at least 0, found -1",
        "expected a whole number above 0, found 100000.0 (write 100000)",
        "expected a number above 0, found nan",
        "expected one of 'Adam', 'AdamW', 'Muon', 'SGD', found 'adam' (did you mean 'Adam'?)",
        "network_g.type (line 3): expected text, found no such key",
    ]:
        assert expected in text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"compress.target.macs": 0}, "expected a number above 0 and at most 1, found 0"),
        ({"compress.target.macs": "50%"}, "expected a number above 0 and at most 1, found '50%'"),
        (
            {"compress.target.params": 0.5},
            "expected exactly one of macs, params, latency, found macs and params",
        ),
        (
            {"compress.target.macs": ...},
            "expected exactly one of macs, params, latency, found none",
        ),
        (
            {"datasets.train": ...},
            "datasets.train (line 7): expected a training set, found no such key",
        ),
        ({"datasets": [1]}, "expected a section, found [1]"),
        ({"datasets.val": 3}, "datasets.val (line 15): expected a section, found 3"),
        (
            {"datasets.train.dataroot_gt": []},
            "expected text or a list (each: text) of 1 or more, found []",
        ),
        ({"datasets.train.use_rot": "yes"}, "expected true or false, found 'yes'"),
        (
            {"train.optim_g.betas": [0.9]},
            "expected a list (each: a number at least 0 and below 1) of 2, found [0.9]",
        ),
        ({"num_gpu": -1}, "expected 'auto' or a whole number at least 0, found -1"),
        ({"scale": 5}, "expected one of 1, 2, 3, 4, found 5"),
        (
            {"path": None},
            "expected a section with keys of pretrain_network_g, experiments_root, found nothing",
        ),
    ],
)
def test_wrong_values(write, changes, expected):
    assert expected in refusal(write(changed(changes)))


def test_one_target_or_a_list(write):
    (one,) = load_options(write(GOOD), ["compress.target={latency: 0.4}"]).compress.targets
    assert (one.kind, one.keep_ratio, one.label) == ("latency", 0.4, "latency0.4")
    path = write(changed({"compress.target": [{"macs": 0.2}, {"macs": 0.55}]}))
    assert [target.label for target in load_options(path).compress.targets] == [
        "macs0.55",
        "macs0.2",
    ]
    copy = path.with_name("copy.yml")
    copy.write_text(dump_options(load_options(path)))
    assert load_options(copy) == load_options(path)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (
            [{"macs": 0.5}, {"params": 0.3}],
            "compress.target (line 19): expected targets of one kind, found macs and params",
        ),
        ([{"macs": 0.5}, {"macs": 0.5}], "expected different targets, found macs0.5, macs0.5"),
        (
            [],
            "or a list (each: a section with keys of macs, params, latency) of 1 or more, found []",
        ),
        (
            [{"macs": 2}],
            "compress.target.macs (line 19): expected a number above 0 and at most 1, found 2",
        ),
        ([{"macz": 0.5}], "unknown key (did you mean 'macs'?)"),
        ([{}], "expected exactly one of macs, params, latency, found none"),
        (
            0.5,
            "compress.target (line 19): expected a section with keys of macs, params, latency or a list",
        ),
    ],
)
def test_wrong_targets(write, target, expected):
    assert expected in refusal(write(changed({"compress.target": target})))


def test_overrides_are_yaml(write):
    options = load_options(
        write(GOOD),
        [
            "compress.target={params: 0.3}",
            "train.optim_g.lr=1e-4",
            "datasets.train.dataroot_gt=[x, y]",
            "path.pretrain_network_g=~",
            "path.experiments_root=runs=1",
            "datasets.val_2={type: SRDataset, dataroot_gt: z}",
            "compress.distill.weight=2",
        ],
    )
    assert options.compress.target.keep_ratio == 0.3 and options.compress.target.kind == "params"
    assert options.train.optim_g.lr == 1e-4
    assert (
        options.datasets["train"].dataroot_gt == ["x", "y"]
        and options.datasets["val_2"].dataroot_gt == "z"
    )
    assert options.path.pretrain_network_g is None and options.path.experiments_root == "runs=1"
    assert options.compress.distill.weight == 2
    assert load_options(write(GOOD), ["compress=~"]).compress is None


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "compress.targte.macs=0.4",
            "compress.targte (--set): unknown key (did you mean 'target'?)",
        ),
        ("trian.total_iter=3", "trian (--set): unknown key (did you mean 'train'?)"),
        (
            "compress.target.macs=2",
            "compress.target.macs (--set): expected a number above 0 and at most 1, found 2",
        ),
        ("name.x=1", "--set name.x=1: expected a section above 'x', found 'trial'"),
        ("name", "--set: expected section.key=value, found 'name'"),
        ("=3", "--set: expected section.key=value"),
        ("a..b=3", "--set: expected section.key=value"),
        ("name=[", "--set name, line 1"),
        ("name=!!python/name:os.getcwd", "--set name, line 1"),
    ],
)
def test_wrong_overrides(write, override, expected):
    assert expected in refusal(write(GOOD), override)


def test_paths_lead_from_the_working_directory_first(tmp_path, monkeypatch, write):
    root, here = tmp_path / "root", tmp_path / "here"
    for folder in (root / "both", root / "one", here / "both"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    assert resolve_path(root, "both") == str(here / "both")
    assert resolve_path(root, "one") == str(root / "one")
    assert resolve_path(root, "neither") == str(root / "neither")
    assert resolve_path(root, str(here / "x")) == str(here / "x")
    assert resolve_path(root, "bundled:val") == "bundled:val"
    raw = changed(
        {"datasets.train.dataroot_gt": ["both", "one"], "compress.distill": {"teacher": "one"}}
    )
    options = resolve_paths(load_options(write(raw)), root)
    assert options.datasets["train"].dataroot_gt == [str(here / "both"), str(root / "one")]
    assert options.datasets["val"].dataroot_gt == "bundled:val"
    assert options.compress.distill.teacher == str(root / "one")


@pytest.mark.parametrize(
    ("root", "expected"),
    [("~/runs", "home/runs/trial"), ("runs", "project/runs/trial"), ("/runs", "/runs/trial")],
)
def test_where_a_run_writes(tmp_path, monkeypatch, write, root, expected):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    options = load_options(write(GOOD), [f"path.experiments_root={root}"])
    assert run_path(options, tmp_path / "project") == tmp_path / expected
