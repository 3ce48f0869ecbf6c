"""Questions of published benchmarks, laid out and named as their publishers do it: two or three
records each, for a rehearsal and for tests."""

from __future__ import annotations

import pickle
from pathlib import Path

from lucida.apps.rehearse.files import lines, picture, write


def ten(*answers: str) -> list[dict]:
    """Ten annotators: the answers given, the last one repeated."""
    texts = [*answers, *[answers[-1]] * (10 - len(answers))]
    return [
        {"answer": text, "raw_answer": f"{text}s", "answer_confidence": "yes", "answer_id": n}
        for n, text in enumerate(texts, 1)
    ]


def vqa_release(root: Path, questions: str, annotations: str, folder: str) -> None:
    """Questions and annotations of one split, in the form of the VQA challenge."""
    asked = [
        {"image_id": 42, "question": "What colour is it?", "question_id": 420},
        {"image_id": 42, "question": "Is it red?", "question_id": 421},
        {"image_id": 7, "question": "How many?", "question_id": 70},
    ]
    answers = [ten("red", "red", "red", "maroon"), ten("yes"), ten("2", "2", "3")]
    kinds = [("what color", "other"), ("is it", "yes/no"), ("how many", "number")]
    annotated = [
        {**{k: q[k] for k in ("image_id", "question_id")}, "question_type": kind,
         "answer_type": type_, "multiple_choice_answer": "", "answers": given}
        for q, given, (kind, type_) in zip(asked, answers, kinds, strict=True)
    ]  # fmt: skip
    write(root, questions, {"info": {}, "task_type": "Open-Ended", "questions": asked})
    write(root, annotations, {"info": {}, "annotations": annotated[::-1]})
    for number in (42, 7):
        picture(root, f"coco/{folder}/COCO_{folder}_{number:012d}.jpg")


def vqa(root: Path) -> None:
    """VQAv2, OKVQA and VizWiz."""
    for part in ("val2014", "train2014"):
        vqa_release(
            root,
            f"vqav2/v2_OpenEnded_mscoco_{part}_questions.json",
            f"vqav2/v2_mscoco_{part}_annotations.json",
            part,
        )
        vqa_release(
            root,
            f"okvqa/OpenEnded_mscoco_{part}_questions.json",
            f"okvqa/mscoco_{part}_annotations.json",
            part,
        )
    for part in ("val", "train"):
        rows = [
            {"image": f"VizWiz_{part}_0.jpg", "question": "What is this?", "answers": ten("soup"),
             "answer_type": "other", "answerable": 1},
            {"image": f"VizWiz_{part}_1.jpg", "question": "And this?",
             "answers": ten("unanswerable"), "answer_type": "unanswerable", "answerable": 0},
        ]  # fmt: skip
        write(root, f"vizwiz/{part}.json", rows)
        picture(root, *(f"vizwiz/{part}/{row['image']}" for row in rows))


def gqa(root: Path) -> None:
    """GQA, balanced and with what answers entail."""
    for part in ("testdev", "train"):
        questions = {
            "201307251": {"imageId": "n1", "question": "Is it a t-shirt?", "answer": "yes",
                          "types": {"structural": "verify", "semantic": "obj"}, "isBalanced": True},
            "201640614": {"imageId": "n1", "question": "What is worn?", "answer": "t-shirt",
                          "types": {"structural": "query", "semantic": "rel"}, "isBalanced": True},
        }  # fmt: skip
        write(root, f"gqa/{part}_balanced_questions.json", questions)
    asked = {"imageId": "n1", "types": {"structural": "verify", "semantic": "obj"}}
    every = {
        name: asked | {"question": question, "answer": answer, "isBalanced": balanced,
                       "entailed": entailed}
        for name, question, answer, balanced, entailed in (
            ("1", "Is the cat red?", "yes", True, ["1", "2", "3"]),
            ("2", "Is there a cat?", "yes", False, ["4"]),
            ("3", "Is the cat blue?", "no", True, []),
            ("4", "Is it a pet?", "yes", False, []),
            ("5", "Is there a dog?", "no", True, ["3"]),
            ("6", "Is there a hen?", "no", True, ["2", "3"]),
        )
    }  # fmt: skip
    write(root, "gqa/testdev_all_questions.json", every)
    picture(root, "gqa/images/n1.jpg")


