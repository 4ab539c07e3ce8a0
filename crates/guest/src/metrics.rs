//! `GET /metrics`: what this sandbox can see of its own use.
//!
//! Memory is that of the machine where the kernel does not hide it; the host measures a sandbox
//! by its cgroup and does not rely on this.

use serde_json::{Value, json};

/// Numbers of now, bytes.
pub(crate) fn read() -> Value {
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = |name: &str| {
        memory
            .lines()
            .find_map(|line| {
                line.strip_prefix(name)?.split_whitespace().next()?.parse::<u64>().ok()
            })
            .map(|kib| kib << 10)
    };
    let total = kib("MemTotal:");
    let used = total.zip(kib("MemAvailable:")).map(|(total, free)| total.saturating_sub(free));
    let disk = rustix::fs::statvfs("/").ok();
    json!({
        "cpu_count": std::thread::available_parallelism().ok().map(usize::from),
        "mem_total": total,
        "mem_used": used,
        "disk_total": disk.as_ref().map(|d| d.f_blocks * d.f_frsize),
        "disk_used": disk.as_ref().map(|d| d.f_blocks.saturating_sub(d.f_bfree) * d.f_frsize),
    })
}
