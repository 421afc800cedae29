"""The interface of everything that has an id."""

from __future__ import annotations

import strawberry


@strawberry.interface(description="Anything that `node` and `nodes` find. Who may see it is said at each type.")
class Node:
    id: strawberry.ID = strawberry.field(
        description="Globally unique, type-prefixed and opaque, e.g. evt_…, wf_…, dlv_…. Needs INGEST."
    )
