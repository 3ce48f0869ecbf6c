"""`python -m lucida` is `lucida`; what torchrun needs."""

from lucida.apps.cli import main

main()
