"""The part of YAML that option files may use, and that every text gives values or a message."""

import random
from pathlib import Path

import pytest
import yaml

from dhp_sr.config import dump_options, load_options, resolve_paths
from dhp_sr.config.yaml import MAX_CHARACTERS, OptionDumper, lines_of, parse
from dhp_sr.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
OPTION_FILES = sorted((ROOT / "options").glob("*.yml"))
DOUBLING = 25
"""Levels of anchors that each hold the one before twice: 2^25 values from a short text."""


def doubled(template, first):
    lines = [f"a0: &a0 {first}"]
    for level in range(1, DOUBLING):
        lines.append(f"a{level}: &a{level} " + template.format(level - 1))
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("1.e-4", 1e-4), ("1E-4", 1e-4), ("+1e-4", 1e-4), (".1e-3", 1e-4),
        ("!!float 1e-4", 1e-4), ("1_0e-5", 1e-4), ("1.5", 1.5), (".inf", float("inf")),
        ("010", 10), ("0x10", 16), ("0o17", 15), ("1_000", 1000), ("-3", -3), ("!!str 5", "5"),
        ("2001-01-01", "2001-01-01"), ("1:30", "1:30"), ("0b1", "0b1"), ("=", "="), ("-", [None]),
        ("yes", True), ("~", None), ("", None), ("'1e-4'", "1e-4"),
        ("{a: &a {x: 1, y: 1}, b: {<<: *a, y: 2}}",
         {"a": {"x": 1, "y": 1}, "b": {"x": 1, "y": 2}}),
    ],
)  # fmt: skip
def test_values(text, value):
    found, _ = parse(text, "text")
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "value", ["yes", "1e-4", "010", "0o17", "1_000", "2001-01-01", "null", 1e-5]
)
def test_what_is_dumped_is_read_again(value):
    text = yaml.dump({"a": [value]}, Dumper=OptionDumper)
    assert parse(text, "text")[0] == {"a": [value]}
    assert yaml.safe_load(text) == {"a": [value]} or isinstance(value, float)


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("a: 1\nb: 2\na: 3\n", ["line 3, column 1", "'a' twice", "line 1"]),
        ("x:\n  b: 1\n  b: 2\n", ["line 3, column 3", "'b'"]),
        ("a: [1\nb: 2\n", ["line 2"]),
        ("a: 1\n b: 2\n", ["line 2"]),
        ("a: !!python/object/apply:os.getcwd []\n", ["line 1, column 4"]),
        ("a: !!set {b}", ["line 1, column 4", "set"]),
        ("--- 1\n--- 2\n", ["another document"]),
        ("? [1]\n: 2\n", ["line 1", "key"]),
        ("on: 2\n", ["line 1", "key"]),
        ("a: \x00", ["#x0000"]),
        ('a: "C:\\data\\x"', ["line 1, column 8", "single quotes"]),
        ('"\\ud800"', ["file name"]),
        ('"a\\0b"', ["file name"]),
        ("&a [*a]", ["contains itself"]),
        ("<<: 3", ["merging"]),
        ("!!int ''", []),
        ("!!bool x", ["'x'"]),
        ("9" * 5000, ["digits"]),
        ("0x" + "f" * 5000, ["digits"]),
        ("[" * 5000, ["levels"]),
        ("a" * (MAX_CHARACTERS + 1), [str(MAX_CHARACTERS)]),
        (doubled("[*a{0}, *a{0}]", "[1]"), ["anchors"]),
        (doubled("{{<<: [*a{0}, *a{0}]}}", "{x: 1}"), ["anchors"]),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_text_that_is_refused(text, facts):
    with pytest.raises(UserError) as caught:
        parse(text, "here")
    message = str(caught.value)
    assert message.startswith("here") and len(message) < 500
    assert [fact for fact in facts if fact not in message] == []


def test_lines_of_keys():
    _, node = parse("a:\n  b: 1\n  c:\n    d: 2\n", "text")
    assert lines_of(node, ["a", "c", "d"]) == [1, 3, 4]
    assert lines_of(node, ["a", "x", "d"]) == [1]
    assert lines_of(node, ["a", "b", "d"]) == [1, 2]
    assert lines_of(None, ["a"]) == []


SNIPPETS = (
    "&a ", "*a", "<<: *a", "<<: [*a, *a]", "!!int ", "!!float ", "!!bool ", "!!null ", "!!str ",
    "!!binary ", "!!timestamp ", "!!omap ", "!!pairs ", "!!set ", "!!python/name:os.system", "!x ",
    "? ", ": ", "- ", "[", "]", "{", "}", ",", "|", ">", "#", "'", '"', "\\", "%", "@", "`", "~",
    "null", "true", "on", "1e400", "-.inf", ".nan", "0x", "010", "1_", "9" * 400, "2001-99-99",
    "1:99:99", "=", "---", "...", "\n", "\t", "  ", "\n\n  ", "\0", "\ud800", "\u2028", "é",
    '"\\ud800"', '"\\0"', "base: x.yml", "base: fuzzed.yml", "train: 3", "val_1: {}",
    "~nosuchuser/x",
    "{macs: 0.5}", "[{macs: 0.5}]", "type: Hyper", "compress: null",
)  # fmt: skip


def mutated(text, rng):
    """Text with a few parts removed, repeated, exchanged or replaced by parts of YAML."""
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + int(rng.expovariate(0.1)))
        part = text[start:end]
        kind = rng.choice(["remove", "repeat", "insert", "replace", "line"])
        if kind == "remove":
            text = text[:start] + text[end:]
        elif kind == "repeat":
            text = text[:end] + part * rng.randint(1, 3) + text[end:]
        elif kind == "line":
            lines = text.splitlines(keepends=True) or [""]
            source, target = rng.randrange(len(lines)), rng.randrange(len(lines))
            lines.insert(target, lines[source])
            text = "".join(lines)
        else:
            text = text[:start] + rng.choice(SNIPPETS) + text[end if kind == "replace" else start :]
    return text


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize("count", [200, pytest.param(6000, marks=pytest.mark.slow)])
def test_every_text_gives_options_or_a_message(tmp_path, count):
    assert OPTION_FILES
    texts = [path.read_text(encoding="utf-8") for path in OPTION_FILES]
    # What stays must be short: comments are nearly half of the files, and hide mutations.
    texts = [
        "\n".join(line.split(" #")[0] for line in text.splitlines() if line[:1] != "#")
        for text in texts
    ]
    path = tmp_path / "fuzzed.yml"
    accepted = 0
    for seed in range(count):
        rng = random.Random(seed)
        text = mutated(rng.choice(texts), rng)
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            options = load_options(path)
            accepted += 1
            resolve_paths(options, tmp_path)
            again = tmp_path / "again.yml"
            again.write_text(dump_options(options), encoding="utf-8")
            assert load_options(again) == options, seed
        except UserError:
            pass
        except Exception as error:  # named, so that a failure can be repeated
            raise AssertionError(f"seed {seed}: {error!r}\n{text}") from error
    assert 0 < accepted < count
