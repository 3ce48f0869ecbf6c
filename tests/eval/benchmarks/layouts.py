"""Tiny annotation files laid out and named as their publishers do it, with two or three records."""

import base64
import io
import json
import pickle
from importlib.util import find_spec

from PIL import Image

from lucida.eval.benchmarks.blink import SUBTASKS
from lucida.eval.benchmarks.mmmu import DISCIPLINES
from lucida.eval.metrics.mme import COGNITION, PERCEPTION


def write(root, path, content):
    """A file below the root: bytes, text, or anything else as JSON."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        text = content if isinstance(content, str) else json.dumps(content)
        file.write_text(text, encoding="utf-8")
    return file


def lines(*values):
    return "".join(json.dumps(value) + "\n" for value in values)


def png(colour="red", size=(8, 6)):
    content = io.BytesIO()
    Image.new("RGB", size, colour).save(content, "PNG")
    return content.getvalue()


def picture(root, *paths):
    for number, path in enumerate(paths):
        write(root, path, png(("red", "green", "blue")[number % 3], (8 + number, 6)))


def ten(*answers):
    """Ten annotators: the answers given, the last one repeated."""
    texts = [*answers, *[answers[-1]] * (10 - len(answers))]
    return [
        {"answer": text, "raw_answer": f"{text}s", "answer_confidence": "yes", "answer_id": n}
        for n, text in enumerate(texts, 1)
    ]


def vqa_release(root, questions, annotations, folder):
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


def vqa(root):
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


def gqa(root):
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


def textvqa(root):
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


def grounding(root):
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


def yes_no(root):
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


def counting(root):
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


def choice(root):
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


def mmbench(root):
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


def mme(root):
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


def captions(root):
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


def pathvqa(root):
    for split in ("test", "train"):
        rows = [
            {"image": f"{split}_0001", "question": "is it benign?", "answer": "Yes"},
            {"image": f"{split}_0001", "question": "where are the cells?", "answer": "the liver"},
        ]
        write(root, f"pathvqa/pvqa/qas/{split}/{split}_qa.pkl", pickle.dumps(rows))
        picture(root, f"pathvqa/pvqa/images/{split}/{split}_0001.jpg")


def mmmu(root):
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


def judged(root):
    vet = {"v1_0": {"imagename": "v1_0.png", "question": "What is x?", "answer": "-1<AND>-5",
                    "capability": ["ocr", "math"], "imagesource": "web"}}  # fmt: skip
    write(root, "mm-vet/mm-vet.json", vet)
    picture(root, "mm-vet/images/v1_0.png")
    rows = [{"question_id": n, "image": "001.jpg", "category": "conv", "text": f"Ask {n}?"}
            for n in range(3)]  # fmt: skip
    write(root, "llava-bench/questions.jsonl", lines(*rows))
    picture(root, "llava-bench/images/001.jpg")


def text(root):
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


def documents(root):
    for part in ("val", "train"):
        rows = [
            {"questionId": 49153 + n, "question": "What is the total?", "answers": answers,
             "question_types": types, "image": f"documents/{name}.png", "docId": 14465,
             "data_split": part}
            for n, (name, answers, types) in enumerate([
                ("pybv0228_81", ["$ 12.50", "12.50"], ["table/list"]),
                ("xnbl0037_1", ["University of California"], ["form", "layout"]),
            ])
        ]  # fmt: skip
        write(root, f"docvqa/{part}_v1.0_withQT.json", {"dataset_name": "docvqa", "data": rows})
        picture(root, *(f"docvqa/{row['image']}" for row in rows))
        rows = [
            {"questionId": 65718 + n, "question": "How many?", "image_local_name": f"{n}.jpeg",
             "image_url": "https://somewhere", "answers": [answer], "answer_type": [kind],
             "operation/reasoning": ["counting"]}
            for n, (answer, kind) in enumerate([("4", "non-extractive"), ("blue", "single span")])
        ]  # fmt: skip
        file = f"infovqa/infographicsVQA_{part}_v1.0_withQT.json"
        write(root, file, {"dataset_name": "infographicVQA", "data": rows})
        picture(root, "infovqa/infographicsvqa_images/0.jpeg")
        picture(root, "infovqa/infographicsvqa_images/1.jpeg")
    for part in ("test", "train"):
        for kind, label in (("human", "14"), ("augmented", "Yes")):
            row = {"imgname": f"{kind}.png", "query": "Which is it?", "label": label}
            write(root, f"chartqa/{part}/{part}_{kind}.json", [row, {**row, "label": "45%"}])
            picture(root, f"chartqa/{part}/png/{kind}.png")
    rows = [
        {"dataset_name": name, "id": 7, "image_path": f"{name}/1.png", "type": kind,
         "question": "what is written in the image?", "answers": answers}
        for name, kind, answers in [
            ("IIIT5K", "Regular Text Recognition", "CENTRE"),
            ("docVQA", "Doc-oriented VQA", ["1/8/93", "1/8/1993"]),
            ("HME100k", "Handwritten Mathematical Expression Recognition", ["x + 1"]),
        ]
    ]  # fmt: skip
    write(root, "ocrbench/OCRBench.json", rows)
    picture(root, *(f"ocrbench/OCRBench_Images/{row['image_path']}" for row in rows))
    rows = [
        {"image_id": name, "caption_id": n, "caption_str": said, "reference_strs": all_said}
        for name, all_said in (
            ("t1", ["a sign says stop here", "a red stop sign"]),
            ("t2", ["a bottle of milk", "a milk bottle with a label"]),
        )
        for n, said in enumerate(all_said)
    ]
    write(root, "textcaps/TextCaps_0.1_val.json", {"dataset_name": "textcaps", "data": rows})
    picture(root, "textvqa/train_images/t1.jpg", "textvqa/train_images/t2.jpg")


def parquet(root, path, rows):
    import pyarrow.parquet

    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)


def held(colour="red"):
    return {"bytes": png(colour), "path": None}


def vision_centric(root):
    star = {"question": "Which?\nOptions: A: an ear, B: an eye, C: a nose", "answer": "B",
            "category": "fine-grained perception", "l2_category": "object counting"}  # fmt: skip
    rows = [{"index": n, "image": png(), **star} for n in range(2)]
    parquet(root, "mmstar/mmstar.parquet", [*rows, {**rows[0], "index": 2, "category": "math"}])
    asked = "Which way?\n\nA. left\nB. right\nPlease answer directly with only the letter of the "
    asked += "correct option and nothing else."
    rows = [{"image": held(), "question": asked, "answer": "B"},
            {"image": held("blue"), "question": "How many?", "answer": "Two"}]  # fmt: skip
    for n, row in enumerate(rows):
        parquet(root, f"realworldqa/data/test-0000{n}-of-00002.parquet", [row])
    for kind, sources in (("2D", ("ADE20K", "COCO")), ("3D", ("Omni3D",))):
        rows = [
            {"idx": n, "type": kind, "task": "Count", "image": held(), "question": "How many?",
             "choices": ["1", "2", "3"], "answer": f"({answer})", "source": source}
            for n, (source, answer) in enumerate([(s, a) for s in sources for a in "AC"])
        ]  # fmt: skip
        parquet(root, f"cv-bench/test_{kind.lower()}.parquet", rows)
    for name in SUBTASKS:
        rows = [
            {"idx": f"val_{name}_{n}", "question": "Which?", "choices": ["the first", "the second"],
             "prompt": "Which?\nSelect from the following choices.\n(A) the first\n(B) the second",
             "answer": f"({answer})", "image_1": held(), "image_2": held("blue"), "image_3": None,
             "image_4": None}
            for n, answer in enumerate("AB"[: 1 + (name == "Counting")], 1)
        ]  # fmt: skip
        parquet(root, f"blink/{name}/val-00000-of-00001.parquet", rows)
    table = "lndex,Question,Options,Correct Answer\n"
    for number, answer in enumerate("abba", 1):
        table += f'{number},"Is the door open, or not?",(a) Open (b) Closed,({answer})\n'
        picture(root, f"mmvp/MMVP Images/{number}.jpg")
    write(root, "mmvp/Questions.csv", table)
    rows = [
        {"Index": n, "Question_Type": kind, "Source": "Flickr30K", "Image_0": held(),
         "Image_1": held("blue"), "Question_0": "Is it red?", "Question_1": "Is it blue?",
         "Image_0_Question_0": yes, "Image_1_Question_0": no, "Image_0_Question_1": no,
         "Image_1_Question_1": yes}
        for n, (kind, yes, no) in enumerate(
            [("yes_no", "Yes", "No"), ("multiple_choice", "A", "B")]
        )
    ]  # fmt: skip
    parquet(root, "naturalbench/data/train-00000-of-00001.parquet", rows)


def hallucination(root):
    def row(category, subcategory, figure, question, truth, visual="1"):
        name = f"./hallusion_bench/{category}/{subcategory}/0_{figure}.png"
        return {"category": category, "subcategory": subcategory, "visual_input": visual,
                "set_id": "0", "figure_id": str(figure), "question_id": str(question),
                "question": "Is it larger?", "gt_answer": truth, "gt_answer_details": "It is.",
                "sample_note": "circle", "filename": None if visual == "0" else name}  # fmt: skip

    rows = [row("VD", "illusion", figure, question, "01"[figure ^ question])
            for figure in (0, 1) for question in (0, 1)]  # fmt: skip
    rows += [row("VS", "map", 0, 0, "1", "0"), row("VS", "map", 1, 0, "0", "2")]
    write(root, "hallusion-bench/HallusionBench.json", rows)
    for each in rows:
        if each["filename"]:
            picture(root, f"hallusion-bench/{each['filename'][2:]}")
    kinds = ["hallucination", "attribute-state", "attribute-number", "attribute-action"]
    types = [f"discriminative-{kind}" for kind in kinds] + ["relation"]
    asked = [{"id": 1005 + n, "image": "AMBER_1.jpg", "query": "Is there a sky?"}
             for n in range(len(types))]  # fmt: skip
    write(root, "amber/data/query/query_discriminative.json", asked)
    truths = [{"id": 1, "type": "generative", "truth": ["sky"], "hallu": ["dog"]}]
    truths += [{"id": 1005 + n, "type": name, "truth": ("no", "yes")[n % 2]}
               for n, name in enumerate(types)]  # fmt: skip
    write(root, "amber/data/annotations.json", truths)
    picture(root, "amber/image/AMBER_1.jpg")


def medical(root):
    rows = [
        {"qid": n, "image_name": "synpic1.jpg", "question": "Where is it?", "answer": answer,
         "answer_type": kind, "phrase_type": phrase}
        for n, (answer, kind, phrase) in enumerate([
            ("Yes", "CLOSED", "test_freeform"), ("left lung", "CLOSED ", "test_para"),
            ("in the left lung", "OPEN", "test_freeform"), ("no", "CLOSED", "freeform"),
        ])
    ]  # fmt: skip
    write(root, "vqa-rad/VQA_RAD Dataset Public.json", rows)
    picture(root, "vqa-rad/VQA_RAD Image Folder/synpic1.jpg")
    for part in ("test", "train"):
        rows = [
            {"qid": n, "img_name": "xmlab1/source.jpg", "question": "Is it?", "answer": answer,
             "answer_type": kind, "q_lang": language, "content_type": "Organ"}
            for n, (answer, kind, language) in enumerate(
                [("No", "CLOSED", "en"), ("Liver, Heart", "OPEN", "en"), ("没有", "CLOSED", "zh")]
            )
        ]  # fmt: skip
        write(root, f"slake/{part}.json", rows)
    picture(root, "slake/imgs/xmlab1/source.jpg")


EVERY = (vqa, gqa, textvqa, grounding, yes_no, counting, choice, mmbench, mme, captions, pathvqa,
         mmmu, judged, text, documents, vision_centric, hallucination, medical)  # fmt: skip


def write_all(root):
    for each in EVERY:
        if each not in (mmmu, vision_centric) or find_spec("pyarrow"):
            each(root)
