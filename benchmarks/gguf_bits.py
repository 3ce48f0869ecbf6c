"""What each `--quantize` of the llama.cpp export costs a trained language model.

python benchmarks/gguf_bits.py [--documents 100]

`base-mini` is widened with channels of zeros to 256, so that rows are multiples of 256, and asked
in PyTorch with the weights that each kind's file holds: held-out documents of the miniature world.
Told are bits a weight, the error of the matrices (root mean square, relative), the divergence of
the next token's distribution from the unrounded model's, how often the likeliest token is the same,
and perplexity. Needs `pip install 'lucida[gguf]'`.
"""

from __future__ import annotations

import argparse
import copy

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from lucida.model.conversion.gguf import QUANTIZED, gguf_package, type_of
from lucida.model.conversion.kquants import MIXES, PACKED, pack
from lucida.model.parts import part_path
from lucida.world.text import document

PART = "lucida:base-mini"


@torch.no_grad()
def widen(width: int = 256) -> PreTrainedModel:
    """`base-mini` with channels of zeros, which change nothing."""
    narrow = AutoModelForCausalLM.from_pretrained(part_path(PART))
    config = copy.deepcopy(narrow.config)
    before, config.hidden_size = config.hidden_size, width
    wide = AutoModelForCausalLM.from_config(config)
    known = narrow.state_dict()
    for name, weight in wide.state_dict().items():
        weight.zero_()
        weight[tuple(slice(side) for side in known[name].shape)] = known[name]
        if "norm" in name:  # the mean square is over more channels
            weight.mul_((before / width) ** 0.5)
    return wide.float().eval()


@torch.no_grad()
def hold(language: PreTrainedModel, kind: str) -> int:
    """Put into a llama what its file says in fewer bits; the bytes of its weights there."""
    package = gguf_package()
    config = language.config
    layers, size = config.num_hidden_layers, 0
    names = package.get_tensor_name_map(package.MODEL_ARCH.LLAMA, layers)
    for name, weight in language.named_parameters():
        named = names.get_name(name, try_suffixes=(".weight",))
        values = weight.numpy()
        type_ = type_of(package, named, values, kind, layers, config.tie_word_embeddings)
        if type_.name in PACKED:
            packed = pack(values, type_.name)
        else:
            packed = package.quants.quantize(values, type_)
        size += packed.nbytes
        weight.copy_(torch.from_numpy(package.quants.dequantize(packed, type_)))
    return size


@torch.no_grad()
def predict(language: PreTrainedModel, texts: list[Tensor]) -> Tensor:
    """Log-probabilities of every next token [tokens, vocabulary]."""
    logits = [language(ids[None]).logits[0, :-1].double() for ids in texts]
    return torch.log_softmax(torch.cat(logits), dim=-1)


def main() -> None:
    """Hold, ask, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=100)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(part_path(PART))
    texts = [
        torch.tensor(
            tokenizer(tokenizer.bos_token + document(3, "validation", number))["input_ids"]
        )
        for number in range(args.documents)
    ]
    said = torch.cat([ids[1:] for ids in texts])
    plain = widen()
    matrices = {name: each.detach() for name, each in plain.named_parameters() if each.ndim == 2}
    weights = sum(each.numel() for each in plain.parameters())
    length = sum(each.square().sum() for each in matrices.values())
    expected = predict(plain, texts)
    print(f"{len(said)} tokens")
    for kind in (*QUANTIZED, *MIXES):
        held = copy.deepcopy(plain)
        size = hold(held, kind)
        kept = dict(held.named_parameters())
        off = sum((kept[name].detach() - each).square().sum() for name, each in matrices.items())
        found = predict(held, texts)
        divergence = (expected.exp() * (expected - found)).sum(-1).mean()
        same = (expected.argmax(-1) == found.argmax(-1)).double().mean()
        perplexity = (-found[torch.arange(len(said)), said].mean()).exp()
        print(
            f"{kind}: {8 * size / weights:.2f} bits a weight, error {(off / length) ** 0.5:.2%}, "
            f"divergence {1000 * divergence:.2f} millinats, likeliest the same {same:.1%}, "
            f"perplexity {perplexity:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
