"""The page of a run: what it says is what the files say, and nothing in the files can break it."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys

import fake_runs
import pytest
from reading_html import PAYLOAD, Page, built, share

from truing import report, statistics
from truing.errors import ConfigError, StorageError
from truing.report.sections import SECTIONS


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return built(fake_runs.write(tmp_path_factory.mktemp("runs") / "run"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return built(fake_runs.write_all(tmp_path_factory.mktemp("runs") / "run"))


class TestStructure:
    def test_balanced(self, whole):
        assert whole.problems == []

    def test_ids_are_unique_and_links_lead_somewhere(self, whole):
        ids = [attributes["id"] for _, attributes in whole.tags if "id" in attributes]
        links = [link["href"] for link in whole.all("a")]
        assert len(ids) == len(set(ids))
        assert links
        assert {link[1:] for link in links} <= set(ids)

    def test_needs_nothing_else(self, whole):
        assert not {tag for tag, _ in whole.tags} & {"script", "link", "img", "iframe", "object", "embed"}
        assert not re.findall(r"https?://|@import|url\(", whole.source)
        policy = next(meta["content"] for meta in whole.all("meta") if "http-equiv" in meta)
        assert policy == "default-src 'none'; style-src 'unsafe-inline'"

    def test_every_chart_has_a_title(self, whole):
        charts = [number for number, (tag, _) in enumerate(whole.tags) if tag == "svg"]
        assert len(charts) > 8
        assert all(whole.tags[number][1]["role"] == "img" for number in charts)
        assert all(whole.tags[number + 1][0] == "title" for number in charts)

    def test_headings_do_not_skip_a_level(self, whole):
        levels = [int(tag[1]) for tag, _ in whole.tags if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(below - above <= 1 for above, below in itertools.pairwise(levels))

    def test_column_headers_are_marked(self, whole):
        assert whole.all("th")
        assert all(header.get("scope") in ("row", "col") for header in whole.all("th"))

    def test_both_themes_phone_and_paper(self, whole):
        for needed in ("prefers-color-scheme: dark", "@media print", 'content="width=device-width', "max-width: 40rem"):
            assert needed in whole.source

    def test_small_even_when_long(self, tmp_path):
        folder = tmp_path / "run"
        with fake_runs.opened(folder) as run:
            fake_runs.preference(run, steps=2000)
            found = fake_runs.evaluation(prompts=60)
            for example in found["examples"]:
                example["base"]["text"] = "a long answer " * 2000
            fake_runs.evaluate(run, found)
        path = report.build(folder)
        assert path == folder / "report.html"
        assert path.stat().st_size < 2_000_000
        assert "24,000 more characters" in Page(path).text

    def test_import_is_light(self):
        code = "import sys, truing.report; print({'torch', 'matplotlib'} & set(sys.modules))"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert result.stdout.strip() == "set()"

    def test_every_section_has_a_link_in_their_order(self, whole):
        sections = [attributes["id"] for attributes in whole.all("section")]
        linked = list(dict.fromkeys(link["href"][1:] for link in whole.all("a")))
        assert linked == sections
        assert {section.name for section in SECTIONS} < set(sections)


class TestNumbers:
    def test_verdict(self, page):
        found = fake_runs.evaluation()
        rate = statistics.win_rate([1] * found["wins"] + [0.5] * found["ties"] + [0] * found["losses"])
        verdict = page.section("verdict")
        assert f"{100 * rate.value:.0f} %" in verdict
        assert f"{100 * rate.low:.0f} % to {100 * rate.high:.0f} %" in verdict
        assert f"{found['wins']} wins {found['ties']} ties {found['losses']} losses" in verdict
        assert statistics.reading(rate)[1:] in verdict
        for expected in ("8.3 [7.1, 9.5]", "0.47 [0.41, 0.54]", "98 % [91, 100]", "base 85 % [74, 92]"):
            assert expected in verdict
        assert "41.3 tokens an answer, base 87.9" in verdict
        assert "on 60 held-out prompts with 1 answer of each model; sampled with temperature 0.7" in verdict

    def test_bar_stands_where_the_numbers_say(self, page):
        rate = fake_runs.evaluation()["win_rate"]
        dot = next(circle for circle in page.all("circle"))
        band = next(r for r in page.all("rect") if "reach" in (r["class"] or ""))
        assert share(dot["cx"]) == pytest.approx(100 * rate["value"], abs=0.01)
        assert share(band["x"]) == pytest.approx(100 * rate["low"], abs=0.01)
        assert share(band["width"]) == pytest.approx(100 * (rate["high"] - rate["low"]), abs=0.02)

    def test_held_out(self, page):
        after = statistics.proportion(117, 150)
        held_out = page.section("held-out")
        assert "Before step 0 " in held_out
        assert "50 % [42, 58] loss 0.693" in held_out
        assert f"{after.percent} loss 0.521" in held_out
        assert "on 150 comparisons" in held_out

    def test_curves(self, page):
        curves = page.section("curves")
        assert "240 of 240 steps, 14 min 3 s" in curves
        headings = ("Loss", "Reward margin", "Reward accuracy", "Gradient norm", "Learning rate", "Tokens per second")
        places = [curves.index(f"{heading} ") for heading in headings]
        assert places == sorted(places)

    def test_data(self, page):
        data = page.section("data")
        assert "935 rows read, 900 used" in data
        assert "longer than 1024 tokens 31" in data
        assert "chosen and rejected are equal 4" in data

    def test_preview_marks_what_is_scored(self, page):
        scored = re.findall('<span class="scored">([^<]*)</span>', page.source)
        context = re.findall("<span>([^<]*)</span>", page.source)
        assert scored == ["Sun", "light", " scatters", " off", " air", ".", "&lt;|im_end|&gt;"]
        assert " sky" in context
        assert not set(scored) & set(context) - {"&lt;|im_end|&gt;"}

    def test_a_dozen_examples_then_the_rest(self, page):
        shown, folded = page.section("answers").split(" 48 more ")
        assert "Prompt 12 " in shown
        assert "Prompt 13 " not in shown
        assert "Prompt 60 " in folded

    def test_winner_is_marked(self, tmp_path):
        found = fake_runs.evaluation(prompts=3)
        for example, winner in zip(found["examples"], ("model", "base", "tie"), strict=True):
            example["winner"] = winner
        with fake_runs.opened(tmp_path / "run") as run:
            fake_runs.evaluate(run, found)
        answers = built(tmp_path / "run").section("answers")
        heads = ["".join(head) for head in re.findall("(Base|Aligned)( preferred| tie)?", answers)]
        assert heads == ["Base", "Aligned preferred", "Base preferred", "Aligned", "Base tie", "Aligned tie"]

    def test_lineage_names_the_stage_that_made_an_input(self, page):
        lineage = page.section("lineage")
        assert "SmolLM2-135M-Instruct preference evaluate" in lineage
        assert "model preference (5b1f7a90c2de)" in lineage
        assert "14 min 3 s 3.4 GiB finished" in lineage

    def test_settings(self, page):
        settings = page.section("settings")
        assert 'objective = { name = "dpo", beta = 0.1 }' in settings
        assert "torch 2.13.0" in settings
        assert "memory 31.2 GiB" in settings


class TestMissingParts:
    def test_nothing_but_recipes(self, tmp_path):
        with fake_runs.opened(tmp_path / "run"):
            pass
        (tmp_path / "run" / "run.json").unlink()
        (tmp_path / "run" / "recipe.toml").unlink()
        page = built(tmp_path / "run")
        assert page.problems == []
        for expected in (
            "No evaluation in this run",
            "No held-out comparisons",
            "No training step was recorded",
            "No stage of this run recorded its data",
            "No stage has begun",
            "No artifact was made",
            "No versions were recorded",
            "No machine was recorded",
        ):
            assert expected in page.text

    def test_where_nothing_is_trained_nothing_is_said_of_training(self, tmp_path):
        with fake_runs.opened(tmp_path / "run") as run:
            run.event("evaluate", "start", settings={"temperature": 0.7}, inputs={}, key="k")
        page = built(tmp_path / "run")
        assert page.problems == []
        assert "Held-out comparisons" not in page.text
        assert 'href="#curves"' not in page.source

    def test_only_demonstrations(self, tmp_path):
        with fake_runs.opened(tmp_path / "run") as run:
            run.event("sft", "start", settings={}, inputs={}, key="k")
            run.event("sft", "data", source="demos.jsonl", rows=3, used=3, refused={}, answer_tokens=[4, 9, 11])
            run.event("sft", "step", step=1, steps=1, metrics={"loss": 2.25})
            run.event("sft", "end", seconds=3.0, peak_memory_bytes=1)
        page = built(tmp_path / "run")
        assert page.problems == []
        assert "3 rows read, 3 used, none refused" in page.section("data")
        assert "Answer lengths 8 tokens on average" in page.section("data")
        assert "2.25 → 2.25" in page.section("curves")
        assert "Add an evaluate stage" in page.section("verdict")

    def test_a_blend_shows_what_each_source_gave(self, tmp_path):
        large = {"name": "large", "file": "l.jsonl", "weight": 0.75, "has": 900, "gives": 300, "different": 300}
        small = {"name": "small", "file": "s.jsonl", "weight": 0.25, "has": 40, "gives": 100, "different": 40}
        with fake_runs.opened(tmp_path / "run") as run:
            run.event("sft", "start", settings={}, inputs={}, key="k")
            run.event("sft", "data", source="blend", rows=400, used=400, shares=[large, small], answer_tokens=[4])
            whole = [{**large, "weight": None}]
            run.event("dpo", "data", source="all rows", rows=300, used=300, shares=whole, answer_tokens=[4])
        page = built(tmp_path / "run")
        assert page.problems == []
        shown = " ".join(page.section("data").replace("\N{NO-BREAK SPACE}", " ").split())
        assert "Source Weight Has Taken Times each large l.jsonl 75 % 900 300 1 small s.jsonl 25 % 40 40 2.50" in shown
        assert "large l.jsonl all 900 300 1" in shown

    def test_interrupted(self, tmp_path):
        with fake_runs.opened(tmp_path / "run") as run:
            run.event("preference", "start", settings={}, inputs={}, key="k")
            run.event("preference", "step", step=57, steps=200, metrics={"loss": 0.5})
        page = built(tmp_path / "run")
        assert page.problems == []
        assert "Stage preference has not ended: unfinished, at step 57 of 200" in page.text
        assert "has not come to its end" in page.section("verdict")

    def test_interrupted_before_the_first_step(self, tmp_path):
        with fake_runs.opened(tmp_path / "run") as run:
            run.event("preference", "start", settings={}, inputs={}, key="k")
        assert "Stage preference has not ended: unfinished." in built(tmp_path / "run").text

    def test_gone_on_after_an_interruption(self, tmp_path):
        """It starts again, tells its data and looks at step 0 again; nothing may stand twice."""
        with fake_runs.opened(tmp_path / "run") as run:
            for first, last in ((1, 10), (11, 20)):
                run.event("preference", "start", settings={}, inputs={}, key="k")
                run.event("preference", "data", source="pairs.jsonl", rows=8, used=8, refused={})
                run.event("preference", "held_out", step=0, accuracy=fake_runs.interval(0.5, 0.4, 0.6, 90), loss=0.69)
                for step in range(first, last + 1):
                    run.event("preference", "step", step=step, steps=20, metrics={"loss": 0.5})
            run.event("preference", "end", seconds=1.0, peak_memory_bytes=1)
        page = built(tmp_path / "run")
        assert page.section("data").count("pairs.jsonl") == 1
        assert page.section("held-out").count("Before step") == page.section("held-out").count("[40, 60] loss") == 1
        assert "has not ended" not in page.text

    def test_torn_last_line(self, tmp_path):
        fake_runs.write(tmp_path / "run", steps=5)
        with open(tmp_path / "run" / "events.jsonl", "a") as file:
            file.write('{"time": 1, "stage": "pref')
        assert "5 of 5 steps" in built(tmp_path / "run").section("curves")

    def test_an_empty_evaluation(self, tmp_path):
        with fake_runs.opened(tmp_path / "run") as run:
            fake_runs.evaluate(run, {})
        page = built(tmp_path / "run")
        assert page.problems == []
        assert "it holds no win rate" in page.section("verdict")
        assert "No answers to compare" in page.section("answers")

    def test_no_prompt_at_all(self, tmp_path):
        with fake_runs.opened(tmp_path / "run") as run:
            fake_runs.evaluate(run, fake_runs.evaluation(prompts=0))
        assert "No comparison was made, so nothing is known" in built(tmp_path / "run").section("verdict")

    def test_no_steps_and_no_tokens(self, tmp_path):
        with fake_runs.opened(tmp_path / "run") as run:
            run.event("preference", "data", rows=0, used=0, chosen_tokens=[], rejected_tokens=[])
            run.event("preference", "preview", row=0, pieces=[])
            run.event("preference", "step", step=0, steps=0, metrics={})
            run.event("preference", "held_out", step=0, accuracy=None, loss=None)
        page = built(tmp_path / "run")
        assert page.problems == []
        assert "No lengths or scores were recorded" in page.section("data")
        assert "no accuracy" in page.section("held-out")

    def test_lengths_of_one_side_only(self, tmp_path):
        with fake_runs.opened(tmp_path / "run") as run:
            run.event("preference", "data", rows=2, used=2, chosen_tokens=[5, 7], prompt_tokens=[3, 9])
        data = built(tmp_path / "run").section("data")
        assert "Prompt lengths 6 tokens on average" in data
        assert "Chosen" not in data

    def test_several_evaluations_show_the_last_and_list_all(self, tmp_path):
        with fake_runs.opened(tmp_path / "run") as run:
            first = fake_runs.evaluation() | {"win_rate": fake_runs.interval(0.31, 0.2, 0.44, 60)}
            fake_runs.evaluate(run, first, key="aaaa", stage="evaluate 1")
            last = fake_runs.evaluation() | {"win_rate": fake_runs.interval(0.86, 0.75, 0.93, 60)}
            fake_runs.evaluate(run, last, key="bbbb", stage="evaluate 2")
        verdict = built(tmp_path / "run").section("verdict")
        assert "86 % of comparisons won" in verdict
        assert "evaluate 1 31 % [20, 44]" in verdict

    def test_not_a_run(self, tmp_path):
        with pytest.raises(ConfigError, match="not a run folder"):
            report.build(tmp_path)

    def test_damaged_evaluation_is_named(self, tmp_path):
        with fake_runs.opened(tmp_path / "run") as run:
            fake_runs.evaluate(run, fake_runs.evaluation())
        path = next((tmp_path / "run").glob("artifacts/*/evaluation.json"))
        path.write_text("{")
        with pytest.raises(StorageError, match=r"evaluation\.json: damaged"):
            report.build(tmp_path / "run")


class TestNotFinite:
    @pytest.fixture
    def broken(self, tmp_path):
        with fake_runs.opened(tmp_path / "run") as run:
            for step in range(1, 31):
                loss = float("nan") if step in (20, 21, 30) else 0.5
                run.event("sft", "step", step=step, steps=30, metrics={"loss": loss, "gradient_norm": float("inf")})
        return built(tmp_path / "run")

    def test_stored_as_names(self, broken, tmp_path):
        rows = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
        assert rows[19]["metrics"] == {"loss": "NaN", "gradient_norm": "Infinity"}

    def test_is_said_loudly(self, broken):
        assert broken.problems == []
        assert "Numbers broke in stage sft. loss was NaN or infinite at 3 of 30 steps, first at step 20;" in broken.text
        assert "gradient_norm was NaN or infinite at 30 of 30 steps, first at step 1." in broken.text
        assert "0.500 → NaN" in broken.section("curves")

    def test_is_drawn(self, broken):
        marks = [path for path in broken.all("path") if path["class"] == "broken"]
        assert len(marks) == 3 + 30
        assert "nan" not in " ".join(path["d"] or "" for path in broken.all("path"))


class TestUntrusted:
    @pytest.fixture
    def hostile(self, tmp_path):
        interval = fake_runs.interval(0.6, 0.5, 0.7, 60)
        answer = {"text": PAYLOAD, "tokens": 3, "finished": False, "score": 1.0}
        found = fake_runs.evaluation() | {
            "verdict": PAYLOAD,
            "judge": PAYLOAD,
            "judge_description": PAYLOAD,
            "principle": PAYLOAD,
            "model": {"name": PAYLOAD, "mean_tokens": 1.0, "finished": interval},
            "sampling": {PAYLOAD: PAYLOAD},
            "examples": [
                {"prompt": [{"role": PAYLOAD, "content": PAYLOAD}], "base": answer, "model": answer, "winner": PAYLOAD}
            ],
        }
        folder = tmp_path / "run"
        info = dict.fromkeys(("name", "model", "seed", "created"), PAYLOAD)
        table = {PAYLOAD: PAYLOAD}
        with fake_runs.opened(folder, recipe=PAYLOAD, versions=table, machine=table, **info) as run:
            stage = PAYLOAD
            run.event(stage, "start", settings=table, inputs=table, key=PAYLOAD)
            share = {"name": PAYLOAD, "file": PAYLOAD, "weight": None, "has": 2, "gives": 2, "different": 2}
            run.event(
                stage,
                "data",
                source=PAYLOAD,
                format=PAYLOAD,
                rows=2,
                used=1,
                refused={PAYLOAD: 1},
                answer_tokens=[3],
                shares=[share],
            )
            run.event(stage, "preview", row=PAYLOAD, pieces=[[PAYLOAD, True], [PAYLOAD, False]])
            run.event(stage, "step", step=1, steps=2, metrics={PAYLOAD: 1.0, f"{PAYLOAD} too": "NaN"})
            run.event(stage, "held_out", step=1, accuracy=interval, loss=1.0)
            run.event(stage, "warning", message=PAYLOAD)
            fake_runs.evaluate(run, found, stage=f"{PAYLOAD} too")
        return folder

    def test_is_escaped_everywhere(self, hostile):
        page = built(hostile)
        assert page.problems == []
        assert not {tag for tag, _ in page.tags} & {"script", "img"}
        assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
        assert page.source.count("<svg") == page.source.count('role="img"')
        for name in ("verdict", "curves", "data", "answers", "lineage", "settings", "warnings"):
            assert "<script>alert(1)</script>" in page.section(name)

    def test_is_escaped_in_the_comparison(self, hostile, tmp_path):
        other = fake_runs.write(tmp_path / "other", steps=3)
        page = Page(report.compare([hostile, other, hostile], tmp_path / "compare.html"))
        assert page.problems == []
        assert not {tag for tag, _ in page.tags} & {"script", "img"}
        for name in ("verdict", "differences", "curves", "answers"):
            assert "<script>alert(1)</script>" in page.section(name)

    def test_hidden_characters_are_shown(self, tmp_path):
        found = fake_runs.evaluation(prompts=1)
        found["examples"][0]["model"]["text"] = "a\x00b\x1b[31m\u202etxt\ud800."
        with fake_runs.opened(tmp_path / "run") as run:
            fake_runs.evaluate(run, found)
            run.event("evaluate", "warning", message="half \ud800")
            run.event("evaluate\ud800", "start", settings={}, inputs={}, key="")
        page = built(tmp_path / "run")
        assert "a␀b␛[31m\ufffdtxt\ufffd." in page.text
        assert "half \ufffd" in page.text
