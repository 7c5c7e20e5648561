"""hedmlive doctor, and what it looks at: the group /entry/hedm of raw archives with and without each value."""

from pathlib import Path
from typing import Any

import h5py
import hostile
import numpy as np
import pytest
from typer.testing import CliRunner

from hedmlive.callbacks import RunResult, load_settings, process
from hedmlive.callbacks.doctor import Finding, examine, lacks
from hedmlive.cli.app import app
from hedmlive.streaming import ArchiveError

CELL = [4.08, 4.08, 4.08, 90.0, 90.0, 90.0]
WHOLE = {"space_group": 225, "lattice_parameters": CELL, "seed_resolution": 30.0}


def documents(way: str = "array", folder: Path | None = None, **baseline: Any) -> hostile.Documents:
    """A good run with more values in its baseline; None takes one away."""
    docs: hostile.Documents = []
    for name, doc in hostile.run(way, folder):
        if name == "descriptor" and doc["name"] == "baseline":
            keys = {key: {"source": f"ca://X:{key}", "dtype": "number", "shape": []} for key in baseline}
            doc = doc | {"data_keys": doc["data_keys"] | {key: doc["data_keys"].get(key, keys[key]) for key in keys}}
        elif name == "event" and "L1" in doc["data"]:
            data = {key: value for key, value in (doc["data"] | baseline).items() if value is not None}
            doc = doc | {"data": data, "timestamps": dict.fromkeys(data, 1.5)}
        elif name == "start":
            doc = doc | {"num_points": hostile.N_FRAMES}
        docs.append((name, doc))
    return docs


def archived(docs: hostile.Documents, folder: Path, **changes: Any) -> RunResult:
    return process(docs, load_settings(hostile.settings(folder, **changes)), stem="scan", write_raw=True)


def look(docs: hostile.Documents, folder: Path, **changes: Any) -> dict[str, Finding]:
    changes = {"roles": hostile.settings(folder)["roles"] | {"L2": "L2"}, "hedm": WHOLE} | changes
    result = archived(docs, folder, **changes)
    assert result.raw is not None
    found = examine(result.raw)
    # The result says what the archive lacks, as the doctor does.
    missing = [each.item for each in found if each.state == "missing"]
    assert [name for name in missing if name in result.missing] == [name for name in missing if "image" not in name]
    return {each.item: each for each in found}


def test_an_archive_that_has_everything(tmp_path: Path) -> None:
    found = look(documents(L2=800.0), tmp_path)
    assert [lacks(list(found.values()), kind) for kind in ("near-field", "far-field")] == [[], []]
    assert {each.item: each.state for each in found.values() if each.state != "ok"} == {
        "L2": "doubtful",  # its data key says no unit
        "det0 darks": "doubtful",
    }
    assert (found["L1"].value, found["L1"].source) == ("600 mm", "ca://X:L1 (baseline)")
    assert found["L1"].time == "1970-01-01T00:00:01.500000Z"
    assert found["space_group"].source == "hedm.space_group (settings)"
    assert "none further than 30 degree" in found["seed_orientations"].value
    assert found["frames"].value == "8, as the plan and the stop document say"


@pytest.mark.parametrize(
    ("gone", "kinds"),
    [("L1", ("near-field", "far-field")), ("energy", ("near-field", "far-field")), ("L2", ("near-field",))],
)
def test_a_role_that_never_came_is_missing_and_nothing_is_made_up(
    gone: str, kinds: tuple[str, ...], tmp_path: Path
) -> None:
    baseline: dict[str, Any] = {"L2": 800.0, gone: None}
    found = look(documents(**baseline), tmp_path)
    assert found[gone].state == "missing"
    assert found[gone].value == ""
    values = list(found.values())
    assert [kind for kind in ("near-field", "far-field") if gone in lacks(values, kind)] == list(kinds)  # type: ignore[arg-type]
    with h5py.File(tmp_path / "scan_raw.h5") as file:
        entry: Any = file["entry"]
        assert gone not in entry["hedm"]
        assert gone not in entry["scan"]
        assert gone in entry["hedm"].attrs["missing"]


def test_lattice_and_group_from_pvs_go_before_the_settings(tmp_path: Path) -> None:
    roles = hostile.settings(tmp_path)["roles"] | {"lattice_parameters": "cell", "space_group": "group", "L2": "L2"}
    cell = [3.6, 3.6, 3.6, 90.0, 90.0, 90.0]
    found = look(documents(cell=cell, group=229, L2=800.0), tmp_path, roles=roles)
    assert found["lattice_parameters"].value == "3.6 3.6 3.6 90 90 90 angstrom, degree"
    assert found["space_group"].source == "ca://X:group (baseline)"
    with h5py.File(tmp_path / "scan_raw.h5") as file:
        entry: Any = file["entry"]
        assert entry["hedm/space_group"][()] == 229
        assert entry["hedm/lattice_parameters"].attrs["time"] == "1970-01-01T00:00:01.500000Z"
        assert "space group 229" in entry["hedm/seed_orientations"].attrs["origin"]
        assert entry["sample/unit_cell_abc"][()].tolist() == cell[:3]


