// What a token of `span.cu` sees beside whole groups: itself, recent tokens, whose values may be rounded already, those
// kept, and sinks that have left their true distances. Products are in float32, keys rotated by their distances.

#define ROWS 96  // tokens at a time, all on their way to shared memory at once
#define AHEAD 6  // keys of a warp whose angles are on their way

struct InFull {
    const unsigned short *q, *k, *v, *recent_k, *recent_v, *kept_k, *kept_v;  // of the row and key/value head
    long long qh, t, oldest;
    int heads, recent, kept, sinks, window, v_count;
    bool apart;
    float scale, softcap;
};

struct SharedInFull {
    unsigned short k[ROWS][D], v[ROWS][D];  // numbers, or codes first
    uint2 v_scale[ROWS], v_zero[ROWS];
    int distance[ROWS];  // −1: hidden
    short k_group[ROWS];  // of codes; −1: in full
    bool v_coded[ROWS];
    float score[HEADS][ROWS];
    float4 weight[ROWS];  // by query head
    float shrink[HEADS];
};

// Number i of them on its way to place `to`: the token itself, those of the recent slots, then kept tokens and sinks.
__device__ inline void fetch(SharedInFull &shared, const InFull &in, const Store &all, long long done_k, int i, int to) {
    long long done_v = in.t > in.recent ? in.t - in.recent : 0;
    int near = (int)(in.t - done_k), distance, group = -1;
    const void *k, *v;
    long long coded = -1;  // slot of a value
    if (i <= near) {
        long long n = done_k + i - 1;
        distance = n >= in.kept ? (int)(in.t - n) : -1;
        k = in.recent_k + n % (in.recent + TOGETHER) * D, v = in.recent_v + n % (in.recent + 1) * D;
        if (n < done_v) coded = slots_of(n, in.sinks, in.v_count).of(0);
    } else {
        int j = i - 1 - near;
        bool sink = in.apart && j < in.sinks, own = j < in.kept;
        bool seen = j < in.t && (sink || (own && j >= in.oldest));
        distance = !seen ? -1 : sink ? in.sinks + in.window - j : (int)(in.t - j);
        k = own ? (const void *)(in.kept_k + (long long)j * D) : all.k_codes + j * 64;
        v = in.kept_v + (long long)j * D;
        if (!own) group = j / TOGETHER, coded = j;
    }
    if (coded >= 0) v = all.v_codes + coded * 64;
    for (int c = 0; c < D / 8; c++) {
        copy16(shared.k[to] + 8 * c, (const uint4 *)k + c, group < 0 || c < 4);
        copy16(shared.v[to] + 8 * c, (const uint4 *)v + c, coded < 0 || c < 4);
    }
    long long range = (coded < 0 ? 0 : coded) * RANGES;
    copy8(&shared.v_scale[to], all.v_scale + range, coded >= 0);
    copy8(&shared.v_zero[to], all.v_zero + range, coded >= 0);
    shared.distance[to] = distance, shared.k_group[to] = group, shared.v_coded[to] = coded >= 0;
}

// Channels 2l and 2l + 1 of both halves of a key.
__device__ inline void key_of(float (&x)[4], const SharedInFull &shared, const Store &all, int i, int lane) {
    int group = shared.k_group[i];
    for (int half = 0; half < 2; half++) {
        if (group < 0) {
            unsigned two = ((const unsigned *)shared.k[i])[32 * half + lane];
            x[2 * half] = number(two & 0xFFFF), x[2 * half + 1] = number(two >> 16);
            continue;
        }
        unsigned code = ((const unsigned char *)shared.k[i])[32 * half + lane];
        const unsigned short *scale = all.k_range[0] + group * D + half * HALF + 2 * lane;
        const unsigned short *zero = all.k_range[1] + group * D + half * HALF + 2 * lane;
        x[2 * half] = (float)(code & 15) * number(scale[0]) + number(zero[0]);
        x[2 * half + 1] = (float)(code >> 4) * number(scale[1]) + number(zero[1]);
    }
}

__device__ inline float value_of(const SharedInFull &shared, int i, int e) {
    if (shared.distance[i] < 0) return 0;
    if (!shared.v_coded[i]) return number(shared.v[i][e]);
    unsigned code = ((const unsigned char *)shared.v[i])[e >> 1] >> 4 * (e & 1) & 15;
    const unsigned short *scale = (const unsigned short *)&shared.v_scale[i], *zero = (const unsigned short *)&shared.v_zero[i];
    return (float)code * number(scale[e / 32]) + number(zero[e / 32]);
}

struct Angles {  // of two channels: cosines and sines of a distance's group, and of its place there
    float2 far[2], by[2];
};

__device__ inline Angles angles_of(int distance, const float *coarse, const float *fine, int lane) {
    int away = distance > 0 ? distance : 0;
    const float2 *far = (const float2 *)(coarse + (long long)(away / TOGETHER) * D) + lane;
    const float2 *by = (const float2 *)(fine + away % TOGETHER * D) + lane;
    return {{far[0], far[32]}, {by[0], by[32]}};
}

