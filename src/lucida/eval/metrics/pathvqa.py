"""PathVQA: yes/no accuracy, exact match, token F1 and BLEU of open answers.

The published script's "exact match" is a share of words and its BLEU is at its best when nothing
agrees, so numbers from it say little; `published_scores` gives them under their own names.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from lucida.eval.metrics.captions import bleu as corpus_bleu
from lucida.eval.metrics.outputs import as_text
from lucida.eval.metrics.ptb import tokenize
from lucida.eval.metrics.yesno import truth_value

_NO_LETTER = re.compile("[^a-zA-Z ]")
_EDGES = ".,;:!?\"'`()[]{}"


def is_yes_no(answer: str) -> bool:
    """Whether the true answer makes the question a yes/no question.

    Worked example: "Yes" -> True; "yes, both" -> False.
    """
    return normalise(answer) in ("yes", "no")


def yes_no_score(prediction: object, answer: str) -> float:
    """1.0 when the first yes or no in the output (also true, false) is the answer, else 0.0.

    Worked example: "No, it is benign." against "no" is 1; "benign" is 0.

    Reference: He et al., PathVQA, 2020, arXiv 2003.10286.
    """
    return float(truth_value(prediction) == (normalise(answer) == "yes"))


def normalise(text: object) -> str:
    """Lower case, single spaces, no punctuation around words.

    Worked example: " In the  Liver. " -> "in the liver"; "H&E" -> "h&e".
    """
    words = (word.strip(_EDGES) for word in as_text(text).lower().split())
    return " ".join(word for word in words if word)


def exact_match(prediction: object, answer: str) -> float:
    """1.0 when prediction and answer are the same after `normalise`, else 0.0.

    Worked example: "The liver." against "the liver" is 1; "liver" against it is 0.

    Reference: He et al., PathVQA, 2020, arXiv 2003.10286.
    """
    return float(normalise(prediction) == normalise(answer))


def token_f1(prediction: object, answer: str) -> float:
    """Harmonic mean of the shares of words of each side that the other has too.

    Repeated words count as often as both have them; 0 when nothing is shared.

    Worked example: "in the liver" against "the liver": precision 2/3, recall 1, F1 0.8.

    Reference: Rajpurkar et al., SQuAD, 2016, arXiv 1606.05250, section 6.
    """
    found, wanted = normalise(prediction).split(), normalise(answer).split()
    shared = (Counter(found) & Counter(wanted)).total()
    return 2 * shared / (len(found) + len(wanted)) if shared else 0.0


def token_recall(prediction: object, answer: str) -> float:
    """The share of the true answer's words that the prediction has, in any order.

    A word that the answer has twice must come twice. An answer without words is found in nothing.

    Worked example: "on the left side of the chest" has the words of "left side"; "right side" has
    one of the two, 0.5.

    Reference: Li et al., LLaVA-Med, 2023, arXiv 2306.00890, section 5.2 (open-set questions).
    """
    found, wanted = normalise(prediction).split(), normalise(answer).split()
    return (Counter(found) & Counter(wanted)).total() / len(wanted) if wanted else 0.0


def bleu(predictions: Sequence[object], answers: Sequence[str]) -> list[float]:
    """BLEU-1..4 of the corpus by coco-caption's definition on its tokens.

    Worked example: predictions equal to answers of four words and more give 1, 1, 1, 1.

    Reference: Papineni et al., BLEU, 2002; see `captions.bleu`.
    """
    return corpus_bleu([tokenize(p) for p in predictions], [[tokenize(a)] for a in answers])[0]


def published_scores(prediction: object, answer: str) -> dict[str, float]:
    """What the published script computes of one pair, under names that say what it is.

    "word precision" is its "exact match": different true words that occur, by predicted words.
    "F1" counts a shared word as often as the prediction has it. "BLEU-1".."BLEU-3" are geometric
    means over n = 1, 2, 3 (weights 1/n); they pass over precisions of 0 and count the brevity
    penalty in characters, so that no shared word at all can score 1. Words are runs of the letters
    a-z; other characters vanish. A prediction without words scores 0 (the script returns a text
    there), and an n-gram order longer than the prediction counts as precision 0 (the script stops).

    Worked example: "spleen" against "liver": word precision 0, F1 0, BLEU-1 1.0. "It is liver."
    against "liver": one word of three, BLEU-1 1/3, and BLEU-2 its square root.

    Reference: He et al., PathVQA, 2020, arXiv 2003.10286, evaluation script.
    """
    output = as_text(prediction)
    ours, theirs = (_NO_LETTER.sub("", text).lower().split() for text in (output, answer))
    found, wanted = Counter(ours), Counter(theirs)
    total = found.total()
    if not total:
        return {"word precision": 0.0, "F1": 0.0, "BLEU-1": 0.0, "BLEU-2": 0.0, "BLEU-3": 0.0}
    shared = sum(count for word, count in found.items() if word in wanted)
    missed = sum(count for word, count in wanted.items() if word not in found)
    scores = {
        "word precision": sum(word in found for word in wanted) / total,
        "F1": 2 * shared / (total + shared + missed) if shared else 0.0,
    }
    brevity = 1.0 if len(output) > len(answer) else math.exp(1 - len(answer) / len(output))
    logs = 0.0
    for n in (1, 2, 3):
        precision = _ngram_precision(ours, theirs, n)
        logs += math.log(precision) if precision else 0.0
        scores[f"BLEU-{n}"] = brevity * math.exp(logs / n)
    return scores


def _ngram_precision(ours: list[str], theirs: list[str], n: int) -> float:
    found, wanted = (
        Counter(zip(*(words[i:] for i in range(n)), strict=False)) for words in (ours, theirs)
    )
    return (found & wanted).total() / found.total() if found else 0.0
