/* Reads test vectors of cross_entropy and checks its terms: cc -O2 -o reader reader.c -lm; ./reader cross_entropy.jsonl */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The numbers of the list that follows key, after the place at. strtod reads hexadecimal floats, inf and nan. */
static int list(const char *at, const char *key, double *out) {
    if (!at || !(at = strstr(at, key))) return -1;
    at += strlen(key);
    int count = 0;
    for (char *end; *at && *at != ']'; at = end + (*end == '"'))
        { while (*at == '"' || *at == ',' || *at == ' ') at++; if (*at == ']') break; out[count++] = strtod(at, &end); }
    return count;
}
static double option(const char *line, const char *key) { const char *at = strstr(line, key); return at ? strtod(at + strlen(key), NULL) : 0; }

int main(int argc, char **argv) {
    static char line[1 << 22];
    static double x[8192], y[8192], mid[8192], rad[8192], unit[8192];
    int checked = 0, failed = 0;
    FILE *file = fopen(argc > 1 ? argv[1] : "cross_entropy.jsonl", "r");
    while (file && fgets(line, sizeof line, file)) {
        if (strstr(line, "\"weight\":") || option(line, "\"label_smoothing\": ") || option(line, "\"softcap\": ") || option(line, "\"z_loss_weight\": ")) continue;
        int entries = list(strstr(line, "\"logits\""), "\"data\": [", x), n = list(strstr(line, "\"labels\""), "\"data\": [", y);
        const char *terms = strstr(line, "\"terms\"");
        list(terms, "\"mid\": [", mid); list(terms, "\"rad\": [", rad); list(terms, "\"unit\": [", unit);
        for (int i = 0, c = n ? entries / n : 0; i < n; i++) {
            double *row = x + i * c, rest = 0, term = 0; int top = 0;
            for (int j = 1; j < c; j++) if (row[j] > row[top]) top = j;
            for (int j = 0; j < c; j++) if (j != top) rest += exp(row[j] - row[top]);
            if (y[i] != option(line, "\"ignore_index\": ")) term = log1p(rest) + (row[top] - row[(int)y[i]]);
            checked++; failed += !(term == mid[i] || fabs(term - mid[i]) <= 4 * unit[i] + rad[i]);
        }
    }
    printf("%d terms, %d beyond 4 units\n", checked, failed);
    return failed || !checked;
}
