"""What captures of a lab shall be, in either backend."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from lab.seeing import pcapng
from lab.testing.running import COMMAND, Capture, RunningLab


def captured(lab: RunningLab, file: Path, *options: str) -> subprocess.Popen[str]:
    """A capture of a lab that has begun; its standard error is what it says."""
    command = (*COMMAND, "capture", "--name", lab.name, "-w", str(file), *options)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = process.stderr.readline()
    assert said.startswith("capturing "), said
    return process


def end(process: subprocess.Popen[str]) -> None:
    """Ctrl-C."""
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0, said


def captures_all_links_of_a_conversation_in_one_order(lab: RunningLab, directory: Path) -> pcapng.Recording:
    """Of SMALL, with tshark as the judge; returns the recording."""
    file = directory / "all.pcapng"
    process = captured(lab, file)
    for answer in lab.lab.ask("check", nodes=["alice", "carol", "web"], probes=["icmp6"]):
        assert all(result["ok"] for result in answer.get("results", ()))
    end(process)
    recording = pcapng.read(file.read_bytes())
    names = {"alice", "carol", "home-nat", "away-nat", "server", "relay", "web"}
    judge = Capture(file)
    seen = judge.fields("frame", "frame.time_epoch", "frame.interface_name", "frame.interface_description")
    assert {name for _, name, _ in seen} == names
    assert all(described.startswith(f"link of {name}, ") for _, name, described in seen)
    times = [tuple(map(int, time.split("."))) for time, *_ in seen]
    assert times == sorted(times)
    assert any(fraction % 1000 for _, fraction in times), "no nanoseconds"
    assert len(seen) == len(recording.packets)
    bubbles = judge.fields("ip && ipv6.nxt == 59", "frame.comment")
    assert bubbles
    assert all("bubble" in comment for (comment,) in bubbles)
    (origins, told) = (judge.fields(f, "teredo.orig.addr", "frame.comment") for f in ("teredo.orig.port", "teredo"))
    assert origins
    assert all(f"origin {address}:" in comment for address, comment in origins)
    assert any("home-nat: " in comment for _, comment in told)
    return recording
