"""A benchmark of the field on files in miniature, and what it says to given answers."""

from lucida.eval.benchmarks import BENCHMARKS


def never(text, width, height):
    raise AssertionError("read_box is for boxes only")


def make(name, root, **options):
    return BENCHMARKS[name](data=str(root), **options)


def measured(task, outputs, read_box=never):
    """Scores and summary when examples, by id, are answered so."""
    examples = task.examples()
    said = [outputs[e.id] if isinstance(outputs, dict) else outputs for e in examples]
    parsed = [task.parse(e, o, read_box) for e, o in zip(examples, said, strict=True)]
    scores = task.scores(examples, parsed)
    by_id = dict(zip((e.id for e in examples), scores, strict=True))
    return by_id, task.summary(examples, parsed, scores)
