"""Workflows to begin with: complete, with texts that can be sent as they are, to be cloned and then changed.

Each says in its description which events and traits it reads. Where no canonical event type exists, the name follows
the same rule (object.past_tense_verb). A blueprint that starts by a schedule brings the audience it starts for: its
definition names none until it is cloned into a project, which makes that audience first.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from db.filters import Condition, ConditionOperator, EventCount
from engine.dispatch.values import PushNotification
from engine.workflows.definition import (
    END,
    Branch,
    BranchCondition,
    ConditionSource,
    Definition,
    ReentryPolicy,
    Schedule,
    SendEmail,
    SendPush,
    SendSms,
    Step,
    StepType,
    Target,
    Trigger,
    UpdateProfile,
    Wait,
)

_HOURS = 60.0
"""Minutes."""
_DAYS = 24 * _HOURS
_MONTH_SECONDS = 30 * 24 * 3600

_HELLO = 'Hi {{ user.firstName | default: "there" }},'
_EVENT_TIME = "{{ event.timestamp }}"
_CART_IS_FULL = (Condition(path="event.properties.itemCount", op=ConditionOperator.NE.value, value=0),)
"""A shop that does not say how many items there are is reminded of all carts."""
_IS_TRIAL = (Condition(path="event.properties.status", op=ConditionOperator.EQ.value, value="trialing"),)
_HAS_RESET_URL = (Condition(path="event.properties.resetUrl", op=ConditionOperator.EXISTS.value),)


class BlueprintAudience(msgspec.Struct, frozen=True):
    """The people for whom a blueprint's schedule starts runs."""

    name: str
    where: tuple[Condition, ...]


class Blueprint(msgspec.Struct, frozen=True):
    """One workflow to begin with. `key` names it for good."""

    key: str
    definition: Definition
    audience: BlueprintAudience | None = None


def _email(
    label: str, subject: str, *paragraphs: str, link: tuple[str, str] | None = None, then: Target | None = None
) -> Step:
    """An email in HTML and in text. `link` is what it says, and the Liquid path of its URL, if any."""
    html = "".join(f"<p>{paragraph}</p>\n" for paragraph in paragraphs)
    text = "\n\n".join(paragraphs)
    if link is not None:
        says, url = link
        html += f'{{% if {url} %}}<p><a href="{{{{ {url} }}}}">{says}</a></p>\n{{% endif %}}'
        text += f"{{% if {url} %}}\n\n{says}: {{{{ {url} }}}}{{% endif %}}"
    config = SendEmail(to="{{ user.email }}", subject=subject, body_html=html, body_text=text)
    return Step(label, StepType.SEND_EMAIL, config, next=then)


def _push(label: str, title: str, body: str, *, url: str | None = None, then: Target | None = None) -> Step:
    return Step(label, StepType.SEND_PUSH, SendPush(PushNotification(title=title, body=body, url=url)), next=then)


def _wait(label: str, minutes: float, reason: str) -> Step:
    return Step(label, StepType.WAIT, Wait(reason), delay_minutes=minutes)


def _remember(label: str, **traits: str) -> Step:
    return Step(label, StepType.UPDATE_PROFILE, UpdateProfile(dict(traits)))


def _branch(label: str, trait: str, operator: ConditionOperator, value: object, *, yes: Target, no: Target) -> Step:
    condition = BranchCondition(ConditionSource.TRAIT, trait, operator.value, value)
    return Step(label, StepType.BRANCH, Branch(condition, if_true=yes, if_false=no))


_WELCOME_SERIES = Blueprint(
    "welcome_series",
    Definition(
        name="Welcome series",
        description=(
            "Greets whoever signs up, and helps those who have not set up their account after a day. Set the trait "
            "onboarded to true once somebody has; links lead to setupUrl of the event."
        ),
        trigger=Trigger(event_type="auth.signed_up", reentry=ReentryPolicy.ONCE_PER_USER),
        steps=(
            _email(
                "welcome",
                "Welcome{% if user.firstName %}, {{ user.firstName }}{% endif %}!",
                _HELLO,
                "Thank you for joining us. Your account is ready, and it takes only a few minutes to make it your own.",
                "If you have a question, just reply to this email.",
                link=("Set up your account", "event.setupUrl"),
            ),
            _wait("first_day", 1 * _DAYS, "Time to look around"),
            _branch("set_up", "onboarded", ConditionOperator.EQ, True, yes="thanks", no="nudge"),
            _push("thanks", "You are all set", "Thank you for setting up your account.", then=END),
            _push("nudge", "Almost there", "A few more minutes and your account is set up."),
            _wait("two_days", 2 * _DAYS, "Time to finish"),
            _email(
                "tips",
                "Three things to try first",
                _HELLO,
                "Most people begin with these three: complete your profile, invite somebody you know, and choose what "
                "you would like to hear about.",
                "Each takes about a minute, and you can change all of it later.",
                link=("Continue where you left off", "event.setupUrl"),
            ),
        ),
    ),
)

