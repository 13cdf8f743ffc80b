//! P-values for "the mean loss is above the bound": small ones say that it is not.
//!
//! Under that hypothesis, and for independent losses, each is at most `u` with probability at most `u`, for every `u`
//! and every number of queries: nothing here is an approximation for large samples.

/// Exact binomial p-value for losses of 0 and 1: the probability that `queries` draws of chance `bound` lose at most
/// `lost` times. 1 without queries.
#[must_use]
pub fn binomial(queries: u64, lost: u64, bound: f64) -> f64 {
    if lost >= queries || bound <= 0.0 {
        return 1.0;
    }
    if bound >= 1.0 {
        return 0.0;
    }
    let (n, k) = (queries as f64, lost as f64);
    let odds = bound / (1.0 - bound);
    // From the term next to the mean outwards, until terms no longer count: about sqrt(n) of them.
    if k < n * bound {
        let (mut i, mut term) = (k, mass(n, k, bound));
        let mut tail = term;
        while i > 0.0 && term > tail * NEGLIGIBLE {
            term *= i / ((n - i + 1.0) * odds);
            i -= 1.0;
            tail += term;
        }
        tail.min(1.0)
    } else {
        let (mut i, mut term) = (k + 1.0, mass(n, k + 1.0, bound));
        let mut tail = term;
        while i < n && term > tail * NEGLIGIBLE {
            term *= (n - i) * odds / (i + 1.0);
            i += 1.0;
            tail += term;
        }
        (1.0 - tail).max(0.0)
    }
}

/// Hoeffding-Bentkus p-value for losses in [0, 1], `lost` being their sum: the smaller of `exp(-n kl(min(r, bound),
/// bound))` and `e P(Bin(n, bound) <= ceil(lost))`, `r = lost / n` and kl the relative entropy of two coins (Bates et
/// al., arXiv 2101.02703; Angelopoulos et al., arXiv 2110.01052). 1 without queries.
#[must_use]
pub fn hoeffding_bentkus(queries: u64, lost: f64, bound: f64) -> f64 {
    if queries == 0 || bound <= 0.0 {
        return 1.0;
    }
    if bound >= 1.0 {
        return 0.0;
    }
    let n = queries as f64;
    let rate = (lost / n).clamp(0.0, bound);
    let part = |p: f64, q: f64| if p == 0.0 { 0.0 } else { p * (p / q).ln() };
    let hoeffding = (-n * (part(rate, bound) + part(1.0 - rate, 1.0 - bound))).exp();
    let bentkus = std::f64::consts::E * binomial(queries, lost.ceil() as u64, bound);
    hoeffding.min(bentkus).min(1.0)
}

/// Terms of a tail below this share of it change no digit.
const NEGLIGIBLE: f64 = 1e-18;

/// `P(Bin(n, p) = k)` for 0 < p < 1, relative error about 1e-14 for any n: Loader's saddle-point form (2000), which has
/// no difference of large logarithms of factorials.
fn mass(n: f64, k: f64, p: f64) -> f64 {
    if k == 0.0 {
        return (n * (-p).ln_1p()).exp();
    }
    if k == n {
        return (n * p.ln()).exp();
    }
    let exponent = stirling_error(n)
        - stirling_error(k)
        - stirling_error(n - k)
        - deviance(k, n * p)
        - deviance(n - k, n * (1.0 - p));
    exponent.exp() / (std::f64::consts::TAU * k * (1.0 - k / n)).sqrt()
}

/// `ln(n!)` less Stirling's formula, for whole n >= 1.
fn stirling_error(n: f64) -> f64 {
    if n <= 15.0 {
        return libm::lgamma(n + 1.0) - (n + 0.5) * n.ln() + n - 0.5 * std::f64::consts::TAU.ln();
    }
    let square = n * n;
    (1.0 / 12.0 - (1.0 / 360.0 - (1.0 / 1260.0 - (1.0 / 1680.0 - 1.0 / 1188.0 / square) / square) / square) / square)
        / n
}

/// `x ln(x / m) + m - x` for x, m > 0, without cancellation where x is near m.
fn deviance(x: f64, m: f64) -> f64 {
    let apart = x - m;
    if apart.abs() >= 0.1 * (x + m) {
        return x * (x / m).ln() - apart;
    }
    let v = apart / (x + m);
    let mut sum = apart * v;
    let mut power = 2.0 * x * v;
    for j in 1.. {
        power *= v * v;
        let next = sum + power / f64::from(2 * j + 1);
        if next == sum {
            break;
        }
        sum = next;
    }
    sum
}
