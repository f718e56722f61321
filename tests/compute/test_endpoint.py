"""The generator behind an endpoint: what is sent, what comes back, and what happens where nothing does."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from fake_endpoint import Said, serving

from truing.compute import Sampling
from truing.compute.generate.endpoint import Endpoint, EndpointGenerator
from truing.errors import ConfigError, Interrupted, MissingError
from truing.records import Completion, Group, Message, assistant, from_json, to_json, user
from truing.signatures import validated

PROMPTS = [
    Group((Message("system", "Be kind."), user("tea?"))),
    Group((user("rain?"), assistant("wet"), user("and?"))),
    Group((user("rain?"), assistant("wet"), user("and?"))),
]
SAMPLING = Sampling(temperature=0.3, top_p=0.9, max_new_tokens=7)


def generated(url: str, prompts: list[Group] = PROMPTS, *, answers: int = 1, seed: int = 0, **settings: Any) -> Any:
    generator = EndpointGenerator(Endpoint(url=url, model="m", **settings))
    return generator.generate(prompts, SAMPLING, answers=answers, seed=seed)


def last(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


def test_requests_say_how_to_sample_and_every_answer_has_a_seed_of_its_own() -> None:
    bodies: list[dict[str, Any]] = []

    def say(body: dict[str, Any]) -> Said:
        bodies.append(body)
        return Said(f"{last(body)} {body['seed']}")

    with serving(say) as url:
        once = generated(url, answers=2)
        again = generated(url, answers=2)
        other = generated(url, answers=2, seed=1)
    texts = [[answer.text for answer in own] for own in once]
    assert texts == [[answer.text for answer in own] for own in again]
    assert len({text for own in texts for text in own}) == 6, "the same prompt a second time gets answers of its own"
    assert not {text for own in texts for text in own} & {answer.text for own in other for answer in own}
    body = next(body for body in bodies if last(body) == "tea?")
    assert (body["model"], body["temperature"], body["top_p"], body["max_tokens"]) == ("m", 0.3, 0.9, 7)
    assert body["messages"] == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "tea?"}]


def test_answers_keep_their_place_and_how_they_ended() -> None:
    ends = {"tea?": Said("a leaf"), "and?": Said("and so on and", "length")}
    with serving(lambda body: ends[last(body)]) as url:
        ((tea,), (cut,), _) = generated(url)
    assert (tea.text, tea.finished, tea.source) == ("a leaf", True, "m")
    assert (cut.text, cut.finished) == ("and so on and", False)
    row = Group(PROMPTS[0].prompt, (tea, cut))
    assert from_json(to_json(row)) == row


@pytest.mark.parametrize("refusal", [Said("", status=400), Said(None, "content_filter")])
def test_a_request_that_is_refused_has_an_empty_answer(refusal: Said) -> None:
    with serving(lambda body: refusal if last(body) == "tea?" else Said("fine")) as url:
        ((refused,), (fine,), _) = generated(url)
    assert (refused.text, refused.finished) == ("", False)
    assert refused.sampled is not None
    assert refused.sampled.finish_reason == "refused"
    assert fine.text == "fine"


def test_an_endpoint_that_refuses_all_or_is_not_there_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    with (
        serving(lambda _: Said("", status=422)) as url,
        pytest.raises(MissingError, match=r"every request: 422.*no, be"),
    ):
        generated(url)
    with serving(lambda _: Said("", status=401)) as url, pytest.raises(MissingError, match=r"401.*same command"):
        generated(url)
    with pytest.raises(MissingError, match=r"URLError.*mend it"):
        generated(url, retries=1)


def test_a_batch_that_is_refused_whole_is_its_own_doing_once_the_endpoint_has_answered() -> None:
    with serving(lambda body: Said("fine") if last(body) == "and?" else Said("", status=400)) as url:
        generator = EndpointGenerator(Endpoint(url=url, model="m"))
        with pytest.raises(MissingError, match="every request"):
            generator.generate(PROMPTS[:1], SAMPLING)
        generator.generate(PROMPTS, SAMPLING)
        ((refused,),) = generator.generate(PROMPTS[:1], SAMPLING)
    assert refused.sampled is not None
    assert refused.sampled.finish_reason == "refused"


def test_a_key_is_never_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one that stands where its variable is to be named, nor one that the endpoint repeats as it refuses it."""
    with pytest.raises(ConfigError, match="never the key itself") as wrong:
        validated(Endpoint, {"url": "http://localhost", "model": "m", "key": "sk-s3cret"}, "endpoint")
    assert "s3cret" not in str(wrong.value)
    monkeypatch.setenv("OWN_KEY", "no,")  # the words with which this endpoint refuses
    with serving(lambda _: Said("", status=401)) as url, pytest.raises(MissingError, match="OWN_KEY because"):
        generated(url, key="OWN_KEY")


