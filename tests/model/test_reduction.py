"""Fewer visual tokens: which stay, that the rest is really gone, and that all else is as before."""

import numpy as np
import pytest
import torch
from tiny import encoder_folder, greedy_tokens, language_folder, picture, tiny_model

from lucida.core.errors import DataError, LucidaError, ModelError
from lucida.core.spec import FewerTokensSpec
from lucida.data.collate import collate
from lucida.data.sample import ImagePart, Sample, Turn
from lucida.eval.answerers.lucida_model import LucidaAnswerer
from lucida.eval.benchmark import Example
from lucida.eval.likelihood import score_candidates
from lucida.interpretability.watching import watch
from lucida.model.fuse import reduce_visual
from lucida.model.messages import image_source
from lucida.model.reduction import (
    attention_paid,
    keep_grid,
    keep_most,
    keep_only,
    keep_random,
    merge_alike,
    reduce_prompts,
)
from lucida.model.trees import with_images

torch.set_num_threads(1)

SIXTEEN = {"size": 32}  # 4 x 4 visual tokens of the encoder's patches of 8 pixels
WAYS = ("random", "grid", "attention", "merge")


def model_of(mask="causal", **more):
    return tiny_model(mask=mask, image=SIXTEEN, **more)


def asked(text: str, *seeds: int) -> Sample:
    images = tuple(image_source(picture(seed), n) for n, seed in enumerate(seeds, 1))
    stem = (Turn("user", tuple(map(ImagePart, range(len(images))))),) if images else ()
    return Sample("test", images, stem, ((Turn("user", (text,)),),))


SAMPLES = [asked("what colour?", 0), asked("a", 1), asked("is it red", 0), asked("no image"),
           asked("both?", 2, 3)]  # fmt: skip


def fewer(by, keep=0.25, **more):
    return FewerTokensSpec(by=by, keep=keep, **more)


@pytest.mark.parametrize("by", WAYS)
def test_keeping_all_changes_nothing(by):
    model, processor = model_of()
    prompts = [processor.prompt(sample) for sample in SAMPLES]
    for keep in (1.0, 16, 99):
        kept = reduce_prompts(model, processor, prompts, fewer(by, keep))
        assert all(a is b for a, b in zip(kept, prompts, strict=True))


@pytest.mark.parametrize("by", WAYS)
@pytest.mark.parametrize("keep", [0.25, 7, 2])
def test_so_many_stay_where_they_stood(by, keep):
    if (by, keep) == ("grid", 7):
        pytest.skip("7 are no grid of 4 x 4")
    model, processor = model_of()
    prompts = [processor.prompt(sample) for sample in SAMPLES]
    first, again = (reduce_prompts(model, processor, prompts, fewer(by, keep)) for _ in range(2))
    count = fewer(by, keep).kept(16)
    for whole, less, same in zip(prompts, first, again, strict=True):
        for name in ("input_ids", "position", "image", "branch", "target"):
            assert np.array_equal(getattr(less, name), getattr(same, name))
        assert [int((less.image == n + 1).sum()) for n in range(len(less.images))] == (
            [count] * len(less.images)
        )
        # Positions name places of the whole prompt: what stands there is what stood there.
        places = less.position
        assert np.array_equal(whole.input_ids[places], less.input_ids)
        assert np.array_equal(whole.image[places], less.image)
        assert np.array_equal(less.input_ids[less.image == 0], whole.input_ids[whole.image == 0])
    if by != "attention":  # two questions about one picture see the same of it
        assert np.array_equal(first[0].reduced[0], first[2].reduced[0])
    if by == "random":
        assert not np.array_equal(first[0].reduced[0], first[1].reduced[0])


