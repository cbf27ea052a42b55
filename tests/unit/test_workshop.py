"""The workshop without labs: its lessons as files, what checks make of facts, progress, and the commands."""

from __future__ import annotations

import csv
import io
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from lab.cli_workshop import app
from lab.planner import plan
from lab.state import Lab
from lab.teredo.extensions import Extension
from lab.topology.load import load, parse
from lab.workshop import phrases, progress
from lab.workshop.judgement import judge, value, wanted
from lab.workshop.lesson import LANGUAGES, Check, Command, Lesson, commands, outline
from lab.workshop.library import LESSONS, Entry, UnknownLessonError, entries, entry
from lab.workshop.progress import Progress, ProgressError

ALL = entries()
RECORDED = json.loads((Path(__file__).parent / "helpers" / "workshop_facts.json").read_text(encoding="utf-8"))
lessons = pytest.mark.parametrize("lesson", ALL, ids=lambda each: each.id)

FACTS: dict[str, Any] = {
    "answer": " EIM,  adf. ",
    "status": {"alice": {"state": "off-line", "ipv4": ["192.0.2.7"]}},
    "state": {"alice": {"extensions": ["symmetric"], "refresh_interval": 5}, "dave": None},
    "pair": {"alice": {"web": {"observed": "reachable"}}},
}


@pytest.fixture(autouse=True)
def _at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)


def nested(facts: dict[str, Any]) -> dict[str, Any]:
    """Facts by their names as they are gathered, by kind and node."""
    found: dict[str, Any] = {}
    for name, fact in facts.items():
        *path, last = name.split()
        around = found
        for word in path:
            around = around.setdefault(word, {})
        around[last] = fact
    return found


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


def a_check(**condition: Any) -> dict[str, Any]:
    words = {"en": "is {value}", "es": "es {value}"}
    return {"title": words, "otherwise": words, "fact": "status alice state"} | condition


def a_lesson(*checks: dict[str, Any]) -> Lesson:
    words = {"en": "a", "es": "b"}
    return Lesson.model_validate(
        {"title": words, "minutes": 5, "checks": checks, "hints": [words], "solution": ["true"]}
    )


def passes(**condition: Any) -> bool:
    (verdict,) = judge(a_lesson(a_check(**condition)), FACTS, "en", "no answer")
    assert (verdict.why is None) == verdict.passed
    return verdict.passed


# The lessons


def test_lessons_are_numbered_from_one_on() -> None:
    assert [each.number for each in ALL] == list(range(1, len(ALL) + 1))
    assert {path.name for path in LESSONS.iterdir() if path.is_dir()} == {each.id for each in ALL}
    assert len({each.lab for each in ALL}) == len(ALL)


@lessons
def test_both_languages_say_the_same(lesson: Entry) -> None:
    english, spanish = lesson.text("en"), lesson.text("es")
    assert commands(english) == commands(spanish)
    assert commands(english), "a lesson without anything to try"
    assert outline(english) == outline(spanish)
    assert english.startswith(f"# {lesson.lesson.title.en}\n")
    assert spanish.startswith(f"# {lesson.lesson.title.es}\n")


@lessons
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_text_has_a_task_and_its_rfcs(lesson: Entry, language: str) -> None:
    text = lesson.text("en" if language == "en" else "es")
    assert "\n## " + {"en": "Your task", "es": "Su tarea"}[language] + "\n" in text
    assert "\n## " + {"en": "Why it matters", "es": "Por qué importa"}[language] + "\n" in text
    assert "RFC " in text[text.rindex("\n## ") :]
    assert "teredo-lab workshop check" in text


@lessons
def test_every_lesson_has_a_topology_that_can_be(lesson: Entry) -> None:
    planned = plan(load(lesson.directory / "topology.yaml"))
    nodes = {node.name for node in planned.nodes}
    asked = wanted(lesson.lesson)
    assert {*asked.states, *asked.nats, *(name for pair in asked.pairs for name in pair)} <= nodes
    topology = parse(lesson.topology.encode(), "topology.yaml", lesson.lab)
    assert topology.name == lesson.lab


@lessons
def test_a_question_is_asked_where_it_is_graded(lesson: Entry) -> None:
    for language in LANGUAGES:
        assert ("teredo-lab workshop answer" in lesson.text(language)) == lesson.lesson.wants_answer
    assert any("workshop answer" in line for line in lesson.lesson.solution) == lesson.lesson.wants_answer


