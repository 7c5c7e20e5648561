"""Each kind of simulated detector under a real RunEngine: its documents are valid, its frames exact."""

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky_tiled_plugins.writing.tiled_writer import RunNormalizer
from event_model import DocumentNames, schema_validators

from hedmlive.devices import step_scan
from hedmlive.simulators import DetectorNoise, FrameSource, SimArrayDetector, SimulatedStation, simulated_station
from hedmlive.streaming.errors import ArchiveError, SettingsError

KINDS = ["array", "hdf5", "stream"]
START, STEP, N, N_DARK = -10.0, 0.5, 6, 2
Documents = list[tuple[str, dict[str, Any]]]


def station(folder: Path, kind: Any, **options: Any) -> SimulatedStation:
    return simulated_station(folder, detector=kind, shape=(48, 64), n_grains=4, seed=11, **options)


@pytest.fixture
def run() -> Callable[..., Documents]:
    engine = RunEngine({}, context_managers=[])  # no signal handlers

    def execute(plan: Any, also: Callable[[str, dict[str, Any]], None] | None = None) -> Documents:
        documents: Documents = []

        def keep(name: str, doc: Any) -> None:
            documents.append((name, doc))
            if also is not None:
                also(name, doc)

        engine(plan, keep)
        return documents

    return execute


def scan(made: SimulatedStation, **options: Any) -> Any:
    settings: dict[str, Any] = {"dark_frames": N_DARK, "shutter": made.shutter, "baseline": made.baseline} | options
    return step_scan([made.detector], made.rotation, START, STEP, N, **settings)


def expected(made: SimulatedStation) -> list[np.ndarray]:
    return [made.simulator.frame(START + i * STEP, START + (i + 1) * STEP, i) for i in range(N)]


def stack(path: Path) -> np.ndarray:
    with h5py.File(path) as file:
        data = file["/entry/data/data"]
        assert data.chunks == (1, 48, 64)
        assert data.dtype == np.uint16
        return data[()]


def events(documents: Documents, stream: str) -> list[dict[str, Any]]:
    (uid,) = [doc["uid"] for name, doc in documents if name == "descriptor" and doc["name"] == stream]
    return [doc for name, doc in documents if name == "event" and doc["descriptor"] == uid]


