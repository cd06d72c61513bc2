// Products of `span.cu` on tensor cores: scores, and weighted values.

// Powers of two as float32 bits.
__device__ inline float power(unsigned bits) { return as_float(bits); }
__device__ inline float inverse(unsigned bits) { return as_float((254u << 23) - bits); }

// The greatest within a number ≥ 0, of those that have an inverse.
__device__ inline unsigned within(unsigned number) {
    unsigned bits = number & 0x7F800000u;
    return bits < (2u << 23) ? (2u << 23) : bits > (252u << 23) ? (252u << 23) : bits;
}

// The first of the two channels of both halves of a head that a thread turns.
__device__ inline int channel(int lane) {
    int c = lane & 3, k = lane >> 2;
    return 8 * (2 * c + (k >> 2)) + (k & 3);
}

// The code of the number nearest to 0.
__device__ inline int nearest(float scale, float zero) { return (int)fminf(fmaxf(rintf(-zero / scale), 0), 15); }

// Of group `warp` of a tile, for the two channels x and x + 4 of both halves of a head, in every query head: the query
// turned by (cos, sin), by scale, and by zero; these two in units of the greatest power of two within those of the group.
// Heads change places with k, against conflicts of banks. In float16 throughout where keys have the 8 bits of bfloat16;
// else codes count from the one nearest to a key of 0, so that no two great products cancel.
__device__ inline void turn_queries(Shared &shared, const Stage &stage, float4 turn, int warp, int lane) {
    int c = lane & 3, k = lane >> 2, x = channel(lane), odd = k & 1;
    const unsigned short *scale = stage.k_scale_zero[warp][0] + x, *zero = stage.k_scale_zero[warp][1] + x;
    float sal = number(scale[0]), sah = number(scale[4]), sbl = number(scale[HALF]), sbh = number(scale[HALF + 4]);
    float zal = number(zero[0]), zah = number(zero[4]), zbl = number(zero[HALF]), zbh = number(zero[HALF + 4]);
    float most = fmaxf(fmaxf(fmaxf(fabsf(sal), fabsf(sah)), fmaxf(fabsf(sbl), fabsf(sbh))),
                       fmaxf(fmaxf(fabsf(zal), fabsf(zah)), fmaxf(fabsf(zbl), fabsf(zbh))));
    unsigned unit = within(greatest_of(as_word(most)));
    if (lane == 0) shared.unit[warp] = power(unit);
    float by = inverse(unit), lift = odd ? by : by * 0.0625f;  // so that cosines at both places in a mantissa do
#if !BF16
    int nal = nearest(sal, zal), nah = nearest(sah, zah), nbl = nearest(sbl, zbl), nbh = nearest(sbh, zbh);
    shared.middle[warp][lane] = make_uint2((nal | nah << 16) << 4 * odd, (nbl | nbh << 16) << 4 * odd);
    zal += nal * sal, zah += nah * sah, zbl += nbl * sbl, zbh += nbh * sbh;
#endif
    sal *= by, sah *= by, sbl *= by, sbh *= by, zal *= lift, zah *= lift, zbl *= lift, zbh *= lift;
    int base = (warp * 8 + k) * 4 * HEADS + c;
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

// Scores of the two tokens of a thread and two query heads each, in units of 512 and of the group. `fine`: cosines of the first and second
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
#if !BF16
                uint2 middle = shared.middle[2 * pair + j][4 * k + c];
                code[0][j] = less(code[0][j], middle.x), code[1][j] = less(code[1][j], middle.y);
#endif
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
__device__ inline void values(float (&acc)[2][4], const Stage &stage, int warp, int lane) {
    int g = lane >> 2, c = lane & 3;
    // Of matrix l/8 the row l%8, so that two rows side by side are the two tokens of one thread of `scores`.
    int n = 16 * ((lane >> 2) & 1) + 4 * ((lane >> 1) & 1) + 8 * (lane & 1) + (lane >> 3);
#pragma unroll
    for (int u = 0; u < 4; u++) {
        int token = 32 * u + n;
        int chunk = (((token & 1) << 2) | warp) ^ ((token >> 2) & 7);
        unsigned x[4];
        matrices(x, stage.v + (token >> 1) * 128 + (chunk << 4));
        int at = weight_at((u & 2) | (c >> 1), warp, g & 3, u) + 4 * (c & 1);
        uint4 w = *(const uint4 *)((const unsigned *)stage.k + at);
        product(acc[0], x[0] & LOW, x[0] & HIGH, x[1] & LOW, x[1] & HIGH, w.x, w.y);
        product(acc[1], (x[0] >> 8) & LOW, (x[0] >> 8) & HIGH, (x[1] >> 8) & LOW, (x[1] >> 8) & HIGH, w.x, w.y);
        product(acc[0], x[2] & LOW, x[2] & HIGH, x[3] & LOW, x[3] & HIGH, w.z, w.w);
        product(acc[1], (x[2] >> 8) & LOW, (x[2] >> 8) & HIGH, (x[3] >> 8) & LOW, (x[3] >> 8) & HIGH, w.z, w.w);
    }
}
