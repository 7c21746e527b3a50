"""Reading option files: values, lines, mistakes reported together, and the way back to text."""

import copy
import math
import os

import pytest
import yaml

from dhp_sr.config import dump_options, load_options, resolve_path, resolve_paths, run_path
from dhp_sr.train import main
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


def test_missing_and_unreadable_files(tmp_path):
    assert "nosuch.yml" in refusal(tmp_path / "nosuch.yml")
    assert str(tmp_path) in refusal(tmp_path)
    (tmp_path / "latin.yml").write_bytes(b"name: caf\xe9\n")
    assert "latin.yml" in refusal(tmp_path / "latin.yml")
    (tmp_path / "list.yml").write_text("- a\n")
    assert "list.yml, line 1" in refusal(tmp_path / "list.yml")


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
    header, *mistakes = refusal(path).splitlines()
    assert "10 mistakes" in header
    line_of = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        line_of.setdefault(line.split(":")[0].strip(), number)
    expected = {
        f"scal (line {line_of['scal']})": "'scale'",
        f"datasets.train.gt_siz (line {line_of['gt_siz']})": "'gt_size'",
        "datasets.val.type": "got 'SRDatase' (did you mean 'SRDataset'?)",
        f"datasets.tset (line {line_of['tset']})": "'tset'",
        f"compress.target.macs (line {line_of['macs']})": "a number above 0 and at most 1",
        f"compress.search_iter (line {line_of['search_iter']})": "got -1",
        f"train.total_iter (line {line_of['total_iter']})": "(write 100000)",
        f"train.optim_g.lr (line {line_of['lr']})": "got nan",
        "train.optim_g.type": "got 'adam' (did you mean 'Adam'?)",
        f"network_g.type (line {line_of['network_g']})": "got no such key",
    }
    for place, fact in expected.items():
        (mistake,) = [text for text in mistakes if text.strip().startswith(place)]
        assert fact in mistake


@pytest.mark.parametrize(
    "key, value, advice",
    [("scale", "2", "(write 2, without"), ("train.optim_g.lr", "0.001", "(write 0.001, without")],
)
def test_numbers_in_quotes_get_advice(write, key, value, advice):
    assert advice in refusal(write(changed({key: value})))


def test_names_that_no_folder_can_have(write):
    assert "at most 200 bytes" in refusal(write(changed({"name": "é" * 101})))


