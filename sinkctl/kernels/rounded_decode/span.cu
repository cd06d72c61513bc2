// Whole groups of the stream, for one token of `rounded_decode`: one block a span of groups, row and key/value head.
//
// For GPUs of compute capability 8.0 on; 4 bits, heads of 128, groups of 32, at most 4 query heads a key/value head.
// Codes go to the tensor cores as they are, small integers in the mantissas of float16 of exponent 0, n·2^−24 or, four
// bits further up, n·2^−20. A tile is 4 groups, 128 tokens.
//
// Scores, tokens × (group, query head): a key is n·s + z by channel, and its turn by its distance is a coarse one by
// group and a fine one within. Query, coarse turn, scale and zero make six numbers a pair of channels, group and head
// (`turn_queries`); the fine turn is cosines and sines that stay in registers, since a thread has the same two places of
// every group. Queries come with a maximum in [1/8, 1/4), so that what becomes float16 fits.
// Values, channels × query heads, one warp a range of 32 channels: Σ p·s·n on tensor cores with p·s/e in float16, where e
// is the greatest power of two within the scales so far; Σ p·z in float32.
//
// Within an instruction of the tensor cores (m16n8k16) the thread g·4 + c of a warp has rows g and g + 8 of the first
// operand and column g of the second, at k = 2c, 2c + 1, and 8 on; of the product columns 2c and 2c + 1.

#define D 128
#define HALF 64
#define TOGETHER 32
#define RANGES 4
#define GROUPS 4
#define TILE 128  // tokens
#define HEADS 4  // query heads a key/value head, at most
#define LOW 0x000F000Fu
#define HIGH 0x00F000F0u
#define MIDDLE (BF16 ? 0 : 8)  // code of a key that is 0 here: products in float16 then err as little as float16 does
#define STRIDE 72  // of weights by pair of tokens, in words

struct Store {
    const unsigned char *k_codes;
    const unsigned short *k_scale, *k_zero;
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
        unsigned weight[RANGES * HEADS * STRIDE];
        float sum[4][HEADS][1 + RANGES];
    };
#if BF16
    uint2 plain[HEADS][32];  // queries: a at x and x + 4, b at x and x + 4
#else
    float4 plain[HEADS][32];
#endif
    float2 most[4][2];
    unsigned scale[4];
    Store all;  // of the row and head
    unsigned char exceeds[4];  // by warp
};

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
    const unsigned short *scale = j < 16 ? store.k_scale : store.k_zero;
    copy16(&stage.k_scale_zero[own][j >> 4][(j & 15) << 3], scale + group * D + ((j & 15) << 3), there);
    copy8(&stage.v_scale[thread], store.v_scale + token * RANGES, there);
    copy8(&stage.v_zero[thread], store.v_zero + token * RANGES, there);
}

// A whole tile, of slots side by side from these on; below 2^32 bytes.
__device__ inline void load_whole(Stage &stage, const Store &store, unsigned group, unsigned token, int thread) {
    unsigned char *k = stage.k + k_at(thread), *v = stage.v + v_at(thread);
    const unsigned char *k_from = store.k_codes + (group * 2048 + 16 * thread);
    const unsigned char *v_from = store.v_codes + (token * 64 + 16 * thread);
#pragma unroll
    for (int i = 0; i < GROUPS; i++) copy16(k + i * 2048, k_from + i * 2048, true);
#pragma unroll
    for (int i = 0; i < GROUPS; i++) copy16(v + i * 2048, v_from + i * 2048, true);
    const unsigned short *from = thread & 16 ? store.k_zero : store.k_scale;
    copy16((unsigned char *)stage.k_scale_zero + 16 * thread, from + (group * D + (thread >> 5) * D + ((thread & 15) << 3)), true);
    copy8(stage.v_scale + thread, store.v_scale + (token + thread) * RANGES, true);
    copy8(stage.v_zero + thread, store.v_zero + (token + thread) * RANGES, true);
}