@pytest.mark.parametrize("by", WAYS)
@pytest.mark.parametrize("mask", ["causal", "image_block", "prefix", "diagonal"])
def test_answers_are_those_of_a_prompt_without_the_others(by, mask):
    """Against the language model run by hand on what is left: its states, its positions, a dense
    mask; token after token, each time from the beginning."""
    model, processor = model_of(mask)
    prompts = [processor.prompt(sample) for sample in SAMPLES]
    reduced = reduce_prompts(model, processor, prompts, fewer(by, 5 if by != "grid" else 4))
    together = greedy_tokens(model, processor, reduced, 4)
    for whole, less, written in zip(prompts, reduced, together, strict=True):
        assert greedy_tokens(model, processor, [less], 4)[0] == written
        batch = collate([whole], True, 0)
        with_images(batch, model, processor, [whole])
        with torch.no_grad():
            visual = model.visual(None, batch.features)
            embedded = model.embed(batch.input_ids, batch.image > 0, visual)[0]
            for number, into in enumerate(less.reduced, 1):
                places = np.flatnonzero(whole.image == number)
                for token in range(into.max() + 1):
                    members = places[into == token]
                    embedded[members[0]] = embedded[members].mean(0)
            left = torch.from_numpy(less.position)
            states, position = embedded[left][None], left[None]
            image = torch.from_numpy(less.image)
            ids = []
            for step in range(4):
                allowed = by_hand(mask, image, step)
                logits = model.language(
                    inputs_embeds=states, position_ids=position, attention_mask=allowed
                ).logits[0, -1]
                logits[model.generation_config.suppress_tokens or []] = -torch.inf
                best = int(logits.argmax())
                if best in np.atleast_1d(model.generation_config.eos_token_id):
                    break
                ids.append(best)
                new = model.get_input_embeddings()(torch.tensor([[best]]))
                states = torch.cat([states, new], 1)
                position = torch.cat([position, position[:, -1:] + 1], 1)
                image = torch.cat([image, torch.zeros(1, dtype=torch.long)])
        assert ids == written


def by_hand(mask, image, written):
    """Who sees whom, as transformers takes it [1, 1, length, length]: True for allowed."""
    size = len(image)
    order = torch.arange(size)
    allowed = order[None] <= order[:, None]
    same = (image[:, None] == image[None]) & (image[:, None] > 0)
    if mask in ("image_block", "prefix"):
        allowed = allowed | same
    if mask == "prefix":
        prompt = order < size - written
        allowed = allowed | (prompt[:, None] & prompt[None])
    if mask == "diagonal":
        allowed = allowed & ((image[:, None] == 0) | torch.eye(size, dtype=torch.bool))
    return allowed[None, None]


@pytest.mark.parametrize("by", WAYS)
@pytest.mark.parametrize("mask", ["causal", "mutual"])
def test_likelihoods_together_are_those_alone(by, mask):
    model, processor = model_of(mask)
    candidates = [["yes", "no, not"]] * len(SAMPLES)
    spec = fewer(by)
    scored = dict(score_candidates(model, processor, SAMPLES, candidates, fewer=spec))
    whole = dict(score_candidates(model, processor, SAMPLES, candidates))
    for number, sample in enumerate(SAMPLES):
        ((_, alone),) = score_candidates(model, processor, [sample], candidates[:1], fewer=spec)
        got = [one.whole for one in scored[number]]
        assert got == pytest.approx([one.whole for one in alone], abs=1e-4)
        before = [one.whole for one in whole[number]]
        assert (got == pytest.approx(before, abs=1e-4)) == (not sample.images)


@pytest.mark.parametrize("protocol", ["generate", "likelihood"])
def test_an_answerer_that_keeps_all_says_the_same_to_the_bit(protocol):
    model, processor = model_of()
    choices = ("yes", "no, not")
    examples = [
        Example(id=str(n), sample=sample, question="?", answers=("a",), candidates=choices)
        for n, sample in enumerate(SAMPLES)
    ]

    def say(spec):
        answerer = LucidaAnswerer(model, processor, fewer=spec)
        return sorted(answerer.stream(examples, protocol, 6), key=lambda pair: pair[0])

    usual = say(None)
    assert say(fewer("attention", 1.0)) == usual
    assert say(fewer("random", 3)) != usual


