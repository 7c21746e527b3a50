"""The documentation builds without a warning, and the research log keeps its form."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESEARCH = ROOT / "docs" / "research"
TOPICS = sorted(path for path in RESEARCH.glob("*.md") if path.name != "index.md")


def test_the_documentation_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="the documentation needs the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "research" / "index.html").is_file()


@pytest.mark.parametrize("topic", TOPICS, ids=lambda path: path.stem)
def test_research_entries_begin_with_their_conclusion_and_are_in_the_index(topic):
    index = (RESEARCH / "index.md").read_text(encoding="utf-8")
    entries = re.split(r"^## ", topic.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert entries
    for entry in entries:
        title, _, body = entry.partition("\n")
        assert body.lstrip().startswith("**Conclusion"), title
        assert f"[{title}]({topic.name}#" in index, title
