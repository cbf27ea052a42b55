"""What is seen of a machine, as it matters to a backend; and whether the lists of what is needed agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab.doctor.judgement import COMMANDS, SUBJECTS, Seen, able, facts, judge

SETUP = (Path(__file__).parents[2] / "tools" / "setup.sh").read_text()
ALL = {subject.name: Seen(True, "there") for subject in SUBJECTS}


def without(*names: str) -> dict[str, Seen]:
    return ALL | {name: Seen(False, "not found") for name in names}


def test_a_machine_that_has_everything_is_able() -> None:
    for backend in ("netns", "docker"):
        findings = judge(ALL, backend)
        assert able(findings)
        assert [finding.name for finding in findings] == [subject.name for subject in SUBJECTS]
        assert {finding.state for finding in findings} == {"ok"}
        assert {finding.remedy for finding in findings} == {None}


@pytest.mark.parametrize(
    ("name", "netns", "docker"),
    [
        ("Python", "missing", "missing"),
        ("memory", "missing", "missing"),
        ("namespaces", "missing", "optional"),
        ("TUN", "missing", "optional"),
        ("command nft", "missing", "optional"),
        ("command miredo", "optional", "optional"),
        ("netem", "optional", "optional"),
        ("Docker engine", "optional", "missing"),
        ("VXLAN in containers", "optional", "missing"),
        ("images", "optional", "optional"),
    ],
)
def test_what_is_missing_matters_to_those_that_need_it(name: str, netns: str, docker: str) -> None:
    for backend, expected in (("netns", netns), ("docker", docker)):
        findings = judge(without(name), backend)
        (finding,) = [finding for finding in findings if finding.state != "ok"]
        assert (finding.name, finding.state) == (name, expected)
        assert finding.purpose
        assert finding.remedy
        assert able(findings) == (expected != "missing")


def test_what_was_not_looked_at_is_not_judged() -> None:
    assert [finding.name for finding in judge({"TUN": Seen(True, "made")}, "netns")] == ["TUN"]


def test_facts_name_what_was_found_and_the_remedy() -> None:
    answer = facts(judge(without("command ipset"), "netns"), "netns")
    assert (answer["ok"], answer["backend"]) == (False, "netns")
    (ipset,) = [finding for finding in answer["findings"] if finding["state"] == "missing"]
    assert ipset["found"] == "not found"
    assert "apt-get install ipset" in ipset["remedy"]


def test_what_the_set_up_installs_is_what_is_looked_for() -> None:
    """tools/setup.sh installs, and runs before there is any Python; both have to know of the same packages."""
    lists = " ".join(re.findall(r"^readonly (?:LAB|TESTS|OPTIONAL)=\(([^)]*)\)", SETUP, re.MULTILINE))
    installed = dict(pair.split(":") for pair in lists.split())
    looked_for = {name: package for name, (package, _, _) in COMMANDS.items()}
    assert looked_for == installed | {"tc": "iproute2"}
