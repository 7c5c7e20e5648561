"""Documents in: roles, frame assembly, archives, the worker, publishing, replay and foreign files."""

from .assembler import FrameAssembler, Pending
from .foreign import frame_cache_documents
from .live import HedmLive, hedm_live_init
from .problems import Problem, Problems
from .publisher import Publisher, ResultSink, make_sink
from .raw_archive import RawArchive, RawArchiveReader
from .reduced_archive import ReducedArchive, ReducedArchiveReader
from .replay import Source, open_source, process, run_documents
from .run import Progress, RunReduction, RunResult
from .settings import Settings, load_settings

__all__ = [
    "FrameAssembler",
    "HedmLive",
    "Pending",
    "Problem",
    "Problems",
    "Progress",
    "Publisher",
    "RawArchive",
    "RawArchiveReader",
    "ReducedArchive",
    "ReducedArchiveReader",
    "ResultSink",
    "RunReduction",
    "RunResult",
    "Settings",
    "Source",
    "frame_cache_documents",
    "hedm_live_init",
    "load_settings",
    "make_sink",
    "open_source",
    "process",
    "run_documents",
]
