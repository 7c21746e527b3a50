"""The documentation builds without a warning, generated pages are current, README stays short."""

import configparser
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
RESEARCH = ROOT / "docs" / "research"
TOPICS = sorted(path for path in RESEARCH.glob("*.md") if path.name != "index.md")
API_MEMBERS = ("latents", "masks", "set_masks", "cost", "dense_cost", "prune_to", "cut")
"""Members of a hyper network that others build on."""
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def generator():
    search_path = list(sys.path)
    path = ROOT / "scripts" / "generate_docs.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path[:] = search_path
    return module


def test_the_documentation_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="the documentation needs the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "research" / "index.html").is_file()
    # A table directly below its marker must not be taken for text.
    assert "<table>" in (tmp_path / "results" / "comparison" / "index.html").read_text()
    api = (tmp_path / "reference" / "api" / "index.html").read_text()
    for name in ("convert", *(f"HyperNet.{member}" for member in API_MEMBERS)):
        assert f'id="dhp_sr.hyper.{name}"' in api or f'id="dhp_sr.hyper.convert.{name}"' in api, (
            name
        )


def test_generated_pages_are_current(generator, capsys):
    assert generator.main(["--check"]) == 0, capsys.readouterr().err


def test_a_page_that_is_out_of_date_is_found(generator, monkeypatch, tmp_path, capsys):
    for name in generator.PAGES:
        (tmp_path / name).write_text((generator.REFERENCE / name).read_text())
    (tmp_path / "options.md").write_text("old")
    monkeypatch.setattr(generator, "REFERENCE", tmp_path)
    assert generator.main(["--check"]) == 1
    assert "options.md" in capsys.readouterr().err
    assert generator.main([]) == 0
    assert generator.main(["--check"]) == 0


def test_the_option_page_has_every_key_of_every_section(generator):
    page = generator.options_page()
    sections = list(generator.option_sections())
    assert len(sections) >= 15
    for path, section, _ in sections:
        assert not path or f"`{path}`" in page
        for name in section.model_fields:
            assert f"| `{name}` |" in page, f"{path}.{name}"


def test_every_key_is_documented(generator):
    for path, section, _ in generator.option_sections():
        for name, *_, meaning in generator._key_rows(section, path):
            assert meaning, f"{path}.{name}"


def test_the_operator_page_has_every_entry(generator):
    page = generator.operators_page()
    for spec in generator.registry.registered_specs():
        assert f"**{spec.name}**" in page


def test_the_command_page_has_every_argument(generator):
    page = generator.commands_page()
    for file, parser in generator.command_parsers().items():
        assert f"## {Path(file).name}" in page
        for action in parser._actions:
            for name in action.option_strings:
                assert name in ("-h", "--help") or name in page


def test_the_readme_is_one_page():
    assert len(README.splitlines()) <= 150
    assert len(README.encode()) <= 12 * 1024


def test_files_that_the_readme_links_to_exist():
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", README)
    local = [target for target in targets if "://" not in target]
    assert len(local) >= 20
    for target in local:
        assert (ROOT / target).is_file(), target


def test_files_that_pages_name_exist():
    named = set()
    for page in [ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        text = page.read_text(encoding="utf-8")
        named |= set(re.findall(r"`((?:dhp_sr|tests|scripts|benchmarks)/[\w/.]+)`", text))
    # Worked examples add files of their own.
    named = {path for path in named if "NAME" not in path}
    assert len(named) >= 60
    missing = sorted(path for path in named if not (ROOT / path).exists())
    assert not missing, missing


def test_the_citation_names_the_software_and_the_papers():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["type"] == "software" and citation["title"] == "dhp_sr"
    titles = [reference["title"] for reference in citation["references"]]
    assert any(title.startswith("DHP:") for title in titles)
    assert "Model Compression via Hyper-Structure Network" in titles


@pytest.mark.parametrize("topic", TOPICS, ids=lambda path: path.stem)
def test_research_entries_begin_with_their_conclusion_and_are_in_the_index(topic):
    index = (RESEARCH / "index.md").read_text(encoding="utf-8")
    entries = re.split(r"^## ", topic.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert entries
    for entry in entries:
        title, _, body = entry.partition("\n")
        assert body.lstrip().startswith("**Conclusion"), title
        assert f"[{title}]({topic.name}#" in index, title


@pytest.mark.parametrize("page", ["how_to/install.md", "reference/commands.md"])
def test_every_installed_command_is_named(page):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    scripts = setup["options.entry_points"]["console_scripts"].split("\n")
    names = {line.split("=")[0].strip() for line in scripts if line}
    assert "dhp-sr-compress" in names
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert names == {*re.findall(r"`(dhp-sr-\w+)`", text)}
