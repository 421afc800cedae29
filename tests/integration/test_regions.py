"""Regions: an organization is in one for ever, everything of it too, and who comes to the wrong one costs nothing."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from db.projects import insert_project
from engine.accounts.access_tokens import AccessTokens
from engine.accounts.refresh_tokens import read_refresh_token
from engine.accounts.signing_keys import SigningKeys
from engine.audit import OPERATOR, Audit
from engine.errors import Unauthenticated, UserError
from engine.identity import ApiKeyKind, Identities, Role
from engine.provisioning import WrongRegion, create_api_key, create_organization, create_project
from engine.vault import Vault
from tests.integration.dispatch_support import START, TestClock
from tests.integration.graphql_support import Gateway
from tests.integration.log_support import open_database
from tests.integration.postgres_proxy import open_proxy

RANDOM = "x" * 43
OPERATED = Audit(OPERATOR, START)


async def test_what_comes_to_the_wrong_region_costs_no_statement(database_url: str, tmp_path: Path) -> None:
    sent: list[bytes] = []

    def note(data: bytes) -> bool:
        sent.append(data)
        return False

    async with open_proxy(tmp_path, database_url) as proxy, open_database(proxy.url) as database:
        keys = SigningKeys(database, Vault(b"a secret of tests, long enough for it"), TestClock())
        tokens = AccessTokens(keys, TestClock(), region="us", issuer="http://gateway.test")
        identities = Identities(database, region="us", access_tokens=tokens)
        session = jwt.encode({"region": "eu"}, Ed25519PrivateKey.generate(), "EdDSA", headers={"kid": "any"})
        proxy.lose_answers_to(note, times=1_000)

        for kind in ("sk", "pk"):
            with pytest.raises(Unauthenticated, match="belongs to region eu, and this is region us"):
                await identities.viewer_of(f"{kind}_eu_prod_{RANDOM}")
        for token in (f"mt_eu_{RANDOM}", session):
            with pytest.raises(Unauthenticated, match="region"):
                await identities.viewer_of_bearer(token, project=None)
        refused = read_refresh_token(f"rt_eu_{RANDOM}", region="us", path=("refreshToken",))
        assert isinstance(refused, UserError)
        assert "belongs to region eu, and this is region us" in refused.message
        assert sent == []

        # The same of this region is looked for.
        with pytest.raises(Unauthenticated, match="not known"):
            await identities.viewer_of(f"sk_us_prod_{RANDOM}")
        assert sent != []


async def test_everything_of_an_organization_is_in_its_region(database_url: str) -> None:
    async with open_database(database_url) as database:
        organization_id = await create_organization(database, name="Laden", region="eu", deployment_region="eu")
        made = await create_project(database, organization_id=organization_id, name="shop", audit=OPERATED)
        key = await create_api_key(
            database,
            project_id=made.project.project_id,
            name="App",
            kind=ApiKeyKind.PUBLISHABLE,
            role=Role.INGEST,
            audit=OPERATED,
        )
        viewer = await Identities(database, region="eu").viewer_of(made.first_key.token)

    assert made.first_key.token.startswith("sk_eu_prod_")
    assert key.token.startswith("pk_eu_prod_")
    assert (made.project.region, viewer.project.region) == ("eu", "eu")


async def test_a_deployment_makes_organizations_of_its_own_region_only(database_url: str) -> None:
    async with open_database(database_url) as database:
        with pytest.raises(WrongRegion, match=r"keeps the data of region us, and this organization is to be of .* eu:"):
            await create_organization(database, name="Laden", region="eu", deployment_region="us")
        async with database.connection() as connection:
            assert await connection.fetchval("SELECT count(*) FROM organizations WHERE name = 'Laden'") == 0


async def test_no_project_is_in_another_region_than_its_organization(database_url: str) -> None:
    async with open_database(database_url) as database:
        organization_id = await create_organization(database, name="Laden", region="us", deployment_region="us")
        made = await create_project(database, organization_id=organization_id, name="shop", audit=OPERATED)
        async with database.connection() as connection:
            with pytest.raises(asyncpg.ForeignKeyViolationError):
                await insert_project(
                    connection,
                    project_id=organization_id,
                    organization_id=organization_id,
                    name="x",
                    region="eu",
                    salt=bytes(32),
                )
            with pytest.raises(asyncpg.ForeignKeyViolationError):
                await connection.execute(
                    "UPDATE organizations SET region = 'eu' WHERE organization_id = $1", organization_id
                )
            assert made.project.region == "us"


async def test_a_project_that_is_made_in_a_region_says_so(gateway: Gateway) -> None:
    shop = await gateway.tenant()
    made = (await shop.data('mutation { createProject(name: "Two") { token } }'))["createProject"]
    assert made["token"].startswith("sk_us_prod_")
    viewer = (await shop.data("{ viewer { organization { region } } }"))["viewer"]
    assert viewer == {"organization": {"region": "US"}}
