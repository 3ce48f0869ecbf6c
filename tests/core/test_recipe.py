"""Recipes: found, checked with every mistake at once, written and read back equal, compared."""

from __future__ import annotations

import os
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recipe_files import refusal, written

from lucida.core.document import dump_document, parse_document
from lucida.core.errors import RecipeError
from lucida.core.recipe import (
    diff_recipes,
    dump_recipe,
    explain,
    find_recipe,
    load_recipe,
    presets,
    recipe_hash,
)
from lucida.core.spec import Recipe

WRONG = """\
name: X!
modle: 3
model:
  vision: {path: 3, foo: 1}
  language: {}
  projector: {kind: mlp, dpeth: 2, depth: a}
  image: {policy: letterbx}
stages:
  - name: sft
    train: {projector: abc, vision: true, language: .nan}
    mixture:
      sources: {a: {kind: wrld}, b: {tasks: []}, c: 3}
    budget: {steps: 1, epochs: 2}
blind: {steps: 0}
"""


@pytest.mark.parametrize("name", presets())
def test_a_preset_loads_and_is_named_like_its_file(name):
    assert load_recipe(name).name == name


@pytest.mark.parametrize("name", presets())
def test_a_dumped_recipe_reads_back_equal(name, tmp_path):
    recipe = load_recipe(name)
    again = load_recipe(written(tmp_path, dump_recipe(recipe)))
    assert again == recipe
    assert recipe_hash(again) == recipe_hash(recipe)
    assert diff_recipes(again, recipe) == []


