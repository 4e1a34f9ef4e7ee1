//! What was decoded from the ends of input files, kept for whoever opens them next.
//!
//! Planning a job reads the footer of every file, and so does each of its tasks. In one process
//! they share what was decoded. An entry is good for one version of a file only (its entity tag,
//! or when it was last written); bytes are bounded by [`limits::FOOTER_CACHE_BYTES`], and what was
//! used longest ago goes first.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::limits;

/// Decoded footers of files; what is in one is known to the format that put it there.
#[derive(Debug, Default)]
pub struct FooterCache(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    /// By URL and size.
    entries: HashMap<(String, u64), Entry>,
    bytes: u64,
    /// Counts uses.
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    version: String,
    footer: Arc<dyn Any + Send + Sync>,
    bytes: u64,
    used: u64,
}

impl FooterCache {
    /// The version of the file of `size` bytes at `url` whose footer is kept; asking costs nothing.
    pub(crate) fn version(&self, url: &str, size: u64) -> Option<String> {
        let entries = self.lock();
        let entry = entries.entries.get(&(url.to_owned(), size))?;
        Some(entry.version.clone())
    }

    /// The footer of that version of a file.
    pub(crate) fn get<T: Any + Send + Sync>(
        &self,
        url: &str,
        size: u64,
        version: &str,
    ) -> Option<Arc<T>> {
        let mut entries = self.lock();
        entries.clock += 1;
        let now = entries.clock;
        let entry = entries.entries.get_mut(&(url.to_owned(), size))?;
        if entry.version != version {
            return None;
        }
        entry.used = now;
        Arc::clone(&entry.footer).downcast().ok()
    }

    /// Keeps a footer that takes `bytes` bytes, in place of other versions of the file.
    pub(crate) fn put<T: Any + Send + Sync>(
        &self,
        url: &str,
        size: u64,
        version: String,
        footer: Arc<T>,
        bytes: u64,
    ) {
        let mut entries = self.lock();
        entries.clock += 1;
        let entry = Entry {
            version,
            footer,
            bytes,
            used: entries.clock,
        };
        entries.bytes += bytes;
        if let Some(old) = entries.entries.insert((url.to_owned(), size), entry) {
            entries.bytes -= old.bytes;
        }
        entries.shrink();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    /// Drops what was used longest ago, a quarter of the bytes at once: finding it costs a look at
    /// every entry.
    fn shrink(&mut self) {
        if self.bytes <= limits::FOOTER_CACHE_BYTES {
            return;
        }
        let mut uses: Vec<(u64, u64)> = self
            .entries
            .values()
            .map(|entry| (entry.used, entry.bytes))
            .collect();
        uses.sort_unstable_by(|a, b| b.cmp(a));
        let mut kept = 0;
        let recent = uses.into_iter().take_while(|(_, bytes)| {
            kept += bytes;
            kept <= limits::FOOTER_CACHE_BYTES / 4 * 3
        });
        let oldest = recent.last().map_or(u64::MAX, |(used, _)| used);
        self.entries.retain(|_, entry| entry.used >= oldest);
        self.bytes = self.entries.values().map(|entry| entry.bytes).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_footer_is_kept_for_one_version_of_a_file() {
        let cache = FooterCache::default();
        cache.put("a", 10, "v1".into(), Arc::new(1_u32), 100);
        assert_eq!(cache.get("a", 10, "v1").as_deref(), Some(&1_u32));
        assert_eq!(cache.get::<u32>("a", 10, "v2"), None);
        assert_eq!(cache.get::<u32>("a", 11, "v1"), None);
        cache.put("a", 10, "v2".into(), Arc::new(2_u32), 100);
        assert_eq!(cache.get("a", 10, "v2").as_deref(), Some(&2_u32));
        assert_eq!(cache.version("a", 10).as_deref(), Some("v2"));
        assert_eq!(cache.lock().bytes, 100);
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let cache = FooterCache::default();
        let bytes = limits::FOOTER_CACHE_BYTES / 8;
        for file in 0..8_u32 {
            cache.put(&file.to_string(), 1, "v".into(), Arc::new(file), bytes);
        }
        assert_eq!(cache.get("0", 1, "v").as_deref(), Some(&0_u32));
        cache.put("8", 1, "v".into(), Arc::new(8_u32), bytes);
        assert!(cache.lock().bytes <= limits::FOOTER_CACHE_BYTES);
        assert_eq!(cache.get("0", 1, "v").as_deref(), Some(&0_u32));
        assert_eq!(cache.get("8", 1, "v").as_deref(), Some(&8_u32));
        assert_eq!(cache.get::<u32>("1", 1, "v"), None);
    }

    #[test]
    fn a_footer_larger_than_the_cache_is_not_kept() {
        let cache = FooterCache::default();
        let bytes = limits::FOOTER_CACHE_BYTES + 1;
        cache.put("a", 1, "v".into(), Arc::new(1_u32), bytes);
        assert_eq!(cache.get::<u32>("a", 1, "v"), None);
        assert_eq!(cache.lock().bytes, 0);
    }
}
