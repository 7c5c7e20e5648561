"""Results and projections in a catalogue, without a server: what is read from files, and what lists look like."""

from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from starlette.exceptions import HTTPException
from tiled.storage import parse_storage, register_storage, unregister_storage
from tiled.structures.core import StructureFamily
from tiled.structures.table import TableStructure

from hedmlive.streaming import MAX_PROJECTION, Column, Table
from hedmlive.tiled_config.archives_tables import ArchiveTableAdapter, CheckedHDF5Adapter
from hedmlive.tiled_config.layout import RESULT_UID, attempt_key, ensure_result, table_schema
from hedmlive.tiled_config.runs_results import Result, ResultList

NAMES = ("item", "rank")
SOLUTIONS = Table(
    name="solutions",
    row="ranked solution",
    key=NAMES,
    columns=tuple(Column(name=name, dtype="<i8", unit="", meaning="") for name in NAMES),
)


@pytest.fixture
def folder(tmp_path: Path) -> Generator[Path]:
    """A folder that a server of this process serves."""
    storage = parse_storage(f"file://localhost{tmp_path.resolve()}")
    register_storage(storage)
    yield tmp_path.resolve()
    unregister_storage(storage)


def source(path: Path, dataset: str, family: StructureFamily, structure: Any = None, **parameters: Any) -> Any:
    asset = SimpleNamespace(data_uri=f"file://localhost{path}", num=0, parameter="data_uris")
    return SimpleNamespace(structure_family=family, assets=[asset], structure=structure), parameters | {
        "dataset": dataset
    }


NODE: Any = SimpleNamespace(metadata_={}, specs=[])


def test_a_table_of_results_is_read_if_it_is_the_one_that_was_registered(folder: Path) -> None:
    with h5py.File(folder / "a_results.h5", "w") as file:
        group = file.create_group("result_0000/solutions")
        group.parent.attrs[RESULT_UID] = "mine"
        for name in NAMES:
            group[name] = np.arange(3)
    structure = TableStructure.from_schema(table_schema(SOLUTIONS), 1)
    for uid, wanted in (("mine", [0, 1, 2]), ("other", None)):
        made, parameters = source(
            folder / "a_results.h5", "/result_0000/solutions", StructureFamily.table, structure, result_uid=uid
        )
        adapter = ArchiveTableAdapter.from_catalog(made, NODE, **parameters)
        if wanted is not None:
            assert adapter.read(["item"])["item"].tolist() == wanted
            continue
        with pytest.raises(HTTPException, match="result mine lies there now; wanted other") as told:
            adapter.read()
        assert told.value.status_code == 409


@pytest.mark.parametrize("kind", ["other", "gone", "no file"])
def test_a_projection_of_another_reduction_is_not_served(folder: Path, kind: str) -> None:
    path = folder / "a_reduced.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("reduction_0000")
        group.attrs["reduction_uid"] = "other"
        if kind != "gone":
            group[MAX_PROJECTION] = np.zeros((2, 3), "f4")
    if kind == "no file":
        path.unlink()
    made, parameters = source(path, f"/reduction_0000/{MAX_PROJECTION}", StructureFamily.array, reduction_uid="mine")
    with pytest.raises(HTTPException) as told:
        CheckedHDF5Adapter.from_catalog(made, NODE, **parameters)
    assert told.value.status_code == 409
    assert "a_reduced.h5" in told.value.detail


class Node(dict[str, Any]):
    """A container of a catalogue, as far as the layout asks."""

    def __init__(self, metadata: Any = None) -> None:
        super().__init__()
        self.metadata, self.access_tags = metadata or {}, []

    def create_container(self, key: str, *, metadata: Any, specs: Any, access_tags: Any) -> "Node":
        import httpx

        if key in self:
            answer = httpx.Response(409, request=httpx.Request("POST", "http://x"))
            raise httpx.HTTPStatusError("there", request=answer.request, response=answer)
        self[key] = Node(metadata)
        return self[key]


def test_two_archives_that_count_from_zero_do_not_meet() -> None:
    client = Node()
    client["results"] = Node()
    start = {"uid": "u", "scan_id": 4}
    made = [ensure_result(client, "u", 0, start, {RESULT_UID: uid}) for uid in ("a", "b", "a")]
    assert made[0] is made[2]
    assert sorted(client["results"]["u"]) == [attempt_key(0), attempt_key(1)]
    assert [each.metadata["attempt"] for each in made] == [0, 1, 0]
    assert client["results"]["u"].metadata["start"]["scan_id"] == 4


def shown(number: int) -> Result:
    made = Result.__new__(Result)
    item = {"id": attempt_key(number), "attributes": {"metadata": {"raw_run_uid": "1234567890", "program": "<b>"}}}
    made._item = item  # type: ignore[attr-defined]
    return made


def test_a_list_of_results_shows_a_line_for_each() -> None:
    assert repr(ResultList()) == "<0 results>"
    lines = repr(ResultList(map(shown, range(7)))).splitlines()
    assert (len(lines), lines[0], lines[-1]) == (7, "<7 results>", "  ...")
    assert lines[1].startswith("  <result 0 of run 12345678: by <b>")
    page = ResultList([shown(3)])._repr_html_()
    assert "result 3 of run 12345678" in page
    assert "<b>" not in page + shown(3)._repr_html_()
