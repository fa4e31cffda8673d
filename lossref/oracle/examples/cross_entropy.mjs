// A program for the process adapter in JavaScript: mean cross-entropy, one JSON request to a line.
// lossref check "node cross_entropy.mjs" --framework process --loss cross_entropy --no-gradient
import { createInterface } from "node:readline";

const hex = (text) => {                       // JavaScript reads no hexadecimal floats: 0x1.8p+1 is 3
  if (typeof text === "number") return text;
  const found = /^(-?)0x([0-9a-f]+)\.?([0-9a-f]*)p([+-]\d+)$/.exec(text);
  if (!found) return { inf: Infinity, "-inf": -Infinity }[text] ?? NaN;
  const [, sign, whole, part, exponent] = found;
  const mantissa = Number(BigInt("0x" + whole + part));  // at most 53 bits
  const power = Number(exponent) - 4 * part.length;
  const value = mantissa * 2 ** Math.max(power, -1000) * 2 ** Math.min(power + 1000, 0);
  return sign ? -value : value;
};

const answer = (x) => ({ shape: [], data: [Number.isFinite(x) ? x : Number.isNaN(x) ? "nan" : x > 0 ? "inf" : "-inf"] });

for await (const line of createInterface({ input: process.stdin })) {
  const { what, arguments: given } = JSON.parse(line);
  if (what !== "value") { console.log(JSON.stringify({ error: "no gradient here" })); continue; }
  const [n, c] = given.logits.shape, x = given.logits.data.map(hex);
  let total = 0;
  for (let i = 0; i < n; i++) {
    const row = x.slice(i * c, (i + 1) * c), top = row.indexOf(Math.max(...row));
    let rest = 0;
    row.forEach((value, j) => { if (j !== top) rest += Math.exp(value - row[top]); });
    total += Math.log1p(rest) + (row[top] - row[given.labels.data[i]]);
  }
  console.log(JSON.stringify(answer(total / n)));
}
