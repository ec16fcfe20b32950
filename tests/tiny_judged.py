"""Tiny judged data: prompts with scored, labelled or stepwise responses of random tokens."""

from __future__ import annotations

import numpy as np
import tiny

from luthier.types import Encoded


class Judged(tiny.Store):
    """A prompt and `responses` scored responses (1 the best), or one labelled good or bad."""

    def __init__(self, rows: int, responses: int = 2, seed: int = 0) -> None:
        super().__init__(rows, seed)
        random = np.random.default_rng(seed)
        self.encoded = []
        for row in range(rows):
            prompt = random.integers(3, tiny.VOCABULARY, int(random.integers(9, 20)))
            ids, weights = [], []
            for _ in range(responses):
                answer = random.integers(3, tiny.VOCABULARY, int(random.integers(3, 12)))
                ids.append(np.concatenate([prompt, answer]).astype(np.int32))
                weights.append(np.concatenate([np.zeros(len(prompt)), np.ones(len(answer))]).astype(np.float32))
            known = {
                "reward": tuple(float(n) for n in range(responses, 0, -1)) if responses > 1 else (float(row % 2),),
                "right": tuple(float((row + n) % 3 == 0) for n in range(responses)),
                "step_end": tuple(np.array([len(p) - 3, len(p) - 1]) for p in ids),
                "step_reward": tuple(np.array([1, row % 2], np.float32) for _ in ids),
            }
            shared = len(prompt) if responses > 1 else 0
            self.encoded.append(Encoded(tuple(ids), tuple(weights), shared, known, self.source(row)))
        self.digest = f"judged-{rows}-{responses}-{seed}"
        self.lengths = np.array([len(each) for each in self.encoded], np.int32)
        self.scored = np.array([sum(np.count_nonzero(w) for w in each.weights) for each in self.encoded], np.int32)
