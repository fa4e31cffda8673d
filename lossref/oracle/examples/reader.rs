// Reads test vectors of cross_entropy and checks its terms: rustc -O reader.rs && ./reader cross_entropy.jsonl
fn real(text: &str) -> f64 {
    // A hexadecimal float such as -0x1.8p+1, an integer, inf or nan; Rust's parse reads only the last three.
    let (sign, body) = if let Some(rest) = text.strip_prefix('-') { (-1.0, rest) } else { (1.0, text) };
    let Some(body) = body.strip_prefix("0x") else { return text.parse().unwrap_or(f64::NAN) };
    let (digits, exponent) = body.split_once('p').unwrap();
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let mantissa = u64::from_str_radix(&format!("{whole}{part}"), 16).unwrap() as f64; // at most 53 bits
    let power = exponent.parse::<i32>().unwrap() - 4 * part.len() as i32;
    sign * mantissa * 2f64.powi(power.max(-1000)) * 2f64.powi((power + 1000).min(0))
}

fn list(text: &str, after: &str, key: &str) -> Vec<f64> {
    let text = &text[text.find(after).expect(after)..];
    let text = &text[text.find(key).expect(key) + key.len()..];
    let inside = &text[..text.find(']').unwrap()];
    inside.split(',').map(|x| x.trim().trim_matches('"')).filter(|x| !x.is_empty()).map(real).collect()
}

fn option(text: &str, key: &str) -> f64 {
    text.find(key).map_or(0.0, |at| text[at + key.len()..].split([',', '}']).next().unwrap().trim().parse().unwrap_or(0.0))
}

fn main() {
    let file = std::fs::read_to_string(std::env::args().nth(1).expect("a file")).expect("readable");
    let (mut checked, mut failed) = (0, 0);
    for v in file.lines() {
        let other = ["\"label_smoothing\": ", "\"softcap\": ", "\"z_loss_weight\": "];
        if v.contains("\"weight\":") || other.iter().any(|key| option(v, key) != 0.0) { continue; }
        let (x, y) = (list(v, "\"logits\"", "\"data\": ["), list(v, "\"labels\"", "\"data\": ["));
        let [mid, rad, unit] = ["\"mid\": [", "\"rad\": [", "\"unit\": ["].map(|key| list(v, "\"terms\"", key));
        for (i, row) in x.chunks(x.len() / y.len().max(1)).enumerate() {
            let top = (0..row.len()).fold(0, |best, j| if row[j] > row[best] { j } else { best });
            let rest: f64 = (0..row.len()).filter(|&j| j != top).map(|j| (row[j] - row[top]).exp()).sum();
            let kept = y[i] != option(v, "\"ignore_index\": ");
            let term = if kept { rest.ln_1p() + (row[top] - row[y[i] as usize]) } else { 0.0 };
            checked += 1;
            failed += !(term == mid[i] || (term - mid[i]).abs() <= 4.0 * unit[i] + rad[i]) as i32;
        }
    }
    println!("{checked} terms, {failed} beyond 4 units");
    std::process::exit((failed > 0 || checked == 0) as i32);
}
