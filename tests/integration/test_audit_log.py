"""Reading the audit log: its order, both directions, one subject, who may, and which index it takes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from db.audit_entries import AuditEntryRecord, erase_person_of_audit_entries, insert_audit_entry
from db.statements import statements
from engine.audit import MAX_SIDE_BYTES, SYSTEM, Audit, record_change
from engine.identity import Role
from tests.integration.graphql_support import Gateway, Tenant, open_gateway

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
LIST = """query ($first: Int, $after: Cursor, $last: Int, $before: Cursor, $subject: String) {
  auditLog(first: $first, after: $after, last: $last, before: $before, subject: $subject) {
    edges { cursor node { id at actor action subject before after } }
    pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
  }
}"""


@pytest.fixture
async def gateway(database_url: str) -> AsyncIterator[Gateway]:
    async with open_gateway(database_url) as opened:
        yield opened


async def note(tenant: Tenant, *, subject: str = "wfl_1", minutes: int = 0, actor: str = SYSTEM, **sides: Any) -> None:
    async with tenant.gateway.services.database.transaction() as connection:
        await record_change(
            connection,
            project_id=tenant.project_id,
            actor=actor,
            action="workflow.saved",
            subject=subject,
            now=NOON + timedelta(minutes=minutes),
            **{"before": None, "after": {"minutes": minutes}, **sides},
        )


async def page(tenant: Tenant, **arguments: Any) -> tuple[list[int], dict[str, Any]]:
    listed = (await tenant.data(LIST, **arguments))["auditLog"]
    return [edge["node"]["after"]["minutes"] for edge in listed["edges"]], listed["pageInfo"]


async def fresh(gateway: Gateway) -> Tenant:
    """A tenant in whose log nothing stands yet."""
    tenant = await gateway.tenant()
    async with gateway.services.database.connection() as connection:
        await connection.execute("DELETE FROM audit_entries WHERE project_id = $1", tenant.project_id)
    return tenant


async def test_an_entry_says_who_changed_what_and_when(gateway: Gateway) -> None:
    shop = await fresh(gateway)
    await note(shop, actor="api_key:sk_us_prod_abcdef", before={"name": "Old"}, after={"name": "New"})

    [edge] = (await shop.data(LIST))["auditLog"]["edges"]

    entry = edge["node"]
    node_id = entry.pop("id")
    assert entry == {
        "at": "2026-05-01T12:00:00Z",
        "actor": "api_key:sk_us_prod_abcdef",
        "action": "workflow.saved",
        "subject": "wfl_1",
        "before": {"name": "Old"},
        "after": {"name": "New"},
    }
    found = await shop.data("query ($id: ID!) { node(id: $id) { id ... on AuditEntry { subject } } }", id=node_id)
    assert found["node"] == {"id": node_id, "subject": "wfl_1"}


async def test_the_log_is_read_newest_first_in_both_directions(gateway: Gateway) -> None:
    shop = await fresh(gateway)
    for minutes in (3, 1, 5, 2, 4):
        await note(shop, minutes=minutes)

    first, info = await page(shop, first=2)
    assert (first, info["hasNextPage"], info["hasPreviousPage"]) == ([5, 4], True, False)
    second, info = await page(shop, first=2, after=info["endCursor"])
    assert (second, info["hasNextPage"], info["hasPreviousPage"]) == ([3, 2], True, True)
    back, before = await page(shop, last=2, before=info["startCursor"])
    assert (back, before["hasPreviousPage"], before["hasNextPage"]) == ([5, 4], False, True)
    third, info = await page(shop, first=2, after=info["endCursor"])
    assert (third, info["hasNextPage"]) == ([1], False)
    end, info = await page(shop, last=2)
    assert (end, info["hasPreviousPage"], info["hasNextPage"]) == ([2, 1], True, False)


async def test_changes_of_one_moment_are_paged_without_loss(gateway: Gateway) -> None:
    shop = await fresh(gateway)
    for _ in range(5):
        await note(shop)
    seen, after = [], None
    while True:
        listed = (await shop.data(LIST, first=2, after=after))["auditLog"]
        seen += [edge["node"]["id"] for edge in listed["edges"]]
        after = listed["pageInfo"]["endCursor"]
        if not listed["pageInfo"]["hasNextPage"]:
            break
    assert len(seen) == len(set(seen)) == 5


async def test_one_subject_is_read_alone_also_when_it_is_a_person(gateway: Gateway) -> None:
    shop = await fresh(gateway)
    await note(shop, minutes=1)
    await note(shop, minutes=2, subject="user:ada")
    await note(shop, minutes=3)
    assert (await page(shop, subject="wfl_1"))[0] == [3, 1]
    assert (await page(shop, subject="wfl_1", last=1))[0] == [1]
    assert (await page(shop, subject="user:ada"))[0] == [2]
    assert (await page(shop, subject="wfl_2"))[0] == []
    assert await shop.codes(LIST, subject="\0") == ["BAD_USER_INPUT"]


async def test_below_admin_the_log_is_closed_and_its_entries_are_not_there(gateway: Gateway) -> None:
    shop = await fresh(gateway)
    await note(shop)
    [edge] = (await shop.data(LIST))["auditLog"]["edges"]
    editor = await shop.as_role(Role.EDITOR)
    assert await editor.codes(LIST) == ["FORBIDDEN"]
    found = await editor.data("query ($id: ID!) { node(id: $id) { id } }", id=edge["node"]["id"])
    assert found == {"node": None}


async def test_what_changes_nothing_is_not_noted(gateway: Gateway) -> None:
    shop = await fresh(gateway)
    await note(shop, before={"a": 1, "b": [True]}, after={"b": [True], "a": 1})
    assert (await shop.data(LIST))["auditLog"]["edges"] == []
    await note(shop, before={"a": 1}, after={"a": True})
    assert len((await shop.data(LIST))["auditLog"]["edges"]) == 1


async def test_what_is_large_is_told_by_its_digest_and_size(gateway: Gateway) -> None:
    shop = await fresh(gateway)
    await note(shop, before={"name": "Mail", "body": "x" * 200_000}, after={str(n): "y" * 4_000 for n in range(9)})
    [edge] = (await shop.data(LIST))["auditLog"]["edges"]
    before, after = edge["node"]["before"], edge["node"]["after"]
    assert before["name"] == "Mail"
    assert before["body"]["bytes"] == 200_002
    assert len(before["body"]["sha256"]) == 64
    assert set(after) == {"sha256", "bytes"}
    assert after["bytes"] > MAX_SIDE_BYTES


async def test_an_entry_is_gone_with_the_transaction_of_its_change(gateway: Gateway) -> None:
    shop = await fresh(gateway)

    async def change() -> None:
        async with gateway.services.database.transaction() as connection:
            await Audit(SYSTEM, NOON).note(
                connection, "workflow.saved", "wfl_1", project_id=shop.project_id, before=None, after={}
            )
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await change()
    assert (await shop.data(LIST))["auditLog"]["edges"] == []


async def test_a_person_leaves_the_log_and_the_changes_stay(gateway: Gateway) -> None:
    shop = await fresh(gateway)
    await note(shop, minutes=1, subject="user:ada", user_id="ada", after={"minutes": 1, "state": "GRANTED"})
    await note(shop, minutes=2, actor="user:ada")
    await note(shop, minutes=3, subject="user:bob", user_id="bob")

    async with gateway.services.database.transaction() as connection:
        assert await erase_person_of_audit_entries(connection, project_id=shop.project_id, user_id="ada") == 2
        assert await erase_person_of_audit_entries(connection, project_id=shop.project_id, user_id="ada") == 0
        rows = await connection.fetch("SELECT * FROM audit_entries WHERE project_id = $1 ORDER BY at", shop.project_id)

    assert "ada" not in repr(rows)
    assert [(row["actor"], row["subject"], row["after"], row["user_id"]) for row in rows] == [
        ("system", "user:(erased)", None, None),
        ("user:(erased)", "wfl_1", '{"minutes": 2}', None),
        ("system", "user:bob", '{"minutes": 3}', "bob"),
    ]


async def test_every_list_takes_an_index_and_sorts_nothing(gateway: Gateway) -> None:
    shop = await gateway.tenant()
    async with gateway.services.database.transaction() as connection:
        for number in range(400):
            await insert_audit_entry(
                connection,
                AuditEntryRecord(
                    project_id=shop.project_id,
                    audit_entry_id=uuid4(),
                    at=NOON + timedelta(seconds=number),
                    actor=SYSTEM,
                    action="workflow.saved",
                    subject=f"wfl_{number % 40}",
                    before=None,
                    after=None,
                    user_id=None,
                ),
            )
        await connection.execute("ANALYZE audit_entries")
        after = (NOON + timedelta(seconds=200), uuid4())
        for name, index, about in (
            ("list_audit_entries", "audit_entries_by_time", ()),
            ("list_audit_entries_backwards", "audit_entries_by_time", ()),
            ("list_audit_entries_of_subject", "audit_entries_by_subject", ("wfl_7",)),
            ("list_audit_entries_of_subject_backwards", "audit_entries_by_subject", ("wfl_7",)),
        ):
            text = f"EXPLAIN {statements('audit_entries')[name]}"
            rows = await connection.fetch(text, shop.project_id, *after, None, None, 3, *about)
            plan = "\n".join(row[0] for row in rows)
            assert f"using {index}" in plan, plan
            assert "Sort" not in plan, plan
            assert "ROW(at, audit_entry_id)" in plan.split("Index Cond:")[1].splitlines()[0], plan
