"""The frames that a detector writes to HDF5, followed as they land and told as StreamResource and StreamDatum.

Whatever arms and triggers the detector need not know of it: what lands is known by the file plugin's count of captured
frames (`PluginFrames`), or by the growing file itself (`FileFrames`).
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from event_model import ComposeStreamResource

from ..streaming.errors import FrameError

_DTYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")

Assets = Iterator[tuple[str, dict[str, Any]]]


class Writer(Protocol):
    """Writes frames and tells of them: a detector of ophyd-async, a simulated one, or `HDF5Frames`."""

    name: str

    def get_index(self) -> int:
        """Return how many frames can be told of, since it was staged."""
        ...

    def collect_asset_docs(self, index: int | None = None) -> Assets:
        """Give the documents of the frames before `index` that were not told of yet."""
        ...


@dataclass(slots=True, kw_only=True)
class _File:
    """One file of a detector."""

    path: Path
    "Where it is."
    first: int
    "Frames in the files before it."
    n: int = 0
    "Frames in it, as far as is known."
    compose: Callable[..., Any] | None = field(default=None)
    "Makes its StreamDatum; None before it was told of."


class HDF5Frames:
    """The frames of one detector in one HDF5 file after the other.

    Parameters
    ----------
    name
        Name of the detector.
    key
        Data key of its images; `<name>_image` without it.
    dataset
        Where they lie in the file, shape (frames, rows, columns).
    """

    def __init__(self, *, name: str, key: str = "", dataset: str = "/entry/data/data") -> None:
        self.name = name
        self.parent = None
        self.key = key or f"{name}_image"
        self.dataset = dataset
        self._files: list[_File] = []
        self._told = 0
        # Asked by the plan, and by the thread of a flyer.
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Follow what is written from now on; what is there already is of another scan."""
        with self._lock:
            self._files, self._told = [], 0
            self._forget()

    def get_index(self) -> int:
        """Return how many frames can be told of: up to the end of the oldest file that is not told of whole."""
        with self._lock:
            self._follow()
            return next((f.first + f.n for f in self._files if f.first + f.n > self._told), self._told)

    def describe_collect(self) -> dict[str, Any]:
        """Describe the image, as it was written.

        Raises
        ------
        FrameError
            No frame is there yet.
        """
        rows, cols, dtype = self._described()
        image = {"source": self._source(), "dtype": "array", "dtype_numpy": dtype, "shape": [1, rows, cols]}
        return {self.key: image | {"external": "STREAM:"}}

    def collect_asset_docs(self, index: int | None = None) -> Assets:
        """Give a StreamResource for a file that is new, and one StreamDatum for its frames since the last call."""
        index = self.get_index() if index is None else index
        with self._lock:
            file = next((f for f in self._files if f.first + f.n > self._told), None)
            stop = 0 if file is None else min(index, file.first + file.n)
            if file is None or stop <= self._told:
                return
            if file.compose is None:
                bundle = ComposeStreamResource()(
                    mimetype="application/x-hdf5",
                    uri=file.path.absolute().as_uri().replace("file:///", "file://localhost/", 1),
                    data_key=self.key,
                    parameters={"dataset": self.dataset, "chunk_shape": [1]},
                )
                file.compose = bundle.compose_stream_datum
                yield "stream_resource", dict(bundle.stream_resource_doc)
            start, self._told = self._told, stop
            # The RunEngine fills in descriptor and seq_nums.
            yield "stream_datum", dict(file.compose(indices={"start": start - file.first, "stop": stop - file.first}))

    def _follow(self) -> None:
        for path, n in self._look():
            if not self._files or self._files[-1].path != path:
                if self._files:
                    # What came into the last file since it was looked at.
                    last = self._files[-1]
                    last.n = max(last.n, _shape_of(last.path, self.dataset)[0])
                self._files.append(_File(path=path, first=sum(file.n for file in self._files)))
            self._files[-1].n = max(self._files[-1].n, n)

    def _forget(self) -> None:
        """Take what is there now as old."""
        raise NotImplementedError

    def _look(self) -> list[tuple[Path, int]]:
        """Return the files since then, oldest first, with the frames that each holds."""
        raise NotImplementedError

    def _source(self) -> str:
        raise NotImplementedError

    def _described(self) -> tuple[int, int, str]:
        with self._lock:
            self._follow()
            paths = [file.path for file in self._files if file.n]
        for path in paths:
            _, shape, dtype = _shape_of(path, self.dataset)
            if len(shape) == 2:
                return shape[0], shape[1], dtype
        raise FrameError(
            f"detector {self.name!r} has no frame in {self.dataset} yet, so that its shape is not known: declare its "
            "stream when the first has come"
        )


