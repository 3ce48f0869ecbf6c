"""Scores, totals and readings of single benchmarks against values worked out by hand."""

import json

import pytest
from asking import make, measured, never

from lucida.data.sample import ImagePart


def test_vqav2_counts_the_annotators_that_agree(published):
    task = make("vqav2", published)
    outputs = {"vqav2/420": "Red.", "vqav2/421": "Yes", "vqav2/70": "two"}
    scores, totals = measured(task, outputs)
    # 3 of 10 said red: (3 * 2/3 + 7 * 1) / 10 = 0.9; all said yes; 2 said 2, the rest 3: 0.6.
    assert scores == pytest.approx({"vqav2/420": 0.9, "vqav2/421": 1.0, "vqav2/70": 0.6})
    assert totals["number"] == pytest.approx(60)
    assert totals["yes/no"] == pytest.approx(100)
    # Upstream compares raw text when all ten agree: "Yes" is not "yes".
    assert totals["strict"] == pytest.approx(100 * (0.9 + 0 + 0.6) / 3)
    assert totals["lmms"] == pytest.approx(100 * (0.9 + 1 + 0.6) / 3)
    example = task.examples()[0]
    assert example.details["question_type"]
    assert len(example.answers) == 10


def test_okvqa_scores_stems_and_shows_the_answers_as_written(published):
    task = make("okvqa", published)
    scores, totals = measured(task, "reds")
    assert scores["okvqa/420"] == 0
    # "reds" is the raw answer of three annotators of one of three questions.
    assert totals["raw answers"] == pytest.approx(100 * 0.9 / 3)
    assert task.examples()[0].kind in ("what color", "is it", "how many")


def test_vizwiz_separates_what_cannot_be_answered(published):
    scores, totals = measured(make("vizwiz", published), "Unanswerable")
    assert scores["vizwiz/VizWiz_val_1.jpg"] == 1
    assert totals["answerable"] == 0
    assert totals["not answerable"] == 100
    # "Unanswerable" twice, rightly once: precision 1/2, recall 1.
    assert totals["unanswerable F1"] == pytest.approx(200 / 3)
    assert totals["unanswerable AP"] == pytest.approx(50)
    assert totals["lmms"] == 50


def test_gqa_has_three_readings(published):
    scores, totals = measured(
        make("gqa", published), {"gqa/201307251": "Yes.", "gqa/201640614": "t shirt"}
    )
    assert scores == {"gqa/201307251": 1, "gqa/201640614": 0}
    assert totals["official"] == 0
    assert totals["binary"] == 100
    assert totals["open"] == 0
    _, totals = measured(make("gqa", published), "tshirt")
    assert totals["lmms"] == 50


def test_textvqa_with_and_without_recognised_words(published):
    bare, helped = make("textvqa", published), make("textvqa-ocr", published)
    scores, _ = measured(bare, "Stop")
    assert scores == {"textvqa/34602": 1, "textvqa/34603": 0}
    questions = {e.id: e.question for e in helped.examples()}
    assert questions["textvqa/34602"] == (
        "what does it SAY?\nReference OCR token: STOP, 4-WAY\n"
        "Answer the question using a single word or phrase."
    )
    # No words were recognised there: no line about them.
    assert questions["textvqa/34603"] == (
        "who made it?\nAnswer the question using a single word or phrase."
    )
    capital = make("textvqa", published, prompts="lmms").examples()
    assert any(e.question.startswith("What does it say?") for e in capital)


def test_refcoco_takes_the_sentences_of_its_part(published):
    for part, first in (("val", 10), ("testA", 20), ("testB", 30)):
        task = make(f"refcoco-{part}", published)
        assert {e.id for e in task.examples()} == {f"refcoco/{first}", f"refcoco/{first + 1}"}
    example = make("refcocog-test", published).examples()[0]
    assert example.box == (10.0, 20.0, 110.0, 70.0)
    assert example.size == (640, 427)


