"""A full-scale recipe played through in minutes, with nothing fetched (`lucida train --rehearse`).

    recipe ─▶ rehearsal.py ─┬─ parts.py        tiny random models of the same kinds, tokenizers too
                            ├─ records.py      its data, in the layouts that it names
                            ├─ questions.py,   the files of its benchmarks
                            │  suites.py
                            └─ the same recipe on these, a few steps of each stage, and evaluated

files.py writes what all of them lay out.
"""
