/* A program for the process adapter: mean cross-entropy and its gradient, one JSON request to a line.
   cc -O2 -o cross_entropy cross_entropy.c -lm;  lossref check ./cross_entropy --framework process --loss cross_entropy */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The array called name: its shape and its numbers, hexadecimal floats or integers. strtod reads both. */
static int numbers(const char *line, const char *name, long shape[2], double *out) {
    char key[64];
    snprintf(key, sizeof key, "\"%s\": {\"shape\": [", name);
    const char *at = strstr(line, key);
    if (!at) return -1;
    char *end = (char *)at + strlen(key);
    shape[0] = shape[1] = 1;
    for (int k = 0; *end != ']'; end += *end == ',' ? 1 : 0) { long n = strtol(end, &end, 10); if (k < 2) shape[k++] = n; }
    at = strstr(end, "[") + 1;
    int count = 0;
    while (*at != ']') {
        while (*at == '"' || *at == ',' || *at == ' ') at++;
        if (*at == ']') break;
        out[count++] = strtod(at, &end);
        at = *end == '"' ? end + 1 : end;
    }
    return count;
}

int main(void) {
    static char line[1 << 25];
    static double x[1 << 18], y[1 << 17], cotangent[2], g[1 << 18];
    while (fgets(line, sizeof line, stdin)) {
        long shape[2], other[2];
        if (numbers(line, "logits", shape, x) < 0 || numbers(line, "labels", other, y) < 0) {
            puts("{\"error\": \"logits and labels are needed\"}"); fflush(stdout); continue;
        }
        long n = shape[0], c = shape[1];
        double total = 0;
        int want_gradient = strstr(line, "\"what\": \"grad\"") != NULL;
        if (want_gradient) {
            const char *at = strstr(line, "\"cotangent\": {");
            cotangent[0] = strtod(strchr(strstr(at, "\"data\": ["), '[') + 2, NULL);
        }
        for (long i = 0; i < n; i++) {
            const double *row = x + i * c;
            long top = 0, label = (long)y[i];
            for (long j = 1; j < c; j++) if (row[j] > row[top]) top = j;
            double rest = 0;                                  /* the largest entry stays out of the sum */
            for (long j = 0; j < c; j++) if (j != top) rest += exp(row[j] - row[top]);
            total += log1p(rest) + (row[top] - row[label]);
            double others = 0;
            for (long j = 0; j < c; j++) {
                double p = j == top ? 1 / (1 + rest) : exp(row[j] - row[top]) / (1 + rest);
                g[i * c + j] = p * cotangent[0] / n;
                if (j != label) others += p;
            }
            g[i * c + label] = -others * cotangent[0] / n;    /* never p - 1 */
        }
        if (!want_gradient) {
            printf("{\"shape\": [], \"data\": [\"%a\"]}\n", n ? total / n : NAN);
        } else {
            printf("{\"shape\": [%ld, %ld], \"data\": [", n, c);
            for (long k = 0; k < n * c; k++) printf("%s\"%a\"", k ? ", " : "", g[k]);
            puts("]}");
        }
        fflush(stdout);
    }
    return 0;
}
