"""Bundles out of one project and into another, over a real database."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from uuid_utils.compat import uuid7

import engine.workflows.bundles as bundles_module
from db.database import Database
from db.templates import delete_template, insert_template
from engine.audiences.saving import AudienceChange, create_audience
from engine.audit import SYSTEM, Audit
from engine.egress import Egress
from engine.errors import BadUserInput, NotFound
from engine.workflows.bundles import Imported, export_bundle, import_bundle
from engine.workflows.saving import set_active
from engine.workflows.standing import delete_workflow, pause_workflow
from tests.integration.bundle_strategies import TEMPLATES, bundles
from tests.integration.dispatch_support import START
from tests.integration.log_support import make_project, open_database
from tests.integration.postgres_proxy import open_proxy

SCHEMA_URL = "https://gateway.example/schemas/workflow-bundle.json"
EMPTY = {"$schema": SCHEMA_URL, "audiences": [], "workflows": []}
MAIL = {"type": "SEND_EMAIL", "config": {"to": "{{ user.email }}", "template": "Welcome"}}
VIPS = {"name": "VIPs", "where": [{"path": "profile.traits.vip", "op": "EQ", "value": True}]}


@dataclass
class Project:
    """A project with a template for email under each name that bundles of the strategy name."""

    database: Database
    project_id: UUID

    async def template(self, name: str, channel: str = "EMAIL") -> UUID:
        template_id = uuid7()
        async with self.database.transaction() as connection:
            await insert_template(
                connection,
                project_id=self.project_id,
                template_id=template_id,
                name=name,
                channel=channel,
                subject="Hi",
                body_html="<p>Hi</p>",
                body_text=None,
                now=START,
            )
        return template_id

    async def bring(self, bundle: Any, *, is_dry_run: bool = False, after: float = 0) -> Imported:
        return await import_bundle(
            self.database,
            project_id=self.project_id,
            given=bundle,
            egress=Egress(),
            schema_url=SCHEMA_URL,
            audit=Audit(SYSTEM, START + timedelta(seconds=after)),
            is_dry_run=is_dry_run,
        )

    async def take(self, bundle: Any, **options: Any) -> Imported:
        """An import that goes through."""
        imported = await self.bring(bundle, **options)
        assert imported.errors == ()
        return imported

    async def export(self, *workflow_ids: UUID) -> dict[str, Any]:
        async with self.database.connection() as connection:
            return await export_bundle(
                connection,
                project_id=self.project_id,
                workflow_ids=workflow_ids or None,
                schema_url=SCHEMA_URL,
            )

    async def refusals(self, bundle: Any) -> list[tuple[str, str]]:
        """Codes and paths."""
        return [(error.code, ".".join(error.path)) for error in (await self.bring(bundle)).errors]


async def open_project(database: Database, templates: Sequence[str] = TEMPLATES) -> Project:
    project = Project(database, await make_project(database))
    for name in templates:
        await project.template(name)
    return project


@pytest.fixture
async def database(module_database_url: str) -> AsyncIterator[Database]:
    async with open_database(module_database_url) as opened:
        yield opened


@pytest.fixture
async def shop(database: Database) -> Project:
    return await open_project(database)


def workflow(name: str = "Hello", *, audience: str | None = None, **changes: Any) -> dict[str, Any]:
    trigger = {"eventType": "order.placed", **({} if audience is None else {"audience": audience})}
    return {"name": name, "trigger": trigger, "steps": [MAIL], **changes}


def bundle(*workflows: dict[str, Any], audiences: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    return {"audiences": list(audiences), "workflows": list(workflows)}


def outcomes(imported: Imported) -> dict[str, str]:
    return {
        **{f"audience {each.audience.name}": each.outcome.value for each in imported.audiences},
        **{each.workflow.name: each.outcome.value for each in imported.workflows},
    }


def text(value: Any) -> str:
    """Its bytes, as a client that keeps the order would write them."""
    return json.dumps(value)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bundles())
async def test_export_import_export_gives_the_same_bytes_here_and_elsewhere(
    database: Database, written: dict[str, Any]
) -> None:
    here, there = await open_project(database), await open_project(database)
    await here.take(written)
    first = await here.export()
    again = await here.take(first)
    assert set(outcomes(again).values()) == {"UNCHANGED"}
    assert again.before == again.after == first
    assert text(await here.export()) == text(first)
    elsewhere = await there.take(json.loads(text(first)))
    assert set(outcomes(elsewhere).values()) == {"CREATED"}
    assert text(await there.export()) == text(first)


async def test_an_import_makes_changes_and_leaves_by_name(shop: Project) -> None:
    made = await shop.take(bundle(workflow("a"), workflow("b"), workflow("c", audience="VIPs"), audiences=[VIPS]))
    assert outcomes(made) == {"audience VIPs": "CREATED", "a": "CREATED", "b": "CREATED", "c": "CREATED"}
    changed = bundle(
        workflow("a"),
        workflow("b", description="new"),
        workflow("d"),
        audiences=[{"name": "VIPs", "where": []}, {"name": "All", "where": []}],
    )
    after = await shop.take(changed, after=60)
    assert outcomes(after) == {
        "audience VIPs": "UPDATED",
        "audience All": "CREATED",
        "a": "UNCHANGED",
        "b": "UPDATED",
        "d": "CREATED",
    }
    records = {each.workflow.name: each.workflow for each in after.workflows}
    ids = {each.workflow.name: each.workflow.workflow_id for each in made.workflows}
    assert (records["a"].version, records["b"].version, records["d"].version) == (1, 2, 1)
    assert (records["a"].workflow_id, records["b"].workflow_id) == (ids["a"], ids["b"])
    exported = await shop.export()
    assert [each["name"] for each in exported["workflows"]] == ["a", "b", "c", "d"]
    assert exported["audiences"] == [{"name": "All", "where": []}, {"name": "VIPs", "where": []}]


async def test_true_is_not_one_and_the_order_of_members_is_nothing(shop: Project) -> None:
    def traits(**given: Any) -> dict[str, Any]:
        return bundle(workflow(steps=[{"label": "s", "type": "UPDATE_PROFILE", "config": {"traits": given}}]))

    await shop.take(traits(a=1, b=2))
    assert outcomes(await shop.take(traits(b=2, a=1))) == {"Hello": "UNCHANGED"}
    assert outcomes(await shop.take(traits(b=2, a=True))) == {"Hello": "UPDATED"}

    def vips(value: Any) -> dict[str, Any]:
        return bundle(audiences=[{"name": "VIPs", "where": [{"path": "profile.traits.a", "op": "EQ", "value": value}]}])

    await shop.take(vips(1))
    assert outcomes(await shop.take(vips(True))) == {"audience VIPs": "UPDATED"}


async def test_workflows_are_on_or_off_as_the_bundle_says(shop: Project) -> None:
    made = await shop.take(bundle(workflow("a"), workflow("b", isActive=True), workflow("c", isActive=False)))
    assert {each.workflow.name: each.workflow.is_active for each in made.workflows} == {
        "a": False,
        "b": True,
        "c": False,
    }
    [a, b, _] = [each.workflow for each in made.workflows]
    for each, is_active in ((a, True), (b, False)):
        await set_active(
            shop.database,
            project_id=shop.project_id,
            workflow_id=each.workflow_id,
            is_active=is_active,
            audit=Audit(SYSTEM, START),
        )
    # It does not say of the first; it says of the second.
    again = await shop.take(bundle(workflow("a"), workflow("b", isActive=True), workflow("c")))
    assert outcomes(again) == {"a": "UNCHANGED", "b": "UPDATED", "c": "UNCHANGED"}
    assert {each["name"]: each["isActive"] for each in (await shop.export())["workflows"]} == {
        "a": True,
        "b": True,
        "c": False,
    }


async def test_being_paused_is_no_part_of_a_bundle(shop: Project) -> None:
    [made] = (await shop.take(bundle(workflow(isActive=True)))).workflows
    await pause_workflow(
        shop.database, project_id=shop.project_id, workflow_id=made.workflow.workflow_id, audit=Audit(SYSTEM, START)
    )
    exported = await shop.export()
    again = await shop.take(exported)
    assert outcomes(again) == {"Hello": "UNCHANGED"}
    assert again.workflows[0].workflow.is_paused


async def test_everything_that_is_unknown_is_named_and_nothing_is_half_done(shop: Project) -> None:
    await shop.template("Text", channel="SMS")
    other = {**MAIL, "config": {**MAIL["config"], "template": "Text"}}  # type: ignore[dict-item]
    gone = {**MAIL, "config": {**MAIL["config"], "template": "Gone"}}  # type: ignore[dict-item]
    wrong = bundle(
        workflow("a"),
        workflow("b", audience="Nobody", steps=[MAIL, gone, other]),
        workflow("c", audience="VIPs"),
        audiences=[VIPS],
    )
    imported = await shop.bring(wrong)
    assert [(error.code, error.message, ".".join(error.path)) for error in imported.errors] == [
        ("NOT_FOUND", "This project has no audience named Nobody.", "bundle.workflows.1.trigger.audience"),
        (
            "NOT_FOUND",
            "This project has no template for email named Gone.",
            "bundle.workflows.1.steps.1.config.template",
        ),
        (
            "NOT_FOUND",
            "This project has no template for email named Text.",
            "bundle.workflows.1.steps.2.config.template",
        ),
    ]
    assert (imported.workflows, imported.audiences, imported.before) == ((), (), None)
    assert await shop.export() == EMPTY


async def test_names_of_another_project_lead_nowhere(shop: Project, database: Database) -> None:
    other = await open_project(database, templates=())
    await shop.take(bundle(audiences=[VIPS]))
    assert await other.refusals(bundle(workflow(audience="VIPs"))) == [
        ("NOT_FOUND", "bundle.workflows.0.trigger.audience"),
        ("NOT_FOUND", "bundle.workflows.0.steps.0.config.template"),
    ]
    await other.template("Welcome")
    made = await other.take(bundle(workflow(audience="VIPs"), audiences=[VIPS]))
    assert outcomes(made) == {"audience VIPs": "CREATED", "Hello": "CREATED"}


async def test_an_audience_of_the_project_need_not_be_in_the_bundle(shop: Project) -> None:
    await create_audience(
        shop.database,
        project_id=shop.project_id,
        given=AudienceChange(name="VIPs", where=[]),
        audit=Audit(SYSTEM, START),
    )
    await shop.take(bundle(workflow(audience="VIPs")))
    [exported] = (await shop.export())["workflows"]
    assert exported["trigger"]["audience"] == "VIPs"


async def test_a_dry_run_says_what_would_come_of_it_and_changes_nothing(shop: Project) -> None:
    await shop.take(bundle(workflow("a"), audiences=[VIPS]))
    before = await shop.export()
    tried = await shop.take(bundle(workflow("a", description="new"), workflow("b")), is_dry_run=True)
    assert outcomes(tried) == {"a": "UPDATED", "b": "CREATED"}
    assert tried.before == {**before, "audiences": []}
    assert tried.after is not None
    assert [each.get("description") for each in tried.after["workflows"]] == ["new", None]
    assert await shop.export() == before
    assert await shop.refusals(bundle(workflow("b", audience="Nobody"))) != []


async def test_some_workflows_are_exported_with_the_audiences_that_they_name(shop: Project) -> None:
    all_of = {"name": "All", "where": []}
    made = await shop.take(
        bundle(workflow("a", audience="VIPs"), workflow("b"), workflow("c", audience="All"), audiences=[VIPS, all_of])
    )
    ids = {each.workflow.name: each.workflow.workflow_id for each in made.workflows}
    exported = await shop.export(ids["b"], ids["a"], ids["b"])
    assert [each["name"] for each in exported["workflows"]] == ["a", "b"]
    assert exported["audiences"] == [VIPS]
    assert (await shop.export(ids["b"]))["audiences"] == []
    assert [each["name"] for each in (await shop.export())["audiences"]] == ["All", "VIPs"]


async def test_a_deleted_workflow_is_in_no_bundle_and_its_name_is_free(shop: Project, database: Database) -> None:
    [made] = (await shop.take(bundle(workflow()))).workflows
    workflow_id = made.workflow.workflow_id
    await delete_workflow(database, project_id=shop.project_id, workflow_id=workflow_id, audit=Audit(SYSTEM, START))
    assert await shop.export() == EMPTY
    with pytest.raises(NotFound):
        await shop.export(workflow_id)
    assert outcomes(await shop.take(bundle(workflow()))) == {"Hello": "CREATED"}


async def test_what_names_a_deleted_template_is_exported_by_nobody_but_planned(
    shop: Project, database: Database
) -> None:
    await shop.take(bundle(workflow("a"), workflow("b", steps=[{"type": "WAIT", "config": {}, "delayMinutes": 1}])))
    async with database.transaction() as connection:
        found = await connection.fetchval(
            "SELECT template_id FROM templates WHERE project_id = $1 AND name = 'Welcome'", shop.project_id
        )
        await delete_template(connection, project_id=shop.project_id, template_id=found)
    with pytest.raises(BadUserInput, match="A template that the workflow a names was deleted"):
        await shop.export()
    tried = await shop.take(
        bundle(workflow("a", steps=[{**MAIL, "config": {"to": "a@b.co", "template": TEMPLATES[1]}}])), is_dry_run=True
    )
    assert tried.before is not None
    assert tried.before["workflows"][0]["steps"][0]["config"]["template"] == "(deleted)"


async def test_what_no_request_could_bring_back_is_not_exported(shop: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await shop.take(bundle(workflow("a"), workflow("b")))
    first = made.workflows[0].workflow.workflow_id
    monkeypatch.setattr(bundles_module, "MAX_BUNDLE_BYTES", 300)
    with pytest.raises(BadUserInput, match=r"as a bundle, which no request could bring\. Export them in parts"):
        await shop.export()
    monkeypatch.setattr(bundles_module, "MAX_STORED_BYTES", 300)
    with pytest.raises(BadUserInput, match="which no request could bring"):
        await shop.export()
    monkeypatch.undo()
    monkeypatch.setattr(bundles_module, "MAX_WORKFLOWS", 1)
    with pytest.raises(BadUserInput, match="more than 1 workflows"):
        await shop.export()
    with pytest.raises(BadUserInput, match="at most 1 workflows"):
        await shop.export(first, made.workflows[1].workflow.workflow_id)
    assert len((await shop.export(first))["workflows"]) == 1
    monkeypatch.setattr(bundles_module, "MAX_BUNDLE_DEPTH", 5)
    with pytest.raises(BadUserInput, match="The workflow a holds JSON that is nested too deeply"):
        await shop.export(first)


async def test_an_export_is_read_page_by_page(shop: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"w{number}" for number in range(5)]
    await shop.take(bundle(*(workflow(name) for name in names)))
    for size in (1, 2, 5, 6):
        monkeypatch.setattr(bundles_module, "PAGE_WORKFLOWS", size)
        assert [each["name"] for each in (await shop.export())["workflows"]] == names


async def test_a_project_has_so_many_audiences(shop: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles_module, "MAX_AUDIENCES", 1)
    two = [VIPS, {"name": "All", "where": []}]
    assert await shop.refusals(bundle(audiences=two)) == [("LIMIT_EXCEEDED", "bundle.audiences.0")]
    await shop.take(bundle(audiences=[VIPS]))
    assert await shop.refusals(bundle(audiences=two)) == [("LIMIT_EXCEEDED", "bundle.audiences.1")]
    assert outcomes(await shop.take(bundle(audiences=[VIPS]))) == {"audience VIPs": "UNCHANGED"}


def _is_commit(sent: bytes) -> bool:
    return b"COMMIT;" in sent


async def test_a_commit_whose_answer_is_lost_is_one_import(
    module_database_url: str, tmp_path: Path, database: Database
) -> None:
    shop = await open_project(database)
    await shop.take(bundle(workflow("a")))
    async with open_proxy(tmp_path, module_database_url) as proxy, open_database(proxy.url, max_size=3) as through:
        proxy.lose_answers_to(_is_commit, times=2)
        imported = await Project(through, shop.project_id).take(
            bundle(workflow("a", description="new"), workflow("b"), audiences=[VIPS])
        )
        assert proxy.lost == 2
    assert outcomes(imported) == {"audience VIPs": "CREATED", "a": "UPDATED", "b": "CREATED"}
    assert imported.before is not None
    assert [each["name"] for each in imported.before["workflows"]] == ["a"]
    versions = {each.workflow.name: each.workflow.version for each in imported.workflows}
    assert versions == {"a": 2, "b": 1}


async def test_two_imports_at_once_are_one_after_the_other(shop: Project) -> None:
    both = bundle(workflow("a"), workflow("b", audience="VIPs"), audiences=[VIPS])
    first, second = await asyncio.gather(shop.take(both), shop.take(both))
    seen = sorted(set(outcomes(each).values()) for each in (first, second))
    assert sorted(map(sorted, seen)) == [["CREATED"], ["UNCHANGED"]]
