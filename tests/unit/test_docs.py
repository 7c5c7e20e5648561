"""Every example of the documentation is run: blocks of `>>>` lines in README.md and below docs/."""

import doctest
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?://|#)(?P<target>[^)#\s]+)")
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("README.md")])


def _doctest_of(page: Path) -> doctest.DocTest:
    """All `>>>` blocks of a page as one test: a later block sees the names of an earlier one."""
    text = page.read_text()
    examples: list[doctest.Example] = []
    for block in BLOCK.finditer(text):
        if ">>>" in block["code"]:
            line = text.count("\n", 0, block.start("code"))
            for example in doctest.DocTestParser().get_examples(block["code"], page.name):
                example.lineno += line
                examples.append(example)
    return doctest.DocTest(examples, {}, page.name, str(page), 0, text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    results = runner.run(_doctest_of(page), out=report.append)
    assert results.failed == 0, "".join(report)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    missing = [m["target"] for m in LINK.finditer(page.read_text()) if not (page.parent / m["target"]).exists()]
    assert missing == []


def test_tables_page_is_made_from_the_schema() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "reference" / "make_tables.py"))["page"]()
    assert (ROOT / "docs" / "reference" / "tables.md").read_text() == page
