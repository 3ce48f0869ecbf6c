"""The table of benchmarks: one line each, imported when asked for."""

from __future__ import annotations

from functools import cache

from lucida.core.errors import RecipeError
from lucida.core.registry import Table
from lucida.core.spec import EvaluationSpec, OwnTaskSpec
from lucida.eval.benchmark import Benchmark

_HERE = "lucida.eval.benchmarks"

WORLD = {
    name: f"{_HERE}.world:{name.replace('-', '_')}"
    for name in (
        "caption",
        "attribute",
        "unanswerable",
        "reading",
        "boxes",
        "relation",
        "relation-pointed",
        "side",
        "spatial",
        "spatial-pointed",
        "counting",
        "counting-pointed",
        "presence",
        "presence-random",
        "presence-popular",
        "presence-adversarial",
        "diagram",
        "comparison",
        "attribute-by-relation",
        "presence-detailed",
        "counting-compared",
        "spatial-nearest",
        "boxes-precise",
        "reading-by-place",
        "tissue-kind",
        "tissue-counting",
        "tissue-mitosis",
        "tissue-denser",
        "attribute-novel",
        "boxes-novel",
    )
} | {
    "caption-chair": f"{_HERE}.world_chair:CaptionChair",
    "demonstrated-word": f"{_HERE}.world_demonstrated:word",
    "demonstrated-label": f"{_HERE}.world_demonstrated:label",
    "demonstrated-format": f"{_HERE}.world_demonstrated:answer_format",
    "text-questions": f"{_HERE}.world_text:TextQuestions",
    "text-documents": f"{_HERE}.world_text:TextDocuments",
    "text-requests": f"{_HERE}.world_text:TextRequests",
}
"""The miniature world's: every task family that has one answer, and text without pictures."""

PUBLISHED = {
    "vqav2": f"{_HERE}.vqa:VQAv2",
    "gqa": f"{_HERE}.gqa:GQA",
    "gqa-consistency": f"{_HERE}.gqa:GQAConsistency",
    "vizwiz": f"{_HERE}.vqa:VizWiz",
    "textvqa": f"{_HERE}.textvqa:TextVQA",
    "textvqa-ocr": f"{_HERE}.textvqa:TextVQAOCR",
    "okvqa": f"{_HERE}.vqa:OKVQA",
    "refcoco-val": f"{_HERE}.grounding:refcoco_val",
    "refcoco-testA": f"{_HERE}.grounding:refcoco_testA",
    "refcoco-testB": f"{_HERE}.grounding:refcoco_testB",
    "refcoco+-val": f"{_HERE}.grounding:refcoco_plus_val",
    "refcoco+-testA": f"{_HERE}.grounding:refcoco_plus_testA",
    "refcoco+-testB": f"{_HERE}.grounding:refcoco_plus_testB",
    "refcocog-val": f"{_HERE}.grounding:refcocog_val",
    "refcocog-test": f"{_HERE}.grounding:refcocog_test",
    "ocid-ref": f"{_HERE}.grounding:OCIDRef",
    "vsr": f"{_HERE}.yes_no:VSR",
    "tallyqa": f"{_HERE}.counting:TallyQA",
    "pope-random": f"{_HERE}.yes_no:pope_random",
    "pope-popular": f"{_HERE}.yes_no:pope_popular",
    "pope-adversarial": f"{_HERE}.yes_no:pope_adversarial",
    "ai2d": f"{_HERE}.choice:AI2D",
    "coco-captions": f"{_HERE}.captions:CocoCaptions",
    "flickr30k": f"{_HERE}.captions:Flickr30k",
    "nocaps": f"{_HERE}.captions:NoCaps",
    "pathvqa": f"{_HERE}.pathvqa:PathVQA",
    "scienceqa-img": f"{_HERE}.choice:ScienceQA",
    "mmbench": f"{_HERE}.mmbench:mmbench",
    "mmbench-cn": f"{_HERE}.mmbench:mmbench_cn",
    "mme": f"{_HERE}.mme:MME",
    "seed-bench": f"{_HERE}.choice:SEEDBench",
    "seed-bench-ranking": f"{_HERE}.choice:SEEDRanking",
    "mmmu": f"{_HERE}.mmmu:MMMU",
    "mmmu-pro": f"{_HERE}.mmmu_pro:MMMUPro",
    "mmmu-pro-vision": f"{_HERE}.mmmu_pro:MMMUProVision",
    "mathvista": f"{_HERE}.mathvista:MathVista",
    "docvqa": f"{_HERE}.documents:DocVQA",
    "infovqa": f"{_HERE}.documents:InfoVQA",
    "chartqa": f"{_HERE}.documents:ChartQA",
    "ocrbench": f"{_HERE}.documents:OCRBench",
    "textcaps": f"{_HERE}.captions:TextCaps",
    "mmstar": f"{_HERE}.vision_centric:MMStar",
    "realworldqa": f"{_HERE}.vision_centric:RealWorldQA",
    "cv-bench": f"{_HERE}.vision_centric:CVBench",
    "blink": f"{_HERE}.blink:Blink",
    "mmvp": f"{_HERE}.vision_centric:MMVP",
    "naturalbench": f"{_HERE}.vision_centric:NaturalBench",
    "hallusion-bench": f"{_HERE}.hallucination:HallusionBench",
    "amber": f"{_HERE}.hallucination:Amber",
    "vqa-rad": f"{_HERE}.medical:VQARAD",
    "slake": f"{_HERE}.medical:Slake",
    "mm-vet": f"{_HERE}.judged:MMVet",
    "llava-bench": f"{_HERE}.judged:LLaVABench",
    "mm-safetybench": f"{_HERE}.safety:MMSafetyBench",
    "mmlu": f"{_HERE}.text:MMLU",
    "bbh": f"{_HERE}.text:BBH",
    "drop": f"{_HERE}.text:DROP",
    "perplexity": f"{_HERE}.perplexity:Perplexity",
}
"""The field's, read from the files that their publishers offer."""

