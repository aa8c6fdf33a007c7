/* SPDX-License-Identifier: MIT */
/* Ceilings of a CPU: reads, writes, copies and triads from memory; multiply-adds from registers and from L1.
 *
 * Standalone C11 with the vector extensions of GCC and Clang: cc -O3 -fopenmp -c probe.c. Threads are
 * OpenMP's, libdispatch's on macOS, else one.
 * Which code streams fastest differs between machines, so each probe has variants: width of an access,
 * accesses in flight, distance of prefetching, streams per thread, stores past the caches. The best of them
 * is the roof. read (a) -> sum of its words; write a = 1; copy b = a; triad a = b + 3 c; fma and matrix count
 * their multiply-adds.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(_OPENMP)
#include <omp.h>
#elif defined(__APPLE__)
#include <dispatch/dispatch.h>
#include <unistd.h>
#endif

/* Compiled for each level of x86-64, chosen when the library loads; other compilers need -march=native. */
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__) && __GNUC__ >= 12
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

typedef uint64_t u64x8 __attribute__((vector_size(64), aligned(8), may_alias));
typedef uint64_t u64x4 __attribute__((vector_size(32), aligned(8), may_alias));
typedef uint64_t u64x2 __attribute__((vector_size(16), aligned(8), may_alias));
typedef float f32x16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef float f32x8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef float f32x4 __attribute__((vector_size(16), aligned(4), may_alias));

/* Runs task(arg, i) for i in [0, n). */
static void parallel(size_t n, void *arg, void (*task)(void *, size_t), int threads) {
#if defined(_OPENMP)
#pragma omp parallel for schedule(static) num_threads(threads > 0 ? threads : omp_get_max_threads())
  for (size_t i = 0; i < n; i++) task(arg, i);
#elif defined(__APPLE__)
  (void)threads;
  dispatch_apply_f(n, DISPATCH_APPLY_AUTO, arg, task);
#else
  (void)threads;
  for (size_t i = 0; i < n; i++) task(arg, i);
#endif
}

int rb_threads(void) {
#if defined(_OPENMP)
  return omp_get_max_threads();
#elif defined(__APPLE__)
  return (int)sysconf(_SC_NPROCESSORS_ONLN);
#else
  return 1;
#endif
}

/* Elements of one thread's share, a multiple of a page of f32 but for the last. */
static int64_t share(int64_t n, int64_t parts, int64_t part, int64_t *first) {
  int64_t each = ((n + parts - 1) / parts + 1023) / 1024 * 1024, start = each * part < n ? each * part : n;
  *first = start;
  return start + each < n ? each : n - start;
}

static int shares(int threads) { return threads > 0 ? threads : rb_threads(); }

/* read: UNROLL accesses of type V in flight, prefetching PREFETCH bytes ahead. */
typedef uint64_t read_fn(const uint64_t *a, int64_t n);
#define READ(NAME, V, UNROLL, PREFETCH)                                              \
  CLONES static uint64_t NAME(const uint64_t *a, int64_t n) {                        \
    enum {                                                                           \
      WORDS = sizeof(V) / 8,                                                         \
      STEP = WORDS * UNROLL                                                          \
    };                                                                               \
    V sums[UNROLL];                                                                  \
    memset(sums, 0, sizeof sums);                                                    \
    int64_t i = 0;                                                                   \
    for (; i + STEP <= n; i += STEP) {                                               \
      for (int j = 0; PREFETCH && j < STEP; j += 8)                                  \
        __builtin_prefetch((const void *)((uintptr_t)(a + i + j) + PREFETCH), 0, 0); \
      for (int j = 0; j < UNROLL; j++) sums[j] += *(const V *)(a + i + j * WORDS);   \
    }                                                                                \
    uint64_t sum = 0;                                                                \
    for (int j = 0; j < UNROLL; j++)                                                 \
      for (int k = 0; k < WORDS; k++) sum += sums[j][k];                             \
    for (; i < n; i++) sum += a[i];                                                  \
    return sum;                                                                      \
  }
