"""Checks that change nothing: weights, labels, norms, first losses, layers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn

from lucida.apps.doctor.alignment import alignment
from lucida.apps.doctor.finding import Finding
from lucida.apps.doctor.patient import (
    LOOKED_AT,
    Patient,
    choose,
    with_blank_pictures,
    with_other_pictures,
    without_pictures,
)
from lucida.data.order import capacity
from lucida.data.pack import fullness
from lucida.data.reader import Encoded, Unusable
from lucida.data.sample import Tokens
from lucida.model.adapters import named_tensors
from lucida.training.observe import leave_untouched


def weights(patient: Patient) -> Finding:
    """Not one number may be infinite or NaN."""
    every = named_tensors(patient.model)
    parameters = {name: each for name, each in every.items() if isinstance(each, nn.Parameter)}
    bad = [name for name, weight in parameters.items() if not bool(weight.isfinite().all())]
    if not bad:
        return Finding("weights", "ok", f"{len(parameters)} tensors, all finite")
    patient.dead = True
    return Finding(
        "weights",
        "broken",
        f"{len(bad)} of {len(parameters)} tensors are not finite, first {bad[0]}",
        "finite numbers only",
        f"get the checkpoint of `{bad[0].split('.')[0]}` again, or go back to an earlier one",
    )


def labels(patient: Patient) -> Iterator[Finding]:
    """Template and labels of the first records; chooses the batch to examine."""
    found = patient.data.first(LOOKED_AT)
    usable = [record for record in found if isinstance(record, Encoded)]
    refused = [record for record in found if isinstance(record, Unusable)]
    whole = [record.tokens for record in usable]
    patient.tokens = choose(whole)
    if refused:
        skips = patient.stage.mixture.on_error == "skip"
        few = len(refused) <= patient.stage.mixture.max_dropped * len(found)
        yield Finding(
            "records",
            "warn" if skips and few else "broken",
            f"{len(refused)} of {len(found)} cannot be used; "
            f"first, from {refused[0].source}: {refused[0].reason}",
            "every record can be encoded" if not skips else "no more than mixture.max_dropped",
            "correct the data or the template; mixture.on_error=skip leaves single records out",
        )
    else:
        yield Finding("records", "ok", f"{len(found)} of {len(found)} can be encoded")
    if not whole:
        return
    yield shares(whole)
    yield endings(patient, whole)
    if (room := capacity(patient.stage.batch)) is not None:
        yield rows([len(each) for each in whole], room)
    cut = sum(record.cut.total() > 0 for record in usable)
    if cut:
        remedy = f"raise model.language.max_length ({patient.recipe.model.language.max_length})"
        yield Finding("length", "warn", f"{cut} of {len(found)} records are cut", "none", remedy)


def shares(whole: list[Tokens]) -> Finding:
    """How much of the data is learned from."""
    supervised = sum(each.supervised for each in whole)
    total = sum(map(len, whole))
    visual = sum(each.visual for each in whole)
    measured = (
        f"{supervised} of {total} positions supervised ({100 * supervised / total:.1f}%), "
        f"{100 * visual / total:.0f}% visual tokens"
    )
    if supervised == 0:
        remedy = "check stage.loss and that the records have answers"
        return Finding("labels", "broken", measured, "some positions are supervised", remedy)
    return Finding("labels", "ok", measured)


def rows(lengths: list[int], room: int) -> Finding:
    """Rows that the samples leave half empty are computed all the same."""
    share = fullness(lengths, room)
    measured = f"{share:.1%} of the positions of rows of {room} hold something"
    if share >= 0.8:
        return Finding("rows", "ok", measured)
    remedy = f"raise batch.row; samples have up to {max(lengths)} tokens"
    return Finding("rows", "warn", measured, "at least 80%", remedy)


def endings(patient: Patient, whole: list[Tokens]) -> Finding:
    """An answer whose end is not learned never ends."""
    name = "answer ends"
    tokenizer = patient.processor.tokenizer
    ends = set(patient.processor.end_tokens())
    learned = sum(bool(ends & set(each.target.tolist())) for each in whole)
    measured = f"{learned} of {len(whole)} samples teach an end token ({sorted(ends)})"
    if learned == 0:
        return Finding(
            name,
            "broken",
            measured,
            "the template's end token is supervised",
            "check the template and that max_length does not cut every answer",
        )
    unknown = tokenizer.unk_token_id
    if unknown is not None:
        lost = sum(int((each.input_ids == unknown).sum()) for each in whole)
        share = lost / sum(map(len, whole))
        if share > 0.01:
            told = f"{100 * share:.1f}% of the tokens are unknown to the tokenizer"
            return Finding(name, "warn", told, "below 1%", "use the language model's own tokenizer")
    return Finding(name, "ok", measured)


def norms(patient: Patient) -> Finding:
    """Visual tokens far louder or quieter than words drown them or are not heard."""
    name = "visual-token norm"
    model, loud = patient.model, []

    def listen(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        loud.append(output.detach().float().norm(dim=-1).flatten())

    handle = model.projector.register_forward_hook(listen)
    batch = patient.batch()
    try:
        with leave_untouched(model), patient.precision.autocast():
            model.hidden(batch, patient.stage.attention_mask)
    finally:
        handle.remove()
    words = batch.input_ids[(batch.segment > 0) & (batch.image == 0)]
    with torch.no_grad():
        text = model.get_input_embeddings()(words).float().norm(dim=-1).median().item()
    visual = torch.cat(loud).median().item() if loud else math.nan
    ratio = visual / max(text, 1e-12)
    measured = f"{visual:.3g} against {text:.3g} of text embeddings, ratio {ratio:.3g}"
    # What training has made is judged by what is seen; at the start the norm is all that is known.
    least, most = (0.01, 100) if patient.from_run else (0.05, 20)
    if math.isfinite(ratio) and least <= ratio <= most:
        return Finding(name, "ok", measured)
    remedy = "set model.projector.norm=true (mlp), check the feature layer and the projector's rate"
    state = "warn" if math.isfinite(ratio) and 1e-3 <= ratio <= 1e3 else "broken"
    return Finding(name, state, measured, f"a ratio of {least:g} to {most:g}", remedy)


def first_loss(patient: Patient) -> Finding:
    """Before training, seeing should cost little more than reading the text alone."""
    name = "initial loss"
    loss = patient.loss()
    vocabulary = patient.model.get_output_embeddings().weight.shape[0]
    chance = math.log(vocabulary)
    alone = [text for text in map(without_pictures, patient.tokens) if text is not None]
    plain = patient.loss(alone) if alone and patient.sees else math.nan
    measured = f"{loss:.2f}, of the text alone {plain:.2f}, of pure chance {chance:.2f}"
    if not math.isfinite(loss):
        patient.dead = True
        remedy = "look for the module with `lucida train`, which names it; try precision=fp32"
        return Finding(name, "broken", measured, "a finite loss", remedy)
    if loss > chance + 1.5:
        return Finding(
            name,
            "broken",
            measured,
            f"below chance ({chance:.2f}) plus 1.5",
            "the language model does not read its own tokens: check that tokenizer, template and "
            "weights belong together, and the norm of visual tokens",
        )
    if math.isfinite(plain) and loss > plain + 2:
        return Finding(
            name,
            "warn",
            measured,
            f"at most 2 above the text alone ({plain:.2f})",
            "untrained visual tokens disturb the language model: align the projector first",
        )
    return Finding(name, "ok", measured)


def sight(patient: Patient, name: str, expect_use: bool) -> Finding:
    """Loss with the true pictures, with those of other samples, and with grey ones."""
    true = patient.loss()
    blank = patient.loss(with_blank_pictures(patient.tokens))
    others = with_other_pictures(patient.tokens)
    shuffled = math.nan if others is None else patient.loss(others)
    measured = f"true {true:.4f}, exchanged {shuffled:.4f}, blank {blank:.4f}"
    # Equal to the bit: nothing of a picture came into the arithmetic.
    if true == blank and (others is None or true == shuffled):
        if patient.closed and any(each.startswith("cross_attention") for each in patient.trained):
            return Finding(name, "note", f"{measured}: the gates of cross_attention are still 0")
        if patient.closed:
            remedy = f"add `cross_attention: 1e-3` to stages.{patient.stage.name}.train"
            told = f"{measured}: the gates of cross_attention are 0, and nothing trains them"
            return Finding(name, "broken", told, "gates that open", remedy)
        return Finding(
            name,
            "broken",
            measured,
            "other pictures give another loss",
            "no picture reaches the answers: if `projector` is well above, check placeholders and"
            " the attention mask",
        )
    if expect_use and patient.from_run and blank < true:
        culprit = "projector" if not patient.vision_trains else "projector or encoder"
        return Finding(
            name,
            "broken",
            f"{measured}: grey pictures serve this run better than true ones",
            "true pictures give the lowest loss",
            f"its {culprit} misleads the language model: compare with an earlier checkpoint, "
            "or train that part alone for a while",
        )
    if expect_use and not max(blank, shuffled if others else blank) > true:
        return Finding(
            name,
            "warn",
            measured,
            "true pictures give the lowest loss",
            "the model answers without looking: train longer, align first, or ask what needs eyes",
        )
    return Finding(name, "ok" if expect_use else "note", measured)


def layers(patient: Patient) -> Finding:
    """Where visual tokens come near words (VILA's figure 3)."""
    batch = patient.batch()
    with leave_untouched(patient.model), patient.precision.autocast():
        distances = alignment(patient.model, batch, patient.stage.attention_mask)
    measured = "Chamfer distance by layer: " + " ".join(f"{each:.2f}" for each in distances)
    if any(not math.isfinite(each) for each in distances):
        remedy = "set precision=fp32 and look again"
        return Finding("visual/text alignment", "broken", measured, "finite numbers", remedy)
    return Finding("visual/text alignment", "note", measured + " (0: alike, 1: unrelated)")
