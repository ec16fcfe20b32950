"""DPO with Luthier and its peers, and on long prompts with and without sharing: results/DATE-preference.{json,md}.

    python benchmarks/preference.py [--only NAME,… [--merge]] [--repeat N] [--rows 8] [--model FOLDER] [--data FILE]

Two workloads, one after the other: real pairs of mixed lengths by every tool, and pairs with prompts three times as
long as a response by Luthier with and without prefix sharing. Builds each peer's environment in .peers/ at first use.
Everything runs on the CPU. A contender that broke is repeated by `--only NAME --merge`.
"""

from __future__ import annotations

import pairs
from contenders import LONG_PROMPTS, PAIRS
from contest import Contest, hold, options

PEERS_BAR = {"seconds": 4.5, "peak_gib": 2.0}
SHARING_BAR = {"seconds": 1.4}


def main() -> None:
    given = options(__doc__, rows=pairs.TRAINED, held_out=16, contenders=(*PAIRS, *LONG_PROMPTS))
    mixed = pairs.demo(given.rows, given.held_out, given.model, given.data)
    long = pairs.few_shot(given.rows, given.held_out, given.model)
    contests = [
        Contest(mixed, PAIRS, ours=("luthier",), bars=PEERS_BAR),
        Contest(long, LONG_PROMPTS, ours=("luthier-sharing",), bars=SHARING_BAR),
    ]
    hold("preference", contests, given)


if __name__ == "__main__":
    main()
