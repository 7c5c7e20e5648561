"""Documents in: roles, frame assembly, archives, the worker, publishing, replay and foreign files."""

from .assembler import FrameAssembler
from .encoding import ArchivedImage
from .foreign import frame_cache_documents
from .live import HedmLive, hedm_live_init
from .neighbours import Neighbours, neighbours_of
from .parts import Parts
from .pending import Pending
from .problems import Problem, Problems
from .progress import Progress, RunResult
from .publisher import Publisher
from .raw_archive import RawArchive
from .raw_reader import RawArchiveReader
from .reduced_archive import ReducedArchive
from .reduced_reader import ReducedArchiveReader
from .replay import Source, open_source, process, run_documents
from .results_archive import ResultsArchiveReader, add_result
from .results_layout import NewResult
from .results_readers import read_result
from .run import RunReduction
from .settings import Settings, load_settings
from .sinks import ResultSink, make_sink
from .watch import FolderWatch, Outcome

__all__ = [
    "ArchivedImage",
    "FolderWatch",
    "FrameAssembler",
    "HedmLive",
    "Neighbours",
    "NewResult",
    "Outcome",
    "Parts",
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
    "ResultsArchiveReader",
    "RunReduction",
    "RunResult",
    "Settings",
    "Source",
    "add_result",
    "frame_cache_documents",
    "hedm_live_init",
    "load_settings",
    "make_sink",
    "neighbours_of",
    "open_source",
    "process",
    "read_result",
    "run_documents",
]