BENCHMARKS = Table(
    "benchmark",
    WORLD | PUBLISHED,
    group="lucida.benchmarks",
    error=RecipeError,
)
"""Name -> what gives a `Benchmark` when called with the keywords `prompts` and `data`."""


@cache
def benchmark(name: str, prompts: str | None = None, data: str | None = None) -> Benchmark:
    """The benchmark of that name, made once per process; an unknown name is an error.

    `prompts` names a set of prompts, None takes the benchmark's own; `data` is the folder of the
    published files, None takes the environment's LUCIDA_DATA. Files are read by `examples` only.
    """
    return BENCHMARKS[name](prompts=prompts, data=data)


def load_task(
    task: str | OwnTaskSpec, prompts: str | None = None, data: str | None = None
) -> Benchmark:
    """The benchmark that an entry of `evaluation.tasks` names or describes, made once per process.

    RecipeError: an unknown name, or an own task that is called as a benchmark is. What stands in
    the records of an own task is read by `examples`.
    """
    if isinstance(task, str):
        return benchmark(task, prompts, data)
    if task.task in BENCHMARKS:
        raise RecipeError(
            f"`{task.task}` is a benchmark already, so your own task needs another name",
            given=getattr(task.source, "path", task.source.kind),
            remedy="give it a `name` (--name)",
        )
    return _own(task.model_dump_json())


@cache
def _own(spec: str) -> Benchmark:
    from lucida.eval.benchmarks.own import OwnTask

    return OwnTask(OwnTaskSpec.model_validate_json(spec))


def find_task(spec: EvaluationSpec, task: str | OwnTaskSpec) -> Benchmark:
    """The benchmark of that name as an evaluation asks it: one over own records that it describes,
    else one that everybody knows."""
    own = spec.own(task) if isinstance(task, str) else task
    return load_task(task if own is None else own, spec.prompts, spec.data)