def test_boxes_are_hits_from_their_threshold_on(published):
    def read(text, width, height):
        assert (width, height) in ((640, 427), (640, 480))
        return tuple(json.loads(text)) if text.startswith("[") else None

    # 100 x 50 against its left half: IoU 0.5, a hit. The left 49 of 100: a miss.
    assert set(measured(make("refcoco-val", published), "[10,20,60,70]", read)[0].values()) == {1}
    assert set(measured(make("refcoco-val", published), "[10,20,59,70]", read)[0].values()) == {0}
    outputs = {"ocid-ref/9": "[100,100,125,200]", "ocid-ref/10": "[100,100,124,200]",
               "ocid-ref/17": "there"}  # fmt: skip
    scores, totals = measured(make("ocid-ref", published), outputs, read)
    assert scores == {"ocid-ref/9": 1, "ocid-ref/10": 0, "ocid-ref/17": 0}
    assert totals == {
        "minimum clutter": 100,
        "medium clutter": 0,
        "maximum clutter": 0,
        "no box": pytest.approx(100 / 3),
    }


def test_pope_reads_labels_by_the_official_rule(published):
    task = make("pope-popular", published)
    outputs = {
        "pope/popular/1": "Yes.",
        "pope/popular/2": "There isn't",
        "pope/popular/3": "No, no",
    }
    scores, totals = measured(task, outputs)
    # Truth yes, no, yes; read yes, yes, no: one hit, one false alarm, one miss.
    assert list(scores.values()).count(1) == 1
    assert totals["accuracy"] == pytest.approx(100 / 3)
    assert totals["precision"] == totals["recall"] == totals["F1"] == pytest.approx(50)
    assert totals["yes"] == pytest.approx(200 / 3)


def test_vsr_reports_relations_and_what_constant_guessing_gives(published):
    task = make("vsr", published)
    scores, totals = measured(task, '"True".')
    assert sum(scores.values()) == 2
    assert totals == {"left of": 100, "under": 50}
    assert sum(task.guesses(task.examples()).majority) == 2
    assert task.parse(task.examples()[0], "who knows", never) is None


def test_tallyqa_reads_numbers_or_letters(published):
    task = make("tallyqa", published)
    scores, totals = measured(task, "There are three.")
    assert scores == {"tallyqa/1": 1, "tallyqa/2": 0}
    assert totals["complex RMSE"] == 3
    letters = make("tallyqa", published, prompts="prismatic")
    assert "\nD. 3\n" in letters.examples()[0].question
    assert letters.examples()[0].candidates[3] == "D"
    assert measured(letters, "D")[0] == {"tallyqa/1": 1, "tallyqa/2": 0}


def test_ai2d_knows_its_two_parts(published):
    task = make("ai2d", published)
    outputs = {"ai2d/0.png-0": "A", "ai2d/0.png-1": "B.", "ai2d/1.png-0": "nose",
               "ai2d/1.png-1": "The answer is D"}  # fmt: skip
    _, totals = measured(task, outputs)
    assert totals == {"test": 0, "val": 100}


