"""What a publisher of one proposal can make a server open: files and rows of its own, whatever the request says."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
import pytest
import tifffile
import zarr
from live_feeding import NAMES, columns_of
from services import SmallFacility, small_facility

from hedmlive.streaming import TABLES
from hedmlive.tiled_config import TiledSink, connect, disconnect
from hedmlive.tiled_config.folders import Folders

OURS, THEIRS = np.arange(6).reshape(2, 3), 1000 + np.arange(6).reshape(2, 3)
TABLE = "/table/full/reduced/ours/attempt-0000/frames?format=application/json-seq"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Generator[SmallFacility]:
    with small_facility(tmp_path_factory.mktemp("site")) as made:
        for number, data in ((1001, OURS), (1002, THEIRS)):
            folder = made.folder / "data" / str(number)
            folder.mkdir()
            np.save(folder / "a.npy", data)
            tifffile.imwrite(folder / "a.tif", data.astype(np.uint16), metadata=None)
            with h5py.File(folder / "a.h5", "w") as file:
                file["data"] = data
        yield made


@pytest.fixture(scope="module")
def key(site: SmallFacility) -> str:
    """Of our publisher; there are runs of both proposals with rows, and theirs has an uploaded array."""
    client = connect(site.address, site.key("service:publisher", "publisher"))
    for uid, number in (("ours", 1001), ("theirs", 1002)):
        sink, tables = TiledSink(client), {name: TABLES[name] for name in NAMES}
        start = {"uid": uid, "time": 0.0, "proposal_id": number}
        sink.open_reduction(uid, 0, start=start, metadata={"status": "running"}, tables=tables)
        sink.append_all({"frames": (1, columns_of("frames", 10 * number + np.arange(3), 0))})
    client["reduced"]["theirs"].write_array(THEIRS, key="upload", access_tags=["proposal_1002"])
    disconnect(client)
    return site.key("service:publisher", "publisher", "proposal_1001")


def source(mimetype: str, *uris: str, shape: tuple[int, ...] = (2, 3), kind: str = "i8", **changes: Any) -> Any:
    asset = {"is_directory": False, "parameter": "data_uri", "num": None}
    of = {"endianness": "little", "kind": kind[0], "itemsize": int(kind[1]), "dt_units": None}
    structure = {"data_type": of, "chunks": [[n] for n in shape], "shape": shape, "dims": None, "resizable": False}
    made = {"structure_family": "array", "structure": structure, "mimetype": mimetype, "management": "external"}
    return made | {"parameters": {}, "assets": [asset | {"data_uri": uri} for uri in uris]} | changes


def register(site: SmallFacility, key: str, name: str, made: Any, *, route: str = "register") -> httpx.Response:
    body = {
        "id": name,
        "structure_family": made["structure_family"],
        "metadata": {},
        "specs": [],
        "data_sources": [made],
    }
    return site.ask("POST", f"/{route}/reduced/ours", key, json=body | {"access_tags": ["proposal_1001"]})


def values(site: SmallFacility, key: str, name: str) -> httpx.Response:
    return site.ask("GET", f"/array/full/reduced/ours/{name}?format=application/json", key)


def address(path: Path) -> str:
    return f"file://localhost{path}"


def held(site: SmallFacility, key: str, path: str) -> Any:
    """The data source of a node."""
    answer = site.ask("GET", f"/metadata/{path}?include_data_sources=true", key)
    (found,) = answer.json()["data"]["attributes"]["data_sources"]
    return found


def put(site: SmallFacility, key: str, path: str, made: Any) -> httpx.Response:
    return site.ask("PUT", f"/data_source/{path}", key, json={"data_source": made})


def test_ones_own_files_are_registered_and_read(site: SmallFacility, key: str) -> None:
    folder = site.folder / "data" / "1001"
    for name, made in (
        ("a.npy", source("application/x-npy", address(folder / "a.npy"))),
        ("a.tif", source("image/tiff", address(folder / "a.tif"), kind="u2")),
        ("a.h5", source("application/x-hdf5", address(folder / "a.h5"), parameters={"dataset": "data"})),
    ):
        assert register(site, key, f"own-{name}", made).status_code == 200
        assert values(site, key, f"own-{name}").json() == OURS.tolist()
    assert "10010" in site.ask("GET", TABLE, key).text


STRAYS = [
    "file://localhost{data}/1002/a.npy",
    "file://localhost{data}/1001/../1002/a.npy",
    "file://elsewhere.example.org{data}/1002/a.npy",
    "FILE://localhost{data}/1002/a.npy",
    " file:{data}/1002/a.npy",
    "file://localhost{data}/1001/link.npy",
    "file://localhost{data}/1001/folder/a.npy",
    "file://localhost{data}/1001/loop",
    "file://localhost{data}/1001/../../serve.yml",
    "file://localhost{data}/a.npy",
    "file://localhost{data}/10011/a.npy",
    "file://localhost{store}/data/reduced/theirs/upload",
    "file://localhost{store}/api_key",
    "sqlite:///{store}/tables.db",
    "duckdb:///{data}/1001/a.npy",
    "postgresql://127.0.0.1/hedm_tables",
]


def test_those_of_others_are_not_registered(site: SmallFacility, key: str) -> None:
    data = site.folder / "data"
    for name, to in (
        ("link.npy", data / "1002" / "a.npy"),
        ("folder", data / "1002"),
        ("loop", data / "1001" / "loop"),
    ):
        (data / "1001" / name).symlink_to(to)
    own = address(data / "1001" / "a.npy")
    assert register(site, key, "file", source("application/x-npy", own)).status_code == 200
    there = held(site, key, "reduced/ours/file")
    for number, stray in enumerate(STRAYS):
        uri = stray.format(data=data, store=site.folder / "server")
        made = source("application/x-npy", uri)
        match number % 4:
            case 0:
                answer = register(site, key, "stray", made)
            case 1:
                made["assets"][0]["parameter"] = None  # Tiled looks at those of a parameter only
                answer = register(site, key, "stray", made)
            case 2:
                answer = register(site, key, "stray", source("application/x-npy", own, parameters={"data_uris": [uri]}))
            case _:
                answer = put(site, key, "reduced/ours/file", made | {"id": there["id"]})
        assert (answer.status_code, "outside the folders of" in answer.text) == (403, True), stray
    assert held(site, key, "reduced/ours/file") == there
    assert values(site, key, "file").json() == OURS.tolist()


@pytest.mark.parametrize("uri", ["file://localhost/elsewhere/%2e%2e/a.npy", "http://127.0.0.1:9/a.npy", "s3://b/a.npy"])
def test_what_says_that_it_lies_elsewhere_is_noted_and_not_opened(site: SmallFacility, key: str, uri: str) -> None:
    """So that the rest of a run whose frames are on another machine is stored."""
    made = source("application/x-npy", uri)
    made["assets"][0]["parameter"] = None
    assert register(site, key, "away", made).status_code == 200
    answer = values(site, key, "away")
    assert (answer.status_code, "outside the folders of" in answer.text) == (403, True)
    assert site.ask("DELETE", "/metadata/reduced/ours/away", key).status_code == 200


def test_a_percent_sign_is_one(site: SmallFacility, key: str) -> None:
    """Tiled takes the path as it is written: what is looked at here is what would be opened."""
    uri = address(site.folder / "data" / "1001" / "%2e%2e" / "1002" / "a.npy")
    assert register(site, key, "percent", source("application/x-npy", uri)).status_code == 200
    assert values(site, key, "percent").status_code >= 400


def test_a_link_that_is_put_there_later_is_not_followed(site: SmallFacility, key: str) -> None:
    data = site.folder / "data"
    swapped = data / "1001" / "swapped.npy"
    np.save(swapped, OURS)
    assert register(site, key, "swapped", source("application/x-npy", address(swapped))).status_code == 200
    assert values(site, key, "swapped").json() == OURS.tolist()
    swapped.unlink()
    swapped.symlink_to(data / "1002" / "a.npy")
    assert values(site, key, "swapped").status_code == 403


def test_files_that_lead_to_others_are_not_followed(site: SmallFacility, key: str) -> None:
    data = site.folder / "data"
    ours, theirs = data / "1001", data / "1002"
    with h5py.File(ours / "links.h5", "w") as file:
        file["external"] = h5py.ExternalLink(theirs / "a.h5", "data")
        layout = h5py.VirtualLayout((2, 3), "i8")
        layout[:] = h5py.VirtualSource(theirs / "a.h5", "data", (2, 3))
        file.create_virtual_dataset("virtual", layout)
        file["own"] = h5py.ExternalLink("a.h5", "data")
    for dataset, code in (("external", 403), ("virtual", 403), ("own", 200)):
        made = source("application/x-hdf5", address(ours / "links.h5"), parameters={"dataset": dataset})
        assert register(site, key, dataset, made).status_code == 200
        assert values(site, key, dataset).status_code == code
    # Chunks of an array are files, too.
    chunks = zarr.create_array(str(ours / "a.zarr"), shape=(2, 3), dtype="i8", chunks=(2, 3), compressors=None)
    chunks[:] = OURS
    folder = source("application/x-zarr", address(ours / "a.zarr"))
    assert register(site, key, "chunks", folder).status_code == 200
    assert values(site, key, "chunks").json() == OURS.tolist()
    (chunk,) = (path for path in (ours / "a.zarr").rglob("*") if path.is_file() and path.name != "zarr.json")
    chunk.unlink()
    chunk.symlink_to(theirs / "a.npy")
    assert values(site, key, "chunks").status_code == 403
    # An image names the files of its other parts.
    of = "urn:uuid:11111111-1111-1111-1111-111111111111"
    text = f"""<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">
    <Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="3" SizeY="2" SizeZ="1" SizeC="1" SizeT="1">
    <TiffData IFD="0"><UUID FileName="../1002/a.tif">{of}</UUID></TiffData></Pixels></Image></OME>"""
    tifffile.imwrite(ours / "b.tif", OURS.astype(np.uint16), description=text, metadata=None)
    image = address(ours / "b.tif")
    assert register(site, key, "image", source("image/tiff", image, kind="u2")).status_code == 200
    assert values(site, key, "image").status_code == 403


def test_data_that_the_server_wrote_are_nobodys_to_name(site: SmallFacility, key: str) -> None:
    """What it calls its own is deleted with its node."""
    file = site.folder / "data" / "1001" / "a.npy"
    made = source("application/x-zarr", address(file), management="writable")
    assert register(site, key, "owned", made).status_code == 403
    register(site, key, "kept", source("application/x-npy", address(file)))
    there = held(site, key, "reduced/ours/kept")
    for management in ("writable", "immutable", "locked"):
        assert put(site, key, "reduced/ours/kept", there | {"management": management}).status_code == 403
    assert site.ask("DELETE", "/metadata/reduced/ours/kept?external_only=false", key).status_code == 200
    assert file.exists()


def test_rows_of_others_are_not_reached_through_ones_own_table(site: SmallFacility, key: str) -> None:
    admin = site.key("service:publisher", "publisher")
    at = "reduced/{}/attempt-0000/frames"
    ours, theirs = held(site, key, at.format("ours")), held(site, admin, at.format("theirs"))
    rows = {name: theirs["parameters"][name] for name in ("table_name", "dataset_id")}
    assert rows["dataset_id"] != ours["parameters"]["dataset_id"]
    (database,) = (asset["data_uri"] for asset in theirs["assets"])
    archive = source("application/x-hedm-archive-table", shape=(3,))
    # The server itself deletes the rows that a table had before it was handed over.
    kept = {"kept": {"uri": database, "since": 0.0, **rows}}
    for made in (
        ours | {"parameters": rows},
        ours | {"parameters": rows, "management": "external", "assets": []},
        ours | {"parameters": kept, "management": "external", "assets": []},
        ours | {"parameters": {}, "management": "external", "mimetype": "text/csv"},
        archive | {"parameters": kept, "id": ours["id"]},
    ):
        assert put(site, key, at.format("ours"), made).status_code == 403
    # Nor is theirs changed by way of ours.
    assert put(site, key, at.format("ours"), archive | {"id": theirs["id"]}).status_code == 404
    assert put(site, key, at.format("theirs"), archive | {"id": theirs["id"]}).status_code == 404
    assert held(site, admin, at.format("theirs")) == theirs
    assert "10020" in site.ask("GET", TABLE.replace("ours", "theirs"), admin).text
    assert "10020" not in site.ask("GET", TABLE, key).text


def test_a_run_of_nobodys_proposal_has_no_folder(site: SmallFacility) -> None:
    """Only its publisher would see it: with a file in it, that of any proposal."""
    key = site.key("service:publisher", "publisher")
    file = address(site.folder / "data" / "1001" / "a.npy")
    body = {"id": "mine", "structure_family": "array", "metadata": {}, "specs": []}
    body["data_sources"] = [source("application/x-npy", file)]
    assert site.ask("POST", "/register/reduced", key, json=body).status_code == 403
    # A node of two proposals shows to each what is the other's.
    tags = ["proposal_1001", "proposal_1002"]
    assert site.ask("POST", "/register/reduced", key, json=body | {"access_tags": tags}).status_code == 403
    # A node that is given to another proposal does not take its file along.
    body |= {"access_tags": ["proposal_1001"]}
    assert site.ask("POST", "/register/reduced", key, json=body).status_code == 200
    where = "/array/full/reduced/mine?format=application/json"
    assert site.ask("GET", where, key).json() == OURS.tolist()
    changed = {"content-type": "application/merge-patch+json", "specs": [], "access_tags": ["proposal_1002"]}
    assert site.ask("PATCH", "/metadata/reduced/mine", key, json=changed).status_code == 200
    assert site.ask("GET", where, key).status_code == 403


@pytest.mark.parametrize(
    ("path", "tags", "holds"),
    [
        ("data/1/a", ["p-1"], True),
        ("data/1/a", ["p-1", "hedmlive"], True),
        ("data/1/a", ["p-2"], False),
        ("data/1/a", ["p-1", "p-2"], False),
        ("data/1/a", [], False),
        ("data/1/a", ["hedmlive"], False),
        ("data/11/a", ["p-1"], False),
        ("data/staff/a", ["staff"], True),
        ("2026/run-1/x/a", ["p-1"], True),
        ("2026/run-2/x/a", ["p-1"], False),
        ("2026/x/run-1/a", ["p-1"], False),
        ("2026/run-1", ["p-1"], True),
        ("2026", ["p-1"], False),
        ("data/1/../2/a", ["p-1"], False),
        ("data/alias/a", ["p-1"], True),
        ("data/alias/a", ["p-alias"], True),
        ("elsewhere/1/a", ["p-1"], False),
        ("data/store/key", ["p-store"], False),
        ("data/a", ["p-.."], False),
        ("data/a", ["p-"], False),
        ("data/1/a", ["p-*"], False),
    ],
)
def test_whose_a_file_is(tmp_path: Path, path: str, tags: list[str], holds: bool) -> None:
    for name in ("data/1", "data/2", "data/store", "2026/run-1", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data" / "alias").symlink_to(tmp_path / "data" / "1")
    readable = [tmp_path / "data", tmp_path / "2026"]
    own = [tmp_path / "data" / "{proposal}", tmp_path / "*" / "run-{proposal}"]
    assert Folders(readable, tmp_path / "data" / "store", own, "p-").hold(tmp_path / path, tags) is holds
