// What `span.cu` asks of a GPU, of compute capability 8.0 on.

typedef unsigned long long address_t;
#define INFINITE __int_as_float(0x7F800000)
__device__ inline int thread_x() { return threadIdx.x; }
__device__ inline int block_x() { return blockIdx.x; }
__device__ inline int block_y() { return blockIdx.y; }
__device__ inline void *shared_memory() {
    extern __shared__ __align__(16) unsigned char memory[];
    return memory;
}
__device__ inline void block() { __syncthreads(); }
__device__ inline void warp_meets() { __syncwarp(); }
__device__ inline float other(float x, int by) { return __shfl_xor_sync(~0u, x, by); }
__device__ inline unsigned greatest_of(unsigned x) { return __reduce_max_sync(~0u, x); }  // of a warp
__device__ inline bool every(bool x) { return __all_sync(~0u, x); }
__device__ inline float as_float(unsigned x) { return __uint_as_float(x); }
__device__ inline unsigned as_word(float x) { return __float_as_uint(x); }
__device__ inline long long clamped(long long x) {
    const long long most = 1 << 30;
    return x > most ? most : x < -most ? -most : x;
}

__device__ inline float number(unsigned x) {  // of 16 bits
#if BF16
    return __uint_as_float(x << 16);
#else
    float found;
    asm("{ .reg .b16 half, rest; mov.b32 {half, rest}, %1; cvt.f32.f16 %0, half; }" : "=f"(found) : "r"(x));
    return found;
#endif
}

__device__ inline unsigned halves(float low, float high) {
    unsigned found;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(found) : "f"(high), "f"(low));
    return found;
}

__device__ inline unsigned times(unsigned a, unsigned b) {
    unsigned found;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(found) : "r"(a), "r"(b));
    return found;
}

__device__ inline unsigned less(unsigned a, unsigned b) {
    unsigned found;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(found) : "r"(a), "r"(b));
    return found;
}

__device__ inline unsigned times_plus(unsigned a, unsigned b, unsigned c) {
    unsigned found;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(found) : "r"(a), "r"(b), "r"(c));
    return found;
}

__device__ inline float exponential(float x) {  // 2^x
    float found;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(found) : "f"(x));
    return found;
}

__device__ inline void product(
    float (&sum)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1
) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Four 8 × 8 matrices of 16 bits, turned over: thread g·4 + c has rows 2c and 2c + 1 of column g. Thread 8i + j says
// where row j of matrix i is.
__device__ inline void matrices(unsigned (&x)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"((unsigned)__cvta_generic_to_shared(row))
                 : "memory");
}

// To shared memory, while the program goes on; zeros where nothing is there.
__device__ inline void copy16(void *to, const void *from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((unsigned)__cvta_generic_to_shared(to)),
                 "l"(from), "r"(there ? 16 : 0)
                 : "memory");
}

__device__ inline void copy8(void *to, const void *from, bool there) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"((unsigned)__cvta_generic_to_shared(to)),
                 "l"(from), "r"(there ? 8 : 0)
                 : "memory");
}

__device__ inline void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
__device__ inline void loaded() { asm volatile("cp.async.wait_group 0;" ::: "memory"); }

// Programmatic dependent launch: the next kernel may begin, and what the one before wrote is there.
__device__ inline void begin_dependents() {
#if OVERLAPS
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ inline void wait_dependencies() {
#if OVERLAPS
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