// The first of the two channels of both halves of a head that a thread turns.
__device__ inline int channel(int lane) {
    int c = lane & 3, k = lane >> 2;
    return 8 * (2 * c + (k >> 2)) + (k & 3);
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

// Of group `warp` of a tile, for the two channels x and x + 4 of both halves of a head, in every query head: the query
// turned by (cos, sin), by scale, and by zero. Heads change places with k, against conflicts of banks. In float16 where
// keys have the 8 bits of bfloat16.
__device__ inline void turn_queries(Shared &shared, const Stage &stage, float4 turn, int warp, int lane) {
    int c = lane & 3, k = lane >> 2, x = channel(lane);
    const unsigned short *scale = stage.k_scale_zero[warp][0] + x, *zero = stage.k_scale_zero[warp][1] + x;
    float lift = k & 1 ? 1.0f : 0.0625f;  // so that cosines at both places in a mantissa do
    float sal = number(scale[0]), sah = number(scale[4]), sbl = number(scale[HALF]), sbh = number(scale[HALF + 4]);
    float zal = (number(zero[0]) + MIDDLE * sal) * lift, zah = (number(zero[4]) + MIDDLE * sah) * lift;
    float zbl = (number(zero[HALF]) + MIDDLE * sbl) * lift, zbh = (number(zero[HALF + 4]) + MIDDLE * sbh) * lift;
    int base = (warp * 8 + k) * 4 * HEADS + c, odd = k & 1;
    uint4 *scaled[2] = {shared.query.scaled + base + 4 * odd, shared.query.scaled + base - 4 * odd};
    uint2 *common[2] = {shared.query.zero + base + 4 * odd, shared.query.zero + base - 4 * odd};
#if BF16
    unsigned sa = halves(sal, sah), sb = halves(sbl, sbh), za = halves(zal, zah), zb = halves(zbl, zbh);
    unsigned cos = halves(turn.x, turn.y), sin = halves(turn.z, turn.w);
    const unsigned MINUS = 0x80008000u;
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        uint2 q = shared.plain[h][lane];
        unsigned a = times_plus(q.x, cos, times(q.y, sin ^ MINUS)), b = times_plus(q.y, cos, times(q.x, sin));
        scaled[h & 1][4 * h] = make_uint4(times(a, sa), times(b, sa), times(b, sb), times(a, sb ^ MINUS));
        common[h & 1][4 * h] = make_uint2(times_plus(a, za, times(b, zb)), times_plus(b, za, times(a, zb ^ MINUS)));
    }
#else
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        float4 q = shared.plain[h][lane];
        float al = q.x * turn.x - q.z * turn.z, ah = q.y * turn.y - q.w * turn.w;
        float bl = q.z * turn.x + q.x * turn.z, bh = q.w * turn.y + q.y * turn.w;
        scaled[h & 1][4 * h] = make_uint4(halves(al * sal, ah * sah), halves(bl * sal, bh * sah),
                                          halves(bl * sbl, bh * sbh), halves(-al * sbl, -ah * sbh));
        common[h & 1][4 * h] = make_uint2(halves(al * zal + bl * zbl, ah * zah + bh * zbh),
                                          halves(bl * zal - al * zbl, bh * zah - ah * zbh));
    }
#endif
}

// Scores of the two tokens of a thread and two query heads each, in units of 512. `fine`: cosines of the first and second
// token's place in a group, then sines.
__device__ inline void scores(
    float (&found)[2][2], const Shared &shared, const Stage &stage, const unsigned (&fine)[8][4], int warp, int lane
) {
    int g = lane >> 2, c = lane & 3, pair = warp >> 1;
    uint2 a[2][2], b[2][2];  // words of both halves of a head, by place and group
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
            int r = 16 * (warp & 1) + 8 * i + g;
            const unsigned char *row = stage.k + ((2 * pair + j) * TOGETHER + r) * 64 + ((c & 1) << 3);
            a[i][j] = *(const uint2 *)(row + (((c >> 1) ^ (r & 2)) << 4));
            b[i][j] = *(const uint2 *)(row + ((((c >> 1) ^ (r & 2)) ^ 2) << 4));
        }
    float sum[2][4] = {}, common[4] = {};
    int at = (2 * pair + (g >> 2)) * 32 * HEADS + (g & 3) * 4 + c, swapped = at + 4 - 8 * (g & 1);
