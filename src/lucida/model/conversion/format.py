"""A checkpoint of another program, opened: one class for each layout, the same steps for all.

    folder ─detect─▶ class ─(folder, choices)─▶ vision, language, tokenizer, projector    the parts
                                                spec, max_length, template, images, notes the design
                                                logits(inputs)                            the truth

What a layout means is read when it is opened. What Lucida has no counterpart of is refused with
both values; nothing is guessed, and no weight is left over or made up. `lucida.apps.export.read`
makes a model of the parts and compares it with `logits`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lucida.core.errors import ModelError, suggestion
from lucida.core.spec import ImagePlaces
from lucida.data.sample import Views
from lucida.model.encoders.families import family_of
from lucida.model.encoders.preprocessing import Preprocessing
from lucida.model.loading import load_whole, quiet_loading

Linear = tuple[Tensor, Tensor]
"""Weight and bias."""
VOCABULARY = "give the folder of its language model with --language"


@dataclass(frozen=True, slots=True)
class Choices:
    """What a user says about an import. template: the one that writes prompts. allow_pickle:
    whether pickles may be read. vision, language: folders or Hub ids to take instead of those that
    a checkpoint names."""

    template: str | None = None
    allow_pickle: bool = False
    vision: tuple[str, ...] = ()
    language: str | None = None


class Format(ABC):
    """A checkpoint of one layout; opening it reads everything, or is a ModelError.

    vision: the encoders. pixels: for each what its preprocessor_config.json says. projector:
    weights under Lucida's names, the newline included. linears: the same as layers with GELU in
    between. spec: values of the model's spec without the paths of parts; `vision` in it is what the
    encoders have in common. max_length: tokens, images included. template: the one that writes its
    prompts, None where its own processor has to be asked (`inputs`). images: where they stand.
    """

    name: ClassVar[str]
    vision: Sequence[PreTrainedModel]
    pixels: Sequence[dict[str, Any]]
    language: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    projector: dict[str, Tensor]
    linears: Sequence[Linear] = ()
    spec: dict[str, Any]
    max_length: int
    template: str | None = None
    images: ImagePlaces = "in_place"

    @classmethod
    @abstractmethod
    def detect(cls, folder: Path) -> bool:
        """Whether a folder is of this layout; ModelError for a damaged configuration."""

    @abstractmethod
    def __init__(self, folder: Path, choices: Choices) -> None: ...

    def notes(self, template: str) -> list[str]:
        """What was put together, and what the model does otherwise than the program that wrote the
        checkpoint, if `template` writes its prompts."""
        return []

    def inputs(self, group: list[Any]) -> dict[str, Tensor]:
        """What the checkpoint's own processor makes of conversations, where it has one."""
        raise NotImplementedError

    def logits(self, inputs: dict[str, Any], image_token: int) -> Tensor:
        """What the checkpoint makes of ids in which each place of a visual token is `image_token`:
        its parts run one after the other, in the plainest way, unless a class knows better."""
        ids = inputs["input_ids"]
        marked = ids == image_token
        embedded = self.language.get_input_embeddings()(ids.masked_fill(marked, 0))
        if "pixel_values" in inputs:
            visual = self.visual(Views.read(inputs["pixel_values"]))
            embedded[marked] = visual.flatten(0, 1).to(embedded)
        return self.language(
            inputs_embeds=embedded,
            attention_mask=inputs["attention_mask"],
            position_ids=inputs["position_ids"],
        ).logits

    def visual(self, pixels: Views) -> Tensor:
        """Visual tokens [views, patches, width], from features of the encoders side by side."""
        seen = map(torch.cat, pixels.encoders())
        taken = self.spec["vision"]
        found = []
        for model, own in zip(self.vision, seen, strict=True):
            states = model(pixel_values=own, output_hidden_states=True).hidden_states
            whole = taken.get("take") == "cls_patches"
            prefix = 0 if whole else family_of(model.config).prefix(model.config)
            found.append(states[taken["feature_layer"]][:, prefix:])
        features = torch.cat(found, dim=-1)
        for number, (weight, bias) in enumerate(self.linears):
            features = functional.gelu(features) if number else features
            features = functional.linear(features, weight.float(), bias.float())
        return features


def refuse(
    what: str, expected: object, given: object, origin: object, remedy: str | None = None
) -> NoReturn:
    """One message for everything that Lucida has no counterpart of."""
    raise ModelError(
        f"this checkpoint cannot be expressed here: {what}",
        expected=expected,
        given=given,
        origin=origin,
        remedy=remedy,
    )


def look_up(
    values: Mapping[str, Any],
    name: str,
    table: Mapping[Any, Any],
    origin: object,
    usual: object = None,
) -> Any:
    """What a table says of a configuration's value; ModelError with the nearest for another."""
    given = values.get(name, usual)
    if given not in table:
        near = suggestion(str(given), [each for each in table if each])
        raise ModelError(
            f"the configuration's {name} is not known", given=given, origin=origin, remedy=near
        )
    return table[given]


