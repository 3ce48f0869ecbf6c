"""The way of a picture into the text: at which part is it lost, and is each part what it should be?

    record's picture ─▶ pixels ─▶ vision ─▶ projector ─▶ (loss: `still.sight`)

Each station is asked how far apart two pictures are there, as a share of their size: what differs
before a part and not behind it is lost in that part.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import torch
from torch import Tensor, nn

from lucida.apps.doctor.finding import Finding
from lucida.apps.doctor.patient import Patient
from lucida.core.errors import LucidaError
from lucida.data.sample import ImageSource
from lucida.model.checkpoint import build
from lucida.model.encoders.fusion import load_vision
from lucida.training.observe import leave_untouched

ALIKE = 1e-3
"""Two pictures are lost in each other when they differ by less than this share of their size."""


def follow_image(patient: Patient) -> Iterator[Finding]:
    """Findings about pictures, encoder and projector, up to the first that is broken."""
    images = {image.key: image for each in patient.tokens for image in each.images}
    seen = list(images.values())
    yield (first := pictures(patient, seen))
    if first.state == "broken" or len(seen) < 2:
        return
    with leave_untouched(patient.model), torch.no_grad(), patient.precision.autocast():
        encoded = [patient.model.encode_images(patient.processor.pixels([i])) for i in seen]
        features = [each.values.float() for each in encoded]
        tokens = [patient.model.visual(None, each)[0].float().flatten() for each in encoded]
    vision = station("vision", features, "gives all pictures the same features", VISION)
    yield vision
    if vision.state == "ok":
        yield station("projector", tokens, "gives all pictures the same visual tokens", PROJECTOR)


VISION = (
    "load the encoder again (model.vision.path); check feature_layer, and the pixels it expects"
)
PROJECTOR = (
    "the projector has collapsed: take an earlier checkpoint, or train it anew at a lower rate"
)


def pictures(patient: Patient, images: list[ImageSource]) -> Finding:
    """Pictures that show something, and not all the same."""
    name = "pictures"
    drawn = [image.load() for image in images]
    blank = sum(all(low == high for low, high in each.getextrema()) for each in drawn)
    measured = f"{len(drawn)} looked at, {blank} of one colour"
    if blank == len(drawn):
        remedy = f"look at the data: lucida inspect, first picture {images[0].origin}"
        return Finding(name, "broken", measured, "pictures that show something", remedy)
    same = len(drawn) > 1 and len({(each.size, each.tobytes()) for each in drawn}) == 1
    if same:
        remedy = f"look at the data: files are copies of each other, as {images[0].origin}"
        return Finding(name, "broken", f"{measured}, all alike", "different pictures", remedy)
    if blank:
        remedy = "lucida data check and lucida data show find them"
        return Finding(name, "warn", measured, "pictures that show something", remedy)
    return Finding(name, "ok", measured)


def station(name: str, given: list[Tensor], fault: str, remedy: str) -> Finding:
    """How far apart pictures are behind a part, as a share of how large its output is."""
    if not all(bool(each.isfinite().all()) for each in given):
        return Finding(
            name, "broken", f"{name} gives numbers that are not finite", "finite", remedy
        )
    apart = max(distance(a, b) for a, b in combinations(given, 2))
    measured = f"pictures differ by {apart:.2g} of the size of what comes out of it"
    if apart < ALIKE:
        return Finding(name, "broken", f"{fault}: {measured}", f"at least {ALIKE:g}", remedy)
    return Finding(name, "ok", measured)


def distance(a: Tensor, b: Tensor) -> float:
    """Place by place where the shapes are equal, else of the means: |a - b| / mean of |a|, |b|.

    Worked example: (3, 4) and (3, 1): 3 / ((5 + 3.16) / 2) = 0.74.
    """
    if a.shape != b.shape:
        a, b = a.mean(0), b.mean(0)
    size = (a.norm() + b.norm()) / 2
    return float((a - b).norm() / size.clamp(min=1e-12))


def as_loaded(patient: Patient) -> Iterator[Finding]:
    """Of a run: an encoder that no stage trained is still the one of its checkpoint."""
    vision = patient.recipe.model.vision
    if not patient.from_run or vision is None or patient.vision_trains:
        return
    spec = patient.recipe.model
    path = vision.path if spec.start is None else spec.start
    try:
        original = load_vision(vision) if spec.start is None else build(spec)[0].vision
    except (LucidaError, OSError) as problem:
        told = f"cannot be compared with {path}: {problem}"
        yield Finding("vision as loaded", "note", told)
        return
    yield compared(original, patient.model.vision, path)


def compared(original: nn.Module, found: nn.Module, path: str) -> Finding:
    """Bit for bit, every weight and statistic."""
    name, own = "vision as loaded", found.state_dict()
    other = [
        key
        for key, value in original.state_dict().items()
        if key not in own or not torch.equal(own[key].cpu(), value)
    ]
    if not other:
        return Finding(name, "ok", f"{len(own)} tensors are those of {path}")
    return Finding(
        name,
        "broken",
        f"{len(other)} of {len(own)} tensors are not those of {path}, first vision.{other[0]}",
        "no stage trains the encoder, so it is what it was",
        "something else wrote to it, and the projector has learned other features: copy the encoder"
        " back from its checkpoint, or train the run again",
    )
