from __future__ import annotations

import sys

import pytest

from truing.curation import language
from truing.curation.language import demand_known, foreign
from truing.errors import ConfigError, MissingError
from truing.records import Completion, Group, assistant, user

ENGLISH = "The committee will meet again on Thursday to talk about the new library and its opening hours."
GERMAN = (
    "Der Ausschuss trifft sich am Donnerstag wieder, um über die neue Bücherei und ihre Öffnungszeiten zu sprechen."
)
CHINESE = "委员会将于星期四再次开会，讨论新图书馆及其开放时间，大家都可以参加这次会议并且发表自己的意见和建议，谢谢。"


def row(prompt: str, answer: str) -> Group:
    return Group((user(prompt),), (Completion((assistant(answer),)),))


def test_languages() -> None:
    assert foreign(row(ENGLISH, ENGLISH), ["en"], 50) is None
    assert foreign(row(ENGLISH, GERMAN), ["en"], 50) == "de"
    assert foreign(row(GERMAN, ENGLISH), ["en"], 50) == "de"
    assert foreign(row(CHINESE, CHINESE), ["en", "de"], 50) == "zh"
    assert foreign(row(GERMAN, CHINESE), ["zh", "de"], 50) is None


def test_what_is_short_or_no_language_is_not_judged() -> None:
    assert foreign(row("Guten Tag", "Auf Wiedersehen"), ["en"], 50) is None
    assert foreign(row("Guten Tag", "Auf Wiedersehen"), ["en"], 5) == "de"
    assert foreign(row("q", f"```\n{GERMAN}\n```"), ["en"], 50) is None
    assert foreign(row("q", "https://example.org/" + "ueber" * 30), ["en"], 50) is None


def test_unknown_names(monkeypatch: pytest.MonkeyPatch) -> None:
    demand_known(["en", "zh"])
    with pytest.raises(ConfigError, match="languages: 'english' is unknown"):
        demand_known(["english"])
    language._identifier.cache_clear()
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    with pytest.raises(MissingError, match=r"pip install 'truing\[curate\]'"):
        demand_known(["en"])
    language._identifier.cache_clear()
