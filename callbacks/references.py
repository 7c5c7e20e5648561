"""Resource and Datum as StreamResource and StreamDatum, through RunNormalizer of bluesky-tiled-plugins."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from event_model import unpack_datum_page

from .foreign_readers import GE_RAW

MIMETYPES = {"AD_GE": GE_RAW}
"""Of Resource specs that RunNormalizer does not know."""

Emit = Callable[[str, dict[str, Any]], None]


class LegacyReferences:
    """Turns the references of events into stream documents, whichever of event and datum comes first.

    Parameters
    ----------
    keys
        Data keys of the images.
    emit
        Receives StreamResource and StreamDatum; kept alive by whoever made this.
    """

    def __init__(self, keys: Sequence[str], emit: Emit) -> None:
        self._keys = set(keys)
        self._emit = emit
        self._normalizer: Any = None
        self._descriptors: dict[str, dict[str, Any]] = {}
        self._resources: set[str] = set()
        self._datums: set[str] = set()
        self._without_resource: dict[str, list[Mapping[str, Any]]] = {}
        self._waiting: dict[str, list[dict[str, Any]]] = {}
        self._seq_num = 0

    def push(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take a resource or a datum; a datum waits for its resource."""
        if name == "resource":
            self._begun()(name, dict(doc))
            self._resources.add(str(doc["uid"]))
            for datum in self._without_resource.pop(str(doc["uid"]), []):
                self._datum(datum)
        elif name == "datum":
            self._datum(doc)
        else:
            for datum in unpack_datum_page(doc):  # pyright: ignore[reportArgumentType]
                self._datum(datum)

    def orphans(self) -> Iterator[tuple[Mapping[str, Any], str]]:
        """Give each event that waits for a datum whose resource never came, and that resource."""
        for resource, datums in self._without_resource.items():
            for datum in datums:
                for event in self._waiting.get(str(datum["datum_id"]), ()):
                    yield event, resource

    def descriptor(self, doc: Mapping[str, Any]) -> None:
        """Learn the keys of a stream; nothing but the images' matters here."""
        keys = {key: dict(value) for key, value in doc["data_keys"].items() if key in self._keys}
        bare = {"uid": doc["uid"], "name": doc["name"], "run_start": "", "time": 0.0, "data_keys": keys}
        self._descriptors[doc["uid"]] = bare | {"configuration": {}}
        if self._normalizer is not None:
            self._normalizer("descriptor", self._descriptors[doc["uid"]])

    def event(self, doc: Mapping[str, Any], key: str) -> None:
        """Follow the reference that an event holds under a key; an unknown datum is waited for."""
        datum_id = str(doc["data"][key])
        bare = {
            "uid": doc["uid"],
            "descriptor": doc["descriptor"],
            "seq_num": doc["seq_num"],
            "time": doc.get("time", 0.0),
            "data": {key: datum_id},
            "timestamps": {key: 0.0},
            "filled": {key: False},
        }
        if datum_id in self._datums:
            self._follow(bare)
        else:
            self._waiting.setdefault(datum_id, []).append(bare)

    def _datum(self, doc: Mapping[str, Any]) -> None:
        resource, datum_id = str(doc["resource"]), str(doc["datum_id"])
        if resource not in self._resources:
            self._without_resource.setdefault(resource, []).append(doc)
            return
        self._begun()("datum", dict(doc))
        waiting = self._waiting.pop(datum_id, [])
        if not waiting:
            self._datums.add(datum_id)
        for event in waiting:
            self._follow(event)

    def _follow(self, event: dict[str, Any]) -> None:
        self._seq_num = int(event["seq_num"])
        # The normalizer forgets a datum that an event has named.
        self._datums -= set(event["data"].values())
        self._begun()("event", event)

    def _begun(self) -> Any:
        if self._normalizer is None:
            # Imported when needed: it brings Tiled's client, which is slow to import.
            from bluesky_tiled_plugins.writing.tiled_writer import RunNormalizer

            self._normalizer = RunNormalizer(spec_to_mimetype=MIMETYPES)
            self._normalizer.subscribe(self._normalized)
            for doc in self._descriptors.values():
                self._normalizer("descriptor", doc)
        return self._normalizer

    def _normalized(self, name: str, doc: dict[str, Any]) -> None:
        # The event itself names its datum, which says more than the count that the normalizer goes by.
        if name == "stream_datum" and doc["indices"]["stop"] - doc["indices"]["start"] == 1:
            doc = doc | {"seq_nums": {"start": self._seq_num, "stop": self._seq_num + 1}}
        if name in ("stream_resource", "stream_datum"):
            self._emit(name, doc)
