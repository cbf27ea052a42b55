"""Clients in numpy do what the state machines do: the same scenarios by both, compared as far as chance allows.

Chance is seeded, so the bounds, which hold in all but one of many thousand cases, hold always or never.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

import numpy as np
import pytest

from lab.simulation.scale.clients import Clients
from lab.simulation.scale.conditions import LATENCY, Conditions, Counts, Floats, Seen
from lab.simulation.scale.conversations import Conversations, Talk
from lab.simulation.scale.costs import exchange, resumptions
from lab.simulation.scale.machines import Machines
from lab.simulation.scale.relay import Relayed, Traffic, relay
from lab.simulation.scale.talking_machines import TalkingMachines
from lab.teredo.client import REFRESH_RANDOM
from lab.teredo.extensions import ALL, Extension
from lab.teredo.interval import REFRESH_INTERVAL
from lab.teredo.peers import PEER_VALIDITY
from lab.teredo.solicitation import SOLICITATION_TIMEOUT

MACHINES, CLIENTS = 300, 60_000
SIGMAS = 5.0

SCENARIOS = {
    "calm": Conditions(300.0, starting=60.0),
    "all at once": Conditions(400.0),
    "all at once, fixed interval": Conditions(200.0, spread=(1.0, 1.0)),
    "restart of the NATs": Conditions(400.0, starting=60.0, nat_restart=200.5),
    "a short outage": Conditions(500.0, starting=60.0, down=150.0, up=158.0),
    "an outage": Conditions(600.0, starting=60.0, down=150.0, up=210.0),
    "a long outage": Conditions(1200.0, starting=60.0, down=150.0, up=850.0),
    "loss": Conditions(400.0, starting=60.0, loss=0.25),
    "another interval": Conditions(300.0, starting=60.0, interval=20.0),
}


@cache
def by_machines(scenario: str) -> Seen:
    return Machines(SCENARIOS[scenario], MACHINES, 1).run()


def by_numpy(conditions: Conditions, seed: int = 1, count: int = CLIENTS) -> Seen:
    return Clients(conditions, count, np.random.default_rng(seed)).run()


def grouped(counts: Counts, seconds: int) -> Counts:
    groups = counts.size // seconds
    sums: Counts = counts[: groups * seconds].reshape(groups, seconds).sum(axis=1)
    return sums


def rates_agree(few: Counts, many: Counts, seconds: int = 5) -> bool:
    """Whether some machines' counts are a sample of what many clients do, in all intervals of so many seconds."""
    expected = grouped(many, seconds) * (MACHINES / CLIENTS)
    return bool(np.all(np.abs(grouped(few, seconds) - expected) <= SIGMAS * np.sqrt(expected) + 2))


def shares_agree(few: Counts, many: Counts) -> bool:
    """Whether the share of clients that are well is the same at all times."""
    share = many / CLIENTS
    return bool(np.all(np.abs(few / MACHINES - share) <= SIGMAS * np.sqrt(share * (1 - share) / MACHINES) + 0.01))


def distance(few: Floats, many: Floats) -> float:
    """The Kolmogorov-Smirnov statistic of two samples, times what makes 2.5 of it next to impossible."""
    at = np.concatenate((few, many))
    at.sort()
    shares = [np.searchsorted(np.sort(sample), at, side="right") / sample.size for sample in (few, many)]
    gap = float(np.abs(shares[0] - shares[1]).max())
    return gap * float(np.sqrt(few.size * many.size / (few.size + many.size)))


IMPOSSIBLE = 2.5


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_server_hears_what_it_hears_of_state_machines(scenario: str) -> None:
    few, many = by_machines(scenario), by_numpy(SCENARIOS[scenario])
    assert rates_agree(few.solicitations, many.solicitations)
    assert rates_agree(few.advertisements, many.advertisements)
    assert shares_agree(few.good, many.good)
    assert few.solicitations.sum() / MACHINES == pytest.approx(many.solicitations.sum() / CLIENTS, rel=0.015)


@pytest.mark.parametrize("scenario", ["restart of the NATs", "a short outage", "an outage", "a long outage"])
def test_clients_recover_as_fast_as_state_machines(scenario: str) -> None:
    few, many = by_machines(scenario), by_numpy(SCENARIOS[scenario])
    assert few.recovery.size == MACHINES
    assert many.recovery.size == CLIENTS
    assert distance(few.recovery, many.recovery) < IMPOSSIBLE


@pytest.mark.parametrize(
    ("scenario", "wrong"),
    [
        ("all at once", Conditions(400.0, spread=(0.9, 1.0))),
        ("restart of the NATs", Conditions(400.0, starting=60.0)),
        ("an outage", Conditions(600.0, starting=60.0, down=150.0, up=200.0)),
        ("loss", Conditions(400.0, starting=60.0, loss=0.15)),
    ],
)
def test_the_bounds_tell_other_conditions_apart(scenario: str, wrong: Conditions) -> None:
    few, many = by_machines(scenario), by_numpy(wrong)
    assert not (
        rates_agree(few.solicitations, many.solicitations)
        and rates_agree(few.advertisements, many.advertisements)
        and shares_agree(few.good, many.good)
    )


