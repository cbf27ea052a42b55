"""What the workshop itself says, in each language."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from lab.workshop.lesson import LANGUAGES, Language, Words

NO_ANSWER: Final = Words(
    en="There is no answer yet: `teredo-lab workshop answer TEXT`.",
    es="Aún no hay respuesta: `teredo-lab workshop answer TEXTO`.",
)
PASSED: Final = Words(en="Passed.", es="Superada.")
NOT_YET: Final = Words(en="Not yet.", es="Todavía no.")
NEXT: Final = Words(
    en="The next lesson: `teredo-lab workshop start {}`", es="La lección siguiente: `teredo-lab workshop start {}`"
)
LAST: Final = Words(
    en="That was the last lesson. `teredo-lab down` takes its lab down.",
    es="Era la última lección. `teredo-lab down` apaga su laboratorio.",
)
HINT: Final = Words(en="Hint {} of {}", es="Pista {} de {}")
REALLY: Final = Words(
    en="Shall the solution be shown? Your results will say so.",
    es="¿Mostrar la solución? Constará en sus resultados.",
)
KEPT: Final = Words(
    en="Noted. `teredo-lab workshop check` grades it.", es="Anotada. `teredo-lab workshop check` la corrige."
)
LESSON: Final = Words(en="lesson", es="lección")
MINUTES: Final = Words(en="minutes", es="minutos")
TITLE: Final = Words(en="title", es="título")
RESULT: Final = Words(en="result", es="resultado")
RESULTS: Final[Mapping[str, Words]] = {
    "passed": Words(en="passed", es="superada"),
    "started": Words(en="started", es="empezada"),
    "not started": Words(en="not started", es="sin empezar"),
}
BROKEN: Final = Words(en="to be repaired", es="para reparar")
BEGIN: Final = Words(
    en="Begin with `teredo-lab workshop start {}`; `teredo-lab workshop check` grades what you have done.",
    es="Empiece con `teredo-lab workshop start {}`; `teredo-lab workshop check` corrige lo hecho.",
)
UP: Final = Words(
    en="Lab {} is up. Its topology, which you may edit: {}",
    es="El laboratorio {} está en marcha. Su topología, que puede editar: {}",
)

OTHERS: Final = Words(
    en="Other labs run as well ({}): take them down (`teredo-lab down --name {}`), "
    "or add `--name {}` to the commands of the text.",
    es="También hay otros laboratorios en marcha ({}): apáguelos (`teredo-lab down --name {}`), "
    "o añada `--name {}` a las órdenes del texto.",
)


def spoken(environment: Mapping[str, str] = os.environ) -> Language:
    """The language of this terminal as its locale says it, if there are lessons in it; else English."""
    locale = next((environment[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if environment.get(name)), "")
    return next((language for language in LANGUAGES if locale.split("_")[0].split(".")[0] == language), "en")