def test_a_busy_endpoint_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    calls = iter(range(9))
    with serving(lambda _: Said("well", status=503 if next(calls) < 2 else 200)) as url:
        ((answer,),) = generated(url, PROMPTS[:1])
    assert answer.text == "well"
    assert waited == [1, 2]


def test_a_reply_that_breaks_off_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    calls = iter(range(9))
    with serving(lambda _: Said("well", missing=20 if next(calls) < 2 else 0)) as url:
        ((answer,),) = generated(url, PROMPTS[:1])
    assert (answer.text, next(calls)) == ("well", 3)
    with (
        serving(lambda _: Said("well", missing=20)) as url,
        pytest.raises(MissingError, match=r"broke off: IncompleteRead.*same command"),
    ):
        generated(url, PROMPTS[:1], retries=1)


@pytest.mark.parametrize(
    ("said", "waits"),
    [("30", 30), ("0", 1), ("Sat, 01 Jan 2000 00:00:20 GMT", 20), ("Fri, 31 Dec 1999 00:00:00 GMT", 1), ("soon", 1)],
)
def test_an_endpoint_says_when_to_ask_again(monkeypatch: pytest.MonkeyPatch, said: str, waits: float) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setattr("time.time", lambda: 946684800.0)  # the year 2000 begins
    calls = iter(range(9))
    with serving(lambda _: Said("well", status=429 if next(calls) < 1 else 200, retry_after=said)) as url:
        ((answer,),) = generated(url, PROMPTS[:1])
    assert answer.text == "well"
    assert waited == [waits]


def test_who_wants_to_be_left_alone_for_long_is(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    with serving(lambda _: Said("", status=429, retry_after="3600")) as url, pytest.raises(MissingError, match="429"):
        generated(url, PROMPTS[:1])
    assert waited == []


@pytest.mark.parametrize("settings", [{}, {"at_once": 3}])
def test_no_more_requests_are_under_way_than_the_endpoint_is_given(settings: dict[str, int]) -> None:
    """A server that answers once so many ask it, counts them, and lets them go together."""
    most = settings.get("at_once", 8)
    full = threading.Barrier(most)
    under_way: list[int] = []

    def say(_: dict[str, Any]) -> Said:
        under_way.append(1)
        full.wait(20)
        seen.append(len(under_way))
        full.wait(20)
        under_way.pop()
        full.wait(20)
        return Said("fine")

    seen: list[int] = []
    with serving(say) as url:
        generated(url, [Group((user(str(number)),)) for number in range(2 * most)], **settings)
    assert seen == [most] * 2 * most


def test_the_key_is_read_from_the_environment_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(
        "truing.compute.generate.endpoint._http.open", lambda request, timeout: sent.append(request) or _Reply()
    )
    monkeypatch.setenv("MY_KEY", "secret")
    generated("http://nowhere/v1/", PROMPTS[:1], key="MY_KEY")
    generated("http://nowhere/v1/", PROMPTS[:1], key="NO_KEY")
    assert sent[0].full_url == "http://nowhere/v1/chat/completions"
    assert sent[0].get_header("Authorization") == "Bearer secret"
    assert sent[1].get_header("Authorization") is None
    assert "secret" not in Endpoint(url="http://u", model="m", key="MY_KEY").model_dump_json()


class _Reply:
    length = 0

    def __enter__(self) -> _Reply:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self, most: int) -> bytes:
        return b'{"choices": [{"message": {"content": "yes"}}]}'


def test_whoever_stops_it_stops_what_has_not_been_asked() -> None:
    asked: list[str] = []
    gate = threading.Event()

    def say(body: dict[str, Any]) -> Said:
        asked.append(last(body))
        if last(body) != "0":
            gate.wait(5)
        return Said("fine")

    def stop(_: int) -> None:
        gate.set()
        raise Interrupted("stop")

    many = [Group((user(str(number)),), (Completion(()),)) for number in range(60)]
    with serving(say) as url:
        generator = EndpointGenerator(Endpoint(url=url, model="m", at_once=2))
        with pytest.raises(Interrupted):
            generator.generate(many, SAMPLING, on_finished=stop)
    assert len(asked) < 20


def test_an_endpoint_has_no_reference_to_draw_from() -> None:
    generator = EndpointGenerator(Endpoint(url="http://localhost:1", model="m"))
    with pytest.raises(MissingError, match="has one model"):
        generator.generate(PROMPTS, Sampling(reference=0.5))