_CART_ABANDONMENT = Blueprint(
    "cart_abandonment",
    Definition(
        name="Cart abandonment",
        description=(
            "Reminds people of a cart that they have left: by push after an hour, by email after a day. Ends as soon "
            "as they have ordered, which it knows by the trait lastOrderAt; the blueprint order_confirmation keeps "
            "that. Links lead to cartUrl of the event."
        ),
        trigger=Trigger(event_type="cart.updated", filters=_CART_IS_FULL, reentry=ReentryPolicy.ONE_ACTIVE_RUN),
        steps=(
            _wait("one_hour", 1 * _HOURS, "They may still be shopping"),
            _branch("ordered", "lastOrderAt", ConditionOperator.GT, _EVENT_TIME, yes=END, no="reminder"),
            _push(
                "reminder",
                "Still thinking it over?",
                "Your cart is waiting for you. Come back whenever you like.",
                url="{{ event.cartUrl }}",
            ),
            _wait("one_day", 23 * _HOURS, "Not twice on one day"),
            _branch("ordered_since", "lastOrderAt", ConditionOperator.GT, _EVENT_TIME, yes=END, no="last_reminder"),
            _email(
                "last_reminder",
                "You left something in your cart",
                _HELLO,
                "We have kept your cart for you{% if event.total %}: it comes to {{ event.total }} "
                "{{ event.currency }}{% endif %}. Prices and stock may change, so have a look while it is all there.",
                "If something kept you from ordering, reply to this email and we will help.",
                link=("Go to your cart", "event.cartUrl"),
            ),
        ),
    ),
)

_ORDER_CONFIRMATION = Blueprint(
    "order_confirmation",
    Definition(
        name="Order confirmation",
        description=(
            "Confirms every order by email and push at once, and remembers it in the traits lastOrderId and "
            "lastOrderAt. Reads orderId, total, currency, items (each with name and quantity) and orderUrl of the "
            "event."
        ),
        trigger=Trigger(event_type="order.placed"),
        steps=(
            _remember("remember_order", lastOrderId="{{ event.orderId }}", lastOrderAt=_EVENT_TIME),
            _email(
                "confirmation",
                "Your order{% if event.orderId %} {{ event.orderId }}{% endif %} is confirmed",
                _HELLO,
                "Thank you for your order. We have received it and will write again as soon as it is on its way.",
                "{% if event.items %}You ordered: {% for item in event.items %}{{ item.quantity | default: 1 }} × "
                "{{ item.name }}{% unless forloop.last %}, {% endunless %}{% endfor %}.{% endif %}"
                "{% if event.total %} The total is {{ event.total }} {{ event.currency }}.{% endif %}",
                link=("See your order", "event.orderUrl"),
            ),
            _push(
                "received",
                "Order received",
                "Thank you! We have sent the details to you by email.",
                url="{{ event.orderUrl }}",
            ),
        ),
    ),
)

_POST_PURCHASE_FEEDBACK = Blueprint(
    "post_purchase_feedback",
    Definition(
        name="Post-purchase feedback",
        description=(
            "Asks for a review three days after an order has arrived, and once more by push. Set the trait "
            "lastReviewedOrderId when somebody answers, and there is no second time. Links lead to reviewUrl of the "
            "event."
        ),
        trigger=Trigger(event_type="order.delivered", reentry=ReentryPolicy.ONE_ACTIVE_RUN),
        steps=(
            _wait("three_days", 3 * _DAYS, "Time to try it"),
            _email(
                "ask",
                "How do you like your order?",
                _HELLO,
                "Your order arrived a few days ago. How is it? Two sentences are plenty: they help others to choose, "
                "and us to get better.",
                "If anything is not as it should be, reply to this email and we will put it right.",
                link=("Write a review", "event.reviewUrl"),
            ),
            _wait("four_days", 4 * _DAYS, "Time to answer"),
            _branch(
                "answered",
                "lastReviewedOrderId",
                ConditionOperator.EQ,
                "{{ event.orderId }}",
                yes=END,
                no="ask_again",
            ),
            _push(
                "ask_again",
                "One minute for a review?",
                "Tell us how you like your order.",
                url="{{ event.reviewUrl }}",
            ),
        ),
    ),
)

