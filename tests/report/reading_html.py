"""A page as a test sees it: tags, text, and what is wrong with its structure."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from truing import report

PAYLOAD = "</pre></script><script>alert(1)</script><img src=x onerror=alert(2)><svg/onload=alert(3)>\"'&lt;"
"""What a model or a data file may say to break a page."""

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """The parsed page. `problems` lists tags that do not match."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.problems: list[str] = []
        self._open: list[str] = []
        self._words: list[str] = []
        self._sections: dict[str, list[str]] = {}
        self._section = ""
        self.feed(self.source)
        self.close()
        self.problems += [f"<{tag}> is never closed" for tag in self._open]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag == "section":
            self._section = dict(attributes)["id"] or ""
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1] != tag:
            self.problems.append(f"</{tag}> at {self.getpos()} closes {self._open[-1:]}")
            return
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self._words.append(data)
            self._sections.setdefault(self._section, []).append(data)

    @property
    def text(self) -> str:
        """All words of the page, single-spaced."""
        return plain(" ".join(self._words))

    def section(self, name: str) -> str:
        """The words of one section, single-spaced."""
        return plain(" ".join(self._sections[name]))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of every tag of this name."""
        return [attributes for name, attributes in self.tags if name == tag]


def escaped(page: Page, *sections: str) -> bool:
    """Whether PAYLOAD is words in each of these sections, and the page is whole and without the tags that it names."""
    shown = all("<script>alert(1)</script>" in page.section(name) for name in sections)
    return shown and page.problems == [] and not {tag for tag, _ in page.tags} & {"script", "img"}


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def built(folder: Path) -> Page:
    """The page of a run."""
    return Page(report.build(folder))


def share(attribute: str | None) -> float:
    """`74.20%` as 74.2."""
    assert attribute is not None
    assert attribute[-1] == "%"
    return float(attribute[:-1])
