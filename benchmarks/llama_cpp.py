"""Does a real llama.cpp answer as the trained model does, and as rightly?

python benchmarks/llama_cpp.py RUN [--kinds f16,q8_0,q4_0] [--questions 50] [--tasks attribute,...]

RUN is exported to GGUF (`mini-vit` is a design that can be); both are asked the same questions of
the miniature world's test split. Told are, by task, for pictures at the encoder's own size and for
others, which llama.cpp scales by its own code: answers that are equal word by word, and right ones
of each. Needs `pip install 'lucida[gguf]' xllamacpp`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import torch
import xllamacpp
from asking_cases import ask_world, is_right

from lucida.apps.drawn import drawing
from lucida.apps.export.write import export
from lucida.model.checkpoint import load
from lucida.model.decode import greedy

TOKENS = 24


def main() -> None:
    """Export, ask both, count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--kinds", default="f16,q8_0,q4_0")
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--tasks", default="attribute,counting,spatial-pointed")
    args = parser.parse_args()
    model, processor = load(args.run)
    asked = ask_world(args.tasks, args.questions)
    with torch.inference_mode():
        ours = greedy(model, processor, [example.sample for _, example in asked], TOKENS)
    side = processor.image_policy.size
    for kind in args.kinds.split(","):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "gguf"
            export(args.run, folder, "gguf", kind)
            server = start(folder, processor.visual_tokens)
            counts: Counter[tuple[str, str, str]] = Counter()
            for (name, example), own in zip(asked, ours, strict=True):
                theirs = ask(server, example)
                size = "own size" if example.size == (side, side) else "scaled"
                counts[name, size, "asked"] += 1
                counts[name, size, "equal"] += theirs.strip() == own.strip()
                counts[name, size, "right here"] += is_right(example, own)
                counts[name, size, "right there"] += is_right(example, theirs)
            del server
        for name, size in sorted({key[:2] for key in counts}):
            told = {what: counts[name, size, what]
                    for what in ("asked", "equal", "right here", "right there")}  # fmt: skip
            print(f"{kind}, {name}, {size}: {told}", flush=True)


def start(folder: Path, tokens: int) -> xllamacpp.Server:
    """llama.cpp with both files, one thread; tokens: of a picture, where it would choose them."""
    given = xllamacpp.CommonParams()
    given.model.path = str(next(folder.glob("model-*.gguf")))
    given.mmproj.path = str(next(folder.glob("mmproj-*.gguf")))
    given.image_min_tokens = given.image_max_tokens = tokens
    given.warmup, given.n_ctx, given.n_gpu_layers, given.use_jinja = False, 512, 0, True
    given.cpuparams.n_threads = given.n_parallel = 1
    return xllamacpp.Server(given)


def ask(server: xllamacpp.Server, example: object) -> str:
    """The likeliest answer to a question about one picture."""
    (source,) = example.sample.images
    parts = [
        {"type": "image_url", "image_url": {"url": drawing(source.load(), "").data}},
        {"type": "text", "text": example.question},
    ]
    request = {
        "messages": [{"role": "user", "content": parts}],
        "max_tokens": TOKENS,
        "temperature": 0,
    }
    answer = server.handle_chat_completions(request)
    return answer["choices"][0]["message"]["content"]


if __name__ == "__main__":
    main()
