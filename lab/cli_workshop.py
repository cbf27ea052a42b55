"""`teredo-lab workshop`: lessons, each with a lab of its own, that grade what the learner has done."""

from __future__ import annotations

import json
from collections.abc import Callable, Set
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lab import state
from lab.backends import base
from lab.console import BAD_INPUT, FAILED, MACHINE, Json, err, fail, known_backend, out, write
from lab.state import MachineError
from lab.workshop import phrases, progress
from lab.workshop.judgement import Verdict, judge, wanted
from lab.workshop.lesson import LANGUAGES, Language
from lab.workshop.library import Entry, UnknownLessonError, entries, entry
from lab.workshop.progress import Progress, ProgressError, Record

app = typer.Typer(
    name="workshop",
    help="Learn Teredo and NATs by doing: lessons of ten minutes that grade themselves, each with a lab of its own.\n\n"
    "Alone, `teredo-lab workshop` lists the lessons and how far you are.",
    epilog="Exit codes: 0 passed, 1 not yet, 2 bad input, 3 the machine lacks something.",
    invoke_without_command=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_BOM = "\ufeff"


def _known_language(language: str | None) -> str | None:
    if language is not None and language not in LANGUAGES:
        fail(BAD_INPUT, f"there are no lessons in {language!r}; --lang takes {' or '.join(LANGUAGES)}")
    return language


Lang = Annotated[
    str | None,
    typer.Option("--lang", help="en or es; by default $LANG's.", callback=_known_language, show_default=False),
]
Where = Annotated[
    str | None,
    typer.Option(
        "--backend",
        help="Where labs are made: `netns` (network namespaces) or `docker` (containers). It is remembered.",
        envvar="TEREDO_LAB_BACKEND",
        callback=lambda backend: None if backend is None else known_backend(backend),
        show_default=False,
    ),
]
Which = Annotated[
    str | None,
    typer.Argument(metavar="[LESSON]", help="A lesson's number; by default the one started last.", show_default=False),
]


@app.callback()
def workshop(context: typer.Context, lang: Lang = None, as_json: Json = False) -> None:
    """List the lessons, and how far you are."""
    if context.invoked_subcommand is not None:
        return
    mine = _mine()
    if as_json:
        print(json.dumps(progress.rows([mine], [each.id for each in entries()]), indent=2))
        return
    language = _language(mine, lang)
    columns = (phrases.LESSON, phrases.TITLE, phrases.MINUTES, phrases.RESULT)
    table = Table(*(column.of(language) for column in columns), "", box=SIMPLE_HEAD, pad_edge=False)
    for each in entries():
        lesson, result = each.lesson, mine.lessons.get(each.id, Record()).result
        style = {"passed": "green", "started": "yellow"}.get(result, "dim")
        broken = phrases.BROKEN.of(language) if lesson.debug else ""
        title, shown = lesson.title.of(language), Text(phrases.RESULTS[result].of(language), style)
        table.add_row(str(each.number), title, str(lesson.minutes), shown, broken)
    out.print(table)
    first = next((each for each in entries() if mine.lessons.get(each.id, Record()).passed is None), None)
    if first is not None:
        _say(phrases.BEGIN.of(language).format(first.number))


@app.command()
def start(
    lesson: Annotated[str, typer.Argument(metavar="LESSON", help="The lesson's number.")],
    lang: Lang = None,
    backend: Where = None,
    learner: Annotated[
        str | None, typer.Option(help="Your name in the results; your user's by default.", show_default=False)
    ] = None,
) -> None:
    """Bring a lesson's lab up as it is at the start, and print what to read.

    The lab of the lesson before is taken down. Your progress with other lessons is kept.

    Example: `teredo-lab workshop start 1 --lang es`
    """
    chosen, mine = _entry(lesson), _mine()
    language = _chosen(lang) or phrases.spoken()
    mine.language = language
    mine.learner = learner or mine.learner
    mine.backend = backend or mine.backend
    _take_down({each.lab for each in entries()} - {chosen.lab})
    _as_at_the_start(chosen, mine.backend)
    mine.current = chosen.id
    record = mine.of(chosen.id)
    record.started = record.started or _now()
    record.answer = None
    _save(mine)
    text = chosen.text(language)
    if out.is_terminal:
        from rich.markdown import Markdown  # noqa: PLC0415 - slow to import

        out.print(Markdown(text))
    else:
        print(text)
    _say(phrases.UP.of(language).format(chosen.lab, _file(chosen)))
    others = [lab.name for lab in state.labs() or base.running() if lab.name != chosen.lab]
    if others:
        _say(phrases.OTHERS.of(language).format(", ".join(others), others[0], chosen.lab))


@app.command()
def check(lesson: Which = None, lang: Lang = None, as_json: Json = False) -> None:
    """Grade what you have done: the running lab, and your answer. Exit code 1: not yet.

    Each condition that does not hold says what is still wrong.
    """
    from lab.workshop.evidence import gather  # noqa: PLC0415 - slow to import

    mine = _mine()
    chosen = _current(mine, lesson)
    language = _language(mine, lang)
    record = mine.of(chosen.id)
    lab = base.find(chosen.lab)
    if not lab.runs():
        fail(BAD_INPUT, f"lab {lab.name!r} is not running: start it with `teredo-lab workshop start {chosen.number}`")
    facts = gather(lab, wanted(chosen.lesson), record.answer)
    verdicts = judge(chosen.lesson, facts, language, phrases.NO_ANSWER.of(language))
    passed = all(verdict.passed for verdict in verdicts)
    record.checks += 1
    if passed:
        record.passed = record.passed or _now()
    _save(mine)
    if as_json:
        told = {"lesson": chosen.id, "passed": passed, "checks": [asdict(verdict) for verdict in verdicts]}
        print(json.dumps(told, indent=2))
    else:
        _show(verdicts, passed=passed, language=language, chosen=chosen)
    if not passed:
        raise typer.Exit(FAILED)


def _show(verdicts: list[Verdict], *, passed: bool, language: Language, chosen: Entry) -> None:
    for verdict in verdicts:
        mark = Text("✓ ", "green") if verdict.passed else Text("✗ ", "red")
        out.print(mark + Text(verdict.title), soft_wrap=True)
        if verdict.why is not None:
            out.print(Text(f"  {verdict.why}", "yellow"), soft_wrap=True)
    out.print(Text(phrases.PASSED.of(language), "green") if passed else Text(phrases.NOT_YET.of(language), "red"))
    if passed:
        later = next((each for each in entries() if each.number > chosen.number), None)
        _say(phrases.LAST.of(language) if later is None else phrases.NEXT.of(language).format(later.number))


@app.command()
def answer(
    text: Annotated[list[str], typer.Argument(metavar="TEXT", help="What you have found out.")], lang: Lang = None
) -> None:
    """Give your answer to the question of the lesson that was started last. The last answer counts.

    Example: `teredo-lab workshop answer 198.51.100.1:40000`
    """
    mine = _mine()
    chosen = _current(mine, None)
    if not chosen.lesson.wants_answer:
        fail(BAD_INPUT, f"lesson {chosen.number} has no question: change its lab, then `teredo-lab workshop check`")
    mine.of(chosen.id).answer = " ".join(text)
    _save(mine)
    _say(phrases.KEPT.of(_language(mine, lang)))


@app.command()
def hint(lesson: Which = None, lang: Lang = None) -> None:
    """Print the next hint, below those that you have had."""
    mine = _mine()
    chosen, language = _current(mine, lesson), _language(mine, lang)
    hints, record = chosen.lesson.hints, mine.of(chosen.id)
    record.hints = min(record.hints + 1, len(hints))
    _save(mine)
    for number, words in enumerate(hints[: record.hints], 1):
        out.print(phrases.HINT.of(language).format(number, len(hints)), style="bold", highlight=False)
        out.print(words.of(language), highlight=False, markup=False, soft_wrap=True)


@app.command()
def solution(
    lesson: Which = None,
    lang: Lang = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Print commands that do the lesson's task; it does not run them. Your results will say that you have seen them."""
    mine = _mine()
    chosen, language = _current(mine, lesson), _language(mine, lang)
    if not yes and not typer.confirm(phrases.REALLY.of(language), err=True):
        raise typer.Exit(FAILED)
    mine.of(chosen.id).solution = True
    _save(mine)
    print("\n".join(chosen.lesson.solution))


@app.command()
def reset(
    backend: Where = None,
    all_: Annotated[bool, typer.Option("--all", help="Forget all progress instead, and take the lab down.")] = False,
) -> None:
    """Make the lab of the lesson that was started last anew, as it is at the start, and forget the answer."""
    mine = _mine()
    if all_:
        _take_down({each.lab for each in entries()})
        for each in entries():
            _file(each).unlink(missing_ok=True)
        _save(Progress(learner=mine.learner, language=mine.language, backend=mine.backend))
        return
    chosen = _current(mine, None)
    mine.backend = backend or mine.backend
    _as_at_the_start(chosen, mine.backend)
    mine.of(chosen.id).answer = None
    _save(mine)
    _say(phrases.UP.of(mine.language).format(chosen.lab, _file(chosen)))


@app.command()
def remake() -> None:
    """Make the lab of the lesson that was started last anew, from its topology as you have edited it."""
    mine = _mine()
    chosen = _current(mine, None)
    _bring_up(chosen, mine.backend)
    _say(phrases.UP.of(mine.language).format(chosen.lab, _file(chosen)))


@app.command("file")
def file_() -> None:
    """Print where the topology of the current lesson is, which you may edit.

    Example: `vi "$(teredo-lab workshop file)"`, and then `teredo-lab workshop remake`
    """
    print(_file(_current(_mine(), None)))


@app.command()
def results(
    from_: Annotated[
        Path | None,
        typer.Option("--from", help="A directory with the learners' workshop.json, at any depth.", show_default=False),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV; that is the default.")] = True,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to this file.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Print results, yours or a class's: a row for each learner and lesson.

    A file of CSV begins with a byte order mark, by which spreadsheets know UTF-8.

    Example: `teredo-lab workshop results --from class/ -o results.csv`
    """
    lessons = [each.id for each in entries()]
    try:
        learners = [progress.load()] if from_ is None else progress.gathered(from_)
    except ProgressError as error:
        fail(BAD_INPUT, error)
    told: Callable[[], str] = (
        (lambda: json.dumps(progress.rows(learners, lessons), indent=2) + "\n")
        if as_json
        else (lambda: (_BOM if output is not None else "") + progress.table(learners, lessons))
    )
    write(output, told)
    if output is None:
        print(told(), end="")


def _take_down(names: Set[str]) -> None:
    """Take those of these labs down that run; engines are asked once, since that may take a while."""
    for lab in base.running():
        if lab.name in names:
            lab.down()


def _as_at_the_start(chosen: Entry, backend: str) -> None:
    """Make a lesson's lab anew from the lesson's own topology, or leave with what went wrong."""
    try:
        progress.put(_file(chosen), chosen.topology)
    except ProgressError as error:
        fail(BAD_INPUT, error)
    _bring_up(chosen, backend)


def _bring_up(chosen: Entry, backend: str) -> None:
    """Make a lesson's lab anew from the learner's topology of it, or leave with what went wrong."""
    from lab.launch import launch, read, settle  # noqa: PLC0415 - slow to import

    topology, plan = read(_file(chosen), chosen.lab)
    lab = base.lab_of(known_backend(backend), chosen.lab)
    try:
        with state.starting():
            base.find(chosen.lab).down()
            launch(topology, plan, lab, measure=True, quiet=False)
    except MachineError as error:
        fail(MACHINE, error)
    settle(lab, quiet=False)


def _file(chosen: Entry) -> Path:
    """The learner's own copy of a lesson's topology; its name is the lab's."""
    return progress.directory() / f"{chosen.lab}.yaml"


def _entry(lesson: str) -> Entry:
    try:
        return entry(lesson)
    except UnknownLessonError as error:
        fail(BAD_INPUT, error)


def _current(mine: Progress, lesson: str | None) -> Entry:
    wanted_ = lesson or mine.current
    if wanted_ is None:
        fail(BAD_INPUT, "no lesson was started yet: `teredo-lab workshop start 1`")
    return _entry(wanted_)


def _mine() -> Progress:
    try:
        return progress.load()
    except ProgressError as error:
        fail(BAD_INPUT, error)


def _save(mine: Progress) -> None:
    try:
        progress.save(mine)
    except ProgressError as error:
        fail(BAD_INPUT, error)


def _chosen(lang: str | None) -> Language | None:
    return next((language for language in LANGUAGES if language == lang), None)


def _language(mine: Progress, lang: str | None) -> Language:
    """What was asked for, else that of the lesson that was started last, else the terminal's."""
    return _chosen(lang) or (mine.language if mine.current is not None else phrases.spoken())


def _say(text: str) -> None:
    err.print(text, highlight=False, markup=False, soft_wrap=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
