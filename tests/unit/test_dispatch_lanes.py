"""Breakers, lanes and shares: whoever hangs, there is room for others."""

from __future__ import annotations

from uuid import UUID, uuid4

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.dispatch.breaker import (
    FAILURES_TO_OPEN,
    FIRST_OPEN_SECONDS,
    MAX_OPEN_SECONDS,
    Breaker,
    abandoned,
    began,
    failed,
    room,
    succeeded,
)
from engine.dispatch.lanes import (
    FIRST_WINDOW,
    LANE_AHEAD,
    LANE_LIMIT,
    MAX_IDLE_LANES,
    PROCESS_LIMIT,
    Answer,
    Lanes,
    Slot,
)
from engine.dispatch.values import lane_key

HOST = "https://shop.example:443"
PROJECT = UUID(int=7)


class ManualTime:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def opened(times: int = 1) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES_TO_OPEN):
        breaker = failed(breaker, 0.0, was_probe=False)
    for _ in range(times - 1):
        breaker = failed(began(breaker), 0.0, was_probe=True)
    return breaker


def test_a_breaker_opens_after_failures_in_a_row() -> None:
    breaker = Breaker()
    for _ in range(FAILURES_TO_OPEN - 1):
        breaker = failed(breaker, 0.0, was_probe=False)
    assert room(breaker, 0.0) is None

    breaker = failed(breaker, 0.0, was_probe=False)

    assert room(breaker, FIRST_OPEN_SECONDS - 0.1) == 0
    assert room(breaker, FIRST_OPEN_SECONDS) == 1


def test_half_open_lets_one_through_at_a_time() -> None:
    probing = began(opened())

    assert room(probing, FIRST_OPEN_SECONDS) == 0
    assert room(abandoned(probing), FIRST_OPEN_SECONDS) == 1
    assert room(failed(probing, FIRST_OPEN_SECONDS, was_probe=True), FIRST_OPEN_SECONDS) == 0
    assert room(succeeded(), FIRST_OPEN_SECONDS) is None


def test_failures_of_before_it_opened_do_not_keep_it_open() -> None:
    breaker = opened()

    assert failed(breaker, 1.0, was_probe=False) == breaker


@given(times=st.integers(1, 40))
def test_a_breaker_rests_longer_each_time_and_never_for_long(times: int) -> None:
    rest = opened(times).open_until

    assert rest == min(FIRST_OPEN_SECONDS * 2 ** (times - 1), MAX_OPEN_SECONDS)


@given(answers=st.lists(st.sampled_from(["answered", "failed", "unused"]), max_size=60))
@settings(max_examples=50)
def test_a_lane_is_never_shut_for_good(answers: list[str]) -> None:
    clock = ManualTime()
    lanes = Lanes(monotonic=clock)
    for answer in answers:
        slot = lanes.reserve(PROJECT, HOST)
        if slot is not None:
            lanes.leave_lane(slot, answer)  # type: ignore[arg-type]
            lanes.leave_process(slot)
        clock.now += 0.5

    clock.now += MAX_OPEN_SECONDS

    assert lanes.room(PROJECT, HOST) >= 1


def answer_often(lanes: Lanes, project: UUID, host: str) -> None:
    for _ in range(LANE_LIMIT):
        slot = lanes.reserve(project, host)
        assert slot is not None
        lanes.leave_lane(slot, "answered")
        lanes.leave_process(slot)


def fill(lanes: Lanes, project: UUID, host: str) -> None:
    while lanes.reserve(project, host) is not None:
        pass


def test_a_lane_widens_with_answers_and_narrows_with_failures() -> None:
    lanes = Lanes()
    assert lanes.room(PROJECT, HOST) == FIRST_WINDOW
    answer_often(lanes, PROJECT, HOST)
    assert lanes.room(PROJECT, HOST) == LANE_LIMIT + LANE_AHEAD

    slot = lanes.reserve(PROJECT, HOST)
    assert slot is not None
    lanes.leave_lane(slot, "failed")

    assert lanes.room(PROJECT, HOST) == LANE_LIMIT // 2


def test_a_hundred_hosts_that_never_answer_cost_a_lively_one_little() -> None:
    lanes = Lanes()
    answer_often(lanes, PROJECT, HOST)
    for number in range(100):
        fill(lanes, uuid4(), f"https://hangs-{number}.example:443")

    assert lanes.room(PROJECT, HOST) >= LANE_LIMIT


def test_ten_hosts_that_hang_of_a_sudden_leave_a_quarter_of_the_process() -> None:
    lanes = Lanes()
    answer_often(lanes, PROJECT, HOST)
    for number in range(10):
        project, host = uuid4(), f"https://hangs-{number}.example:443"
        answer_often(lanes, project, host)
        fill(lanes, project, host)

    assert lanes.held <= PROCESS_LIMIT * 3 // 4
    assert lanes.room(PROJECT, HOST) >= LANE_LIMIT // 2


def test_one_project_leaves_half_to_the_others() -> None:
    lanes = Lanes()
    for number in range(300):
        fill(lanes, PROJECT, f"https://{number}.example:443")

    assert lanes.held <= PROCESS_LIMIT // 2
    assert lanes.room(uuid4(), "https://other.example:443") == FIRST_WINDOW


def test_those_who_wait_for_a_lane_are_called_in_turn_and_share_it() -> None:
    lanes = Lanes()
    first, second, third = (UUID(int=number) for number in (1, 2, 3))
    slots = [lanes.reserve(first, HOST) for _ in range(4)]
    for project in (second, third, first):
        lanes.wait(project, [HOST])
    assert lanes.called(HOST) == []

    assert slots[0] is not None
    lanes.leave_lane(slots[0], "answered")

    assert lanes.room(second, HOST) == 1
    assert lanes.called(HOST) == [second, third]
    assert lanes.room(second, HOST) == 1


