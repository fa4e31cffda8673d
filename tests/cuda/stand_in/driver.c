/* A CUDA driver without a GPU. Memory is the host's; a kernel is a library that assembler.py has made of its PTX, and
 * runs here thread by thread. A launch is refused where a GPU of compute capability 9.0 would refuse it, and ends in a
 * fault where a kernel does what would be wrong on some GPU, on some day:
 *
 *     an access outside of an array, to freed memory, or at an address that is no multiple of its size
 *     two threads at the same memory, one of them writing, and no barrier between them
 *     a shuffle or a tile product without all its lanes, a barrier that a part of a warp does not reach
 *
 * Memory and registers begin as NaN. Blocks, warps and lanes run in an order that changes from launch to launch. What the
 * host would have to wait for is counted. Whatever is not written here succeeds and does nothing. */

#define _GNU_SOURCE
#include "threads.h"

#include <dlfcn.h>
#include <fenv.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef unsigned long long pointer;

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_CONTEXT = 201, LAUNCH_FAILED = 719 };

static char context;
static __thread void *current;
static int waits, launches, waits_of_streams;
unsigned long long stand_in_instructions, stand_in_bytes[2];  /* executed by threads; loaded from global memory, stored */

int stand_in_waits(void) { return waits; }
int stand_in_launches(void) { return launches; }
int stand_in_waits_of_streams(void) { return waits_of_streams; }

static char why[2048] = "refused";

static int refuse(int code, const char *format, ...) {
    va_list list;
    va_start(list, format);
    vsnprintf(why, sizeof why, format, list);
    va_end(list);
    fprintf(stderr, "stand-in GPU: %s\n", why);
    return code;
}

int cuGetErrorName(int code, const char **name) { *name = "CUDA_ERROR"; return SUCCESS; }
int cuGetErrorString(int code, const char **text) { *text = why; return SUCCESS; }

/* ---- the device ---- */

int cuDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
int cuDeviceGetCount(int *count) { *count = 1; return SUCCESS; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return SUCCESS; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "stand-in", length); return SUCCESS; }
int cuDeviceGetUuid_v2(char *uuid, int device) { memset(uuid, 7, 16); return SUCCESS; }

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    switch (attribute) {
    case 75: *value = 9; break;  /* compute capability, major */
    case 76: *value = 0; break;  /* and minor */
    case 16: *value = 132; break;  /* multiprocessors */
    case 10: *value = 32; break;  /* threads of a warp */
    case 1: case 2: case 3: *value = 1024; break;  /* threads of a block, and along x and y */
    case 4: *value = 64; break;  /* along z */
    case 5: *value = 2147483647; break;  /* blocks along x */
    case 6: case 7: *value = 65535; break;  /* along y and z */
    case 8: *value = 49152; break;  /* shared memory of a block */
    default: *value = 1;
    }
    return SUCCESS;
}

int cuDevicePrimaryCtxRetain(void **found, int device) { *found = &context; return SUCCESS; }
int cuCtxPushCurrent_v2(void *pushed) { current = pushed; return SUCCESS; }
int cuCtxPopCurrent_v2(void **popped) { *popped = current; current = NULL; return SUCCESS; }
int cuCtxGetCurrent(void **found) { *found = current; return SUCCESS; }
int cuCtxSetCurrent(void *wanted) { current = wanted; return SUCCESS; }
int cuCtxGetDevice(int *device) { *device = 0; return current ? SUCCESS : INVALID_CONTEXT; }

/* ---- memory ---- */

int cuMemGetInfo_v2(size_t *available, size_t *total) { *available = *total = (size_t)80 << 30; return SUCCESS; }

/* Who has last written and read a byte, and when: time goes on at each launch, block and barrier. A reader may be several
 * of a warp, or of a block. */
enum { SEVERAL_OF_WARP = 0x4000, SEVERAL = 0xFFFF };
typedef struct {
    uint32_t written, first_read, last_read;
    uint16_t writer, reader;
} history;

typedef struct {
    uint64_t start, size;
    history *past;
} allocation;

static allocation *allocations;
static size_t allocation_count, allocation_room;