def test_a_cell_that_is_none_is_named_and_not_used(tmp_path: Path) -> None:
    roles = hostile.settings(tmp_path)["roles"] | {"lattice_parameters": "cell"}
    result = archived(documents(cell=[0.0] * 6), tmp_path, roles=roles)
    [problem] = result.problems
    assert "role lattice_parameters: came [0.0" in problem
    assert "lattice_parameters" in result.missing


def test_a_far_field_result_that_cannot_be_read_costs_nothing_else(tmp_path: Path) -> None:
    result = archived(documents(), tmp_path, hedm={"far_field_result": str(tmp_path / "Grains.csv")})
    [problem] = result.problems
    assert "Grains.csv: cannot be read" in problem
    assert result.digests == {0: hostile.expected_digest()}


def test_an_archive_of_a_killed_process(tmp_path: Path) -> None:
    result = archived(documents(L2=800.0), tmp_path, hedm=WHOLE)
    assert result.raw is not None
    with h5py.File(result.raw, "r+") as file:
        entry: Any = file["entry"]
        entry.attrs["finished"] = False
        for name in ("hedm", "scan", "data", "sample"):
            del entry[name]
    found = {each.item: each for each in examine(result.raw)}
    assert "not finished" in found["run"].value
    assert found["energy"].value == "65.3 mm"
    assert found["omega_per_frame"].state == "ok"
    assert found["frames"].state == "ok"


def test_what_looks_wrong(tmp_path: Path) -> None:
    docs = documents("stream", tmp_path, L2=800.0)
    for name, doc in docs:
        if name == "event" and doc["descriptor"].endswith("primary") and doc["seq_num"] == 8:
            doc["data"]["omega"] = 360.0  # the first one again
        elif name == "descriptor" and doc["name"] == "baseline":
            doc["data_keys"]["energy"]["source"] = doc["data_keys"]["L1"]["source"]
        elif name == "start":
            doc["time"], doc["num_points"] = 1e6, 9
    hostile.write_frames(tmp_path / "det0_image.h5", [np.zeros(hostile.SHAPE, np.uint16)] * hostile.N_FRAMES)
    found = look(docs, tmp_path)
    assert "repeat an angle" in found["omega mod 360"].value
    assert "same source as L1" in found["energy"].advice
    assert "more than a day before the run" in found["L1"].advice
    assert "all that were looked at are zero" in found["det0 images"].advice
    assert found["frames"].value == "8; the plan says 9"
    (tmp_path / "det0_image.h5").unlink()
    away = {each.item: each for each in examine(tmp_path / "scan_raw.h5")}["det0 images"]
    assert (away.state, "is not there" in away.advice) == ("missing", True)


def test_what_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "x.h5").write_bytes(b"no")
    with pytest.raises(ArchiveError, match="not a raw archive"):
        examine(tmp_path / "x.h5")


def test_the_command(tmp_path: Path) -> None:
    look(documents(), tmp_path)
    run = CliRunner()
    path = str(tmp_path / "scan_raw.h5")
    both = run.invoke(app, ["doctor", path])
    assert both.exit_code == 1
    assert "near-field missing L2" in both.stdout
    assert "far-field  all there" in both.stdout
    assert run.invoke(app, ["doctor", path, "--for", "far-field"]).exit_code == 0
    wrong = run.invoke(app, ["doctor", path, "--for", "tomography"])
    assert "wanted near-field, far-field, both" in str(wrong.exception)


def test_steps_distances_and_layers(tmp_path: Path) -> None:
    docs = documents(L2=800.0)
    for name, doc in docs:
        if name == "descriptor" and doc["name"] == "primary":
            mm = {"source": "ca://X:z", "dtype": "number", "shape": [], "units": "mm"}
            doc["data_keys"] |= {"distance": mm, "layer": mm}
        elif name == "event" and doc["descriptor"].endswith("primary"):
            i = doc["seq_num"] - 1
            # Two distances; at each two layers; in each a step with two events, or two with one.
            doc["data"] |= {"distance": 7.0 + 2.0 * (i // 4), "layer": 0.01 * (i // 2 % 2)}
            doc["timestamps"] = dict.fromkeys(doc["data"], 2.0 + i)
            if i in (1, 5):
                doc["data"]["omega"] = hostile.STEP * (i - 1)
    roles = hostile.settings(tmp_path)["roles"] | {"distance": "distance", "layer": "layer"}
    found = look(docs, tmp_path, roles=roles)
    assert found["distances"].value == "7 9 mm"
    with h5py.File(tmp_path / "scan_raw.h5") as file:
        scan: Any = file["entry/scan"]
        assert scan["distance_index"][()].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
        assert scan["layer_index"][()].tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
        assert scan["step"][()].tolist() == [0, 0, 1, 2, 3, 3, 4, 5]
        assert scan["event"][()].tolist() == [0, 1, 0, 0, 0, 1, 0, 0]
        assert scan["step_start"][()].tolist() == [0, 2, 3, 4, 6, 7, 8]
        assert scan["distance_time"][()].tolist() == [2.0 + i for i in range(8)]
