//! What a process has used, as Linux says.

use std::io;
use std::time::Duration;

/// Bytes of memory that a process holds.
pub fn resident(process: u32) -> io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| {
        line.trim()
            .trim_end_matches("kB")
            .trim()
            .parse::<u64>()
            .ok()
    });
    kib.map(|kib| kib * 1024)
        .ok_or_else(|| io::Error::other("no VmRSS in the process's status"))
}

/// Processor time of this process so far, all threads together, to a hundredth of a second.
pub fn busy() -> io::Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // Behind the name, which may hold blanks; the first of them is the third field.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: Vec<u64> = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse().ok())
        .collect();
    match ticks[..] {
        // 100 a second on every Linux of today.
        [user, system] => Ok(Duration::from_millis((user + system) * 10)),
        _ => Err(io::Error::other("no times in the process's status")),
    }
}