def test_positions_that_do_not_count_visual_tokens_stay_too():
    model, processor = tiny_model(
        image=SIXTEEN,
        language={"path": language_folder(), "max_length": 120, "positions": "reset"},
    )
    prompt = processor.prompt(SAMPLES[0])
    (less,) = reduce_prompts(model, processor, [prompt], fewer("random"))
    assert len(set(less.position[less.image > 0])) == 1
    assert np.array_equal(less.position[less.image == 0], prompt.position[prompt.image == 0])


@pytest.mark.parametrize("by", WAYS)
def test_pictures_of_their_own_shape_keep_their_share(by):
    model, processor = tiny_model("siglip2", image={"policy": "native", "size": 32})
    images = (image_source(picture(0, 32, 16), 1), image_source(picture(1, 32, 32), 2))
    stem = (Turn("user", (ImagePart(0), ImagePart(1))),)
    prompt = processor.prompt(Sample("x", images, stem, ((Turn("user", ("a",)),),)))
    (less,) = reduce_prompts(model, processor, [prompt], fewer(by, 0.5))
    assert [len(into) for into in less.reduced] == [8, 16]
    assert [int((less.image == n).sum()) for n in (1, 2)] == [4, 8]
    assert greedy_tokens(model, processor, [less], 3)


def test_joined_tokens_hold_everything():
    torch.manual_seed(0)
    visual = torch.randn(16, 8)
    for keep in (15, 9, 8, 3, 1):
        into = merge_alike(visual, keep)
        (left,) = reduce_visual([visual], [into])
        sizes = torch.from_numpy(np.bincount(into))
        assert left.shape == (keep, 8) and int(sizes.sum()) == 16
        torch.testing.assert_close((left * sizes[:, None]).sum(0), visual.sum(0))
        first = [int(np.flatnonzero(into == number)[0]) for number in range(keep)]
        assert first == sorted(first)


def test_the_most_alike_are_joined():
    """Two pairs of twins, apart from one another and from the rest."""
    visual = torch.eye(6)
    visual[3], visual[4] = 2 * visual[0], 0.5 * visual[1]
    into = merge_alike(visual, 4)
    assert into.tolist() == [0, 1, 2, 0, 1, 3]


def test_grids_are_spread_evenly():
    kept = np.flatnonzero(keep_grid((4, 4), 4) >= 0)
    assert kept.tolist() == [5, 7, 13, 15]
    assert (keep_grid((4, 4), 8) >= 0).sum() == 8
    assert np.flatnonzero(keep_grid((2, 6), 3) >= 0).tolist() == [7, 9, 11]
    with pytest.raises(ModelError, match="no grid"):
        keep_grid((4, 4), 7)


def test_random_is_spread_over_the_picture():
    met = np.mean([keep_random(16, 4, f"picture {n}") >= 0 for n in range(4000)], axis=0)
    assert np.allclose(met, 0.25, atol=0.03)  # four deviations of 0.007
    assert keep_only(np.array([3, 1]), 4).tolist() == [-1, 0, -1, 1]
    assert keep_most(np.array([0.1, 0.4, 0.4, 0.2]), 2).tolist() == [-1, 0, 1, -1]


