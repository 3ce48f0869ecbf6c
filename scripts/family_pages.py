"""Tables of the pages in docs/families/: what `fetch` and `plan` say of each family's recipe.

    python scripts/family_pages.py [NAME …]     writes them into the pages; `plan` takes minutes

A page has its own words, and between `<!-- files -->` or `<!-- plan -->` and `<!-- end -->` what
stands here. `tests/recipes/test_pages.py` holds the pages against this file.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAGES = Path(__file__).parent.parent / "docs" / "families"


@dataclass(frozen=True)
class Place:
    """Devices to train on, and the changes of the recipe that make it fit there."""

    count: int
    device: str
    changes: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """As `plan` wants them."""
        said = [f"'{each}'" if set("{[ ") & set(each) else each for each in self.changes]
        return " ".join([*said, f"--device {self.device} --devices {self.count}"])


def adapt(*stages: str) -> tuple[str, ...]:
    """Adapters on four-bit weights in these stages, which train the language model otherwise."""
    lora = "{rate: 2e-4, rank: 64, alpha: 128, targets: [language]}"
    changes = ["model.language.quantize=4bit"]
    for stage in stages:
        changes += [f"stages.{stage}.train.language=frozen", f"stages.{stage}.lora={lora}"]
    return tuple(changes)


def cut(**passes: int) -> tuple[str, ...]:
    """Stage → passes that its step is cut into."""
    return tuple(f"stages.{stage}.batch.accumulate={many}" for stage, many in passes.items())


FAMILIES = {
    "prismatic": (
        "prism-dinosiglip+7b",
        (
            Place(8, "a100-80g"),
            Place(8, "h100"),
            Place(4, "v100-32g", ("precision=fp16", *adapt("sft"), *cut(sft=8))),
            Place(1, "4090", (*adapt("sft"), *cut(sft=64))),
        ),
    ),
    "vila": (
        "vila-7b",
        (
            Place(8, "a100-80g", cut(pretrain=4)),
            Place(8, "h100", cut(pretrain=4)),
            Place(
                4,
                "v100-32g",
                ("precision=fp16", *adapt("pretrain", "sft"), *cut(align=8, pretrain=32, sft=8)),
            ),
            Place(1, "4090", (*adapt("pretrain", "sft"), *cut(align=64, pretrain=256, sft=64))),
        ),
    ),
    "alignment": (
        "improved-alignment",
        (
            Place(8, "a100-80g"),
            Place(8, "h100"),
            Place(4, "v100-32g", cut(**{"align-web": 8, "align-synthetic": 8})),
            Place(
                1,
                "4090",
                cut(**{"align-web": 32, "align-synthetic": 64, "multitask": 64, "instruct": 64}),
            ),
        ),
    ),
    "qwen": (
        "qwen2.5-1.5b-lora",
        (
            Place(8, "a100-80g", ("precision=bf16",)),
            Place(8, "h100", ("precision=bf16",)),
            Place(4, "v100-32g"),
            Place(1, "4090", ("precision=bf16", *cut(align=16, sft=16))),
        ),
    ),
}
"""Page → the recipe that it is about, and where it is planned for."""


def list_files(name: str) -> Iterator[str]:
    """What the recipe needs, as `fetch` knows it."""
    from lucida.apps.fetch.needs import needs_of
    from lucida.core.recipe import load_recipe

    yield "| what | where from | GB | licence |\n|---|---|---|---|\n"
    for need in needs_of(load_recipe(name)):
        source = f"Hub, `{need.repo}`" if need.repo else need.address
        size = "" if need.gigabytes is None else f"{need.gigabytes:g}"
        yield f"| {need.what} | {source} | {size} | {need.licence} |\n"


def list_plans(name: str, places: tuple[Place, ...]) -> Iterator[str]:
    """Hours and memory of every stage in every place."""
    from lucida.apps.plan.devices import find_device
    from lucida.apps.plan.estimate import plan_recipe
    from lucida.core.recipe import load_recipe

    columns = ["devices", "stage", "trains", "steps", "hours", "GiB a device", "engine"]
    yield f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n"
    known: dict = {}
    for place in places:
        device = find_device(place.device)
        recipe = load_recipe(name, list(place.changes))
        # Devices of one memory and precision have one plan, but for its hours.
        alike = (place.count, place.changes, device.precision, device.memory)
        if alike not in known:
            known[alike] = device, plan_recipe(recipe, device, place.count)["stages"]
        first, stages = known[alike]
        faster = device.peak * device.share / (first.peak * first.share)
        for number, stage in enumerate(stages):
            if stage["hours"] is not None:
                stage = stage | {"hours": stage["hours"] / faster}
            where = f"{place.count} x {device.name}" if number == 0 else ""
            cells = [where, stage["name"], *tell_stage(stage, device.memory)]
            yield f"| {' | '.join(cells)} |\n"


def tell_stage(stage: dict, memory: float) -> Iterator[str]:
    """Of a planned stage what trains, steps, hours, and the least memory, with its engine."""
    from lucida.apps.plan.fitting import fits

    trained = stage["trained_by_part"]
    yield ", ".join(f"{part} {size / 1e6:,.1f} M" for part, size in trained.items())
    yield "unknown" if stage["steps"] is None else f"{stage['steps']:,}"
    yield "unknown" if stage["hours"] is None else f"{stage['hours']:,.1f}"
    room = {engine: parts["peak"] for engine, parts in stage["memory"].items()}
    engine = next((each for each in room if fits(room[each], memory)), min(room, key=room.get))
    yield f"{room[engine] / 2**30:,.1f}"
    passes = stage["fits_with"].get(engine)
    if fits(room[engine], memory):
        yield engine
    elif passes is not None:
        yield f"{engine}, fits with `stages.{stage['name']}.batch.accumulate={passes}`"
    else:
        yield f"{engine}, does not fit"


def list_commands(name: str, places: tuple[Place, ...]) -> Iterator[str]:
    """The command behind each part of the table, and what trains there."""
    yield "```bash\n"
    for place in places:
        yield f"lucida plan {name} {place.words}\n"
    yield "```\n"


def fill(page: str, part: str, text: str) -> str:
    """A page with a marked part replaced."""
    found = re.compile(rf"(<!-- {part} -->\n).*?(<!-- end -->)", re.DOTALL)
    assert found.search(page), part
    return found.sub(lambda match: f"{match[1]}\n{text}\n{match[2]}", page)


def read_part(page: str, part: str) -> str:
    """What stands in a marked part of a page."""
    return re.search(rf"<!-- {part} -->\n\n(.*?)\n<!-- end -->", page, re.DOTALL)[1]


def main(names: list[str]) -> None:
    """Write the tables of these pages, or of all."""
    for page in names or FAMILIES:
        name, places = FAMILIES[page]
        file = PAGES / f"{page}.md"
        text = fill(file.read_text(), "files", "".join(list_files(name)))
        text = fill(text, "commands", "".join(list_commands(name, places)))
        file.write_text(text)
        file.write_text(fill(text, "plan", "".join(list_plans(name, places))))
        print(f"written: {file}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
