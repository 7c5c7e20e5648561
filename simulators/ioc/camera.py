"""A simulated area detector: a camera that takes frames, and a plugin that writes them."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from caproto import SkipWrite

from ...devices import GE_HEADER, AreaDetectorSettings, area_detector_class
from ..frames import Frame
from .files import EXCHANGE, ExchangeFile, FrameFile, GeFile, ScanParameters, Taken
from .pvs import AnyPv, integer, make_pvs, number, short_text, text, words

_TRIGGERS = {
    "dexela": ("Internal: Software", "External: Edge Single", "External: Edge Multi", "External"),
    "eiger": ("Internal Series", "Internal Enable", "External Series", "External Enable"),
    "pilatus": ("Internal", "Ext. Enable", "Ext. Trigger", "Mult. Trigger", "Alignment"),
    "varex": ("Internal", "External", "Free Running", "Soft Trigger"),
}
"""What TriggerMode takes, by kind; what is not named here takes Internal and External."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """One exposure: the rotation sweeps from start to end."""

    start: float
    "[degrees]"
    end: float
    "[degrees]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a detector asks of the beamline around it."""

    render: Callable[[Pulse, int, bool], Frame]
    "draws exposure number i, in the light or in the dark; called from threads"
    standing: Callable[[], Pulse]
    "what an exposure now would sweep"
    lit: Callable[[], bool]
    "whether the shutter is open"
    stages: Callable[[], dict[str, float]]
    "positions of all motors"
    parameters: Callable[[], ScanParameters]
    "what the fly controller is set to"
    rotation: str
    "name of the rotation"
    drops: Callable[[int], bool]
    "the fault: whether frame i of a file is to be lost"
    file_late: Callable[[], float]
    "the fault: how much later frames come to their file [s]"