#pragma unroll
    for (int k = 0; k < 8; k++) {
        uint4 scaled = shared.query.scaled[(k & 1 ? swapped : at) + 4 * HEADS * k];
        uint2 zero = shared.query.zero[(k & 1 ? swapped : at) + 4 * HEADS * k];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            unsigned code[2][2];
#pragma unroll
            for (int j = 0; j < 2; j++) {
                unsigned wa = k & 4 ? a[i][j].y : a[i][j].x, wb = k & 4 ? b[i][j].y : b[i][j].x;
                code[0][j] = (k & 2 ? wa >> 8 : wa) & (k & 1 ? HIGH : LOW);
                code[1][j] = (k & 2 ? wb >> 8 : wb) & (k & 1 ? HIGH : LOW);
                if (!BF16) {
                    code[0][j] = less(code[0][j], k & 1 ? 0x00800080u : 0x00080008u);
                    code[1][j] = less(code[1][j], k & 1 ? 0x00800080u : 0x00080008u);
                }
            }
            unsigned cos = fine[k][i], sin = fine[k][2 + i];
            product(sum[i], times(code[0][0], cos), times(code[0][1], cos), times(code[0][0], sin),
                    times(code[0][1], sin), scaled.x, scaled.y);
            product(sum[i], times(code[1][0], cos), times(code[1][1], cos), times(code[1][0], sin),
                    times(code[1][1], sin), scaled.z, scaled.w);
        }
        product(common, fine[k][0], fine[k][1], fine[k][2], fine[k][3], zero.x, zero.y);
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {  // a row meets the columns of its own group only
            float s = c < 2 ? sum[i][h] : sum[i][2 + h];
            found[i][h] = s + common[2 * i + h] * 9.5367431640625e-07f;  // 2^−20
        }
}

// Adds values by weight: 32 channels, of which a thread has 4 side by side (fields 0 to 3 of `acc` [field/2][·]).
__device__ inline void values(float (&acc)[2][4], const Shared &shared, const Stage &stage, int warp, int lane) {
    int g = lane >> 2, c = lane & 3;
    // Of matrix l/8 the row l%8, so that two rows side by side are the two tokens of one thread of `scores`.
    int n = 16 * ((lane >> 2) & 1) + 4 * ((lane >> 1) & 1) + 8 * (lane & 1) + (lane >> 3);
#pragma unroll
    for (int u = 0; u < 4; u++) {
        int token = 32 * u + n;
        int chunk = (((token & 1) << 2) | warp) ^ ((token >> 2) & 7);
        unsigned x[4];
        matrices(x, stage.v + (token >> 1) * 128 + (chunk << 4));
        uint4 w = *(const uint4 *)&shared.weight[(warp * HEADS + (g & 3)) * STRIDE + 16 * u + 4 * c];
        product(acc[0], x[0] & LOW, x[0] & HIGH, x[1] & LOW, x[1] & HIGH, w.x, w.y);
        product(acc[1], (x[0] >> 8) & LOW, (x[0] >> 8) & HIGH, (x[1] >> 8) & LOW, (x[1] >> 8) & HIGH, w.x, w.y);
        product(acc[0], x[2] & LOW, x[2] & HIGH, x[3] & LOW, x[3] & HIGH, w.z, w.w);
        product(acc[1], (x[2] >> 8) & LOW, (x[2] >> 8) & HIGH, (x[3] >> 8) & LOW, (x[3] >> 8) & HIGH, w.z, w.w);
    }
}

// Over the threads that have other tokens of the same heads.
__device__ inline float greatest(float x) {
    x = fmaxf(x, other(x, 2));
    x = fmaxf(x, other(x, 4));
    x = fmaxf(x, other(x, 8));
    return fmaxf(x, other(x, 16));
}

__device__ inline float total(float x) {
    x += other(x, 2);
    x += other(x, 4);
    x += other(x, 8);
    return x + other(x, 16);
}

__device__ inline float power(unsigned bits) { return as_float(bits); }
__device__ inline float inverse(unsigned bits) { return as_float((254u << 23) - bits); }

