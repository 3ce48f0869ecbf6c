"""Study files: arms, what all share, and what is refused before anything runs."""

import itertools

import pytest

from lucida.core.document import read_document
from lucida.core.errors import RecipeError
from lucida.core.recipe import load_recipe
from lucida.study.design import (
    BASELINE,
    STUDIES,
    Study,
    factorial,
    key_of,
    load_design,
    make_design,
    studies,
)

ASKED = {"tasks": ["attribute", "presence-adversarial"], "limit": 8}
WITHOUT = {"model.projector.position": False}


def design(**values):
    given = {"name": "probe", "baseline": "mini", "evaluation": ASKED, "primary": {"margin": 3}}
    return make_design(Study.model_validate(given | {"changes": {"without": WITHOUT}} | values))


def test_arms_of_a_seed_share_everything_but_the_change():
    probe = design(seeds=[4, 7])
    assert probe.differences("without") == ["model.projector.position: true -> false"]
    for seed in (4, 7):
        first, second = probe.recipe(BASELINE, seed), probe.recipe("without", seed)
        assert first.seed == second.seed == seed
        assert (first.precision, first.threads) == ("fp32", 1)
        assert first.evaluation == second.evaluation
    assert list(probe.runs) == [(BASELINE, 4), ("without", 4), (BASELINE, 7), ("without", 7)]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"changes": {"same": {"model.projector.position": True}}}, "same changes nothing"),
        ({"changes": {"a": WITHOUT, "b": WITHOUT}}, "b is the same recipe as a"),
        ({"changes": {"a": {"seed": 3}}}, "`seed`, which is the same in all arms"),
        ({"changes": {"a": {"evaluation.limit": 3}}}, "`evaluation.limit`"),
        ({"common": {"evaluation.tasks": ["caption"]}}, "`evaluation.tasks`"),
        ({"primary": {"margin": 3, "contrast": ["witout"]}}, "did you mean `without`"),
        ({"changes": {"a": {"model.projector.positon": False}}}, "positon"),
    ],
)
def test_what_cannot_be_a_study_is_refused(values, told):
    with pytest.raises(RecipeError, match=told):
        design(**values)


def test_arms_that_are_looked_at_on_the_way_train_for_themselves():
    half = {"evaluation.visual_tokens": {"keep": 0.5, "by": "random"}}
    assert design(changes={"half": half}).trained_by == {"half": BASELINE}
    assert design(changes={"half": half}, evaluation=ASKED | {"curve": 5}).trained_by == {}


def test_a_file_with_mistakes_names_them_all(tmp_path):
    file = tmp_path / "s.yaml"
    file.write_text("name: x\nbaseline: mini\nseeds: [-1]\nprimary: {margin: 0}\n")
    with pytest.raises(RecipeError, match=r"seeds(.|\n)*evaluation(.|\n)*margin"):
        load_design(file)
    with pytest.raises(RecipeError, match="there is no study `nothing`"):
        load_design("nothing")


def test_what_is_declared_is_in_the_hash_and_wording_is_not():
    assert design().hash == design(question="other words").hash
    others = [design(seeds=[0, 1]), design(primary={"margin": 2})]
    others.append(design(evaluation=ASKED | {"limit": 9}))
    assert len({design().hash, *(each.hash for each in others)}) == 4


def test_grid_and_factors_make_their_arms():
    grid = design(
        changes={}, grid={"stages.sft.budget.steps": [5, 6], "model.projector.norm": [False]}
    )
    assert list(grid.arms) == [BASELINE, "steps.5-norm.false", "steps.6-norm.false"]
    names = ("stages.sft.budget.steps", "stages.sft.batch.samples", "model.projector.norm")
    factors = {f"f{k}": {name: k + 4 if k < 2 else False} for k, name in enumerate(names)}
    whole = design(changes={}, factors=factors)
    assert len(whole.arms) == 8
    half = design(changes={}, factors=factors, fraction=1)
    assert list(half.arms) == [BASELINE, "f1+f2", "f0+f2", "f0+f1"]


@pytest.mark.parametrize(("factors", "fraction"), [(3, 0), (3, 1), (4, 1), (5, 1), (5, 2), (7, 3)])
def test_a_factorial_is_balanced_and_orthogonal(factors, fraction):
    rows = factorial(factors, fraction)
    assert len(rows) == len(set(rows)) == 2 ** (factors - fraction)
    assert (-1,) * factors in rows
    for i in range(factors):
        assert sum(row[i] for row in rows) == 0
        assert all(sum(row[i] * row[j] for row in rows) == 0 for j in range(i))


@pytest.mark.parametrize(("factors", "fraction"), [(4, 1), (6, 2), (7, 3), (8, 4), (7, 2)])
def test_main_effects_are_not_mixed_up_with_products_of_two(factors, fraction):
    rows = factorial(factors, fraction)
    for i, j, k in itertools.combinations(range(factors), 3):
        assert sum(row[i] * row[j] * row[k] for row in rows) == 0, (i, j, k)


@pytest.mark.parametrize(("factors", "fraction"), [(4, 2), (8, 5), (2, 1), (2, 3)])
def test_a_fraction_that_cannot_tell_factors_apart_is_refused(factors, fraction):
    """Of two free factors there is one product, of three four."""
    given = {f"f{n}": {"stages.sft.budget.steps": n + 3} for n in range(factors)}
    with pytest.raises(ValueError, match="too few to tell the others apart"):
        design(changes={}, factors=given, fraction=fraction)
    assert len(set(factorial(7, 4))) == 8 and len(set(zip(*factorial(7, 4), strict=True))) == 7


def test_a_stage_at_another_place_is_told():
    two = design(
        baseline="mini-two-stage",
        changes={"one-stage": {"stages.align": None}},
    )
    assert any("another order" in note for note in two.notes)


@pytest.mark.parametrize("name", sorted(studies()))
def test_shipped_studies_resolve(name):
    shipped = load_design(name)
    assert shipped.study.name == name
    assert len(shipped.study.seeds) >= 3
    assert load_recipe(shipped.study.baseline)


def test_every_claim_names_its_study_or_why_there_is_none():
    claims = read_document(STUDIES / "claims.yaml").data["claims"]
    assert len({claim["id"] for claim in claims}) == len(claims) >= 20
    tested = {claim["study"] for claim in claims if claim["study"]}
    assert tested == set(studies())
    assert all(claim["study"] or claim["why"] for claim in claims)
    assert all(claim["read"] in ("paper", "abstract", "summary", "memory") for claim in claims)
    for name in tested:
        design = load_design(name)
        (claim,) = (each for each in claims if each["id"] == design.study.claim)
        assert claim["study"] == name
        assert claim["expects"].keys() <= set(design.contrasts)
        assert set().union(*claim["expects"].values()) <= {"better", "worse", "equivalent"}


def test_two_stages_without_the_first_are_the_short_recipe():
    two, one = load_design("two-stages"), load_design("masks")
    shared = {"evaluation": two.study.evaluation.model_dump()}
    assert shared == {"evaluation": one.study.evaluation.model_dump()}
    assert key_of(two.recipe("one-stage", 1)) == key_of(one.recipe(BASELINE, 1))
