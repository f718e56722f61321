"""Chat templates in processes of their own: the same texts as transformers', no harm, and nothing left behind."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
import tiny

import truing
from truing import template_process, templates
from truing.errors import DataError, MissingError
from truing.records import Completion, Group, Message, assistant, user
from truing.rendering import Renderer
from truing.templates import Wanted

HI = (user("Hi"),)
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "required": ["city"]}}}]
FUNCTION = {"name": "weather", "arguments": {"city": "Ulm"}}
CALL = {"tool_calls": [{"id": "123456789", "type": "function", "function": FUNCTION}]}
TALKS = {
    "one turn": HI,
    "system": (Message("system", "Be <kind> & brief."), user("Hé, 你好 \U0001f600\n\t\u2028x")),
    "turns": (user("Hi"), assistant(" Hello \n"), user("\n Bye"), assistant("")),
    "tools": (
        user("Weather?"),
        Message("assistant", "", CALL),
        Message("tool", "sun", {"name": "weather", "tool_call_id": "123456789"}),
    ),
    "reasoning": (user("Why?"), Message("assistant", "So.", {"reasoning_content": "Hm."}), user("And?")),
    "thinking": (user("Why?"), Message("assistant", "So.", {"thinking": "Hm.", "none": None})),
    "other reasoning": (user("Why?"), Message("assistant", "<think>\nHm.\n</think>\n\nSo.", {"reasoning": "Hm."})),
    "roles": (assistant("I begin."), Message("critic", "Oh?"), Message("system", "Late.")),
}
MANY = """\
{%- set ns = namespace(self=1, found=[]) %}
    {%- generation %}{% set ns.found = [dict(a=1), dict.fromkeys('xy')] %}{{ 'Inside\\n' }}{% endgeneration %}
{% for m in messages %}
    {% if m.role == 'skip' %}{% continue %}{% endif %}
    {{- loop.index0 ~ ': ' ~ m.content | trim }}
    {% for name in m %}{{ name }} {% endfor %}
{% endfor %}
{{ tools | tojson }}{{ messages | tojson(indent=2, sort_keys=true) }}{{ ns.found }}{{ ns.self }}{{ documents }}
{{ strftime_now('%d %b %Y %H') }} {{ '\\N{EM DASH}\\u00e4' }} {{ 'a <b> c' | wordwrap(3) }} {{ {'b': 1} | pprint }}
{{ '%s' | format('x') }} {{ 'http://a.b/ö?' | urlencode }} {{ eos_token }} {{ bos_token }} {{ missing }}
{{ '{:>4}|'.format(7) }}{{ messages[0].get('content') | length }}{{ 2 ** 70 }}{{ 1 / 3 }}{{ true }}{{ none }}
"""
"""Whatever transformers gives to templates, and what jinja2 loads only when it is used."""


def peer(tokenizer: Any, talk: tuple[Message, ...], tools: Any, answer_next: bool) -> str | None:
    """What transformers writes in this process; None where the template refuses."""
    turns = [{"role": m.role, "content": m.content, **m.extra} for m in talk]
    try:
        return str(tokenizer.apply_chat_template(turns, tools=tools, tokenize=False, add_generation_prompt=answer_next))
    except Exception:
        return None


def own(renderer: Renderer, talk: tuple[Message, ...], tools: Any, answer_next: bool) -> str | None:
    try:
        return renderer._apply([talk], [Wanted(0, len(talk), answer_next)], tools, "row 1")[0]
    except DataError:
        return None


class Here:
    """A template in this process, which takes and gives what goes through the pipe."""

    def __init__(self, source: str) -> None:
        self.source = source

    def render(self, variables: Any, talks: Any, wanted: Any) -> list[str]:
        request = json.dumps({"variables": variables, "talks": talks, "wanted": wanted}).encode()
        answer = template_process.answer(self.source, request, templates.OUTPUT, templates.SECONDS)
        if answer[:1] != template_process.WRITTEN:
            raise templates.RefusedError(answer[1:].decode())
        return list(json.loads(answer[1:]))


def said(made: templates.Template, **variables: Any) -> str:
    """A text of these variables."""
    return made.render(variables, [[]], [Wanted(0, 0, answer_next=False)])[0]


def published() -> list[Path]:
    """Templates of many models, which TRL brings."""
    spec = importlib.util.find_spec("trl")
    assert spec
    assert spec.origin
    return sorted(Path(spec.origin).parent.glob("chat_templates/*.jinja"))


@pytest.mark.parametrize("file", [file for file in published() if "_training" not in file.name], ids=lambda f: f.stem)
def test_published_templates_write_what_transformers_writes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "template", Here)
    tokenizer = tiny.tokenizer(file.read_text(encoding="utf-8"), adds_bos=True)
    renderer = Renderer(tokenizer)
    written = 0
    for kind, talk in TALKS.items():
        for tools, answer_next in ((None, True), (TOOLS, False)):
            expected = peer(tokenizer, talk, tools, answer_next)
            assert own(renderer, talk, tools, answer_next) == expected, kind
            written += expected is not None
    assert written, "not all conversations are refused by both"


@pytest.mark.parametrize("source", [tiny.SYSTEM_TEMPLATE, tiny.TOOLS_TEMPLATE, MANY], ids=["system", "tools", "many"])
def test_the_process_writes_what_transformers_writes(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    templates.template.cache_clear()  # a process has the time zone of its start
    tokenizer = tiny.tokenizer(source, adds_bos=True)
    renderer = Renderer(tokenizer)
    for kind, talk in TALKS.items():
        for tools, answer_next in ((None, True), (TOOLS, False)):
            expected = peer(tokenizer, talk, tools, answer_next)
            assert expected is not None
            assert own(renderer, talk, tools, answer_next) == expected, kind
    monkeypatch.undo()
    time.tzset()


def test_templates_by_name_are_chosen_as_transformers_does() -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = {"default": tiny.PLAIN_TEMPLATE, "tool_use": tiny.TOOLS_TEMPLATE}
    for tools in (None, TOOLS):
        assert own(Renderer(tokenizer), HI, tools, True) == peer(tokenizer, HI, tools, True) is not None
    tokenizer.chat_template = {"other": tiny.PLAIN_TEMPLATE}
    with pytest.raises(DataError, match="no default"):
        Renderer(tokenizer).prompt(HI)


def test_half_characters_come_through() -> None:
    assert said(templates.template("{{ x + '|' }}"), x="\ud83d\ude00 \udc80") == "\ud83d\ude00 \udc80|"


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(DataError, match="row 1: the chat template refuses these turns: they cannot be written as JSON"):
        Renderer(tiny.tokenizer()).prompt((Message("user", "Hi", {"made": b"1"}),), place="row 1")


LONG = "{% for i in range(n) %}{% for j in range(n) %}{% endfor %}{% endfor %}fine"
HARM = {
    "computes for more than 0.3 seconds": [LONG.replace("(n)", "(99999)"), "{{ 9 ** (9 ** 9) }}"],
    "takes more than 128 MiB of memory": [
        "{{ 'a' * 10 ** 10 }}",
        "{% set ns = namespace(x='a' * 1024) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    ],
    "writes more than 1,000 characters beyond 8 times its turns": [
        "{% for i in range(99999) %}aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa{% endfor %}",
        "{{ 'a' * 10 ** 5 }}",
    ],
}


@pytest.mark.parametrize(("words", "source"), [(words, one) for words, sources in HARM.items() for one in sources])
def test_a_template_that_does_harm_is_ended(words: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "SECONDS", 0.3)
    monkeypatch.setattr(templates, "MEMORY", 2**27)
    monkeypatch.setattr(templates, "OUTPUT", 1000)
    renderer = Renderer(tiny.tokenizer(source))
    digest = hashlib.sha256(source.encode()).hexdigest()
    before = children()
    made = Group(HI, (Completion((assistant("Hello"),)),), file="data.jsonl", line=7)
    told = rf"data\.jsonl:7: the chat template of the model {words}.*SHA-256 {digest}.*chat_template"
    with pytest.raises(MissingError, match=told) as error:
        renderer.render(made)
    assert error.value.exit_code == 69
    assert children() <= before, "its process was ended and waited for"


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def test_who_harms_by_one_row_writes_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "SECONDS", 0.3)
    made = templates.Template(LONG)
    for _ in range(2):
        assert said(made, n=0) == "fine"
        with pytest.raises(templates.LimitError):
            said(made, n=99999)


def begun(source: str) -> tuple[templates.Template, psutil.Process]:
    """A template that has written a text, and its process."""
    made, before = templates.Template(source), children()
    said(made, n=0)
    (process,) = (psutil.Process(child) for child in children() - before)
    return made, process


def test_texts_of_one_row_have_the_limit_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Together they compute for longer."""
    monkeypatch.setattr(templates, "SECONDS", 0.3)
    made, process = begun(LONG)
    began = process.cpu_times().user
    made.render({"n": 1000}, [[]], [Wanted(0, 0, answer_next=False)] * 60)
    assert process.cpu_times().user > began + 0.3


