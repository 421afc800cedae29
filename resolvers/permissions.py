"""Who may do what. Every field that reads or writes something begins with `require`, which alone gives the project.

No credentials at all: UNAUTHENTICATED. Too small a role: FORBIDDEN, in words that name the role that is needed. The
session of an end user is INGEST, and reads besides what is about its own person: whoever asks says of whom it is.
"""

from __future__ import annotations

from typing import Final

from engine.errors import Forbidden, Unauthenticated, UserError
from engine.identity import Role, Viewer
from resolvers.context import Context

NO_CREDENTIALS: Final = (
    "Send an API key in the header x-api-key, or a bearer token in Authorization; over a WebSocket in the payload of "
    "connection_init."
)


def require(ctx: Context, role: Role, *, person: str | None = None) -> Viewer:
    """The viewer, who has at least `role`. Raises `Unauthenticated` or `Forbidden`.

    `person` is the user id of whom something is read: a person's own session needs no role for it.
    """
    viewer = ctx._viewer
    if viewer is None:
        raise Unauthenticated(NO_CREDENTIALS)
    if viewer.role >= role or is_own(viewer, person, role):
        return viewer
    raise Forbidden(_refusal(viewer, role))


def is_own(viewer: Viewer, person: str | None, role: Role = Role.VIEWER) -> bool:
    """Whether what is read of `person` with `role` is the viewer's own, as the session of an end user."""
    session = viewer.session
    return session is not None and person == session.user_id and role <= Role.VIEWER


def check_named(viewer: Viewer, user_id: str | None, path: tuple[str, ...]) -> tuple[UserError, ...]:
    """A session names nobody but its own person in what it writes; who comes with a key names whom it likes."""
    if viewer.session is None or user_id is None or user_id == viewer.session.user_id:
        return ()
    message = "A session writes of its own person only: send that person's userId, or none where it may be left out."
    return (UserError(message, "INVALID_CREDENTIALS", path),)


def is_out_of_reach(viewer: Viewer, user_id: str | None) -> bool:
    """Whether what belongs to this person, or to nobody, is for a session as if it were not there."""
    return viewer.session is not None and user_id is not None and user_id != viewer.session.user_id


def require_member(ctx: Context, role: Role) -> Viewer:
    """The viewer, who is a member of the organization with at least `role`.

    Members reach all of the organization's projects, and a key opens one: no key, whatever its role, may reach further
    by making a member. Raises `Unauthenticated` or `Forbidden`.
    """
    viewer = require(ctx, role)
    if viewer.member is None:
        raise Forbidden(
            "This is for members of the organization: send Authorization: Bearer mt_…. A key opens one project only."
        )
    return viewer


def _refusal(viewer: Viewer, role: Role) -> str:
    if viewer.session is not None:
        return "A session reads and writes its own person, and this is not of that person or closed to all sessions."
    whose = "this API key" if viewer.member is None else "this member"
    return f"This needs the role {role.name}, and {whose} has {viewer.role.name} here."
