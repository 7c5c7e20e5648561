"""How documents become nodes of a Tiled catalogue, where bluesky-tiled-plugins needs help with ours."""

from typing import Any

from bluesky_tiled_plugins.writing.consolidators import ConsolidatorBase
from bluesky_tiled_plugins.writing.tiled_writer import RunNormalizer
from event_model.documents import EventDescriptor, RunStart, StreamResource
from tiled.structures.data_source import Asset

from ..streaming import DocumentError
from .formats import RAW_FRAMES, RESOURCE_SPECS, SPARSE_FRAMES


class SparseFramesConsolidator(ConsolidatorBase):
    """Registers a growing sparse group as one array of frames, one chunk a frame.

    Raises
    ------
    DocumentError
        The data key does not describe one image an event, or the parameter ``dataset`` is missing.
    """

    supported_mimetypes = {SPARSE_FRAMES}  # noqa: RUF012  the base class declares it so

    def __init__(self, stream_resource: StreamResource, descriptor: EventDescriptor) -> None:
        super().__init__(stream_resource, descriptor)
        name = f"stream_resource {stream_resource['uid']}"
        if "dataset" not in stream_resource["parameters"]:
            raise DocumentError(f"{name}: no parameter dataset came; wanted the path of the sparse group")
        shape = tuple(descriptor["data_keys"][self.data_key]["shape"])
        image = tuple(size for size in shape[-2:] if size is not None)
        if len(image) != 2 or any(size != 1 for size in shape[:-2]):
            raise DocumentError(f"{name}: data key {self.data_key} has shape {shape}; wanted (rows, columns)")
        self.datum_shape = image
        self.dims = ()
        # Frames are made dense one by one, so that a larger chunk would only make the server hold more.
        self.chunk_shape = (1,)

    def adapter_parameters(self) -> dict[str, Any]:
        """Return what the adapter needs besides the file: the path of the group."""
        return {"dataset": self._sres_parameters["dataset"]}


class RawFramesConsolidator(ConsolidatorBase):
    """Registers frames of plain counts behind a header, in one file or in several, as one array.

    Raises
    ------
    DocumentError
        A parameter is missing.
    """

    supported_mimetypes = {RAW_FRAMES}  # noqa: RUF012  the base class declares it so

    def __init__(self, stream_resource: StreamResource, descriptor: EventDescriptor) -> None:
        super().__init__(stream_resource, descriptor)
        missing = sorted({"shape", "dtype", "header_bytes"} - stream_resource["parameters"].keys())
        if missing:
            raise DocumentError(f"stream_resource {stream_resource['uid']}: parameters {missing} are missing")
        self.chunk_shape = (1,)

    def adapter_parameters(self) -> dict[str, Any]:
        """Return what the adapter needs besides the files: where a frame lies, and what it is made of."""
        return {name: self._sres_parameters[name] for name in ("shape", "dtype", "header_bytes")}

    def update_from_stream_resource(self, stream_resource: StreamResource) -> None:
        """Add the next file."""
        self.assets.append(
            Asset(
                data_uri=stream_resource["uri"],
                is_directory=False,
                parameter=self.default_asset_role,
                num=len(self.assets),
            )
        )


class CarefulNormalizer(RunNormalizer):
    """Keeps the error of a start document, of which event-model's `RunRouter` makes a mere warning; knows GE files.

    Parameters
    ----------
    failed
        Gets the error.
    options
        Options of the normalizer.
    """

    def __init__(self, failed: list[Exception], **options: Any) -> None:
        known = RESOURCE_SPECS | (options.pop("spec_to_mimetype", None) or {})
        super().__init__(spec_to_mimetype=known, **options)
        self._failed = failed

    def start(self, doc: RunStart) -> None:
        """Write the start document, or note why that failed."""
        try:
            super().start(doc)
        except Exception as error:
            self._failed.append(error)