def test_every_mistake_is_reported_at_once_with_line_and_nearest_key(tmp_path):
    message = refusal(written(tmp_path, WRONG), ["stages.sft.optim.warmup=x", "seeed=1"])
    for part in [
        "name (",
        "line 2): unknown key; did you mean `model`?",
        "model.vision.path",
        "model.vision.foo",
        "model.language.path",
        "required: text",
        "line 6): unknown key; did you mean `depth`? known: kind, depth, hidden",
        "expected a whole number >= 1 and <= 8, got 'a'",
        "or `native`, got 'letterbx'; did you mean `letterbox`?",
        "stages.sft.train.projector",
        "expected a number or `frozen`, got 'abc'",
        "expected a number or `frozen`, got true",
        "expected a number or `frozen`, got nan",
        "unknown kind `wrld`; did you mean `world`?",
        "required: a key `kind`, one of world, llava",
        "give exactly one of steps, epochs, tokens and minutes (got steps=1, epochs=2.0)",
        "blind.steps",
        "stages.sft.optim.warmup (override stages.sft.optim.warmup=x): expected a number >= 0",
        "unknown key `seeed`; did you mean `seed`?",
    ]:
        assert part in message
    assert "recipe.yaml: 18 mistakes" in message.splitlines()[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("[1, 2]", "not a mapping"),
        ("a: [1", "is not YAML: line 1"),
        ("a: 1\na: 2", "line 2: the key `a` stands twice"),
        ("a: &a {b: *a}", "nested in itself"),
        ("a: !!python/object:os.system x", "has no meaning in a recipe"),
        ("a: " + "[" * 3000, "nested too deeply"),
        ("a: \0", "is not YAML"),
        ("? [a]\n: 3", "a key is a list"),
        ("3: 1", "expected a text as key"),
        ("seed: -.INF", "expected a whole number >= 0, got -inf"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_in_words(tmp_path, text, words):
    path = written(tmp_path, text)
    message = refusal(path)
    assert words in message
    assert str(path) in message


def test_brackets_without_end_are_refused_at_once(tmp_path):
    path = written(tmp_path, "a: " + "[" * 3000)
    began = time.process_time()
    assert "line 1" in refusal(path)
    assert time.process_time() - began < 1  # it was 4 to 8 seconds


def test_what_is_wrong_between_two_stages_is_said(tmp_path):
    path = written(tmp_path, "base: mini-two-stage\nname: x\nchanges: {stages.align.name: sft}\n")
    assert "two stages are called sft" in refusal(path)


def test_a_small_file_cannot_unfold_into_billions(tmp_path):
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [" + ", ".join([f"*a{n - 1}"] * 8) + "]" for n in range(1, 9)]
    assert "too many values" in refusal(written(tmp_path, "\n".join(lines)))


def test_a_file_that_is_not_text_or_too_large_is_refused(tmp_path):
    path = tmp_path / "bytes.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in refusal(path)
    path.write_bytes(b"# " + b"x" * (1 << 20))
    assert "too large" in refusal(path)


def test_an_unknown_name_suggests_the_preset():
    assert "did you mean `mini`?" in refusal("mnii")
    assert "name the recipe first" in refusal("seed=1")


def test_a_run_folder_stands_for_its_recipe(tmp_path):
    written(tmp_path, dump_recipe(load_recipe("mini")))
    assert find_recipe(tmp_path) == tmp_path / "recipe.yaml"


def test_yaml_reads_numbers_and_words_as_people_do():
    text = "a: 1e-3\nb: no\nc: 12:30\nd: 2024-01-01\ne: 010\nf: ~\ng: 1_000\nh: .5\ni: -3"
    data = parse_document(text, "text").data
    assert data == {
        "a": 0.001, "b": "no", "c": "12:30", "d": "2024-01-01", "e": 10.0, "f": None, "g": 1000,
        "h": 0.5, "i": -3,
    }  # fmt: skip


words = st.text(st.characters(exclude_characters="\0", codec="utf-8"))
whole = st.integers(-(1 << 63), (1 << 63) - 1)
scalars = st.none() | st.booleans() | whole | st.floats(allow_nan=False) | words


@settings(deadline=None)
@given(st.dictionaries(words, scalars | st.lists(scalars), min_size=1))
def test_what_is_dumped_reads_back_equal(data):
    assert parse_document(dump_document(data), "text").data == data


MINI = load_recipe("mini").model_dump(mode="json")


def places(value, above=()):
    """Every place of a recipe, as an override names it."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in pairs:
        yield (*above, str(key))
        if isinstance(item, (dict, list)):
            yield from places(item, (*above, str(key)))


ODD = """
!!int 7|!!float 7|!!str 7|!!bool True|!!null ~|!!int abc|!!float x|!!bool maybe|!!set {a}|!foo x
!!binary aGk=|!!timestamp x|0x10|0o17|1_000|1e18|1e30|1e-7|.5|007|-0.0|.inf|-.inf|.nan|null|true
9223372036854775807|9223372036854775808|~|''|'5'|"\\u2028"|[]|{}|[a]|{a: 1}|&a [*a]|{<<: {a: 1}}
<<|x: y|[|# x|--- 1|linear|perceiver|text
"""
VALUES = st.sampled_from(ODD.strip().replace("\n", "|").split("|")) | words.map(
    lambda text: dump_document(text).strip()
)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from([".".join(place) for place in places(MINI)]), VALUES)
def test_whatever_loads_is_written_back_equal(key, value):
    try:
        recipe = load_recipe("mini", [f"{key}={value}"])
    except RecipeError:
        return
    text = dump_recipe(recipe)
    assert Recipe.model_validate(parse_document(text, "text").data) == recipe


ANCHORS = "model: {{a: &a [1, 1, 1, 1, 1, 1, 1, 1], {more}}}"
BOMBS = {
    "lists": ", ".join(
        f"b{n}: &b{n} [" + ", ".join(["*a" if n == 0 else f"*b{n - 1}"] * 8) + "]" for n in range(9)
    ),
    "text": "t: &t " + "x" * 5000 + ", u: [" + ", ".join(["*t"] * 3000) + "]",
    "merges": "m: &m {x: 1, y: 2}, "
    + ", ".join(
        f"m{n}: &m{n} {{<<: [" + ", ".join(["*m" if n == 0 else f"*m{n - 1}"] * 8) + "]}"
        for n in range(9)
    ),
    "many": "n: [" + "1," * 400_000 + "]",
    "deep": "d: " + "[" * 3000,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_nothing_unfolds_without_limit_in_a_file_or_an_override(tmp_path, bomb):
    text = ANCHORS.format(more=BOMBS[bomb])
    begun = time.monotonic()
    assert "line 1" in refusal(written(tmp_path, text))
    assert "cannot be read" in refusal("mini", [text.replace(": ", "=", 1)])
    assert time.monotonic() - begun < 30


def test_keys_that_are_merged_come_first_and_yield_to_own_ones():
    text = "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc: {y: 9, <<: [*a, *b]}\nd: {<<: *a, w: 0}"
    document = parse_document(text, "text")
    assert document.data["c"] == {"y": 9, "z": 4, "x": 1}
    assert list(document.data["d"].items()) == [("x", 1), ("y", 2), ("w", 0)]
    assert document.origins["d", "x"] == "text, line 1"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_what_is_no_recipe_file_is_refused_at_once(tmp_path):
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    os.mkfifo(tmp_path / "pipe.yaml")
    for name in ("loop.yaml", "pipe.yaml"):
        assert "no file to read" in refusal(tmp_path / name)
    assert "holds no recipe.yaml" in refusal(tmp_path)
    for name in ("a\0b", "x" * 5000, "~nobody-of-this-name/x", "\ud800"):
        refusal(name)
    folder = written(tmp_path, f"name: b\nbase: ../{tmp_path.name}/b.yaml", "b.yaml")
    assert "lead to each other as bases" in refusal(folder)


def test_the_hash_sees_values_and_their_order_but_not_the_description():
    recipe = load_recipe("mini")
    assert recipe_hash(recipe) == recipe_hash(load_recipe("mini", ["description=else"]))
    assert recipe_hash(recipe) != recipe_hash(load_recipe("mini", ["seed=1"]))
    one, two = (
        load_recipe("mini", [f"stages.sft.train={order}"])
        for order in ("{language: 1.0, projector: 2.0}", "{projector: 2.0, language: 1.0}")
    )
    assert recipe_hash(one) != recipe_hash(two)
    assert diff_recipes(one, two) != []


def test_a_diff_names_each_changed_value():
    changed = load_recipe("mini", ["stages.sft.budget.steps=7", "model.projector={kind: linear}"])
    lines = diff_recipes(load_recipe("mini"), changed)
    assert any(line.startswith("stages.sft.budget.steps: ") and "-> 7" in line for line in lines)
    assert "model.projector.kind: 'mlp' -> 'linear'" in lines
    assert any(line.startswith("model.projector.depth: 2 -> (absent)") for line in lines)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("", "precision: `auto`, `fp32`, `bf16` or `fp16`; default 'auto'"),
        ("seed", "a whole number >= 0; default 0"),
        ("model.projector", "kind: linear"),
        ("model.projector.mlp.depth", "a whole number >= 1 and <= 8; default 2"),
        ("model.projector.kind", "model.projector.kind: `linear`, `mlp`, `fused_mlp`,"),
        (
            "stages.mixture.sources.any.path",
            "kind: hub stages.mixture.sources.any.path: text; required",
        ),
        ("stages.sft.optim.warmup", "a share of the steps when below 1"),
        ("stages.optim.warmup", "a share of the steps when below 1"),
        ("stages.0.train", "numbers or `frozen`"),
        ("stages.sft.mixture.sources.any.world", "the miniature world"),
    ],
)
def test_explain_says_type_default_range_and_meaning(key, words):
    assert words in " ".join(explain(key).split())


@pytest.mark.parametrize("key", ["modle", "seed.x", "model.projector.dpeth", "stages.x.budgt"])
def test_explain_refuses_what_does_not_exist(key):
    with pytest.raises(RecipeError):
        explain(key)


def test_a_file_of_data_is_no_recipe(tmp_path):
    path = tmp_path / "vqa.CSV"
    path.write_text("image,question,answer\n")
    with pytest.raises(RecipeError, match=r"vqa\.CSV: is a file of data.*lucida new"):
        load_recipe(path)


def test_every_field_can_be_explained():
    def visit(node, keys):
        assert explain(".".join(keys))
        for name, value in node.items():
            if isinstance(value, dict):
                visit(value, [*keys, name])
            elif isinstance(value, list) and value and isinstance(value[0], dict):
                visit(value[0], [*keys, name, "0"])
            else:
                assert explain(".".join([*keys, name]))

    visit(load_recipe("mini").model_dump(), [])


def test_a_stage_that_only_one_recipe_has_is_one_line():
    lines = diff_recipes(load_recipe("mini-two-stage"), load_recipe("mini"))
    assert "stages.align: {…} -> (absent)" in lines
    assert not [line for line in lines if line.startswith("stages.align.")]


def test_long_lists_differ_by_what_left_and_what_came():
    key, four = "stages.sft.mixture.sources.world.tasks", ["attribute", "counting"] * 4
    base = load_recipe("mini", [f"{key}={four}".replace("'", "")])

    def differ(tasks):
        return diff_recipes(base, load_recipe("mini", [f"{key}={tasks}".replace("'", "")]))

    assert differ(["attribute", "reading"] * 4) == [
        f"{key}: without counting (4); with reading (4)"
    ]
    assert differ([*four, "reading"]) == [f"{key}: with reading (1)"]
    assert differ(four[::-1]) == [f"{key}: the same in another order"]
