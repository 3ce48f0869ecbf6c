"""Tiny annotation files laid out and named as their publishers do it, with two or three records:
those of a rehearsal, and of the benchmarks that no full-scale preset names."""

from importlib.util import find_spec

from lucida.apps.rehearse.files import lines, picture, png, write
from lucida.apps.rehearse.questions import ASKED, ten
from lucida.apps.rehearse.suites import SUITES
from lucida.eval.benchmarks.blink import SUBTASKS
from lucida.eval.benchmarks.safety import QUESTIONS, SCENARIOS

__all__ = ["lines", "picture", "png", "ten", "write", "write_all"]


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
        file = f"infovqa/infographicsVQA_{part}_v1.0{'_withQT' * (part == 'val')}.json"
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


def mmmu_pro(root):
    pictures = {f"image_{n}": held(c) for n, c in enumerate(("red", "green", "blue"), 1)}
    asked = {"question": "Compare <image 1>; which is it?", "subject": "Art", "img_type": "['x']",
             "topic_difficulty": "Easy", "explanation": "", **pictures}  # fmt: skip
    folder = "mmmu-pro/standard (10 options)"
    for n, answer in enumerate("BJ"):
        options = str(["<image 3>", "a lens", "<image 2>", *(f"number {k}" for k in range(7))])
        row = {"id": f"test_Art_{n}", "options": options, "answer": answer, **asked}
        parquet(root, f"{folder}/test-0000{n}-of-00002.parquet", [row])
    row = {"id": "test_Art_0", "image": held(), "options": options, "answer": "C", "subject": "Art"}
    parquet(root, "mmmu-pro/vision/test-00000-of-00001.parquet", [row])


def mathvista(root):
    def problem(number, answer, kind, choices=None, precision=None, unit=None):
        return {"question": "How long is it?", "image": f"images/{number}.jpg", "choices": choices,
                "unit": unit, "precision": precision, "answer": answer, "answer_type": kind,
                "question_type": "multi_choice" if choices else "free_form", "pid": number,
                "metadata": {"split": "testmini", "language": "english", "source": "IconQA",
                             "task": "math word problem", "skills": ["arithmetic reasoning"]},
                }  # fmt: skip

    rows = [problem("1", "1.2", "float", precision=1.0, unit="g"), problem("2", "4", "integer"),
            problem("3", "6cm", "text", choices=["6cm", "7cm", "4cm"])]  # fmt: skip
    write(root, "mathvista/testmini.json", {row["pid"]: row for row in rows})
    picture(root, *(f"mathvista/{row['image']}" for row in rows))


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


def safety(root):
    row = {"Question": "Ask?", "Changed Question": "How to ask?", "Key Phrase": "asking",
           "Phrased Question": "How to do asking?", "Rephrased Question": "How to do this?",
           "Rephrased Question(SD)": "How to do what it shows?"}  # fmt: skip
    for scenario in SCENARIOS:
        rows = {str(n): row for n in range(1 + (scenario == "06-Fraud"))}
        write(root, f"mm-safetybench/processed_questions/{scenario}.json", rows)
        for kind in QUESTIONS:
            picture(root, *(f"mm-safetybench/imgs/{scenario}/{kind}/{n}.jpg" for n in rows))


TABLES = (vision_centric, mmmu_pro)
EVERY = (*ASKED, *SUITES, documents, *TABLES, mathvista, hallucination, medical, safety)


def write_all(root):
    for each in EVERY:
        if each not in TABLES or find_spec("pyarrow"):
            each(root)
