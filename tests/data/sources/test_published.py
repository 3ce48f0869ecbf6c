"""RefCOCO and PathVQA as training data: every layout says the same, and nothing of a file runs."""

import json
import pickle
from collections import Counter
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny_files import opened, png

from lucida.core.errors import DataError
from lucida.core.spec.data import PromptSet
from lucida.data.boxes import parse_box
from lucida.data.chat import encode
from lucida.data.policies import make_policy
from lucida.data.sample import IGNORED, BoxPart, ImagePart, Turn
from lucida.data.sources.prompts import PLACE, SETS, asked, prompts_of
from lucida.data.sources.published import read_pickle
from lucida.data.sources.refcoco import references
from lucida.eval.benchmarks import benchmark

NAME = "COCO_train2014_000000581857.jpg"
PICTURE = png(size=(64, 48))


@pytest.fixture
def refcoco(tmp_path):
    """The two published files, with two objects in train and one in each other part."""
    instances = {
        "images": [{"id": 581857, "file_name": NAME, "width": 64, "height": 48}],
        "annotations": [
            {"id": n, "image_id": 581857, "bbox": [10.0 + n, 5.5, 20.0, 30.25]} for n in range(5)
        ],
    }
    refs = [
        {
            "ref_id": n,
            "ann_id": n,
            "image_id": 581857,
            "split": part,
            "file_name": "COCO_train2014_000000581857_16.jpg",
            "category_id": 1,
            "sent_ids": [2 * n, 2 * n + 1],
            "sentences": [
                {"sent_id": 2 * n + k, "sent": f"lady {2 * n + k}", "raw": "X", "tokens": ["lady"]}
                for k in (0, 1)
            ],
        }
        for n, part in enumerate(("train", "train", "val", "testA", "testB"))
    ]
    folder = tmp_path / "refcoco"
    folder.mkdir()
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=0))
    (tmp_path / "coco" / "train2014").mkdir(parents=True)
    (tmp_path / "coco" / "train2014" / NAME).write_bytes(PICTURE)
    return folder, refs, instances


def training(folder, name, **fields):
    images = str(folder.parent / "coco" / "train2014")
    return opened("annotations", folder / name, layout="refcoco", images=images, **fields)


def test_refcoco_trains_on_boxes_in_pixels(refcoco):
    folder, *_ = refcoco
    source = training(folder, "refs(unc).p")
    assert len(source) == 4
    sample = source[3]
    assert sample.stem == (Turn("user", (ImagePart(0),)),)
    assert sample.branches == (
        (
            Turn("user", ("lady 3",)),
            Turn("assistant", (BoxPart(0, 11.0, 5.5, 31.0, 35.75),)),
        ),
    )
    assert sample.images[0].load().size == (64, 48)
    assert len(training(folder, "refs(unc).p", split="testB")) == 2
    with pytest.raises(DataError, match=r"no such part.*dev.*known: train, val, testA, testB"):
        training(folder, "refs(unc).p", split="dev")


def test_a_box_is_asked_or_answered_in_the_chosen_words(refcoco):
    folder, *_ = refcoco
    where = training(folder, "refs(unc).p", prompts="llava-boxes")[0]
    assert where.branches[0][0].parts == (SETS["llava-boxes"][0].replace("{}", "lady 0"),)
    what = training(folder, "refs(unc).p", answer="phrase", prompts=["{}?", "At {} is"])
    box = BoxPart(0, 10.0, 5.5, 30.0, 35.75)
    assert [turn.parts for turn in what[0].branches[0]] == [(box, "?"), ("lady 0",)]
    assert what[1].branches[0][0].parts == ("At ", box, " is")
    with pytest.raises(DataError, match="one place for the question"):
        training(folder, "refs(unc).p", prompts=["Where?"])
    with pytest.raises(ValidationError, match="not both"):
        training(folder, "refs(unc).p", prompt="x", prompts=["{}"])


def test_the_box_becomes_text_in_the_frame_that_the_model_sees(refcoco):
    from tiny_tokenizer import bytes_tokenizer  # by the conftest of tests/data

    folder, *_ = refcoco
    policy = make_policy("letterbox", 64, (0.5,) * 3, (0.5,) * 3)
    tokenizer = bytes_tokenizer()
    sample = training(folder, "refs(unc).p")[0]
    place = tokenizer.convert_tokens_to_ids("<image>")
    tokens = encode(
        sample, tokenizer, "chatml", 3, policy, 32, "answers", 500, image_token_id=place
    )
    said = tokenizer.decode(tokens.target[tokens.target != IGNORED])
    frame = parse_box(said.removesuffix("<|im_end|>"), 32)
    box = policy.from_frame(frame, 64, 48)
    # 64 pixels in 32 bins: a bin is two pixels wide.
    assert box == pytest.approx((10.0, 5.5, 30.0, 35.75), abs=2)