def claim(lanes: Lanes, project: UUID, host: str, count: int) -> list[Slot]:
    """Take places and line up for them."""
    slots = []
    for _ in range(count):
        slot = lanes.reserve(project, host)
        assert slot is not None
        lanes.line_up(slot)
        slots.append(slot)
    return slots


def test_a_lively_lane_takes_some_ahead_and_begins_them_in_turns_of_their_projects() -> None:
    lanes = Lanes(lane_ahead=2)
    busy, newcomer = UUID(int=1), UUID(int=2)
    answer_often(lanes, busy, HOST)
    first, *others = claim(lanes, busy, HOST, LANE_LIMIT + 2)
    assert lanes.room(busy, HOST) == 0
    assert len(lanes.begin(HOST)) == lanes.sending == LANE_LIMIT
    assert lanes.begin(HOST) == []

    late = claim(lanes, newcomer, HOST, FIRST_WINDOW)
    lanes.leave_lane(first, "answered")
    lanes.leave_lane(others[0], "answered")

    assert lanes.room(newcomer, HOST) == 0
    assert lanes.begin(HOST) == [others[LANE_LIMIT - 1], late[0]]


def test_what_lined_up_before_its_lane_began_to_rest_is_not_sent() -> None:
    lanes = Lanes()
    answer_often(lanes, PROJECT, HOST)
    claim(lanes, PROJECT, HOST, LANE_LIMIT + 1)
    sending = lanes.begin(HOST)

    for slot in sending[: LANE_LIMIT - 1]:
        assert lanes.may_send(slot)
        lanes.leave_lane(slot, "failed")
        lanes.begin(HOST)
        if not lanes.may_send(slot):
            break

    assert lanes.open_breakers() == 1
    assert not lanes.may_send(sending[-1])


def test_nothing_is_claimed_ahead_while_a_quarter_of_the_process_is_taken() -> None:
    lanes = Lanes()
    answer_often(lanes, PROJECT, HOST)
    hanging = 0
    while lanes.held <= PROCESS_LIMIT // 4:
        hanging += 1
        fill(lanes, uuid4(), f"https://hangs-{hanging}.example:443")

    assert lanes.room(PROJECT, HOST) <= LANE_LIMIT


def test_what_is_remembered_of_hosts_is_bounded() -> None:
    lanes = Lanes()
    slot = lanes.reserve(PROJECT, HOST)
    assert slot is not None
    for number in range(MAX_IDLE_LANES + 10):
        lanes.wait(PROJECT, [f"https://{number}.example:443"])

    lanes.leave_lane(slot, "answered")

    assert lanes.called("https://0.example:443") == []
    assert lanes.called(f"https://{MAX_IDLE_LANES}.example:443") == [PROJECT]


class LanesMachine(RuleBasedStateMachine):
    """Whatever happens in whatever order: bounds hold, and what is empty is forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualTime()
        self.lanes = Lanes(lane_limit=5, lane_ahead=2, process_limit=50, monotonic=self.clock)
        self.claimed: list[Slot] = []
        self.answered: list[Slot] = []

    @rule(
        project=st.integers(1, 3),
        host=st.sampled_from([HOST, "https://b:443", "apns"]),
        is_used=st.sampled_from([1, 1, 0]),
    )
    def reserve(self, project: int, host: str, is_used: int) -> None:
        before = self.lanes.room(UUID(int=project), host)
        slot = self.lanes.reserve(UUID(int=project), host)
        assert (slot is not None) == (before > 0)
        if slot is None:
            return
        if is_used:
            self.claimed.append(slot)
            self.lanes.line_up(slot)
            self.lanes.begin(slot.lane)
        else:
            self.lanes.leave_lane(slot, "unused")
            self.answered.append(slot)

    @precondition(lambda self: self.claimed)
    @rule(number=st.integers(0, 50), answer=st.sampled_from(["answered", "answered", "failed", "unused"]))
    def leave_lane(self, number: int, answer: Answer) -> None:
        sending = self.sending()
        slot = sending[number % len(sending)]
        self.lanes.leave_lane(slot, answer)
        self.lanes.begin(slot.lane)
        self.claimed.remove(slot)
        self.answered.append(slot)

    @precondition(lambda self: self.answered)
    @rule(number=st.integers(0, 50))
    def leave_process(self, number: int) -> None:
        self.lanes.leave_process(self.answered.pop(number % len(self.answered)))

    def sending(self) -> list[Slot]:
        return [slot for slot in self.claimed if slot.is_sending]

    @rule(project=st.integers(1, 3), host=st.sampled_from([HOST, "apns"]))
    def wait(self, project: int, host: str) -> None:
        self.lanes.wait(UUID(int=project), [host])

    @rule(seconds=st.floats(0, 3))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(project=st.integers(1, 3), host=st.sampled_from([HOST, "apns"]))
    def call(self, project: int, host: str) -> None:
        key = lane_key(UUID(int=project), host)
        called = self.lanes.called(key)
        assert len(set(called)) <= 3

    @invariant()
    def the_bounds_hold(self) -> None:
        sending = self.sending()
        assert self.lanes.sending == len(sending)
        assert self.lanes.held == len(self.claimed) + len(self.answered) <= 50
        for key in {slot.lane for slot in self.claimed}:
            assert 1 <= sum(slot.lane == key for slot in sending) <= 5, "nobody waits in a lane that is empty"


TestLanes = LanesMachine.TestCase
TestLanes.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