static void remember(uint64_t start, uint64_t size) {
    if (allocation_count == allocation_room) {
        allocation_room = 2 * allocation_room + 64;
        allocations = realloc(allocations, allocation_room * sizeof *allocations);
    }
    size_t at = allocation_count++;
    for (; at > 0 && allocations[at - 1].start > start; at--) allocations[at] = allocations[at - 1];
    allocations[at] = (allocation){start, size, NULL};
}

static allocation *allocation_of(uint64_t address) {
    size_t low = 0, high = allocation_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (allocations[middle].start <= address) low = middle + 1;
        else high = middle;
    }
    return low && address - allocations[low - 1].start < allocations[low - 1].size ? allocations + low - 1 : NULL;
}

/* Memory of the host that kernels may use as well. */
void stand_in_lend(uint64_t start, uint64_t size) { remember(start, size); }

int cuMemAlloc_v2(pointer *found, size_t size) {
    void *memory;
    if (size == 0) return refuse(INVALID_VALUE, "no bytes");
    if (posix_memalign(&memory, 512, size)) return OUT_OF_MEMORY;
    memset(memory, 0xFF, size);
    remember((uint64_t)memory, size);
    *found = (pointer)memory;
    return SUCCESS;
}

int cuMemFree_v2(pointer memory) {
    allocation *found = allocation_of(memory);
    if (!found || found->start != memory) return refuse(INVALID_VALUE, "not allocated");
    free(found->past);
    memmove(found, found + 1, (char *)(allocations + --allocation_count) - (char *)found);
    free((void *)memory);
    return SUCCESS;
}

/* ---- memory as kernels see it ---- */

static kernel *running;
static jmp_buf end_of_launch;
static char *shared;
static uint32_t shared_bytes;
static history *shared_history;
static uint32_t now, launch_began, block_began, block_met, warp_met[32];

static void fault(thread *t, unsigned line, const char *what) {
    refuse(0, "%s:%u: thread (%u, %u, %u) of block (%u, %u, %u) %s", running->source, line, t->tid[0], t->tid[1], t->tid[2],
           t->ctaid[0], t->ctaid[1], t->ctaid[2], what);
    longjmp(end_of_launch, 1);
}

static unsigned warp_of(unsigned who) { return who == SEVERAL ? 32 : who & SEVERAL_OF_WARP ? who & 31 : who / 32; }

/* What `who` did at some time of this launch comes before what t does now: by a barrier, or because it is the same. */
static int comes_before(uint32_t when, unsigned who, thread *t) {
    if (when < block_began) return 0;
    return who == t->number || when < block_met || (warp_of(who) == t->number / 32 && when < warp_met[t->number / 32]);
}

/* Two threads may use the same memory if both read, or one comes before the other. */
static void meet(thread *t, history *past, unsigned bytes, int stores, unsigned line) {
    for (history *each = past; each < past + bytes; each++) {
        int read = each->last_read >= launch_began;
        int reads_before = each->first_read >= block_began && comes_before(each->last_read, each->reader, t);
        if (each->written >= launch_began && !comes_before(each->written, each->writer, t))
            fault(t, line, stores ? "writes what another thread writes" : "reads what another thread writes");
        if (stores) {
            if (read && !reads_before) fault(t, line, "writes what another thread reads");
            each->written = now;
            each->writer = t->number;
        } else {
            int together = read && !reads_before, warp = t->number / 32;
            each->reader = !together ? t->number : warp_of(each->reader) == warp ? SEVERAL_OF_WARP | warp : SEVERAL;
            if (!read) each->first_read = now;
            each->last_read = now;
        }
    }
}

void *in_global(thread *t, uint64_t address, unsigned bytes, int stores, unsigned line) {
    allocation *found = allocation_of(address);
    if (!found || address + bytes > found->start + found->size) fault(t, line, "is outside of all arrays");
    if (address % bytes) fault(t, line, "uses an address that is no multiple of the size of the access");
    if (!found->past) found->past = calloc(found->size, sizeof *found->past);
    meet(t, found->past + (address - found->start), bytes, stores, line);
    stand_in_bytes[stores] += bytes;
    return (void *)address;
}

void *in_shared(thread *t, uint64_t address, unsigned bytes, int stores, unsigned line) {
    uint64_t offset = address - (uint64_t)shared;
    if (offset + bytes > shared_bytes || offset > shared_bytes) fault(t, line, "is outside of shared memory");
    if (address % bytes) fault(t, line, "uses an address that is no multiple of the size of the access");
    meet(t, shared_history + offset, bytes, stores, line);
    return (void *)address;
}

