"""Checkpoints of other programs: a class for each layout, and what fits into it.

format.py       Format: a checkpoint opened, its parts and what it answers; shared steps
llava.py        transformers' Llava and LlavaNext, both ways; processors.py: their pictures
original.py     LLaVA's own code: whole models, projectors, adapters
prismatic.py    Prismatic's runs; timm.py: names of timm's vision transformers
gguf.py         two files for llama.cpp; mmproj.py: its forms of encoder and projector;
                marks.py: what it writes around a picture; kquants.py: fewer bits
fits.py         which designs a Llava and llama.cpp can hold, known without weights
pickles.py      weights in pickles: with consent, tensors only
"""
