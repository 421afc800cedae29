"""Building a wheel: GraphiQL belongs into it, and is built where this tree has no build of it yet.

An editable installation is left as it is: there the page itself says that it is not built. The container image has no
use for this: its Dockerfile builds GraphiQL in a stage of its own.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = Path("web/explorer")
MANIFEST = Path("transport/static/explorer/manifest.json")
"""Written last, so where it is the build is whole."""
NODE_IS_MISSING = (
    "A wheel holds GraphiQL, which is not built here: install Node 20 or newer with npm, and build the wheel again."
)


class BuildError(Exception):
    """A sentence for whoever builds."""


class ExplorerHook(BuildHookInterface[BuilderConfig]):
    """Runs before the files of a wheel are collected."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002, hatchling's signature
        if version == "editable":
            return
        root = Path(self.root)
        try:
            for command in explorer_commands(root, shutil.which("npm")):
                _run(command, root / SOURCES)
        except BuildError as error:
            self.app.abort(str(error))


def explorer_commands(root: Path, npm: str | None) -> list[list[str]]:
    """What to run in `SOURCES`: nothing where GraphiQL is built. Raises `BuildError` without an `npm` to build it."""
    if (root / MANIFEST).is_file():
        return []
    if npm is None:
        raise BuildError(NODE_IS_MISSING)
    return [[npm, "ci"], [npm, "run", "build"]]


def _run(command: list[str], folder: Path) -> None:
    if subprocess.run(command, cwd=folder, check=False).returncode != 0:  # noqa: S603, commands of our own
        raise BuildError(f"GraphiQL was not built: `{Path(command[0]).name} {' '.join(command[1:])}` failed.")