def test_long_conversations_go_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "AT_ONCE", 1000)
    made = templates.Template("{% for m in messages %}{{ m.content }}{% endfor %}")
    talk = [{"role": "user", "content": "a" * 100 + str(turn)} for turn in range(7)]
    wanted = [Wanted(0, turns, answer_next=False) for turns in range(8)]
    with mock.patch.object(templates._Process, "answer", autospec=True, side_effect=templates._Process.answer) as asked:
        texts = made.render({}, [talk], wanted)
    assert texts == ["".join(one["content"] for one in talk[:turns]) for turns in range(8)]
    assert len(asked.mock_calls) == 8


@pytest.mark.parametrize(
    ("python", "words"), [("/bin/false", "exit code 1"), ("/no/such/python", "No such file")], ids=["ends", "none"]
)
def test_a_process_that_does_not_start_is_not_laid_on_the_template(
    python: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", python)
    with pytest.raises(MissingError, match=rf"does not start \(.*{words}.*{python} -I -S .*template_process.py"):
        said(templates.Template("hello"))


def test_the_limit_of_time_is_one_for_each_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "SECONDS", 0.3)
    made, process = begun(LONG)
    while process.cpu_times().user < 0.5:
        said(made, n=1000)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''['__class__'] }}",
        "{{ messages | map(attribute='__class__') | join }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ ('{0.__class__}' | format)(1) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ dict.__class__ }}",
        "{{ tojson.__globals__ }}",
        "{{ self._TemplateReference__context }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ namespace(__init__=1) }}",
        "{{ lipsum.__globals__.os.getcwd() }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{% if %}",
        "{{ (1).__class__ }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ raise_exception('no') }}",
        "{{ 1 / 0 }}",
        "{{ {}['x'].y }}",
    ],
)
def test_nothing_leads_out_of_the_sandbox(source: str) -> None:
    """Each is refused, or writes nothing."""
    row = {"variables": {}, "talks": [[{"role": "user"}]], "wanted": [[0, 1, True]]}
    answer = template_process.answer(source, json.dumps(row).encode(), 100, 9.0)
    assert answer[:1] == template_process.REFUSED or answer == template_process.WRITTEN + b'[""]'


