"""Max-min fair shares: examples by hand, and what holds for any flows."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.engine import PS_PER_S
from simulator.engine.fabric import UNLIMITED
from simulator.engine.sharing import islands, max_min_rates

EXAMPLES = settings(max_examples=150, deadline=None, derandomize=True)


def test_equal_flows_on_one_medium_get_equal_shares_rounded_down():
    assert max_min_rates([[0]] * 3, [UNLIMITED] * 3, {0: 100}) == [33, 33, 33]


def test_three_flows_over_two_media_with_a_cap():
    """Medium 0 has 90, medium 1 has 100; A uses 0, B uses 0 and 1, C uses 1 but takes at most 20.

    All rise together: C stops at its cap of 20; A and B share medium 0 at 45 each; medium 1 then carries 65 of 100.
    """
    assert max_min_rates([[0], [0, 1], [1]], [UNLIMITED, UNLIMITED, 20], {0: 90, 1: 100}) == [45, 45, 20]


def test_what_a_narrow_medium_does_not_let_through_goes_to_the_others():
    """B is held to 10 by medium 1 (shared with C), so A has the remaining 80 of medium 0."""
    assert max_min_rates([[0], [0, 1], [1]], [UNLIMITED] * 3, {0: 90, 1: 20}) == [80, 10, 10]


def test_a_flow_without_media_is_held_by_its_cap_alone():
    assert max_min_rates([[], [0]], [7, UNLIMITED], {0: 50}) == [7, 50]


def test_every_flow_moves_even_where_there_is_less_than_a_byte_for_each():
    assert max_min_rates([[0]] * 3, [UNLIMITED] * 3, {0: 2}) == [1, 1, 1]


problems = st.integers(1, 4).flatmap(
    lambda media: st.tuples(
        st.lists(
            st.tuples(st.sets(st.integers(0, media - 1), min_size=1), st.integers(1, 10**6) | st.just(UNLIMITED)),
            min_size=1,
            max_size=6,
        ),
        st.lists(st.integers(1000, 10**6), min_size=media, max_size=media),
    )
)


@EXAMPLES
@given(problems)
def test_shares_are_feasible_maximal_and_within_caps(problem):
    flows, capacities = problem
    routes, caps = [sorted(route) for route, _ in flows], [cap for _, cap in flows]
    rates = max_min_rates(routes, caps, dict(enumerate(capacities)))
    used = [sum(rate for rate, route in zip(rates, routes, strict=True) if m in route) for m in range(len(capacities))]
    assert all(total <= capacity for total, capacity in zip(used, capacities, strict=True))
    for rate, route, cap in zip(rates, routes, caps, strict=True):
        assert 1 <= rate <= cap
        # A flow below its cap crosses a medium that is full (up to a byte per flow) where nobody has more.
        if rate < cap:
            assert any(
                used[m] > capacities[m] - len(flows)
                and rate + len(flows) >= max(r for r, way in zip(rates, routes, strict=True) if m in way)
                for m in route
            )


@EXAMPLES
@given(problems, st.randoms(use_true_random=False))
def test_shares_do_not_depend_on_the_order_of_the_flows(problem, random):
    flows, capacities = problem
    order = list(range(len(flows)))
    random.shuffle(order)

    def rates(which):
        return max_min_rates(
            [sorted(flows[i][0]) for i in which], [flows[i][1] for i in which], dict(enumerate(capacities))
        )

    shuffled = dict(zip(order, rates(order), strict=True))
    plain = rates(range(len(flows)))
    assert all(abs(plain[i] - shuffled[i]) <= len(flows) for i in order)


def test_a_second_is_a_million_million_ticks():
    assert PS_PER_S == 10**12


def test_copies_over_their_own_links_from_a_memory_faster_than_all_links_do_not_meet():
    """Media 0 and 1 are links of 25 and 30 GB/s, medium 2 the memory behind both."""
    assert islands([[2, 0], [2, 1]], [25 * 10**9, 30 * 10**9, 60 * 10**9]) == [0, 1]
    assert islands([[2, 0], [2, 1]], [25 * 10**9, 30 * 10**9, 55 * 10**9]) == [0, 0]  # exactly enough may bind
    assert islands([[2, 0], [2, 1]], [25 * 10**9, 30 * 10**9, None]) == [0, 0]  # flash: its rate is not fixed
    assert islands([[0], [0], []], [25 * 10**9]) == [0, 0, 1]


networks = st.integers(2, 5).flatmap(
    lambda media: st.tuples(
        st.lists(st.sets(st.integers(0, media - 1), min_size=1, max_size=3), min_size=2, max_size=5),
        st.lists(st.sampled_from([10**9, 2 * 10**9, 5 * 10**9, 2 * 10**10]), min_size=media, max_size=media),
        st.lists(st.tuples(st.integers(0, 4), st.integers(10**8, 10**10) | st.just(UNLIMITED)), min_size=1, max_size=9),
    )
)


@EXAMPLES
@given(networks)
def test_flows_of_other_islands_change_nothing(network):
    lanes, capacities, wanted = network
    routes = [sorted(route) for route in lanes]
    number = islands(routes, capacities)
    flows = [(lane % len(routes), cap) for lane, cap in wanted]

    def rates(some):
        return max_min_rates([routes[lane] for lane, _ in some], [cap for _, cap in some], dict(enumerate(capacities)))

    together = rates(flows)
    for island in sorted(set(number)):
        mine = [i for i, (lane, _) in enumerate(flows) if number[lane] == island]
        assert rates([flows[i] for i in mine]) == [together[i] for i in mine]
