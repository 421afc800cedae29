"""Every named statement can be prepared against the migrated schema, and gives what its record holds."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

import db.statements
from db.audiences import AudienceRecord
from db.audit_entries import AuditEntryRecord
from db.boards import BoardRecord
from db.consents import ConsentRecord
from db.delivery_lists import ReasonRecord
from db.delivery_records import AttemptRecord, DeliveryRecord, NewTransition
from db.inbound_endpoints import InboundEndpointRecord
from db.insights import InsightRecord
from db.live_activities import LiveActivityRecord
from db.providers import ProviderRecord
from db.push_settings import PushSettingsRecord
from db.push_tokens import PushTokenRecord
from db.records import (
    ApiKeyRecord,
    AppendResult,
    EventRecord,
    EventTypeRecord,
    HeadRecord,
    ProfileRecord,
    ProjectRecord,
)
from db.sealed_values import SealedValue
from db.sender_domains import SenderDomainRecord
from db.statements import statements
from db.suppressions import SuppressionRecord
from db.templates import TemplateRecord
from db.webhook_endpoints import WebhookEndpointRecord, WebhookSubscription, WebhookTarget
from db.workflow_records import (
    ActiveTrigger,
    RunRecord,
    RunStepRecord,
    WorkflowRecord,
    WorkflowStanding,
    WorkflowVersionRecord,
)
from db.workflow_runs import StepDelivery
from db.workflow_secrets import WorkflowSecretRecord
from tests.integration.log_support import open_database

SQL = Path(db.statements.__file__).parent / "sql"
RECORDS: dict[str, type[msgspec.Struct]] = {
    "sealed_values.list_sealed_values": SealedValue,
    "workflow_secrets.read_workflow_secrets": WorkflowSecretRecord,
    "webhook_endpoints.list_webhook_endpoints": WebhookEndpointRecord,
    "webhook_endpoints.read_webhook_endpoints": WebhookEndpointRecord,
    "webhook_endpoints.read_webhook_subscriptions": WebhookSubscription,
    "webhook_endpoints.read_webhook_targets": WebhookTarget,
    "live_activities.register_live_activity": LiveActivityRecord,
    "live_activities.share_live_activities": LiveActivityRecord,
    "push_settings.lock_push_settings": PushSettingsRecord,
    "push_settings.read_push_settings": PushSettingsRecord,
    "push_tokens.read_push_tokens": PushTokenRecord,
    "push_tokens.read_tokens_by_user": PushTokenRecord,
    "push_tokens.register_push_token": PushTokenRecord,
    "push_tokens.share_active_tokens": PushTokenRecord,
    "push_tokens.share_push_tokens": PushTokenRecord,
    "push_tokens.share_token_of_device": PushTokenRecord,
    "push_tokens.unregister_push_token": PushTokenRecord,
    "delivery_changes.cancel_delivery": DeliveryRecord,
    "delivery_changes.lock_finished": NewTransition,
    "delivery_lists.read_reasons": ReasonRecord,
    "consents.share_consents": ConsentRecord,
    "send_batches.read_batch_deliveries": DeliveryRecord,
    "deliveries.lock_deliveries": DeliveryRecord,
    "deliveries.read_attempts": AttemptRecord,
    "deliveries.read_deliveries": DeliveryRecord,
    "api_keys.insert_api_key": ApiKeyRecord,
    "api_keys.find_api_key": ApiKeyRecord,
    "api_keys.read_api_keys": ApiKeyRecord,
    "api_keys.list_api_keys": ApiKeyRecord,
    "event_types.list_event_types": EventTypeRecord,
    "event_types.read_event_types": EventTypeRecord,
    "events.read_events_by_seq": EventRecord,
    "events.read_events_by_key": EventRecord,
    "heads.read_head": HeadRecord,
    "heads.read_heads": HeadRecord,
    "heads.read_changed_heads": HeadRecord,
    "profiles.read_profiles": ProfileRecord,
    "profiles.read_profiles_by_user": ProfileRecord,
    "delivery_reports.report_status": DeliveryRecord,
    "inbound_endpoints.find_inbound_endpoint": InboundEndpointRecord,
    "inbound_endpoints.insert_inbound_endpoint": InboundEndpointRecord,
    "inbound_endpoints.list_inbound_endpoints": InboundEndpointRecord,
    "inbound_endpoints.lock_inbound_endpoint": InboundEndpointRecord,
    "inbound_endpoints.read_inbound_endpoints": InboundEndpointRecord,
    "inbound_endpoints.update_inbound_endpoint": InboundEndpointRecord,
    "projects.insert_project": ProjectRecord,
    "providers.find_provider": ProviderRecord,
    "providers.list_providers": ProviderRecord,
    "providers.lock_provider": ProviderRecord,
    "providers.read_providers": ProviderRecord,
    "providers.read_providers_by_kind": ProviderRecord,
    "providers.update_provider": ProviderRecord,
    "sender_domains.find_sender_domains": SenderDomainRecord,
    "sender_domains.insert_sender_domain": SenderDomainRecord,
    "sender_domains.list_sender_domains": SenderDomainRecord,
    "sender_domains.read_sender_domains": SenderDomainRecord,
    "sender_domains.update_sender_domain": SenderDomainRecord,
    "suppressions.share_suppressions": SuppressionRecord,
    "audit_entries.list_audit_entries": AuditEntryRecord,
    "audit_entries.list_audit_entries_backwards": AuditEntryRecord,
    "audit_entries.list_audit_entries_of_subject": AuditEntryRecord,
    "audit_entries.list_audit_entries_of_subject_backwards": AuditEntryRecord,
    "audit_entries.read_audit_entries": AuditEntryRecord,
    "boards.insert_board": BoardRecord,
    "boards.list_boards": BoardRecord,
    "boards.lock_board": BoardRecord,
    "boards.read_boards": BoardRecord,
    "boards.update_board": BoardRecord,
    "insights.insert_insight": InsightRecord,
    "insights.list_insights": InsightRecord,
    "insights.lock_insight": InsightRecord,
    "insights.read_insights": InsightRecord,
    "insights.update_insight": InsightRecord,
    "audiences.insert_audience": AudienceRecord,
    "audiences.list_audiences": AudienceRecord,
    "audiences.lock_audience": AudienceRecord,
    "audiences.read_all_audiences": AudienceRecord,
    "audiences.read_audiences": AudienceRecord,
    "audiences.read_audiences_ever": AudienceRecord,
    "audiences.update_audience": AudienceRecord,
    "templates.insert_template": TemplateRecord,
    "templates.list_templates": TemplateRecord,
    "templates.lock_template": TemplateRecord,
    "templates.read_templates": TemplateRecord,
    "templates.update_template": TemplateRecord,
    "projects.read_projects": ProjectRecord,
    "projects.list_projects": ProjectRecord,
    "enrolment.find_due_workflows": WorkflowStanding,
    "workflows.list_workflows": WorkflowRecord,
    "workflows.list_workflows_backwards": WorkflowRecord,
    "workflows.lock_workflow": WorkflowStanding,
    "workflows.read_active_triggers": ActiveTrigger,
    "workflows.read_workflow_versions": WorkflowVersionRecord,
    "workflows.read_workflows": WorkflowRecord,
    "workflows.share_workflows": WorkflowStanding,
    "workflow_runs.lock_changing_workflow": WorkflowStanding,
    "workflow_runs.read_run_steps": RunStepRecord,
    "workflow_runs.read_runs": RunRecord,
    "workflow_runs.read_step_deliveries": StepDelivery,
}
OTHER_COLUMNS = {
    "sealed_values.reseal_workflow_secret": [],
    "workflow_secrets.delete_expired_workflow_secrets": [],
    "workflow_secrets.expire_workflow_secrets": [],
    "workflow_secrets.insert_workflow_secret": ["secret_id"],
    "workflow_secrets.lock_workflow_secrets": ["project_id"],
    "webhook_endpoints.count_webhook_endpoints": ["count"],
    "webhook_endpoints.delete_expired_webhook_secrets": [],
    "webhook_endpoints.delete_webhook_endpoint": ["endpoint_id"],
    "webhook_endpoints.delete_webhook_secret": ["secret_id"],
    "webhook_endpoints.disable_webhook_endpoint": ["endpoint_id"],
    "webhook_endpoints.expire_webhook_secrets": [],
    "webhook_endpoints.insert_webhook_endpoint": [],
    "webhook_endpoints.insert_webhook_secret": [],
    "webhook_endpoints.lock_webhook_endpoint": ["endpoint_id"],
    "webhook_endpoints.note_webhook_outcomes": ["endpoint_id", "failing_since"],
    "webhook_endpoints.update_webhook_endpoint": [],
    "live_activities.begin_live_activities": [],
    "live_activities.end_live_activities": ["push_token_id", "attributes_type", "activity_id"],
    "push_interactions.stamp_interaction": [],
    "push_reservations.count_sends": ["user_id", "in_hour", "in_day", "message_ids", "batch_ids"],
    "push_reservations.release_unsent": [],
    "push_reservations.reserve_sends": [],
    "push_settings.insert_push_settings": [],
    "push_settings.write_push_settings": [],
    "push_tokens.give_up_excess_tokens": ["push_token_id"],
    "push_tokens.settle_push_tokens": ["push_token_id", "is_invalidated"],
    "delivery_changes.find_unchanged": ["delivery_id"],
    "delivery_changes.requeue_deliveries": [],
    "delivery_lists.read_recent_failures": ["delivery_id"],
    "replays.count_unfinished_replays": ["replays"],
    "replays.find_replaying_projects": ["project_id"],
    "replays.insert_replay": ["batch_id"],
    "replays.lock_replay": ["batch_id", "progress"],
    "replays.move_replay": [],
    "send_counters.find_last_window": ["window_start"],
    "send_counters.insert_send_counter": [],
    "send_counters.reserve_sends": ["granted"],
    "delivery_reports.stamp_reading": [],
    "suppressions.insert_suppressions": ["address"],
    "standings.read_as_stored": ["stored"],
    "standings.read_held": ["address", "reason"],
    "standings.read_said": ["purpose", "state"],
    "audience_log.append_audience_changes": ["epoch", "previous_head"],
    "audience_log.read_audience_changes": [
        *("head", "first_seq", "epoch"),
        *("seq", "audience_id", "user_id", "entered", "at"),
    ],
    "audience_members.delete_members": [],
    "audience_members.delete_rechecks": [],
    "audience_members.find_building_projects": ["project_id"],
    "audience_members.find_newcomers": ["user_id"],
    "audience_members.find_recheck_projects": ["project_id"],
    "audience_members.find_rechecks": ["user_id"],
    "audience_members.hold_follower": ["position"],
    "audience_members.hold_people": ["user_id"],
    "audience_members.insert_members": [],
    "audience_members.lock_building": ["audience_id", "conditions", "built_up_to", "is_deleted"],
    "audience_members.move_building": [],
    "audience_members.page_members": ["user_id"],
    "audience_members.page_people": ["user_id"],
    "audience_members.read_audience_revisions": ["audience_id", "revision", "epoch", "first_seq"],
    "audience_members.read_counted": ["ordinal", *EventRecord.__struct_fields__],
    "audience_members.read_people": ["head", *ProfileRecord.__struct_fields__, "said", "audience_ids", "recheck_at"],
    "audience_members.rebuild_audiences": [],
    "audience_members.write_rechecks": [],
    "audience_sends.count_unfinished_audience_sends": ["sends"],
    "audience_sends.find_audience_sends": ["project_id"],
    "audience_sends.lock_audience_send": ["batch_id", "kind", "progress"],
    "audience_sends.move_audience_send": [],
    "audiences.count_audiences": ["count"],
    "audiences.delete_audience": [],
    "audiences.find_audience_names": ["name", "audience_id"],
    "audiences.find_workflows_of_audience": ["name"],
    "audiences.hold_audiences": ["project_id"],
    "audiences.read_audiences_of_people": ["user_id", *AudienceRecord.__struct_fields__],
    "audiences.share_audiences": ["audience_id"],
    "boards.count_boards": ["count"],
    "boards.delete_board": ["board_id"],
    "boards.drop_insight": [],
    "boards.find_board_name": ["board_id"],
    "insights.count_insights": ["count"],
    "insights.delete_insight": [],
    "insights.find_insight_name": ["insight_id"],
    "insights.hold_insights": ["project_id"],
    "insights.share_insights": ["insight_id"],
    "templates.count_templates": ["count"],
    "templates.delete_template": ["template_id"],
    "templates.find_email_templates": ["name", "template_id"],
    "templates.find_template_name": ["template_id"],
    "consents.write_consent": [],
    "profiles.lock_profiles": ["user_id"],
    "profiles.share_profiles": ["user_id"],
    "send_batches.find_batch": ["batch_id", "kind", "request_hash", "queued", "scheduled", "suppressed"],
    "send_batches.insert_batch": ["batch_id"],
    "send_batches.set_batch_counts": [],
    "api_keys.revoke_api_key": ["api_key_id"],
    "api_keys.touch_api_keys": [],
    "deliveries.append_transitions": ["epoch", "previous_head"],
    "workflow_run_log.append_run_updates": ["epoch", "previous_head"],
    "workflow_stats.count_outcomes": ["workflow_id", "label", "outcome", "steps"],
    "workflow_stats.count_runs_by_status": ["workflow_id", "status", "runs"],
    "workflow_run_lists.read_first_deliveries": ["run_id", "number", "delivery_id"],
    "workflow_run_lists.read_run_deliveries": ["run_id", "number", "delivery_id"],
    "deliveries.insert_deliveries": [],
    "dispatch.find_due_projects": ["project_id"],
    "dispatch.find_expired": ["project_id"],
    "dispatch.lock_expired": [*DeliveryRecord.__struct_fields__, "lease_token", "lost_count"],
    "dispatch.find_candidates": ["is_mine", "key", "key_is_due", *DeliveryRecord.__struct_fields__],
    "dispatch.lock_persons": ["user_id"],
    "dispatch.move_deliveries": [],
    "dispatch.write_claims": ["delivery_id", "epoch", "previous_head"],
    "dispatch.write_settlements": ["delivery_id", "lease_token", "epoch", "previous_head"],
    "enrolment.find_due_schedules": ["project_id"],
    "enrolment.find_met": ["workflow_id", "user_id"],
    "enrolment.save_enrolment": [],
    # What is not held follows from previous_head.
    "events.append_events": [
        "epoch",
        "received_at",
        "previous_head",
        "held_keys",
        "held_seqs",
        "held_mine",
        "dropped_keys",
        "erased_keys",
    ],
    "events.delete_events_before": [],
    "events.find_first_since": ["seq"],
    "events.lock_events_head": ["head", "first_seq"],
    "events.move_first_seq": [],
    "followers.advance_follower": ["position"],
    "followers.ensure_follower": [],
    "followers.lease_follower": ["position"],
    "followers.read_followed_projects": ["project_id", "is_behind"],
    "followers.read_slowest_position": ["position"],
    "followers.release_follower": [],
    "followers.spare_disk": ["synchronous_commit"],
    "heads.advance_epoch": ["epoch"],
    "heads.read_clock": ["now"],
    "housekeeping.delete_job_log": [],
    "housekeeping.delete_job_statistics": [],
    "housekeeping.delete_reservations": [],
    "housekeeping.delete_send_counters": [],
    "sealed_values.reseal_inbound_endpoint": [],
    "sealed_values.reseal_provider": [],
    "sealed_values.reseal_sender_domain": [],
    "sealed_values.reseal_webhook_secret": [],
    "audit_entries.erase_person_of_audit_entries": ["entries"],
    "audit_entries.insert_audit_entry": [],
    "projects.find_region": ["region"],
    "projects.insert_organization": [],
    "delivery_reports.find_by_provider_message": ["delivery_id"],
    "identity_links.take_over_user": [],
    "inbound_endpoints.delete_inbound_endpoint": ["endpoint_id"],
    "providers.delete_provider": ["provider_id"],
    "providers.insert_provider": [],
    "providers.set_provider_error": [],
    "workflow_failures.count_failures": ["workflow_id", "consecutive"],
    "workflow_failures.forget_failures": [],
    "workflow_runs.cancel_deliveries": [],
    "workflow_runs.find_projects_with_runs": ["project_id"],
    "workflow_runs.find_due_runs": ["run_id", "workflow_id", "user_id"],
    "workflow_runs.insert_runs": [],
    "workflow_runs.lock_held_runs": [*RunRecord.__struct_fields__, "lease_token", "is_leased"],
    "workflow_runs.lock_pending_deliveries": ["delivery_id"],
    "workflow_runs.lock_runs": [*RunRecord.__struct_fields__, "lease_token", "is_leased"],
    "workflow_runs.lock_unfinished_runs": [*RunRecord.__struct_fields__, "lease_token", "is_leased"],
    "workflow_runs.return_leases": [],
    "workflow_runs.save_runs": [],
    "workflow_runs.set_claims": ["run_id"],
    "workflow_runs.try_lock_runs": [*RunRecord.__struct_fields__, "lease_token", "is_leased"],
    "workflow_runs.upsert_run_steps": [],
    "workflows.bump_generation": [],
    "workflows.count_workflows": ["count"],
    "workflows.delete_workflow": [],
    "workflows.end_pending_change": ["workflow_id"],
    "workflows.find_workflow_names": ["name", "workflow_id"],
    "workflows.hold_workflows": ["project_id"],
    "workflows.insert_workflow": [],
    "workflows.insert_workflow_version": [],
    "workflows.read_generation": ["generation"],
    "workflows.set_workflow_paused": [],
    "workflows.set_workflow_standing": [],
}
FAMILIES = sorted(path.stem for path in SQL.glob("*.sql"))
EVERY_STATEMENT = [f"{family}.{name}" for family in FAMILIES for name in statements(family)]


def test_every_statement_is_accounted_for() -> None:
    assert sorted(RECORDS.keys() | OTHER_COLUMNS.keys()) == sorted(EVERY_STATEMENT)
    assert set(AppendResult.__struct_fields__) == {"epoch", "received_at", "seqs", "fresh", "dropped", "erased"}


@pytest.mark.parametrize("statement", EVERY_STATEMENT)
async def test_a_statement_gives_the_columns_of_its_record(statement: str, database_url: str) -> None:
    family, _, name = statement.partition(".")
    async with open_database(database_url) as database, database.connection() as connection:
        prepared = await connection.prepare(statements(family)[name])
        columns = [attribute.name for attribute in prepared.get_attributes()]

    record = RECORDS.get(statement)
    if record is None:
        assert columns == OTHER_COLUMNS[statement]
    else:
        assert sorted(columns) == sorted(record.__struct_fields__)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_statement_says_in_one_sentence_what_it_gives(family: str) -> None:
    for name, text in statements(family).items():
        sentence = text.splitlines()[0]
        assert sentence.startswith("-- "), name
        assert sentence.endswith("."), name
