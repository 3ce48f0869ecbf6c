"""Trained models for other programs, and other programs' models for Lucida.

write.py    export: choose the format, write aside, reload, compare, and only then name it
remote.py   the format that runs on Lucida itself
read.py     import: open a checkpoint by its Format, build a model of its parts, compare, save
card.py     the model card of every export
probes.py   conversations that both sides are asked
"""
