//! How much memory this process has used.

/// Largest resident set of this process so far, in bytes; `None` where the system does not say without a foreign call.
#[must_use]
pub fn peak_rss() -> Option<u64> {
    if !cfg!(any(target_os = "linux", target_os = "android")) {
        return None;
    }
    // proc(5): "VmHWM: Peak resident set size", in kibibytes.
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