class Camera:
    """The PVs of one area detector, and what they do.

    Parameters
    ----------
    settings
        Of the detector: names and PVs.
    shape
        Rows, columns.
    around
        The beamline.
    frames_per_second
        It takes no more.
    compress
        Whether HDF5 files are compressed.
    """

    def __init__(
        self,
        settings: AreaDetectorSettings,
        shape: tuple[int, int],
        around: Surroundings,
        *,
        frames_per_second: float,
        compress: bool,
    ) -> None:
        self._settings, self._shape, self._around, self._compress = settings, shape, around, compress
        self._shortest = 1.0 / frames_per_second
        self._exchange = settings.dataset in EXCHANGE or settings.dataset_by_frame_type
        self._cam, self._file = self._camera_pvs(), self._plugin_pvs()
        # What a camera and a driver that writes files have in common stands under the same PVs.
        known = {settings.cam_suffix + name: pv for name, pv in self._cam.items()}
        known |= {settings.file_suffix + name: pv for name, pv in self._file.items()}
        cls = area_detector_class(settings.cam_suffix, settings.file_suffix, kind=settings.kind, writer=settings.writer)
        self.pvs = make_pvs(cls, settings.prefix, known)
        "Every PV of the detector."
        self.pulses: asyncio.Queue[Pulse] = asyncio.Queue(maxsize=4)
        self.armed = False
        "Whether it waits for pulses."
        self._acquisition: asyncio.Task[None] | None = None
        self._open: FrameFile | None = None
        self._n_seen = 0
        # One thread each: frames are drawn ahead of the one that is written, and written in order.
        self._drawer = ThreadPoolExecutor(1, thread_name_prefix="draw")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._late: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """End what it does, and close its file."""
        with suppress(SkipWrite):
            await self._acquire(0)
        await self._capture(0)
        self._drawer.shutdown()
        self._writer.shutdown()

    # PVs with a meaning

    def _camera_pvs(self) -> dict[str, AnyPv]:
        rows, cols = self._shape
        triggers = _TRIGGERS.get(self._settings.kind, ("Internal", "External"))
        kinds = EXCHANGE if self._exchange else ("Normal", "Background", "FlatField")
        pvs: dict[str, AnyPv] = {
            "Acquire": integer(0),
            "AcquireTime": number(0.0, "s"),
            "AcquirePeriod": number(0.0, "s"),
            "ArrayCallbacks": words("Enable", "Disable", "Enable"),
            "ArrayCounter": integer(0),
            "DataType": words("UInt16", "Int8", "UInt8", "Int16", "UInt16"),
            "DetectorState": words("Idle", "Idle", "Acquire"),
            "FrameType": words(kinds[0], *kinds),
            "ImageMode": words("Single", "Single", "Multiple", "Continuous"),
            "Manufacturer": short_text("hedmlive"),
            "Model": short_text(f"simulated {self._settings.kind}"),
            "NumExposures": integer(1),
            "NumImages": integer(1),
            "NumImagesCounter": integer(0),
            "TriggerMode": words(triggers[0], *triggers),
            "PortName": short_text(f"{self._settings.name}_cam"),
            **{name: integer(cols) for name in ("ArraySizeX", "SizeX", "MaxSizeX")},
            **{name: integer(rows) for name in ("ArraySizeY", "SizeY", "MaxSizeY")},
            "ArraySize": integer(2 * rows * cols),
        }
        pvs["Acquire"].on_put = self._acquire
        return pvs

    def _plugin_pvs(self) -> dict[str, AnyPv]:
        rows, cols = self._shape
        yes_no = ("No", "Yes")
        pvs: dict[str, AnyPv] = {
            "AutoIncrement": words("Yes", *yes_no),
            "AutoSave": words("No", *yes_no),
            "BlockingCallbacks": words("No", *yes_no),
            "Capture": integer(0),
            "ColorMode": words("Mono", "Mono"),
            "DataType": words("UInt16", "Int8", "UInt8", "Int16", "UInt16"),
            "DroppedArrays": integer(0),
            "EnableCallbacks": words("Enable", "Disable", "Enable"),
            "FileName": text(""),
            "FileNumber": integer(0),
            "FilePath": text(""),
            "FilePathExists": integer(0),
            "FileTemplate": text("%s%s_%6.6d.h5"),
            "FileWriteMode": words("Single", "Single", "Capture", "Stream"),
            "FullFileName": text(""),
            "NDArrayPort": short_text(f"{self._settings.name}_cam"),
            "NDimensions": integer(2),
            "NumCapture": integer(0),
            "NumCaptured": integer(0),
            "PluginType": short_text("NDFileHDF5"),
            "PortName": short_text(f"{self._settings.name}_file"),
            "StoreAttr": words("Yes", *yes_no),
            "StorePerform": words("No", *yes_no),
            "SWMRMode": words("Off", "Off", "On"),
            "ArraySize0": integer(cols),
            "ArraySize1": integer(rows),
        }
        pvs["Capture"].on_put = self._capture
        pvs["FilePath"].on_put = self._find_folder
        return pvs

    # Camera

    async def _acquire(self, value: int) -> None:
        running, self._acquisition = self._acquisition, None
        if running is not None:
            running.cancel()
            await asyncio.wait([running])
        if value:
            # A task of its own: it goes on when the client that asked for it is gone.
            self._acquisition = task = asyncio.create_task(self._take_all())
            await asyncio.wait([task])
        # The task has posted 1 and 0 itself.
        raise SkipWrite

    async def _take_all(self) -> None:
        cam = self._cam
        mode = cam["ImageMode"].value
        wanted = {"Single": 1, "Multiple": int(cam["NumImages"].value)}.get(mode)
        external = "ext" in str(cam["TriggerMode"].value).lower()
        while not self.pulses.empty():
            self.pulses.get_nowait()
        self.armed = external
        await cam["Acquire"].post(1)
        await cam["DetectorState"].post("Acquire")
        await cam["NumImagesCounter"].post(0)
        try:
            await (self._on_pulses(wanted) if external else self._by_itself(wanted))
        finally:
            self.armed = False
            await cam["DetectorState"].post("Idle")
            await cam["Acquire"].post(0)

    async def _by_itself(self, wanted: int | None) -> None:
        loop, taken = asyncio.get_running_loop(), 0
        while wanted is None or taken < wanted:
            began = loop.time()
            period = max(self._cam["AcquirePeriod"].value, self._cam["AcquireTime"].value, self._shortest)
            await self._deliver(*await self._draw(self._around.standing(), self._n_seen))
            taken += 1
            await asyncio.sleep(max(period - (loop.time() - began), 0))

    async def _on_pulses(self, wanted: int | None) -> None:
        # The next frame is drawn while this one is written.
        ahead: asyncio.Task[tuple[Frame, Pulse, float]] | None = None
        drawn = 0
        try:
            while wanted is None or drawn < wanted:
                task = asyncio.create_task(self._draw(await self.pulses.get(), self._n_seen + (ahead is not None)))
                drawn += 1
                if ahead is not None:
                    await self._deliver(*await ahead)
                ahead = task
                if self.pulses.empty() or drawn == wanted:
                    await self._deliver(*await ahead)
                    ahead = None
        finally:
            if ahead is not None:
                ahead.cancel()

    async def _draw(self, pulse: Pulse, index: int) -> tuple[Frame, Pulse, float]:
        run = asyncio.get_running_loop().run_in_executor
        return await run(self._drawer, self._around.render, pulse, index, self._around.lit()), pulse, time.time()

    async def _deliver(self, image: Frame, pulse: Pulse, taken: float) -> None:
        frame_type = str(self._cam["FrameType"].value)
        frame = Taken(
            image=image,
            omega=pulse.start,
            time=taken,
            unique_id=self._n_seen,
            dataset=frame_type if frame_type.startswith("/") else self._settings.dataset,
            stages=self._around.stages(),
        )
        number_in_file, self._n_seen = self._n_seen, self._n_seen + 1
        await self._write(frame, number_in_file)
        for name in ("NumImagesCounter", "ArrayCounter"):
            await self._cam[name].post(int(self._cam[name].value) + 1)

    # File plugin

    async def _find_folder(self, path: str) -> str:
        folder = Path(path)
        exists = folder.is_dir()
        if not exists and folder.is_absolute():
            try:
                folder.mkdir(parents=True)
                exists = True
            except OSError:
                exists = False
        await self._file["FilePathExists"].post(int(exists))
        return path if path.endswith("/") else f"{path}/"

    async def _capture(self, value: int) -> int:
        await self._end_file()
        if value:
            await self._begin_file()
        return int(bool(value))

    async def _begin_file(self) -> None:
        pvs = self._file
        name = pvs["FileTemplate"].value % (pvs["FilePath"].value, pvs["FileName"].value, int(pvs["FileNumber"].value))
        run = asyncio.get_running_loop().run_in_executor
        self._open = await run(self._writer, self._opened, Path(name))
        self._n_seen = 0
        await pvs["NumCaptured"].post(0)
        await pvs["DroppedArrays"].post(0)
        await pvs["FullFileName"].post(name)
        if pvs["AutoIncrement"].value == "Yes":
            await pvs["FileNumber"].post(int(pvs["FileNumber"].value) + 1)

    def _opened(self, path: Path) -> FrameFile:
        if self._settings.writer == "ge":
            return GeFile(path, GE_HEADER)
        datasets = EXCHANGE if self._exchange else (self._settings.dataset,)
        return ExchangeFile(
            path,
            self._shape,
            datasets,
            self._around.parameters(),
            rotation=self._around.rotation,
            stages=list(self._around.stages()),
            compress=self._compress,
        )

    async def _end_file(self) -> None:
        if self._late:
            await asyncio.wait(self._late)
        if self._open is not None:
            file, self._open = self._open, None
            await asyncio.get_running_loop().run_in_executor(self._writer, file.close)

    async def _write(self, frame: Taken, number_in_file: int) -> None:
        if self._open is None:
            return
        if self._around.drops(number_in_file):
            await self._file["DroppedArrays"].post(int(self._file["DroppedArrays"].value) + 1)
            return
        late = self._around.file_late()
        writing = asyncio.create_task(self._write_later(self._open, frame, late))
        if late:
            self._late.add(writing)
            writing.add_done_callback(self._late.discard)
        else:
            await writing

    async def _write_later(self, file: FrameFile, frame: Taken, late: float) -> None:
        if late:
            await asyncio.sleep(late)
        await asyncio.get_running_loop().run_in_executor(self._writer, file.append, frame)
        captured = int(self._file["NumCaptured"].value) + 1
        await self._file["NumCaptured"].post(captured)
        wanted = int(self._file["NumCapture"].value)
        if wanted and captured >= wanted and file is self._open:
            self._open = None
            await asyncio.get_running_loop().run_in_executor(self._writer, file.close)
            await self._file["Capture"].post(0)
