// What a token of `span.cu` sees beside whole groups: itself, recent tokens, whose values may be rounded already, those
// kept, and sinks that have left their true distances. Products are in float32, keys rotated by their distances.

#define AHEAD 4  // keys of a warp whose reads are on their way at once; of values twice as many

struct InFull {
    const unsigned short *q, *k, *v, *recent_k, *recent_v, *kept_k, *kept_v;  // of the row and key/value head
    long long qh, t, oldest;
    int heads, recent, kept, sinks, window, v_count;
    bool apart;
    float scale, softcap;
};

struct Seen {  // a token: rows of its key and value, in full or in codes
    const unsigned short *k, *v;
    int distance;  // −1: hidden
    bool k_coded, v_coded;
};

struct SharedInFull {
    Store all;
    Seen token[TILE];
    float score[HEADS][TILE];
    float4 weight[TILE];  // by query head
    float shrink[HEADS];
};

// Number i of them: the token itself, those of the recent slots, then kept tokens and sinks.
__device__ inline Seen seen_of(const InFull &in, const Store &all, long long done_k, int near, int i) {
    if (i == 0) return {in.k, in.v, 0, false, false};
    long long done_v = in.t > in.recent ? in.t - in.recent : 0;
    if (i <= near) {
        long long n = done_k + i - 1;
        const unsigned short *k = in.recent_k + n % (in.recent + TOGETHER) * D;
        int distance = n >= in.kept ? (int)(in.t - n) : -1;
        if (n >= done_v) return {k, in.recent_v + n % (in.recent + 1) * D, distance, false, false};
        int slot = slots_of(n, in.sinks, in.v_count).of(0);
        return {k, (const unsigned short *)(all.v_codes + (long long)slot * 64), distance, false, true};
    }
    int j = i - 1 - near;
    bool sink = in.apart && j < in.sinks, own = j < in.kept;
    bool seen = j < in.t && (sink || (own && j >= in.oldest));
    int distance = !seen ? -1 : sink ? in.sinks + in.window - j : (int)(in.t - j);
    if (own) return {in.kept_k + (long long)j * D, in.kept_v + (long long)j * D, distance, false, false};
    auto *k = (const unsigned short *)(all.k_codes + j * 64), *v = (const unsigned short *)(all.v_codes + j * 64);
    return {k, v, distance, true, true};
}

// Of both halves of a head, channels 2l and 2l + 1 of a key, as they are held, and their angles: cosines and sines.
struct Raw {
    unsigned key[4];
    float2 far[2], by[2];
};

__device__ inline Raw raw_of(const Seen &seen, const float *coarse, const float *fine, int lane) {
    int low = seen.k_coded ? lane >> 1 : 2 * lane, high = seen.k_coded ? 16 + (lane >> 1) : HALF + 2 * lane;
    int next = !seen.k_coded, away = seen.distance > 0 ? seen.distance : 0;
    const float2 *far = (const float2 *)(coarse + (long long)(away / TOGETHER) * D) + lane;
    const float2 *by = (const float2 *)(fine + away % TOGETHER * D) + lane;
    return {{seen.k[low], seen.k[low + next], seen.k[high], seen.k[high + next]}, {far[0], far[32]}, {by[0], by[32]}};
}

__device__ inline void key_of(float (&x)[4], const unsigned (&raw)[4], const Seen &seen, const Store &all, int lane) {
    if (!seen.k_coded) {
        for (int i = 0; i < 4; i++) x[i] = number(raw[i]);
        return;
    }
    long long group = ((const unsigned char *)seen.k - all.k_codes) / (64 * TOGETHER);
    const unsigned short *scale = all.k_range[0] + group * D, *zero = all.k_range[1] + group * D;
    for (int i = 0; i < 4; i++) {
        int d = (i >> 1) * HALF + 2 * lane + (i & 1);
        x[i] = (float)(raw[i] >> (8 * (lane & 1) + 4 * (i & 1)) & 15) * number(scale[d]) + number(zero[d]);
    }
}

__device__ inline float value_of(const Seen &seen, unsigned raw, const Store &all, int e) {
    if (seen.distance < 0) return 0;
    if (!seen.v_coded) return number(raw);
    long long at = ((const unsigned char *)seen.v - all.v_codes) / 64 * RANGES + e / 32;
    return (float)(raw >> 4 * (e & 3) & 15) * number(all.v_scale[at]) + number(all.v_zero[at]);
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

// The key turned back by its distance.
__device__ inline void turn_back(float (&x)[4], const Raw &raw) {
    float al = x[0], ah = x[1], bl = x[2], bh = x[3];
    float2 far = raw.far[0], far_sin = raw.far[1], by = raw.by[0], by_sin = raw.by[1];
    float cl = far.x * by.x - far_sin.x * by_sin.x, sl = far_sin.x * by.x + far.x * by_sin.x;
    float ch = far.y * by.y - far_sin.y * by_sin.y, sh = far_sin.y * by.y + far.y * by_sin.y;
    x[0] = al * cl + bl * sl, x[1] = ah * ch + bh * sh, x[2] = bl * cl - al * sl, x[3] = bh * ch - ah * sh;
}

// Number `piece` of `pieces` equal ones; m and sums of query head `warp`, weighted values of channel `thread`.
__device__ inline void in_full(
    float &m, float &norm, float (&acc)[HEADS], const InFull &in, SharedInFull &shared, const float *coarse,
    const float *fine, int piece, int pieces, int thread
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
    for (; first < end; first += TILE) {
        int tokens = end - first < TILE ? end - first : TILE;
        if (thread < tokens) shared.token[thread] = seen_of(in, shared.all, done_k, near, first + thread);
        block();
        for (int start = warp; start < tokens; start += 4 * AHEAD) {
            Raw raw[AHEAD];
#pragma unroll
            for (int u = 0; u < AHEAD; u++) {
                int i = start + 4 * u;
                raw[u] = raw_of(shared.token[i < tokens ? i : tokens - 1], coarse, fine, lane);
            }
#pragma unroll
            for (int u = 0; u < AHEAD; u++) {
                int i = start + 4 * u;
                if (i >= tokens) continue;
                float x[4], sum[HEADS];
                key_of(x, raw[u].key, shared.token[i], shared.all, lane);
                turn_back(x, raw[u]);
                for (int h = 0; h < HEADS; h++)
                    sum[h] = q[h][0] * x[0] + q[h][1] * x[1] + q[h][2] * x[2] + q[h][3] * x[3];
                float s = summed(sum, lane);
                if (HAS_CAP) s = in.softcap * 1.4426950408889634f * (1 - 2 / (exponential(s * (2 / in.softcap)) + 1));
                if ((lane & 7) == 0) shared.score[lane >> 3][i] = shared.token[i].distance < 0 ? -INFINITE : s;
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
        for (int start = 0; start < tokens; start += 2 * AHEAD) {
            unsigned raw[2 * AHEAD];
#pragma unroll
            for (int u = 0; u < 2 * AHEAD; u++) {
                const Seen &seen = shared.token[start + u < tokens ? start + u : tokens - 1];
                raw[u] = seen.v[seen.v_coded ? thread >> 2 : thread];
            }
#pragma unroll
            for (int u = 0; u < 2 * AHEAD; u++) {
                if (start + u >= tokens) continue;
                float x = value_of(shared.token[start + u], raw[u], shared.all, thread);
                float4 p = shared.weight[start + u];
                acc[0] += p.x * x, acc[1] += p.y * x, acc[2] += p.z * x, acc[3] += p.w * x;
            }
        }
        block();
    }
}
