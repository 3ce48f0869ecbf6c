"""Suites, captions and texts of published benchmarks, laid out and named as their publishers do it:
two or three records each, for a rehearsal and for tests."""

from __future__ import annotations

import base64
import pickle
from importlib.util import find_spec
from pathlib import Path

from lucida.apps.rehearse.files import lines, picture, png, write
from lucida.eval.benchmarks.mmmu import DISCIPLINES
from lucida.eval.metrics.mme import COGNITION, PERCEPTION


def choice(root: Path) -> None:
    """AI2D, ScienceQA and SEED-Bench."""
    for number in (0, 1):
        questions = {
            f"What is {letter} in diagram {number}?": {
                "abcLabel": True, "answerTexts": ["ears", "nose", "mouth", "face"],
                "correctAnswer": n, "questionId": f"{number}.png-{n}"}
            for n, letter in enumerate("AB")
        }  # fmt: skip
        diagram = {"imageName": f"{number}.png", "questions": questions}
        write(root, f"ai2d/questions/{number}.png.json", diagram)
        picture(root, f"ai2d/images/{number}.png")
    write(root, "ai2d/ai2d_test_ids.csv", "1\n")
    problem = {"question": "Which is a mammal?", "choices": ["frog", "cat"], "answer": 1,
               "hint": "Mammals have fur.", "image": "image.png", "subject": "natural science",
               "grade": "grade2", "split": "test", "lecture": "", "solution": ""}  # fmt: skip
    problems = {
        "1": problem,
        "2": problem | {"image": None},
        "3": problem | {"split": "train"},
        "4": problem | {"hint": "", "answer": 0},
    }
    write(root, "scienceqa/problems.json", problems)
    picture(root, *(f"scienceqa/images/{s}/image.png" for s in ("test/1", "train/3", "test/4")))
    question = {"answer": "B", "choice_a": "one", "choice_b": "two", "choice_c": "three",
                "choice_d": "four", "data_id": "1454426_2591111986", "data_type": "image",
                "question": "How many towels?", "question_id": "101669",
                "question_type_id": 5}  # fmt: skip
    film = question | {"data_type": "video", "question_id": "v1", "segment": [1, 2]}
    types = {"Scene Understanding": 1, "Instances Counting": 5}
    write(root, "seed-bench/SEED-Bench.json",
          {"questions": [question, film], "question_type": types})  # fmt: skip
    picture(root, "seed-bench/SEED-Bench-image/1454426_2591111986")


def mmbench(root: Path) -> None:
    """MMBench, English and Chinese, with a rotation."""
    columns = "index question hint A B C D answer category image source l2-category comment split"
    image = base64.b64encode(png()).decode()
    rows = []
    for index, question, answer, options in (
        (241, "Which is it?", "A", ("cat", "dog", "", "")),
        (1000241, "Which is it?", "B", ("dog", "cat", "", "")),
        (252, "Which is big?", "C", ("ant", "bee", "elephant", "fly")),
    ):
        hint = "Look closely" if index == 252 else "nan"
        category = "object" if index != 252 else "size"
        rows.append([index, question, hint, *options, answer, category,
                     image if index < 10**6 else "241", "web", "look", "", "dev"])  # fmt: skip
    text = "\n".join("\t".join(map(str, row)) for row in (columns.split(), *rows)) + "\n"
    for file in ("mmbench_dev_20230712.tsv", "mmbench_dev_cn_20231003.tsv"):
        write(root, f"mmbench/{file}", text)


def mme(root: Path) -> None:
    """MME in its folders."""
    release = "mme/MME_Benchmark_release_version"
    for category in (*PERCEPTION, *COGNITION):
        request = "Please answer yes or no."
        text = f"Is it a cat? {request}\tYes\nIs it a dog? {request}\tNo\n"
        nested = category == "artwork"
        for number in (1, 2) if category == "count" else (1,):
            name = f"{number:06d}"
            place = f"{release}/{category}"
            asked = f"{place}/questions_answers_YN" if nested else place
            write(root, f"{asked}/{name}.txt", text)
            picture(root, f"{place}/images/{name}.jpg" if nested else f"{place}/{name}.jpg")


def captions(root: Path) -> None:
    """Captions of COCO and Flickr30k, and NoCaps."""

    def sentences(*texts):
        return [{"raw": text, "tokens": text.split(), "sentid": n} for n, text in enumerate(texts)]

    images = [
        {"cocoid": 100 + n, "filepath": folder, "filename": f"COCO_{folder}_{100 + n:012d}.jpg",
         "split": split, "imgid": n, "sentences": sentences(*texts)}
        for n, (folder, split, texts) in enumerate([
            ("val2014", "test", ("A red star on a hill.", "There is a red star here")),
            ("val2014", "test", ("A dog runs in the park.", "The dog is running")),
            ("train2014", "restval", ("Two men at a table.",)),
            ("train2014", "train", ("A cat on a mat.",)),
            ("val2014", "val", ("A bird.",)),
        ])
    ]  # fmt: skip
    write(root, "coco-captions/dataset_coco.json", {"dataset": "coco", "images": images})
    picture(root, *(f"coco/{each['filepath']}/{each['filename']}" for each in images))
    shown = [
        {"imgid": n, "filename": f"{n}.jpg", "split": split, "sentences": sentences(*texts)}
        for n, (split, texts) in enumerate(
            [("test", ("A man climbs.", "One man.")), ("test", ("A blue car.",)),
             ("train", ("A tree.",))])
    ]  # fmt: skip
    write(root, "flickr30k/dataset_flickr30k.json", {"dataset": "flickr30k", "images": shown})
    picture(root, *(f"flickr30k/flickr30k-images/{n}.jpg" for n in range(3)))
    noted = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "domain": domain, "open_images_id": str(n)}
                   for n, domain in enumerate(("in-domain", "out-domain"))],
        "annotations": [{"id": 0, "image_id": 0, "caption": "A man climbs a hill."},
                        {"id": 1, "image_id": 1, "caption": "A blue car on a street."},
                        {"id": 2, "image_id": 1, "caption": "The car is blue."}],
    }  # fmt: skip
    write(root, "nocaps/nocaps_val_4500_captions.json", noted)
    picture(root, "nocaps/val/0.jpg", "nocaps/val/1.jpg")


