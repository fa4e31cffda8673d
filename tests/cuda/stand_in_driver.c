/* A CUDA driver without a GPU, to run everything that the host does: memory is the host's, a kernel is not run, but
 * its launch is refused where a GPU of compute capability 9.0 would refuse it. What the host would have to wait for is
 * counted. Whatever is not written here succeeds and does nothing. Compiled by test_host_side.py. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long pointer;

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_CONTEXT = 201 };

static char context;
static __thread void *current;
static int waits, launches, waits_of_streams;

int stand_in_waits(void) { return waits; }
int stand_in_launches(void) { return launches; }
int stand_in_waits_of_streams(void) { return waits_of_streams; }

int cuGetErrorName(int code, const char **name) { *name = "CUDA_ERROR"; return SUCCESS; }
int cuGetErrorString(int code, const char **text) { *text = "refused"; return SUCCESS; }

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

int cuMemAlloc_v2(pointer *found, size_t size) {
    void *memory;
    if (size == 0) return INVALID_VALUE;
    if (posix_memalign(&memory, 512, size)) return OUT_OF_MEMORY;
    memset(memory, 0, size);
    *found = (pointer)memory;
    return SUCCESS;
}

int cuMemFree_v2(pointer memory) { free((void *)memory); return SUCCESS; }

static int copy(void *to, const void *from, size_t size) { memcpy(to, from, size); waits++; return SUCCESS; }
int cuMemcpyHtoD_v2(pointer to, const void *from, size_t size) { return copy((void *)to, from, size); }
int cuMemcpyDtoH_v2(void *to, pointer from, size_t size) { return copy(to, (void *)from, size); }
int cuMemcpyHtoDAsync_v2(pointer to, void *from, size_t size, void *stream) { return copy((void *)to, from, size); }
int cuMemcpyDtoHAsync_v2(void *to, pointer from, size_t size, void *stream) { return copy(to, (void *)from, size); }

/* ---- streams and events ---- */

int cuStreamSynchronize(void *stream) { waits++; return SUCCESS; }
int cuEventSynchronize(void *event) { waits++; return SUCCESS; }
int cuCtxSynchronize(void) { waits++; return SUCCESS; }
int cuEventCreate(void **event, unsigned flags) { *event = malloc(1); return SUCCESS; }
int cuStreamWaitEvent(void *stream, void *event, unsigned flags) { waits_of_streams++; return SUCCESS; }

/* ---- code, which is its name ---- */

int cuLibraryLoadData(void **library, const void *code, void *a, void *b, unsigned m, void *c, void *d, unsigned n) {
    *library = malloc(1);
    return SUCCESS;
}
int cuLibraryGetKernel(void **kernel, void *library, const char *name) { *kernel = strdup(name); return SUCCESS; }
int cuKernelGetFunction(void **function, void *kernel) { *function = kernel; return SUCCESS; }
int cuKernelGetAttribute(int *value, int attribute, void *kernel, int device) { *value = 1024; return SUCCESS; }

typedef struct {
    unsigned grid[3], block[3], shared_bytes;
    void *stream, *attributes;
    unsigned count;
} launch;

int cuLaunchKernelEx(launch *how, void *function, void **arguments, void **extra) {
    unsigned threads = how->block[0] * how->block[1] * how->block[2];
    unsigned least = how->grid[0] && how->grid[1] && how->grid[2] && threads;
    launches++;
    if (!least || how->grid[0] > 2147483647u || how->grid[1] > 65535 || how->grid[2] > 65535) return INVALID_VALUE;
    return threads > 1024 || how->shared_bytes > 49152 ? INVALID_VALUE : SUCCESS;
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
