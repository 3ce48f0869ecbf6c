"""A package outside Lucida adds a source, an image policy, a projector, a mask and a benchmark, and
a recipe uses them: trained, measured, saved and loaded again. Entry points are read when a process
starts, so all of it happens in processes of their own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent.parent / "src"

POINTS = """
[lucida.sources]
stripes = kites.specs:StripesSpec
[lucida.projectors]
twice = kites.specs:TwiceSpec
[lucida.masks]
near = kites.parts:near
[lucida.policies]
mirror = kites.parts:Mirror
[lucida.benchmarks]
stripes = kites.parts:Stripes
"""

SPECS = '''
from typing import ClassVar, Literal
from pydantic import Field
from lucida.core.spec.value import Spec

class StripesSpec(Spec):
    """Pictures of stripes, and how many they have."""

    kind: Literal["stripes"] = "stripes"
    implementation: ClassVar[str] = "kites.parts:StripesSource"
    count: int = Field(default=64, gt=0)
    weight: float = Field(default=1.0, gt=0)

class TwiceSpec(Spec):
    """A matrix, and a factor."""

    kind: Literal["twice"] = "twice"
    implementation: ClassVar[str] = "kites.parts:Twice"
    factor: float = 2.0
'''

PARTS = """
import numpy as np
from PIL import Image
from torch import nn
from lucida.data.sample import ImagePart, ImageSource, Sample, Turn
from lucida.eval.benchmark import Benchmark, Example
from lucida.model.masks import causal
from lucida.data.squares import Resize
from lucida.model.projectors.grid import count
from lucida.model.projectors.projector import Projector

def stripes(number):
    many = 1 + number % 4
    values = (np.arange(64) * many // 32 % 2 * 255).astype(np.uint8)
    return many, Image.fromarray(np.tile(values, (64, 1))).convert("RGB")

def asked(number):
    picture = ImageSource(f"stripes {number}", f"stripes:{number % 4}", lambda: stripes(number)[1])
    return picture, (Turn("user", (ImagePart(0),)),), Turn("user", ("how many stripes?",))

class StripesSource:
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        if number >= self.count:
            raise IndexError(number)
        picture, stem, question = asked(number)
        answer = Turn("assistant", (str(stripes(number)[0]),))
        return Sample(picture.origin, (picture,), stem, ((question, answer),))

class Mirror(Resize):
    policy = "mirror"

    def square(self, image):
        return super().square(image).transpose(Image.Transpose.FLIP_LEFT_RIGHT)

class Twice(Projector):
    def __init__(self, spec, vision, language, patches):
        super().__init__()
        self.factor, self.linear = spec.factor, nn.Linear(vision, language)

    @staticmethod
    def tokens(spec, patches):
        return count(patches)

    def forward(self, features, grid=None):
        return self.factor * self.linear(features)

def near(query, key):
    return causal(query, key) & ((query.order - key.order < 200) | (key.image > 0))

class Stripes(Benchmark):
    name, metric = "stripes", "accuracy"

    def __init__(self, prompts=None, data=None):
        pass

    def examples(self, limit=None):
        found = []
        for number in range(8)[:limit]:
            picture, stem, question = asked(number)
            sample = Sample(f"stripes-{number}", (picture,), stem, ((question,),))
            found.append(Example(id=f"stripes-{number}", sample=sample, question="how many?",
                                 answers=(str(stripes(number)[0]),), cluster=str(number)))
        return found

    def parse(self, example, output, read_box):
        return output.strip()

    def majority(self, examples):
        return ["2"] * len(examples)
"""

RECIPE = """
name: foreign
base: mini
changes:
  model.projector: {kind: twice, factor: 1.5}
  model.attention_mask: near
  model.image.policy: mirror
  stages.sft.mixture.sources: {lines: {kind: stripes, count: 16}}
  stages.sft.batch.tokens: 512
  stages.sft.batch.row: null
  stages.sft.budget: {steps: 2}
  evaluation.tasks: [stripes]
  blind: null
"""

USE = """
import json
import lucida
from lucida.core.schema import schema

from kites.parts import Mirror, Stripes, StripesSource
from kites.specs import TwiceSpec
from lucida import testing

testing.check_source(StripesSource(count=16))
testing.check_policy(Mirror(32, (0.5,) * 3, (0.5,) * 3))
testing.check_projector(TwiceSpec(factor=1.5))
testing.check_mask("near")
testing.check_benchmark(Stripes())

folder = lucida.train("foreign.yaml", "run")
results = lucida.evaluate(folder)
model, processor = lucida.load(folder)
print(json.dumps({
    "projector": [type(model.projector).__module__, model.projector.factor],
    "mask": model.mask,
    "policy": type(processor.image_policy).__name__,
    "tasks": list(results["tasks"]),
    "schema": "StripesSpec" in schema()["$defs"],
}))
"""


@pytest.fixture
def package(tmp_path):
    (tmp_path / "site" / "kites").mkdir(parents=True)
    told = tmp_path / "site" / "kites-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: kites\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text(POINTS)
    for name, text in (("__init__", ""), ("specs", SPECS), ("parts", PARTS)):
        (tmp_path / "site" / "kites" / f"{name}.py").write_text(text)
    (tmp_path / "foreign.yaml").write_text(RECIPE)
    return tmp_path


def call(folder, words, site=True):
    """What a process says that has the package, or has it no more."""
    path = [str(SOURCE), *([str(folder / "site")] if site else [])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path),
        "LUCIDA_CACHE": str(folder / "cache"),
    }
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_a_recipe_uses_what_another_package_adds(package):
    done = call(package, ["-c", USE])
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["projector"] == ["kites.parts", 1.5]
    assert told["mask"] == "near"
    assert told["policy"] == "Mirror"
    assert told["tasks"] == ["stripes"]
    assert told["schema"]
    without = call(package, ["-m", "lucida.apps.cli", "show", "foreign.yaml"], site=False)
    assert without.returncode == 1
    assert "unknown kind `twice`" in without.stderr + without.stdout


def test_a_field_of_a_foreign_spec_is_checked_and_explained(package):
    wrong = call(package, ["-m", "lucida.apps.cli", "show", "foreign.yaml",
                           "model.projector.faktor=3"])  # fmt: skip
    assert wrong.returncode == 1
    assert "factor" in wrong.stderr + wrong.stdout
    told = call(package, ["-m", "lucida.apps.cli", "explain", "model.projector"])
    assert "kind: twice" in told.stdout and "factor" in told.stdout


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ("[lucida.sources]\nlines = kites.specs:StripesSpec", "this is no spec of its kind"),
        ("[lucida.sources]\nstripes = kites.specs:Gone", "cannot be loaded"),
        ("[lucida.projectors]\nlinear = kites.specs:LinearSpec", "already"),
    ],
)
def test_what_does_not_fit_is_named(package, points, words):
    (package / "site" / "kites-1.0.dist-info" / "entry_points.txt").write_text(points)
    with (package / "site" / "kites" / "specs.py").open("a") as file:
        file.write("class LinearSpec(TwiceSpec):\n    kind: Literal['linear'] = 'linear'\n")
    done = call(package, ["-m", "lucida.apps.cli", "show", "mini"])
    assert done.returncode == 1
    assert words in done.stderr + done.stdout, done.stderr[-2000:]
    assert "kites" in done.stderr + done.stdout