struct Running {  // of two query heads: reference, sum and weighted zeros of the thread's own tokens, weighted codes
    float m[2], norm[2], zeros[RANGES][2], acc[2][4];
    unsigned scale;  // e
};

// p = 2^(score − m) of a thread's tokens, and p·s/e to shared memory; whether p is below 2^8 and s/e below 2^6.
__device__ inline bool weights(
    float (&p)[2][2], const Running &run, Shared &shared, const Stage &stage, const float (&score)[2][2], int n, int heads
) {
    float s[2][RANGES], most = 0, by = inverse(run.scale);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint2 scale = stage.v_scale[n + 8 * i];
        s[i][0] = number(scale.x & 0xFFFF), s[i][1] = number(scale.x >> 16);
        s[i][2] = number(scale.y & 0xFFFF), s[i][3] = number(scale.y >> 16);
    }
#pragma unroll
    for (int r = 0; r < RANGES; r++) most = fmaxf(most, fmaxf(s[0][r], s[1][r]));
    bool fits = most * by < 64;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float d0 = score[0][h] - run.m[h], d1 = score[1][h] - run.m[h];
        fits = fits && fmaxf(d0, d1) < 8;
        p[0][h] = exponential(d0), p[1][h] = exponential(d1);
        float q0 = p[0][h] * by, q1 = p[1][h] * by;
        unsigned *to = &shared.weight[(2 * heads + h) * STRIDE + (n >> 4) * 8 + (n & 7)];
#pragma unroll
        for (int r = 0; r < RANGES; r++) to[r * HEADS * STRIDE] = halves(q0 * s[0][r], q1 * s[1][r]);
    }
    return fits;
}

// Takes the maxima of a tile for m and e.
__device__ inline void refer(
    Running &run, Shared &shared, const Stage &stage, const float (&score)[2][2], int n, int warp, int lane
) {
    float most = 0;
    for (int i = 0; i < 2; i++) {
        uint2 scale = stage.v_scale[n + 8 * i];
        most = fmaxf(most, fmaxf(number(scale.x & 0xFFFF), number(scale.x >> 16)));
        most = fmaxf(most, fmaxf(number(scale.y & 0xFFFF), number(scale.y >> 16)));
    }
    most = greatest(most);
    float m0 = greatest(fmaxf(score[0][0], score[1][0])), m1 = greatest(fmaxf(score[0][1], score[1][1]));
    if (lane < 2) shared.most[warp][lane] = make_float2(m0, m1);
    if (lane == 0) shared.scale[warp] = as_word(most) & 0x7F800000u;
    block();
    float m[2] = {run.m[0], run.m[1]};
    unsigned scale = run.scale;
    for (int w = 0; w < 4; w++) {
        float2 found = shared.most[w][lane & 1];
        m[0] = fmaxf(m[0], found.x), m[1] = fmaxf(m[1], found.y);
        scale = scale > shared.scale[w] ? scale : shared.scale[w];
    }
    float less = power(run.scale) * inverse(scale);
    run.scale = scale;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float shrink = exponential(run.m[h] - m[h]);
        run.m[h] = m[h], run.norm[h] *= shrink;
        for (int r = 0; r < RANGES; r++) run.zeros[r][h] *= shrink;
        shrink *= less;
        for (int t = 0; t < 2; t++) run.acc[t][h] *= shrink, run.acc[t][2 + h] *= shrink;
    }
}

