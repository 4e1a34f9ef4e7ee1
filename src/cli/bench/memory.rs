//! The largest memory of this process in a span of time, as Linux counts it.
//!
//! The kernel keeps the highest resident size, and forgets it when asked to. What earlier work
//! has left in caches of the allocator is part of it: it is what the machine has to have.

use std::fs;

/// A span of time whose peak is wanted.
#[derive(Debug)]
pub(super) struct Peak(());

impl Peak {
    /// Begins a span. Where the kernel does not forget, it begins with the process.
    pub(super) fn start() -> Self {
        let _ = fs::write("/proc/self/clear_refs", "5");
        Peak(())
    }

    /// The peak in bytes; none on systems that do not tell.
    pub(super) fn bytes(self) -> Option<u64> {
        parse_high_water(&fs::read_to_string("/proc/self/status").ok()?)
    }
}

fn parse_high_water(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_high_water_mark_is_read() {
        let status = "Name:\tkiln\nVmPeak:\t  999 kB\nVmHWM:\t    1234 kB\nVmRSS:\t 1 kB\n";
        assert_eq!(parse_high_water(status), Some(1234 * 1024));
        assert_eq!(parse_high_water("Name:\tkiln\n"), None);
    }
}
