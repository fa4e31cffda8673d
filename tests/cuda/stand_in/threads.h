/* What a kernel, translated from PTX to C by assembler.py, sees of the stand-in GPU. A kernel is a function that runs
 * one thread until it has to wait for others, and goes on from there when it is called again. */

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { DONE, READY, AT_BARRIER, AT_VOTE, AT_WARP_BARRIER, AT_BALLOT, AT_SHUFFLE, AT_TILES };

typedef struct {
    uint32_t tid[3], ctaid[3], ntid[3], nctaid[3];
    uint32_t number, lane;      /* in the block, in the warp */
    uint32_t state, at, line;   /* what it waits for, where it goes on, the line of the PTX */
    uint64_t shared;            /* the address of the block's shared memory */
    uint32_t dynamic_bytes;     /* so many of it has the launch asked for */
    void **arguments;
    uint32_t given, wanted, bounds, members, taken;  /* a shuffle */
    int vote;
    uint32_t a[4], b[2];        /* tiles: a, b of bfloat16, c and the result of float32 */
    float c[4];
} thread;

typedef struct {
    void (*run)(thread *, void *registers);
    uint32_t register_bytes, shared_bytes;
    const char *source;
} kernel;

extern unsigned long long stand_in_instructions;

/* Where an access may read or write; a fault ends the launch. */
void *in_global(thread *, uint64_t address, unsigned bytes, int stores, unsigned line);
void *in_shared(thread *, uint64_t address, unsigned bytes, int stores, unsigned line);
void *in_any(thread *, uint64_t address, unsigned bytes, int stores, unsigned line);

/* As wrong as the hardware may be. */
float ex2_approx(float, int flush);
float rcp_approx(float, int flush);
float div_approx(float, float, int flush);
double rcp_approx_double(double);

float fma_downward(float, float, float);
float fma_toward_zero(float, float, float);
float add_toward_zero(float, float);

static inline float as_f32(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
static inline double as_f64(uint64_t bits) { double x; memcpy(&x, &bits, 8); return x; }
static inline _Float16 as_f16(uint16_t bits) { _Float16 x; memcpy(&x, &bits, 2); return x; }
static inline uint32_t bits_f32(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }
static inline uint64_t bits_f64(double x) { uint64_t bits; memcpy(&bits, &x, 8); return bits; }
static inline uint16_t bits_f16(_Float16 x) { uint16_t bits; memcpy(&bits, &x, 2); return bits; }

/* cvt: beyond the range its ends; `nan` is what is made of no number. */
static inline uint64_t to_integer(double x, unsigned bits, int has_sign, int nan) {
    uint64_t top = 1ull << (bits - 1);
    if (x != x) return nan ? top : 0;
    if (has_sign) return x < -(double)top ? top : x >= (double)top ? top - 1 : (uint64_t)(int64_t)x;
    return x <= 0 ? 0 : x >= 2 * (double)top ? top - 1 + top : (uint64_t)x;
}

/* The smaller; of a number and a NaN the number, and -0 is below 0. */
#define OF_TWO(name, type, better, zero)                                                                               \
    static inline type name(type a, type b) {                                                                          \
        return a != a ? b : b != b ? a : a == b ? (!signbit(a) == zero ? b : a) : a better b ? a : b;                   \
    }
OF_TWO(min_f32, float, <, 1)
OF_TWO(min_f64, double, <, 1)
OF_TWO(max_f32, float, >, 0)
OF_TWO(max_f64, double, >, 0)

static inline uint32_t reverse_bits(uint32_t x) {
    uint32_t result = 0;
    for (int k = 0; k < 32; k++) result |= (x >> k & 1) << (31 - k);
    return result;
}

static inline uint32_t to_bfloat16(float x) {
    uint32_t bits = bits_f32(x);
    return x != x ? 0x7FFF : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}

static inline uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t choice) {
    uint64_t bytes = (uint64_t)b << 32 | a;
    uint32_t result = 0;
    for (int k = 0; k < 4; k++) {
        uint32_t which = choice >> 4 * k & 15, byte = bytes >> 8 * (which & 7) & 255;
        if (which & 8) byte = byte & 128 ? 255 : 0;
        result |= byte << 8 * k;
    }
    return result;
}

static inline uint64_t insert_bits(uint64_t a, uint64_t b, unsigned position, unsigned length) {
    uint64_t mask = length > 63 ? ~0ull : (1ull << length) - 1;
    return position > 63 ? b : (b & ~(mask << position)) | (a & mask) << position;
}
