"""Where a run's numbers and pictures can go: TensorBoard, Weights & Biases, trackio, MLflow.

Each is used as its makers document it, imported when it is asked for. With `offline` nothing leaves
the machine: TensorBoard and trackio always keep files, Weights & Biases writes what `wandb sync`
sends later, MLflow a database that `mlflow ui` shows.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

from lucida.core.errors import LucidaError, suggestion

PROJECT = "lucida"

Shown = tuple[Image.Image, str]
"""A picture, and in words what was asked, said and true."""


class Tracker(ABC):
    """A place for numbers and pictures of one run.

    name: of the run; key: a word that no other run has. folder: where files of it go. settings: the
    recipe, one entry for each value. offline: nothing leaves the machine.
    """

    package: str

    def __init__(
        self, name: str, key: str, folder: Path, settings: Mapping[str, Any], offline: bool
    ) -> None:
        self.name, self.key, self.folder = name, key, folder
        self.settings, self.offline = settings, offline
        self.library = import_tracker(self.package)
        folder.mkdir(parents=True, exist_ok=True)

    @abstractmethod
    def tell(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step of the run."""

    @abstractmethod
    def show(self, step: int, title: str, pictures: Sequence[Shown]) -> None:
        """Pictures with what was asked about them."""

    @abstractmethod
    def close(self) -> None:
        """Everything is written down."""


def import_tracker(package: str) -> ModuleType:
    """A tracker's package; LucidaError with what to install where it is missing."""
    try:
        return import_module(package)
    except ImportError as problem:
        raise LucidaError(
            f"this tracker needs a package that is not installed ({problem.name})",
            remedy=f"pip install {package.partition('.')[0].replace('torch', 'tensorboard')}",
        ) from problem


class TensorBoard(Tracker):
    """Event files, for `tensorboard --logdir`."""

    package = "torch.utils.tensorboard"

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.writer = self.library.SummaryWriter(str(self.folder))
        lines = [f"    {name}: {value}" for name, value in self.settings.items()]
        self.writer.add_text("recipe", "\n".join(lines), 0)

    def tell(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def show(self, step: int, title: str, pictures: Sequence[Shown]) -> None:
        import numpy as np

        for number, (picture, words) in enumerate(pictures, 1):
            pixels = np.asarray(picture.convert("RGB"))
            self.writer.add_image(f"{title}/{number}", pixels, step, dataformats="HWC")
            self.writer.add_text(f"{title}/{number}", words, step)

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases(Tracker):
    """A run of the project `lucida`; the same again when the run goes on."""

    package = "wandb"

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.run = self.library.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=self.name,
            id=self.key,
            resume="allow",
            dir=str(self.folder),
            config=dict(self.settings),
            mode="offline" if self.offline else None,
        )

    def tell(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def show(self, step: int, title: str, pictures: Sequence[Shown]) -> None:
        shown = [self.library.Image(picture, caption=words) for picture, words in pictures]
        self.run.log({title: shown}, step=step)

    def close(self) -> None:
        self.run.finish()


class Trackio(Tracker):
    """A run of the local project `lucida`, for `trackio show`."""

    package = "trackio"

    def __init__(
        self, name: str, key: str, folder: Path, settings: Mapping[str, Any], offline: bool
    ) -> None:
        # Trackio reads it when it is imported, which the next line does.
        os.environ.setdefault("TRACKIO_DIR", str(folder))
        super().__init__(name, key, folder, settings, offline)
        self.library.init(project=PROJECT, name=name, config=dict(settings), resume="allow")

    def tell(self, step: int, values: Mapping[str, float]) -> None:
        self.library.log(dict(values), step=step)

    def show(self, step: int, title: str, pictures: Sequence[Shown]) -> None:
        for number, (picture, words) in enumerate(pictures, 1):
            shown = self.library.Image(picture.convert("RGB"), caption=words)
            self.library.log({f"{title}/{number}": shown}, step=step)

    def close(self) -> None:
        self.library.finish()


class MLflow(Tracker):
    """A run of the experiment `lucida`, at MLFLOW_TRACKING_URI or in a database of the folder."""

    package = "mlflow"

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        if self.offline or "MLFLOW_TRACKING_URI" not in os.environ:
            import_tracker("sqlalchemy")
            self.library.set_tracking_uri(f"sqlite:///{(self.folder / 'mlflow.db').resolve()}")
        client = self.library.MlflowClient()
        if client.get_experiment_by_name(PROJECT) is None:
            own = (self.folder / "artifacts").resolve().as_uri() if self.offline else None
            client.create_experiment(PROJECT, artifact_location=own)
        experiment = self.library.set_experiment(PROJECT)
        known = client.search_runs([experiment.experiment_id], f"tags.lucida = '{self.key}'")
        if known:
            self.library.start_run(run_id=known[0].info.run_id)
            return
        self.library.start_run(run_name=self.name, tags={"lucida": self.key})
        words = {name: str(value)[:500] for name, value in self.settings.items()}
        self.library.log_params(words)

    def tell(self, step: int, values: Mapping[str, float]) -> None:
        self.library.log_metrics(dict(values), step=step)

    def show(self, step: int, title: str, pictures: Sequence[Shown]) -> None:
        lines = []
        for number, (picture, words) in enumerate(pictures, 1):
            file = f"{title}/{number}.png"
            self.library.log_image(picture.convert("RGB"), file)
            lines.append(f"{file}: {words}")
        self.library.log_text("\n".join(lines), f"{title}/answers.txt")

    def close(self) -> None:
        self.library.end_run()


TRACKERS: dict[str, type[Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "trackio": Trackio,
    "mlflow": MLflow,
}


def find_tracker(name: str) -> type[Tracker]:
    """The tracker of a name; LucidaError for a name that is none."""
    if name not in TRACKERS:
        raise LucidaError(f"there is no tracker `{name}`", remedy=suggestion(name, TRACKERS))
    return TRACKERS[name]
