"""Recipes as values: every choice that makes a model, validated before anything loads.

A `Recipe` is a model, an ordered list of stages and an evaluation. Each default stands in this
package once and nowhere else. Nothing here imports torch. How recipes are found, overridden,
explained and hashed is in `lucida.core.recipe`.
"""

from lucida.core.spec.data import (
    AnnotationsSourceSpec,
    FolderSourceSpec,
    HubSourceSpec,
    InterleavedSourceSpec,
    LlavaSourceSpec,
    MessagesSourceSpec,
    MixtureSpec,
    PairsSourceSpec,
    ParquetSourceSpec,
    SourceSpec,
    TextSourceSpec,
    WebdatasetSourceSpec,
    WorldSourceSpec,
)
from lucida.core.spec.evaluation import EvaluationSpec, RetentionSpec
from lucida.core.spec.model import (
    CrossAttentionSpec,
    LanguageSpec,
    MaskName,
    ModelSpec,
    TemplateName,
)
from lucida.core.spec.projector import (
    AbstractorProjectorSpec,
    DownsampleProjectorSpec,
    ExpandProjectorSpec,
    FusedMlpProjectorSpec,
    IdentityProjectorSpec,
    LinearProjectorSpec,
    MlpProjectorSpec,
    PerceiverProjectorSpec,
    PixelShuffleProjectorSpec,
    PoolProjectorSpec,
    ProjectorSpec,
    QFormerProjectorSpec,
    TransformerProjectorSpec,
)
from lucida.core.spec.recipe import BlindSpec, EngineSpec, Recipe
from lucida.core.spec.training import (
    BatchSpec,
    BudgetSpec,
    LoraSpec,
    LossMode,
    ObjectiveSpec,
    OptimSpec,
    StageSpec,
)
from lucida.core.spec.value import Rate, Spec
from lucida.core.spec.vision import EncoderSpec, ImageSpec, VisionSpec

__all__ = [
    "AbstractorProjectorSpec",
    "AnnotationsSourceSpec",
    "BatchSpec",
    "BlindSpec",
    "BudgetSpec",
    "CrossAttentionSpec",
    "DownsampleProjectorSpec",
    "EncoderSpec",
    "EngineSpec",
    "EvaluationSpec",
    "ExpandProjectorSpec",
    "FolderSourceSpec",
    "FusedMlpProjectorSpec",
    "HubSourceSpec",
    "IdentityProjectorSpec",
    "ImageSpec",
    "InterleavedSourceSpec",
    "LanguageSpec",
    "LinearProjectorSpec",
    "LlavaSourceSpec",
    "LoraSpec",
    "LossMode",
    "MaskName",
    "MessagesSourceSpec",
    "MixtureSpec",
    "MlpProjectorSpec",
    "ModelSpec",
    "ObjectiveSpec",
    "OptimSpec",
    "PairsSourceSpec",
    "ParquetSourceSpec",
    "PerceiverProjectorSpec",
    "PixelShuffleProjectorSpec",
    "PoolProjectorSpec",
    "ProjectorSpec",
    "QFormerProjectorSpec",
    "Rate",
    "Recipe",
    "RetentionSpec",
    "SourceSpec",
    "Spec",
    "StageSpec",
    "TemplateName",
    "TextSourceSpec",
    "TransformerProjectorSpec",
    "VisionSpec",
    "WebdatasetSourceSpec",
    "WorldSourceSpec",
]
