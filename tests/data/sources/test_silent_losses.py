"""What a file holds and a sample would lack is counted or refused."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_files import opened, png

from lucida.core.errors import DataError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_pictures_of_a_table_are_never_left_out_silently(folder):
    row = {"question": "Colour?", "answers": [{"answer": "red"}, {"answer": "blue"}] * 2}
    row["answers"].append({"answer": "red"})

    def read(**more):
        pq.write_table(pa.Table.from_pylist([row | more]), folder / "rows.parquet")
        return opened("parquet", folder / "rows.parquet")[0]

    assert read().images == () and read(embedding=b"1234").images == ()
    assert read(image=None).images == ()
    sample = read(images=None, image={"bytes": png("red")})
    assert len(sample.images) == 1 and sample.branches[0][-1].parts == ("red",)
    for cell in (png("red"), {"bytes": png("red")}, [png("red")]):
        with pytest.raises(DataError, match=r"column that is not read .* got `img`"):
            read(img=cell)


def test_questions_and_answers_that_do_not_belong_together(folder):
    asked = [{"question_id": n, "image_id": 7, "question": "Colour?"} for n in (1, 2)]
    (folder / "questions.json").write_text(json.dumps({"questions": asked}))
    fields = {"images": str(folder), "layout": "vqav2", "questions": str(folder / "questions.json")}
    path = folder / "answers.json"
    for numbers, dropped in (((1, 2), {}), ((1, 2, 3, 4), {"answers without a question": 2})):
        said = [{"question_id": n, "multiple_choice_answer": "red"} for n in numbers]
        path.write_text(json.dumps({"annotations": said}))
        source = opened("annotations", path, **fields)
        assert (len(source), source.dropped) == (2, dropped)
    path.write_text(json.dumps({"annotations": said[:1]}))
    with pytest.raises(DataError, match="question 2 has no answer"):
        opened("annotations", path, **fields)