@lessons
def test_what_is_said_of_a_mistake_does_not_give_the_solution_away(lesson: Entry) -> None:
    data = lesson.lesson
    for check in data.checks:
        for words in (check.title, check.otherwise):
            for text in (words.en, words.es):
                assert not any(line in text for line in data.solution)
                if check.fact == "answer" and check.is_ is not None:
                    assert str(check.is_).casefold() not in text.casefold()
    for language in LANGUAGES:
        told = {command.line for command in commands(lesson.text(language))}
        assert not told & set(data.solution), "the text has its reader run the solution"


@lessons
def test_a_lesson_is_judged_right_by_what_labs_were(lesson: Entry) -> None:
    """Recorded at its start, after its solution, and after what looks like one and is none."""
    recorded = RECORDED[lesson.id]
    if lesson.lesson.wants_answer:
        recorded = recorded | {"wrong": recorded["done"] | {"answer": "192.0.2.99:9"}}
    verdicts = {state: judge(lesson.lesson, nested(facts), "en", "none") for state, facts in recorded.items()}
    assert all(verdict.passed for verdict in verdicts.pop("done"))
    for state in verdicts.values():
        assert not all(verdict.passed for verdict in state)
        assert all(verdict.why for verdict in state if not verdict.passed)
    assert {fact for check in lesson.lesson.checks for fact in check.facts} == recorded["done"].keys()


