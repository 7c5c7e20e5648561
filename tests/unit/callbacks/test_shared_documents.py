"""Documents that others recorded, and a scan of a real ruby."""

import json
from pathlib import Path
from typing import Any

import h5py
import hostile
import numpy as np
import pytest

from hedmlive.callbacks import HedmLive, ReducedArchiveReader, load_settings, open_source, process


def documents(path: Path) -> hostile.Documents:
    return [(name, dict(doc)) for name, doc in open_source(str(path)).documents]


def test_runs_that_are_not_hedm_leave_nothing(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "documents"
    files = sorted([*folder.glob("apstools/*.json"), *folder.glob("bluesky_tutorials/*.jsonl")])
    live = HedmLive(hostile.settings(tmp_path))
    try:
        for file in files:
            for name, doc in documents(file):
                live(name, doc)
        assert (live.uids, live.problems.lines(), list(tmp_path.iterdir())) == ((), [], [])
    finally:
        live.close()
    assert len(files) > 20


@pytest.mark.parametrize("name", ["external_assets", "external_assets_legacy", "external_assets_single_key"])
def test_templates(name: str, shared_data: Path, tmp_path: Path) -> None:
    content = (shared_data / "documents" / "templates" / f"{name}.json").read_text()
    content = content.replace("{{ uuid }}", "0" * 8).replace("{{ root_path }}", str(tmp_path).lstrip("/"))
    docs: Any = [(each["name"], each["doc"]) for each in json.loads(content)]
    for kind, doc in docs:
        if kind == "resource":
            doc["root"] = "/" + doc["root"]
    key = next(
        key
        for kind, doc in docs
        if kind == "descriptor"
        for key, value in doc["data_keys"].items()
        if len(value["shape"]) == 3
    )
    frames = np.arange(12 * 13 * 17).reshape(12, 13, 17) % 50
    with h5py.File(tmp_path / "dataset.h5", "w") as file:
        file["entry/data/data_1"] = np.arange(12.0)
        file["entry/data/data_2"] = frames
    settings = {
        "detectors": [{"name": "det", "image": key}],
        "recipe": {"threshold": 10},
        "archive": {"folder": str(tmp_path)},
        "worker": {"file_seconds": 0},
    }
    result = process(docs, load_settings(settings), stem="template")
    assert result.problems == ()
    with ReducedArchiveReader(tmp_path / "template_reduced.h5") as reader:
        read = reader.read(0, "frames")
    wanted = (frames[: len(read["frame"])] > 10).sum(axis=(1, 2))
    assert len(wanted) >= 3
    np.testing.assert_array_equal(read["n_lit"], wanted)


@pytest.mark.slow
def test_ruby(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "ruby_ff1"
    wanted = next(iter(json.loads((folder / "expected.json").read_text()).values()))

    def reduce(where: Path, out: Path) -> dict[int, str]:
        source = open_source(str(where))
        recipe = {"threshold": 300, "min_pixels": 2}
        settings = load_settings({**(source.settings or {}), "recipe": recipe, "archive": {"folder": str(out)}})
        result = process(source.documents, settings, stem=source.stem, write_raw=source.write_raw)
        assert result.problems == ()
        return dict(result.digests)

    digests = reduce(folder / "ruby_ff1.npz", tmp_path)
    assert reduce(tmp_path / "ruby_ff1_raw.h5", tmp_path / "again") == digests
    with ReducedArchiveReader(tmp_path / "ruby_ff1_reduced.h5") as reader:
        tables = {name: reader.read(0, name) for name in ("peaks", "links", "tracks", "pixels")}
        assert reader.digest(0) == digests[0]
    assert len(tables["peaks"]["peak"]) == wanted["n_peaks"]
    assert len(tables["links"]["axis"]) == wanted["n_links"]
    assert len(tables["tracks"]["track"]) == wanted["n_tracks"]
    assert len(tables["pixels"]["row"]) == wanted["n_pixels"]
    assert tables["peaks"]["sum_intensity"].sum() == wanted["sum_intensity"]
    assert tables["links"]["n_shared_pixels"].sum() == wanted["shared"]
