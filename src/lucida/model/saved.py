"""A saved model and its processor: each loads whole and as it was saved, and fits the other.

    from_pretrained   files ─▶ checksums ─▶ shapes ─▶ transformers ─▶ complete ─▶ processor fits
    save_pretrained   transformers ─▶ checksums

The two classes stand in front of transformers' own, so that `lucida.load`, the Auto classes and
pipelines all come through here. What does not agree is a ModelError with both values.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lucida.core.errors import DataError, ModelError, suggestion
from lucida.data.boxes import box_tokens
from lucida.model.arrangement import policy_of
from lucida.model.checksums import MODEL, PROCESSOR, seal
from lucida.model.config import LucidaConfig
from lucida.model.folder import (
    CONFIG,
    GENERATION,
    PROCESSOR_CONFIG,
    Stored,
    are_channels,
    check_counts,
    check_folder,
    check_shapes,
    headers,
    read_json,
)
from lucida.model.loading import complete, load_tokenizer, quiet_loading, refusing

if TYPE_CHECKING:
    from lucida.model.processing import LucidaProcessor

DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
BESIDE = ("processor_class", "auto_map")
"""Entries of processor_config.json that are transformers' own."""


class SavedModel:
    """Saving and loading of a model by transformers' methods, with checks."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **options: Any) -> Any:
        """As transformers', whole and as saved: ModelError when files are missing, damaged, mixed
        or changed, and when weights and configuration do not fit."""
        given = pretrained_model_name_or_path
        folder = None if given is None else Path(given, options.get("subfolder") or "")
        if folder is None or not Path(given).is_dir():
            return super().from_pretrained(given, *args, **options)
        told = options.pop("output_loading_info", False)
        check_model(cls, folder)
        # So that `complete` says what is wrong: alone, transformers makes missing weights up.
        options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
        with refusing(folder):
            model, report = super().from_pretrained(given, *args, **options)
        complete(report, str(folder), exact=True)
        return (model, report) if told else model

    def save_pretrained(self, save_directory: Any, is_main_process: bool = True, **options: Any):
        """As transformers', with checksums."""
        super().save_pretrained(save_directory, is_main_process=is_main_process, **options)
        if is_main_process:
            seal(Path(save_directory), MODEL)


class SavedProcessor:
    """Saving and loading of a processor by transformers' methods, with checks."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **options: Any) -> Any:
        """As transformers', whole and as saved: ModelError when files are missing, damaged, mixed
        or changed, and when the settings are not those of the model beside them."""
        given = pretrained_model_name_or_path
        options.setdefault("trust_remote_code", False)
        folder = Path(given, options.get("subfolder") or "")
        if not folder.is_dir():
            return super().from_pretrained(given, *args, **options)
        file = folder / PROCESSOR_CONFIG
        check_folder(folder, PROCESSOR)
        check_entries(cls, read_json(file), file)
        try:
            with refusing(file, "this processor cannot be loaded"):
                processor = super().from_pretrained(given, *args, **options)
        except ModelError:
            load_tokenizer(str(folder))  # names its own files where they are at fault
            raise
        if (folder / CONFIG).is_file():
            check_pair(processor, read_config(folder), file)
        check_settings(processor, folder)
        return processor

    def save_pretrained(self, save_directory: Any, *args: Any, **options: Any) -> Any:
        """As transformers', with checksums."""
        written = super().save_pretrained(save_directory, *args, **options)
        seal(Path(save_directory), PROCESSOR)
        return written


