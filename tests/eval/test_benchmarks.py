"""Contract of every benchmark in the table: stable examples, sane scores, honest guesses."""

from types import SimpleNamespace

import pytest

from lucida.data.boxes import format_box
from lucida.data.policies import make_policy
from lucida.data.sources.world import WorldSource
from lucida.eval.answerers.lucida_model import LucidaAnswerer
from lucida.eval.benchmarks import BENCHMARKS, WORLD, benchmark
from lucida.testing import check_benchmark


def never(text, width, height):
    raise AssertionError("read_box is for boxes only")


@pytest.mark.parametrize("name", [name for name in WORLD if not name.startswith("text-")])
def test_every_benchmark_keeps_its_promises(name):
    task = benchmark(name)
    examples = check_benchmark(task)
    assert task.name == name
    assert len(examples) == 30
    assert [e.id for e in BENCHMARKS[name]().examples(30)] == [e.id for e in examples]
    for example in examples:
        (branch,) = example.sample.branches
        assert [turn.role for turn in branch] == ["user"], "the answer must not be in the sample"
        assert branch[0].parts == (example.question,)
    perfect = [e.box if e.box is not None else e.answers[0] for e in examples]
    best = task.scores(examples, perfect)
    worst = task.scores(examples, ["?" if e.box is None else None for e in examples])
    assert max(worst) == 0.0
    if task.metric != "CIDEr-D":
        assert set(best) == {1.0}
    guesses = task.guesses(examples)
    for options, chance in zip([e.options for e in examples], guesses.chance, strict=True):
        assert not options or chance == pytest.approx(1 / len(options))
    assert sum(guesses.majority) < sum(best)


def test_there_are_a_thousand_examples():
    assert len(benchmark("attribute").examples()) == 1000
    assert len(benchmark("attribute").examples(10**6)) == 1000


def test_boxes_are_read_and_words_are_stripped():
    boxes, words = benchmark("boxes").examples(1)[0], benchmark("reading").examples(1)[0]
    read = lambda text, width, height: (text, width, height)  # noqa: E731
    assert benchmark("boxes").parse(boxes, "<b01>", read) == ("<b01>", *boxes.size)
    assert benchmark("reading").parse(words, " open\n", never) == "open"


@pytest.mark.parametrize("name", ["letterbox", "resize"])
def test_the_true_box_written_in_bins_is_a_hit(name):
    policy = make_policy(name, 64, (0.5,) * 3, (0.5,) * 3)
    task = benchmark("boxes")
    examples = task.examples(200)
    processor = SimpleNamespace(coordinate_bins=32, image_policy=policy)
    read = LucidaAnswerer(None, processor).read_box
    written = [format_box(policy.to_frame(e.box, *e.size), 32) for e in examples]
    parsed = [task.parse(e, text, read) for e, text in zip(examples, written, strict=True)]
    assert sum(task.scores(examples, parsed)) == 200
    assert task.parse(examples[0], "<b01><b02>", read) is None


def test_no_test_picture_is_trained_on():
    trained = WorldSource(["attribute", "counting"], count=300)
    keys = {source.key for index in range(300) for source in trained[index].images}
    held_out = {s.key for e in benchmark("attribute").examples(200) for s in e.sample.images}
    assert not keys & held_out


def test_a_question_is_written_as_in_training():
    item = benchmark("counting").task.item(0, "test", 3, 5)
    examples = [e for e in benchmark("counting").examples(40) if e.cluster == item.id]
    source = WorldSource(["counting"], split="test", questions=5)
    sample = source[3]
    assert len(examples) == len(sample.branches)
    for example, branch in zip(examples, sample.branches, strict=True):
        assert example.sample.stem == sample.stem
        assert example.sample.branches[0] == branch[:-1]
        assert [s.key for s in example.sample.images] == [s.key for s in sample.images]
