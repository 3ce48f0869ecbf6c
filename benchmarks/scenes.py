"""How many scenes a second one core makes and draws at 64 pixels; the least is 4,000.

python benchmarks/scenes.py [--scenes 4000]
"""

from __future__ import annotations

import argparse
import time

from lucida.world.drawing import draw
from lucida.world.scenes import make_scene


def main() -> None:
    """Time fresh scenes; the first hundred fill the caches of shapes and grounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=4000)
    given = parser.parse_args()
    for index in range(100):
        draw(make_scene(1, "train", index))
    begun = time.process_time()
    for index in range(given.scenes):
        draw(make_scene(0, "train", index))
    rate = given.scenes / (time.process_time() - begun)
    print(f"{rate:,.0f} scenes a second on one core")
    if rate < 4000:
        raise SystemExit("fewer than 4,000 scenes a second")


if __name__ == "__main__":
    main()
