"""What is installed: a wheel with everything that runs, under top-level names that nobody else uses."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = "sendora-gateway"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
INCLUDED: list[str] = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
NOT_INSTALLED = {"tests", "benchmarks"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of a copy of the tree, with a built explorer in it whether or not this machine has built one."""
    copy = tmp_path_factory.mktemp("tree")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    tracked = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True)
    for name in filter(None, tracked.stdout.decode().split("\0")):
        source, target = ROOT / name, copy / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    explorer = copy / "transport" / "static" / "explorer"
    explorer.mkdir(parents=True)
    (explorer / "manifest.json").write_text("{}")
    (explorer / "explorer-ABC.js").write_text("//")
    subprocess.run(["git", "init", "-q"], cwd=copy, check=True)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "out"]
    built = subprocess.run(build, cwd=copy, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (path,) = (copy / "out").glob("*.whl")
    return zipfile.ZipFile(path)


def test_every_module_at_the_root_is_in_the_wheel() -> None:
    modules = {path.name for path in ROOT.glob("*.py")}
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - NOT_INSTALLED

    assert (modules | packages) - set(INCLUDED) == set()


def test_what_the_wheel_names_exists() -> None:
    assert [name for name in INCLUDED if not (ROOT / name).exists()] == []


def test_the_wheel_holds_code_sql_and_sdl(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())

    for pattern in ("*.py", "db/**/*.sql", "db/**/*.py", "engine/**/*.py", "resolvers/**/*.py", "schema/**/*.py"):
        wanted = {str(path.relative_to(ROOT)) for path in ROOT.glob(pattern)}
        assert wanted - names == set(), pattern
    assert "schema/schema.graphql" in names


def test_the_wheel_holds_the_explorer_although_git_ignores_it(wheel: zipfile.ZipFile) -> None:
    explorer = {name for name in wheel.namelist() if name.startswith("transport/static/")}

    assert explorer == {"transport/static/explorer/manifest.json", "transport/static/explorer/explorer-ABC.js"}


def test_the_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}

    assert {top for top in tops if not top.endswith(".dist-info")} <= set(INCLUDED)
    assert [name for name in wheel.namelist() if "__pycache__" in name or "/tests/" in name] == []


def test_the_command_is_called_sendora(wheel: zipfile.ZipFile) -> None:
    (entry_points,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))

    assert wheel.read(entry_points).decode() == "[console_scripts]\nsendora = cli:main\n"


def test_nobody_else_provides_our_top_level_names() -> None:
    ours = {name.removesuffix(".py") for name in INCLUDED}
    taken = {name: found for name, found in packages_distributions().items() if name in ours and set(found) != {OURS}}

    assert taken == {}