def test_an_unknown_network_is_reported_beside_other_mistakes(write):
    path = write(changed({"scal": 4, "compress.search_iter": 200}))

    def check(name):
        return None if name == "HyperEDSR" else f"{name} is unknown"

    assert "network_g" not in refusal(path)
    with pytest.raises(UserError, match="is unknown") as caught:
        load_options(path, ["network_g.type=HyperEDSQ"], check_network=check)
    assert "network_g.type (--set): HyperEDSQ" in str(caught.value)
    assert "scal (line" in str(caught.value)
    good = write(GOOD)
    assert load_options(good, check_network=check).network_g.type == "HyperEDSR"
    with pytest.raises(UserError, match="HyperEDSQ is unknown"):
        load_options(good, ["network_g.type=HyperEDSQ"], check_network=check)


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"compress.target.macs": 0}, ["compress.target.macs", "above 0", "got 0"]),
        ({"compress.target.macs": "50%"}, ["a number", "'50%'"]),
        ({"compress.target.params": 0.5}, ["compress.target", "macs and params"]),
        (
            {"compress.target.macs": ...},
            ["compress.target", "macs, params, activations, latency", "none"],
        ),
        ({"datasets.train": ...}, ["datasets.train (line 7)"]),
        ({"datasets": [1]}, ["datasets (line", "got [1]"]),
        ({"datasets.val": 3}, ["datasets.val (line 15)", "a section", "got 3"]),
        ({"datasets.train.dataroot_gt": []}, ["datasets.train.dataroot_gt", "of 1 or more"]),
        ({"datasets.train.use_rot": "yes"}, ["true or false", "'yes'"]),
        ({"train.optim_g.betas": [0.9]}, ["each: a number at least 0 and below 1", "of 2"]),
        ({"num_gpu": -1}, ["num_gpu", "'auto'", "at least 0", "-1"]),
        ({"scale": 5}, ["scale", "1, 2, 3, 4", "got 5"]),
        (
            {"datasets.val": {"type": "ClassificationDataset", "dataroot": "a", "crop_border": 4}},
            ["datasets.val.crop_border (line", "unknown key"],
        ),
        ({"train.cls_opt": {"type": "L1Loss"}}, ["train.cls_opt.type", "CrossEntropyLoss"]),
        ({"train.cls_opt": {"label_smoothing": 1.0}}, ["train.cls_opt.label_smoothing", "below 1"]),
        ({"name": False}, ["name (line 1)", "got false", "no and off", "in quotes"]),
        ({"name": True}, ["name (line 1)", "got true", "yes and on", "in quotes"]),
        ({"name": 2026}, ["name (line 1)", "got 2026", "number", "in quotes"]),
        ({"datasets.train.dataroot_gt": ["a", 5]}, ["dataroot_gt", "got 5", "in quotes"]),
        ({"datasets.train.cache": False}, ["datasets.train.cache", "got false", "write none"]),
        ({"path": None}, ["path", "pretrain_network_g, experiments_root", "nothing"]),
        ({"model_type": "SRModel"}, ["model_type", "'DHPModel'", "'SRModel'"]),
    ],
)
def test_wrong_values(write, changes, facts):
    text = refusal(write(changed(changes)))
    assert [fact for fact in facts if fact not in text] == []


def test_text_in_the_quotes_that_the_messages_say(write):
    path = write(yaml.safe_dump(GOOD, sort_keys=False).replace("name: trial", "name: 'no'"))
    assert load_options(path).name == "no"
    assert load_options(path, ['name="2026"']).name == "2026"


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
    ("target", "facts"),
    [
        ([{"macs": 0.5}, {"params": 0.3}], ["compress.target (line 19)", "macs and params"]),
        ([{"macs": 0.5}, {"macs": 0.5}], ["compress.target", "macs0.5, macs0.5"]),
        ([], ["compress.target", "macs, params, activations, latency", "of 1 or more"]),
        ([{"macs": 2}], ["compress.target.macs (line 19)", "at most 1", "got 2"]),
        ([{"macz": 0.5}], ["compress.target.macz", "'macs'"]),
        ([{}], ["compress.target", "macs, params, activations, latency", "none"]),
        (0.5, ["compress.target (line 19)", "macs, params, activations, latency", "0.5"]),
    ],
)
def test_wrong_targets(write, target, facts):
    text = refusal(write(changed({"compress.target": target})))
    assert [fact for fact in facts if fact not in text] == []


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
    ("override", "facts"),
    [
        ("compress.targte.macs=0.4", ["compress.targte (--set)", "'target'"]),
        ("trian.total_iter=3", ["trian (--set)", "'train'"]),
        ("compress.target.macs=2", ["compress.target.macs (--set)", "at most 1", "got 2"]),
        ("name.x=1", ["--set name.x=1", "'trial'"]),
        ("name", ["--set", "'name'"]),
        ("=3", ["--set", "'=3'"]),
        ("a..b=3", ["--set", "'a..b=3'"]),
        ("name=[", ["--set name, line 1"]),
        ("name=!!python/name:os.getcwd", ["--set name, line 1"]),
        ("base=other.yml", ["base (--set)"]),
        ("name=no", ["name (--set)", "got false", "of the shell"]),
    ],
)
def test_wrong_overrides(write, override, facts):
    text = refusal(write(GOOD), override)
    assert [fact for fact in facts if fact not in text] == []


