"""Every table, and what erasing a person does to it. A test holds this to the catalogue of a migrated database.

It says what `engine.erasure.sweeping` does and `engine.erasure.exporting` gives out, so that whoever adds a table or a
column has to say whom it may hold. Pure values.

What erasure does not search is what the customer wrote by hand: names, conditions, templates, definitions and secrets
are configuration, and traits or properties of other people may name anybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

import msgspec


class Rule(StrEnum):
    """What becomes of rows about somebody who is erased."""

    REMOVED = "REMOVED"
    BLANKED = "BLANKED"
    """They stay, and name nobody any more."""
    HASHED = "HASHED"
    """They stay under a keyed hash, which only finds what is known already."""
    NOBODY = "NOBODY"
    """The table holds nobody."""


class TableRule(msgspec.Struct, frozen=True):
    """`how` says which rows, or why nobody is in it. `columns` are all there are: a new one has to be thought about."""

    rule: Rule
    how: str
    columns: frozenset[str]


def _table(rule: Rule, how: str, columns: str) -> TableRule:
    return TableRule(rule, how, frozenset(columns.split()))


TABLES: Mapping[str, TableRule] = MappingProxyType(
    {
        "events": _table(
            Rule.REMOVED,
            "by user id, by those of users who were taken over, and of nobody under the anonymous ids that are theirs",
            "project_id seq batch_token timestamp received_at key module event_type user_id anonymous_id "
            "properties context",
        ),
        "profiles": _table(
            Rule.REMOVED,
            "by user id; of users who were taken over, too",
            "project_id profile_id user_id anonymous traits trait_stamps created_at",
        ),
        "identity_links": _table(
            Rule.REMOVED,
            "whatever stands for them",
            "project_id kind alias user_id linked_seq",
        ),
        "users": _table(
            Rule.REMOVED,
            "with password and second factor",
            "project_id user_id email password_hash sealed_totp_secret totp_confirmed_at totp_step "
            "recovery_code_hashes created_at signed_up_at",
        ),
        "sessions": _table(
            Rule.REMOVED,
            "theirs, and those that they took over; open ones are ended",
            "project_id session_id user_id anonymous device_id created_at last_used_at expires_at "
            "ended_at ended_reason taken_over_by retired_profile_id",
        ),
        "refresh_tokens": _table(
            Rule.REMOVED,
            "with their session",
            "project_id token_hash session_id created_at used_at",
        ),
        "sign_in_failures": _table(
            Rule.REMOVED,
            "by the hashes of their addresses",
            "project_id subject failures first_at last_at blocked_until storm_at",
        ),
        "consents": _table(
            Rule.REMOVED,
            "by user id",
            "project_id user_id purpose state source updated_at",
        ),
        "consent_changes": _table(
            Rule.BLANKED,
            "loses user_id, source, actor and salt; the chain still holds",
            "project_id seq consent_change_id user_id source actor salt purpose from_state to_state at commitment hash",
        ),
        "push_tokens": _table(
            Rule.REMOVED,
            "by user id",
            "project_id push_token_id platform environment token web_push_keys user_id timezone locale "
            "app_version active invalidated_reason owner_generation registered_at last_used_at",
        ),
        "live_activities": _table(
            Rule.REMOVED,
            "with their device",
            "project_id live_activity_id push_token_id activity_id attributes_type token state created_at updated_at",
        ),
        "push_reservations": _table(
            Rule.REMOVED,
            "by user id, and with their delivery",
            "project_id delivery_id batch_id user_id message_id at",
        ),
        "suppressions": _table(
            Rule.HASHED,
            "the address becomes a hash under the salt of the project, and stays suppressed",
            "project_id channel address reason delivery_id created_at",
        ),
        "send_batches": _table(
            Rule.BLANKED,
            "removed where nobody else is in it; else an idempotency key that holds an id or address "
            "goes, and progress names whoever comes before",
            "project_id batch_id kind idempotency_key request_hash progress queued scheduled suppressed "
            "created_at continue_at",
        ),
        "deliveries": _table(
            Rule.REMOVED,
            "to them, to their addresses alone, of their runs, and webhooks about their events",
            "project_id delivery_id batch_id channel status suppressed_reason user_id workflow_id "
            "workflow_run_id event_seq event_type endpoint_id push_token_id owner_generation recipient "
            "dispatch_key content payload variant locale error_code error_message error_permanent "
            "error_hint attempt_count retry_schedule schedule_offset provider_message_id depth created_at"
            " scheduled_for next_attempt_at sent_at delivered_at opened_at clicked_at finished_at "
            "lease_token lease_until repeatable workflow_step_number",
        ),
        "delivery_attempts": _table(
            Rule.REMOVED,
            "with their delivery",
            "project_id delivery_id number at duration_ms status_code response_body signature_header "
            "error_code error_message error_permanent error_hint",
        ),
        "delivery_transitions": _table(
            Rule.REMOVED,
            "with their delivery; holes in the lane",
            "project_id seq delivery_id from_status to_status at attempt_number batch_id channel user_id "
            "workflow_id workflow_run_id endpoint_id event_type error_code created_at",
        ),
        "workflow_runs": _table(
            Rule.REMOVED,
            "for them, and those for nobody that their events started",
            "project_id run_id workflow_id version status user_id event_seq depth step next_step_at "
            "claim_at is_held vars steps_made open_trace asked lease_token lease_until error started_at "
            "finished_at",
        ),
        "workflow_run_steps": _table(
            Rule.REMOVED,
            "with their run",
            "project_id run_id number workflow_id step label type outcome detail input output started_at finished_at",
        ),
        "workflow_run_updates": _table(
            Rule.REMOVED,
            "with their run; holes in the lane",
            "project_id seq run_id workflow_id user_id status step at started_at",
        ),
        "audience_members": _table(
            Rule.REMOVED,
            "by user id",
            "project_id audience_id user_id entered_at",
        ),
        "audience_rechecks": _table(
            Rule.REMOVED,
            "by user id",
            "project_id user_id recheck_at",
        ),
        "audience_changes": _table(
            Rule.REMOVED,
            "by user id; holes in the lane",
            "project_id seq audience_id user_id entered at",
        ),
        "audit_entries": _table(
            Rule.BLANKED,
            "actor and subject become user:(erased); before and after go where the entry is about them",
            "project_id audit_entry_id at actor action subject before after user_id",
        ),
        "audiences": _table(
            Rule.BLANKED,
            "built_up_to comes to stand at whoever comes before; conditions are configuration and not searched",
            "project_id audience_id name conditions created_at updated_at deleted_at revision is_building built_up_to",
        ),
        "workflows": _table(
            Rule.BLANKED,
            "enrolled_up_to comes to stand at whoever comes before",
            "project_id workflow_id name is_active is_paused version after_seq pending_change next_due_at"
            " enrolling_due_at enrolled_up_to created_at updated_at deleted_at",
        ),
        "api_keys": _table(
            Rule.NOBODY,
            "keys of the customer",
            "api_key_id project_id name kind environment role prefix token_hash created_at last_used_at revoked_at",
        ),
        "boards": _table(
            Rule.NOBODY,
            "configuration",
            "project_id board_id name insight_ids created_at updated_at",
        ),
        "consent_chains": _table(
            Rule.NOBODY,
            "a hash of hashes",
            "project_id seq hash",
        ),
        "erased_keys": _table(
            Rule.NOBODY,
            "hashes under the salt of the project",
            "project_id key_hash seq",
        ),
        "erasures": _table(
            Rule.NOBODY,
            "a receipt: counts and a hash under the salt of the project",
            "project_id erasure_id person_hash profile_id erased_at removed",
        ),
        "event_types": _table(
            Rule.NOBODY,
            "counts: how often a type was ever appended, erased events included",
            "project_id event_type module count last_seen_at",
        ),
        "heads": _table(
            Rule.NOBODY,
            "positions",
            "project_id lane epoch head first_seq changed_at",
        ),
        "identity_secrets": _table(
            Rule.NOBODY,
            "secrets of the customer",
            "project_id identity_secret_id sealed_secret created_at expires_at",
        ),
        "inbound_endpoints": _table(
            Rule.NOBODY,
            "configuration",
            "project_id endpoint_id name verifier sealed_secret event_type created_at",
        ),
        "insights": _table(
            Rule.NOBODY,
            "configuration, not searched",
            "project_id insight_id name kind input created_at updated_at",
        ),
        "log_followers": _table(
            Rule.NOBODY,
            "positions",
            "project_id follower lane position lease_token lease_until",
        ),
        "member_tokens": _table(
            Rule.NOBODY,
            "people of the dashboard, who are no end users",
            "token_hash member_token_id organization_id member_id prefix created_at expires_at last_used_at revoked_at",
        ),
        "members": _table(
            Rule.NOBODY,
            "people of the dashboard, who are no end users",
            "organization_id member_id email role created_at removed_at",
        ),
        "organizations": _table(
            Rule.NOBODY,
            "customers",
            "organization_id name created_at region",
        ),
        "pgqueuer": _table(
            Rule.NOBODY,
            "jobs name projects",
            "id priority queue_manager_id created updated heartbeat execute_after status entrypoint "
            "dedupe_key payload headers attempts slot",
        ),
        "pgqueuer_log": _table(
            Rule.NOBODY,
            "jobs name projects",
            "id created job_id status priority entrypoint traceback aggregated",
        ),
        "pgqueuer_schedules": _table(
            Rule.NOBODY,
            "jobs name projects",
            "id expression entrypoint heartbeat created updated next_run last_run status",
        ),
        "pgqueuer_statistics": _table(
            Rule.NOBODY,
            "counts",
            "id created count priority status entrypoint",
        ),
        "project_settings": _table(
            Rule.NOBODY,
            "configuration",
            "project_id require_signed_identity allow_unknown_consent default_timezone default_locale "
            "require_trusted_documents updated_at",
        ),
        "projects": _table(
            Rule.NOBODY,
            "configuration",
            "project_id organization_id name region salt created_at",
        ),
        "providers": _table(
            Rule.NOBODY,
            "configuration; last_error is about the account",
            "project_id provider_id kind settings sealed_secrets last_error created_at updated_at",
        ),
        "push_settings": _table(
            Rule.NOBODY,
            "configuration",
            "project_id quiet_hours_start_local quiet_hours_end_local defer_in_quiet_hours "
            "freq_cap_per_user_per_day freq_cap_per_user_per_hour",
        ),
        "schema_migrations": _table(
            Rule.NOBODY,
            "names of files",
            "version name sha256 applied_at",
        ),
        "send_counters": _table(
            Rule.NOBODY,
            "counts by domain of the sender",
            "project_id scope window_start count",
        ),
        "sender_domains": _table(
            Rule.NOBODY,
            "configuration",
            "project_id sender_domain_id domain status dkim_selector dkim_public_key "
            "sealed_dkim_private_key verified_records verified_at probation_until created_at",
        ),
        "signing_keys": _table(
            Rule.NOBODY,
            "keys of the deployment",
            "key_id public_jwk sealed_private_key created_at signs_from published_until",
        ),
        "templates": _table(
            Rule.NOBODY,
            "configuration, not searched",
            "project_id template_id name channel subject body_html body_text created_at updated_at",
        ),
        "time_zones": _table(
            Rule.NOBODY,
            "names of zones",
            "name",
        ),
        "tombstones": _table(
            Rule.NOBODY,
            "positions",
            "project_id lane seq",
        ),
        "trusted_documents": _table(
            Rule.NOBODY,
            "configuration",
            "project_id document_hash name document created_at",
        ),
        "webhook_endpoints": _table(
            Rule.NOBODY,
            "configuration",
            "project_id endpoint_id url description events enabled disabled_reason signature_scheme "
            "retry_schedule allow_plain_http after_seq failing_since created_at",
        ),
        "webhook_secrets": _table(
            Rule.NOBODY,
            "secrets of the customer",
            "project_id endpoint_id secret_id sealed_secret hint created_at expires_at",
        ),
        "workflow_failures": _table(
            Rule.NOBODY,
            "counts",
            "project_id workflow_id consecutive",
        ),
        "workflow_generations": _table(
            Rule.NOBODY,
            "counts",
            "project_id generation",
        ),
        "workflow_secrets": _table(
            Rule.NOBODY,
            "secrets of the customer",
            "project_id secret_id sealed_secret created_at expires_at",
        ),
        "workflow_versions": _table(
            Rule.NOBODY,
            "configuration, not searched",
            "project_id workflow_id version definition created_at",
        ),
    }
)

PERSONAL = frozenset(name for name, table in TABLES.items() if table.rule is not Rule.NOBODY)
"""The tables that hold people."""
