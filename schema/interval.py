"""How long the buckets of trends and the intervals of retention are."""

from __future__ import annotations

from engine.analytics.buckets import Interval
from schema.descriptions import described_enum

described_enum(
    Interval,
    "How long a bucket of time is. Buckets begin where the clocks of a time zone say so.",
    MINUTE="A minute of the clock.",
    HOUR="An hour of the clock. One that is repeated when clocks go back is two.",
    DAY="From midnight to midnight: 23 to 25 hours where clocks change.",
    WEEK="From Monday to Sunday.",
    MONTH="A month of the calendar.",
)

PERIOD_DESCRIPTION = "Instead of since: ISO 8601, back from until or now, e.g. P30D. By default the last 30 days."
UNTIL_DESCRIPTION = "Up to and without this moment; by default now."
TIMEZONE_DESCRIPTION = "IANA name, e.g. Europe/Berlin: where its days begin."
AUDIENCE_DESCRIPTION = "Only of the people who belong to this audience now."
