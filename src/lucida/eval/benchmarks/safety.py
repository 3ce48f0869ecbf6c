"""MM-SafetyBench: harmful questions whose harm stands in the picture."""

from __future__ import annotations

import ast
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from string import Formatter

from lucida.core.errors import DataError
from lucida.core.progress import say
from lucida.eval.benchmark import AttackJudge, Example, File, Parsed
from lucida.eval.benchmarks.annotations import Record, read_named
from lucida.eval.benchmarks.published import PublishedBenchmark, Split, by_kind
from lucida.eval.metrics.refusals import vlguard_refusal

_CODE = "https://github.com/isXinLiu/MM-SafetyBench"
SCENARIOS = (
    "01-Illegal_Activitiy", "02-HateSpeech", "03-Malware_Generation", "04-Physical_Harm",
    "05-EconomicHarm", "06-Fraud", "07-Sex", "08-Political_Lobbying", "09-Privacy_Violence",
    "10-Legal_Opinion", "11-Financial_Advice", "12-Health_Consultation", "13-Gov_Decision",
)  # fmt: skip
"""As the publisher's files are called, its spelling of the first included."""
QUESTIONS = {
    "SD": "Rephrased Question(SD)",
    "SD_TYPO": "Rephrased Question",
    "TYPO": "Rephrased Question",
}
"""Kind of picture (drawn by Stable Diffusion; the same over the key phrase in letters; the phrase
alone) -> the field with the question that is asked about it."""
_PROMPT = "gpt_query_template_safety"
JUDGES = dict.fromkeys(SCENARIOS, _PROMPT) | {
    "08-Political_Lobbying": f"{_PROMPT}_political_lobbing",
    "10-Legal_Opinion": f"{_PROMPT}_legal",
    "11-Financial_Advice": f"{_PROMPT}_financial",
    "12-Health_Consultation": f"{_PROMPT}_health",
    "13-Gov_Decision": f"{_PROMPT}_gov_decision",
}
"""Scenario -> the judge's prompt for it, by its name in the publisher's script, whose spelling it
is."""
_LARGEST = 1_000_000
"""Bytes of that script at most; it has about 15,000."""
_FIELDS = {"Question", "Changed Question", "Key Phrase", "Phrased Question", *QUESTIONS.values()}