def test_attention_finds_what_is_marked():
    """The first layer is made to look for one direction, which three visual tokens have."""
    model, processor = model_of()
    attention = model.language.base_model.layers[0].self_attn
    embedding = model.get_input_embeddings().weight
    with torch.no_grad():
        embedding[:, 0], embedding[:, 1] = 1.0, 0.0
        attention.q_proj.weight.zero_()
        attention.k_proj.weight.zero_()
        # Of each head of size 4 the places 1 and 3 turn slowest with the distance: 0.01 a step.
        attention.q_proj.weight[1::4, 0] = 5.0
        attention.k_proj.weight[1::4, 1] = 5.0
    marked = {0: [2, 3, 14], 1: [0, 7, 9]}
    prompts = [processor.prompt(sample) for sample in SAMPLES[:2]]
    seen = {}

    def visual(pixels, features):
        tokens = []
        for image in features.images():
            number = seen.setdefault(tuple(image.flatten()[:4].tolist()), len(seen))
            one = torch.zeros(16, 16)
            one[:, 2] = 1.0
            one[marked[number], 1] = 3.0
            tokens.append(one)
        return tokens

    model.visual = visual
    found = [
        set(np.flatnonzero(each.reduced[0] >= 0).tolist())
        for each in reduce_prompts(model, processor, prompts, fewer("attention", 3, layer=1))
    ]
    assert sorted(map(sorted, found)) == sorted(marked.values())


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("mask", ["causal", "prefix"])
def test_what_is_paid_is_what_the_watcher_sees(layer, mask):
    """`interpretability.watching` runs every layer and keeps all weights, prompt by prompt."""
    model, processor = model_of(mask)
    prompts = [processor.prompt(sample) for sample in SAMPLES]
    paid = attention_paid(model, processor, prompts, layer)
    for prompt, parts in zip(prompts, paid, strict=True):
        batch = collate([prompt], True, 0)
        with_images(batch, model, processor, [prompt])
        visual = model.visual(None, batch.features)
        last = torch.tensor([len(prompt) - 1])
        weights = watch(model, batch, visual, mask, last)[1].kept[layer - 1].mean(0)[0].numpy()
        assert len(parts) == len(prompt.images)
        for number, part in enumerate(parts, 1):
            np.testing.assert_allclose(part, weights[prompt.image == number], atol=1e-6)


def test_designs_that_cannot_lose_tokens_are_refused():
    def refuse(told, by="random", kind=ModelError, sample=SAMPLES[0], layer=None, **more):
        model, processor = tiny_model(**more)
        prompt = processor.prompt(sample)
        with pytest.raises(kind, match=told):
            reduce_prompts(model, processor, [prompt], fewer(by, layer=layer))

    refuse("gated layers", cross_attention={"every": 1})
    wide = {"path": language_folder("wide"), "max_length": 120, "positions": "mrope"}
    refuse("three parts", language=wide)
    refuse("one view", image={"policy": "anyres", "grids": [[1, 2]]})
    refuse("fewer layers", by="attention", layer=3)
    ends = Sample("x", SAMPLES[0].images, (), ((Turn("text", ("a", ImagePart(0))),),))
    refuse("ends with its picture", kind=DataError, sample=ends, image=SIXTEEN)
    pooled = {"path": encoder_folder("clip"), "take": "cls_patches"}
    refuse("no grid", by="grid", vision=pooled)


def test_models_without_eyes_have_nothing_to_lose():
    model, processor = tiny_model(vision=None)
    prompts = [processor.prompt(sample) for sample in SAMPLES]
    assert reduce_prompts(model, processor, prompts, fewer("attention")) == prompts


@pytest.mark.parametrize(
    "values",
    [{"keep": 0.25, "by": "random", "layer": 2}, {"keep": 2.5, "by": "merge"},
     {"keep": 0, "by": "grid"}],
)  # fmt: skip
def test_what_says_nothing_is_refused(values):
    with pytest.raises(ValueError, match=r"layer belongs|whole|greater"):
        FewerTokensSpec.model_validate(values)


def test_tokens_that_are_not_those_chosen_among_are_refused():
    with pytest.raises(LucidaError, match="are not those"):
        reduce_visual([torch.zeros(4, 2)], [np.array([0, -1, 1])])
    with pytest.raises(LucidaError, match="each image"):
        reduce_visual([torch.zeros(4, 2)], [np.array([0]), None])
