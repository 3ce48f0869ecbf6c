"""Files of a benchmark that say what cannot be: the error names the file and the record."""

import json
import pickle

import pytest
from asking import make
from layouts import lines, ten, write

from lucida.core.errors import DataError
from lucida.eval.benchmarks import BENCHMARKS


def test_vqav2_needs_an_annotation_for_every_question(fresh):
    root = fresh(BENCHMARKS["vqav2"]())
    path = root / "vqav2/v2_mscoco_val2014_annotations.json"
    content = json.loads(path.read_text())
    content["annotations"] = content["annotations"][1:]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"question 70 has no annotation in v2_mscoco_val2014"):
        make("vqav2", root).examples()


def test_a_question_twice_is_an_error(fresh):
    root = fresh(BENCHMARKS["vqav2"]())
    path = root / "vqav2/v2_OpenEnded_mscoco_val2014_questions.json"
    content = json.loads(path.read_text())
    content["questions"] *= 2
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"question 3: the id 420 is that of .*question 0 too"):
        make("vqav2", root).examples()


def test_captions_of_a_picture_that_is_not_listed_are_an_error(fresh):
    root = fresh(BENCHMARKS["nocaps"]())
    path = root / "nocaps/nocaps_val_4500_captions.json"
    content = json.loads(path.read_text())
    content["annotations"].append({"id": 99, "image_id": 4711, "caption": "a lone kite"})
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"`image_id`.*one of the images.*4711") as caught:
        make("nocaps", root).examples()
    assert f"{path}, annotations {len(content['annotations']) - 1}:" in str(caught.value)


@pytest.mark.parametrize("bbox", ["[1, 2, 3]", "nothing", '["a", 1, 2, 3]', "{}", "[1,2,3,true]"])
def test_a_damaged_box_is_named(fresh, bbox):
    root = fresh(BENCHMARKS["ocid-ref"]())
    value = {"7": {"take_id": 1, "scene_path": "ARID20/table/top/seq01/rgb/r.png",
                   "bbox": bbox, "sentence": "the cup"}}  # fmt: skip
    path = write(root, "ocid-ref/val_expressions.json", value)
    with pytest.raises(DataError, match="bbox") as caught:
        make("ocid-ref", root).examples()
    assert f"{path}: 7" in str(caught.value)


def test_a_pickle_that_would_run_something_is_refused(fresh):
    root = fresh(BENCHMARKS["refcoco-val"]())

    class Trap:
        def __reduce__(self):
            return print, ("this must not be printed",)

    (root / "refcoco/refs(unc).p").write_bytes(pickle.dumps([Trap()]))
    with pytest.raises(DataError, match=r"it wants to import builtins\.print"):
        make("refcoco-val", root).examples()


@pytest.mark.parametrize("image", ["no base64!", "", "aGVsbG8="])
def test_a_damaged_embedded_picture_is_named(fresh, image):
    root = fresh(BENCHMARKS["mmbench"]())
    path = root / "mmbench/mmbench_dev_20230712.tsv"
    head, _, last = path.read_text().strip().split("\n")[:3]
    row = last.split("\t")
    row[0], row[8] = "5", image
    path.write_text(head + "\n" + "\t".join(row) + "\n")
    with pytest.raises(DataError) as caught:
        for example in make("mmbench", root).examples():
            example.sample.images[0].load()
    assert "record 0 (line 2)" in str(caught.value)


def test_a_row_with_too_few_columns_is_named(fresh):
    root = fresh(BENCHMARKS["mmbench"]())
    path = root / "mmbench/mmbench_dev_20230712.tsv"
    path.write_text(path.read_text() + "9\tonly this\n")
    with pytest.raises(
        DataError, match=r"record 3 \(line 5\): damaged row \(expected 14, got 2 columns\)"
    ):
        make("mmbench", root).examples()


@pytest.mark.parametrize(
    "text", ["Is it?\tYes\n", "Is it?\tYes\nIs it? No\n", "Is it?\tmaybe\nb\tNo"]
)
def test_a_damaged_pair_of_mme_is_named(fresh, text):
    root = fresh(BENCHMARKS["mme"]())
    path = root / "mme/MME_Benchmark_release_version/existence/000001.txt"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        make("mme", root).examples()
    assert str(path) in str(caught.value)


def test_ten_annotators_are_required(fresh):
    root = fresh(BENCHMARKS["vizwiz"]())
    row = {"image": "VizWiz_val_0.jpg", "question": "?", "answers": ten("soup")[:9],
           "answer_type": "other", "answerable": 1}  # fmt: skip
    write(root, "vizwiz/val.json", [row])
    with pytest.raises(DataError, match=r"val.json: record 0: .*expected 10 answers"):
        make("vizwiz", root).examples()


def test_an_unknown_label_is_named(fresh):
    root = fresh(BENCHMARKS["pope-random"]())
    row = {"question_id": 1, "image": "COCO_val2014_000000310196.jpg", "text": "?", "label": "YES"}
    write(root, "pope/coco_pope_random.json", lines(row))
    with pytest.raises(DataError, match=r"question 0: `label` is of the wrong kind"):
        make("pope-random", root).examples()
