"""The explorer alone, with nothing built: what `missing.test.js` looks at. Prints its URL and serves until it is ended.

Run as `python unbuilt.py EMPTY_FOLDER`. Everything else about the explorer is tested on a whole gateway.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import uvicorn

from transport.explorer import Explorer, ExplorerPage

PAGE = ExplorerPage(
    title="Sendora Gateway",
    key_hint="`make run` prints one.",
    sample_query="{ viewer { role project { name } } }",
)


def main(folder: Path) -> None:
    """Serve on a free port of the loopback interface."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(Explorer(PAGE, build=folder), lifespan="off", log_level="error"))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}{PAGE.path}", flush=True)
    server.run(sockets=[listener])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