READ(read_16x8, u64x2, 8, 0)
READ(read_32x8, u64x4, 8, 0)
READ(read_64x4, u64x8, 4, 0)
READ(read_64x8, u64x8, 8, 0)
READ(read_64x16, u64x8, 16, 0)
READ(read_64x4p512, u64x8, 4, 512)
READ(read_64x8p1k, u64x8, 8, 1024)
READ(read_64x8p2k, u64x8, 8, 2048)
READ(read_64x8p4k, u64x8, 8, 4096)

/* read: STREAMS places at once. */
#define READ_STREAMS(NAME, STREAMS)                                                    \
  CLONES static uint64_t NAME(const uint64_t *a, int64_t n) {                          \
    u64x8 sums[STREAMS];                                                               \
    memset(sums, 0, sizeof sums);                                                      \
    int64_t part = n / STREAMS / 8 * 8;                                                \
    for (int64_t i = 0; i < part; i += 8)                                              \
      for (int j = 0; j < STREAMS; j++) sums[j] += *(const u64x8 *)(a + j * part + i); \
    uint64_t sum = 0;                                                                  \
    for (int j = 0; j < STREAMS; j++)                                                  \
      for (int k = 0; k < 8; k++) sum += sums[j][k];                                   \
    for (int64_t i = part * STREAMS; i < n; i++) sum += a[i];                          \
    return sum;                                                                        \
  }
READ_STREAMS(read_2streams, 2)
READ_STREAMS(read_4streams, 4)
READ_STREAMS(read_8streams, 8)

/* Stores of NAME##_plain go through the caches, those of NAME##_stream past them where the chip can. */
union quarters {
  f32x16 whole;
  f32x4 part[4];
};
#if defined(__x86_64__)
#define STREAM_STORE(P, V) \
  for (int q = 0; q < 4; q++) _mm_stream_ps((float *)(P) + 4 * q, (__m128)((union quarters){V}).part[q])
#define STREAM_FENCE() _mm_sfence()
#elif defined(__aarch64__)
static inline __attribute__((always_inline)) void stream_store(float *to, union quarters v) {
  __asm__ volatile("stnp %q1, %q2, [%0]\n\tstnp %q3, %q4, [%0, #32]"
                   :
                   : "r"(to), "w"(v.part[0]), "w"(v.part[1]), "w"(v.part[2]), "w"(v.part[3])
                   : "memory");
}
#define STREAM_STORE(P, V) stream_store(P, (union quarters){V})
#define STREAM_FENCE()
#else
#define STREAM_STORE(P, V) (*(f32x16 *)(P) = (V))
#define STREAM_FENCE()
#endif
#define PLAIN_STORE(P, V) (*(f32x16 *)(P) = (V))

typedef void store_fn(float *out, const float *b, const float *c, int64_t n);
#define STORE(NAME, VECTOR, SCALAR, PUT, FENCE)                                    \
  CLONES static void NAME(float *out, const float *b, const float *c, int64_t n) { \
    (void)b, (void)c;                                                              \
    int64_t i = 0;                                                                 \
    for (; i + 64 <= n; i += 64)                                                   \
      for (int j = 0; j < 64; j += 16) {                                           \
        f32x16 value = VECTOR;                                                     \
        PUT(out + i + j, value);                                                   \
      }                                                                            \
    for (; i < n; i++) out[i] = SCALAR;                                            \
    FENCE;                                                                         \
  }
#define LOAD(P) (*(const f32x16 *)((P) + i + j))
STORE(write_plain, (f32x16){0} + 1.0f, 1.0f, PLAIN_STORE, (void)0)
STORE(write_stream, (f32x16){0} + 1.0f, 1.0f, STREAM_STORE, STREAM_FENCE())
STORE(copy_plain, LOAD(b), b[i], PLAIN_STORE, (void)0)
STORE(copy_stream, LOAD(b), b[i], STREAM_STORE, STREAM_FENCE())
STORE(triad_plain, LOAD(b) + 3.0f * LOAD(c), b[i] + 3.0f * c[i], PLAIN_STORE, (void)0)
STORE(triad_stream, LOAD(b) + 3.0f * LOAD(c), b[i] + 3.0f * c[i], STREAM_STORE, STREAM_FENCE())