def read_config(folder: Path) -> LucidaConfig:
    """The configuration in a folder; ModelError when it is none of Lucida's, or not valid."""
    file = folder / CONFIG
    values = read_json(file)
    if values.get("model_type") != LucidaConfig.model_type:
        raise ModelError(
            "this folder holds no model of Lucida's",
            expected=f'"model_type": "{LucidaConfig.model_type}"',
            given=values.get("model_type"),
            origin=file,
            remedy="`lucida import` reads models of other programs, `lucida eval hf:FOLDER` asks"
            " them",
        )
    with quiet_loading(), refusing(file, "this configuration cannot be used"):
        config = LucidaConfig.from_pretrained(folder)
        config.vision_configs, config.layers, config.arrangement  # noqa: B018 - read once
        if (config.vision_config is None) != (config.model_spec.vision is None):
            raise ModelError(
                "config.json does not agree with itself about the vision encoder",
                expected=f"spec.vision {config.model_spec.vision and 'is set'}",
                given=f"vision_config {config.vision_config and 'is set'}",
                origin=file,
            )
    return config


def check_model(kind: type, folder: Path) -> None:
    """ModelError unless the files in a folder are those of one whole model."""
    if not (folder / CONFIG).is_file():
        raise ModelError(
            "the folder holds no finished model",
            expected=CONFIG,
            origin=folder,
            remedy="finish the run with `lucida train`, or give the folder of a saved model",
        )
    check_folder(folder, MODEL)
    values = read_json(folder / CONFIG)
    stored = headers(folder)
    check_counts(values, stored, folder / CONFIG)
    config = read_config(folder)
    check_plain(values, stored, folder / CONFIG)
    unusable = "no model can be made of this configuration"
    with quiet_loading(), refusing(folder / CONFIG, unusable), torch.device("meta"):
        model = kind(config)
    check_shapes(model, stored, folder / CONFIG)
    check_generation(read_json(folder / GENERATION), config, folder / GENERATION)


def check_plain(values: dict[str, Any], stored: dict[str, Stored], file: Path) -> None:
    """ModelError for a configuration that asks for weights in few bits, or that names another type
    of numbers than is stored."""
    for part in (values, values.get("text_config"), values.get("vision_config")):
        if isinstance(part, dict) and part.get("quantization_config"):
            raise ModelError(
                "a saved model holds plain weights, and this configuration asks for others",
                expected="no quantization_config",
                given=part["quantization_config"],
                origin=file,
                remedy="remove the entry; to train on weights in few bits set"
                " model.language.quantize",
            )
    wanted = DTYPES.get(str(values.get("dtype")))
    for name, each in stored.items():
        if wanted and each.dtype in DTYPES.values() and each.dtype != wanted:
            raise ModelError(
                f"{name} is stored in another type of numbers than {file.name} names",
                expected=wanted,
                given=each.dtype,
                origin=each.file,
                remedy="if it was converted on purpose, set `dtype` and convert all of them",
            )


def check_generation(values: dict[str, Any], config: LucidaConfig, file: Path) -> None:
    """ModelError when the settings of generation name tokens that the model has not got, or do not
    keep it from writing placeholders."""
    words = config.text_config.get_text_config().vocab_size
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "suppress_tokens"):
        given = values.get(name)
        listed = given if isinstance(given, list) else [] if given is None else [given]
        if not all(type(each) is int and 0 <= each < words for each in listed):
            raise ModelError(
                f"`{name}` names tokens that this model has not got",
                expected=f"numbers from 0 to {words - 1}",
                given=given,
                origin=file,
            )
    if config.vision_config is not None:
        suppressed = values.get("suppress_tokens")
        if config.image_token_id not in (suppressed if isinstance(suppressed, list) else []):
            raise ModelError(
                "the model is not kept from writing placeholders of images",
                expected=f"suppress_tokens with {config.image_token_id}",
                given=suppressed,
                origin=file,
                remedy="put the token back, or save the model again",
            )


def check_entries(kind: type, values: dict[str, Any], file: Path) -> None:
    """ModelError for an entry of processor_config.json that no processor of Lucida's has:
    transformers would leave it out without a word."""
    known = [name for name in inspect.signature(kind.__init__).parameters if name != "self"]
    for name in values:
        if name not in known and name not in BESIDE:
            raise ModelError(f"unknown entry `{name}`", origin=file, remedy=suggestion(name, known))


