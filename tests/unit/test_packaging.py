"""The folders are one namespace package, and importing one of them brings in no more than it says."""

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("callbacks", "cli", "devices", "simulators", "streaming", "tiled_config")
LINKS = ROOT / ".namespace" / "hedmlive"

in_repository = pytest.mark.skipif(not LINKS.is_dir(), reason="runs beside an installed wheel")


def _modules_after(statement: str) -> set[str]:
    """Names of all modules that a fresh interpreter holds after `statement`."""
    code = f"import sys\nsys.path[:0] = {sys.path!r}\n{statement}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@in_repository
@pytest.mark.parametrize("folder", FOLDERS)
def test_link_is_relative_and_leads_to_the_folder(folder: str) -> None:
    link = LINKS / folder
    assert link.is_symlink()
    assert link.readlink() == Path("..") / ".." / folder
    assert link.resolve() == ROOT / folder


@in_repository
def test_links_sources_and_folders_agree() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    wheel = build["targets"]["wheel"]
    assert sorted(entry.name for entry in LINKS.iterdir()) == list(FOLDERS)
    assert sorted(wheel["packages"]) == list(FOLDERS)
    assert wheel["sources"] == {folder: f"hedmlive/{folder}" for folder in wheel["packages"]}
    assert set(build["targets"]["sdist"]["only-include"]) > set(FOLDERS)


@in_repository
def test_namespace_has_no_module_of_its_own() -> None:
    """A file beside the folders would make `hedmlive` an ordinary package, and hide the other portions."""
    assert all(entry.is_symlink() for entry in LINKS.iterdir())


@pytest.mark.parametrize("folder", FOLDERS)
def test_folder_is_typed(folder: str) -> None:
    module = importlib.import_module(f"hedmlive.{folder}")
    assert module.__file__ is not None
    assert (Path(module.__file__).parent / "py.typed").is_file()


def _group(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions: the order that the linter sorts by."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("folder", FOLDERS)
def test_exports_exist_and_are_sorted(folder: str) -> None:
    module = importlib.import_module(f"hedmlive.{folder}")
    assert module.__all__ == sorted(set(module.__all__), key=_group)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_callbacks_bring_in_no_server_and_no_plots() -> None:
    """They are imported into the RunEngine's process, where seconds and threads are dear."""
    modules = _modules_after("import hedmlive.callbacks")
    assert modules & {"fastapi", "matplotlib", "starlette", "tiled.server", "uvicorn"} == set()


def test_streaming_brings_in_numbers_only() -> None:
    modules = _modules_after("import hedmlive.streaming")
    assert modules & {"bluesky", "event_model", "h5py", "ophyd", "pyarrow", "pydantic", "tiled"} == set()
