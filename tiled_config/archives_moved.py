"""Archives that were moved after a catalogue learned where they are: their nodes are led to the new place."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tiled.structures.data_source import Asset
from tiled.utils import path_from_uri

from .archives_nodes import Place, put_source
from .formats import ARCHIVE_TABLE
from .layout import inherited_tags


def lead_to_archive(client: Any, place: Place) -> int:
    """Let the tables and arrays of a reduction, or of a result, be served from their archive's new place.

    Files of its name that are still where the catalogue says are left.

    Parameters
    ----------
    client
        Client of the catalogue's root.
    place
        The reduction or result, of which the caller has made sure that it is whole.

    Returns
    -------
    How many nodes were changed.
    """
    root = getattr(client, "root", client)
    of_runs = root.get(place.top)
    if of_runs is None or place.uid not in of_runs:
        return 0
    n_changed = 0
    for node in of_runs[place.uid].values():
        if node.metadata.get(place.uid_name) == place.own_uid:
            for child in node.include_data_sources().values():
                n_changed += _lead(node, child, place.path)
    return n_changed


def _lead(parent: Any, node: Any, path: Path) -> bool:
    for source in node.data_sources() or ():
        if not _leads_nowhere(source, path):
            continue
        # What was registered last counts, for a catalogue keeps the older ones.
        number = 1 + max(asset.num or 0 for asset in source.assets)
        here = Asset(data_uri=f"file://localhost{path}", is_directory=False, parameter="data_uris", num=number)
        if source.mimetype == ARCHIVE_TABLE:
            put_source(node, replace(source, assets=[here]))
        else:
            # An array is read from all its files.
            parent.delete_contents([node.item["id"]])
            made = replace(source, id=None, assets=[replace(here, num=0)])
            parent.new(
                node.structure_family,
                [made],
                key=node.item["id"],
                metadata=dict(node.metadata),
                specs=node.specs,
                access_tags=inherited_tags(parent),
            )
        return True
    return False


def leads_nowhere(run: Any, path: Path) -> bool:
    """Tell whether a run refers to a raw archive of this name in a place where it is not any more."""
    for stream in run.values():
        for child in _parts(stream):
            for source in child.data_sources() or ():
                if _leads_nowhere(source, path):
                    return True
    return False


def _parts(stream: Any) -> Iterator[Any]:
    yield from getattr(stream, "base", stream).include_data_sources().values()


def _leads_nowhere(source: Any, path: Path) -> bool:
    files = [asset for asset in source.assets if asset.data_uri.startswith("file:")]
    if not files:
        return False
    said = path_from_uri(max(files, key=lambda asset: asset.num or 0).data_uri)
    return said.name == path.name and said != path and not said.exists()
