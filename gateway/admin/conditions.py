"""No lost updates: which revision a write is based on, as ``If-Match`` and ``If-None-Match`` say it."""

import re
from dataclasses import dataclass

from starlette.requests import Request

from gateway.errors import BadRequest, PreconditionRequired
from routing.document import Document, RouteDocument
from routing.errors import StaleRevision

ETAG = re.compile(r'"([1-9][0-9]{0,17})"')


@dataclass(frozen=True, slots=True)
class Condition:
    """What must hold for a write to happen.

    Attributes:
        revision: The stored route has this revision.
        is_new: There is no route yet.
    """

    revision: int | None = None
    is_new: bool = False

    def check(self, current: Document | None) -> None:
        """Refuse a write that is not based on ``current``.

        Raises:
            PreconditionRequired: The write does not say what it is based on.
            StaleRevision: It is based on something else.
        """
        held = current.revision if isinstance(current, RouteDocument) else 0
        if self.is_new:
            if held:
                raise StaleRevision(0, held)
        elif self.revision is None:
            raise PreconditionRequired(
                "say what this write is based on: If-Match with the ETag of the route you read, "
                "or If-None-Match: * to create it"
            )
        elif self.revision != held:
            raise StaleRevision(self.revision, held)


def etag(revision: int) -> str:
    """A revision as an entity tag."""
    return f'"{revision}"'


def condition(request: Request) -> Condition:
    """The condition of a write.

    Raises:
        BadRequest: It is none that a route can meet.
    """
    match = request.headers.getlist("if-match")
    none_match = request.headers.getlist("if-none-match")
    if match and none_match:
        raise BadRequest("send If-Match to change a route or If-None-Match: * to create one, not both")
    if none_match:
        if [value.strip() for value in none_match] != ["*"]:
            raise BadRequest("on a write only If-None-Match: * has a meaning: create, unless it is there")
        return Condition(is_new=True)
    if not match:
        return Condition()
    if [value.strip() for value in match] == ["*"]:
        raise BadRequest("If-Match: * would overwrite what you have not read: send the ETag of the route you read")
    found = ETAG.fullmatch(match[0].strip()) if len(match) == 1 else None
    if found is None:
        raise BadRequest('If-Match is one revision in quotes, such as If-Match: "7", never weak')
    return Condition(revision=int(found[1]))
