"""What Tiled's access policy asks the catalogue, remembered for a second: it asks ten times for each request."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

from tiled.access_control.access_tags import AccessTagsParser

REMEMBERED = 1.0
"""Seconds after which a changed access tag counts at the latest."""

_MOST = 10_000


class RememberedTags(AccessTagsParser):
    """Tiled's parser of access tags, which asks the database the same thing once a second at most.

    The policy takes bound methods when it is made, so that each is replaced in the class.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._known: dict[tuple[Any, ...], tuple[float, Any]] = {}

    async def is_tag_defined(self, name: str) -> bool:
        """Tell whether a tag is defined."""
        return await self._remember(super().is_tag_defined, "defined", name)

    async def is_tag_owner(self, tagname: str, username: str) -> bool:
        """Tell whether somebody may give a tag to a node."""
        return await self._remember(super().is_tag_owner, "owner", tagname, username)

    async def is_tag_public(self, name: str) -> bool:
        """Tell whether everybody may read what has a tag."""
        return await self._remember(super().is_tag_public, "public", name)

    async def get_public_tags(self) -> set[str]:
        """Return the tags of what everybody may read."""
        return set(await self._remember(super().get_public_tags, "all public"))

    async def get_scopes_from_tag(self, tagname: str, username: str) -> set[Any]:
        """Return what somebody may do with nodes of a tag."""
        return set(await self._remember(super().get_scopes_from_tag, "scopes", tagname, username))

    async def get_tags_from_scope(self, scope: Any, username: str) -> set[str]:
        """Return the tags of nodes that somebody may do something with."""
        return set(await self._remember(super().get_tags_from_scope, "tags", scope, username))

    async def _remember(self, ask: Callable[..., Awaitable[Any]], what: str, *arguments: Any) -> Any:
        place, now = (what, *arguments), self._clock()
        came, answer = self._known.get(place, (-REMEMBERED, None))
        if now - came >= REMEMBERED:
            answer = await ask(*arguments)
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[place] = now, answer
        return answer
