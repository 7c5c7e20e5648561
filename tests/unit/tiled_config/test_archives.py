"""Archives in a catalogue, without a server: where links lead, and how tables are read from a file."""

import h5py
import numpy as np
import pytest
from starlette.exceptions import HTTPException
from tiled.storage import parse_storage, register_storage, unregister_storage
from tiled.structures.table import TableStructure

from hedmlive.streaming import TABLES, ArchiveError, SettingsError
from hedmlive.tiled_config import read_serve_settings, serve
from hedmlive.tiled_config.adapters import drop_rows
from hedmlive.tiled_config.archives_links import check_links
from hedmlive.tiled_config.archives_tables import ArchiveTableAdapter, in_served_folder
from hedmlive.tiled_config.formats import BATCH_ROWS, PARTITION_ROWS
from hedmlive.tiled_config.layout import table_schema

MEMBERS = TABLES["members"]


@pytest.fixture
def inside(tmp_path):
    """A folder that a server of this process serves."""
    made = tmp_path.resolve() / "inside"
    made.mkdir()
    folder = parse_storage(f"file://localhost{made}")
    register_storage(folder)
    yield made
    unregister_storage(folder)


@pytest.fixture
def outside(tmp_path):
    path = tmp_path / "outside.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(3)
        file["group/x"] = np.arange(3)
    return path


def test_only_what_really_lies_in_a_folder_is_in_it(inside, outside):
    (inside / "link.h5").symlink_to(outside)
    assert in_served_folder(inside / "a" / "b.h5")
    assert not in_served_folder(inside / "link.h5")
    assert not in_served_folder(inside / ".." / "outside.h5")
    assert not in_served_folder(inside)  # the folder itself is no file in it


LINKS = {
    "external": lambda file, out: file.__setitem__("bad", h5py.ExternalLink(str(out), "/x")),
    "relative": lambda file, out: file.__setitem__("bad", h5py.ExternalLink("../outside.h5", "/x")),
    "group on the way": lambda file, out: file.__setitem__("bad", h5py.ExternalLink(str(out), "/group")),
    "soft to external": lambda file, out: (
        file.__setitem__("hop", h5py.ExternalLink(str(out), "/x")),
        file.__setitem__("bad", h5py.SoftLink("/hop")),
    ),
    "virtual": lambda file, out: file.create_virtual_dataset("bad", virtual(out)),
    "virtual pattern": lambda file, out: pattern(file, b"../outside-%b.h5"),
    "storage": lambda file, out: file.create_dataset("bad", (1,), "u1", external=[(str(out), 0, 1)]),
    "endless": lambda file, out: file.__setitem__("bad", h5py.SoftLink("/bad/bad")),
}


def virtual(path):
    layout = h5py.VirtualLayout((3,), "i8")
    layout[:] = h5py.VirtualSource(str(path), "x", shape=(3,))
    return layout


def pattern(file, name):
    """A virtual dataset of as many files as there are: h5py has no call of its own for it."""
    space = h5py.h5s.create_simple((3,), (h5py.h5s.UNLIMITED,))
    space.select_hyperslab((0,), (h5py.h5s.UNLIMITED,), (3,), (3,))
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_virtual(space, name, b"x", h5py.h5s.create_simple((3,)))
    h5py.h5d.create(file.id, b"bad", h5py.h5t.NATIVE_INT64, space, properties)


@pytest.mark.parametrize("kind", LINKS)
def test_what_leads_out_is_refused(inside, outside, kind):
    path = inside / "a.h5"
    with h5py.File(path, "w") as file:
        file["good/x"] = np.arange(3)
        LINKS[kind](file, outside)
    check_links(path, "/good/x", in_served_folder)
    check_links(path, "/good", in_served_folder, deep=True)
    with pytest.raises(ArchiveError, match=r"a\.h5|outside\.h5"):
        check_links(path, "/bad/x" if "group" in kind else "/bad", in_served_folder)
    with pytest.raises(ArchiveError):
        check_links(path, "/", in_served_folder, deep=True)


def test_links_inside_are_followed_and_what_is_missing_is_no_danger(inside):
    with h5py.File(inside / "frames.h5", "w") as file:
        file["x"] = np.arange(3)
    path = inside / "a.h5"
    with h5py.File(path, "w") as file:
        file["beside"] = h5py.ExternalLink("frames.h5", "/x")
        file["later"] = h5py.ExternalLink("not-yet.h5", "/x")
        file["soft"] = h5py.SoftLink("/beside")
        file["nothing"] = h5py.SoftLink("/nowhere")
        file.create_virtual_dataset("virtual", virtual("frames.h5"))
        file["group/itself"] = file["/"]
        file["loop"] = h5py.SoftLink("/loop")
    check_links(path, "/", in_served_folder, deep=True)


