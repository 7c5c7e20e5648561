"""Every example of the documentation is run: blocks of `>>>` lines in README.md and below docs/."""

import ast
import doctest
import importlib
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from hedmlive import streaming
from hedmlive.callbacks.guard_settings import KINDS
from hedmlive.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?://|#)(?P<target>[^)#\s]+)")
PROBLEMS = ROOT / "docs" / "reference" / "problems.md"
MAKE = runpy.run_path(str(ROOT / "docs" / "reference" / "make_pages.py"))
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "benchmarks" / "README.md"])


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


@pytest.mark.parametrize("name", list(MAKE["PAGES"]))
def test_page_is_what_the_code_says(name: str) -> None:
    kept = (ROOT / "docs" / "reference" / name).read_text()
    assert kept == MAKE["made"](name), "run docs/reference/make_pages.py"


def test_every_kind_of_problem_is_explained() -> None:
    used = {kind for file in (ROOT / "callbacks").glob("*.py") for kind in _kinds_of(file)} | set(KINDS)
    assert used == set(re.findall(r"^\| `([a-z-]+)` \|", PROBLEMS.read_text(), re.MULTILINE))


def _kinds_of(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add":
            owner = ast.unparse(node.func.value)
            if owner.endswith("problems") and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value)


def test_every_error_is_explained() -> None:
    listed = dict(re.findall(r"^\| `(\w+Error)` \| `(\w+)` \|", PROBLEMS.read_text(), re.MULTILINE))
    assert listed == {each.__name__: each.__mro__[2].__name__ for each in streaming.HedmLiveError.__subclasses__()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_yaml_blocks_are_settings(page: Path) -> None:
    for block in re.findall(r"^```yaml\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE):
        assert isinstance(yaml.safe_load(block), dict)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options_exist(page: Path) -> None:
    commands: Any = typer.main.get_command(app)
    for block in re.findall(r"^```(?:bash|)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE):
        for name, rest in re.findall(r"(?:^|&& )hedmlive (\w+)(.*)$", block, re.MULTILINE):
            command = commands.commands[name]
            # Of a group of commands the one that is named.
            command = getattr(command, "commands", {}).get((rest.split() or [""])[0], command)
            known = {option for param in command.params for option in param.opts}
            assert set(re.findall(r"--[a-z-]+", rest)) <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_name_what_exists(page: Path) -> None:
    for block in BLOCK.finditer(page.read_text()):
        if ">>>" in block["code"]:
            continue
        for node in ast.walk(ast.parse(block["code"])):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                module = importlib.import_module(node.module)
                assert [each.name for each in node.names if not hasattr(module, each.name)] == []