def test_a_restart_of_the_nats_is_noticed_as_renewal_theory_says() -> None:
    """Refreshes are spread evenly, so who waits how long depends on the intervals' distribution alone."""
    low, high = (REFRESH_INTERVAL * bound for bound in REFRESH_RANDOM)
    mean = (low + high) / 2
    found = np.sort(by_numpy(Conditions(700.0, starting=60.0, nat_restart=600.0)).recovery - 2 * LATENCY)
    beyond = np.clip(found - low, 0.0, high - low)
    theory = (np.minimum(found, low) + beyond - beyond**2 / (2 * (high - low))) / mean
    assert np.abs(theory - np.arange(1, found.size + 1) / found.size).max() < 0.01
    assert found.max() <= high


def test_randomised_intervals_spread_a_common_start_and_fixed_ones_never_do() -> None:
    fixed = by_numpy(Conditions(900.0, spread=(1.0, 1.0))).solicitations
    spread = by_numpy(Conditions(900.0)).solicitations
    mean = CLIENTS / (REFRESH_INTERVAL * sum(REFRESH_RANDOM) / 2 + 2 * LATENCY)
    assert fixed[600:].max() == CLIENTS
    assert spread[600:].mean() == pytest.approx(mean, rel=0.01)
    assert spread[600:].max() < 1.2 * mean
    assert spread[60:120].max() > 1.5 * mean


def test_clients_that_nobody_answers_try_three_times_then_wait_longer_and_longer() -> None:
    alone = by_numpy(Conditions(1500.0, down=0.0, up=1500.0), count=1).solicitations
    burst = [0.0, SOLICITATION_TIMEOUT, 2 * SOLICITATION_TIMEOUT]
    starts = np.cumsum([0.0, *(12 + delay for delay in (30, 60, 120, 240, 300, 300, 300))])
    wanted = [int(start + at + LATENCY) for start in starts for at in burst]
    assert np.flatnonzero(alone).tolist() == [at for at in wanted if at < 1500]


def test_a_seed_decides_everything() -> None:
    one, same, other = (by_numpy(SCENARIOS["loss"], seed, 1000) for seed in (7, 7, 8))
    assert np.array_equal(one.solicitations, same.solicitations)
    assert np.array_equal(one.good, same.good)
    assert not np.array_equal(one.solicitations, other.solicitations)


PLAIN = ALL - {Extension.LOAD_REDUCTION}


@pytest.mark.parametrize("pause", [20.0, 60.0])
@pytest.mark.parametrize(
    ("kind", "extensions"),
    [("port_restricted", ALL), ("port_restricted", PLAIN), ("cone", ALL), ("cone", PLAIN)],
    ids=["port-restricted", "port-restricted, plain", "cone", "cone, plain"],
)
def test_pairs_that_talk_cost_the_server_what_state_machines_do(
    kind: str, extensions: Collection[Extension], pause: float
) -> None:
    few = TalkingMachines(Talk(250, pause, 240.0), kind, extensions, 1).run()
    many = Conversations(Talk(10_000, pause, 240.0), resumptions(kind, extensions), np.random.default_rng(1)).run()
    assert few.solicitations == pytest.approx(many.solicitations / 40, rel=0.015)
    for name in ("forwarded", "requests"):
        expected = getattr(many, name) / 40
        assert abs(getattr(few, name) - expected) <= SIGMAS * (2 * expected) ** 0.5, name  # bubbles come in pairs
    assert few.wait == pytest.approx(many.wait, rel=0.1)


def test_what_the_server_bears_of_a_resumption_depends_on_the_pause_and_the_extension() -> None:
    reduced, plain = resumptions("port_restricted", ALL), resumptions("port_restricted", PLAIN)
    assert [len(each.received) for each in reduced] == [0, 0, 2]
    assert [len(each.received) for each in plain] == [0, 1, 2]
    assert all(len(each.received) == len(each.sent) for each in reduced + plain)
    assert plain[1].after == PEER_VALIDITY
    assert reduced[2].answered > 4.0 > plain[2].answered


def test_sizes_are_those_of_real_messages() -> None:
    cost = exchange()
    assert cost.solicitation == 20 + 8 + 13 + 48  # IPv4, UDP, authentication, solicitation
    assert cost.advertisement == 20 + 8 + 13 + 8 + 96


def test_a_relay_reaches_all_clients_that_its_table_holds() -> None:
    carried = relay(Traffic(200, 10.0, 2000, table=256), 1)
    assert carried.refused == 0
    assert carried.served == carried.asked == 200
    assert carried.reached == pytest.approx(2000, abs=5)  # some are under way when the counting begins or ends
    assert carried.bubbles < 400


def test_a_relay_refuses_what_it_does_not_carry() -> None:
    carried = relay(Traffic(5000, 10.0, 3000, table=256), 1)
    assert carried.reached + carried.refused == pytest.approx(3000, abs=100)
    assert carried.refused > 0
    assert relay(Traffic(5000, 10.0, 3000, table=256), 1) == carried
    assert isinstance(carried, Relayed)
