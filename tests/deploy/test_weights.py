"""deploy/weights.py: weights of other projects are read, and no code is run."""

import os
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from dhp_sr.archs import build
from dhp_sr.deploy import ModelFileError, load_into, load_weights, save_model
from dhp_sr.deploy import weights as weights_module


def state():
    return build("EDSR", num_feat=4, num_block=1, upscale=2).state_dict()


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: weights,
        lambda weights: {"params": weights},
        lambda weights: {"params": {"old": torch.zeros(1)}, "params_ema": weights},
        lambda weights: {
            "state_dict": {f"module.{key}": value for key, value in weights.items()},
            "epoch": 3,
        },
    ],
    ids=["bare", "params", "params_ema wins", "state_dict of DataParallel"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_pth_files(tmp_path, wrap, zipped):
    weights = state()
    torch.save(wrap(weights), tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)
    network = build("EDSR", num_feat=4, num_block=1, upscale=2)
    load_into(network, load_weights(tmp_path / "net.pth"))
    assert same(network.state_dict(), weights)


def below(prefix):
    return lambda weights: {f"{prefix}{key}": value for key, value in weights.items()}


def beside(prefix, **others):
    return lambda weights: {**below(prefix)(weights), **others}


def with_average(prefix, average):
    """The network with other weights, and its average with the right ones."""

    def wrap(weights):
        other = {f"{prefix}{key}": value + 1 for key, value in weights.items()}
        return {**other, **below(average)(weights)}

    return wrap


COUNTER = {"n_averaged": torch.tensor(3)}
PREFIXED = {
    "torch.compile": below("_orig_mod."),
    "DataParallel of it": below("module._orig_mod."),
    "Lightning": below("model."),
    "Lightning with a loss": beside("model.", **{"loss.weight": torch.zeros(3)}),
    "mmagic": beside("generator.", **{"discriminator.0.weight": torch.zeros(3)}),
    "mmagic's average": with_average("generator.", "generator_ema."),
    "Lightning's average": with_average("model.", "ema_model.module."),
    "AveragedModel": beside("module.", **COUNTER),
    "AveragedModel in another": beside("ema.module.", **{"ema.n_averaged": torch.tensor(3)}),
    "a name of its own": beside("my.sr_net.", **{"my.other.weight": torch.zeros(2)}),
}


@pytest.mark.filterwarnings("ignore:EDSR. weights below:UserWarning")
@pytest.mark.parametrize("kind", PREFIXED)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_prefixes_are_taken_away(tmp_path, kind, suffix):
    weights = state()
    path = tmp_path / f"net.{suffix}"
    wrapped = PREFIXED[kind](weights)
    if suffix == "pth":
        torch.save({"state_dict": wrapped, "epoch": 3}, path)
    else:
        save_file({key: value.clone() for key, value in wrapped.items()}, path)
    network = build("EDSR", num_feat=4, num_block=1, upscale=2)
    assert load_into(network, load_weights(path)) == ()
    assert same(network.state_dict(), weights)


def test_what_is_left_out_beside_a_prefix_is_said():
    network = build("EDSR", num_feat=4, num_block=1, upscale=2)
    wrapped = PREFIXED["mmagic"](state())
    with pytest.warns(UserWarning, match=r"below 'generator\.'; 1 keys beside them left out"):
        load_into(network, wrapped)


def test_several_prefixes_that_fit_are_named():
    network = build("EDSR", num_feat=4, num_block=1, upscale=2)
    wrapped = {**below("first.")(state()), **below("second.")(state())}
    with pytest.raises(ModelFileError, match=r"'first\.', 'second\.'"):
        load_into(network, wrapped)


def test_a_prefix_that_does_not_fit_is_named():
    network = build("EDSR", num_feat=8, num_block=2, upscale=2)
    with pytest.raises(ModelFileError, match="the keys begin with sr, expected conv_first"):
        load_into(network, below("sr.")(state()))


WRAPPERS = {
    "timm": lambda weights: {"state_dict": {"a": torch.zeros(1)}, "state_dict_ema": weights},
    "model": lambda weights: {"model": weights, "optimizer": {"state": {}, "param_groups": []}},
    "optimizer": lambda weights: {
        "model_state_dict": weights,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(1)}}, "param_groups": [{"lr": 1}]},
    },
    "nested": lambda weights: {"ema": {"module": weights}, "model": {"a": torch.zeros(1)}},
    "a key of its own": lambda weights: {"my_network": weights, "epoch": 3},
}


@pytest.mark.parametrize("kind", WRAPPERS)
def test_dictionaries_around_the_weights(tmp_path, kind):
    weights = state()
    torch.save(WRAPPERS[kind](weights), tmp_path / "net.pth")
    assert same(load_weights(tmp_path / "net.pth"), weights)


def test_several_dictionaries_that_say_nothing_are_named(tmp_path):
    torch.save({"one": state(), "two": state()}, tmp_path / "net.pth")
    with pytest.raises(ModelFileError, match="one, two"):
        load_weights(tmp_path / "net.pth")


@pytest.mark.parametrize("value", [float("nan")])
def test_weights_that_are_no_numbers_are_refused(value):
    network, weights = build("EDSR", num_feat=4, num_block=1, upscale=2), state()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    weights["conv_last.weight"][0, 0, 0, 0] = value
    with pytest.raises(ModelFileError, match=r"NaN .*conv_last\.weight \(1 of 108\)"):
        load_into(network, weights)
    assert same(network.state_dict(), before)


