"""Who may do what. Every field that reads or writes something begins with `require`, which alone gives the project.

No credentials at all: UNAUTHENTICATED. Too small a role: FORBIDDEN, in words that name the role that is needed.
"""

from __future__ import annotations

from engine.errors import Forbidden, Unauthenticated
from engine.identity import Role, Viewer
from resolvers.context import Context


def require(ctx: Context, role: Role, *, person: str | None = None) -> Viewer:
    """The viewer, who has at least `role`. Raises `Unauthenticated` or `Forbidden`.

    `person` is the user id of whom something is read: a person's own session needs no role for it.
    """
    viewer = ctx._viewer
    if viewer is None:
        raise Unauthenticated("Send an API key: in the header x-api-key, or in the payload of connection_init.")
    if viewer.session is not None and person == viewer.session.user_id and role <= Role.VIEWER:
        return viewer
    if viewer.role < role:
        raise Forbidden(f"This needs the role {role.name}, and this API key has {viewer.role.name} here.")
    return viewer