def test_scienceqa_keeps_questions_with_a_picture_of_its_split(published):
    examples = {e.id: e for e in make("scienceqa-img", published).examples()}
    assert set(examples) == {"scienceqa/1", "scienceqa/4"}
    assert examples["scienceqa/1"].question == (
        "Context: Mammals have fur.\nWhich is a mammal?\nA. frog\nB. cat\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert examples["scienceqa/4"].question.startswith("Which is a mammal?\n")
    (shown,) = make("scienceqa-img", published).train_examples()
    assert shown.id == "scienceqa/3"


def test_seed_bench_asks_about_pictures_only(published):
    (example,) = make("seed-bench", published).examples()
    assert example.id == "seed-bench/101669"
    assert example.kind == "Instances Counting"
    assert example.answers == ("B",)


def test_mmbench_wants_all_rotations_right(published):
    task = make("mmbench", published)
    assert all(len(task.examples(limit)) in (1, 2, 3) for limit in (1, 2, 3))
    outputs = {"mmbench/241": "A", "mmbench/1000241": "A", "mmbench/252": "C"}
    scores, totals = measured(task, outputs)
    assert scores == {"mmbench/241": 1, "mmbench/1000241": 0, "mmbench/252": 1}
    assert totals["circular"] == 50
    assert totals["vanilla"] == 100
    pictures = {e.sample.images[0].key for e in task.examples()}
    assert len(pictures) == 1, "a rotation refers to the row that has the picture"
    hinted = next(e for e in task.examples() if e.id == "mmbench/252")
    assert hinted.question.startswith("Look closely\nWhich is big?\nA. ant\n")
    assert make("mmbench-cn", published).examples()[0].question.endswith("\n请直接回答选项字母。")


def test_mme_adds_accuracy_and_accuracy_plus(published):
    task = make("mme", published)
    examples = task.examples()
    assert len(examples) == 30
    for first, second in zip(examples[::2], examples[1::2], strict=True):
        assert first.details["picture"] == second.details["picture"], "pairs stay together"
    assert examples[0].question.endswith("?\nAnswer the question using a single word or phrase.")
    plain = make("mme", published, prompts="plain").examples()
    assert plain[0].question.endswith("Please answer yes or no.")
    # Always yes: half of the questions, no pair.
    _, totals = measured(task, "Yes")
    assert totals["perception"] == 500
    assert totals["cognition"] == 200
    assert totals["count"] == 50
    # Whole pairs only, also when half of a pair would fit the limit.
    assert len(task.examples(3)) == 2
    right = {e.id: e.answers[0] for e in examples}
    assert measured(task, right)[1]["perception"] == 2000


def test_captions_take_their_split_and_all_references(published):
    coco = make("coco-captions", published)
    assert {e.id for e in coco.examples()} == {"coco-captions/100", "coco-captions/101"}
    assert {e.id for e in coco.train_examples()} == {"coco-captions/102", "coco-captions/103"}
    outputs = {"coco-captions/100": "a red star on a hill", "coco-captions/101": "nothing"}
    scores, totals = measured(coco, outputs)
    assert scores["coco-captions/101"] == 0
    assert totals["CIDEr-D"] == pytest.approx(100 * scores["coco-captions/100"] / 2)
    assert totals["BLEU-1"] > 0
    _, domains = measured(make("nocaps", published), "a blue car on a street")
    assert domains["in-domain"] < domains["out-domain"]


def test_pathvqa_scores_the_two_kinds_apart(published):
    outputs = {"pathvqa/test/0": "yes, it is", "pathvqa/test/1": "in the liver"}
    scores, totals = measured(make("pathvqa", published), outputs)
    assert scores == {"pathvqa/test/0": 1, "pathvqa/test/1": 0}
    assert totals["yes/no"] == 100
    assert totals["open exact match"] == 0
    assert totals["open F1"] == pytest.approx(80)
    assert {"open BLEU-1", "open BLEU-4"} <= set(totals)


def test_mmmu_puts_pictures_where_the_text_has_them(published):
    pytest.importorskip("pyarrow")
    task = make("mmmu", published)
    examples = {e.id: e for e in task.examples()}
    assert len(examples) == 31
    chosen = examples["mmmu/validation_Art_1"]
    (turn,) = chosen.sample.branches[0]
    assert [part.index if isinstance(part, ImagePart) else part for part in turn.parts] == [
        "Compare ", 0, " with ", 1, "; what does <image 1> show?\nA. a lens\nB. ", 2,
        "\nC. it's none\n\nAnswer with the option's letter from the given choices directly.",
    ]  # fmt: skip
    assert len(chosen.sample.images) == 3
    solved = examples["mmmu/validation_Math_2"]
    assert solved.answers == ("1/2", "0.5")
    assert solved.kind == "Science"
    scores, totals = measured(task, dict.fromkeys(examples, "0.5"))
    assert sum(scores.values()) == 1
    assert totals["open"] == 100


def test_answers_are_written_as_the_judges_read_them(published):
    vet = make("mm-vet", published)
    name, content = vet.answers_file(vet.examples(), ["−5 – \u2028 odd"], "mine")
    assert name == "mine.json"
    assert json.loads(content) == {"v1_0": "−5 – \u2028 odd"}
    bench = make("llava-bench", published)
    examples = bench.examples()
    name, content = bench.answers_file(examples, ["a", "b\nb", "c"], "mine")
    rows = [json.loads(line) for line in content.split("\n") if line]
    assert [row["question_id"] for row in rows] == [0, 1, 2]
    assert {row["model_id"] for row in rows} == {"mine"}
    said = {e.id: text for e, text in zip(examples, ["a", "b\nb", "c"], strict=True)}
    assert [row["text"] for row in rows] == [said[f"llava-bench/{n}"] for n in range(3)]
