// For one token of `rounded_decode`: one block a span of whole groups of the stream, row and key/value head, and a few for
// what it sees beside them (`full.cuh`).
//
// For GPUs of compute capability 8.0 on; 4 bits, heads of 128, groups of 32; four query heads a block.
// Codes go to the tensor cores as they are, small integers in the mantissas of float16 of exponent 0, n·2^−24 or, four
// bits further up, n·2^−20. A tile is 4 groups, 128 tokens.
//
// Scores, tokens × (group, query head): a key is n·s + z by channel, and its turn by its distance is a coarse one by
// group and a fine one within. Query, coarse turn, scale and zero make six numbers a pair of channels, group and head
// (`turn_queries`); the fine turn is cosines and sines that stay in registers, since a thread has the same two places of
// every group. Queries come with a maximum in [256, 512), scales and zeros with one in [1, 2) a group, so that what becomes
// float16 fits, whatever its range. What all keys of a group have in common in a channel is rounded once for the group, by
// 2^−12 of it, and where plain torch rounds each key that averages out: from some 500 times their spread on it shows. So do, in float16, a single value 20,000 times the others and
// a query with one channel a thousand times the others: 3 and 5 times plain torch's error.
// Values, channels × query heads, one warp a range of 32 channels: Σ p·s·n on tensor cores with p·s/e in float16, where e
// is the greatest power of two within the scales so far; Σ p·z in float32.
//
// Within an instruction of the tensor cores (m16n8k16) the thread g·4 + c of a warp has rows g and g + 8 of the first
// operand and column g of the second, at k = 2c, 2c + 1, and 8 on; of the product columns 2c and 2c + 1.

