"""From any record that has a node id to its type."""

from __future__ import annotations

from db.audiences import AudienceRecord
from db.audit_entries import AuditEntryRecord
from db.boards import BoardRecord
from db.consent_changes import ConsentChangeRecord
from db.delivery_records import DeliveryRecord
from db.insights import InsightRecord
from db.push_tokens import PushTokenRecord
from db.records import ApiKeyRecord, ProfileRecord, ProjectRecord
from db.sender_domains import SenderDomainRecord
from db.templates import TemplateRecord
from db.webhook_endpoints import WebhookEndpointRecord
from db.workflow_records import RunRecord, WorkflowRecord
from engine.providers.configuring import ShownProvider
from resolvers.inbound import ShownEndpoint
from resolvers.nodes import Found, FoundEvent, FoundOrganization
from schema.audience import Audience
from schema.audit_entry import AuditEntry
from schema.board import Board
from schema.consent import ConsentChange
from schema.delivery import Delivery
from schema.event import Event
from schema.inbound_endpoint import InboundEndpoint
from schema.insight import Insight
from schema.node import Node
from schema.profile import Profile
from schema.project import ApiKey, Organization, Project
from schema.provider import Provider
from schema.push_token import PushToken
from schema.sender_domain import SenderDomain
from schema.template import Template
from schema.webhook_endpoint import WebhookEndpoint
from schema.workflow import Workflow
from schema.workflow_run import WorkflowRun


def as_node(found: Found | None) -> Node | None:
    """None stays None."""
    match found:
        case None:
            return None
        case FoundEvent(organization_id=organization_id, record=record):
            return Event.of(record, organization_id=organization_id)
        case FoundOrganization(project=project):
            return Organization.of(project)
        case ProfileRecord():
            return Profile.of(found)
        case ProjectRecord():
            return Project.of(found)
        case ApiKeyRecord():
            return ApiKey.of(found)
        case DeliveryRecord():
            return Delivery.of(found)
        case WebhookEndpointRecord():
            return WebhookEndpoint.of(found)
        case PushTokenRecord():
            return PushToken.of(found)
        case TemplateRecord():
            return Template.of(found)
        case ConsentChangeRecord():
            return ConsentChange.of(found)
        case AuditEntryRecord():
            return AuditEntry.of(found)
        case AudienceRecord():
            return Audience.of(found)
        case InsightRecord():
            return Insight.of(found)
        case BoardRecord():
            return Board.of(found)
        case WorkflowRecord():
            return Workflow.of(found)
        case RunRecord():
            return WorkflowRun.of(found)
        case SenderDomainRecord():
            return SenderDomain.of(found)
        case ShownProvider():
            return Provider.of(found)
        case ShownEndpoint():
            return InboundEndpoint.of(found)
