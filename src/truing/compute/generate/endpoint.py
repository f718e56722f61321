"""The generator behind an OpenAI-compatible endpoint, such as vLLM's, llama.cpp's or a provider's."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Annotated, Any

from pydantic import Field, field_validator

from truing.compute import Sampling
from truing.errors import MissingError
from truing.records import Completion, FinishReason, Group, Sampled, assistant
from truing.signatures import Count, Positive, Settings

AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)
"""Status codes after which asking again may help."""
UNWANTED = (400, 413, 422)
"""Status codes that speak of one request: it is too long, or filtered. All others are of the endpoint or the key."""
PATIENCE = 120.0
"""Seconds: who asks to be left alone for longer is not asked again in this run."""
LONGEST = 16 * 2**20
"""Bytes of a reply beyond which it is not read on."""
REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


class Declined(OSError):  # noqa: N818 - it is an answer
    """The endpoint answered by a status of HTTP that is no success, and said why.

    wait: seconds for which it asks to be left alone, by its header Retry-After; 0 where it does not say.
    """

    def __init__(self, status: int, words: str, wait: float = 0.0) -> None:
        super().__init__(f"{status}: {words}")
        self.status = status
        self.wait = wait


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the key would be sent along, to wherever it leads."""

    def redirect_request(self, *_: Any) -> None:
        return None


_http = urllib.request.build_opener(_Stay)


