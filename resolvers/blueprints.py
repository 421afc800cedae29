"""Workflows to begin with. They are the same for every project."""

from __future__ import annotations

from engine.identity import Role
from engine.workflows.blueprints import BLUEPRINTS, Blueprint
from resolvers.context import Context
from resolvers.permissions import require


def list_blueprints(ctx: Context) -> tuple[Blueprint, ...]:
    """All of them, in the order in which they are offered."""
    require(ctx, Role.VIEWER)
    return tuple(BLUEPRINTS.values())
