//! Text and numbers as they stand in the page.

/// Text as element content.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Text inside a double-quoted attribute.
pub(super) fn attribute(text: &str) -> String {
    escape(text).replace('"', "&quot;").replace('\'', "&#39;")
}

/// `0.8123` as `81.2 %`.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1}\u{a0}%", 100.0 * share)
}

/// A deferral rate without needless decimals: `30 %`, `12.5 %`.
pub(super) fn rate(share: f64) -> String {
    let tenths = (1000.0 * share).round() / 10.0;
    format!("{tenths}\u{a0}%")
}

/// Floating-point operations with a prefix: `1.25 GFLOPs`.
pub(super) fn flops(flops: f64) -> String {
    let (scale, prefix) = prefix(flops);
    format!("{}\u{a0}{prefix}FLOPs", three_digits(flops / scale))
}

/// The power of 1000 that makes a number of operations readable, and its letter.
pub(super) fn prefix(flops: f64) -> (f64, &'static str) {
    let prefixes = [(1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    prefixes.into_iter().find(|(scale, _)| flops >= *scale).unwrap_or((1.0, ""))
}

fn three_digits(number: f64) -> String {
    match number {
        number if number >= 100.0 => format!("{number:.0}"),
        number if number >= 10.0 => format!("{number:.1}"),
        number => format!("{number:.2}"),
    }
}