class Endpoint(Settings):
    """Where a language model is asked."""

    url: str = Field(description="where `/chat/completions` stands, such as http://localhost:8000/v1")
    model: str = Field(description="the model's name there")
    key: str = Field("OPENAI_API_KEY", description="environment variable that holds the key; none is sent without it")
    retries: Annotated[int, Field(ge=0)] = Field(3, description="how often a request is sent again that failed")
    timeout: Positive = Field(60.0, description="seconds for one request")
    at_once: Count = Field(8, description="requests under way at one time")

    @field_validator("url")
    @classmethod
    def _is_public(cls, url: str) -> str:
        """Urls are kept and shown too, so that none may hold a user, a password or a key."""
        try:
            parts = urllib.parse.urlsplit(url)
        except ValueError:
            raise ValueError("this is no url: write it like http://localhost:8000/v1") from None
        if parts.scheme not in ("http", "https"):
            raise ValueError("a url begins with http:// or https://, such as http://localhost:8000/v1")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError(
                "this url holds more than a place, perhaps a password or a key, and recipes are kept and shown: put "
                "the key into an environment variable, and name that by `key`"
            )
        return url

    @field_validator("key")
    @classmethod
    def _is_a_name(cls, key: str) -> str:
        """Recipes are kept and shown. The message does not repeat what may be a secret."""
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", key):
            raise ValueError("this is the name of an environment variable that holds the key, and never the key itself")
        return key

    def ask(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The first choice of the reply. A busy server is asked again after 1, 2, 4 ... seconds, or when it says.

        Raises Declined where it says no, and another OSError where it says nothing or breaks off.
        """
        headers = {"Content-Type": "application/json"}
        if self._secret:
            headers["Authorization"] = f"Bearer {self._secret}"
        sent = json.dumps({"model": self.model, **body}).encode()
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", sent, headers)
        for attempt in range(self.retries + 1):
            try:
                return self._once(request)
            except OSError as error:
                wait = _wait(error, attempt)
                if attempt == self.retries or wait is None:
                    raise
            time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    @property
    def _secret(self) -> str:
        """The key itself, which nothing that is written or told may hold."""
        found = os.environ.get(self.key, "").strip()
        if not (found.isascii() and found.isprintable()):
            raise MissingError(f"the key in ${self.key} has characters that no key has: set it anew, in one line")
        return found

    def _hidden(self, words: str) -> str:
        """Words of an endpoint, some of which say which key they refuse."""
        return words.replace(self._secret, self.key) if self._secret else words

    def _once(self, request: urllib.request.Request) -> dict[str, Any]:
        try:
            with _http.open(request, timeout=self.timeout) as reply:
                said, missing = reply.read(LONGEST + 1), reply.length
            if len(said) > LONGEST:
                raise ValueError(f"the reply is longer than {LONGEST >> 20} MiB")
            if missing:  # a read of so many bytes does not say that fewer came
                raise http.client.IncompleteRead(said, missing)
            return dict(json.loads(self._hidden(said.decode()))["choices"][0])
        except urllib.error.HTTPError as error:
            with error:
                words = error.read(10_000).decode("utf-8", "replace")
            # all of it before it is cut, or half a key might be left
            words = self._hidden(f"{error.reason}: {words}")[:500]
            raise Declined(error.code, words, _retry_after(error.headers)) from None
        except http.client.HTTPException as error:  # such as a reply that ends before its Content-Length: no OSError
            raise OSError(f"the reply broke off: {type(error).__name__}: {error}") from error


def _wait(error: OSError, attempt: int) -> float | None:
    """Seconds until a request is sent again that failed so, or None where that would not help."""
    if not isinstance(error, Declined):
        return 2.0**attempt
    return max(2.0**attempt, error.wait) if error.status in AGAIN and error.wait <= PATIENCE else None


def _retry_after(headers: Message) -> float:
    """The header Retry-After in seconds: a number, or until a date (RFC 9110, section 10.2.3); 0 if it is neither."""
    said = (headers["Retry-After"] or "").strip()
    if said.isdecimal():
        return float(said)
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except ValueError:
        return 0.0


class EndpointGenerator:
    """Answers by a model elsewhere. They have no token ids and no log-probabilities.

    A request that the endpoint refuses has an empty answer whose finish reason is "refused". Where it refuses all that
    it was ever asked, or cannot be reached, MissingError says what it said.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._heard = False

    def generate(
        self,
        prompts: Sequence[Group],
        sampling: Sampling,
        *,
        answers: int = 1,
        seed: int = 0,
        on_finished: Callable[[int], None] = lambda _: None,
    ) -> list[tuple[Completion, ...]]:
        """`answers` answers to each prompt. The endpoint is sent a seed for each; whether it heeds it, it knows."""
        if sampling.reference:
            raise MissingError(f"{self.endpoint.url} has one model: no answer can be drawn from it and a reference")
        bodies = self._bodies(prompts, sampling, answers, seed)
        pool = ThreadPoolExecutor(self.endpoint.at_once)
        said: list[Completion | str] = []
        try:
            for answer in pool.map(self._answer, bodies):
                said.append(answer)
                on_finished(len(said))
        finally:
            pool.shutdown(cancel_futures=True)
        refusals = [answer for answer in said if isinstance(answer, str)]
        self._heard |= len(refusals) < len(said)
        if refusals and not self._heard:
            raise MissingError(f"{self.endpoint.url} refuses every request: {refusals[0]}")
        written = [self._completion("", "refused") if isinstance(answer, str) else answer for answer in said]
        return [tuple(written[place * answers : (place + 1) * answers]) for place in range(len(prompts))]

    def _bodies(self, prompts: Sequence[Group], sampling: Sampling, answers: int, seed: int) -> list[dict[str, Any]]:
        """The requests. Equal prompts, and the answers to one, get different seeds."""
        seen: Counter[str] = Counter()
        bodies: list[dict[str, Any]] = []
        for group in prompts:
            messages = [{**turn.extra, "role": turn.role, "content": turn.content} for turn in group.prompt]
            for _ in range(answers):
                name = json.dumps([seed, messages])
                own = hashlib.sha256(f"{name}:{seen[name]}".encode("utf-8", "surrogatepass")).digest()
                seen[name] += 1
                body: dict[str, Any] = {"messages": messages, "temperature": sampling.temperature}
                body |= {"top_p": sampling.top_p, "max_tokens": sampling.max_new_tokens}
                bodies.append(body | {"seed": int.from_bytes(own[:4], "big") >> 1})
        return bodies

    def _answer(self, body: Mapping[str, Any]) -> Completion | str:
        """What was answered, or the words of a refusal."""
        try:
            choice = self.endpoint.ask(body)
            words, reason = choice["message"].get("content") or "", str(choice.get("finish_reason") or "stop")
            return self._completion(str(words), REASONS.get(reason, "refused"))
        except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            if isinstance(error, Declined) and error.status in UNWANTED:
                return str(error)
            raise MissingError(
                f"{self.endpoint.url}: {type(error).__name__}: {error}: mend it and run the same command again"
            ) from error

    def _completion(self, words: str, reason: FinishReason) -> Completion:
        sampled = Sampled((), (), reason, tokenizer="", policy=f"{self.endpoint.url} {self.endpoint.model}")
        return Completion((assistant(words),), source=self.endpoint.model, sampled=sampled)
