"""The real scan gives one digest whichever way it takes: file, raw archive, Tiled, and documents in any batching."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from hedmlive.callbacks import RunResult, load_settings, make_sink, open_source, process
from hedmlive.tiled_config import EmbeddedServer

DIGEST = "e4e0c79863a21e6a8dd3a49be451d9af4ef6c028d98f844581953bebd5ad56fb"
RECIPE = {"threshold": 300, "min_pixels": 2}
KEY = "rubytestkey0123456789"


def one_datum(documents: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Put one StreamDatum over all frames in the place of one a frame, behind the events, as Tiled exports it."""
    last: dict[str, Any] = {}
    for name, doc in documents:
        if name == "stream_datum":
            last = dict(doc)
            continue
        if name == "stop":
            for part, first in (("indices", 0), ("seq_nums", 1)):
                last[part] = dict(last[part]) | {"start": first}
            yield "stream_datum", last
        yield name, doc


def test_one_digest(tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEDMLIVE_TILED_KEY", KEY)

    def reduce(where: str, out: str, *, batched: bool = False, uri: str | None = None) -> RunResult:
        source = open_source(where)
        assert source.settings is not None
        plain = dict(source.settings) | {
            "recipe": RECIPE,
            "archive": {"folder": str(tmp_path / out)},
            "tiled": None if uri is None else {"uri": uri},
        }
        result = process(
            one_datum(source.documents) if batched else source.documents,
            load_settings(plain),
            stem=out,
            write_raw=source.write_raw,
            sink=None if uri is None else lambda: make_sink("tiled", uri, KEY),
        )
        assert result.problems == ()
        assert result.digests == {0: DIGEST}
        return result

    file = str(shared_data / "ruby_ff1" / "ruby_ff1.npz")
    with EmbeddedServer(tmp_path / "tiled", readable=[tmp_path], api_key=KEY) as server:
        direct = reduce(file, "direct", uri=server.uri)
        address = server.uri.removeprefix("http://").split("/")[0]
        reduce(f"tiled://{address}/{direct.uid}", "from_tiled")
    assert direct.raw is not None
    reduce(str(direct.raw), "from_raw")
    reduce(file, "batched", batched=True)