def textvqa(root: Path) -> None:
    """TextVQA with its OCR tokens."""
    for part in ("val", "train"):
        data = [
            {"question_id": 34602, "question": "what does it SAY?", "image_id": "a1",
             "answers": ["stop"] * 4 + ["go"] * 6, "set_name": part},
            {"question_id": 34603, "question": "who made it?", "image_id": "b2",
             "answers": ["nous les gosses"] * 10, "set_name": part},
        ]  # fmt: skip
        write(root, f"textvqa/TextVQA_0.5.1_{part}.json", {"dataset_name": "t", "data": data})
        words = [{"image_id": "a1", "ocr_tokens": ["STOP", "4-WAY"], "ocr_info": []},
                 {"image_id": "b2", "ocr_tokens": [], "ocr_info": []}]  # fmt: skip
        write(root, f"textvqa/TextVQA_Rosetta_OCR_v0.2_{part}.json", {"data": words})
    picture(root, "textvqa/train_images/a1.jpg", "textvqa/train_images/b2.jpg")


def grounding(root: Path) -> None:
    """RefCOCO, RefCOCO+, RefCOCOg and OCID-Ref."""
    for dataset, by in (("refcoco", "unc"), ("refcoco+", "unc"), ("refcocog", "umd")):
        name = "COCO_train2014_000000581857.jpg"
        instances = {
            "images": [{"id": 581857, "file_name": name, "width": 640, "height": 427}],
            "annotations": [
                {"id": 1719310, "image_id": 581857, "bbox": [10.0, 20.0, 100.0, 50.0],
                 "category_id": 1, "iscrowd": 0},
            ],
            "categories": [{"id": 1, "name": "person"}],
        }  # fmt: skip
        parts = ["train", "val", "test" if by == "umd" else "testA"]
        refs = []
        for number, part in enumerate([*parts, *(["testB"] if by == "unc" else [])]):
            said = [
                {"sent_id": 10 * number + n, "sent": sent, "raw": sent.upper(),
                 "tokens": sent.split()}
                for n, sent in enumerate(("the lady with the blue shirt", "lady left"))
            ]  # fmt: skip
            refs.append(
                {"ref_id": number, "ann_id": 1719310, "image_id": 581857, "split": part,
                 "file_name": "COCO_train2014_000000581857_16.jpg", "category_id": 1,
                 "sentences": said, "sent_ids": [s["sent_id"] for s in said]}
            )  # fmt: skip
        write(root, f"{dataset}/instances.json", instances)
        write(root, f"{dataset}/refs({by}).p", pickle.dumps(refs, protocol=2))
        picture(root, f"coco/train2014/{name}")
    expressions = {
        str(take): {"take_id": take, "scene_path": "ARID20/table/top/seq01/rgb/r.png",
                    "bbox": "[100, 100, 200, 200]", "sentence": f"the cup {take}",
                    "instance_id": 3}
        for take in (9, 10, 17)
    }  # fmt: skip
    for part in ("val", "train"):
        write(root, f"ocid-ref/{part}_expressions.json", expressions)
    picture(root, "ocid-ref/OCID-dataset/ARID20/table/top/seq01/rgb/r.png")


def yes_no(root: Path) -> None:
    """POPE and VSR."""
    name = "COCO_val2014_000000310196.jpg"
    for kind in ("random", "popular", "adversarial"):
        rows = (
            {"question_id": n, "image": name, "text": f"Is there a {thing} in the image?",
             "label": label}
            for n, (thing, label) in enumerate(
                [("snowboard", "yes"), ("dining table", "no"), ("person", "yes")], 1)
        )  # fmt: skip
        write(root, f"pope/coco_pope_{kind}.json", lines(*rows))
    picture(root, f"coco/val2014/{name}")
    rows = [
        {"image": "000000085637.jpg", "caption": "The cat is under the bed.", "label": label,
         "relation": relation, "subj": "cat", "obj": "bed"}
        for label, relation in ((1, "under"), (0, "under"), (1, "left of"))
    ]  # fmt: skip
    for part in ("test", "train"):
        write(root, f"vsr/{part}.jsonl", lines(*rows))
    picture(root, "vsr/images/000000085637.jpg")


def counting(root: Path) -> None:
    """TallyQA."""
    rows = [
        {"image": "VG_100K/1.jpg", "answer": 3, "question": "How many cats?", "question_id": 1,
         "data_source": "generated", "image_id": 1, "issimple": True},
        {"image": "VG_100K/1.jpg", "answer": 0, "question": "How many red cats?",
         "question_id": 2, "data_source": "amt", "image_id": 1, "issimple": False},
    ]  # fmt: skip
    write(root, "tallyqa/test.json", rows)
    train = [{k: v for k, v in row.items() if k != "issimple"} for row in rows]
    name = "COCO_train2014_000000000005.jpg"
    train.append(train[0] | {"question_id": 3, "image": f"train2014/{name}"})
    picture(root, f"coco/train2014/{name}")
    write(root, "tallyqa/train.json", train)
    picture(root, "tallyqa/VG_100K/1.jpg")


ASKED = (vqa, gqa, textvqa, grounding, yes_no, counting)
