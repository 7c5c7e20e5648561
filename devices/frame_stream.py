"""The frames of some detectors as one stream of documents, with the controller that fires them."""

import math
import time
from collections.abc import Sequence
from typing import Any

from ophyd import Signal

from .frames import Assets, HDF5Frames, Writer


class FrameStream:
    """The frames of some detectors as one stream of documents, for `declare_stream(..., collect=True)` and `collect`.

    The descriptor's configuration holds what the devices of `configuration` hold, and of a fly controller
    `<name>_start`, `<name>_end`, `<name>_delta` as it has them, beside `<name>_step`, which is delta with the sign of
    the sweep, and `<name>_frames`.

    Parameters
    ----------
    writers
        The detectors. A frame is told of when all of them have it.
    name
        Name of the object.
    controller
        The fly controller, with signals `start`, `end` and `delta`.
    configuration
        Further devices and signals whose values belong to the frames.
    """

    def __init__(
        self, writers: Sequence[Any], *, name: str, controller: Any = None, configuration: Sequence[Any] = ()
    ) -> None:
        self.name = name
        self.parent = None
        self.controller = controller
        self.writers: tuple[Writer, ...] = tuple(writers)
        self.n_told = 0
        "Frames that were told of, since it was staged or begun."
        self._n_skipped = 0
        self._configured = (*(() if controller is None else (controller,)), *configuration)

    @property
    def hints(self) -> dict[str, Any]:
        """Name no field: an image is nothing to plot against a motor."""
        return {"fields": []}

    def begin(self) -> None:
        """Follow what is written from now on, by whatever arms the detectors."""
        self.n_told = 0
        for writer in self.writers:
            if isinstance(writer, HDF5Frames):
                writer.begin()

    def n_ready(self) -> int:
        """Return how many frames can be told of: as many as every detector has."""
        return min(writer.get_index() for writer in self.writers)

    def describe_collect(self) -> dict[str, Any]:
        """Describe the images."""
        keys: dict[str, Any] = {}
        for writer in self.writers:
            keys |= getattr(writer, "describe_collect", getattr(writer, "describe", None))()  # pyright: ignore[reportOptionalCall]
        return keys

    def collect_asset_docs(self) -> Assets:
        """Give the documents of the frames since the last call, as many of each detector."""
        n = self.n_ready()
        self.n_told = max(self.n_told, n)
        for writer in self.writers:
            for name, doc in writer.collect_asset_docs(n):
                if name == "stream_datum" and self._n_skipped:
                    # They stay in the file, and are in no event.
                    indices = doc["indices"] | {"start": max(doc["indices"]["start"], self._n_skipped)}
                    if indices["start"] >= indices["stop"]:
                        continue
                    doc = doc | {"indices": indices}
                yield name, doc

    def describe_configuration(self) -> dict[str, Any]:
        """Describe the configuration."""
        described: dict[str, Any] = {}
        for device in self._configured:
            described |= device.describe() if isinstance(device, Signal) else device.describe_configuration()
        for key, value in self._sweep().items():
            kind = "integer" if isinstance(value, int) else "number"
            described[key] = {"source": f"computed:{self.controller.name}", "dtype": kind, "shape": []}
        return described

    def read_configuration(self) -> dict[str, Any]:
        """Read the configuration."""
        reading: dict[str, Any] = {}
        for device in self._configured:
            reading |= device.read() if isinstance(device, Signal) else device.read_configuration()
        now = time.time()
        return reading | {key: {"value": value, "timestamp": now} for key, value in self._sweep().items()}

    def _sweep(self) -> dict[str, float | int]:
        """Return the signed step of the controller's sweep and its frames; nothing before it was set up."""
        if self.controller is None:
            return {}
        start, end, delta = (float(getattr(self.controller, key).get()) for key in ("start", "end", "delta"))
        if not delta or start == end:
            return {}
        name = self.controller.name
        # Rounded: a sweep that is not a whole number of frames is the controller's to refuse.
        return {
            f"{name}_step": math.copysign(delta, end - start),
            f"{name}_frames": round(abs((end - start) / delta)),
        }
