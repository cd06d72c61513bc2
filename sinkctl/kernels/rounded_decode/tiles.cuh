// Tiles of `span.cu` on their way to shared memory.

#define D 128
#define HALF 64
#define TOGETHER 32
#define RANGES 4
#define GROUPS 4
#define TILE 128  // tokens
#define HEADS 4  // query heads a block
#define LOW 0x000F000Fu
#define HIGH 0x00F000F0u

struct Store {
    const unsigned char *k_codes;
    const unsigned short *k_range[2];  // scale, zero
    const unsigned char *v_codes;
    const unsigned short *v_scale, *v_zero;
};

struct Stage {
    unsigned char k[TILE * 64];  // 16 bytes' place within a token is turned by the token, against conflicts of banks
    unsigned char v[TILE * 64];
    unsigned short k_scale_zero[GROUPS][2][D];
    uint2 v_scale[TILE];
    uint2 v_zero[TILE];
};

struct Shared {
    Stage stage[2];
    union {
        struct {
            uint4 scaled[GROUPS * 32 * HEADS];
            uint2 zero[GROUPS * 32 * HEADS];
        } query;
        float sum[4][HEADS][1 + RANGES];
    };
#if BF16
    uint2 plain[HEADS][32];  // queries: a at x and x + 4, b at x and x + 4
#else
    float4 plain[HEADS][32];
    uint2 middle[GROUPS][32];  // codes to count from, of the same channels
#endif
    float unit[GROUPS];  // of keys
    float2 most[4][2];
    unsigned scale[4];
    Store all;  // of the row and head
    unsigned char exceeds[4];  // by warp
};

// Weights of a tile, half a word a token, stand where the keys stood that the warp of theirs has read: of a range and query
// head, the 8 pairs of one of its two groups. Places change with both, against conflicts of banks.
__device__ inline int weight_at(int warp, int range, int head, int group) {
    int line = 4 * range + 2 * (head >> 1) + ((head ^ (head >> 1)) & 1);
    return (64 * (warp >> 1) + 16 * (warp & 1)) * 16 + line * 16 + ((group ^ warp) & 1) * 8;
}

struct Slots {  // where tokens or groups from the first of a tile on are
    int place, own, fixed, turning;
    __device__ int of(int i) const {
        int at = place + i;
        at = at >= turning ? at - turning : at;
        return fixed + (i < own ? i - own : at);
    }
    __device__ int tiles(int step) const { return own > 0 ? 0 : (turning - place) / step; }  // side by side from here on
};

__device__ inline Slots slots_of(long long first, int fixed, int count) {
    int turning = count - fixed;
    long long own = fixed - first;
    int place = (int)(((first - fixed) % turning + turning) % turning);
    return {place, (int)(own < 0 ? 0 : own), fixed, turning};
}

// Where 16 bytes of codes go, of the first 2,048 of a tile.
__device__ inline int k_at(int thread) { return (thread << 4) ^ ((thread & 8) << 2); }
__device__ inline int v_at(int thread) { return (thread << 4) ^ ((thread & 112)); }


// Slots of which some are no neighbours, or a tile that ends early.
__device__ inline void load_any(
    Stage &stage, const Store &store, const Slots &ks, const Slots &vs, int left, int thread
) {
    int r = thread >> 2, c = thread & 3, own = thread >> 5, j = thread & 31;
    for (int i = 0; i < GROUPS; i++) {
        bool there = i < left;
        long long group = there ? ks.of(i) : 0, token = there ? vs.of(i * 32 + r) : 0;
        copy16(stage.k + i * 2048 + k_at(thread), store.k_codes + group * 2048 + (thread << 4), there);
        copy16(stage.v + i * 2048 + v_at(thread), store.v_codes + token * 64 + (c << 4), there);
    }
    bool there = own < left;
    long long group = there ? ks.of(own) : 0, token = there ? vs.of(thread) : 0;
    const unsigned short *range = store.k_range[j >> 4] + group * D + ((j & 15) << 3);
    copy16(&stage.k_scale_zero[own][j >> 4][(j & 15) << 3], range, there);
    copy8(&stage.v_scale[thread], store.v_scale + token * RANGES, there);
    copy8(&stage.v_zero[thread], store.v_zero + token * RANGES, there);
}

// A whole tile, of slots side by side from these on; below 2^32 bytes.
__device__ inline void load_whole(Stage &stage, const Store &store, unsigned group, unsigned token, int thread) {
    unsigned char *k = stage.k + k_at(thread), *v = stage.v + v_at(thread);
    const unsigned char *k_from = store.k_codes + (group * 2048 + 16 * thread);
    const unsigned char *v_from = store.v_codes + (token * 64 + 16 * thread);
    const unsigned short *range = store.k_range[(thread >> 4) & 1];
    range += (group + (thread >> 5)) * D + ((thread & 15) << 3);
    const unsigned short *v_scale = store.v_scale + (token + thread) * RANGES;
    const unsigned short *v_zero = store.v_zero + (token + thread) * RANGES;
#pragma unroll
    for (int i = 0; i < GROUPS; i++) copy16(k + i * 2048, k_from + i * 2048, true);
#pragma unroll
    for (int i = 0; i < GROUPS; i++) copy16(v + i * 2048, v_from + i * 2048, true);
    copy16((unsigned char *)stage.k_scale_zero + 16 * thread, range, true);
    copy8(stage.v_scale + thread, v_scale, true);
    copy8(stage.v_zero + thread, v_zero, true);
}

struct Source {
    const Store &all;  // of the row and head
    long long end;  // group
    int k_fixed, k_count, v_fixed, v_count;
    int easy;  // tiles whose slots are side by side from these on
    unsigned group, token;
};

// The next tile, of `left` groups before the end.
__device__ inline void load(Stage &stage, Source &from, int left, int thread) {
    if (from.easy > 0 && left >= GROUPS) {
        load_whole(stage, from.all, from.group, from.token, thread);
        from.easy--, from.group += GROUPS, from.token += TILE;
    } else {
        Slots ks = slots_of(from.end - left, from.k_fixed, from.k_count);
        Slots vs = slots_of((from.end - left) * TOGETHER, from.v_fixed, from.v_count);
        load_any(stage, from.all, ks, vs, left, thread);
        ks = slots_of(from.end - left + GROUPS, from.k_fixed, from.k_count);
        vs = slots_of((from.end - left + GROUPS) * TOGETHER, from.v_fixed, from.v_count);
        from.easy = ks.tiles(GROUPS) < vs.tiles(TILE) ? ks.tiles(GROUPS) : vs.tiles(TILE);
        from.group = ks.fixed + ks.place, from.token = vs.fixed + vs.place;
    }
    commit();
}