void *in_any(thread *t, uint64_t address, unsigned bytes, int stores, unsigned line) {
    int here = address - (uint64_t)shared < shared_bytes;
    return (here ? in_shared : in_global)(t, address, bytes, stores, line);
}

/* ---- approximate instructions, as far off as the PTX ISA allows, by so many ulp as the argument decides ---- */

/* What is a floating-point number is exact: libdevice's tanh takes its powers of two from ex2.approx. */
static float off_by(double exact, uint32_t argument, int most) {
    uint32_t mixed = argument * 2654435761u;
    float x = exact;
    int steps = (int)(mixed >> 16) % (2 * most + 1) - most;
    if (x == 0 || isinf(x) || x != x || exact == x) return x;
    for (; steps > 0; steps--) x = nextafterf(x, INFINITY);
    for (; steps < 0; steps++) x = nextafterf(x, 0);
    return x;
}

static float flushed(float x, int flush) { return flush && fabsf(x) < 0x1p-126f ? copysignf(0, x) : x; }

float ex2_approx(float x, int flush) {
    x = flushed(x, flush);
    return flushed(off_by(exp2(x), bits_f32(x), 2), flush);
}

float rcp_approx(float x, int flush) {
    x = flushed(x, flush);
    return flushed(off_by(1 / (double)x, bits_f32(x), 1), flush);
}

float div_approx(float x, float y, int flush) {
    x = flushed(x, flush), y = flushed(y, flush);
    if (fabsf(y) > 0x1p126f && !isinf(y)) return isinf(x) ? NAN : 0 * x * y;
    return flushed(off_by((double)x / y, bits_f32(x) ^ bits_f32(y), 2), flush);
}

double rcp_approx_double(double x) {
    x = fabs(x) < 0x1p-1022 ? copysign(0, x) : as_f64(bits_f64(x) >> 32 << 32);
    double result = as_f64(bits_f64(1 / x) >> 32 << 32);
    return fabs(result) < 0x1p-1022 ? copysign(0, result) : result;
}

static float rounded(int mode, float a, float b, float c) {
    fesetround(mode);
    volatile float x = a, y = b, z = c, result = fmaf(x, y, z);
    fesetround(FE_TONEAREST);
    return result;
}

float fma_downward(float a, float b, float c) { return rounded(FE_DOWNWARD, a, b, c); }
float fma_toward_zero(float a, float b, float c) { return rounded(FE_TOWARDZERO, a, b, c); }
float add_toward_zero(float a, float b) { return rounded(FE_TOWARDZERO, a, 1, b); }

/* ---- copies ---- */

static int copy(void *to, const void *from, size_t size) { memcpy(to, from, size); waits++; return SUCCESS; }
int cuMemcpyHtoD_v2(pointer to, const void *from, size_t size) { return copy((void *)to, from, size); }
int cuMemcpyDtoH_v2(void *to, pointer from, size_t size) { return copy(to, (void *)from, size); }
int cuMemcpyHtoDAsync_v2(pointer to, void *from, size_t size, void *stream) { return copy((void *)to, from, size); }
int cuMemcpyDtoHAsync_v2(void *to, pointer from, size_t size, void *stream) { return copy(to, (void *)from, size); }
int cuMemcpyDtoD_v2(pointer to, pointer from, size_t n) { return memmove((void *)to, (void *)from, n), SUCCESS; }
int cuMemcpyDtoDAsync_v2(pointer to, pointer from, size_t n, void *stream) { return cuMemcpyDtoD_v2(to, from, n); }
int cuMemsetD8_v2(pointer to, unsigned char byte, size_t count) { return memset((void *)to, byte, count), SUCCESS; }
int cuMemsetD8Async(pointer to, unsigned char byte, size_t n, void *stream) { return cuMemsetD8_v2(to, byte, n); }

/* ---- streams and events ---- */

int cuStreamSynchronize(void *stream) { waits++; return SUCCESS; }
int cuEventSynchronize(void *event) { waits++; return SUCCESS; }
int cuCtxSynchronize(void) { waits++; return SUCCESS; }
int cuEventCreate(void **event, unsigned flags) { *event = calloc(1, sizeof(struct timespec)); return SUCCESS; }
int cuEventRecord(void *event, void *stream) { return clock_gettime(CLOCK_MONOTONIC, event); }
int cuEventDestroy_v2(void *event) { free(event); return SUCCESS; }

