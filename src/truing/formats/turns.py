"""Turns of a conversation and the answers to a prompt: what the formats have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from truing.formats.checks import Json, RowError, expect_list, expect_object, expect_text, is_number, shown
from truing.formats.format import Notes, Row
from truing.records import TEXT_ROLE, Completion, Group, Message, assistant, comparison, text, user

Turns = tuple[Message, ...]

ROLES = ("system", "user", "assistant", "tool")

COMPARED = ("score_chosen", "score_rejected", "margin")
"""Columns that say more of two answers; where one is null or empty, it says nothing."""

# Which turns may follow which; the empty name stands for the beginning.
_MAY_FOLLOW = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}


def read_turn(row: Row, value: Json, path: str) -> Message:
    """A `{role, content, ...}` object; what else it carries goes to `Message.extra`."""
    turn = dict(expect_object(value, path))
    role = turn.pop("role", None)
    if role not in ROLES:
        found = "nothing" if role is None else shown(role)
        advice = "fix the role or drop the line"
        raise RowError(f"expected one of {', '.join(ROLES)}; found {found}; {advice}", f"{path}.role")
    if turn.get("content") is None and role == "assistant" and turn.get("tool_calls"):
        # Three ways to say that a turn is nothing but tool calls: "", null, and no content at all.
        row.note("content", path, "null" if "content" in turn else "absent")
        turn["content"] = ""
    content = expect_text(turn.pop("content", None), f"{path}.content")
    return Message(role, content, turn)


def read_turns(row: Row, value: Json, path: str) -> Turns:
    """A list of turns."""
    return tuple(read_turn(row, turn, f"{path}[{i}]") for i, turn in enumerate(expect_list(value, path)))


def write_turn(message: Message, path: str, notes: Notes) -> dict[str, Json]:
    """The inverse of `read_turn`."""
    if message.role == TEXT_ROLE:
        raise RowError("verbatim text has no place among turns", path)
    turn = {"role": message.role, "content": message.content, **message.extra}
    spelling = notes.get("content", {}).get(path)
    if spelling == "null":
        turn["content"] = None
    if spelling == "absent":
        del turn["content"]
    return turn


def write_turns(messages: Turns, path: str, notes: Notes) -> list[dict[str, Json]]:
    """The inverse of `read_turns`."""
    return [write_turn(message, f"{path}[{i}]", notes) for i, message in enumerate(messages)]


def paths(path: str, turns: Sequence[Message]) -> list[str]:
    """Where each turn of a list stands."""
    return [f"{path}[{i}]" for i in range(len(turns))]


def check_order(turns: Sequence[Message], where: Sequence[str]) -> None:
    """Turns in an order that chat templates know, none of the person's empty; an empty answer is an answer."""
    before = ""
    for turn, path in zip(turns, where, strict=True):
        calls_after_words = before == turn.role == "assistant" and turn.extra.get("tool_calls")
        if turn.role not in _MAY_FOLLOW[before] and not calls_after_words:
            expected = " or ".join(_MAY_FOLLOW[before])
            place = f"after {before}" if before else "at the beginning"
            raise RowError(f"expected {expected} {place}; found {turn.role}; order the turns or drop the line", path)
        if turn.role in ("system", "user") and not turn.content.strip():
            raise RowError(f"an empty {turn.role} turn; fill it or drop the line", path)
        before = turn.role


def check_prompt(prompt: Turns, where: Sequence[str]) -> None:
    """A prompt in order that ends where the assistant is to speak."""
    check_order(prompt, where)
    if not prompt:
        raise RowError("there is no prompt before the answer; add it or drop the line")
    if prompt[-1].role not in ("user", "tool"):
        raise RowError("the prompt must end with a user or tool turn; move the rest to the answer", where[-1])


def check_answer(prompt: Turns, answer: Turns, where: Sequence[str]) -> None:
    """An answer that continues its prompt, from an assistant turn to an assistant turn."""
    check_order((*prompt, *answer), [*[""] * len(prompt), *where])
    if answer[-1].role != "assistant":
        raise RowError("the row ends without an assistant turn; add the answer or drop the line", where[-1])


def first_answer(turns: Turns, where: Sequence[str]) -> int:
    """Where the first assistant turn of a whole conversation stands, once its order is checked."""
    check_answer((), turns, where)
    return next(i for i, turn in enumerate(turns) if turn.role == "assistant")


def shared_turns(chosen: Turns, rejected: Turns) -> int:
    """How many turns two conversations share; they must part at an answer, or the two are no comparison."""
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    if chosen == rejected:
        raise RowError("'chosen' and 'rejected' are equal; drop the line")
    heads = [conversation[shared].role for conversation in (chosen, rejected) if shared < len(conversation)]
    if heads != ["assistant", "assistant"]:
        raise RowError(f"chosen and rejected part at turn {shared}, before any answer; give both the same prompt")
    return shared


def read_exchange(row: Row, prompt: Json, answers: Mapping[str, Json]) -> tuple[Turns, list[Turns]]:
    """A prompt and the answers that stand at these paths: all of them text (verbatim), or a conversation.

    In a conversation an answer may be a list of turns, one turn, or text; a list may repeat the prompt.
    """
    if isinstance(prompt, str) and all(isinstance(answer, str) for answer in answers.values()):
        return (text(prompt),), [(text(answer),) for answer in answers.values()]
    if isinstance(prompt, str):
        row.notes["prompt_turn"] = 0
        turns: Turns = (user(prompt),)
    else:
        turns = read_turns(row, expect_turns(prompt, "prompt"), "prompt")
    check_prompt(turns, ["prompt"] if isinstance(prompt, str) else paths("prompt", turns))
    return turns, [read_answer(row, turns, answer, path) for path, answer in answers.items()]


