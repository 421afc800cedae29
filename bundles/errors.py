"""Why a bundle cannot be read, exported or imported. A sentence, or several, for whoever typed the command."""

from __future__ import annotations


class BundleMistakeError(Exception):
    """Nothing was done: the file, the address, the key or what the bundle says is wrong. Says how to mend it."""