static void write_memset(float *out, const float *b, const float *c, int64_t n) {
  (void)b, (void)c;
  const float one[4] = {1, 1, 1, 1}; /* what a library's fill does: one block, copied again and again */
  int64_t block = n < 1024 ? n : 1024;
  for (int64_t i = 0; i < block; i++) out[i] = one[i % 4];
  for (int64_t i = block; i < n; i += 1024)
    memcpy(out + i, out, (size_t)(n - i < 1024 ? n - i : 1024) * sizeof *out);
}

static void copy_memcpy(float *out, const float *b, const float *c, int64_t n) {
  (void)c;
  memcpy(out, b, (size_t)n * sizeof *out);
}

/* fma: CHAINS sums of vectors, held in registers. They start at 0 in a way that a compiler cannot see through,
 * which would otherwise find that all are the same and keep one. */
typedef int64_t peak_fn(float one);
enum {
  TASK = 16 * 120 * 1024,
  LENGTH = 256
};
#define FMA(NAME, V, CHAINS)                                                    \
  CLONES static int64_t NAME(float one) {                                       \
    enum {                                                                      \
      WIDE = sizeof(V) / 4                                                      \
    };                                                                          \
    V a = (V){0} + one, sums[CHAINS];                                           \
    for (int j = 0; j < CHAINS; j++) sums[j] = (V){0} + (one - one) * (float)j; \
    for (int64_t i = 0; i < TASK / WIDE / CHAINS; i++)                          \
      for (int j = 0; j < CHAINS; j++) sums[j] = sums[j] * one + a;             \
    double count = 0;                                                           \
    for (int j = 0; j < CHAINS; j++)                                            \
      for (int k = 0; k < WIDE; k++) count += (double)sums[j][k];               \
    return (int64_t)count;                                                      \
  }
FMA(fma_16x8, f32x16, 8)
FMA(fma_16x10, f32x16, 10)
FMA(fma_16x12, f32x16, 12)
FMA(fma_8x8, f32x8, 8)
FMA(fma_8x10, f32x8, 10)
FMA(fma_8x12, f32x8, 12)
FMA(fma_4x12, f32x4, 12)

/* matrix: a tile of ROWS x COLUMNS vectors of sums += column of ROWS scalars x row of COLUMNS vectors. */
#define MATRIX(NAME, V, ROWS, COLUMNS)                                                         \
  CLONES static int64_t NAME(float one) {                                                      \
    enum {                                                                                     \
      WIDE = sizeof(V) / 4,                                                                    \
      STEPS = TASK / WIDE / (ROWS * COLUMNS)                                                   \
    };                                                                                         \
    float a[LENGTH * ROWS], b[LENGTH * COLUMNS * WIDE] __attribute__((aligned(64)));           \
    for (int i = 0; i < LENGTH * ROWS; i++) a[i] = one;                                        \
    for (int i = 0; i < LENGTH * COLUMNS * WIDE; i++) b[i] = one;                              \
    V sums[ROWS][COLUMNS];                                                                     \
    memset(sums, 0, sizeof sums);                                                              \
    for (int64_t step = 0; step < STEPS; step += LENGTH)                                       \
      for (int k = 0; k < LENGTH; k++) {                                                       \
        V row[COLUMNS];                                                                        \
        for (int j = 0; j < COLUMNS; j++) row[j] = *(const V *)(b + (k * COLUMNS + j) * WIDE); \
        for (int i = 0; i < ROWS; i++)                                                         \
          for (int j = 0; j < COLUMNS; j++) sums[i][j] += a[k * ROWS + i] * row[j];            \
      }                                                                                        \
    double count = 0;                                                                          \
    for (int i = 0; i < ROWS; i++)                                                             \
      for (int j = 0; j < COLUMNS; j++)                                                        \
        for (int k = 0; k < WIDE; k++) count += (double)sums[i][j][k];                         \
    return (int64_t)count;                                                                     \
  }
MATRIX(matrix_6x16, f32x16, 6, 1)
MATRIX(matrix_12x16, f32x16, 12, 1)
MATRIX(matrix_4x32, f32x16, 4, 2)
MATRIX(matrix_6x32, f32x16, 6, 2)
MATRIX(matrix_12x32, f32x16, 12, 2)
MATRIX(matrix_4x16, f32x8, 4, 2)
MATRIX(matrix_6x16of8, f32x8, 6, 2)
MATRIX(matrix_6x8of4, f32x4, 6, 2)