@pytest.mark.parametrize("kind", KINDS)
def test_documents_are_valid_and_complete(tmp_path: Path, kind: str, run: Callable[..., Documents]) -> None:
    made = station(tmp_path, kind)
    documents = run(scan(made))
    for name, doc in documents:
        schema_validators[DocumentNames[name]].validate(doc)
    assets = {
        "array": {},
        "hdf5": {"resource": 2, "datum": N + N_DARK},
        "stream": {"stream_resource": 2, "stream_datum": N + N_DARK},
    }[kind]
    counts = {"start": 1, "descriptor": 3, "event": 2 + N + N_DARK, "stop": 1} | assets
    assert Counter(name for name, _ in documents) == counts
    assert documents[-1][1]["num_events"] == {"baseline": 2, "dark": N_DARK, "primary": N}
    descriptors = {doc["name"]: doc for name, doc in documents if name == "descriptor"}
    assert list(descriptors) == ["baseline", "dark", "primary"]
    image = descriptors["primary"]["data_keys"][made.image_key]
    assert image["dtype_numpy"] == "<u2"
    assert image["dtype"] == "array"
    assert image["shape"] == ([48, 64] if kind == "array" else [1, 48, 64])
    assert image.get("external") == {"array": None, "hdf5": "FILESTORE:", "stream": "STREAM:"}[kind]
    assert descriptors["primary"]["configuration"]["rotation"]["data"]["rotation_step"] == STEP
    assert descriptors["primary"]["data_keys"]["rotation"]["units"] == "degrees"
    omega = [doc["data"]["rotation"] for doc in events(documents, "primary")]
    assert omega == [START + i * STEP for i in range(N)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_role_is_recorded_under_its_key(tmp_path: Path, kind: str, run: Callable[..., Documents]) -> None:
    made = station(tmp_path, kind)
    documents = run(scan(made))
    recorded = {key: value for doc in events(documents, "baseline") for key, value in doc["data"].items()}
    primary = next(doc for name, doc in documents if name == "descriptor" and doc["name"] == "primary")
    known = set(recorded) | set(primary["data_keys"]) | set(primary["configuration"]["rotation"]["data"])
    assert set(made.roles) == {"omega", "omega_step", "L1", "L2", "energy"}
    assert {*made.roles.values(), made.image_key} <= known
    assert recorded[made.roles["L1"]] * 1000 == made.geometry.distance
    assert recorded[made.roles["energy"]] == made.geometry.energy


def test_frames_in_events_are_the_simulators(tmp_path: Path, run: Callable[..., Documents]) -> None:
    made = station(tmp_path, "array")
    documents = run(scan(made))
    images = [doc["data"][made.image_key] for doc in events(documents, "primary")]
    np.testing.assert_array_equal(images, expected(made))
    darks = [doc["data"][made.image_key] for doc in events(documents, "dark")]
    np.testing.assert_array_equal(darks, [made.simulator.dark_frame(i) for i in range(N_DARK)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("compress", [True, False])
def test_resource_and_datum_point_at_the_frames(tmp_path: Path, compress: bool, run: Callable[..., Documents]) -> None:
    made = station(tmp_path / "new", "hdf5", compress=compress)
    documents = run(scan(made))
    resources = [doc for name, doc in documents if name == "resource"]
    assert {doc["spec"] for doc in resources} == {"AD_HDF5_SWMR"}
    darks, frames = (stack(Path(doc["root"]) / doc["resource_path"]) for doc in resources)
    np.testing.assert_array_equal(frames, expected(made))
    np.testing.assert_array_equal(darks, [made.simulator.dark_frame(i) for i in range(N_DARK)])
    datum = {doc["datum_id"]: doc for name, doc in documents if name == "datum"}
    points = [datum[doc["data"][made.image_key]] for doc in events(documents, "primary")]
    assert [doc["datum_kwargs"] for doc in points] == [{"point_number": i} for i in range(N)]
    assert {doc["resource"] for doc in points} == {resources[1]["uid"]}


def test_run_normalizer_turns_the_legacy_kind_into_streams(tmp_path: Path, run: Callable[..., Documents]) -> None:
    made = station(tmp_path, "hdf5")
    documents = run(scan(made))
    normalizer, out = RunNormalizer(), []

    def keep(name: str, doc: dict[str, Any]) -> None:
        out.append((name, doc))

    normalizer.subscribe(keep)
    for name, doc in documents:
        normalizer(name, doc)
    resources = [doc for name, doc in out if name == "stream_resource"]
    assert [Path(urlparse(doc["uri"]).path).name for doc in resources] == [
        "detector_000000.h5",
        "detector_000001.h5",
    ]
    assert {doc["parameters"]["dataset"] for doc in resources} == {"/entry/data/data"}
    uid = resources[1]["uid"]
    pairs = [doc for name, doc in out if name == "stream_datum" and doc["stream_resource"] == uid]
    assert [doc["indices"] for doc in pairs] == [{"start": i, "stop": i + 1} for i in range(N)]
    assert [doc["seq_nums"] for doc in pairs] == [{"start": i + 1, "stop": i + 2} for i in range(N)]


def test_stream_resource_and_datum_point_at_the_frames(tmp_path: Path, run: Callable[..., Documents]) -> None:
    made = station(tmp_path, "stream")
    documents = run(scan(made))
    resources = [doc for name, doc in documents if name == "stream_resource"]
    for doc in resources:
        assert doc["mimetype"] == "application/x-hdf5"
        assert doc["uri"].startswith("file://localhost/")
        assert doc["parameters"] == {"dataset": "/entry/data/data", "chunk_shape": [1]}
        assert doc["data_key"] == made.image_key
    np.testing.assert_array_equal(stack(Path(urlparse(resources[1]["uri"]).path)), expected(made))
    data = [doc for name, doc in documents if name == "stream_datum"]
    pairs = [doc for doc in data if doc["stream_resource"] == resources[1]["uid"]]
    assert [doc["indices"] for doc in pairs] == [{"start": i, "stop": i + 1} for i in range(N)]
    assert [doc["seq_nums"] for doc in pairs] == [{"start": i + 1, "stop": i + 2} for i in range(N)]
    assert all(made.image_key not in doc["data"] for doc in events(documents, "primary"))
    order = [name for name, _ in documents if name in ("stream_datum", "event")]
    assert order[1:3] == ["stream_datum", "event"]


@pytest.mark.parametrize("kind", ["hdf5", "stream"])
def test_a_frame_can_be_read_at_its_document(tmp_path: Path, kind: str, run: Callable[..., Documents]) -> None:
    made = station(tmp_path, kind)
    seen: list[np.ndarray] = []

    def read_along(name: str, doc: dict[str, Any]) -> None:
        if name == "event" and made.roles["omega"] in doc["data"]:
            with h5py.File(tmp_path / "detector_000000.h5", swmr=True) as file:
                seen.append(file["/entry/data/data"][doc["seq_num"] - 1])

    run(scan(made, dark_frames=0), read_along)
    np.testing.assert_array_equal(seen, expected(made))


def test_two_scans_write_two_files_and_equal_frames(tmp_path: Path, run: Callable[..., Documents]) -> None:
    made = station(tmp_path, "stream")
    run(scan(made, dark_frames=0))
    run(scan(made, dark_frames=0))
    first, second = (stack(tmp_path / f"detector_{i:06d}.h5") for i in range(2))
    np.testing.assert_array_equal(first, second)


def test_stream_documents_can_be_asked_for_up_to_an_index(tmp_path: Path) -> None:
    made = station(tmp_path, "stream")
    detector: Any = made.detector
    made.rotation.step.put(0.5)
    detector.stage()
    for _ in range(5):
        detector.trigger().wait(5)
    assert detector.get_index() == 5
    asked = [list(detector.collect_asset_docs(index)) for index in (3, 3, None)]
    assert [[name for name, _ in docs] for docs in asked] == [
        ["stream_resource", "stream_datum"],
        [],
        ["stream_datum"],
    ]
    assert asked[0][1][1]["indices"] == {"start": 0, "stop": 3}
    assert asked[2][0][1]["indices"] == {"start": 3, "stop": 5}
    detector.unstage()


def test_exposure_waits_by_the_sleep_it_was_given(tmp_path: Path) -> None:
    waited, go = [], threading.Event()

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        assert go.wait(5)

    made = station(tmp_path, "array", exposure=0.25, sleep=sleep)
    made.rotation.step.put(0.5)
    made.detector.stage()
    status = made.detector.trigger()
    assert not status.done
    go.set()
    status.wait(5)
    assert waited == [0.25]
    np.testing.assert_array_equal(made.detector.read()[made.image_key]["value"], made.simulator.frame(0, 0.5, 0))
    made.detector.unstage()


def test_a_failing_exposure_fails_its_status(tmp_path: Path) -> None:
    made = station(tmp_path, "array", exposure=0.25, sleep=lambda _: None)
    made.detector.stage()  # the rotation has no step
    with pytest.raises(SettingsError, match="set the rotation's step"):
        made.detector.trigger().wait(5)


def test_wrong_use_is_named(tmp_path: Path) -> None:
    made = station(tmp_path, "array")
    with pytest.raises(SettingsError, match="triggered unstaged"):
        made.detector.trigger()
    source = FrameSource(simulator=made.simulator, rotation=made.rotation)
    with pytest.raises(SettingsError, match="read before its first frame"):
        SimArrayDetector(name="other", source=source).read()
    with pytest.raises(SettingsError, match="kind 'tiff' is unknown"):
        station(tmp_path, "tiff")
    with pytest.raises(SettingsError, match="'ajar'"):
        made.shutter.put("ajar")
    (tmp_path / "file").write_text("")
    with pytest.raises(ArchiveError, match="cannot be made"):
        station(tmp_path / "file", "hdf5").detector.stage()


def test_equal_seeds_make_equal_stations(tmp_path: Path) -> None:
    one, other = (station(tmp_path, "array") for _ in range(2))
    np.testing.assert_array_equal(one.simulator.frame(0, 1, 0), other.simulator.frame(0, 1, 0))
    assert np.median(one.simulator.spots.intensity) == pytest.approx(20_000)
    quiet = station(tmp_path, "array", noise=DetectorNoise(n_hot=0), grains=one.grains[:1])
    assert set(quiet.simulator.spots.grain.tolist()) == {0}
    with pytest.raises(SettingsError, match="no spot"):
        station(tmp_path, "array", grains=())