int cuEventElapsedTime_v2(float *milliseconds, struct timespec *from, struct timespec *to) {
    *milliseconds = (to->tv_sec - from->tv_sec) * 1e3 + (to->tv_nsec - from->tv_nsec) * 1e-6;
    return SUCCESS;
}

int cuStreamWaitEvent(void *stream, void *event, unsigned flags) { waits_of_streams++; return SUCCESS; }

/* ---- code: a library made by assembler.py, given by its path ---- */

int cuLibraryLoadData(void **library, const void *code, void *a, void *b, unsigned m, void *c, void *d, unsigned n) {
    *library = dlopen(code, RTLD_NOW | RTLD_LOCAL);
    return *library ? SUCCESS : refuse(INVALID_VALUE, "%s", dlerror());
}

int cuLibraryGetKernel(void **kernel, void *library, const char *name) {
    char symbol[4096];
    snprintf(symbol, sizeof symbol, "kernel_%s", name);
    *kernel = dlsym(library, symbol);
    return *kernel ? SUCCESS : refuse(INVALID_VALUE, "%s", dlerror());
}

int cuKernelGetFunction(void **function, void *kernel) { *function = kernel; return SUCCESS; }
int cuKernelGetAttribute(int *value, int attribute, void *kernel, int device) { *value = 1024; return SUCCESS; }

/* ---- what threads do together ---- */

typedef struct {
    unsigned grid[3], block[3], shared_bytes;
    void *stream, *attributes;
    unsigned count;
} launch;

static thread *threads;
static unsigned thread_count;

static thread *lane_of(thread *warp, unsigned lane) {
    return warp - threads + lane < thread_count ? warp + lane : NULL;
}

/* All lanes of `members` that are still running have come to the same kind of exchange. */
static int have_come(thread *warp, thread *first, uint32_t members) {
    for (unsigned lane = 0; lane < 32; lane++) {
        thread *t = lane_of(warp, lane);
        if (!(members >> lane & 1) || !t || t->state == DONE) continue;
        if (t->state != first->state || (t->state != AT_TILES && t->members != members)) return 0;
    }
    return 1;
}

/* shfl.sync.bfly: each lane takes what the lane has given whose number differs in the wanted bits. */
static void shuffle(thread *warp, uint32_t members) {
    uint32_t taken[32], inside[32];
    for (unsigned lane = 0; lane < 32; lane++) {
        thread *t = lane_of(warp, lane), *source;
        if (!(members >> lane & 1) || !t || t->state == DONE) continue;
        uint32_t segment = t->bounds >> 8 & 31, last = (lane & segment) | (t->bounds & 31 & ~segment);
        uint32_t from = lane ^ (t->wanted & 31);
        inside[lane] = from <= last;
        source = lane_of(warp, inside[lane] ? from : lane);
        if (!source || source->state != AT_SHUFFLE) fault(t, t->line, "takes from a lane that gives nothing");
        taken[lane] = source->given;
    }
    for (unsigned lane = 0; lane < 32; lane++) {
        thread *t = lane_of(warp, lane);
        if (!(members >> lane & 1) || !t || t->state == DONE) continue;
        t->given = taken[lane];
        t->taken = inside[lane];
        t->state = READY;
    }
}

static double of_bfloat16(uint32_t pair, int upper) { return as_f32((upper ? pair >> 16 : pair) << 16); }

/* mma.m16n8k16: the entry of a at (row, k) lies in lane 4 (row % 8) + k % 8 / 2, and so on: PTX ISA, "Matrix Fragments
 * for mma.m16n8k16 with floating point type". */