def test_safetensors_of_others_and_of_ours(tmp_path):
    network = build("EDSR", num_feat=4, num_block=1, upscale=2)
    save_file(network.state_dict(), tmp_path / "plain.safetensors")
    save_model(network, tmp_path / "ours.safetensors")
    for name in ("plain", "ours"):
        found = load_weights(tmp_path / f"{name}.safetensors")
        assert same(dict(sorted(found.items())), dict(sorted(network.state_dict().items())))


class Bomb:
    """A pickle that leaves a trace when it is loaded."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    content = {"params": state(), "hook": Bomb(tmp_path / "trace")}
    for protocol in (2, 4):
        torch.save(content, tmp_path / "net.pth", pickle_protocol=protocol)
        with pytest.raises(ModelFileError, match=r"net\.pth: .*posix\.mkdir.*state_dict"):
            load_weights(tmp_path / "net.pth")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(2), "Tensor"),
        ({}, "dict"),
        ({"a": torch.zeros(1), "epoch": "third"}, "at epoch"),
        ({"params": {"a": 1}}, "at a$"),
    ],
)
def test_files_without_weights(tmp_path, content, message):
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(ModelFileError, match=message):
        load_weights(tmp_path / "net.pth")


def test_damaged_files(tmp_path):
    torch.save(state(), tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"hello, this is text"):
        (tmp_path / "net.pth").write_bytes(damaged)
        with pytest.raises(ModelFileError, match=r"net\.pth: "):
            load_weights(tmp_path / "net.pth")
    with pytest.raises(ModelFileError, match=r"none\.pth: "):
        load_weights(tmp_path / "none.pth")


def test_load_into_is_strict():
    network, weights = build("EDSR", num_feat=4, num_block=1, upscale=2), state()
    assert load_into(network, weights) == ()
    assert same(network.state_dict(), weights)
    weights["extra"] = torch.zeros(1)
    weights["conv_last.bias"] = torch.zeros(5)
    del weights["conv_first.bias"]
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ModelFileError, match="the weights do not fit EDSR") as error:
        load_into(network, weights)
    lines = [
        "missing: conv_first.bias",
        "unexpected: extra",
        "wrong shape: conv_last.bias: expected (3,), got (5,)",
    ]
    assert all(line in str(error.value) for line in lines)
    assert same(network.state_dict(), before)


def test_load_into_can_take_what_fits_and_says_what_it_left():
    network, weights = build("EDSR", num_feat=4, num_block=1, upscale=2), state()
    del weights["conv_first.bias"]
    assert load_into(network, weights, strict=False) == ("missing: conv_first.bias",)
    assert torch.equal(network.conv_first.weight, weights["conv_first.weight"])
    with pytest.raises(ModelFileError, match="unexpected: a"):
        load_into(network, {"a": torch.zeros(1)}, strict=False)


def test_keys_of_other_projects_are_renamed(monkeypatch):
    monkeypatch.setitem(weights_module.KEY_MAPS, "EDSR", ((r"^head\.", "conv_first."),))
    network, weights = build("EDSR", num_feat=4, num_block=1, upscale=2), state()
    theirs = {key.replace("conv_first.", "head."): value for key, value in weights.items()}
    assert load_into(network, theirs) == ()


def test_published_dncnn_fits(shared_weights):
    network = build("DnCNN", batch_norm=False)
    assert load_into(network, load_weights(shared_weights / "dncnn_25.pth")) == ()


def test_published_resnet_is_unwrapped(shared_weights):
    weights = load_weights(shared_weights / "resnet20-12fca82f.th")
    assert weights["conv1.weight"].shape == (16, 3, 3, 3)


class Filled:
    """Pickled as a call that allocates."""

    def __reduce__(self):
        return bytearray, (1000,)


@pytest.mark.parametrize("name", ["data.pkl", "DATA.PKL", "Data.pkl"])
def test_the_pickle_is_checked_whatever_the_case_of_its_name(tmp_path, name):
    """torch finds it in any case of letters."""
    torch.save({"weight": torch.zeros(2), "more": Filled()}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as old,
        zipfile.ZipFile(tmp_path / "x.pth", "w") as new,
    ):
        for entry in old.infolist():
            new.writestr(entry.filename.replace("data.pkl", name), old.read(entry))
    with pytest.raises(ModelFileError, match="bytearray"):
        load_weights(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<html><body>Sign in", "a web page"),
    ],
)
def test_files_that_a_download_left_are_named(tmp_path, content, kind):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(ModelFileError, match=f"expected a file of weights, got .*{kind}"):
        load_weights(tmp_path / "w.pth")


def test_numbers_among_the_weights_are_kept(tmp_path):
    """Such as the mode of Real-CUGAN, which spandrel tells by its key."""
    weights = {"a.weight": torch.zeros(2, 2), "pro": 1, "gain": 0.5}
    torch.save(weights, tmp_path / "w.pth")
    loaded = load_weights(tmp_path / "w.pth")
    assert loaded["pro"] == 1 and loaded["gain"] == 0.5
    torch.save({**weights, "note": "text"}, tmp_path / "w.pth")
    with pytest.raises(ModelFileError, match="something else at note"):
        load_weights(tmp_path / "w.pth")


def test_quantized_levels_are_no_weights(tmp_path):
    network = torch.nn.Conv2d(2, 2, 1)
    levels = {key: (127 * value).to(torch.int8) for key, value in network.state_dict().items()}
    with pytest.raises(ModelFileError, match=r"8 bits in 1 of 2 tensors: weight"):
        load_into(network, levels)