def expect_turns(value: Json, path: str) -> Json:
    """The value, which must be text, a turn or a list of turns."""
    if not isinstance(value, (str, dict, list)):
        raise RowError(f"expected text or a list of turns; found {shown(value)}; fix it or drop the line", path)
    return value


def read_answer(row: Row, prompt: Turns, value: Json, path: str) -> Turns:
    """An answer to a prompt of turns: text, one turn, or a list of turns, which may repeat the prompt."""
    value = expect_turns(value, path)
    if isinstance(value, str):
        row.note("shape", path, "text")
        return (assistant(value),)
    if isinstance(value, dict):
        row.note("shape", path, "object")
    answer: Turns = (read_turn(row, value, path),) if isinstance(value, dict) else read_turns(row, value, path)
    where = [path] if isinstance(value, dict) else paths(path, answer)
    if answer[: len(prompt)] == prompt:
        row.note("shape", path, "whole")
        answer, where = answer[len(prompt) :], where[len(prompt) :]
    if not answer:
        raise RowError("repeats the prompt and ends there; add the answer or drop the line", path)
    check_answer(prompt, answer, where)
    return answer


def write_exchange(group: Group, answers: Mapping[str, Turns], notes: Notes) -> tuple[Json, list[Json]]:
    """The inverse of `read_exchange`."""
    if is_verbatim(group.prompt):
        written = [verbatim(answer, path) for path, answer in answers.items()]
        return verbatim(group.prompt, "prompt"), list(written)
    prompt: Json = write_turns(group.prompt, "prompt", notes)
    if "prompt_turn" in notes:
        prompt = group.prompt[notes["prompt_turn"]].content
    return prompt, [_write_answer(group.prompt, answer, path, notes) for path, answer in answers.items()]


def _write_answer(prompt: Turns, answer: Turns, path: str, notes: Notes) -> Json:
    shape = notes.get("shape", {}).get(path)
    if shape == "text":
        return answer[0].content
    if shape == "object":
        return write_turn(answer[0], path, notes)
    return write_turns((*prompt, *answer) if shape == "whole" else answer, path, notes)


def is_verbatim(turns: Turns) -> bool:
    """True of text to which no chat template is applied."""
    return any(turn.role == TEXT_ROLE for turn in turns)


def only_content(turns: Turns, path: str) -> str:
    """The words of an answer that is a single turn."""
    if len(turns) != 1:
        raise RowError(f"it holds answers of one turn; this one has {len(turns)}", path)
    return turns[0].content


def verbatim(turns: Turns, path: str) -> str:
    """The text of a single verbatim message."""
    if len(turns) != 1 or turns[0].role != TEXT_ROLE:
        raise RowError("verbatim text and turns stand in one row", path)
    return turns[0].content


def read_single(row: Row, messages: Turns, label: bool | None = None) -> Completion:
    """The one answer of a row, with its `score` where that column is a number."""
    # A `score` that is no number belongs to somebody else: it stays an extra column.
    score = row.take("score") if is_number(row.columns.get("score")) else None
    return Completion(messages, score=score, label=label)


def write_single(group: Group) -> tuple[Completion, dict[str, Json]]:
    """The one answer of a row, and the columns besides its text."""
    if len(group.completions) != 1:
        raise RowError(f"it holds one answer; the row has {len(group.completions)}", "completions")
    answer = group.completions[0]
    return answer, {} if answer.score is None else {"score": answer.score}


def read_comparison(row: Row, prompt: Turns, chosen: Turns, rejected: Turns) -> Group:
    """Two answers, the first preferred, with the scores and the margin that some data carry."""
    if chosen == rejected:
        raise RowError("equal to 'chosen'; drop the line", "rejected")
    best = Completion(chosen, score=_optional_number(row, "score_chosen"))
    worst = Completion(rejected, score=_optional_number(row, "score_rejected"))
    strength = _difference_of_scores(best, worst)
    if "margin" in row:
        margin = _optional_number(row, "margin")
        # A margin that only repeats the scores would not be written, unless the row is known to have had one.
        row.notes.update({"margin": True} if margin == strength else {})
        strength = margin
    return comparison(prompt, best, worst, strength=strength)


def write_comparison(group: Group, notes: Notes) -> tuple[Turns, Turns, dict[str, Json]]:
    """Chosen, rejected, and the columns besides their text."""
    if len(group.completions) != 2:
        raise RowError(f"it holds two ranked answers; the row has {len(group.completions)}", "completions")
    best, worst = group.completions
    columns: dict[str, Json] = {"score_chosen": best.score, "score_rejected": worst.score}
    columns = {name: score for name, score in columns.items() if score is not None}
    if group.strength != _difference_of_scores(best, worst) or notes.get("margin"):
        columns["margin"] = group.strength
    return best.messages, worst.messages, columns


def check_ranking(answers: Sequence[Completion], path: str) -> None:
    """One text cannot be both better and worse than itself."""
    ranks: dict[str, tuple[int, int | None]] = {}
    for i, answer in enumerate(answers):
        first, rank = ranks.setdefault(repr(answer.messages), (i, answer.rank))
        if rank != answer.rank:
            raise RowError(f"equal to {path}[{first}], yet ranked differently; drop one of them", f"{path}[{i}]")


def _optional_number(row: Row, name: str) -> float | None:
    value = row.take_optional(name)
    if value is not None and not is_number(value):
        raise RowError(f"expected a number; found {shown(value)}; write a number or drop the line", name)
    number: float | None = value
    return number


def _difference_of_scores(best: Completion, worst: Completion) -> float | None:
    if best.score is None or worst.score is None:
        return None
    return best.score - worst.score
