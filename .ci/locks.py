"""Check that both lock files hold what pyproject.toml asks for, with hashes, and name no index of anybody's.

Exits 1 with one line per fault. Guarantees only that the files agree; `make lock` resolves them.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)(?P<rest>.*?)(?=^\S|\Z)", re.MULTILINE | re.DOTALL)
FORBIDDEN = ("--index-url", "--extra-index-url", "--find-links", "file:", "http://", "https://")


def read_pins(path: Path) -> dict[str, str]:
    """Name → version of a lock file. A package without a hash has the version `unhashed`."""
    found: dict[str, str] = {}
    for match in PIN.finditer(path.read_text()):
        version = match["version"] if "--hash=sha256:" in match["rest"] else "unhashed"
        found[canonicalize_name(match["name"])] = version
    return found


def faults_of(path: Path, wanted: list[str]) -> list[str]:
    """What is wrong with one lock file, as lines for people."""
    pins = read_pins(path)
    faults = [f"{path.name}: {name} has no hash" for name, version in pins.items() if version == "unhashed"]
    faults += [f"{path.name}: it must not name {word}" for word in FORBIDDEN if word in path.read_text()]
    for text in wanted:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        version = pins.get(canonicalize_name(requirement.name))
        if version is None:
            faults.append(f"{path.name}: {requirement.name} is missing; run `make lock`")
        elif version != "unhashed" and not requirement.specifier.contains(version, prereleases=True):
            faults.append(f"{path.name}: {requirement.name} {version} is not {requirement.specifier}; run `make lock`")
    return faults


def main() -> int:
    """Print the faults of both files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed, development = project["dependencies"], project["optional-dependencies"]["dev"]
    run_lock, dev_lock = ROOT / "requirements.lock", ROOT / "requirements-dev.lock"
    faults = faults_of(run_lock, needed) + faults_of(dev_lock, needed + development)
    run_pins, dev_pins = read_pins(run_lock), read_pins(dev_lock)
    faults += [
        f"{name} is {version} in requirements.lock and {dev_pins.get(name)} in requirements-dev.lock"
        for name, version in run_pins.items()
        if dev_pins.get(name) != version
    ]
    print("\n".join(faults) or f"locks: {len(run_pins)} and {len(dev_pins)} packages, all as pyproject.toml asks")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
