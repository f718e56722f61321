"""What people said of answers and what they wrote themselves: files of real data, as rows.

The folder holds one folder for each set: Anthropic's hh-rlhf (harmless, test), OpenAssistant's ranked replies, the
comparisons of FineGrainedRLHF, PandaLM's test set, the human-written tasks of Self-Instruct, and the model-written ones
of GPTeacher. None of it is kept here.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from truing import formats
from truing.errors import DataError
from truing.formats import containers
from truing.records import Completion, Group, Message, assistant, comparison, user

_TURN = re.compile(r"(?:^|\n)(Human|Assistant): ")
_ROLES: Mapping[str, Callable[[str], Message]] = {"Human": user, "Assistant": assistant}


def harmless(folder: Path) -> list[Group]:
    """Dialogues of crowd workers with a model, whose less harmful last answer is chosen. Broken ones are left out."""
    return formats.read_groups(folder / "hh_harmless" / "pairs.jsonl.gz", format="hh_rlhf", max_bad=20)


def assistant_replies(folder: Path) -> list[Group]:
    """Human-written replies, human-ranked."""
    return [
        comparison(_turns(str(row["prompt"])), _said(row["chosen"]), _said(row["rejected"]))
        for row in rows_of(folder / "oasst1_en" / "pairs.jsonl.gz")
    ]


def long_answers(folder: Path) -> list[Group]:
    """Long answers of models to questions of ASQA, without the passages that they were written from."""
    return [
        comparison((user(str(row["question"])),), _said(row["chosen"]), _said(row["rejected"]))
        for row in rows_of(folder / "finegrained_qa_feedback" / "pairs.jsonl.gz")
    ]


SETS: Mapping[str, Callable[[Path], list[Group]]] = {
    "hh_harmless": harmless,
    "oasst1_en": assistant_replies,
    "finegrained_qa_feedback": long_answers,
}


def judged_by_three(folder: Path) -> list[Group]:
    """PandaLM's test set: answers of two models to one instruction, where most of three people agree on the better."""
    found = []
    for row in rows_of(folder / "pandalm_testset" / "testset.jsonl.gz"):
        (verdict, votes), *_ = Counter(row[f"annotator{n}"] for n in (1, 2, 3)).most_common(1)
        answers = [_said(row["response1"]), _said(row["response2"])]
        if verdict in (1, 2) and votes > 1 and all(answer.text.strip() for answer in answers):
            chosen, rejected = answers if verdict == 1 else answers[::-1]
            found.append(comparison((_task(row, row["input"]),), chosen, rejected))
    return found


def pool(folder: Path) -> list[Group]:
    """Instructions with the answers of GPT-4: the rows to select from."""
    return [
        Group((_task(row, row["input"]),), (_said(row["response"]),), extra={"set": name})
        for name in ("roleplay", "codegen")
        for row in rows_of(folder / "gpteacher" / f"{name}.jsonl.gz")
        if str(row["response"]).strip()
    ]


def references(folder: Path) -> list[Group]:
    """Instructions with the answers of people: those that users might give first, then the seeds of Self-Instruct."""
    return [
        Group((_task(row, one["input"]),), (_said(one["output"]),))
        for name in ("user_oriented", "seed_tasks")
        for row in rows_of(folder / "self_instruct_human" / f"{name}.jsonl.gz")
        for one in row["instances"][:1]
        if str(one["output"]).strip()
    ]


def conversation(group: Group) -> str:
    """What a dialogue began with. One that goes on from another's chosen answer begins as it did, and knows it."""
    return group.prompt[0].content


def fold_of(group: Group, folds: int, use: str) -> int:
    """The fold of all rows of a conversation. use: what the folds are for; those of two uses are independent."""
    digest = hashlib.sha256(f"{use}\x00{conversation(group)}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % folds


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of objects."""
    found = []
    for line, row in containers.rows(str(path)):
        if not isinstance(row, dict):
            raise DataError(f"{path}:{line}: {row.problem}: copy the file anew")
        found.append(row)
    return found


def _turns(transcript: str) -> tuple[Message, ...]:
    """The turns of `Human: ...` and `Assistant: ...`, each on a line of its own."""
    before, *pieces = _TURN.split(transcript)
    assert not before, "a transcript begins with a speaker"
    return tuple(_ROLES[name](said.strip()) for name, said in zip(pieces[::2], pieces[1::2], strict=True))


def _task(row: Mapping[str, Any], given: Any) -> Message:
    return user("\n\n".join(part for part in (str(row["instruction"]).strip(), str(given or "").strip()) if part))


def _said(words: Any) -> Completion:
    return Completion((assistant(str(words).strip()),))
