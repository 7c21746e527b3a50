"""Channel groups as text: the plan of a network, and the widths after the cut."""

from dhp_sr.reports.plan import LINE_LENGTH, plan_text, widths_text, with_current_keys

WIDTHS = """\
Channel groups: 2, 51 of 67 channels kept

  group       before  after  kept
  input            3      3  100%  ########################  not pruned: input of the network
  conv_first      64     48   75%  ##################......

Layers: 2, channels as in -> out

  layer       kind     before    after  weights kept
  conv_first  Conv2d  3 -> 64  3 -> 48           75%
  conv_last   Conv2d  64 -> 3  48 -> 3           75%
"""


def test_widths(widths):
    assert widths_text(widths) == WIDTHS


def group(name, width, reason="", members=()):
    shares = {} if reason else {"macs": 0.25, "params": 0.125}
    return {
        "name": name,
        "width": width,
        "min_width": 8,
        "reason": reason,
        "members": [name, *members],
        "cost_shares": shares,
    }


PLAN = {
    "name": "edsr",
    "network": "EDSR",
    "input": [1, 3, 128, 128],
    "dense": {"macs": 4.62e9, "params": 159_000},
    "groups": [
        group("body.0.conv1", 64),
        group("trunk.residual_in_residual.layer_with_a_long_name", 1064, members=["a"]),
        group("x", 3, "input of the network", [f"layer_{number}" for number in range(5)]),
    ],
    "excluded": ["upsample.0"],
    "lower_bound": {"macs": {"kept": 0.07, "pinned": 0.01, "min_width": 0.06}},
    "training_form": True,
    "targets": [
        {"kind": "macs", "keep_ratio": 0.5, "met": True, "kept": {"macs": 0.5, "latency": None}},
        {"kind": "macs", "keep_ratio": 0.01, "met": False, "text": "the lowest is 0.07; " * 9},
    ],
}


def test_a_plan_with_everything(golden):
    text = plan_text(PLAN)
    golden("plan_text.txt", text)
    assert max(map(len, text.splitlines())) <= LINE_LENGTH


def test_a_plan_of_an_earlier_version_is_read_like_one_of_today():
    """The keys that plan.json had, written out: old run folders go on being reported."""
    former = {**PLAN, "groups": []}
    former["least"] = {"macs": {"kept": 0.07, "pinned": 0.01, "floors": 0.06}}
    del former["lower_bound"]
    for entry in PLAN["groups"]:
        old = {**entry, "floor": entry["min_width"], "controls": entry["cost_shares"]}
        del old["min_width"], old["cost_shares"]
        former["groups"].append(old)
    assert with_current_keys(former) == PLAN == with_current_keys(PLAN)


def test_a_plan_of_a_single_group():
    plan = {**PLAN, "groups": [group("a", 1)], "excluded": [], "targets": []}
    text = plan_text({**plan, "training_form": False})
    assert "1 group, 1 channel;" in text and "0 groups, 0 channels" in text
    for absent in ("Excluded", "Targets", "training mode", "coupled"):
        assert absent not in text