def conversions(folder, refs, instances):
    """The train part in every layout."""
    train = [ref for ref in refs if ref["split"] == "train"]
    said = [(ref, sentence) for ref in train for sentence in ref["sentences"]]
    box = {each["id"]: each["bbox"] for each in instances["annotations"]}
    (folder / "refs.json").write_text(json.dumps(refs))
    pairs = list(enumerate(said))
    mdetr = {
        "images": [
            {"id": 100 + n, "file_name": NAME, "width": 64, "height": 48, "caption": s["sent"],
             "original_id": 581857} for n, (_, s) in pairs
        ],
        "annotations": [
            {"id": n, "image_id": 100 + n, "bbox": box[ref["ann_id"]], "tokens_positive": [[0, 4]]}
            for n, (ref, _) in pairs
        ],
    }  # fmt: skip
    (folder / "finetune_refcoco_train.json").write_text(json.dumps(mdetr))

    def corners(ref):
        x, y, w, h = box[ref["ann_id"]]
        return [x, y, x + w, y + h]

    shikra = [{"img_path": NAME, "expression": s["sent"], "bbox": corners(ref), "width": 64,
               "height": 48, "dataset_name": "refcoco"} for ref, s in said]  # fmt: skip
    (folder / "REC_ref3_train.jsonl").write_text("\n".join(map(json.dumps, shikra)))
    qwen = [{"image": NAME, "sent": s["sent"], "bbox": corners(ref), "width": 64, "height": 48}
            for ref, s in said]  # fmt: skip
    (folder / "rows.json").write_text(json.dumps(qwen))
    rows = [
        {**ref, "raw_anns": json.dumps(instances["annotations"][ref["ann_id"]]),
         "raw_image_info": json.dumps(instances["images"][0]), "bbox": corners(ref)}
        for ref in refs
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet", row_group_size=2)


def test_all_layouts_say_the_same(refcoco):
    folder, refs, instances = refcoco
    conversions(folder, refs, instances)
    wanted = [(r.phrase, r.box, r.picture, r.size) for r in references(folder / "refs(unc).p")]
    assert len(wanted) == 4
    for name in (
        "refs.json", "finetune_refcoco_train.json", "REC_ref3_train.jsonl", "rows.json",
        "train.parquet",
    ):  # fmt: skip
        found = references(folder / name)
        assert [(r.phrase, r.box, r.picture, r.size) for r in found] == wanted, name
        assert training(folder, name)[2].branches == training(folder, "refs(unc).p")[2].branches
    assert len(references(folder / "train.parquet", "testA")) == 2


def test_training_and_the_benchmark_read_the_same(refcoco):
    folder, *_ = refcoco
    task = benchmark("refcoco-val", data=str(folder.parent))
    examples = {example.id: example for example in task.train_examples()}
    for found in references(folder / "refs(unc).p"):
        example = examples.pop(f"refcoco/{found.id}")
        assert (example.box, example.size) == (found.box, found.size)
    assert not examples


class Trap:
    """A pickle that would run something."""

    def __reduce__(self):
        return print, ("this must not be printed",)


@pytest.mark.parametrize("value", [Trap(), [Trap()], {"a": Counter()}, {1, 2}, len])
def test_a_pickle_that_imports_anything_is_refused(tmp_path, value, capsys):
    path = tmp_path / "refs(unc).p"
    path.write_bytes(pickle.dumps(value, protocol=2))
    with pytest.raises(DataError, match=r"wants to import") as caught:
        read_pickle(path)
    assert str(path) in str(caught.value)
    assert capsys.readouterr().out == ""


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 200))
def test_damaged_pickles_are_explained(tmp_path_factory, noise, cut):
    path = tmp_path_factory.mktemp("pickle") / "x.p"
    whole = pickle.dumps([{"image": "a", "question": 1.5, "answer": [None, True]}], protocol=2)
    path.write_bytes(whole[:cut] + noise)
    try:
        read_pickle(path)
    except DataError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [1, 2, 3]}, "4 numbers"),
        ({"bbox": [1, 2, 3, -4]}, "a box"),
        ({"bbox": "here"}, "a list"),
        ({"id": 77}, "not in instances.json"),
    ],
)
def test_a_bad_object_is_named(refcoco, change, message):
    folder, _, instances = refcoco
    instances["annotations"][0] |= change
    (folder / "instances.json").write_text(json.dumps(instances))
    with pytest.raises(DataError, match=message) as caught:
        training(folder, "refs(unc).p")
    assert "instances.json" in str(caught.value) or "refs(unc).p" in str(caught.value)


@pytest.fixture
def pathvqa(tmp_path):
    rows = [
        {"image": "train_0001", "question": "is it benign?", "answer": "Yes"},
        {"image": "train_0001", "question": "where are the cells?", "answer": "the liver"},
    ]
    (tmp_path / "train_qa.pkl").write_bytes(pickle.dumps(rows, protocol=2))
    (tmp_path / "images" / "train").mkdir(parents=True)
    (tmp_path / "images" / "train" / "train_0001.jpg").write_bytes(PICTURE)
    return tmp_path, rows