def test_who_led_out_all_the_same_could_open_nothing() -> None:
    code = (
        "import os, socket, sys\n"
        "from truing import template_process\n"
        "template_process.limit(2**28)\n"
        "os.close(0)\n"
        "for harm in (lambda: open(sys.executable), socket.socket, os.pipe, lambda: bytearray(2**29)):\n"
        "    try:\n"
        "        harm()\n"
        "        raise SystemExit('done')\n"
        "    except (OSError, MemoryError) as error:\n"
        "        print(type(error).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    assert done.stdout.split() == ["OSError", "OSError", "OSError", "MemoryError"]


def test_its_process_has_none_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "secret")
    _, process = begun("{{ x }}")
    assert set(process.environ()) <= {"TZ", "LC_CTYPE"}


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(truing.__file__).parent.parent)}


FAULTS = {
    "gives no answer within 0.5 seconds": "import time\ntime.sleep(99)",
    "writes more than": "import time\nos.write(1, b'\\xff' * 5)\ntime.sleep(99)",
    "an answer that is none": "import time\nos.write(1, b'\\0\\0\\0\\4w[1]')\ntime.sleep(99)",
    r"ended its process \(exit code 3\)": "raise SystemExit(3)",
    r"ended its process \(signal 11\)": "os.kill(os.getpid(), 11)",
    "within 0.5": "import time\nos.write(1, b'\\0\\0\\0\\4w')\nwhile True: time.sleep(.01); os.write(1, b'')",
}


