"""The enums of deliveries, described. Whoever uses one in the schema takes it from here, whatever is imported first."""

from __future__ import annotations

from engine.dispatch.values import Channel, DeliveryStatus, SuppressedReason
from schema.descriptions import described_enum

__all__ = ["Channel", "DeliveryStatus", "SuppressedReason"]

described_enum(
    Channel,
    "How a message leaves.",
    PUSH="Push notification: APNs, FCM or Web Push.",
    EMAIL="Email: SMTP or Resend.",
    SMS="Text message: Twilio.",
    WEBHOOK="HTTP request to a URL of the customer's.",
)
described_enum(
    DeliveryStatus,
    "Where a delivery stands.",
    QUEUED="To be sent now.",
    SCHEDULED="Not before scheduledFor.",
    SENDING="In the hands of a worker.",
    RETRYING="An attempt failed; the next one is made at nextAttemptAt.",
    SENT="The provider took it.",
    DELIVERED="The receiver has it, as far as the provider knows.",
    FAILED="Failed for good; see error.",
    SUPPRESSED="Held back, nothing was sent; see suppressedReason.",
    CANCELLED="Cancelled before it was sent.",
    DEAD_LETTERED="Every attempt failed, and the schedule has ended.",
    UNCERTAIN="Handed over when a worker died, to a provider that does not deduplicate: it may have been sent.",
)
described_enum(
    SuppressedReason,
    "Why nothing was sent.",
    QUIET_HOURS="It was night at the recipient's, and the project does not put off.",
    FREQUENCY_CAP="The person had as many as they may get in an hour or a day.",
    CONSENT="The person has not agreed, or no longer.",
    NO_TOKENS="The person has no device that can be reached.",
    UNSUBSCRIBED="The recipient unsubscribed.",
    BOUNCED="Mail to this address came back for good, or was reported as spam.",
    RATE_LIMITED="The project sends more than it may.",
    BLOCKED_CONTENT="The content looks like phishing.",
    ERASED="The person was erased.",
)
