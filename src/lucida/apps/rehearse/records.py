"""Records in the layouts that full-scale recipes name, with small pictures: enough for a few steps.

llava         LLaVA's: captions, several turns, boxes, OCR, and text alone in instructions
interleaved   MMC4's pages and OBELICS'
webdataset    shards of img2dataset, with the scores that a recipe filters by
"""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from pathlib import Path

from PIL import Image

from lucida.apps.rehearse.files import lines, write
from lucida.core.errors import RunError

COUNT = 32
SIZES = ((96, 64), (64, 96), (64, 64), (160, 40))
COLOURS = {"red": (200, 40, 30), "green": (30, 170, 60), "blue": (40, 60, 220)}

CAPTIONS = [
    ("Give a brief description of the image.\n<image>", "a {} wall in the afternoon sun"),
    ("<image>\nWrite a terse but informative summary of the picture.", "{} paint on wood"),
]
INSTRUCTIONS = [
    [("<image>\nWhich colour?\nAnswer the question using a single word or phrase.", "{}"),
     ("Is it red?\nAnswer the question using a single word or phrase.", "No")],
    [("<image>\nWhich is it?\nA. a wall\nB. a lake\nAnswer with the option's letter from the given "
      "choices directly.", "A")],
    [("<image>\nPlease provide a short description for this region: [0.1, 0.25, 0.5, 0.75].",
      "the {} half of the wall"),
     ("Please provide the bounding box coordinate of the region this sentence describes: the left.",
      "[0.0, 0.0, 0.5, 1.0]")],
    [("Provide a one-sentence caption for the provided image.\nReference OCR token: STOP, 4-WAY\n"
      "<image>", "A {} sign that says stop.")],
]  # fmt: skip
TALK = [("Write a line about the sea.", "It is never twice the same."), ("Shorter.", "It moves.")]
"""Of the records without a picture; LLaVA's come from ShareGPT."""


def write_source(values: dict, folder: Path) -> dict:
    """What a source of a recipe reads, below the folder; its values with the new paths.

    RunError for a kind whose records are not made here.
    """
    kind = values["kind"]
    if kind.startswith("world"):
        return values
    if kind not in WRITERS:
        raise RunError(
            f"records of a source of the kind {kind} cannot be made for a rehearsal",
            expected=", ".join(WRITERS),
            given=kind,
            remedy="train the recipe on a small copy of its data instead",
        )
    path = place(values["path"])
    images = place(values["images"]) if values.get("images") else str(Path(path).parent)
    WRITERS[kind](folder, path, images, values)
    given = {"images": str(folder / images)} if values.get("images") else {}
    return values | {"path": str(folder / path)} | given


def place(path: str) -> str:
    """Where a path of a recipe lies below the rehearsal's folder."""
    parts = [part for part in Path(path).parts if part not in ("/", "..", "~")]
    return str(Path(*parts))


def jpeg(number: int) -> tuple[str, bytes]:
    """The name of a colour, and a picture of it with a darker part."""
    name = list(COLOURS)[number % 3]
    picture = Image.new("RGB", SIZES[number % 4], COLOURS[name])
    picture.paste(tuple(each // 2 for each in COLOURS[name]), (0, 0, 20 + number, 30))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG")
    return name, buffer.getvalue()


def write_llava(folder: Path, path: str, images: str, values: dict) -> None:
    """Captions where the file's name says so, else instructions, every fifth without a picture
    (none where it says `stripped`)."""
    name = Path(path).name
    captions = any(word in name for word in ("blip", "chat", "caption", "cap100k"))
    records = []
    for number in range(COUNT):
        record: dict = {"id": f"{number:09d}"}
        turns = [CAPTIONS[number % 2]] if captions else INSTRUCTIONS[number % len(INSTRUCTIONS)]
        if not captions and number % 5 == 4 and "stripped" not in name:
            turns = TALK
        else:
            record["image"] = f"{number % 4:05d}/{number:09d}.jpg"
            colour, content = jpeg(number)
            turns = [(asked, said.format(colour)) for asked, said in turns]
            write(folder, f"{images}/{record['image']}", content)
        spoken = [("human", turn[0]) if who == 0 else ("gpt", turn[1])
                  for turn in turns for who in (0, 1)]  # fmt: skip
        record["conversations"] = [{"from": who, "value": text} for who, text in spoken]
        records.append(record)
    write(folder, path, lines(*records) if name.endswith("jsonl") else records)


def write_interleaved(folder: Path, path: str, images: str, values: dict) -> None:
    """Two shards of pages, with two pictures each, of which every eighth is missing."""
    obelics = values.get("layout") == "obelics"
    numbers = itertools.count()
    for shard in range(2):
        pages = []
        for page in range(COUNT // 2):
            texts = [f"We painted wall {page}.", "It dried at noon.", "Then we went home."]
            shown = []
            for sentence in (0, 2):
                number = next(numbers)
                name = f"{number:08d}.jpg"
                if number % 8 != 7 or obelics:
                    write(folder, f"{images}/{name}", jpeg(number)[1])
                shown.append({"image_name": name, "raw_url": f"https://example.org/{name}",
                              "matched_text_index": sentence, "matched_sim": 0.25})  # fmt: skip
            pages.append({"text_list": texts, "url": f"https://example.org/{page}",
                          "image_info": shown, "could_have_url_duplicate": 0})  # fmt: skip
            if obelics:
                mixed = [texts[0], None, texts[1], texts[2]]
                addresses = [None, shown[0]["raw_url"], None, None]
                pages[-1] = {"texts": mixed, "images": addresses}
        write(folder, path.replace("*", f"docs_shard_{shard}"), lines(*pages))


def write_shards(folder: Path, path: str, images: str, values: dict) -> None:
    """Two shards; the members of JSON have every number that the recipe asks for."""
    ranked = str(values.get("rank_by") or "").replace("-", "+").split("+")
    asked = {name.strip() for name in (*ranked, *(values.get("at_least") or ())) if name.strip()}
    for shard in range(2):
        file = folder / path.replace("*", f"{shard:05d}")
        file.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(file, "w") as archive:
            for number in range(COUNT):
                colour, picture = jpeg(number)
                scores = dict.fromkeys(asked, 0.2 + number / 100)
                said = {"caption": f"a {colour} wall", "url": "https://example.org", "status": "ok"}
                members = {"jpg": picture, "txt": said["caption"].encode(),
                           "json": json.dumps(said | scores).encode()}  # fmt: skip
                for ending, content in members.items():
                    info = tarfile.TarInfo(f"{shard:05d}{number:04d}.{ending}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))


WRITERS = {"llava": write_llava, "interleaved": write_interleaved, "webdataset": write_shards}


def texts() -> list[str]:
    """What the records say, for a tokenizer to learn."""
    said = [text for turns in (CAPTIONS, TALK, *INSTRUCTIONS) for turn in turns for text in turn]
    return [*said, "We painted a wall. It dried at noon. Then we went home.", *COLOURS]