def write_based(tmp_path, base, raw):
    """Write a file and, in a folder beside it, the file that it is based on."""
    (tmp_path / "shared").mkdir(exist_ok=True)
    (tmp_path / "shared" / "base.yml").write_text(yaml.safe_dump(base, sort_keys=False))
    path = tmp_path / "run.yml"
    path.write_text(yaml.safe_dump({"base": "shared/base.yml", **raw}, sort_keys=False))
    return path


def test_a_file_based_on_another(tmp_path, monkeypatch):
    raw = {
        "name": "other",
        "network_g": {"num_feat": 16},
        "datasets": {"train": {"dataroot_gt": ["c"]}},
        "compress": {"target": {"macs": None, "params": 0.3}},
    }
    path = write_based(tmp_path, GOOD, raw)
    monkeypatch.chdir("/")  # `base` is relative to the file, not to the working directory
    options = load_options(path, ["train.total_iter=50"])
    assert options.name == "other" and options.train.total_iter == 50
    assert options.network_g.arguments == {"num_feat": 16, "upscale": 4}
    assert options.datasets["train"].dataroot_gt == ["c"]  # lists are replaced, not joined
    assert options.datasets["train"].gt_size == 128
    assert options.compress.targets[0].label == "params0.3"
    dumped = tmp_path / "dumped.yml"
    dumped.write_text(dump_options(options))
    assert "base" not in yaml.safe_load(dumped.read_text())
    assert load_options(dumped) == options
    assert load_options(write_based(tmp_path, GOOD, {"compress": None})).compress is None


def test_mistakes_name_the_file_they_are_in(tmp_path):
    path = write_based(tmp_path, {**GOOD, "scal": 1}, {"train": {"total_iter": -1}})
    text = refusal(path)
    assert f"scal ({tmp_path / 'shared' / 'base.yml'}, line" in text
    assert "train.total_iter (line 3)" in text


@pytest.mark.parametrize(
    ("base", "facts"),
    [
        ("run.yml", ["base (line 1)", "'run.yml'"]),
        ("loop.yml", ["loop.yml: base (line 1)", "'run.yml'"]),
        ("none.yml", ["none.yml", "run.yml"]),
        ([1], ["base (line 1)", "[1]"]),
        (None, ["base (line 1)", "nothing"]),
    ],
)
def test_a_base_that_is_none(tmp_path, base, facts):
    (tmp_path / "loop.yml").write_text("base: run.yml\n")
    (tmp_path / "run.yml").write_text(yaml.safe_dump({"base": base, **GOOD}, sort_keys=False))
    text = refusal(tmp_path / "run.yml")
    assert [fact for fact in facts if fact not in text] == []


