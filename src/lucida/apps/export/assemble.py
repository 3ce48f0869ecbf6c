"""The parts of a checkpoint of another program become a model folder of Lucida's, compared first.

    vision encoders, language model, projector's weights   ─▶  OUT/parts/vision, vision-2, language
                                                            ─▶  OUT (the model)

The parts are written as ordinary Hugging Face folders, so that a recipe can train on from them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from lucida.apps.export.probes import Agreement
from lucida.core.errors import ModelError
from lucida.core.files import atomic_folder
from lucida.core.spec import ModelSpec
from lucida.data.sample import Views
from lucida.model.checkpoint import build, generation_defaults, save
from lucida.model.checksums import seal
from lucida.model.conversion.llava import check_exactly
from lucida.model.encoders.families import family_of
from lucida.model.encoders.preprocessing import Preprocessing
from lucida.model.loading import load_whole, quiet_loading
from lucida.model.processing import LucidaProcessor
from lucida.model.vlm import LucidaModel

Linear = tuple[Tensor, Tensor]
"""Weight and bias."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What a user says about an import. template: the one that writes prompts. allow_pickle:
    whether pickles may be read. vision, language: folders or Hub ids to take instead of those that
    a checkpoint names."""

    template: str | None = None
    allow_pickle: bool = False
    vision: tuple[str, ...] = ()
    language: str | None = None


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a checkpoint: the template that writes its prompts, how well the model agrees
    with it, and what differs from the program that it comes from."""

    template: str
    agreement: Agreement
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Parts:
    """A checkpoint taken apart.

    pixels: for each encoder what its preprocessor_config.json says. projector: weights under
    Lucida's names, the newline included. spec: values of the model's spec without the paths of
    parts; `vision` in it is what each encoder has in common. max_length: tokens, images included.
    """

    vision: Sequence[PreTrainedModel]
    pixels: Sequence[dict[str, Any]]
    language: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    projector: dict[str, Tensor]
    spec: dict[str, Any]
    max_length: int


Settle = Callable[[LucidaModel, LucidaProcessor], tuple[str, Agreement]]
"""Chooses the template and the images' places, and compares the model with where it comes from."""


def assemble(parts: Parts, out: Path, origin: Path, settle: Settle) -> tuple[str, Agreement]:
    """Write the model folder `out`; ModelError when it would not equal the checkpoint. Nothing is
    left at `out` then."""
    with atomic_folder(out) as aside:
        folders = write_parts(parts, aside / "parts")
        spec = spec_of(parts, [str(aside / "parts" / name) for name in folders])
        model, processor = build(spec)
        fill(model.projector, parts.projector, origin)
        template, agreement = settle(model, processor)
        processor.template = template
        places = processor.image_places
        model.generation_config = generation_defaults(parts.language, processor)
        final = spec_of(parts, [str(out / "parts" / name) for name in folders], template, places)
        model.config.spec = json.loads(final.model_dump_json())
        save(model, processor, aside)
    return template, agreement


def write_parts(parts: Parts, folder: Path) -> list[str]:
    """Encoders and language model as folders of their own; their names, the language model last."""
    names = ["vision", *(f"vision-{n}" for n in range(2, len(parts.vision) + 1)), "language"]
    with quiet_loading():
        for name, model in zip(names, (*parts.vision, parts.language), strict=True):
            model.save_pretrained(folder / name)
        for name, pixels in zip(names, parts.pixels, strict=False):
            file = folder / name / "preprocessor_config.json"
            file.write_text(json.dumps(pixels, indent=2) + "\n", encoding="utf-8")
        parts.tokenizer.save_pretrained(folder / "language")
    for name in names:
        seal(folder / name)
    return names


def spec_of(
    parts: Parts, folders: Sequence[str], template: str = "plain", images: str = "in_place"
) -> ModelSpec:
    """The model's spec over parts in these folders."""
    *vision, language = folders
    encoders = [{**parts.spec["vision"], "path": path} for path in vision]
    values = {
        **parts.spec,
        "vision": {**encoders[0], "more": encoders[1:]},
        "language": {
            "path": language,
            "template": template,
            "images": images,
            "max_length": parts.max_length,
        },
    }
    return ModelSpec.model_validate(values)


@torch.no_grad()
def fill(projector: nn.Module, weights: dict[str, Tensor], origin: object) -> None:
    """Copy a projector's weights; ModelError unless every name and shape fits."""
    expected, given = (
        {name: tuple(value.shape) for name, value in state.items()}
        for state in (projector.state_dict(), weights)
    )
    if expected != given:
        raise ModelError(
            "the projector does not fit between this encoder and this language model",
            expected=expected,
            given=given,
            origin=origin,
        )
    projector.load_state_dict(weights)


