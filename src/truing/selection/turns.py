"""A conversation as instructions and answers, and the requests by which a model grades them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from truing.records import TEXT_ROLE, Message
from truing.selection.expectation import GRADES

_LOW, _HIGH = GRADES[0], GRADES[-1]

DEMAND = f"""Look at how many things it asks for, how many conditions they must meet, and how much knowledge and \
thought an answer takes. {_LOW} is a request that anybody could answer at once, {_HIGH} one that needs an expert and \
several steps."""
WORTH = f"""Look at whether it is correct and to the point, goes as deep as the request deserves, and gives the \
details that are of use. {_LOW} is an answer of no use, {_HIGH} one that could hardly be better."""

COMPLEXITY = f"""How demanding is the following request to an assistant? {DEMAND}

Request:
<<<
{{instruction}}
>>>

Reply with one digit from {_LOW} to {_HIGH} and nothing else. Complexity:
"""

QUALITY = f"""How good is the following answer to the request? {WORTH}

Request:
<<<
{{instruction}}
>>>

Answer:
<<<
{{answer}}
>>>

Reply with one digit from {_LOW} to {_HIGH} and nothing else. Quality:
"""


class Turn(NamedTuple):
    """What was asked last, and what was answered."""

    instruction: str
    answer: str


def turns_of(prompt: Sequence[Message], answer: Sequence[Message]) -> list[Turn]:
    """Each answer of a conversation with the request right before it; of consecutive requests all count.

    Assistant turns in the prompt are turns as well: a conversation is graded whole. What stands before the first
    request, such as a system message, belongs to none. Verbatim text is one turn: the prompt, and the answer.
    """
    if any(message.role == TEXT_ROLE for message in (*prompt, *answer)):
        return [Turn(_joined(prompt, ""), _joined(answer, ""))]
    found: list[Turn] = []
    asked: list[Message] = []
    for message in (*prompt, *answer):
        if message.role == "user":
            asked.append(message)
        elif message.role == "assistant" and message.content:
            if asked:
                found.append(Turn(_joined(asked), message.content))
                asked = []
            elif found:  # it went on, after a tool had spoken
                found[-1] = Turn(found[-1].instruction, f"{found[-1].answer}\n\n{message.content}")
    return [*found, Turn(_joined(asked), "")] if asked else found


def complexity_request(turn: Turn) -> str:
    """Asks how demanding the instruction is."""
    return COMPLEXITY.replace("{instruction}", turn.instruction)


def quality_request(turn: Turn) -> str:
    """Asks how good the answer is."""
    before, after = QUALITY.split("{answer}")
    return f"{before.replace('{instruction}', turn.instruction)}{turn.answer}{after}"


def _joined(messages: Sequence[Message], by: str = "\n\n") -> str:
    return by.join(message.content for message in messages)
