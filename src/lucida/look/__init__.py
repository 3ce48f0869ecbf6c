"""Looking inside. The module itself is callable: `lucida.look(run, image, question)`.

inside      one question taken apart: read this first
places      which pixels of the picture a visual token stands for
watching    attention recorded, heads put to zero
covering    parts of the picture covered, and what that does to the answer
lens        the words that visual tokens already say, layer by layer
drawing     maps over the picture as PNG
page        the same as one HTML page
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from lucida.core.modules import make_callable

if TYPE_CHECKING:
    from lucida.eval.questions import Model
    from lucida.look.inside import Look
    from lucida.model.messages import Picture


class _Look(ModuleType):
    """The package `lucida.look`, which is also the verb."""

    def __call__(
        self,
        model: Model,
        images: Picture | Sequence[Picture],
        question: str,
        answer: str | None = None,
        **options: object,
    ) -> Look:
        """What a model looked at when it answered; see `look.inside.look`."""
        from lucida.look.inside import look

        return look(model, images, question, answer, **options)


make_callable(__name__, _Look)