static void multiply_tiles(thread *warp) {
    static double a[16][16], b[16][8], c[16][8];
    if (!lane_of(warp, 31)) fault(warp, warp->line, "mma needs 32 lanes");
    for (unsigned lane = 0; lane < 32; lane++) {
        unsigned group = lane / 4, member = lane % 4;
        thread *t = warp + lane;
        if (t->state != AT_TILES) fault(t, t->line, "mma without this lane");
        for (unsigned i = 0; i < 8; i++) {
            unsigned row = group + (i % 4 < 2 ? 0 : 8), k = 2 * member + i % 2 + (i < 4 ? 0 : 8);
            a[row][k] = of_bfloat16(t->a[i / 2], i % 2);
        }
        for (unsigned i = 0; i < 4; i++) b[2 * member + i % 2 + (i < 2 ? 0 : 8)][group] = of_bfloat16(t->b[i / 2], i % 2);
        for (unsigned i = 0; i < 4; i++) c[group + (i < 2 ? 0 : 8)][2 * member + i % 2] = t->c[i];
    }
    for (unsigned row = 0; row < 16; row++)
        for (unsigned column = 0; column < 8; column++)
            for (unsigned k = 0; k < 16; k++) c[row][column] += a[row][k] * b[k][column];
    for (unsigned lane = 0; lane < 32; lane++) {
        thread *t = warp + lane;
        for (unsigned i = 0; i < 4; i++) t->c[i] = c[lane / 4 + (i < 2 ? 0 : 8)][2 * (lane % 4) + i % 2];
        t->state = READY;
    }
}

/* One bit for each lane that has said yes. */
static void ballot(thread *warp, uint32_t members) {
    uint32_t votes = 0;
    for (unsigned lane = 0; lane < 32; lane++) {
        thread *t = lane_of(warp, lane);
        if (t && members >> lane & 1 && t->state == AT_BALLOT) votes |= (uint32_t)(t->given != 0) << lane;
    }
    for (unsigned lane = 0; lane < 32; lane++) {
        thread *t = lane_of(warp, lane);
        if (t && members >> lane & 1 && t->state == AT_BALLOT) t->given = votes, t->state = READY;
    }
}

static void pass_warp_barrier(thread *warp, uint32_t members) {
    for (unsigned lane = 0; lane < 32; lane++) {
        thread *t = lane_of(warp, lane);
        if (t && members >> lane & 1 && t->state == AT_WARP_BARRIER) t->state = READY;
    }
    if (members == 0xFFFFFFFF) warp_met[warp->number / 32] = ++now;
}

/* ---- the order of things, which is no kernel's to rely on ---- */

static unsigned order;

static void choose_order(void) {
    static uint32_t random = 1;
    random = random * 1664525u + 1013904223u;
    order = (random >> 16) % 3;
}

/* The position of the k-th of `count` in the order of this launch: forwards, backwards, or from the middle on. */
static unsigned in_order(unsigned k, unsigned count) {
    return order == 0 ? k : order == 1 ? count - 1 - k : (k + count / 2) % count;
}

/* Each lane in its turn runs as far as it can; then those that wait for each other exchange, and so on. */
static int run_warp(thread *warp, kernel *code, char *registers) {
    unsigned lanes = thread_count - (warp - threads) < 32 ? thread_count - (warp - threads) : 32;
    int progress = 0;
    for (;;) {
        thread *waiting = NULL;
        for (unsigned k = 0; k < lanes; k++) {
            thread *t = warp + in_order(k, lanes);
            if (t->state == READY) code->run(t, registers + (size_t)t->number * code->register_bytes), progress = 1;
        }
        for (unsigned lane = 0; lane < lanes && !waiting; lane++) {
            thread *t = warp + lane;
            uint32_t members = t->state == AT_TILES ? 0xFFFFFFFF : t->members;
            if (t->state == DONE || t->state == AT_BARRIER || t->state == AT_VOTE) continue;
            if (!(members >> lane & 1)) fault(t, t->line, "is not among the lanes that it names");
            if (have_come(warp, t, members)) waiting = t;
        }
        if (!waiting) return progress;
        if (waiting->state == AT_TILES) multiply_tiles(warp);
        else if (waiting->state == AT_BALLOT) ballot(warp, waiting->members);
        else if (waiting->state == AT_WARP_BARRIER) pass_warp_barrier(warp, waiting->members);
        else shuffle(warp, waiting->members);
    }
}

/* All threads that still run are at the barrier; those of a warp, at the same place of the program. */
static void pass_barrier(void) {
    int vote = 0;
    for (unsigned k = 0; k < thread_count; k++) {
        thread *t = threads + k;
        if (t->state == DONE) continue;
        if (t->state != AT_BARRIER && t->state != AT_VOTE) fault(t, t->line, "waits for lanes that do not come");
        for (thread *u = t; u < threads + thread_count && u->number / 32 == t->number / 32; u++)
            if (u->state != DONE && u->at != t->at) fault(u, u->line, "is at another barrier than its warp");
        vote |= t->state == AT_VOTE && t->vote;
    }
    for (unsigned k = 0; k < thread_count; k++) {
        if (threads[k].state == DONE) continue;
        threads[k].state = READY;
        threads[k].vote = vote;
    }
    block_met = ++now;
}