def pathvqa(root: Path) -> None:
    """PathVQA."""
    for split in ("test", "train"):
        rows = [
            {"image": f"{split}_0001", "question": "is it benign?", "answer": "Yes"},
            {"image": f"{split}_0001", "question": "where are the cells?", "answer": "the liver"},
        ]
        write(root, f"pathvqa/pvqa/qas/{split}/{split}_qa.pkl", pickle.dumps(rows))
        picture(root, f"pathvqa/pvqa/images/{split}/{split}_0001.jpg")


def mmmu(root: Path) -> None:
    """MMMU, one record for each subject."""

    def row(number, subject, part, **other):
        return {
            "id": f"{part}_{subject}_{number}",
            "question": "Compare <image 1> with <image 2>; what does <image 1> show?",
            "options": "['a lens', '<image 3>', \"it's none\"]",
            "answer": "C",
            "question_type": "multiple-choice",
            **{f"image_{n}": None for n in range(1, 8)},
            **{f"image_{n}": {"bytes": png(c), "path": f"{n}.png"}
               for n, c in enumerate(("red", "green", "blue"), 1)},
            **other,
        }  # fmt: skip

    import pyarrow.parquet

    for subject in " ".join(DISCIPLINES.values()).split():
        for part, name in (("validation", "validation"), ("dev", "dev")):
            rows = [row(1, subject, name)]
            if subject == "Math":
                open_ = {"question": "Solve <image 1>.", "options": "[]",
                         "question_type": "open", "answer": "['1/2', '0.5']"}  # fmt: skip
                rows.append(row(2, subject, name, **open_))
            file = root / "mmmu" / subject / f"{part}-00000-of-00001.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)


def write_judged(root: Path) -> None:
    """MM-Vet and LLaVA-Bench."""
    vet = {"v1_0": {"imagename": "v1_0.png", "question": "What is x?", "answer": "-1<AND>-5",
                    "capability": ["ocr", "math"], "imagesource": "web"}}  # fmt: skip
    write(root, "mm-vet/mm-vet.json", vet)
    picture(root, "mm-vet/images/v1_0.png")
    rows = [{"question_id": n, "image": "001.jpg", "category": "conv", "text": f"Ask {n}?"}
            for n in range(3)]  # fmt: skip
    write(root, "llava-bench/questions.jsonl", lines(*rows))
    picture(root, "llava-bench/images/001.jpg")


def text(root: Path) -> None:
    """MMLU, BBH, DROP and a book."""
    row = '"What is 2+2, ""exactly""?",3,4,5,6,B\n'
    for subject in ("abstract_algebra", "virology"):
        write(root, f"mmlu/test/{subject}_test.csv", row * 2)
        write(root, f"mmlu/dev/{subject}_dev.csv", "Worked?,w,x,y,z,D\n" * 6)
    examples = [{"input": "not ( True ) is", "target": "False"}] * 2
    write(root, "bbh/bbh/boolean_expressions.json", {"canary": "c", "examples": examples})
    head = "Do not train on this.\n-----\nEvaluate.\n\nQ: True is\nA: So the answer is True.\n"
    write(root, "bbh/cot-prompts/boolean_expressions.txt", head)
    date = {"day": "", "month": "", "year": ""}
    answer = {"number": "3", "date": date, "spans": []}
    other = {"number": "", "date": date, "spans": ["three", "goals"]}
    when = {"number": "", "date": {"day": "4", "month": "July", "year": ""}, "spans": []}
    passages = {
        "nfl_1": {"passage": "They won 3 goals.", "wiki_url": "w", "qa_pairs": [
            {"query_id": "q1", "question": "How many goals?", "answer": answer,
             "validated_answers": [other]},
            {"query_id": "q2", "question": "When?", "answer": when}]},
    }  # fmt: skip
    write(root, "drop/drop_dataset_dev.json", passages)
    write(root, "drop/drop_dataset_train.json", passages)
    write(root, "perplexity/book.txt", "It was a bright cold day in April.\n" * 100)


SUITES = (choice, mmbench, mme, captions, pathvqa, write_judged, text)
SUITES = (*SUITES, mmmu) if find_spec("pyarrow") else SUITES