// The key turned back by its distance.
__device__ inline void turn_back(float (&x)[4], const Angles &angles) {
    float al = x[0], ah = x[1], bl = x[2], bh = x[3];
    float2 far = angles.far[0], far_sin = angles.far[1], by = angles.by[0], by_sin = angles.by[1];
    float cl = far.x * by.x - far_sin.x * by_sin.x, sl = far_sin.x * by.x + far.x * by_sin.x;
    float ch = far.y * by.y - far_sin.y * by_sin.y, sh = far_sin.y * by.y + far.y * by_sin.y;
    x[0] = al * cl + bl * sl, x[1] = ah * ch + bh * sh, x[2] = bl * cl - al * sl, x[3] = bh * ch - ah * sh;
}

// Sums of four query heads over a warp: thread 8h has that of head h.
__device__ inline float summed(const float (&x)[HEADS], int lane) {
    bool up = lane & 16, upper = lane & 8;
    float a = (up ? x[2] : x[0]) + other(up ? x[0] : x[2], 16), b = (up ? x[3] : x[1]) + other(up ? x[1] : x[3], 16);
    float sum = (upper ? b : a) + other(upper ? a : b, 8);
    sum += other(sum, 4);
    sum += other(sum, 2);
    return sum + other(sum, 1);
}

// Number `piece` of `pieces` equal ones; m and sums of query head `warp`, weighted values of channel `thread`.
__device__ inline void in_full(
    float &m, float &norm, float (&acc)[HEADS], const InFull &in, const Store &all, SharedInFull &shared,
    const float *coarse, const float *fine, int piece, int pieces, int thread
) {
    int warp = thread >> 5, lane = thread & 31;
    long long done_k = (in.t > in.recent ? in.t - in.recent : 0) / TOGETHER * TOGETHER;
    int near = (int)(in.t - done_k), count = 1 + near + (in.kept > in.sinks ? in.kept : in.sinks);
    int each = (count + pieces - 1) / pieces, first = piece * each, end = first + each < count ? first + each : count;
    float q[HEADS][4] = {};
    for (int h = 0; h < HEADS; h++) {
        if (h >= in.heads) continue;
        const unsigned short *from = in.q + h * in.qh + 2 * lane;
        q[h][0] = number(from[0]) * in.scale, q[h][1] = number(from[1]) * in.scale;
        q[h][2] = number(from[HALF]) * in.scale, q[h][3] = number(from[HALF + 1]) * in.scale;
    }
    m = -1e30f, norm = 0;
    for (int h = 0; h < HEADS; h++) acc[h] = 0;
    for (; first < end; first += ROWS) {
        int tokens = end - first < ROWS ? end - first : ROWS;
        if (first == 0) {  // the token itself, which may stand anywhere
            shared.k[0][thread] = in.k[thread], shared.v[0][thread] = in.v[thread];
            if (thread == 0) shared.distance[0] = 0, shared.k_group[0] = -1, shared.v_coded[0] = false;
        }
        if (thread < tokens && first + thread > 0) fetch(shared, in, all, done_k, first + thread, thread);
        commit();
        loaded();
        block();
        for (int start = warp; start < tokens; start += 4 * AHEAD) {
            Angles angles[AHEAD];
#pragma unroll
            for (int u = 0; u < AHEAD; u++) {
                int i = start + 4 * u;
                angles[u] = angles_of(shared.distance[i < tokens ? i : tokens - 1], coarse, fine, lane);
            }
#pragma unroll
            for (int u = 0; u < AHEAD; u++) {
                int i = start + 4 * u;
                if (i >= tokens) continue;
                float x[4], sum[HEADS];
                key_of(x, shared, all, i, lane);
                turn_back(x, angles[u]);
                for (int h = 0; h < HEADS; h++)
                    sum[h] = q[h][0] * x[0] + q[h][1] * x[1] + q[h][2] * x[2] + q[h][3] * x[3];
                float s = summed(sum, lane);
                if (HAS_CAP) s = in.softcap * 1.4426950408889634f * (1 - 2 / (exponential(s * (2 / in.softcap)) + 1));
                if ((lane & 7) == 0) shared.score[lane >> 3][i] = shared.distance[i] < 0 ? -INFINITE : s;
            }
        }
        block();
        float top = m, total = 0;
        for (int i = lane; i < tokens; i += 32) top = fmaxf(top, shared.score[warp][i]);
        for (int by = 16; by > 0; by >>= 1) top = fmaxf(top, other(top, by));
        for (int i = lane; i < tokens; i += 32) {
            float p = exponential(shared.score[warp][i] - top);
            ((float *)&shared.weight[i])[warp] = p;
            total += p;
        }
        for (int by = 16; by > 0; by >>= 1) total += other(total, by);
        float shrink = exponential(m - top);
        if (lane == 0) shared.shrink[warp] = shrink;
        m = top, norm = norm * shrink + total;
        block();
        for (int h = 0; h < HEADS; h++) acc[h] *= shared.shrink[h];
#pragma unroll 4
        for (int i = 0; i < tokens; i++) {
            float x = value_of(shared, i, thread);
            float4 p = shared.weight[i];
            acc[0] += p.x * x, acc[1] += p.y * x, acc[2] += p.z * x, acc[3] += p.w * x;
        }
        block();
    }
}
