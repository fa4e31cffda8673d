// Reads test vectors of cross_entropy and checks its terms: node reader.mjs cross_entropy.jsonl
import { readFileSync } from "node:fs";

export const hex = (text) => {                // "0x1.8p+1" is 3; integers stay what they are
  if (typeof text !== "string") return text;
  const found = /^(-?)0x([0-9a-f]+)\.?([0-9a-f]*)p([+-]\d+)$/.exec(text);
  if (!found) return { inf: Infinity, "-inf": -Infinity }[text] ?? NaN;
  const [, sign, whole, part, exponent] = found, power = Number(exponent) - 4 * part.length;
  const value = Number(BigInt("0x" + whole + part)) * 2 ** Math.max(power, -1000) * 2 ** Math.min(power + 1000, 0);
  return sign ? -value : value;
};

let checked = 0, failed = 0;
for (const line of readFileSync(process.argv[2], "utf8").split("\n").filter(Boolean)) {
  const v = JSON.parse(line), o = v.options;
  if ("weight" in v.arguments || o.label_smoothing || o.softcap || o.z_loss_weight) continue;
  const [n, c] = v.arguments.logits.shape, x = v.arguments.logits.data.map(hex);
  const mid = v.terms.mid.map(hex), rad = v.terms.rad.map(hex), unit = v.terms.unit.map(hex);
  for (let i = 0; i < n; i++) {
    const label = v.arguments.labels.data[i], row = x.slice(i * c, (i + 1) * c), top = row.indexOf(Math.max(...row));
    const rest = row.reduce((sum, value, j) => (j === top ? sum : sum + Math.exp(value - row[top])), 0);
    const term = label === o.ignore_index ? 0 : Math.log1p(rest) + (row[top] - row[label]);
    const right = term === mid[i] || Math.abs(term - mid[i]) <= 4 * unit[i] + rad[i];
    checked++; failed += right ? 0 : 1;
  }
}
console.log(`${checked} terms, ${failed} beyond 4 units`);
process.exit(failed || !checked ? 1 : 0);