# ---------------------------------------------------------------- tables


def write(path, n, uid="u", columns=MEMBERS.names):
    with h5py.File(path, "w") as file:
        group = file.create_group("reduction_0000/members")
        group.parent.attrs["reduction_uid"] = uid
        for place, name in enumerate(columns):
            group[name] = np.arange(n + (place == 0), dtype="i8")
    return path


def adapter(path, parts=1, **options):
    structure = TableStructure.from_schema(table_schema(MEMBERS), parts)
    return ArchiveTableAdapter(path, structure, "/reduction_0000/members", "u", **options)


def test_columns_rows_and_partitions(inside):
    n = PARTITION_ROWS + 10
    path = write(inside / "a_reduced.h5", n)
    table = adapter(path, 2)
    whole = table.read()
    assert list(whole) == ["batch", *MEMBERS.names]
    assert len(whole) == n  # a column that is further does not count
    assert list(table.read(["frame"])) == ["frame"]
    parts = [table.read_partition(part, ["frame"]) for part in (0, 1)]
    assert [len(part) for part in parts] == [PARTITION_ROWS, 10]
    assert np.concatenate([part["frame"] for part in parts]).tolist() == whole["frame"].tolist()
    # Whoever knows of one partition only gets all rows in it.
    assert len(adapter(path, 1).read_partition(0)) == n
    frames = table.get("frame")
    assert frames is not None
    assert frames.read().tolist() == whole["frame"].tolist()
    assert table.get("nothing") is None


def test_batches_are_numbered_as_they_were_appended(inside):
    path = write(inside / "a_reduced.h5", 5)
    assert adapter(path, batches=[2, 0, 3]).read(["batch"])["batch"].tolist() == [1, 1, 3, 3, 3]
    path = write(inside / "b_reduced.h5", BATCH_ROWS + 1)
    numbers = adapter(path).read(["batch"])["batch"].to_numpy()
    assert (numbers[0], numbers[BATCH_ROWS - 1], numbers[BATCH_ROWS], numbers.dtype) == (1, 1, 2, np.int64)


def test_an_empty_table_has_its_columns(inside):
    with h5py.File(inside / "a.h5", "w") as file:
        group = file.create_group("reduction_0000/members")
        group.parent.attrs["reduction_uid"] = "u"
        for name in MEMBERS.names:
            group.create_dataset(name, (0,), "i8")
    frame = adapter(inside / "a.h5").read()
    assert (len(frame), list(frame)) == (0, ["batch", *MEMBERS.names])


def test_another_file_in_its_place_is_told(inside, outside):
    with pytest.raises(HTTPException, match="reduction other lies there now") as told:
        adapter(write(inside / "a.h5", 3, uid="other")).read()
    assert told.value.status_code == 409
    with pytest.raises(HTTPException, match="is not in the file itself"):
        adapter(write(inside / "b.h5", 3, columns=MEMBERS.names[:-1])).read()
    with pytest.raises(HTTPException, match="is not there any more") as told:
        adapter(inside / "missing.h5").read()
    assert told.value.status_code == 409
    with pytest.raises(HTTPException, match="outside the folders") as told:
        adapter(outside).read()
    assert told.value.status_code == 403


# ---------------------------------------------------------------- settings


def test_settings_of_archives(tmp_path):
    file = tmp_path / "serve.yml"
    file.write_text("folder: catalogue\narchives: [data]\nkeep_rows: 5\n")
    settings = read_serve_settings(file)
    assert (settings.archives, settings.hand_over, settings.keep_rows) == ((tmp_path / "data",), True, 5.0)
    with pytest.raises(SettingsError, match="keep_rows"):
        read_serve_settings({"folder": "x", "keep_rows": 0})
    with pytest.raises(SettingsError, match="only `hedmlive serve`"):
        serve(file)


@pytest.mark.parametrize("name", ["users", 'hedm_x" --', "hedm_a;b"])
def test_rows_of_foreign_tables_are_not_dropped(name):
    with pytest.raises(SettingsError, match="wanted one of ours"):
        drop_rows("sqlite:///nowhere.db", name, 1)
