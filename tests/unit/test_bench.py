"""The benchmark: its labs are what it says, and a section that cannot be measured says why."""

from __future__ import annotations

import ipaddress
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from lab.backends.containers import containers
from lab.bench import __main__ as bench
from lab.bench import datapath, labs
from lab.bench.containers import TOPOLOGY
from lab.bench.labs import every_kind
from lab.bench.memory import available, pss
from lab.bench.section import Aim, Ratio, Section
from lab.nat.kinds import KINDS
from lab.planner import plan
from lab.topology.load import load, parse

LARGE = Path(__file__).parents[2] / "topologies" / "large"


def run(*arguments: str, monkeypatch: pytest.MonkeyPatch, sections: tuple[Section, ...]) -> tuple[int, str, str]:
    monkeypatch.setattr(bench, "_SECTIONS", {section.name: section for section in sections})
    app = Typer()
    app.command()(bench.main)
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.stdout, result.stderr


def test_the_nats_that_are_measured_are_of_every_kind() -> None:
    sites = parse(every_kind(2).encode(), "b", "b").sites.values()
    assert len(sites) == 2 * len(KINDS)
    assert {site.nat.name for site in sites} == set(KINDS)


@pytest.mark.parametrize("clients", [100, 300, 1000])
def test_a_large_lab_has_the_clients_that_its_name_says_behind_nats_of_mixed_kinds(clients: int) -> None:
    topology = load(LARGE / f"clients-{clients}.yaml")
    assert sum(1 for _ in topology.clients()) == clients
    assert [len(site.clients) for site in topology.sites.values()] == [4] * (clients // 4)
    assert len({site.nat.name for site in topology.sites.values()}) == 3


def test_memory_is_that_of_a_process_and_all_below_it() -> None:
    with subprocess.Popen(("sh", "-c", "sleep 60 & wait"), start_new_session=True) as shell:
        try:
            assert 0 < pss(shell.pid) < pss(os.getpid())
        finally:
            os.killpg(shell.pid, signal.SIGKILL)
    assert available() > pss(os.getpid())


def test_the_lab_in_containers_is_of_20() -> None:
    planned = plan(parse(TOPOLOGY.encode(), "bench", "bench"))
    assert len(containers(planned, ipaddress.IPv4Network("10.0.0.0/24"))) + len(["the checks"]) == 20


@pytest.mark.parametrize("options", [(), ("--bulk",)], ids=["one by one", "in bulk"])
def test_a_receiver_counts_what_comes_and_ends_well(options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it has been given more than one batch: the kernel tells how long senders' addresses were."""
    monkeypatch.setattr(datapath.Running, "inside", lambda _, __, *words: words)
    receiver = datapath._Receiver(datapath.Running({}, {}), "here")
    send = (*datapath._FLOOD, "send", "::1", "--rate", "20000", "--seconds", "0.2", *options)
    sent = json.loads(subprocess.run(send, capture_output=True, check=True).stdout)["sent"]
    count = receiver.count()
    receiver.close()
    assert receiver._process.returncode == 0
    assert 512 < count <= sent


def test_figures_are_medians_of_all_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = iter((3.0, 1.0, 8.0))

    def once(directory: Path) -> dict[str, float]:
        assert directory.is_dir()
        return {"up": next(figures)}

    section = Section("a", "A lab", once)
    code, out, _ = run("--runs", "3", "--json", monkeypatch=monkeypatch, sections=(section,))
    found = json.loads(out)["sections"]["a"]
    assert (code, found["medians"], found["runs"]) == (0, {"up": 3.0}, [{"up": 3.0}, {"up": 1.0}, {"up": 8.0}])


def test_figures_are_set_beside_those_of_a_section_before(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = iter((2.0, 4.0, 5.0)), iter((3.0, 4.0, 20.0))
    ratio = Ratio("each", "few")
    sections = (
        Section("few", "Few", lambda _: {"each": next(few)}),
        Section("many", "Many", lambda _: {"each": next(many)}, aims=(Aim(ratio.name, at_most=1.3),), ratios=(ratio,)),
    )
    _, out, _ = run("--runs", "3", "--json", monkeypatch=monkeypatch, sections=sections)
    found = json.loads(out)["sections"]["many"]
    assert [row[ratio.name] for row in found["runs"]] == [1.5, 1.0, 4.0]
    assert found["medians"][ratio.name] == 1.5
    assert found["aims"][ratio.name] == {"at_most": 1.3}


def test_without_the_section_before_there_is_no_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    sections = (
        Section("few", "Few", lambda _: {"each": 1.0}, lambda: "it lacks something"),
        Section("many", "Many", lambda _: {"each": 2.0}, ratios=(Ratio("each", "few"),)),
    )
    _, out, _ = run("--json", "--runs", "1", monkeypatch=monkeypatch, sections=sections)
    assert json.loads(out)["sections"]["many"]["medians"] == {"each": 2.0}


def test_the_cost_of_each_node_is_set_beside_that_in_a_smaller_lab() -> None:
    """And it has an aim."""
    largest = next(section for section in labs.SECTIONS if section.name == "clients-1000")
    assert {ratio.name for ratio in largest.ratios} <= {aim.figure for aim in largest.aims}
    assert {ratio.section for ratio in largest.ratios} == {"clients-100"}


def test_what_cannot_be_measured_is_left_out_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    section = Section("a", "A lab", lambda _: {}, lambda: "no engine answers")
    code, out, _ = run(monkeypatch=monkeypatch, sections=(section,))
    assert (code, "A lab: left out: no engine answers" in out) == (0, True)


def test_a_run_that_fails_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    def once(_: Path) -> dict[str, float]:
        raise RuntimeError("teredo-lab up: it is broken")

    code, _, err = run(monkeypatch=monkeypatch, sections=(Section("a", "A lab", once),))
    assert (code, "a: teredo-lab up: it is broken" in err) == (1, True)


def test_an_unknown_section_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = run("--only", "b", monkeypatch=monkeypatch, sections=(Section("a", "A lab", lambda _: {}),))
    assert (code, "there is no section b; there are a" in err) == (2, True)


def test_a_page_that_cannot_be_written_is_refused_before_the_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measured: list[Path] = []

    def once(directory: Path) -> dict[str, float]:
        measured.append(directory)
        return {}

    bad = tmp_path / "nowhere" / "page.md"
    code, _, err = run("--markdown", str(bad), monkeypatch=monkeypatch, sections=(Section("a", "A lab", once),))
    assert (code, "cannot write" in err, measured) == (2, True, [])


def test_what_a_reader_has_to_know_stands_below_the_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    section = Section("a", "a lab", lambda _: {"up": 1.0}, note="Two cores share it.")
    _, out, _ = run("--runs", "1", "--markdown", str(page), monkeypatch=monkeypatch, sections=(section,))
    assert "Two cores share it." in out
    assert page.read_text().endswith("| up | 1 | 1 | 1 |  |\n\nTwo cores share it.\n")


def test_aims_are_judged_by_medians(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    aims = (Aim("ratio", at_least=15.0), Aim("added", at_most=30.0))
    section = Section("a", "a lab", lambda _: {"ratio": 14.9, "added": 30.0, "other": 1234.5}, aims=aims)
    code, _, _ = run("--runs", "1", "--markdown", str(page), monkeypatch=monkeypatch, sections=(section,))
    assert code == 0
    lines = page.read_text().splitlines()
    assert "## A lab" in lines
    assert "`make bench ARGS='--only a'`" in lines
    assert [line for line in lines if line.startswith("| ")][1:] == [
        "| ratio | 14.9 | 14.9 | 14.9 | ≥ 15: missed |",
        "| added | 30 | 30 | 30 | ≤ 30: met |",
        "| other | 1234 | 1234 | 1234 |  |",
    ]


def test_the_aims_of_data_paths_are_of_figures_that_there_are() -> None:
    """A figure that is renamed would lose its aim without a word."""
    one = {f"TCP {each}, Mbit/s": 1.0 for each in datapath._TCP}
    one |= {f"{each}, packets/s": 1.0 for each in datapath._SMALL} | {"round trip to the host, µs": 1.0}
    lossy = "64-byte UDP at Miredo's lossless rate, % lost"
    found = {variant: {**one, lossy: 0.0} for variant in datapath._VARIANTS}
    figures = datapath._compared(found).keys() | {f"{lossy}: {variant}" for variant in found}
    (section,) = datapath.SECTIONS
    assert {aim.figure for aim in section.aims} <= figures


def test_variants_of_a_figure_are_drawn_beside_each_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figures = {
        "TCP, Mbit/s: ours": 2.0,
        "TCP, Mbit/s: plain": 4.0,
        "ratio, TCP: ours to plain": 0.5,
        "alone: ours": 1.0,
    }
    section = Section("a", "a lab", lambda _: figures)
    page = tmp_path / "page.md"
    code, _, _ = run("--runs", "1", "--markdown", str(page), monkeypatch=monkeypatch, sections=(section,))
    assert code == 0
    assert "![a lab](page-a.svg)" in page.read_text()
    picture = (tmp_path / "page-a.svg").read_text()
    assert "TCP, Mbit/s" in picture
    assert "ratio" not in picture
