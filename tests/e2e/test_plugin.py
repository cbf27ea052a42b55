"""The pytest plugin, as users have it: in test files of their own, run by a pytest of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab.state import all_labs

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.e2e

DOCUMENT = Path(__file__).parents[2] / "docs" / "testing.md"
SMALL = "servers: {server: }\\nsites:\\n  home: {clients: {alice: }}\\n"


def run(pytester: pytest.Pytester, text: str, *arguments: str) -> pytest.RunResult:
    pytester.makepyfile(text)
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:xdist", *arguments)


def test_the_example_of_the_documentation_passes_with_one_lab(pytester: pytest.Pytester) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    names = "\n\n\n@pytest.mark.lab(TOPOLOGY, scope='module')\ndef test_name(lab):\n    print('NAME', lab.name)\n"
    result = run(pytester, example + names + names.replace("test_name", "test_again"), "-s")
    result.assert_outcomes(passed=5)
    assert len(set(re.findall(r"NAME (\S+)", result.stdout.str()))) == 1


def test_each_test_has_a_lab_of_its_own_unless_it_says_otherwise(pytester: pytest.Pytester) -> None:
    text = "".join(
        f"import pytest\n@pytest.mark.lab('{SMALL}')\ndef test_{which}(lab):\n    print('NAME', lab.name)\n"
        for which in ("one", "other")
    )
    result = run(pytester, text, "-s")
    result.assert_outcomes(passed=2)
    assert len(set(re.findall(r"NAME (\S+)", result.stdout.str()))) == 2
    assert not [lab for lab in all_labs() if lab.name in result.stdout.str()]


def test_without_a_marker_it_is_the_default_topology(pytester: pytest.Pytester) -> None:
    directory = pytester.mkdir("topologies")
    (directory / "default.yaml").write_text(SMALL.replace("\\n", "\n").replace("alice", "dora"))
    result = run(pytester, "def test_it(lab):\n    assert lab.node('dora')['state'] == 'qualified'\n")
    result.assert_outcomes(passed=1)


def test_a_test_that_fails_keeps_logs_and_captures_and_names_them(pytester: pytest.Pytester) -> None:
    text = f"""
        import pytest

        @pytest.mark.lab("{SMALL}")
        def test_it(lab):
            with lab.capture("internet", "any"):
                lab.exec("alice", "ping", "-c", "1", "192.0.2.2")
            assert lab.reaches("alice", "alice") is None
    """
    result = run(pytester, text)
    result.assert_outcomes(failed=1)
    said = result.stdout.str()
    assert "logs and captures of the lab" in said
    kept = {path.name.split("-", 2)[-1]: path for path in map(Path, re.findall(r"^/\S+$", said, re.MULTILINE))}
    assert {"alice.log", "lab.log", "server.log"} <= kept.keys()
    assert any(name.startswith("internet") and name.endswith(".pcapng") for name in kept)
    assert "qualified" in kept["alice.log"].read_text()


def test_a_test_that_leaves_a_lab_behind_fails(pytester: pytest.Pytester, tmp_path: Path) -> None:
    topology = tmp_path / "left.yaml"
    topology.write_text(SMALL.replace("\\n", "\n"))
    text = f"""
        import subprocess, sys, pytest

        @pytest.mark.lab("{SMALL}")
        def test_it(lab):
            command = [sys.executable, "-m", "lab.cli", "up", "{topology}", "--name", "left-behind"]
            subprocess.run(command, check=True)
    """
    result = run(pytester, text)
    result.assert_outcomes(passed=1, errors=1)
    assert "the test has left labs behind: left-behind" in result.stdout.str()
    assert not any(lab.name == "left-behind" for lab in all_labs())


@pytest.mark.parametrize(
    ("marker", "error"),
    [
        ("'servers: {server: }\\nbad: x\\n'", r"\.yaml:2: unknown option 'bad'; known: name,"),
        ("'nowhere.yaml'", "there is no file nowhere.yaml in .*: correct it, or give a topology's text"),
        ("scop='module'", "@pytest.mark.lab: got an unexpected keyword argument 'scop'; it takes a topology,"),
        ("backend='podman'", "@pytest.mark.lab: backend='podman': take netns or docker"),
        ("scope='session'", "@pytest.mark.lab: scope='session': take function or module"),
    ],
)
def test_a_marker_that_makes_no_sense_is_refused_with_a_remedy(
    pytester: pytest.Pytester, marker: str, error: str
) -> None:
    result = run(pytester, f"import pytest\n@pytest.mark.lab({marker})\ndef test_it(lab): pass\n")
    result.assert_outcomes(errors=1)
    assert re.search(error, result.stdout.str())
    assert "During handling" not in result.stdout.str()


def test_what_this_machine_lacks_skips_or_fails(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{pytester.path}/docker.sock")
    text = f"import pytest\n@pytest.mark.lab('{SMALL}', backend='docker')\ndef test_it(lab): pass\n"
    monkeypatch.setenv("TEREDO_LAB_NO_SKIP", "0")
    result = run(pytester, text, "-rs")
    result.assert_outcomes(skipped=1)
    assert "no Docker engine answers" in result.stdout.str()
    monkeypatch.setenv("TEREDO_LAB_NO_SKIP", "1")
    run(pytester, text).assert_outcomes(errors=1)


def test_who_wants_no_lab_pays_nothing_for_the_plugin(pytester: pytest.Pytester) -> None:
    text = (
        "import sys\ndef test_it():\n    assert not [name for name in sys.modules if name.startswith('lab.backends')]\n"
    )
    run(pytester, text).assert_outcomes(passed=1)