def filled(
    auto: type, config: PreTrainedConfig, state: dict[str, Tensor], what: str, **options: Any
) -> PreTrainedModel:
    """A model of this configuration with these weights in fp32; ModelError unless all of them fit,
    by name and shape. auto: the Auto class that makes it. Nothing is copied that is fp32 already.
    """
    config.dtype = torch.float32  # else it remembers that of the place it comes from
    with torch.device("meta"):
        empty = auto.from_config(config, **options)
    state = {name: value.float() for name, value in state.items()}
    check_exactly(empty, state, what)
    with quiet_loading():
        model = type(empty).from_pretrained(
            None, config=config, state_dict=state, dtype=torch.float32, **options
        )
    return model.eval()


def published(
    auto: type, path: str, flag: str, config: PreTrainedConfig | None = None, **init: Any
) -> PreTrainedModel:
    """A part from its own folder or the Hub, in fp32; every weight has to be there. flag: the
    option that names another place."""
    with fetched(path, flag):
        return load_whole(auto, path, config=config, init=init).eval()


def shown(pixels: Preprocessing, size: int) -> dict[str, Any]:
    """A preprocessor_config.json for squares of `size` pixels."""
    square = {"height": size, "width": size}
    return {"image_mean": pixels.mean, "image_std": pixels.std, "size": square}


def projector_state(linears: Sequence[Linear], one_matrix: bool) -> dict[str, Tensor]:
    """Linear layers under the names of Lucida's projectors; `linear` has one matrix."""
    state = {}
    for number, (weight, bias) in enumerate(linears):
        name = "linear" if one_matrix else f"layers.{2 * number}"
        state[f"{name}.weight"], state[f"{name}.bias"] = weight.float(), bias.float()
    return state


@contextmanager
def fetched(path: str, flag: str) -> Iterator[None]:
    """Turns transformers' error about a folder or Hub id that cannot be had into ModelError."""
    try:
        yield
    except OSError as problem:
        raise ModelError(
            f"a part of this checkpoint cannot be had: {str(problem).splitlines()[0]}",
            given=path,
            remedy=f"give its folder with {flag}",
        ) from problem


def weight_of(model: PreTrainedModel, module: nn.Module | None) -> str:
    """The name of a module's weight in its model."""
    return next(f"{name}.weight" for name, each in model.named_modules() if each is module)


@dataclass(frozen=True, slots=True)
class Spliced:
    """A checkpoint's parts run one after the other, in the plainest way: what a model made of them
    has to equal.

    layers: (weight, bias) of the projector, with GELU between them. layer, prefix: hidden state and
    number of tokens in front of the patches that are left out.
    """

    vision: Sequence[PreTrainedModel]
    layer: int
    keep_class: bool
    linears: Sequence[Linear]
    language: PreTrainedModel
    image_token: int

    def logits(self, inputs: dict[str, Any]) -> Tensor:
        """Logits of ids in which each place of a visual token is marked."""
        ids = inputs["input_ids"]
        marked = ids == self.image_token
        embedded = self.language.get_input_embeddings()(ids.masked_fill(marked, 0))
        if "pixel_values" in inputs:
            visual = self.project(self.see(inputs["pixel_values"]))
            embedded[marked] = visual.flatten(0, 1).to(embedded)
        return self.language(
            inputs_embeds=embedded,
            attention_mask=inputs["attention_mask"],
            position_ids=inputs["position_ids"],
        ).logits

    def see(self, pixels: Tensor | Views) -> Tensor:
        """Features [images, patches, width], those of several encoders side by side."""
        shown = [pixels] if isinstance(pixels, Tensor) else map(torch.cat, pixels.pixels)
        found = []
        for model, seen in zip(self.vision, shown, strict=True):
            states = model(pixel_values=seen, output_hidden_states=True).hidden_states
            prefix = 0 if self.keep_class else family_of(model.config).prefix(model.config)
            found.append(states[self.layer][:, prefix:])
        return torch.cat(found, dim=-1)

    def project(self, features: Tensor) -> Tensor:
        """Visual tokens [images, patches, width]."""
        for number, (weight, bias) in enumerate(self.linears):
            if number:
                features = functional.gelu(features)
            features = functional.linear(features, weight.float(), bias.float())
        return features