def test_lessons_are_in_the_package() -> None:
    settings = tomllib.loads((LESSONS.parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    package = LESSONS.parents[1]
    packed = {path for glob in settings["tool"]["setuptools"]["package-data"]["lab"] for path in package.glob(glob)}
    files = {path for path in LESSONS.rglob("*") if path.is_file()}
    assert len(files) == 4 * len(ALL)
    assert files <= packed


def test_each_extension_is_what_some_lesson_gives_a_client() -> None:
    given = {name for each in ALL for line in each.lesson.solution for name in Extension if name in line}
    assert given == set(Extension)


def test_labs_to_repair_come_last_and_are_judged_by_the_lab_alone() -> None:
    assert [each.lesson.debug for each in ALL] == sorted(each.lesson.debug for each in ALL)
    assert sum(each.lesson.debug for each in ALL) >= 3
    assert not any(each.lesson.wants_answer for each in ALL if each.lesson.debug)


# What checks make of facts


def test_facts_are_found_by_name() -> None:
    assert value("status alice ipv4 0", FACTS) == "192.0.2.7"
    assert value("pair alice web observed", FACTS) == "reachable"
    for name in (
        "status bob state",
        "status alice ipv4 1",
        "state dave server",
        "state alice extensions x",
        "nat n k",
    ):
        assert value(name, FACTS) is None


def test_conditions() -> None:
    assert passes(**{"is": "off-line"})
    assert not passes(**{"is": "qualified"})
    assert passes(one_of=["qualified", "off-line"])
    assert passes(fact="state alice extensions", **{"is": ["symmetric"]})
    assert not passes(fact="state alice extensions", **{"is": ["symmetric", "upnp"]})
    assert passes(fact="state alice refresh_interval", below=6)
    assert not passes(fact="state alice refresh_interval", below=5)
    assert not passes(fact="state dave refresh_interval", below=5)
    assert passes(fact="answer", **{"is": "EIM ADF"})
    assert not passes(fact="answer", **{"is": "EIM"})


def test_nothing_is_not_the_same_as_nothing() -> None:
    """An answer cannot be right because the lab does not know either."""
    assert not passes(fact="state dave server", same_as="state dave server")


def test_what_is_wrong_is_said_with_the_fact() -> None:
    lesson = a_lesson(a_check(**{"is": "qualified"}), a_check(fact="answer", **{"is": "x"}))
    assert [each.why for each in judge(lesson, FACTS, "es", "falta")] == ["es fuera de línea", "es  EIM,  adf. "]
    assert [each.why for each in judge(lesson, FACTS | {"answer": None}, "en", "missing")] == ["is off-line", "missing"]


def test_facts_are_said_as_people_read_them() -> None:
    def said(**condition: Any) -> list[str | None]:
        lesson = a_lesson(a_check(**condition))
        return [judge(lesson, FACTS, language, "")[0].why for language in LANGUAGES]

    assert said(fact="state dave server", **{"is": 1}) == ["is none", "es ninguno"]
    assert said(fact="state alice extensions", **{"is": 1}) == ["is symmetric", "es symmetric"]
    assert said(fact="pair alice web observed", **{"is": 1}) == ["is reachable", "es al alcance"]


def test_what_is_wanted_of_a_lab() -> None:
    lesson = a_lesson(
        a_check(fact="answer", same_as="state alice server"),
        a_check(fact="pair web alice observed", **{"is": "reachable"}),
        a_check(fact="pair web alice path", **{"is": "relay"}),
        a_check(fact="nat home-nat mapping", **{"is": "EIM"}),
    )
    asked = wanted(lesson)
    assert (asked.states, asked.nats, asked.pairs) == (("alice",), ("home-nat",), (("web", "alice"),))


@pytest.mark.parametrize(
    "wrong",
    [{}, {"is": 1, "below": 2}, {"is": 1, "fact": "pair a b"}, {"is": 1, "fact": "weather"}, {"is": 1, "unless": 2}],
    ids=str,
)
def test_a_check_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Check.model_validate(a_check(**wrong))


def test_commands_of_a_text() -> None:
    block = "```console\n$ true  # well\nits output\n$ false # exit code 1\n```\n\n"
    text = block + "```\n$ not this\n# nor this\n```\n# One\n## Two\n"
    assert commands(text) == [Command("true", True), Command("false", False)]
    assert outline(text) == [1, 2]


# Progress


def test_progress_is_kept(tmp_path: Path) -> None:
    mine = Progress(learner="ana", language="es", current="01-nat")
    mine.of("01-nat").hints = 2
    progress.save(mine)
    assert progress.file() == tmp_path / "teredo-lab" / "workshop.json"
    assert progress.load() == mine
    assert [path.name for path in progress.directory().iterdir()] == ["workshop.json"]


@pytest.mark.parametrize("broken", ["", "[]", '{"learner": 3}'])
def test_a_broken_file_of_progress_is_refused(broken: str) -> None:
    progress.put(progress.file(), broken)
    with pytest.raises(ProgressError, match=r"is no file of progress: .*; move it away"):
        progress.load()
    assert run("hint")[0] == 2


def test_a_class_has_its_results_in_one_table(tmp_path: Path) -> None:
    for name in ("luis", "ana"):
        mine = Progress(learner=name)
        if name == "ana":
            mine.of(ALL[0].id).started = mine.of(ALL[0].id).passed = "2026-01-01T00:00:00+00:00"
            mine.of(ALL[0].id).solution = True
        progress.put(tmp_path / "class" / name / "workshop.json", mine.model_dump_json())
    code, text, _ = run("results", "--csv", "--from", str(tmp_path / "class"))
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["learner"] for row in rows] == ["ana"] * len(ALL) + ["luis"] * len(ALL)
    assert (rows[0]["result"], rows[0]["solution"], rows[1]["result"]) == ("passed", "yes", "not started")
    assert tuple(rows[0]) == progress.COLUMNS


def test_learners_of_one_name_are_told_apart_by_their_files(tmp_path: Path) -> None:
    for seat, name in (("1", "root"), ("2", "root"), ("3", "ana")):
        progress.put(tmp_path / seat / "workshop.json", Progress(learner=name).model_dump_json())
    names = [each.learner for each in progress.gathered(tmp_path)]
    assert names == ["ana", "root (1/workshop.json)", "root (2/workshop.json)"]


def test_a_file_of_results_says_that_it_is_utf_8(tmp_path: Path) -> None:
    progress.put(tmp_path / "class" / "workshop.json", Progress(learner="Ana-María").model_dump_json())
    file = tmp_path / "results.csv"
    assert run("results", "--from", str(tmp_path / "class"), "-o", str(file))[0] == 0
    assert file.read_bytes().startswith("\ufefflearner,".encode())
    with file.open(encoding="utf-8-sig", newline="") as stream:
        assert {row["learner"] for row in csv.DictReader(stream)} == {"Ana-María"}


def test_a_name_is_no_formula_in_a_spreadsheet() -> None:
    text = progress.table([Progress(learner='=HYPERLINK("x")'), Progress(learner="Ana-María")], ["01-nat"])
    assert [row["learner"] for row in csv.DictReader(io.StringIO(text))] == ['\'=HYPERLINK("x")', "Ana-María"]


def test_results_of_nobody_are_refused(tmp_path: Path) -> None:
    assert run("results", "--from", str(tmp_path / "nowhere"))[::2] == (
        2,
        f"teredo-lab: {tmp_path / 'nowhere'} is no directory; give the one with the learners' workshop.json",
    )
    (tmp_path / "empty").mkdir()
    assert run("results", "--from", str(tmp_path / "empty"))[0] == 2


# The commands


def test_a_list_in_each_language(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert "not started" in run()[1]
    assert "sin empezar" in run("--lang", "es")[1]
    monkeypatch.setenv("LANG", "es_MX.UTF-8")
    assert "sin empezar" in run()[1]
    rows = json.loads(run("--json")[1])
    assert [row["lesson"] for row in rows] == [each.id for each in ALL]


@pytest.mark.parametrize(
    ("environment", "language"),
    [({}, "en"), ({"LANG": "es"}, "es"), ({"LANG": "es_ES.UTF-8", "LC_ALL": "C"}, "en"), ({"LANG": "fr_FR"}, "en")],
)
def test_the_language_of_the_terminal(environment: dict[str, str], language: str) -> None:
    assert phrases.spoken(environment) == language


def test_bad_input_is_refused_with_what_to_do() -> None:
    assert run("check")[::2] == (2, "teredo-lab: no lesson was started yet: `teredo-lab workshop start 1`")
    code, _, told = run("start", "99")
    assert code == 2
    assert told.startswith("teredo-lab: there is no lesson '99'; give a number or a name of these: 01-nat, ")
    assert run("start", "1", "--lang", "fr")[::2] == (
        2,
        "teredo-lab: there are no lessons in 'fr'; --lang takes en or es",
    )
    code, _, told = run("check", "1")
    assert code == 2
    assert "is not running: start it with `teredo-lab workshop start 1`" in told


def test_lessons_go_by_number_and_name() -> None:
    assert entry("1") == entry("01") == entry(ALL[0].id) == ALL[0]
    with pytest.raises(UnknownLessonError):
        entry("0")


def test_hints_come_one_by_one() -> None:
    progress.save(Progress(learner="ana", current=ALL[0].id))
    hints = ALL[0].lesson.hints
    for count in range(1, len(hints) + 2):
        code, text, _ = run("hint")
        shown = [words.en for words in hints if words.en in text.replace("\n", " ")]
        assert (code, shown) == (0, [words.en for words in hints[:count]])
    assert progress.load().of(ALL[0].id).hints == len(hints)
    assert hints[0].es in run("hint", "--lang", "es")[1].replace("\n", " ")


def test_a_solution_is_shown_to_who_insists() -> None:
    progress.save(Progress(learner="ana", current=ALL[0].id))
    refused = CliRunner().invoke(app, ["solution"], input="n\n")
    assert refused.exit_code == 1
    assert not progress.load().of(ALL[0].id).solution
    assert run("solution", "--yes")[:2] == (0, "\n".join(ALL[0].lesson.solution) + "\n")
    assert progress.load().of(ALL[0].id).solution


def test_the_backend_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr("lab.cli_workshop._bring_up", lambda _, backend: made.append(backend))
    monkeypatch.setattr("lab.backends.base.find", Lab)
    monkeypatch.setattr("lab.backends.base.running", list)
    monkeypatch.delenv("TEREDO_LAB_BACKEND", raising=False)
    assert run("start", "1")[0] == 0
    assert run("start", "1", "--backend", "docker")[0] == 0
    assert run("start", "2")[0] == run("reset")[0] == run("remake")[0] == 0
    assert run("reset", "--backend", "netns")[0] == run("remake")[0] == 0
    assert made == ["netns", "docker", "docker", "docker", "docker", "netns", "netns"]
    assert run("start", "1", "--backend", "moon")[::2] == (
        2,
        "teredo-lab: there is no backend 'moon'; there are netns and docker",
    )


def test_making_anew_keeps_what_the_learner_has_edited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("lab.cli_workshop._bring_up", lambda *_: None)
    progress.save(Progress(learner="ana", current=ALL[0].id))
    edited = tmp_path / "teredo-lab" / f"{ALL[0].lab}.yaml"
    edited.write_text("edited")
    assert run("remake")[0] == 0
    assert edited.read_text() == "edited"
    assert run("reset")[0] == 0
    assert edited.read_text() == ALL[0].topology


def test_an_answer_is_kept() -> None:
    progress.save(Progress(learner="ana", current=ALL[0].id))
    assert run("answer", "EIM", "APDF")[0] == 0
    assert progress.load().of(ALL[0].id).answer == "EIM APDF"