_TRIAL_ENDING = Blueprint(
    "trial_ending",
    Definition(
        name="Trial ending",
        description=(
            "Writes three days and again one day before a trial of 14 days ends. It starts with a subscription whose "
            "status is trialing, and stops once the trait subscriptionStatus is active. Reads planName and billingUrl "
            "of the event."
        ),
        trigger=Trigger(
            event_type="billing.subscription_created", filters=_IS_TRIAL, reentry=ReentryPolicy.ONE_ACTIVE_RUN
        ),
        steps=(
            _wait("until_three_days_left", 11 * _DAYS, "Three days before the end"),
            _branch("active", "subscriptionStatus", ConditionOperator.EQ, "active", yes=END, no="three_days_left"),
            _email(
                "three_days_left",
                "Your trial ends in three days",
                _HELLO,
                'Your trial of {{ event.planName | default: "our service" }} ends in three days. Choose a plan before '
                "then, and everything stays just as you have set it up.",
                "If you need more time or want to talk it over, reply to this email.",
                link=("Choose a plan", "event.billingUrl"),
            ),
            _wait("until_one_day_left", 2 * _DAYS, "One day before the end"),
            _branch("active_now", "subscriptionStatus", ConditionOperator.EQ, "active", yes=END, no="one_day_left"),
            _push(
                "one_day_left",
                "Your trial ends tomorrow",
                "Choose a plan to keep everything as it is.",
                url="{{ event.billingUrl }}",
            ),
            Step(
                "last_call",
                StepType.SEND_SMS,
                SendSms(
                    to="{{ user.phone }}",
                    body=(
                        "Your trial ends tomorrow. Choose a plan to keep everything as it is"
                        "{% if event.billingUrl %}: {{ event.billingUrl }}{% else %}.{% endif %}"
                    ),
                ),
            ),
        ),
    ),
)

_RE_ENGAGEMENT = Blueprint(
    "re_engagement",
    Definition(
        name="Re-engagement",
        description=(
            "Every Tuesday morning, invites back the people who have not been seen for 30 days: by email, and a week "
            "later by push. Nobody is invited again within three months. Links lead to the trait appUrl."
        ),
        trigger=Trigger(schedule=Schedule("0 10 * * TUE"), reentry=ReentryPolicy.ONE_ACTIVE_RUN),
        steps=(
            _email(
                "miss_you",
                "It has been a while{% if user.firstName %}, {{ user.firstName }}{% endif %}",
                _HELLO,
                "We have not seen you for a month. Your account is as you left it, and some things have become better "
                "since.",
                "If we have done something wrong, tell us: reply to this email.",
                link=("See what is new", "user.appUrl"),
            ),
            _wait("one_week", 7 * _DAYS, "Time to come back"),
            _push("come_back", "There is something new for you", "Have a look at what has changed meanwhile."),
            _wait("three_months", 83 * _DAYS, "Not invited again for three months"),
        ),
    ),
    audience=BlueprintAudience(
        "Not seen for 30 days",
        where=(
            Condition(path="profile.anonymous", op=ConditionOperator.EQ.value, value=False),
            Condition(
                events=EventCount(
                    event_type="*",
                    event_types=("*",),
                    where=(Condition(path="event.module", op=ConditionOperator.EQ.value, value="analytics"),),
                    within_seconds=_MONTH_SECONDS,
                ),
                op=ConditionOperator.EQ.value,
                value=0,
            ),
        ),
    ),
)

_BIRTHDAY = Blueprint(
    "birthday",
    Definition(
        name="Birthday",
        description=(
            "Every morning, congratulates the people whose birthday it is, by push and email. Reads the trait birthday "
            "(a date such as 1990-05-31)."
        ),
        trigger=Trigger(schedule=Schedule("0 9 * * *"), reentry=ReentryPolicy.ONE_ACTIVE_RUN),
        steps=(
            _push("wish", "Happy birthday! 🎂", "All of us wish you a wonderful day."),
            _email(
                "card",
                "Happy birthday{% if user.firstName %}, {{ user.firstName }}{% endif %}!",
                _HELLO,
                "Happy birthday! Thank you for being with us for another year. All of us wish you a wonderful day.",
            ),
        ),
    ),
    audience=BlueprintAudience(
        "Birthday today",
        where=(Condition(path="profile.traits.birthday", op=ConditionOperator.IS_ANNIVERSARY.value),),
    ),
)

_PASSWORD_RESET = Blueprint(
    "password_reset",
    Definition(
        name="Password reset",
        description=(
            "Sends the link to whoever asked to reset a password, at once. Reads resetUrl and expiresInMinutes of the "
            "event."
        ),
        trigger=Trigger(event_type="auth.password_reset_requested", filters=_HAS_RESET_URL),
        steps=(
            _email(
                "reset",
                "Reset your password",
                _HELLO,
                "Somebody, most likely you, has asked to reset the password of your account. The link below lets you "
                "choose a new one. It works once, within the next {{ event.expiresInMinutes | default: 60 }} minutes.",
                "If it was not you, ignore this email: your password stays as it is.",
                link=("Choose a new password", "event.resetUrl"),
            ),
        ),
    ),
)

BLUEPRINTS: Mapping[str, Blueprint] = MappingProxyType(
    {
        blueprint.key: blueprint
        for blueprint in (
            _WELCOME_SERIES,
            _CART_ABANDONMENT,
            _ORDER_CONFIRMATION,
            _POST_PURCHASE_FEEDBACK,
            _TRIAL_ENDING,
            _RE_ENGAGEMENT,
            _BIRTHDAY,
            _PASSWORD_RESET,
        )
    }
)
"""By key, in the order in which they are offered."""