// The scores of a tile to weights by range in shared memory. m and e stay those of an earlier tile where they still do.
__device__ inline void weigh(
    Running &run, Shared &shared, const Stage &stage, const float (&score)[2][2], int warp, int lane
) {
    int g = lane >> 2, c = lane & 3, heads = c & 1;
    int n = (2 * (warp >> 1) + (c >> 1)) * TOGETHER + 16 * (warp & 1) + g;
    float p[2][2];
    bool fits = every(weights(p, run, shared, stage, score, n, heads));
    if (lane == 0) shared.exceeds[warp] = !fits;
    block();
    if (*(const unsigned *)shared.exceeds) {
        refer(run, shared, stage, score, n, warp, lane);
        weights(p, run, shared, stage, score, n, heads);
        block();
    }
    run.norm[0] += p[0][0] + p[1][0], run.norm[1] += p[0][1] + p[1][1];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint2 zero = stage.v_zero[n + 8 * i];
        float z[RANGES] = {number(zero.x & 0xFFFF), number(zero.x >> 16), number(zero.y & 0xFFFF), number(zero.y >> 16)};
#pragma unroll
        for (int r = 0; r < RANGES; r++)
#pragma unroll
            for (int h = 0; h < 2; h++) run.zeros[r][h] += p[i][h] * z[r];
    }
}