static const struct {
  const char *name;
  read_fn *run;
} reads[] = {
    {"16 B x 8", read_16x8},
    {"32 B x 8", read_32x8},
    {"64 B x 4", read_64x4},
    {"64 B x 8", read_64x8},
    {"64 B x 16", read_64x16},
    {"64 B x 4, prefetch 512 B", read_64x4p512},
    {"64 B x 8, prefetch 1 KiB", read_64x8p1k},
    {"64 B x 8, prefetch 2 KiB", read_64x8p2k},
    {"64 B x 8, prefetch 4 KiB", read_64x8p4k},
    {"2 streams", read_2streams},
    {"4 streams", read_4streams},
    {"8 streams", read_8streams},
};
static const struct stores {
  const char *name;
  store_fn *run;
} writes[] = {{"cached", write_plain}, {"streaming", write_stream}, {"memcpy of a page", write_memset}},
  copies[] = {{"cached", copy_plain}, {"streaming", copy_stream}, {"memcpy", copy_memcpy}},
  triads[] = {{"cached", triad_plain}, {"streaming", triad_stream}};
static const struct peaks {
  const char *name;
  peak_fn *run;
} fmas[] = {{"8 of 16", fma_16x8}, {"10 of 16", fma_16x10}, {"12 of 16", fma_16x12}, {"8 of 8", fma_8x8},
            {"10 of 8", fma_8x10}, {"12 of 8", fma_8x12},   {"12 of 4", fma_4x12}},
  matrices[] = {{"6 x 16", matrix_6x16},       {"12 x 16", matrix_12x16},   {"4 x 32", matrix_4x32},
                {"6 x 32", matrix_6x32},       {"12 x 32", matrix_12x32},   {"4 x 2 x 8", matrix_4x16},
                {"6 x 2 x 8", matrix_6x16of8}, {"6 x 2 x 4", matrix_6x8of4}};

#define COUNT(TABLE) ((int)(sizeof(TABLE) / sizeof(TABLE)[0]))
#define NAME_OF(PROBE, TABLE) \
  if (!strcmp(probe, PROBE)) return variant >= 0 && variant < COUNT(TABLE) ? TABLE[variant].name : NULL
const char *rb_probe_variant(const char *probe, int variant) {
  NAME_OF("read", reads);
  NAME_OF("write", writes);
  NAME_OF("copy", copies);
  NAME_OF("triad", triads);
  NAME_OF("fma", fmas);
  NAME_OF("matrix", matrices);
  return NULL;
}

struct job {
  int64_t n;
  int parts;
  const uint64_t *words;
  uint64_t sums[1024]; /* one per part */
  read_fn *read;
  float *out;
  const float *b, *c;
  store_fn *store;
  peak_fn *peak;
};

static void read_part(void *arg, size_t part) {
  struct job *job = arg;
  int64_t first, n = share(job->n, job->parts, (int64_t)part, &first);
  job->sums[part] = job->read(job->words + first, n);
}

static void store_part(void *arg, size_t part) {
  struct job *job = arg;
  int64_t first, n = share(job->n, job->parts, (int64_t)part, &first);
  job->store(job->out + first, job->b ? job->b + first : NULL, job->c ? job->c + first : NULL, n);
}

int rb_probe_read(const uint64_t *a, uint64_t *sum, int64_t n, int variant, int threads) {
  if (!a || (uintptr_t)a % sizeof *a) return -1;
  if (!sum || (uintptr_t)sum % sizeof *sum) return -2;
  if (n < 0) return -3;
  if (variant < 0 || variant >= COUNT(reads)) return -4;
  struct job job = {.n = n, .parts = shares(threads), .words = a, .read = reads[variant].run};
  if (job.parts > COUNT(job.sums)) return -5;
  parallel((size_t)job.parts, &job, read_part, threads);
  *sum = 0;
  for (int i = 0; i < job.parts; i++) *sum += job.sums[i];
  return 0;
}