def test_pathvqa_from_the_pickle_and_from_parquet(pathvqa):
    folder, rows = pathvqa
    fields = {"layout": "pathvqa", "images": str(folder / "images")}
    source = opened("annotations", folder / "train_qa.pkl", prompts=["Q: {} A:"], **fields)
    held = [{**row, "image": {"bytes": PICTURE, "path": None}} for row in rows]
    pq.write_table(pa.Table.from_pylist(held), folder / "train.parquet")
    table = opened("parquet", folder / "train.parquet", prompts=["Q: {} A:"])
    assert len(source) == len(table) == 2
    for number, row in enumerate(rows):
        said = ((Turn("user", (f"Q: {row['question']} A:",)), Turn("assistant", (row["answer"],))),)
        assert source[number].branches == table[number].branches == said
        assert source[number].stem == table[number].stem == (Turn("user", (ImagePart(0),)),)
        assert source[number].images[0].load().size == (64, 48)
    (folder / "odd.pkl").write_bytes(pickle.dumps({"image": 1}))
    with pytest.raises(DataError, match="holds no list"):
        opened("annotations", folder / "odd.pkl", **fields)


def test_answers_of_a_table_are_counted(tmp_path):
    rows = [
        {"image": {"bytes": PICTURE}, "question": "Colour?", "answers": ["blue", "red", "red"]},
        {"image": {"bytes": PICTURE}, "question": "Colour?", "answers": []},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    source = opened("parquet", tmp_path / "t.parquet")
    assert source[0].branches[0][1].parts == ("red",)
    with pytest.raises(DataError, match=r"row 1.*has no answer"):
        source[1]


def test_numbers_among_the_answers_of_a_table(tmp_path):
    def answered(values):
        columns = {"question": ["How many?"] * len(values), "answer": values}
        pq.write_table(pa.table(columns), tmp_path / "t.parquet")
        source = opened("parquet", tmp_path / "t.parquet")
        return [source[n].branches[0][-1].parts for n in range(len(source))]

    assert answered([3, 0, -12]) == [("3",), ("0",), ("-12",)]
    for values in ([2.5], [True], [None]):
        with pytest.raises(DataError, match=r"row 0.*bad `answer`.*whole number.*column as text"):
            answered(values)


def test_karpathys_coco_stands_in_two_folders(tmp_path):
    value = {
        "images": [
            {
                "filepath": "val2014",
                "filename": "a.png",
                "split": part,
                "sentences": [{"raw": part}],
            }
            for part in ("restval", "train", "val")
        ]
    }
    (tmp_path / "dataset_coco.json").write_text(json.dumps(value))
    (tmp_path / "val2014").mkdir()
    (tmp_path / "val2014" / "a.png").write_bytes(PICTURE)
    fields = {"layout": "flickr30k", "images": str(tmp_path)}
    source = opened("annotations", tmp_path / "dataset_coco.json", **fields)
    assert [source[n].branches[0][0].parts[1] for n in range(2)] == ["restval", "train"]
    assert source.dropped == {"captions of the val split": 1}
    assert len(opened("annotations", tmp_path / "dataset_coco.json", split="val", **fields)) == 1
    with pytest.raises(DataError, match="no records"):
        opened("annotations", tmp_path / "dataset_coco.json", split="tset", **fields)


def test_sets_of_prompts_are_those_of_the_spec():
    assert set(SETS) == set(get_args(PromptSet))
    for name, prompts in SETS.items():
        wanted = 0 if name.endswith("captions") else 1
        assert {prompt.count(PLACE) for prompt in prompts} == {wanted}, name
        assert len(set(prompts)) == len(prompts)
    assert asked("why?", ["{}", "Q: {} A:"], 3) == ("Q: why? A:",)
    assert asked("{}", ["Q: {} A:"], 0) == ("Q: {} A:",)
    with pytest.raises(DataError, match="did you mean"):
        prompts_of("instructblip-caption")


def test_a_pickle_that_claims_to_remember_billions_takes_no_memory(tmp_path):
    # LONG_BINPUT: "remember the list as number 1,534,944,629", and bytes of 2 GB that are not there
    path = tmp_path / "x.p"
    path.write_bytes(b"\x80\x02]r" + (1_534_944_629).to_bytes(4, "little") + b".")
    assert read_pickle(path) == []
    for opcode, width in ((b"B", 4), (b"\x8e", 8), (b"\x96", 8)):
        path.write_bytes(b"\x80\x05" + opcode + (2**31 - 9).to_bytes(width, "little") + b"a.")
        with pytest.raises(DataError, match="damaged"):
            read_pickle(path)