class PluginFrames(HDF5Frames):
    """Frames as the HDF5 plugin of an area detector counts them.

    Where the plugin puts the frames of one file into several datasets (darks beside the data), its count is of all:
    follow the file itself then, with `FileFrames`.

    Parameters
    ----------
    plugin
        ophyd's HDF5 plugin, or anything with its signals `num_captured`, `full_file_name`, `array_size` (with `height`
        and `width`) and `data_type`.
    name, key, dataset
        As for `HDF5Frames`.
    read_root
        Folder as the detector's computer sees it -> the same folder as this computer does.
    """

    def __init__(
        self,
        plugin: Any,
        *,
        name: str,
        key: str = "",
        dataset: str = "/entry/data/data",
        read_root: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name=name, key=key, dataset=dataset)
        self._plugin = plugin
        self._roots = dict(read_root or {})
        self._before: tuple[str, int] | None = None

    def _forget(self) -> None:
        self._before = self._now()

    def _look(self) -> list[tuple[Path, int]]:
        now = self._now()
        # Until capturing begins the plugin shows the last scan's file and count; it sets back the count first.
        if now == self._before or not now[0]:
            return []
        if self._before is not None and now == (self._before[0], 0):
            self._before = now
            return []
        self._before = None
        return [(self._here(now[0]), now[1])]

    def _now(self) -> tuple[str, int]:
        return str(self._plugin.full_file_name.get()), int(self._plugin.num_captured.get())

    def _here(self, path: str) -> Path:
        for there, here in self._roots.items():
            if path.startswith(there):
                return Path(here) / path.removeprefix(there).lstrip("/\\").replace("\\", "/")
        return Path(path)

    def _source(self) -> str:
        return str(getattr(self._plugin, "prefix", "") or self._plugin.name)

    def _described(self) -> tuple[int, int, str]:
        try:
            return super()._described()
        except FrameError:
            # A file that is not written in SWMR mode cannot be opened yet; the plugin knows what it has captured.
            size = self._plugin.array_size
            shape, kind = (int(size.height.get()), int(size.width.get())), str(self._plugin.data_type.get()).lower()
            if kind not in _DTYPES or not all(shape) or not self.get_index():
                raise
            return *shape, np.dtype(kind).newbyteorder("<").str


class FileFrames(HDF5Frames):
    """Frames as they appear in new files of a folder.

    A file that is not written in SWMR mode shows its frames when it is closed.

    Parameters
    ----------
    folder
        The folder, as this computer sees it.
    pattern
        Names of the files, with wildcards; those that are there at the beginning are left out.
    name, key, dataset
        As for `HDF5Frames`.
    """

    def __init__(
        self, folder: str | Path, pattern: str = "*.h5", *, name: str, key: str = "", dataset: str = "/entry/data/data"
    ) -> None:
        super().__init__(name=name, key=key, dataset=dataset)
        self._folder = Path(folder)
        self._pattern = pattern
        self._old: set[Path] = set()

    def _forget(self) -> None:
        self._old = set(self._folder.glob(self._pattern))

    def _look(self) -> list[tuple[Path, int]]:
        seen = [file.path for file in self._files]
        new = set(self._folder.glob(self._pattern)) - self._old - set(seen)
        # Those before the newest are complete, and were looked at for the last time when the next one came.
        paths = [*seen[-1:], *sorted(new, key=_written)]
        found = [(path, _shape_of(path, self.dataset)[0]) for path in paths]
        return [(path, n) for path, n in found if n or path in seen]

    def _source(self) -> str:
        return str(self._folder / self._pattern)


def _written(path: Path) -> tuple[float, str]:
    try:
        return path.stat().st_mtime, str(path)
    except OSError:
        return 0.0, str(path)


def _shape_of(path: Path, dataset: str) -> tuple[int, tuple[int, ...], str]:
    """Return the frames in a file, their shape and type; none while it cannot be read."""
    try:
        with h5py.File(path, "r", swmr=True) as file:
            data: Any = file[dataset]
            return int(data.shape[0]), tuple(data.shape[1:]), str(data.dtype.newbyteorder("<").str)
    except (OSError, KeyError, RuntimeError, ValueError, AttributeError, IndexError):
        return 0, (), ""
