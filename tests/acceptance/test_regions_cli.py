"""Making organizations from the command line: of the deployment's region, and of no other."""

from __future__ import annotations

import asyncio
import json
import subprocess

import asyncpg

from tests.acceptance.running import run_command


async def test_a_deployment_makes_organizations_of_its_region_and_refuses_others(database_url: str) -> None:
    def create(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_command("create-project", *arguments, DATABASE_URL=database_url, SENDORA_REGION="eu")

    refused, made = await asyncio.gather(
        asyncio.to_thread(create, "Shop", "--region", "us"),
        asyncio.to_thread(create, "Laden", "--organization", "Laden GmbH", "--region", "eu"),
    )

    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == (
        "sendora: This deployment keeps the data of region eu, and this organization is to be of region us: make it on "
        "a deployment of that region.\n"
    )
    keys = json.loads(made.stdout)
    assert keys["secretKey"].startswith("sk_eu_prod_")
    assert keys["publishableKey"].startswith("pk_eu_prod_")
    connection = await asyncpg.connect(database_url)
    rows = await connection.fetch("SELECT name, region FROM organizations WHERE region = 'eu' OR name = 'Shop'")
    entries = await connection.fetch("SELECT actor, action, before, after FROM audit_entries ORDER BY audit_entry_id")
    await connection.close()
    assert [tuple(row) for row in rows] == [("Laden GmbH", "eu")]
    assert [(entry["actor"], entry["action"]) for entry in entries] == [
        ("operator", "project.created"),
        ("operator", "api_key.created"),
    ]
    for token in (keys["secretKey"], keys["publishableKey"]):
        assert token not in repr(entries)
