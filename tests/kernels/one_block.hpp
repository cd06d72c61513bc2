// Stands in for primitives.cuh: the threads of one block as coroutines in one thread of a CPU.
#include <ucontext.h>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <cstdlib>
#include <cstdio>
#include <vector>
#define __device__
#define __global__
#define __launch_bounds__(...)
#define inline static inline
struct uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline uint2 make_uint2(unsigned a, unsigned b) { return {a, b}; }
inline uint4 make_uint4(unsigned a, unsigned b, unsigned c, unsigned d) { return {a, b, c, d}; }
inline float2 make_float2(float a, float b) { return {a, b}; }
inline float4 make_float4(float a, float b, float c, float d) { return {a, b, c, d}; }
#define INFINITE INFINITY
const int THREADS = 128;
static ucontext_t home, context[THREADS];
static bool done[THREADS];
static int now_thread, now_x, now_y;
alignas(16) static unsigned char memory_[232448];
static int block_arrived, block_round, warp_arrived[4], warp_round[4];
static unsigned exchange[2][THREADS][8];
inline int thread_x() { return now_thread; }
inline int block_x() { return now_x; }
inline int block_y() { return now_y; }
inline void *shared_memory() { return memory_; }
static void yield_() { swapcontext(&context[now_thread], &home); }
static void meet(int &arrived, int &round, int count) {
    int mine = round;
    if (++arrived == count) { arrived = 0; round++; return; }
    while (round == mine) yield_();
}
struct Copy { void *to; unsigned char bytes[16]; int n; };
static std::vector<Copy> pending[THREADS];
inline void block() { meet(block_arrived, block_round, THREADS); }
static int parity[THREADS];
template <typename F> static auto together(const unsigned *mine, int n, F f) {
    int w = now_thread / 32, p = parity[now_thread] ^= 1;
    memcpy(exchange[p][now_thread], mine, 4 * n);
    meet(warp_arrived[w], warp_round[w], 32);
    return f(&exchange[p][32 * w]);
}
inline void warp_meets() {
    unsigned mine = 0;
    together(&mine, 1, [](unsigned (*)[8]) { return 0; });
}
inline float as_float(unsigned x) { float y; memcpy(&y, &x, 4); return y; }
inline unsigned as_word(float x) { unsigned y; memcpy(&y, &x, 4); return y; }
inline float other(float x, int by) {
    unsigned mine = as_word(x);
    int lane = now_thread % 32;
    return together(&mine, 1, [&](unsigned (*all)[8]) { return as_float(all[lane ^ by][0]); });
}
inline unsigned greatest_of(unsigned x) {
    return together(&x, 1, [](unsigned (*all)[8]) {
        unsigned found = 0;
        for (int i = 0; i < 32; i++) found = found > all[i][0] ? found : all[i][0];
        return found;
    });
}
inline bool every(bool x) {
    unsigned mine = x;
    return together(&mine, 1, [](unsigned (*all)[8]) {
        bool found = true;
        for (int i = 0; i < 32; i++) found = found && all[i][0];
        return found;
    });
}
inline long long clamped(long long x) { const long long m = 1 << 30; return x > m ? m : x < -m ? -m : x; }
inline float half_(unsigned x) { uint16_t b = x; _Float16 h; memcpy(&h, &b, 2); return (float)h; }
inline unsigned bits_(float x) { _Float16 h = (_Float16)x; uint16_t b; memcpy(&b, &h, 2); return b; }
inline float number(unsigned x) { return BF16 ? as_float(x << 16) : half_(x & 0xFFFF); }
inline unsigned halves(float low, float high) { return bits_(low) | bits_(high) << 16; }
inline unsigned times(unsigned a, unsigned b) { return halves(half_(a) * half_(b), half_(a >> 16) * half_(b >> 16)); }
inline unsigned less(unsigned a, unsigned b) { return halves(half_(a) - half_(b), half_(a >> 16) - half_(b >> 16)); }
inline unsigned times_plus(unsigned a, unsigned b, unsigned c) {
    return halves((float)((double)half_(a) * half_(b) + half_(c)), (float)((double)half_(a >> 16) * half_(b >> 16) + half_(c >> 16)));
}
inline float exponential(float x) { return exp2f(x); }
inline void product(float (&sum)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
    unsigned mine[6] = {a0, a1, a2, a3, b0, b1};
    int lane = now_thread % 32, g = lane / 4, c = lane % 4;
    together(mine, 6, [&](unsigned (*all)[8]) {
        for (int i = 0; i < 4; i++) {
            int col = 2 * c + (i & 1), hi = i >> 1;
            double s = 0;
            for (int k = 0; k < 4; k++)
                for (int part = 0; part < 2; part++) {
                    unsigned a = all[4 * g + k][2 * part + hi], b = all[4 * col + k][4 + part];
                    s += (double)half_(a) * half_(b) + (double)half_(a >> 16) * half_(b >> 16);
                }
            sum[i] += (float)s;
        }
        return 0;
    });
}
inline void matrices(unsigned (&x)[4], const void *row) {
    uint64_t at = (uint64_t)row;
    if (at % 16) { puts("ldmatrix alignment"); abort(); }
    unsigned mine[2] = {(unsigned)at, (unsigned)(at >> 32)};
    int lane = now_thread % 32, g = lane / 4, c = lane % 4;
    together(mine, 2, [&](unsigned (*all)[8]) {
        for (int i = 0; i < 4; i++) {
            unsigned v[2];
            for (int e = 0; e < 2; e++) {
                unsigned *p = all[8 * i + 2 * c + e];
                v[e] = ((const uint16_t *)((uint64_t)p[1] << 32 | p[0]))[g];
            }
            x[i] = v[0] | v[1] << 16;
        }
        return 0;
    });
}
// What is copied is there only after `loaded` (and may be read by others after `block`).
inline void copy_(void *to, const void *from, int n, bool there) {
    if ((uint64_t)to % n || (uint64_t)from % n) { puts("copy alignment"); abort(); }
    Copy c{to, {}, n};
    if (there) memcpy(c.bytes, from, n);
    memset(to, 0xFF, n);
    pending[now_thread].push_back(c);
}
inline void copy16(void *to, const void *from, bool there) { copy_(to, from, 16, there); }
inline void copy8(void *to, const void *from, bool there) { copy_(to, from, 8, there); }
inline void commit() {}
inline void loaded() { for (auto &c : pending[now_thread]) memcpy(c.to, c.bytes, c.n); pending[now_thread].clear(); }
inline void begin_dependents() {}
inline void wait_dependencies() {}
static void (*body)();
static void entry() { body(); done[now_thread] = true; swapcontext(&context[now_thread], &home); }
static void run_block(int x, int y) {
    static std::vector<char> stacks((size_t)THREADS << 18);
    now_x = x, now_y = y;
    memset(memory_, 0xFF, sizeof memory_);
    for (int i = 0; i < THREADS; i++) {
        getcontext(&context[i]);
        context[i].uc_stack.ss_sp = &stacks[(size_t)i << 18];
        context[i].uc_stack.ss_size = 1 << 18;
        context[i].uc_link = &home;
        done[i] = false; parity[i] = 0; pending[i].clear();
        makecontext(&context[i], entry, 0);
    }
    for (bool any = true; any;) {
        any = false;
        for (int i = 0; i < THREADS; i++) if (!done[i]) { any = true; now_thread = i; swapcontext(&home, &context[i]); }
    }
}
#include SOURCE

static struct {
    const unsigned short *q, *k, *v, *recent_k, *recent_v;
    const unsigned char *k_codes;
    const unsigned short *k_scale, *k_zero;
    const unsigned char *v_codes;
    const unsigned short *v_scale, *v_zero, *kept_k, *kept_v;
    const long long *t_row;
    const float *coarse, *fine;
    const unsigned *packed;
    float *m, *norm, *acc;
    long long strides[6];
    int numbers[11];
    float scale, softcap;
} given;

static void call() {
    auto &a = given;
    auto n = a.numbers;
    auto s = a.strides;
    span(a.q, a.k, a.v, a.recent_k, a.recent_v, a.k_codes, a.k_scale, a.k_zero, a.v_codes, a.v_scale, a.v_zero, a.kept_k,
         a.kept_v, a.t_row, a.coarse, a.fine, a.packed, a.m, a.norm, a.acc, s[0], s[1], s[2], s[3], s[4], s[5], n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8], n[9], n[10], a.scale, a.softcap);
}

extern "C" void run(const void *arguments, int width, int height) {
    memcpy(&given, arguments, sizeof given);
    body = call;
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) run_block(x, y);
}
