"""The few elementwise kernels of the training core.

`reference.py` says in torch what each computes, for every dtype and device. On CPU in bf16 the same maths runs from
`cpu.c`, compiled once by the machine's own C compiler and cached; without a compiler the reference serves.
"""

from luthier.models.kernels.reference import (
    causal_softmax_,
    causal_softmax_backward_,
    log_softmax_,
)

__all__ = ["causal_softmax_", "causal_softmax_backward_", "log_softmax_"]
