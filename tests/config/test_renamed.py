"""Former names of option keys and values: still read, with a warning that says what to write."""

import warnings

import pytest
import yaml

from dhp_sr.config import dump_options, load_options
from dhp_sr.config.messages import _find_field
from dhp_sr.config.renamed import RENAMED, use_current_names
from dhp_sr.config.schema import Options
from dhp_sr.utils.errors import UserError

COMPRESS = {"target": {"macs": 0.5}, "search_iter": 10}


def raw_options(**compress):
    return {
        "name": "t",
        "scale": 2,
        "network_g": {"type": "EDSR"},
        "datasets": {
            "train": {
                "type": "SRDataset",
                "dataroot_gt": "a",
                "gt_size": 64,
                "batch_size_per_gpu": 2,
            }
        },
        "compress": {**COMPRESS, **compress},
        "train": {"total_iter": 100, "optim_g": {"lr": 0.1}},
    }


def write(tmp_path, **compress):
    path = tmp_path / "run.yml"
    path.write_text(yaml.safe_dump(raw_options(**compress)))
    return path


def test_the_former_spelling_of_gray_is_read_with_a_warning(tmp_path):
    raw = raw_options()
    raw["datasets"]["train"]["color"] = "grey"
    path = tmp_path / "run.yml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.warns(UserWarning, match="color: gray"):
        train = load_options(path).datasets["train"]
    assert (train.color, train.channels) == ("gray", 1)


@pytest.mark.parametrize(
    ("former", "current", "value", "said"),
    [
        ({"preset": "modern"}, ("preset",), "default", "preset: default"),
        ({"method": "lines"}, ("method",), "prior_widths", "method: prior_widths"),
        ({"parametrisation": "full"}, ("parametrization",), "full", "parametrization: full"),
        ({"keep_streams": True}, ("prune_residual",), False, "prune_residual: false"),
        ({"keep_streams": False}, ("prune_residual",), True, "prune_residual: true"),
        ({"price_power": 0.75}, ("dhp", "cost_exponent"), 0.75, "dhp.cost_exponent: 0.75"),
        ({"price_power": 0.75, "dhp": {}}, ("dhp", "cost_exponent"), 0.75, "cost_exponent"),
    ],
)
def test_a_former_name_is_read_and_the_warning_says_what_to_write(
    tmp_path, former, current, value, said
):
    path = write(tmp_path, **former)
    with pytest.warns(UserWarning) as caught:
        decoded = load_options(path).compress
    for key in current:
        decoded = getattr(decoded, key)
    assert decoded == value
    (message,) = [str(warning.message) for warning in caught]
    assert all(fact in message for fact in (next(iter(former)), said, str(path), "(line "))


def test_values_are_renamed_by_type_and_value():
    """1 equals True in Python; here it is no boolean, and the decoder has to say so."""
    raw, _ = use_current_names(raw_options(keep_streams=1))
    assert raw["compress"]["prune_residual"] == 1
    assert raw["compress"]["prune_residual"] is not True


def test_the_given_values_are_not_changed():
    given = raw_options(price_power=0.5)
    use_current_names(given)
    assert given == raw_options(price_power=0.5)


def test_null_of_a_former_key_meant_its_default(tmp_path):
    """Files that were dumped hold every key."""
    path = write(tmp_path, penalty=None, latent_lr=None, keep_streams=None, price_power=0.0)
    with pytest.warns(UserWarning):
        compress = load_options(path).compress
    with pytest.warns(UserWarning):
        assert compress == load_options(write(tmp_path, keep_streams=None)).compress
    assert compress.dhp.penalty == 0.1 and compress.prunes_residual


def test_both_names_of_a_key_are_a_mistake(tmp_path):
    path = write(tmp_path, price_power=0.5, dhp={"cost_exponent": 0.25}, method="dph")
    with pytest.raises(UserError) as error:
        load_options(path)
    message = str(error.value)
    assert "2 mistakes" in message and "compress.method" in message
    assert "compress.price_power (line" in message and "compress.dhp.cost_exponent" in message


@pytest.mark.parametrize("override", ["price_power=0.5", "dhp.cost_exponent=0.5"])
@pytest.mark.parametrize("in_file", [{"price_power": 0.25}, {"dhp": {"cost_exponent": 0.25}}])
def test_an_override_wins_under_either_name(tmp_path, override, in_file):
    path = write(tmp_path, **in_file)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        options = load_options(path, [f"compress.{override}"])
    assert options.compress.dhp.cost_exponent == 0.5


def test_values_that_do_not_come_from_a_file_are_translated_too():
    with pytest.warns(UserWarning, match=r"compress\.preset"):
        options = Options.model_validate(raw_options(preset="modern"))
    assert options.compress.preset == "default"


def test_no_name_of_today_is_a_former_one(tmp_path):
    path = tmp_path / "dumped.yml"
    path.write_text(dump_options(Options.model_validate(raw_options())))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_options(path)


def test_wildcards_stand_for_one_key(monkeypatch):
    from dhp_sr.config import renamed

    row = renamed.Renamed("datasets.*.colour", "datasets.*.color", {"grey": "gray"})
    monkeypatch.setattr(renamed, "RENAMED", (row,))
    given = {"datasets": {"train": {"colour": "grey"}, "val": {"colour": "rgb"}, "x": 1}}
    current, notices = use_current_names(given)
    assert current == {"datasets": {"train": {"color": "gray"}, "val": {"color": "rgb"}, "x": 1}}
    assert [keys for keys, _ in notices] == [
        ("datasets", "train", "colour"),
        ("datasets", "val", "colour"),
    ]
    assert renamed.former_name_of(("datasets", "val", "colour")) == "datasets.val.color"


def test_every_row_leads_to_a_key_of_the_schema():
    for row in RENAMED:
        _, field, _ = _find_field(row.current.replace("*", "train").split("."))
        assert field is not None, row.current


def test_an_unknown_method_is_reported_with_the_other_mistakes(tmp_path):
    with pytest.raises(UserError) as error:
        load_options(write(tmp_path, method="dph", round_to=0))
    message = str(error.value)
    assert "2 mistakes" in message and "compress.round_to" in message
    assert "'dph'" in message and "did you mean 'dhp'" in message