def linear_layers(
    state: Mapping[str, Tensor], names: Sequence[str], origin: object
) -> list[Linear]:
    """(weight, bias) of a projector's linear layers; ModelError when it has others than these."""
    expected = {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}
    if set(state) != expected:
        raise ModelError(
            "the projector's weights are not those of the kind that the configuration names",
            expected=", ".join(sorted(expected)),
            given=", ".join(sorted(state)) or "none",
            origin=origin,
        )
    return [(state[f"{name}.weight"], state[f"{name}.bias"]) for name in names]


def projector_state(linears: Sequence[Linear], one_matrix: bool) -> dict[str, Tensor]:
    """Linear layers under the names of Lucida's projectors; `linear` has one matrix."""
    state = {}
    for number, (weight, bias) in enumerate(linears):
        name = "linear" if one_matrix else f"layers.{2 * number}"
        state[f"{name}.weight"], state[f"{name}.bias"] = weight.float(), bias.float()
    return state


def without_rotary(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """A language model's weights without a prefix, and without the tables of rotary frequencies
    that older versions of transformers saved: they are computed."""
    return {
        name.removeprefix(prefix): value
        for name, value in state.items()
        if not name.endswith("rotary_emb.inv_freq")
    }


def language_model(
    config: PreTrainedConfig,
    state: dict[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    origin: Path,
    multiple: int | None = None,
) -> PreTrainedModel:
    """The language model with a checkpoint's weights and vocabulary, which may be larger than the
    tokenizer's; ModelError otherwise. multiple: of rows, to which a padding token was added and the
    vocabulary filled up."""
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)
    embedding = weight_of(empty, empty.get_input_embeddings())
    head = weight_of(empty, empty.get_output_embeddings())
    rows = len(state.get(embedding, ()))
    least = len(tokenizer)
    most = rows if multiple is None else -(-least // multiple) * multiple
    if not least <= rows <= most:
        kind = "smaller than its" if rows < least else "larger than its padded"
        limits = f"at least {least:,}" if multiple is None else f"{least:,} to {most:,}"
        raise ModelError(
            f"the checkpoint's vocabulary is {kind} tokenizer's",
            expected=f"{limits} rows ({tokenizer.name_or_path})",
            given=f"{rows:,} rows of {embedding}",
            origin=origin,
            remedy=VOCABULARY,
        )
    # Some checkpoints hold a head of its own although their configuration ties it: the weights
    # decide.
    if head in state:
        config.tie_word_embeddings &= torch.equal(state[head], state[embedding])
    elif config.tie_word_embeddings:
        state[head] = state[embedding]
    config.vocab_size = rows
    if multiple is not None:
        config.pad_token_id = tokenizer.pad_token_id
    return fill_model(AutoModelForCausalLM, config, state, f"{origin}: the language model")


def fill_model(
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


def check_exactly(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """ModelError unless these are the weights of this module, by every name and shape."""
    wanted = module.state_dict()
    for kind, names in (
        ("lacks", wanted.keys() - state.keys()),
        ("has no place for", state.keys() - wanted.keys()),
    ):
        if names:
            listed = ", ".join(sorted(names)[:3])
            raise ModelError(f"{what} {kind} {len(names)} weights: {listed}")
    for name, value in state.items():
        if value.shape != wanted[name].shape:
            raise ModelError(
                f"{what}: {name} has another shape",
                expected=tuple(wanted[name].shape),
                given=tuple(value.shape),
            )


def load_published(
    auto: type, path: str, flag: str, config: PreTrainedConfig | None = None, **init: Any
) -> PreTrainedModel:
    """A part from its own folder or the Hub, in fp32; every weight has to be there. flag: the
    option that names another place."""
    with explain_fetching(path, flag):
        return load_whole(auto, path, config=config, init=init).eval()


@contextmanager
def explain_fetching(path: str, flag: str) -> Iterator[None]:
    """Turns transformers' error about a folder or Hub id that cannot be had into ModelError."""
    try:
        yield
    except OSError as problem:
        raise ModelError(
            f"a part of this checkpoint cannot be had: {str(problem).splitlines()[0]}",
            given=path,
            remedy=f"give its folder with {flag}",
        ) from problem


def square_pixels(pixels: Preprocessing, size: int) -> dict[str, Any]:
    """A preprocessor_config.json for squares of `size` pixels."""
    square = {"height": size, "width": size}
    return {"image_mean": pixels.mean, "image_std": pixels.std, "size": square}


def weight_of(model: PreTrainedModel, module: nn.Module | None) -> str:
    """The name of a module's weight in its model."""
    return next(f"{name}.weight" for name, each in model.named_modules() if each is module)
