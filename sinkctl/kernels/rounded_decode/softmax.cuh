// The running softmax of `span.cu`.

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

#define FINER 64

struct Running {  // of two query heads: reference, sum and weighted zeros of the thread's own tokens, weighted codes
    float m[2], norm[2], zeros[RANGES][2], acc[2][4];
    unsigned scale;  // e
};

// p = 2^(score − m) of a thread's tokens, and p·s/e to shared memory, in units so small that float16 just takes it where p
// is below 2^8 and s/e below 2, as small scales stand beside great ones; whether they are.
__device__ inline bool weights(
    float (&p)[2][2], const Running &run, Stage &stage, const float (&score)[2][2], int n, int warp, int lane
) {
    int g = lane >> 2, c = lane & 3;
    float s[2][RANGES], most = 0, by = inverse(run.scale) * FINER;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint2 scale = stage.v_scale[n + 8 * i];
        s[i][0] = number(scale.x & 0xFFFF), s[i][1] = number(scale.x >> 16);
        s[i][2] = number(scale.y & 0xFFFF), s[i][3] = number(scale.y >> 16);
    }
#pragma unroll
    for (int r = 0; r < RANGES; r++) most = fmaxf(most, fmaxf(fabsf(s[0][r]), fabsf(s[1][r])));
    bool fits = most * by < 2 * FINER;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float d0 = score[0][h] - run.m[h], d1 = score[1][h] - run.m[h];
        fits = fits && fmaxf(d0, d1) < 8;
        p[0][h] = exponential(d0), p[1][h] = exponential(d1);
        float q0 = p[0][h] * by, q1 = p[1][h] * by;
        unsigned *to = (unsigned *)stage.k + weight_at(warp, 0, 2 * (c & 1) + h, c >> 1) + g;
#pragma unroll
        for (int r = 0; r < RANGES; r++) to[r * HEADS * 16] = halves(q0 * s[0][r], q1 * s[1][r]);
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
        most = fmaxf(most, fmaxf(fabsf(number(scale.x & 0xFFFF)), fabsf(number(scale.x >> 16))));
        most = fmaxf(most, fmaxf(fabsf(number(scale.y & 0xFFFF)), fabsf(number(scale.y >> 16))));
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
    Running &run, Shared &shared, Stage &stage, const float (&score)[2][2], int warp, int lane
) {
    int g = lane >> 2, c = lane & 3;
    int n = (2 * (warp >> 1) + (c >> 1)) * TOGETHER + 16 * (warp & 1) + g;
    float p[2][2];
    warp_meets();  // weights go where other threads of the warp read keys in `scores`
    bool fits = every(weights(p, run, stage, score, n, warp, lane));
    if (lane == 0) shared.exceeds[warp] = !fits;
    block();
    if (*(const unsigned *)shared.exceeds) {
        refer(run, shared, stage, score, n, warp, lane);
        weights(p, run, stage, score, n, warp, lane);
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