class MMSafetyBench(PublishedBenchmark):
    """MM-SafetyBench: 1,680 harmful questions of 13 scenarios, each with three pictures.

    processed_questions/SCENARIO.json: {id: {"Question", "Changed Question", "Key Phrase",
    "Phrased Question", "Rephrased Question", "Rephrased Question(SD)"}} and
    imgs/SCENARIO/{SD, SD_TYPO, TYPO}/ID.jpg, the folder `data` of the repository. Layout, names and
    which question goes with which picture are as andylinx/VLM-Safety-Eval (get_response_MM.py) and
    PyRIT (its loader of MM-SafetyBench, checked by its authors against the README) have them; the
    release itself was not at hand.

    The official score, the attack success rate, is a GPT judge's, by a prompt of its own for each
    kind of scenario. With `--judge` it stands beside the score as `attacks`, by the prompts of the
    publisher's evaluation.py, which is read and never run (`read_judge_prompts`; the script itself
    was not at hand: names and rule are as copies of it, and scripts that import it, have them).
    Without a judge there is none; `answers/mm-safetybench-MODEL.json` is for a judge elsewhere.

    The score here is another: how many answers are refused by the words of VLGuard's script
    (`metrics.refusals.vlguard_refusal`). A model that refuses everything has 100: what it refuses
    too much has to be measured beside it (`text-requests`, or any task with harmless questions).

    Reference: Liu et al., MM-SafetyBench, 2023, arXiv 2311.17600.
    """

    name, folder, family = "mm-safetybench", "mm-safetybench", "conversation"
    metric = "refused by VLGuard's words"
    twin = "text-requests"
    licence = "CC BY-NC 4.0"
    source = _CODE
    count = 5_040
    max_new_tokens = 512
    exports = True
    files = (
        File("mm-safetybench/processed_questions/", f"{_CODE} (data/)", "13 files"),
        File("mm-safetybench/imgs/", f"{_CODE} (linked there)", "5,040 pictures", "images"),
    )

    script = File("mm-safetybench/evaluation.py", _CODE, "15 kB")
    """The publisher's script with the words of the judge; only `--judge` needs it."""

    def attack_judge(self) -> AttackJudge:
        """The publisher's judge: attacks are counted by scenario and kind of picture."""
        return AttackJudge(read_judge_prompts(self.path(self.script)), "picture")

    def records(self, split: Split) -> list[Record]:
        """Every question of every scenario, once for each of its pictures. DataError: a scenario is
        missing, empty or unknown. Fields of unknown names are told and not read."""
        folder = self.files[0]
        names = {path.name for path in self.path(folder).glob("*.json")}
        unknown = sorted(names - {f"{name}.json" for name in SCENARIOS})
        if unknown:
            raise DataError(
                f"{len(unknown)} files are of no known scenario and would be left out",
                expected=", ".join(SCENARIOS),
                given=", ".join(unknown),
                origin=self.path(folder),
                remedy="move them elsewhere",
            )
        records: list[Record] = []
        fields: Counter[str] = Counter()
        for scenario in SCENARIOS:
            path = self.find_within(folder, f"{scenario}.json")
            asked = read_named(path)
            if not asked:
                raise DataError("the scenario has no questions", origin=path,
                                remedy="download the file again")  # fmt: skip
            for each in asked:
                fields.update(set(each.value) - _FIELDS)
                records += [
                    Record(f"{scenario}/{each.id}/{kind}", each.value, each.origin)
                    for kind in QUESTIONS
                ]
        for field, count in sorted(fields.items()):
            say(f"{self.name}: `{field}` of {count} questions is no known field and not read")
        return records

    def example(self, record: Record) -> Example:
        """A question about one of its pictures; the kind is the scenario."""
        scenario, number, kind = record.id.split("/")
        return self.asked(
            record,
            [self.picture(self.files[1], f"{scenario}/{kind}/{number}.jpg", record)],
            record.text(QUESTIONS[kind]),
            answers=("I'm sorry",),
            kind=scenario,
            cluster=f"{scenario}/{number}",
            details={"picture": kind, "record": record.value},
        )

    def score(self, example: Example, parsed: Parsed) -> float:
        """1 where the answer is refused by VLGuard's words."""
        return float(vlguard_refusal(parsed))

    def summary(
        self, examples: Sequence[Example], parsed: Sequence[Parsed], scores: Sequence[float]
    ) -> dict[str, float]:
        """In percent, how many are refused by scenario and by kind of picture."""
        return by_kind(examples, scores) | by_kind(examples, scores, "picture")

    def answers_file(
        self, examples: Sequence[Example], outputs: Sequence[str], model: str
    ) -> tuple[str, str]:
        """{scenario: {id: the question with `ans`: {MODEL_PICTURE: {"text": answer}}}}: each value
        is laid out as one of the scenarios' files, with the answers where its readers put them."""
        files: defaultdict[str, dict[str, dict]] = defaultdict(dict)
        for example, output in zip(examples, outputs, strict=True):
            _, scenario, number, kind = example.id.split("/")
            row = files[scenario].setdefault(number, {**example.details["record"], "ans": {}})
            row["ans"][f"{model}_{kind}"] = {"text": output}
        text = json.dumps(dict(sorted(files.items())), indent=2, ensure_ascii=False)
        return f"mm-safetybench-{model}.json", text + "\n"


def read_judge_prompts(path: Path) -> dict[str, str]:
    """Scenario -> the judge's prompt, from texts that the publisher's script gives names to.

    The script is taken apart and never run. DataError: it is no such script, or one of the prompts
    is missing, is no plain text or does not say where the answer goes.
    """
    texts = _read_texts(path)
    for name in dict.fromkeys(JUDGES.values()):
        if name not in texts:
            raise DataError(
                "the script lacks a prompt of the judge",
                expected=name,
                given=", ".join(texts) or "no texts",
                origin=path,
                remedy=f"take evaluation.py from {_CODE}",
            )
        if _fields_of(texts[name]) != ["prediction"]:
            raise DataError(
                f"the prompt `{name}` does not say once where the answer goes",
                expected="{prediction}, and no other braces",
                given=texts[name],
                origin=path,
                remedy=f"take evaluation.py from {_CODE}",
            )
    return {scenario: texts[name] for scenario, name in JUDGES.items()}


def _read_texts(path: Path) -> dict[str, str]:
    """Name -> text, of all texts that stand at the top of a script."""
    wrong = DataError("the file is no script in Python", origin=path,
                      remedy=f"take evaluation.py from {_CODE}")  # fmt: skip
    if path.stat().st_size > _LARGEST:
        raise wrong
    try:
        script = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError) as problem:
        raise wrong from problem
    return {
        target.id: each.value.value
        for each in script.body
        if isinstance(each, ast.Assign) and isinstance(each.value, ast.Constant)
        for target in each.targets
        if isinstance(target, ast.Name) and isinstance(each.value.value, str)
    }


def _fields_of(prompt: str) -> list[str]:
    """What is filled into a prompt; anything unusual about it is a field of its own."""
    try:
        parts = list(Formatter().parse(prompt))
    except ValueError as problem:
        return [str(problem)]
    return [
        name + (spec or "") + (f"!{conversion}" if conversion else "")
        for _, name, spec, conversion in parts
        if name is not None
    ]
