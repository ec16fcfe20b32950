"""Proofs judged by real checkers: a statement of the row's, a proof of the model's, and a kernel that knows no mercy.

`checker` is the seam, `coq`, `smt` (Z3) and `lean` are what stands behind it, `proof` is the scorer. `search` looks for
a proof tactic by tactic over the states of a Coq session.
"""