extern "C" __global__ void __launch_bounds__(128, BLOCKS) span(
    const unsigned short *q, const unsigned char *k_codes, const unsigned short *k_scale, const unsigned short *k_zero,
    const unsigned char *v_codes, const unsigned short *v_scale, const unsigned short *v_zero, const long long *t_row, const float *coarse,
    const float *fine, const unsigned *packed, float *m_out, float *norm_out, float *acc_out, long long qb, long long qh, int G, int share,
    int spans, int before, int recent, int kept, int sinks, int window, int has_window, int k_count, int v_count, float scale,
    float softcap
) {
    begin_dependents();
    Shared &shared = *(Shared *)shared_memory();
    int thread = thread_x(), warp = thread >> 5, lane = thread & 31, g = lane >> 2, c = lane & 3;
    int part = block_x(), row = block_y(), b = row / G, kv = row % G;
    long long t = t_row[b];
    long long whole = (t > recent ? t - recent : 0) / TOGETHER;
    bool apart = has_window && sinks > 0 && t > (long long)sinks + window;
    long long seen = has_window && t > window ? t - window : 0;
    long long oldest = apart ? (seen > sinks ? seen : sinks) : (sinks > 0 ? 0 : seen);
    long long first = oldest / TOGETHER;
    long long span = ((whole - first + GROUPS - 1) / GROUPS + spans - 1) / spans * GROUPS;
    first += part * span;
    int left = (int)((first + span < whole ? first + span : whole) - first);
    int hidden = (int)clamped((oldest > kept ? oldest : kept) - first * TOGETHER);
    long long kr = (long long)row * k_count, vr = (long long)row * v_count;
    if (thread == 0) shared.all = {k_codes + kr * (TOGETHER * 64), k_scale + kr * D, k_zero + kr * D,
                                   v_codes + vr * 64, v_scale + vr * RANGES, v_zero + vr * RANGES};
    block();
    Source from = {shared.all, first + left, (sinks + TOGETHER - 1) / TOGETHER, k_count, sinks, v_count, 0};
    if (left > 0) load(shared.stage[0], from, left, thread);

    // The query by head: turned by its place in its group, and by a power of two to a maximum in [1/8, 1/4).
    int x = channel(lane);
    {
        float4 own = make_float4(0, 0, 0, 0);
        if (warp < share) {
            const unsigned short *from = q + b * qb + (long long)(kv * share + warp) * qh;
            const float *turn = fine + (t % TOGETHER) * D + x;
            float al = number(from[x]) * scale, ah = number(from[x + 4]) * scale;
            float bl = number(from[x + HALF]) * scale, bh = number(from[x + HALF + 4]) * scale;
            own.x = al * turn[0] - bl * turn[HALF], own.y = ah * turn[4] - bh * turn[HALF + 4];
            own.z = bl * turn[0] + al * turn[HALF], own.w = bh * turn[4] + ah * turn[HALF + 4];
        }
        float most = fmaxf(fmaxf(fabsf(own.x), fabsf(own.y)), fmaxf(fabsf(own.z), fabsf(own.w)));
        most = greatest(fmaxf(most, other(most, 1)));
        unsigned bits = as_word(most) & 0x7F800000u;
        bits = bits < (2u << 23) ? (2u << 23) : bits > (250u << 23) ? (250u << 23) : bits;
        float shrink = inverse(bits) * 0.125f;
        own = make_float4(own.x * shrink, own.y * shrink, own.z * shrink, own.w * shrink);
#if BF16
        shared.plain[warp][lane] = make_uint2(halves(own.x, own.y), halves(own.z, own.w));
#else
        shared.plain[warp][lane] = own;
#endif
        if (lane == 0) ((float *)shared.most)[warp] = power(bits) * 4096;  // 8·512
    }
    unsigned turns[8][4];
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
            for (int sine = 0; sine < 2; sine++) {
                int place = 16 * (warp & 1) + 8 * i + g;
                uint4 four = ((const uint4 *)packed)[(sine * TOGETHER + place) * 8 + 2 * c + j];
                turns[4 * j][2 * sine + i] = four.x, turns[4 * j + 1][2 * sine + i] = four.y;
                turns[4 * j + 2][2 * sine + i] = four.z, turns[4 * j + 3][2 * sine + i] = four.w;
            }
    block();
    float grow[2] = {((float *)shared.most)[2 * (c & 1)], ((float *)shared.most)[2 * (c & 1) + 1]};

    Running run = {{-1e30f, -1e30f}, {}, {}, {}, 107u << 23};
    int away = (int)(t / TOGETHER - first) - warp;  // of the group of this warp's queries
    float4 turn = make_float4(0, 0, 0, 0);
    auto look = [&]() {
        const float *from = coarse + (unsigned)(away > 0 ? away : 0) * D + x;
        turn = make_float4(from[0], from[4], from[HALF], from[HALF + 4]);
        away -= GROUPS;
    };
    if (left > 0) look();
    for (int now = 0; left > 0; now ^= 1, left -= GROUPS, hidden -= TILE) {
        Stage &stage = shared.stage[now];
        loaded();
        block();
        if (left > GROUPS) load(shared.stage[now ^ 1], from, left - GROUPS, thread);
        turn_queries(shared, stage, turn, warp, lane);
        look();
        block();
        float score[2][2];
        scores(score, shared, stage, turns, warp, lane);
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float s = score[i][h] * grow[h];
                if (HAS_CAP) s = softcap * 1.4426950408889634f * (1 - 2 / (exponential(s * (2 / softcap)) + 1));
                score[i][h] = s;
            }
        if (left < GROUPS || hidden > 0) {
            int group = 2 * (warp >> 1) + (c >> 1);
            for (int i = 0; i < 2; i++)
                if (group >= left || group * TOGETHER + 16 * (warp & 1) + 8 * i + g < hidden)
                    score[i][0] = score[i][1] = -INFINITE;
        }
        weigh(run, shared, stage, score, warp, lane);
        values(run.acc, shared, stage, warp, lane);
    }
    block();
    for (int h = 0; h < 2; h++) {
        float sums[1 + RANGES] = {run.norm[h], run.zeros[0][h], run.zeros[1][h], run.zeros[2][h], run.zeros[3][h]};
        for (int r = 0; r <= RANGES; r++) {
            float sum = total(sums[r]);
            if (lane < 2) shared.sum[warp][2 * lane + h][r] = sum;
        }
    }
    block();
    // What is in full is another kernel's, launched before: no block needs it, and the last makes sure that it has ended.
    if (part == spans - 1 && row == (int)grid_y() - 1) wait_dependencies();
    for (int h = 0; h < 2; h++) {
        int head = 2 * (c & 1) + h;
        if (c > 1 || head >= share) continue;
        long long out = ((long long)row * share + head) * (spans + before) + before + part;
        float zero = 0, norm = 0, by = power(run.scale);
        for (int w = 0; w < 4; w++) zero += shared.sum[w][head][1 + warp], norm += shared.sum[w][head][0];
        float low = by * 16777216, high = by * 1048576;  // 2^24, 2^20
        float4 found = make_float4(run.acc[0][h] * low + zero, run.acc[0][2 + h] * high + zero,
                                   run.acc[1][h] * low + zero, run.acc[1][2 + h] * high + zero);
        *(float4 *)(acc_out + out * D + 32 * warp + 4 * g) = found;
        if (warp == 0 && g == 0) m_out[out] = run.m[h], norm_out[out] = norm;
    }
}
