"""Messages to ids: what is scored, what is dropped, and what is refused by file and line."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from truing.errors import ConfigError, DataError
from truing.records import Completion, Group, Message, Sampled, assistant, comparison, text, user
from truing.rendering import Answer, Renderer, Row, shorten
from truing.stages.training import Training, render_rows

PLAIN = Renderer(tiny.tokenizer(tiny.PLAIN_TEMPLATE))
NEWLINE = Renderer(tiny.tokenizer(tiny.NEWLINE_TEMPLATE))
END = tiny.VOCABULARY - 1
PLACE = r"data\.jsonl:7"


HI = (user("Hi"),)


def group(*answers, prompt=HI, **kwargs):
    made = tuple(Completion((assistant(a),)) if isinstance(a, str) else Completion(tuple(a)) for a in answers)
    return Group(prompt, made, file="data.jsonl", line=7, **kwargs)


def shown(renderer, row, number=0):
    """The text of an answer with what is scored in square brackets."""
    said = ""
    answer = row.answers[number]
    tokenizer = renderer.tokenizer
    runs: list[tuple[bool, list[int]]] = []
    for token, scored in zip(answer.tokens, answer.scored, strict=True):
        if not runs or runs[-1][0] != scored:
            runs.append((scored, []))
        runs[-1][1].append(token)
    for inside, ids in runs:
        words = tokenizer.decode(ids)
        said += f"[{words}]" if inside else words
    return said


class TestTurns:
    def test_pad_being_eos_matters_nothing_and_eos_is_scored(self):
        assert PLAIN.tokenizer.pad_token_id == PLAIN.tokenizer.eos_token_id == END
        row = PLAIN.render(group("Hello"))
        assert shown(PLAIN, row) == "[Hello<|im_end|>]"
        other = Renderer(tiny.tokenizer(tiny.PLAIN_TEMPLATE, pad=None)).render(group("Hello"))
        assert other == row

    def test_prompt_ends_with_the_assistants_header_and_nothing_is_added(self):
        row = PLAIN.render(group("Hello"), index=3)
        assert PLAIN.tokenizer.decode(row.prompt) == "<|im_start|>user\nHi<|im_end|><|im_start|>assistant\n"
        assert row.prompt == PLAIN.prompt((user("Hi"),))
        assert row.index == 3

    def test_a_row_knows_its_file_and_line(self):
        assert PLAIN.render(group("Hello")).place == "data.jsonl:7"
        assert shorten(PLAIN.render(group("Hello")), 20).place == "data.jsonl:7"

    def test_what_follows_the_end_of_turn_is_dropped_at_the_end(self):
        assert shown(NEWLINE, NEWLINE.render(group("Hello"))) == "[Hello<|im_end|>]"

    @pytest.mark.parametrize(("renderer", "after"), [(PLAIN, ""), (NEWLINE, "\n")])
    def test_of_several_turns_the_assistants_alone_are_scored(self, renderer, after):
        row = renderer.render(group((assistant("One"), user("More?"), assistant("Two"))))
        asked = f"{after}<|im_start|>user\nMore?<|im_end|>{after}<|im_start|>assistant\n"
        assert shown(renderer, row) == f"[One<|im_end|>]{asked}[Two<|im_end|>]"

    def test_several_turns_are_what_is_generated(self):
        """Splitting a conversation over prompt and answer, wherever, gives the same ids."""
        turns = (assistant("One"), user("More?"), assistant("Two"))
        whole = NEWLINE.render(group(turns))
        last = NEWLINE.render(group((turns[2],), prompt=(user("Hi"), *turns[:2])))
        assert whole.prompt + whole.answers[0].tokens == last.prompt + last.answers[0].tokens

    def test_a_user_turn_at_the_end_is_not_scored(self):
        row = NEWLINE.render(group((assistant("One"), user("Bye"))))
        assert shown(NEWLINE, row) == "[One<|im_end|>]\n<|im_start|>user\nBye<|im_end|>\n"

    def test_default_system_prompt_is_the_prompts(self):
        renderer = Renderer(tiny.tokenizer(tiny.SYSTEM_TEMPLATE))
        row = renderer.render(group("Hello"))
        said = renderer.tokenizer.decode(row.prompt)
        assert said.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user")
        assert shown(renderer, row) == "[Hello<|im_end|>]"
        own = renderer.render(group("Hello", prompt=(Message("system", "Be brief."), user("Hi"))))
        assert "Be kind" not in renderer.tokenizer.decode(own.prompt)

    def test_an_empty_answer_scores_its_end(self):
        assert shown(PLAIN, PLAIN.render(group(""))) == "[<|im_end|>]"

    def test_every_answer_of_a_group_is_rendered_alone(self):
        made = comparison((user("Hi"),), Completion((assistant("Yes"),)), Completion((assistant("No"),)))
        row = NEWLINE.render(made)
        assert [shown(NEWLINE, row, n) for n in (0, 1)] == ["[Yes<|im_end|>]", "[No<|im_end|>]"]

    @given(st.text(st.characters(exclude_categories=("Cs",)), max_size=20))
    def test_any_text_survives(self, words):
        row = NEWLINE.render(group(words))
        assert NEWLINE.decode(row.answers[0].tokens) == words

    def test_chinese_survives(self):
        row = NEWLINE.render(group("你好，世界", prompt=(user("中文？"),)))
        assert NEWLINE.decode(row.answers[0].tokens) == "你好，世界"
        assert "中文？" in NEWLINE.tokenizer.decode(row.prompt)


class TestTools:
    TOOLS = ({"type": "function", "function": {"name": "weather", "parameters": {}}},)
    RENDERER = Renderer(tiny.tokenizer(tiny.TOOLS_TEMPLATE))

    def test_reach_the_chat_template(self):
        made = group("Sunny", extra={"tools": list(self.TOOLS)})
        row = self.RENDERER.render(made)
        said = self.RENDERER.tokenizer.decode(row.prompt)
        assert said.startswith("<|im_start|>tools\nweather<|im_end|><|im_start|>user\nHi")
        assert shown(self.RENDERER, row) == "[Sunny<|im_end|>]"
        assert row.prompt == self.RENDERER.prompt(made.prompt, tools=self.TOOLS)
        assert "tools" not in self.RENDERER.tokenizer.decode(self.RENDERER.render(group("Sunny")).prompt)

    @pytest.mark.parametrize("none", [None, [], ""])
    def test_none_are_none(self, none):
        assert self.RENDERER.render(group("x", extra={"tools": none})).prompt == self.RENDERER.prompt(HI)


class TestText:
    def test_no_bos_where_the_tokenizer_has_none(self):
        row = PLAIN.render(group((text(" the end"),), prompt=(text("In"),)))
        assert PLAIN.tokenizer.decode(row.prompt) == "In"
        assert shown(PLAIN, row) == "[ the end<|im_end|>]"

    def test_one_bos_where_the_tokenizer_adds_one(self):
        renderer = Renderer(tiny.tokenizer(adds_bos=True))
        row = renderer.render(group((text("end"),), prompt=(text("In"),)))
        bos = renderer.tokenizer.bos_token_id
        assert row.prompt[0] == bos
        assert bos not in (*row.prompt[1:], *row.answers[0].tokens)
        assert row.prompt == renderer.prompt((text("In"),))

    def test_without_a_prompt_the_first_token_is_given(self):
        assert PLAIN.render(group((text("the"),), prompt=())).prompt == ()
        with pytest.raises(DataError, match=f"{PLACE}: answer 1 has no scored token"):
            PLAIN.render(group((text(""),), prompt=()))

    @pytest.mark.parametrize("words", ["<|bos|>In", "<|bos|>"])
    def test_a_doubled_bos_is_refused(self, words):
        renderer = Renderer(tiny.tokenizer(adds_bos=True))
        with pytest.raises(DataError, match=f"{PLACE}.*two BOS"):
            renderer.render(group((text("end"),), prompt=(text(words),)))
        with pytest.raises(DataError, match="two BOS"):
            renderer.prompt((text(words),))

    def test_a_template_that_doubles_bos_is_refused(self):
        renderer = Renderer(tiny.tokenizer("<|bos|><|bos|>" + tiny.PLAIN_TEMPLATE, adds_bos=True))
        with pytest.raises(DataError, match=f"{PLACE}.*two BOS"):
            renderer.render(group("Hello"))
        once = Renderer(tiny.tokenizer("<|bos|>" + tiny.PLAIN_TEMPLATE, adds_bos=True)).render(group("Hello"))
        assert once.prompt.count(renderer.tokenizer.bos_token_id) == 1


class TestSampledAnswers:
    @staticmethod
    def sampled(reason, fingerprint, tokens=(1, 2, 3)):
        made = Sampled(tokens, (-1.0,) * len(tokens), reason, fingerprint, "policy")
        return replace(group("Hello"), completions=(Completion((assistant("Hello"),), sampled=made),))

    def test_are_taken_as_they_were_sampled(self):
        row = PLAIN.render(self.sampled("length", PLAIN.fingerprint))
        assert row.answers[0] == Answer((1, 2, 3), (True, True, True))

    def test_of_another_tokenizer_are_rendered_anew(self):
        assert shown(PLAIN, PLAIN.render(self.sampled("stop", "other"))) == "[Hello<|im_end|>]"

    def test_cut_at_the_limit_have_no_end_to_score(self):
        assert shown(PLAIN, PLAIN.render(self.sampled("length", "other"))) == "[Hello]"
        assert shown(NEWLINE, NEWLINE.render(self.sampled("length", "other"))) == "[Hello]"

    def test_fingerprint_tells_tokenizers_and_templates_apart(self):
        prints = {PLAIN.fingerprint, NEWLINE.fingerprint, Renderer(tiny.tokenizer(adds_bos=True)).fingerprint}
        assert len(prints) == 3
        assert Renderer(tiny.tokenizer(tiny.PLAIN_TEMPLATE)).fingerprint == PLAIN.fingerprint


class TestRefusals:
    def test_template_that_rewrites_earlier_turns(self):
        changing = tiny.PLAIN_TEMPLATE.replace("m['content']", "(m['content'] if loop.last else 'gone')")
        with pytest.raises(DataError, match=f"{PLACE}.*not prefix-preserving"):
            Renderer(tiny.tokenizer(changing)).render(group("Hello"))

    def test_template_without_an_end_of_turn(self):
        endless = tiny.PLAIN_TEMPLATE.replace("<|im_end|>", "")
        with pytest.raises(DataError, match=f"{PLACE}.*without an end-of-turn token"):
            Renderer(tiny.tokenizer(endless)).render(group("Hello"))

    def test_template_that_raises(self):
        strict = "{{ raise_exception('no system turns') }}"
        with pytest.raises(DataError, match=f"{PLACE}.*no system turns"):
            Renderer(tiny.tokenizer(strict)).render(group("Hello"))

    def test_no_template(self):
        with pytest.raises(ConfigError, match=f"{PLACE}.*: set chat_template to a Jinja file"):
            Renderer(tiny.tokenizer(None)).render(group("Hello"))

    def test_text_and_turns_in_one_row(self):
        with pytest.raises(DataError, match=f"{PLACE}.*mixes"):
            PLAIN.render(group((text("Hello"),)))
        with pytest.raises(DataError, match=f"{PLACE}.*mixes"):
            PLAIN.render(group("Hello", prompt=(user("Hi"), text("x"))))

    def test_answer_that_does_not_begin_with_the_assistant(self):
        with pytest.raises(DataError, match=f"{PLACE}.*starts with a turn of 'user'"):
            PLAIN.render(group((user("Hello"), assistant("x"))))

    def test_answer_without_turns(self):
        with pytest.raises(DataError, match=f"{PLACE}: answer 2 has no scored token"):
            PLAIN.render(group("fine", ()))

    def test_tokenizer_without_an_end(self):
        broken = tiny.tokenizer()
        broken.eos_token = None
        with pytest.raises(ConfigError, match="no end-of-sequence"):
            Renderer(broken)
        assert Renderer(broken, [END]).stop_id == END


class TestLength:
    LONG = group("Short", prompt=(user("x" * 10_000),))

    def test_shorten_keeps_the_end_of_the_prompt_and_every_answer(self):
        row = PLAIN.render(self.LONG)
        assert row.longest > 10_000
        short = shorten(row, 512)
        assert short.longest == 512
        assert short.answers == row.answers
        assert row.prompt[-len(short.prompt) :] == short.prompt

    def test_shorten_never_cuts_an_answer(self):
        row = Row((1, 2), (Answer((3,) * 9, (True,) * 9),), 0)
        assert shorten(row, 10).prompt == (2,)
        with pytest.raises(DataError, match="does not fit"):
            shorten(row, 9)

    def test_the_longest_answer_decides(self):
        row = tiny.row(range(20), range(3), range(8))
        assert (row.longest, len(row)) == (28, 31)
        assert len(shorten(row, 12).prompt) == 4

    def test_drop(self):
        rows, kept, refused = render_rows(PLAIN, [self.LONG, group("a")], Training(max_length=512))
        assert (len(rows), kept, list(refused.values())) == (1, [1], [1])
        assert rows[0].index == 0, "an index is a place among the rows that are kept"

    def test_cut_prompt(self):
        rows, _, refused = render_rows(PLAIN, [self.LONG], Training(max_length=512, too_long="cut_prompt"))
        assert (rows[0].longest, refused) == (512, {})
        answer = group("y" * 600)
        _, _, refused = render_rows(PLAIN, [self.LONG, answer], Training(max_length=512, too_long="cut_prompt"))
        assert sum(refused.values()) == 1

    def test_error(self):
        with pytest.raises(DataError, match=f"{PLACE}.*max_length is 512"):
            render_rows(PLAIN, [self.LONG], Training(max_length=512, too_long="error"))

    def test_nothing_left(self):
        with pytest.raises(DataError, match="no row is left"):
            render_rows(PLAIN, [self.LONG], Training(max_length=512))


def test_pieces_are_the_first_path():
    row = NEWLINE.render(group("Hello"))
    pieces = NEWLINE.pieces(row)
    assert "".join(piece for piece, scored in pieces if scored) == "Hello<|im_end|>"
    assert len(pieces) == row.longest
