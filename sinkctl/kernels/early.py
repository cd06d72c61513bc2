"""What a Triton kernel asks for before the one in front of it has ended (programmatic dependent launch, sm_90 on)."""

import triton
import triton.language as tl


@triton.jit
def fetched(pointers, live, BYTES: tl.constexpr):
    """Ask for BYTES (a multiple of 16) at each live pointer to be brought into the L2 cache; nothing waits for them."""
    tl.inline_asm_elementwise(
        """{
        .reg .pred p;
        setp.ne.b32 p, $2, 0;
        @p cp.async.bulk.prefetch.L2.global [$1], $3;
        mov.u32 $0, 0;
        }""",
        "=r,l,r,r", [pointers.to(tl.int64), live.to(tl.int32), BYTES], tl.int32, False, 1,
    )  # fmt: skip
