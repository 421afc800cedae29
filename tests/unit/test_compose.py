"""The deployment files, checked without a Docker engine."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
SECRETS = {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "SENDORA_SECRET_KEY"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The file with its anchors resolved."""
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_compose_file_is_one_by_the_specification() -> None:
    tool = Path(sys.executable).with_name("check-jsonschema")

    result = run(tool, "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")

    assert result.returncode == 0, result.stdout + result.stderr


def test_the_dockerfile_has_nothing_to_complain_about() -> None:
    result = run(Path(sys.executable).with_name("hadolint"), "--no-color", "Dockerfile")

    assert (result.returncode, result.stdout) == (0, ""), result.stderr


def test_two_gateways_behind_a_proxy_and_two_workers(compose: dict[str, Any]) -> None:
    services = compose["services"]

    assert set(services) == {"postgres", "redis", "migrate", "gateway-1", "gateway-2", "worker", "proxy"}
    assert services["gateway-1"] == services["gateway-2"]
    assert services["worker"]["deploy"]["replicas"] == 2
    assert [name for name, service in services.items() if "ports" in service] == ["proxy"]


def test_what_all_processes_must_agree_on_can_be_said_in_one_place(compose: dict[str, Any]) -> None:
    shared = "SECRET_KEY PUBLIC_URL REGION ENVIRONMENT INTROSPECTION COST_LIMIT COST_RESTORE MAX_OPERATION_COST"

    for name in ("migrate", "gateway-1", "gateway-2", "worker"):
        assert compose["services"][name]["environment"] == compose["x-gateway-image"]["environment"]
    assert {f"SENDORA_{each}" for each in shared.split()} <= set(compose["x-gateway-image"]["environment"])
    assert compose["x-gateway-image"]["environment"]["SENDORA_ENVIRONMENT"] == "${SENDORA_ENVIRONMENT:-production}"


def test_processes_start_after_the_migration_and_only_when_it_succeeded(compose: dict[str, Any]) -> None:
    for name in ("gateway-1", "gateway-2", "worker"):
        wanted = {"migrate": "service_completed_successfully", "redis": "service_healthy"}
        found = compose["services"][name]["depends_on"]
        assert {service: rule["condition"] for service, rule in found.items()} == wanted


def test_every_secret_must_be_given_and_none_is_in_the_file(compose: dict[str, Any]) -> None:
    text = re.sub(r"^\s*#.*$", "", (ROOT / "docker-compose.yml").read_text(), flags=re.MULTILINE)
    used = re.findall(r"(?<!\$)\$\{(\w+)(:\?)?", text)

    assert {name for name, required in used if required} == SECRETS
    assert not {name for name, required in used if not required} & SECRETS


def test_every_command_is_one_of_the_command_line(compose: dict[str, Any]) -> None:
    commands = {service["command"][0] for service in compose["services"].values() if service.get("build")}

    assert commands == {"migrate", "serve", "worker"}
    for command in commands:
        assert run(sys.executable, "cli.py", command, "--help").returncode == 0


def test_the_image_runs_as_nobody_special_with_pinned_bases() -> None:
    text = (ROOT / "Dockerfile").read_text()

    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["10001"]
    for base in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
        assert re.fullmatch(r"\w+:\d+\.\d+\.\d+-[\w-]+", base), base
    assert "--require-hashes" in text


def test_the_image_gets_every_module_and_nothing_private() -> None:
    """`.dockerignore` lets through what is installed; a new module or package must be named there."""
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    modules = {path.name for path in ROOT.glob("*.py")} - {"hatch_build.py"}
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    copied = set(re.findall(r"^COPY (\w+) \./\1$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))

    assert modules <= allowed
    assert packages <= allowed
    assert packages == copied
    assert not {".data", ".git", ".venv", "tests"} & allowed


def test_the_proxy_listens_where_compose_publishes_it_and_knows_both_gateways(compose: dict[str, Any]) -> None:
    config = (ROOT / "deploy" / "nginx" / "nginx.conf").read_text()

    (published,) = compose["services"]["proxy"]["ports"]
    assert f"listen {published.rpartition(':')[2]};" in config
    assert re.findall(r"server (gateway-\d):8000", config) == ["gateway-1", "gateway-2"]


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed here")
def test_nginx_accepts_its_configuration(tmp_path: Path) -> None:
    config = (ROOT / "deploy" / "nginx" / "nginx.conf").read_text()
    here = re.sub(r"gateway-\d:8000", "127.0.0.1:8000", config)  # those names exist inside of compose only
    (tmp_path / "nginx.conf").write_text(here.replace("/tmp/", f"{tmp_path}/"))

    result = run(str(NGINX), "-t", "-p", tmp_path, "-c", tmp_path / "nginx.conf")

    assert result.returncode == 0, result.stderr