extern "C" __global__ void __launch_bounds__(128, BLOCKS) span(
    const unsigned short *q, const unsigned short *k, const unsigned short *v, const unsigned short *recent_k,
    const unsigned short *recent_v, const unsigned char *k_codes, const unsigned short *k_scale, const unsigned short *k_zero,
    const unsigned char *v_codes, const unsigned short *v_scale, const unsigned short *v_zero,
    const unsigned short *kept_k, const unsigned short *kept_v, const long long *t_row, const float *coarse,
    const float *fine, const unsigned *packed, float *m_out, float *norm_out, float *acc_out, long long qb, long long qh,
    long long kb, long long kg, long long vb, long long vg, int G, int share, int spans, int pieces, int recent, int kept,
    int sinks, int window, int has_window, int k_count, int v_count, float scale, float softcap
) {
    static_assert(sizeof(Shared) <= SHARED && sizeof(SharedInFull) <= SHARED, "what the launch asks for");
    begin_dependents();
    wait_dependencies();
    int thread = thread_x(), warp = thread >> 5, lane = thread & 31, g = lane >> 2, c = lane & 3;
    int four = (share + HEADS - 1) / HEADS;  // blocks that share the heads of a key/value head, four each
    int part = block_y(), row = block_x() / four, before_own = block_x() % four * HEADS, b = row / G, kv = row % G;
    long long t = t_row[b];
    long long kr = (long long)row * k_count, vr = (long long)row * v_count;
    Store all = {k_codes + kr * (TOGETHER * 64), {k_scale + kr * D, k_zero + kr * D}, v_codes + vr * 64,
                 v_scale + vr * RANGES, v_zero + vr * RANGES};
    long long whole = (t > recent ? t - recent : 0) / TOGETHER;
    bool apart = has_window && sinks > 0 && t > (long long)sinks + window;
    long long seen = has_window && t > window ? t - window : 0;
    long long oldest = apart ? (seen > sinks ? seen : sinks) : (sinks > 0 ? 0 : seen);
    long long out = ((long long)row * share + before_own) * (spans + pieces) + part;
    if (part >= spans) {  // last, as they end soon
        SharedInFull &shared = *(SharedInFull *)shared_memory();
        InFull in = {q + b * qb + (kv * share + before_own) * qh, k + b * kb + kv * kg, v + b * vb + kv * vg,
                     recent_k + (long long)row * (recent + TOGETHER) * D, recent_v + (long long)row * (recent + 1) * D,
                     kept_k + (long long)row * kept * D, kept_v + (long long)row * kept * D, qh, t, oldest,
                     share - before_own, recent, kept, sinks, window, v_count, apart, scale, softcap};
        float m, norm, acc[HEADS];
        in_full(m, norm, acc, in, all, shared, coarse, fine, part - spans, pieces, thread);
        for (int h = 0; h < HEADS && before_own + h < share; h++)
            acc_out[(out + h * (spans + pieces)) * D + thread] = acc[h];
        if (lane == 0 && before_own + warp < share)
            m_out[out + warp * (spans + pieces)] = m, norm_out[out + warp * (spans + pieces)] = norm;
        return;
    }
    Shared &shared = *(Shared *)shared_memory();
    long long first = oldest / TOGETHER;
    long long span = ((whole - first + GROUPS - 1) / GROUPS + spans - 1) / spans * GROUPS;
    first += part * span;
    int left = (int)((first + span < whole ? first + span : whole) - first);
    int hidden = (int)clamped((oldest > kept ? oldest : kept) - first * TOGETHER);
    if (thread == 0) shared.all = all;
    block();
    Source from = {shared.all, first + left, (sinks + TOGETHER - 1) / TOGETHER, k_count, sinks, v_count, 0};
    if (left > 0) load(shared.stage[0], from, left, thread);

    // The query by head: turned by its place in its group, and by a power of two to a maximum in [256, 512).
    int x = channel(lane);
    {
        float4 own = make_float4(0, 0, 0, 0);
        if (before_own + warp < share) {
            const unsigned short *from = q + b * qb + (long long)(kv * share + before_own + warp) * qh;
            const float *turn = fine + (t % TOGETHER) * D + x;
            float al = number(from[x]) * scale, ah = number(from[x + 4]) * scale;
            float bl = number(from[x + HALF]) * scale, bh = number(from[x + HALF + 4]) * scale;
            own.x = al * turn[0] - bl * turn[HALF], own.y = ah * turn[4] - bh * turn[HALF + 4];
            own.z = bl * turn[0] + al * turn[HALF], own.w = bh * turn[4] + ah * turn[HALF + 4];
        }
        float most = fmaxf(fmaxf(fabsf(own.x), fabsf(own.y)), fmaxf(fabsf(own.z), fabsf(own.w)));
        most = greatest(fmaxf(most, other(most, 1)));
        unsigned bits = within(as_word(most));
        float shrink = inverse(bits) * 256;
        own = make_float4(own.x * shrink, own.y * shrink, own.z * shrink, own.w * shrink);
#if BF16
        shared.plain[warp][lane] = make_uint2(halves(own.x, own.y), halves(own.z, own.w));
#else
        shared.plain[warp][lane] = own;
#endif
        if (lane == 0) ((float *)shared.most)[warp] = power(bits) * 2;  // 512/256
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

    Running run = {{-1e30f, -1e30f}, {}, {}, {}, 20u << 23};
    int away = (int)(t / TOGETHER - first) - warp;  // of the group of this warp's queries
    float4 turn = make_float4(0, 0, 0, 0);
    auto look = [&]() {
        const float *from = coarse + (unsigned)(away > 0 ? away : 0) * D + x;
        turn = make_float4(from[0], from[4], from[HALF], from[HALF + 4]);
        away -= GROUPS;
    };
    auto prepare = [&](const Stage &stage) {
        turn_queries(shared, stage, turn, warp, lane);
        look();
    };
    if (left > 0) {
        look();
        loaded();
        warp_meets();  // scales of a group are loaded by the warp that turns its queries
        prepare(shared.stage[0]);
    }
    for (int now = 0; left > 0; now ^= 1, left -= GROUPS, hidden -= TILE) {
        Stage &stage = shared.stage[now], &next = shared.stage[now ^ 1];
        block();
        if (left > GROUPS) load(next, from, left - GROUPS, thread);
        float score[2][2];
        scores(score, shared, stage, turns, warp, lane);
        float unit = shared.unit[2 * (warp >> 1) + (c >> 1)];
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float s = score[i][h] * (grow[h] * unit);
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
        loaded();
        warp_meets();
        values(run.acc, stage, warp, lane);
        if (left > GROUPS) prepare(next);
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
    for (int h = 0; h < 2; h++) {
        int head = 2 * (c & 1) + h;
        if (c > 1 || before_own + head >= share) continue;
        long long to = out + head * (spans + pieces);
        float zero = 0, norm = 0, by = power(run.scale) / FINER;
        for (int w = 0; w < 4; w++) zero += shared.sum[w][head][1 + warp], norm += shared.sum[w][head][0];
        float low = by * 16777216, high = by * 1048576;  // 2^24, 2^20
        float4 found = make_float4(run.acc[0][h] * low + zero, run.acc[0][2 + h] * high + zero,
                                   run.acc[1][h] * low + zero, run.acc[1][2 + h] * high + zero);
        *(float4 *)(acc_out + to * D + 32 * warp + 4 * g) = found;
        if (warp == 0 && g == 0) m_out[to] = run.m[h], norm_out[to] = norm;
    }
}
