# mypy: disallow-untyped-defs=False
"""The dialect that the kernels are written in: Gluon on a GPU, Triton in the interpreter.

The kernels are long straight lines over vectors of pixels, a pixel per lane. Triton's search for a
memory layout takes far longer the longer a line is (29 of the 30 seconds that the loss on bits at
N = 19, K = 40 took to compile), and there is nothing to search. Gluon is the same language with the
layout given; Triton's interpreter does not know it, but runs the same source as Triton.
"""

from typing import TYPE_CHECKING

import triton
import triton.language as tl

INTERPRETED: bool = triton.knobs.runtime.interpret
"""Whether TRITON_INTERPRET was set when this module was imported."""

if INTERPRETED or TYPE_CHECKING:
    jit = triton.jit

    @jit
    def lanes(PIXELS: tl.constexpr):
        """0 .. PIXELS - 1."""
        return tl.arange(0, PIXELS)

    @jit
    def add_up(values):
        """Sum of a vector."""
        return tl.sum(values, 0)

    @jit
    def any_of(values):
        """Whether any of a vector is true."""
        return tl.max(values.to(tl.int32), 0) > 0

    @jit
    def opaque(word):
        """The same int32."""
        return word
else:
    from triton.experimental import gluon
    from triton.experimental.gluon import language as gl

    jit = gluon.jit

    @jit
    def lanes(PIXELS: gl.constexpr):
        """0 .. PIXELS - 1, neighbours in neighbouring lanes."""
        layout: gl.constexpr = gl.BlockedLayout([1], [32], [gl.num_warps()], [0])
        return gl.arange(0, PIXELS, layout=layout)

    @jit
    def add_up(values):
        """Sum of a vector."""
        return gl.sum(values, 0)

    @jit
    def any_of(values):
        """Whether any of a vector is true."""
        return gl.max(values.to(gl.int32), 0) > 0

    @jit
    def opaque(word):
        """The same int32, of which the compiler knows nothing: else it keeps K tests of its bits.

        They are made once and used again much later, and took half of the registers.
        """
        return gl.inline_asm_elementwise(
            "mov.b32 $0, $1;", "=r,r", [word], dtype=gl.int32, is_pure=False, pack=1
        )