def check_settings(processor: LucidaProcessor, folder: Path) -> None:
    """ModelError when a tokenizer lacks what its processor writes, or a setting is of no use."""
    known, policy = processor.tokenizer.get_vocab(), processor.image_policy
    with refusing(folder / PROCESSOR_CONFIG, "these settings cannot be used"):
        names = [] if policy is None else policy.names()
        boxes = box_tokens(processor.coordinate_bins)
    needed = [processor.image_token, *names, *boxes]
    missing = [name for name in needed if name not in known]
    if missing:
        raise ModelError(
            f"the tokenizer lacks {len(missing)} tokens of this model, {missing[0]} for one",
            expected=f"a vocabulary of the model's own tokenizer ({len(needed)} special tokens)",
            given=f"{len(known):,} tokens without it",
            origin=folder / "tokenizer.json",
            remedy="files of two models are mixed: put its own tokenizer back",
        )
    for each in (policy, *processor.more_policies):
        if each and not (are_channels(each.mean, -math.inf) and are_channels(each.std, 0)):
            raise ModelError(
                "mean and std of pictures are three numbers each, std above zero",
                given=f"{each.mean}, {each.std}",
                origin=folder / PROCESSOR_CONFIG,
            )
    limit, file = processor.max_length, folder / PROCESSOR_CONFIG
    if type(limit) is not int or limit < 1:
        raise ModelError("`max_length` is no number of tokens", given=limit, origin=file)
    try:
        processor.end_tokens()
    except DataError as problem:
        raise ModelError(
            f"the template `{processor.template}` cannot be written here: {problem}", origin=file
        ) from problem


def check_pair(processor: LucidaProcessor, config: LucidaConfig, origin: object) -> None:
    """ModelError, with both values, when a processor is not that of the model."""
    for what, expected, given in differences(processor, config):
        raise ModelError(
            f"processor and model do not agree about {what}",
            expected=f"{expected} (config.json)",
            given=given,
            origin=origin,
            remedy="put back the file that was saved with the model; who changes a model changes"
            " both (`spec` in config.json, processor_config.json)",
        )


def differences(
    processor: LucidaProcessor, config: LucidaConfig
) -> Iterator[tuple[str, object, object]]:
    """(what, the configuration's value, the processor's) wherever they do not agree."""
    spec = config.model_spec
    policy = processor.image_policy
    # The configuration knows no mean and deviation: of these the processor's are taken for right.
    seen = policy_of(spec.image, config.image_size, (0.5,) * 3, (0.5,) * 3, config.unit)
    if policy is not None:
        seen = dataclasses.replace(seen, mean=policy.mean, std=policy.std)
    more = max(0, len(config.vision_configs) - 1)
    own = processor.projector
    words = config.text_config.get_text_config().vocab_size
    pairs = (
        ("visual tokens", config.visual_tokens, processor.visual_tokens),
        ("the image policy", seen, policy),
        ("the policies of further encoders", more, len(processor.more_policies)),
        ("the template", spec.language.template, processor.template),
        ("the places of images", spec.language.images, processor.image_places),
        ("the positions of visual tokens", spec.language.positions, processor.positions),
        ("the bins of boxes", spec.coordinate_bins, processor.coordinate_bins),
        ("the token of images", config.image_token_id, processor.image_token_id),
        ("patches of a unit", config.unit_patches, processor.unit_patches),
    )
    yield from (pair for pair in pairs if pair[1] != pair[2] or type(pair[1]) is not type(pair[2]))
    if own is not None:
        wanted, given = (each.model_dump(mode="json") for each in (spec.projector, own))
        if wanted != given:
            yield "the projector", wanted, given
    if len(processor.tokenizer) > words:
        yield "the vocabulary", f"at most {words:,} tokens", f"{len(processor.tokenizer):,}"
