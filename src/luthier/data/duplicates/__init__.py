"""Which rows say what another row says: exactly, nearly, in other words; and which hold what the model is tested on.

    units          texts as words, or as signs of scripts without spaces
    shingles       rows as sets of three units in a row, prompt and answers apart
    minhash        band keys: what rows that are nearly the same have in common; the S-curve of what may be missed
    near           from band keys to which rows stay; verifying: how alike two rows are, counted
    exact, semantic   the same from hashes of content, and from embeddings
    keeping        which of several stays, and what becomes of the rest
    contamination  rows that hold test items

All of it is numpy, knows nothing of files or recipes, and gives the same on any machine, in any order of work.
"""