static void run_block(launch *how, kernel *code, unsigned block, void **arguments, char *registers) {
    memset(threads, 0, thread_count * sizeof *threads);
    memset(registers, 0xFF, (size_t)thread_count * code->register_bytes);
    memset(shared, 0xFF, shared_bytes);
    memset(shared_history, 0, shared_bytes * sizeof *shared_history);
    block_began = block_met = ++now;
    memset(warp_met, 0, sizeof warp_met);
    for (unsigned k = 0; k < thread_count; k++) {
        thread *t = threads + k;
        unsigned in_block = k, in_grid = block;
        for (int axis = 0; axis < 3; axis++) {
            t->ntid[axis] = how->block[axis];
            t->tid[axis] = in_block % how->block[axis];
            in_block /= how->block[axis];
            t->nctaid[axis] = how->grid[axis];
            t->ctaid[axis] = in_grid % how->grid[axis];
            in_grid /= how->grid[axis];
        }
        t->number = k;
        t->lane = k % 32;
        t->state = READY;
        t->shared = (uint64_t)shared;
        t->dynamic_bytes = how->shared_bytes;
        t->arguments = arguments;
    }
    unsigned warps = (thread_count + 31) / 32;
    for (;;) {
        int progress = 0, running = 0;
        for (unsigned k = 0; k < warps; k++) progress |= run_warp(threads + 32 * in_order(k, warps), code, registers);
        for (unsigned k = 0; k < thread_count; k++) running |= threads[k].state != DONE;
        if (!running) return;
        if (!progress) pass_barrier();
    }
}

int cuLaunchKernelEx(launch *how, void *function, void **arguments, void **extra) {
    kernel *code = function;
    unsigned blocks = how->grid[0] * how->grid[1] * how->grid[2];
    thread_count = how->block[0] * how->block[1] * how->block[2];
    launches++;
    if (!blocks || !thread_count || how->grid[1] > 65535 || how->grid[2] > 65535)
        return refuse(INVALID_VALUE, "a grid or a block of no size, or of too large a one");
    shared_bytes = code->shared_bytes + how->shared_bytes;
    if (thread_count > 1024 || shared_bytes > 49152)
        return refuse(INVALID_VALUE, "%u threads a block, %u bytes of shared memory", thread_count, shared_bytes);
    running = code;
    shared_history = malloc((shared_bytes + 1) * sizeof *shared_history);
    shared = aligned_alloc(128, (shared_bytes + 128) / 128 * 128);
    threads = malloc(thread_count * sizeof *threads);
    char *registers = malloc((size_t)thread_count * code->register_bytes + 1);
    launch_began = ++now;
    choose_order();
    int failed = setjmp(end_of_launch);
    if (!failed)
        for (unsigned k = 0; k < blocks; k++) run_block(how, code, in_order(k, blocks), arguments, registers);
    free(shared_history);
    free(shared);
    free(threads);
    free(registers);
    return failed ? LAUNCH_FAILED : SUCCESS;
}

int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared_bytes, void *stream, void **arguments, void **extra) {
    launch how = {{gx, gy, gz}, {bx, by, bz}, shared_bytes, stream, NULL, 0};
    return cuLaunchKernelEx(&how, function, arguments, extra);
}

/* ---- how the driver is asked for its functions ---- */

static int nothing(void) { return SUCCESS; }

int cuInit(unsigned flags) { return SUCCESS; }

int cuGetProcAddress_v2(const char *name, void **found, int version, uint64_t flags, int *status) {
    static void *here;
    char newer[256] = "";
    if (!here) here = dlopen("libcuda.so.1", RTLD_NOLOAD | RTLD_NOW);
    strncat(strncat(newer, name, 200), "_v2", 4);
    *found = dlsym(here, newer);
    if (!*found) *found = dlsym(here, name);
    if (!*found) *found = (void *)nothing;
    if (status) *status = 0;
    return SUCCESS;
}
