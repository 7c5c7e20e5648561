"""The client of a table of a reduction: its rows are filtered by the server, and come as Arrow tables."""

from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Any

import pyarrow as pa
from tiled.client.dataframe import DataFrameClient
from tiled.client.utils import ClientError, handle_error, retry_context

from ..streaming import ReplayError, SettingsError
from .layout import BATCH, table_identity
from .queries import TRACK, Annulus, check_columns, conditions_of

_NEXT = "x-hedmlive-next"


class ReducedTable(DataFrameClient):
    """A table of a reduction, such as ``peaks``; Tiled's own table client, which can also `query`."""

    def query(
        self,
        columns: Iterable[str] | None = None,
        *,
        limit: int | None = None,
        annuli: Iterable[Annulus] = (),
        **criteria: Any,
    ) -> pa.Table:
        """Return the rows that fulfil all criteria, in the order of the columns that identify a row.

        Parameters
        ----------
        columns
            The columns wanted; all but ``batch`` if None.
        limit
            How many rows to give at most.
        annuli
            If any, only rows whose ``row`` and ``col`` lie in one of these.
        **criteria
            ``column=(low, high)`` with both ends included and None for an open one, ``column=value``,
            ``column=[values]``, ``min_column=value``, ``max_column=value``. ``intensity`` stands for ``sum_intensity``.
            ``peaks`` can be asked for by ``track`` too.

        Raises
        ------
        SettingsError
            There is no such column, or the range is none.
        """
        return pa.concat_tables(self.pages(columns, limit=limit, annuli=annuli, **criteria))

    def pages(
        self,
        columns: Iterable[str] | None = None,
        *,
        limit: int | None = None,
        annuli: Iterable[Annulus] = (),
        **criteria: Any,
    ) -> Iterator[pa.Table]:
        """Give what `query` returns piece by piece, for results that memory could not hold; at least one, even empty.

        Raises
        ------
        SettingsError
            As `query`.
        """
        name, there = self.item["id"], self.structure().columns
        known = [*there, TRACK] if name == "peaks" else there
        wanted = check_columns(columns, there, name)
        where = [each.encoded() for each in conditions_of(criteria, [each for each in known if each != BATCH], name)]
        if limit is not None and limit < 0:
            raise SettingsError(f"{name}: limit={limit} came; wanted 0 or more")
        inside = [each.encoded() for each in annuli]
        return self._pages({"column": list(wanted), "where": where, "annulus": inside}, limit)

    def since(self, batch: int) -> tuple[pa.Table, bool]:
        """Return the rows of an append and of those after it, with the column ``batch``, no append in part.

        Parameters
        ----------
        batch
            Number of the append.

        Returns
        -------
        The rows, in the order of the columns that identify a row, and whether these were all.
        """
        asked = {"column": list(self.structure().columns), "where": [f"{BATCH}:ge:{batch}"]}
        first, after = self._page(asked, None, None)
        if after is None:
            return first, True
        while after is not None and not len(first):
            first, after = self._page(asked, after, None)
        # What is stored while pages are turned may lie in part on those that were turned: it is left for the next time.
        newest = max(first[BATCH].to_pylist(), default=batch)
        return pa.concat_tables(self._pages({**asked, "where": [*asked["where"], f"{BATCH}:le:{newest}"]}, None)), False

    def _pages(self, asked: dict[str, Any], limit: int | None) -> Iterator[pa.Table]:
        schema = self.structure().arrow_schema_decoded
        empty = pa.schema([schema.field(name) for name in asked["column"]]).empty_table()
        after, left, given = None, limit, False
        while left is None or left > 0:
            page, after = self._page(asked, after, left)
            left = None if left is None else left - len(page)
            if len(page):
                given = True
                yield page
            if after is None:
                break
        if not given:
            yield empty

    def _page(self, asked: dict[str, Any], after: str | None, limit: int | None) -> tuple[pa.Table, str | None]:
        base, _, path = self.item["links"]["self"].partition("/metadata/")
        more = {name: value for name, value in (("after", after), ("limit", limit)) if value is not None}
        try:
            answer = self._get(f"{base}/hedm/rows/{path}", asked | more)
        except ClientError as error:
            raise _explained(error, self.item["id"]) from None
        with pa.ipc.open_stream(answer.content) as reader:
            return reader.read_all(), answer.headers.get(_NEXT)

    def _get(self, uri: str, params: dict[str, Any]) -> Any:
        for attempt in retry_context(self.context):
            with attempt:
                return handle_error(self.context.http_client.get(uri, params=params))
        return None  # not reached: the last attempt raises

    @property
    def identity(self) -> tuple[str, ...]:
        """The columns that identify a row, by which a result is ordered."""
        return table_identity(self.structure().arrow_schema_decoded)

    def __repr__(self) -> str:
        names = [name for name in self.structure().columns if name != BATCH]
        return f"<{type(self).__name__} {self.item['id']} of run {self.metadata.get('raw_run_uid', '?')[:8]}: {names}>"


def _explained(error: ClientError, name: str) -> Exception:
    """Return an error of the server as ours, or itself."""
    code = error.response.status_code
    try:
        detail = str(error.response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return error
    if code == HTTPStatus.BAD_REQUEST:
        return SettingsError(detail)
    if code == HTTPStatus.UNPROCESSABLE_ENTITY:
        return SettingsError(f"{name}: the server understood no such query: {detail}")
    if code == HTTPStatus.NOT_FOUND and detail == "Not Found":
        return ReplayError(
            f"{name}: this server does not filter rows; serve with `hedmlive serve`, or name our router in its settings"
        )
    return error
