"""How good a link is: units, what goes together, and the rules and queues that make it so."""

from __future__ import annotations

import pytest

from lab.link import loss_rules, milliseconds, percentage, problems, queue, rate, show_rate, uplinks
from lab.plan import LinkQuality, Network


@pytest.mark.parametrize(
    ("written", "bits"),
    [("512kbit", 512_000), ("10mbit", 10**7), ("1.5Mbit", 1_500_000), ("1gbit", 10**9), (9600, 9600)],
)
def test_rates(written: object, bits: int) -> None:
    assert rate(written) == bits


@pytest.mark.parametrize(("written", "time"), [("50ms", 50), ("1.5s", 1500), ("250us", 0.25), (7, 7)])
def test_times(written: object, time: float) -> None:
    assert milliseconds(written) == time


def test_percentages() -> None:
    assert percentage("1.5%") == percentage("1.5") == percentage(1.5) == 1.5


@pytest.mark.parametrize(
    ("parse", "written"),
    [(rate, "10mb"), (rate, "-1kbit"), (milliseconds, "5m"), (percentage, "5%%"), (percentage, "")],
)
def test_what_is_no_quantity(parse: object, written: str) -> None:
    with pytest.raises(ValueError, match="one of these units is needed"):
        parse(written)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("bits", "shown"), [(512_000, "512kbit"), (10**7, "10mbit"), (10**9, "1gbit"), (1500, "1500bit")]
)
def test_rates_are_shown_as_they_are_written(bits: int, shown: str) -> None:
    assert show_rate(bits) == shown


@pytest.mark.parametrize("written", ["1bit", "0.4bit", "999", "0.9kbit"])
def test_a_rate_that_tc_would_take_for_none_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="less than 1kbit is too slow"):
        rate(written)


def test_no_limit_and_the_slowest_rate() -> None:
    assert (rate("0"), rate("1kbit")) == (0, 1000)


def test_what_does_not_go_together() -> None:
    assert list(problems(LinkQuality(loss=5, rate=9600, delay=5, jitter=5, reorder=5))) == []
    assert [option for option, *_ in problems(LinkQuality(jitter=5, reorder=5))] == ["jitter", "reorder"]
    assert list(problems(LinkQuality(delay=5, jitter=6))) == [
        ("jitter", "jitter cannot be more than the delay", "take less")
    ]


def test_every_node_has_one_link_upstream() -> None:
    networks = (
        Network(name="a", kind="p2p", members=(("internet", "home-nat"), ("home-nat", "wan"))),
        Network(name="b", kind="lan", members=(("home-nat", "lan"), ("alice", "lan"), ("inner-nat", "wan"))),
    )
    assert uplinks(networks) == {
        "home-nat": (("home-nat", "wan"), ("internet", "home-nat")),
        "alice": (("alice", "lan"), ("home-nat", "lan0")),
        "inner-nat": (("inner-nat", "wan"), ("home-nat", "lan1")),
    }


def test_loss_is_a_filter_of_what_is_sent() -> None:
    assert loss_rules("wan", LinkQuality()) == "table netdev link-wan\ndelete table netdev link-wan\n"
    assert "numgen random mod 1000000 < 15000 drop" in loss_rules("wan", LinkQuality(loss=1.5))
    assert 'hook egress device "wan"' in loss_rules("wan", LinkQuality(loss=1.5))
    assert "\n    drop\n" in loss_rules("wan", LinkQuality(loss=1.5, down=True))
    assert "\n    drop\n" in loss_rules("wan", LinkQuality(loss=100))
    assert "\n    drop\n" in loss_rules("wan", LinkQuality(loss=99.99999))
    assert "< 999999 drop" in loss_rules("wan", LinkQuality(loss=99.9999))


def test_a_rate_is_a_bucket_and_delays_are_netem() -> None:
    start = ["qdisc", "replace", "dev", "wan", "root"]
    assert queue("wan", LinkQuality(loss=5)) == []
    assert queue("wan", LinkQuality(rate=10**7)) == [
        *start,
        *("tbf", "rate", "10000000bit", "burst", "12500", "latency", "100ms"),
    ]
    assert queue("wan", LinkQuality(rate=9600))[-3] == "3028"
    assert queue("wan", LinkQuality(delay=50, jitter=5, reorder=25, rate=10**6)) == [
        *start,
        *("netem", "delay", "50.0ms", "5.0ms", "reorder", "25.0%", "rate", "1000000bit"),
    ]
