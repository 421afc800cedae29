"""What is installed: a wheel with everything that runs, under top-level names that nobody else uses."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from hatch_build import MANIFEST, NODE_IS_MISSING, SOURCES, explorer_commands
from transport.explorer import BUILD

ROOT = Path(__file__).resolve().parents[2]
OURS = "sendora-gateway"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
INCLUDED: list[str] = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
NOT_INSTALLED = {"tests", "benchmarks"}
BUILD_ONLY = {"hatch_build.py"}


def copy_tree(target: Path) -> Path:
    """What git has of this tree and would take, and nothing that is built."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    tracked = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True)
    for name in filter(None, tracked.stdout.decode().split("\0")):
        source, copy = ROOT / name, target / name
        if source.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(source.read_bytes())
    subprocess.run(["git", "init", "-q"], cwd=target, check=True)
    return target


def build_wheel(tree: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "out"]
    return subprocess.run(build, cwd=tree, env=os.environ | environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of a copy of the tree, with a built explorer in it whether or not this machine has built one."""
    copy = copy_tree(tmp_path_factory.mktemp("tree"))
    explorer = copy / "transport" / "static" / "explorer"
    explorer.mkdir(parents=True)
    (explorer / "manifest.json").write_text("{}")
    (explorer / "explorer-ABC.js").write_text("//")
    built = build_wheel(copy)
    assert built.returncode == 0, built.stderr
    (path,) = (copy / "out").glob("*.whl")
    return zipfile.ZipFile(path)


def test_every_module_at_the_root_is_in_the_wheel() -> None:
    modules = {path.name for path in ROOT.glob("*.py")} - BUILD_ONLY
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - NOT_INSTALLED

    assert (modules | packages) - set(INCLUDED) == set()


def test_what_the_wheel_names_exists() -> None:
    assert [name for name in INCLUDED if not (ROOT / name).exists()] == []


def test_the_wheel_holds_code_sql_and_sdl(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())

    for pattern in ("*.py", "db/**/*.sql", "db/**/*.py", "engine/**/*.py", "resolvers/**/*.py", "schema/**/*.py"):
        wanted = {str(path.relative_to(ROOT)) for path in ROOT.glob(pattern)} - BUILD_ONLY
        assert wanted - names == set(), pattern
    assert "schema/schema.graphql" in names


def test_the_wheel_holds_the_explorer_although_git_ignores_it(wheel: zipfile.ZipFile) -> None:
    explorer = {name for name in wheel.namelist() if name.startswith("transport/static/")}

    assert explorer == {"transport/static/explorer/manifest.json", "transport/static/explorer/explorer-ABC.js"}


def test_a_tree_without_the_explorer_builds_it_and_one_with_it_does_not(tmp_path: Path) -> None:
    assert explorer_commands(tmp_path, "/bin/npm") == [["/bin/npm", "ci"], ["/bin/npm", "run", "build"]]

    (tmp_path / MANIFEST).parent.mkdir(parents=True)
    (tmp_path / MANIFEST).write_text("{}")

    assert explorer_commands(tmp_path, "/bin/npm") == []
    assert explorer_commands(tmp_path, None) == []


def test_the_hook_looks_where_the_page_is_served_from() -> None:
    assert ROOT / MANIFEST == BUILD / "manifest.json"
    assert (ROOT / SOURCES / "package-lock.json").is_file()


def test_a_wheel_without_the_explorer_is_refused_with_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "tree").mkdir()

    built = build_wheel(copy_tree(tmp_path / "tree"), PATH=str(tmp_path / "empty"))

    assert built.returncode != 0
    assert (built.stdout + built.stderr).strip().splitlines()[-1] == NODE_IS_MISSING
    assert "Traceback" not in built.stderr
    assert not list((tmp_path / "tree").glob("out/*.whl"))


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
