"""The SFT workload with Luthier and its peers, in turn: benchmarks/results/DATE-sft.{json,md}.

    python benchmarks/sft.py [--only NAME,… [--merge]] [--repeat N] [--rows N] [--model FOLDER] [--data FILE]

Builds each peer's environment in .peers/ at first use. Everything runs on the CPU.
"""

from __future__ import annotations

from contenders import CONTENDERS
from contest import Contest, hold, options
from workload import prepare


def main() -> None:
    given = options(__doc__, rows=256, held_out=64, contenders=CONTENDERS)
    work = prepare(given.rows, given.held_out, given.model, given.data)
    hold("sft", [Contest(work, CONTENDERS, ours=("luthier", "luthier-unfused"))], given)


if __name__ == "__main__":
    main()