@pytest.mark.parametrize("words", FAULTS)
def test_a_process_that_is_no_longer_itself_is_ended(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it may say, or not say."""
    program = tmp_path / "program.py"
    program.write_text(f"import os\nos.write(1, bytes(4))\n{FAULTS[words]}")
    monkeypatch.setattr(template_process, "__file__", str(program))
    monkeypatch.setattr(templates, "SILENCE", 0.5)
    before = children()
    with pytest.raises(templates.LimitError, match=words):
        said(templates.Template("x"), x="y" * 1000)
    assert children() <= before


def test_a_process_starts_with_the_first_text_and_is_one_for_each_template() -> None:
    before = children()
    first, second = (Renderer(tiny.tokenizer(tiny.PLAIN_TEMPLATE + "{# own #}")) for _ in range(2))
    assert children() == before
    assert first.prompt(HI) == second.prompt(HI) == first.prompt(HI)
    assert len(children() - before) == 1


def test_it_ends_with_its_template() -> None:
    before = children()
    made = templates.Template("{{ x }}")
    assert said(made, x=1) == "1"
    assert children() > before
    del made
    assert children() == before


def test_an_interrupted_text_is_not_given_to_the_next_row() -> None:
    made = templates.Template(LONG + "{{ n }}")
    said(made, n=0)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    usual = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            said(made, n=99999)
        assert said(made, n=0) == "fine0"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, usual)


def test_threads_share_a_template() -> None:
    made = templates.Template("{{ x }}")
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda n: said(made, x=n), range(200))) == [str(n) for n in range(200)]


ALIVE = """
import os, signal, sys
from truing.templates import template
made = template("{{ x }}")
def said(x):
    return made.render({"x": x}, [[]], [(0, 0, False)])[0]
assert said("parent") == "parent"
print(made._process._process.pid, flush=True)
"""


def test_a_fork_has_a_process_of_its_own_and_both_end_in_order() -> None:
    code = ALIVE + (
        "child = os.fork()\n"
        "if child:\n"
        "    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0\n"
        "    assert said('again') == 'again'\n"
        "else:\n"
        "    assert said('child') == 'child'\n"
        "print(made._process._process.pid, flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code], capture_output=True, text=True, check=False,
        env=environment(),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    parents, childs, again = map(int, done.stdout.split())
    assert parents == again != childs
    assert ended(parents)
    assert ended(childs)


def test_a_fork_while_a_process_starts_has_nothing_of_its_pipe() -> None:
    """It waits for the start; else it would keep both ends open, and the process outlive its parent."""
    code = (
        "import os, stat, sys, threading, time\n"
        "from truing import templates\n"
        "real, began, made = templates._Process._received, threading.Event(), templates.Template('hello')\n"
        "def slow(process, most):\n"
        "    began.set()\n"
        "    time.sleep(0.2)\n"
        "    return real(process, most)\n"
        "templates._Process._received = slow\n"
        "wanted = [templates.Wanted(0, 0, answer_next=False)]\n"
        "starting = threading.Thread(target=made.render, args=({}, [[]], wanted))\n"
        "starting.start()\n"
        "began.wait()\n"
        "child = os.fork()\n"
        "if child:\n"
        "    starting.join()\n"
        "    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "found = 0\n"
        "for number in range(3, 64):\n"
        "    try:\n"
        "        found += stat.S_ISSOCK(os.fstat(number).st_mode)\n"
        "    except OSError:\n"
        "        pass\n"
        "os._exit(found)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment())
    assert (done.returncode, done.stderr) == (0, "")


def test_who_is_killed_leaves_no_process_behind() -> None:
    code = ALIVE + "os.kill(os.getpid(), signal.SIGKILL)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == -signal.SIGKILL
    assert ended(int(done.stdout))


def ended(process: int) -> bool:
    """Whether it ends within some seconds; a zombie is what nobody is left to wait for."""
    for _ in range(500):
        if not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.01)
    return False
