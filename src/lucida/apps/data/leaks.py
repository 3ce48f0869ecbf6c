"""What a model would be asked that it was trained on: pictures and texts that both sides have.

evaluation ─Printed, in memory─┐
training ─Printed, block for block─┴─near─▶ Leak for each example that training has seen
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from lucida.apps.data.duplicates import Pictures, Printed, TakePrints, read_prints
from lucida.apps.data.guess import Opened, open_sources
from lucida.apps.data.near import near_pictures, near_texts
from lucida.apps.data.show import lay_out, lay_sample, write_groups
from lucida.core.errors import DataError
from lucida.core.files import atomic_write
from lucida.core.progress import Progress
from lucida.eval.benchmark import Example
from lucida.eval.benchmarks import BENCHMARKS, benchmark

KINDS = {
    "both": "a picture of the training data, and nearly the same question about it",
    "picture": "a picture of the training data, with another question",
    "text": "no picture, and nearly the words of a training record",
}
"""What is found of an example, the worst first."""
MOST = 20
"""Training records that are written down for an example."""


@dataclass
class Leak:
    """An example that training has seen. evaluation: its id or place; training: where the records
    are that it was seen in, the first `MOST` of `records`; what: a key of `KINDS`; questions: what
    is asked here, and in the first of those records. asked, seen: the example and that record, by
    source and number."""

    evaluation: str
    what: str
    records: int = 0
    training: list[str] = field(default_factory=list)
    pictures: list[list[str]] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    asked: tuple[int, int] = (0, 0)
    seen: tuple[int, int] = (0, 0)


@dataclass
class Leaks:
    """What was compared and found. alike: examples whose question is asked in training about other
    pictures, which is no leak; unusable: records of either side that could not be compared.
    sources, asked: both sides, from which a page draws."""

    training: int = 0
    evaluation: int = 0
    found: dict[int, Leak] = field(default_factory=dict)
    alike: int = 0
    unusable: list[str] = field(default_factory=list)
    sources: list[Opened] = field(default_factory=list)
    asked: Sequence[Example] | list[Opened] = ()

    def count(self, what: str) -> int:
        return sum(leak.what == what for leak in self.found.values())


def find_leaks(
    what: str, against: str, fields: Sequence[str] = (), data: str | None = None, processes: int = 1
) -> Leaks:
    """Compares every training record of a recipe or file with every example of a benchmark or
    file. `data`: the folder of published benchmarks, null is LUCIDA_DATA."""
    leaks = Leaks()
    examples = _examples(against, data, processes, leaks)
    leaks.evaluation = len(examples)
    pictures = Pictures(examples)
    bare = [place for place, example in enumerate(examples) if not example.pictures]
    shown = [place for place, example in enumerate(examples) if example.pictures]
    alike: set[int] = set()
    leaks.sources = open_sources(what, list(fields))
    for number, each in enumerate(leaks.sources):
        with Progress(f"compare {each.name}", len(each.source), "record") as progress:
            for some, unusable in _together(read_prints(each.source, processes)):
                found = [replace(record, source=number) for record in some]
                leaks.unusable += [str(reason) for _, reason in unusable]
                leaks.training += len(found)
                _compare_pictures(leaks, examples, pictures, found)
                words = [record for record in found if not record.pictures]
                for place, other in near_texts(
                    [examples[place].said for place in bare], [record.said for record in words]
                ):
                    _add(leaks, examples, bare[place], words[other], "text")
                asked = near_texts(
                    [examples[place].asked for place in shown], [r.asked for r in found]
                )
                alike |= {shown[place] for place, _ in asked}
                progress.advance(len(found) + len(unusable))
    # Those of them that share a picture as well are leaks and told as such.
    leaks.alike = len(alike - leaks.found.keys())
    return leaks


Block = tuple[list[Printed], list[tuple[int, DataError]]]


def _together(blocks: Iterable[Block], least: int = 8192) -> Iterator[Block]:
    """The same records in larger blocks: what is compared with a block costs the same for each."""
    found, lost = [], []
    for some, unusable in blocks:
        found, lost = found + some, lost + unusable
        if len(found) + len(lost) >= least:
            yield found, lost
            found, lost = [], []
    yield found, lost


def _examples(against: str, data: str | None, processes: int, leaks: Leaks) -> list[Printed]:
    """The prints of everything that is asked."""
    if against in BENCHMARKS:
        examples = leaks.asked = benchmark(against, data=data).examples()
        with Progress(f"read {against}", len(examples), "example") as progress:
            return list(_print_examples(examples, progress))
    found: list[Printed] = []
    leaks.asked = open_sources(against, [])
    for number, each in enumerate(leaks.asked):
        for some, unusable in read_prints(each.source, processes):
            found += [replace(record, source=number) for record in some]
            leaks.unusable += [str(reason) for _, reason in unusable]
    if not found:
        raise DataError(
            "no record of it can be used",
            given=f"the first: {(leaks.unusable or ['nothing'])[0]}",
            origin=against,
            remedy="`lucida data check` names all of them",
        )
    return found


def _print_examples(examples: Iterable[Example], progress: Progress) -> Iterator[Printed]:
    take = TakePrints()
    for number, example in enumerate(examples):
        seen = take(example.sample)
        asked = example.question or seen.asked
        yield replace(seen, number=number, origin=example.id, asked=asked)
        progress.advance()


def _compare_pictures(
    leaks: Leaks, examples: Sequence[Printed], pictures: Pictures, found: Sequence[Printed]
) -> None:
    """Adds the examples whose picture some of these records show."""
    own = Pictures(found)
    pairs = [
        (place, record)
        for one, other in near_pictures(pictures.prints, own.prints)
        for place in pictures.shown[one]
        for record in own.shown[other]
    ]
    for place, record in dict.fromkeys(pairs):
        example, seen = examples[place], found[record]
        same = example.asked and any(near_texts([example.asked], [seen.asked]))
        _add(leaks, examples, place, seen, "both" if same else "picture")


def _add(leaks: Leaks, examples: Sequence[Printed], place: int, seen: Printed, what: str) -> None:
    example = examples[place]
    leak = leaks.found.setdefault(place, Leak(example.origin, what))
    worse = list(KINDS).index(what) < list(KINDS).index(leak.what)
    if worse or not leak.training:
        leak.what = what
        leak.pictures = [list(example.places[:1]), list(seen.places[:1])]
        leak.questions = [example.asked or example.said, seen.asked or seen.said]
        leak.asked, leak.seen = (example.source, example.number), (seen.source, seen.number)
    leak.records += 1
    # The one that `questions` and `pictures` are of stands first.
    known = [seen.origin, *leak.training] if worse else [*leak.training, seen.origin]
    leak.training = known[:MOST]


def write_leaks(leaks: Leaks, what: str, against: str, path: Path) -> None:
    """Every leak with both origins, as JSON."""
    value = {
        "training": {"of": what, "records": leaks.training},
        "evaluation": {"of": against, "examples": leaks.evaluation},
        "counts": {kind: leaks.count(kind) for kind in KINDS},
        "questions_about_other_pictures": leaks.alike,
        "unusable": leaks.unusable,
        "leaks": [_written(leaks.found[place]) for place in sorted(leaks.found)],
    }
    atomic_write(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def _written(leak: Leak) -> dict:
    return {name: value for name, value in asdict(leak).items() if name not in ("asked", "seen")}


def write_page(leaks: Leaks, shown: int, path: Path) -> None:
    """The first `shown`, the worst first: what is asked, and below it what training has."""
    groups = []
    for leak in _in_order(leaks)[:shown]:
        source, number = leak.asked
        if isinstance(first := leaks.asked[source], Opened):
            asked = lay_out(first, number, "asked")
        else:
            sample = leaks.asked[number].sample
            pictures = [image.load() for image in sample.images]
            asked = lay_sample(sample, pictures, f"asked: {leak.evaluation}")
        source, number = leak.seen
        place = f"{leaks.sources[source].name}, record {number}"
        more = f", and {leak.records - 1:,} more" if leak.records > 1 else ""
        seen = lay_out(leaks.sources[source], number, f"in training: {place}{more}")
        groups.append((KINDS[leak.what].capitalize(), [], [asked, seen]))
    write_groups(groups or [("Nothing of it was seen", describe(leaks), [])], path)


def _in_order(leaks: Leaks) -> list[Leak]:
    """The worst first."""
    order = sorted(leaks.found, key=lambda n: (list(KINDS).index(leaks.found[n].what), n))
    return [leaks.found[place] for place in order]


def describe(leaks: Leaks, shown: int = 10) -> list[str]:
    """What was found, in lines, the worst first."""
    share = len(leaks.found) / leaks.evaluation if leaks.evaluation else 0.0
    lines = [
        f"{leaks.training:,} training records against {leaks.evaluation:,} examples: "
        f"{len(leaks.found):,} were seen ({share:.1%})"
    ]
    lines += [f"{leaks.count(kind):8,}  {told}" for kind, told in KINDS.items()]
    lines.append(f"{leaks.alike:8,}  no leak: a question of the training data, other pictures")
    if leaks.unusable:
        lines.append(
            f"{len(leaks.unusable):8,}  records could not be compared, the first: "
            f"{leaks.unusable[0]}"
        )
    order = _in_order(leaks)
    for leak in order[:shown]:
        more = f" and {leak.records - 1:,} more" if leak.records > 1 else ""
        lines.append(f"{leak.what}: {leak.evaluation}  <-  {leak.training[0]}{more}")
    if len(order) > shown:
        lines.append(f"… and {len(order) - shown:,} more: all are in the report")
    return lines
