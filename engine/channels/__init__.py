"""One file per provider: each turns a message into that provider's request, and its answer into an `Outcome`."""