static int store(struct job job, const struct stores *table, int variants, int variant, int threads, int args) {
  if (!job.out || (uintptr_t)job.out % 64) return -1;
  if (args > 1 && (!job.b || (uintptr_t)job.b % sizeof *job.b)) return -2;
  if (args > 2 && (!job.c || (uintptr_t)job.c % sizeof *job.c)) return -3;
  if (job.n < 0) return -(args + 1);
  if (variant < 0 || variant >= variants) return -(args + 2);
  job.parts = shares(threads);
  job.store = table[variant].run;
  parallel((size_t)job.parts, &job, store_part, threads);
  return 0;
}

int rb_probe_write(float *a, int64_t n, int variant, int threads) {
  return store((struct job){.n = n, .out = a}, writes, COUNT(writes), variant, threads, 1);
}

int rb_probe_copy(const float *a, float *b, int64_t n, int variant, int threads) {
  int error = store((struct job){.n = n, .out = b, .b = a}, copies, COUNT(copies), variant, threads, 2);
  return error == -1 ? -2 : error == -2 ? -1 : error;
}

int rb_probe_triad(float *a, const float *b, const float *c, int64_t n, int variant, int threads) {
  return store((struct job){.n = n, .out = a, .b = b, .c = c}, triads, COUNT(triads), variant, threads, 3);
}

static void peak_part(void *arg, size_t part) {
  struct job *job = arg;
  volatile float one = 1.0f; /* hidden from the compiler, which could count for itself */
  uint64_t count = 0;
  for (int64_t task = (int64_t)part; task < job->n; task += job->parts) count += (uint64_t)job->peak(one);
  job->sums[part] = count;
}

/* n multiply-adds, in whole tasks. */
static int peak(int64_t *count, int64_t n, const struct peaks *table, int variants, int variant, int threads) {
  if (!count || (uintptr_t)count % sizeof *count) return -1;
  if (n < 0 || n % TASK) return -2;
  if (variant < 0 || variant >= variants) return -3;
  struct job job = {.n = n / TASK, .parts = shares(threads), .peak = table[variant].run};
  if (job.parts > COUNT(job.sums)) return -4;
  parallel((size_t)job.parts, &job, peak_part, threads);
  *count = 0;
  for (int i = 0; i < job.parts; i++) *count += (int64_t)job.sums[i];
  return 0;
}

int rb_probe_fma(int64_t *count, int64_t n, int variant, int threads) {
  return peak(count, n, fmas, COUNT(fmas), variant, threads);
}

int rb_probe_matrix(int64_t *count, int64_t n, int variant, int threads) {
  return peak(count, n, matrices, COUNT(matrices), variant, threads);
}

static void nothing(void *arg, size_t i) { (void)arg, (void)i; }

int rb_probe_launch(int threads) {
  parallel((size_t)shares(threads), NULL, nothing, threads);
  return 0;
}

/* Additions and exclusive ors of registers, each waiting for the last: one cycle each on x86-64 and AArch64. */
int rb_probe_clock(int64_t n, double *sum) {
  uint64_t x = 1, y = (uint64_t)n;
#if defined(__x86_64__)
  for (int64_t i = 0; i < n; i++) __asm__ volatile("add %1, %0\n\txor %0, %1" : "+r"(x), "+r"(y));
#elif defined(__aarch64__)
  for (int64_t i = 0; i < n; i++) __asm__ volatile("add %0, %0, %1\n\teor %1, %1, %0" : "+r"(x), "+r"(y));
#else
  return 2;
#endif
  *sum = (double)(x ^ y);
  return 0;
}

const char *rb_isa(void) {
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__) && __GNUC__ >= 12
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) return "x86-64-v4";
  if (__builtin_cpu_supports("x86-64-v3")) return "x86-64-v3";
  return "x86-64";
#elif defined(__AVX512BW__) && defined(__AVX512VL__)
  return "x86-64-v4";
#elif defined(__AVX2__) && defined(__FMA__)
  return "x86-64-v3";
#elif defined(__x86_64__)
  return "x86-64";
#elif defined(__aarch64__)
  return "aarch64";
#else
  return "unknown";
#endif
}