def test_paths_lead_from_the_working_directory_first(tmp_path, monkeypatch, write):
    root, here = tmp_path / "root", tmp_path / "here"
    for folder in (root / "both", root / "only", here / "both"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    assert resolve_path(root, "both") == str(here / "both")
    assert resolve_path(root, "only") == str(root / "only")
    assert resolve_path(root, "neither") == str(root / "neither")
    assert resolve_path(root, str(here / "x")) == str(here / "x")
    assert resolve_path(root, "bundled:val") == "bundled:val"
    assert resolve_path(root, "zoo:edsr_x4_half") == "zoo:edsr_x4_half"
    with pytest.raises(UserError, match="~nosuchuser"):
        resolve_path(root, "~nosuchuser/x")
    monkeypatch.setenv("PLACE", str(here))
    assert resolve_path(root, "$PLACE/both") == resolve_path(root, "${PLACE}/both")
    assert resolve_path(root, "$PLACE/both") == str(here / "both")
    assert resolve_path(root, "$NOWHERE/x") == str(root / "$NOWHERE/x")
    (here / "$PLACE").mkdir()
    assert resolve_path(root, "$PLACE") == str(here / "$PLACE")
    raw = changed(
        {"datasets.train.dataroot_gt": ["both", "only"], "compress.distill": {"teacher": "only"}}
    )
    options = resolve_paths(load_options(write(raw)), root)
    assert options.datasets["train"].dataroot_gt == [str(here / "both"), str(root / "only")]
    assert options.datasets["val"].dataroot_gt == "bundled:val"
    assert options.datasets["val"].dataroot_lq is None
    assert options.compress.distill.teacher == str(root / "only")


def test_paths_that_a_run_could_not_store(tmp_path, monkeypatch, write):
    """Bytes that are no UTF-8: safetensors would refuse them at the end of the run."""
    options = load_options(write(GOOD))
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    with pytest.raises(UserError, match="UTF-8"):
        run_path(options, folder)
    with pytest.raises(UserError, match="UTF-8"):
        resolve_paths(options, folder)
    monkeypatch.setenv("DHP_SR_DATA", folder)
    with pytest.raises(UserError, match="UTF-8"):
        resolve_path(tmp_path, "datasets/x", folder)
    named = tmp_path / "\N{GREEK SMALL LETTER ALPHA} b"
    assert run_path(options, named) == named / "experiments" / "trial"


def test_one_setting_moves_all_data(tmp_path, monkeypatch, write):
    raw = changed(
        {
            "datasets.train.dataroot_gt": ["datasets/T91", "elsewhere/B", "/datasets/C"],
            "path.pretrain_network_g": "datasets/weights/x.pth",
        }
    )

    def resolved(*overrides):
        options = resolve_paths(load_options(write(raw), overrides), tmp_path / "project")
        return [*options.datasets["train"].dataroot_gt, options.path.pretrain_network_g]

    project = str(tmp_path / "project")
    rest = [f"{project}/elsewhere/B", "/datasets/C"]
    monkeypatch.delenv("DHP_SR_DATA", raising=False)
    expected = [f"{project}/datasets/T91", *rest, f"{project}/datasets/weights/x.pth"]
    assert resolved() == expected
    monkeypatch.setenv("DHP_SR_DATA", "/images")
    assert resolved() == ["/images/T91", *rest, "/images/weights/x.pth"]
    expected = [f"{project}/mine/T91", *rest, f"{project}/mine/weights/x.pth"]
    assert resolved("data_root=mine") == expected


@pytest.mark.parametrize(
    ("root", "expected"),
    [("~/runs", "home/runs/trial"), ("runs", "project/runs/trial"), ("/runs", "/runs/trial")],
)
def test_where_a_run_writes(tmp_path, monkeypatch, write, root, expected):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    options = load_options(write(GOOD), [f"path.experiments_root={root}"])
    assert run_path(options, tmp_path / "project") == tmp_path / expected


def test_the_command_reports_unknown_names_and_values_together(write, capsys):
    names = ["network_g.type=HyperEDSQ", "compress.method=dph", "model_type=DHPModl", "scale=7"]
    assert main(["-opt", str(write(GOOD)), "--set", *names]) == 2
    message = capsys.readouterr().err
    assert "4 mistakes" in message
    for suggestion in ("'HyperEDSR'", "'dhp'", "'DHPModel'", "got 7"):
        assert suggestion in message


def test_a_base_that_is_no_file_is_neither_waited_for_nor_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for base in ("pipe", "/dev/zero", "."):
        (tmp_path / "run.yml").write_text(f"base: {base}\n")
        with pytest.raises(UserError, match="got a folder, a pipe or a device; named as base of"):
            load_options(tmp_path / "run.yml")


def test_an_option_file_is_read_up_to_its_limit():
    """Endless ones, too: nothing is read beyond."""
    with pytest.raises(UserError, match=r"characters of YAML|special characters"):
        load_options("/dev/zero")


def test_an_option_file_may_come_from_a_pipe(tmp_path):
    raw = yaml.safe_dump(GOOD, sort_keys=False).encode()
    read, write = os.pipe()
    os.write(write, raw)
    os.close(write)
    try:
        assert load_options(f"/dev/fd/{read}").name == GOOD["name"]
    finally:
        os.close(read)
