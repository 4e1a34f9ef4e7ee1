//! One object store per scheme and authority, made when first asked for.
//!
//! Settings and credentials of remote stores come from the environment variables that their own
//! tools use (`AWS_…`, `GOOGLE_…`, `AZURE_…`).

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreScheme};
use url::Url;

use super::location::{decode, local_path};
use super::remote::{self, Remote};
use super::{FooterCache, StoreSettings};
use crate::error::{Error, Result};

/// The stores that a process has reached so far.
#[derive(Debug)]
pub struct Stores {
    stores: Mutex<HashMap<String, Remote>>,
    settings: StoreSettings,
    footers: FooterCache,
}

impl Default for Stores {
    fn default() -> Self {
        Stores::new()
    }
}

impl Stores {
    /// Local files and one empty in-memory store; the others are made when first asked for, with
    /// the settings of this process.
    pub fn new() -> Self {
        Stores::with_settings(StoreSettings::default())
    }

    /// The same with other settings for remote stores.
    pub fn with_settings(settings: StoreSettings) -> Self {
        let stores = Stores {
            stores: Mutex::default(),
            settings,
            footers: FooterCache::default(),
        };
        stores.insert("file://", Arc::new(LocalFileSystem::new()));
        stores.insert_multipart("memory://", Arc::new(InMemory::new()));
        stores
    }

    /// Uses `store` for every URL that shares scheme and authority with `url`: how tests put a
    /// faulty store in a good one's place. Large local files are written without a store.
    pub fn insert(&self, url: &str, store: Arc<dyn ObjectStore>) {
        let store = Remote {
            store,
            multipart: None,
        };
        self.lock().insert(cache_key(url).to_owned(), store);
    }

    /// The same for a store that takes uploads in parts from whoever knows their ids.
    pub fn insert_multipart<S: ObjectStore + MultipartStore>(&self, url: &str, store: Arc<S>) {
        let store = Remote::both(store);
        self.lock().insert(cache_key(url).to_owned(), store);
    }

    /// The store that holds `url`, and the path there.
    ///
    /// # Errors
    /// `Invalid` for a URL that [`super::parse_location`] would not make, for a name that the
    /// store cannot hold, and for settings that are missing or wrong.
    pub fn get(&self, url: &str) -> Result<(Arc<dyn ObjectStore>, Path)> {
        let (found, path) = self.find(url)?;
        Ok((found.store, path))
    }

    /// The same store's interface for uploads in parts that one process begins and another
    /// completes; none where there is no such thing, as for local files.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    pub fn multipart(&self, url: &str) -> Result<Option<(Arc<dyn MultipartStore>, Path)>> {
        let (found, path) = self.find(url)?;
        Ok(found.multipart.map(|store| (store, path)))
    }

    fn find(&self, url: &str) -> Result<(Remote, Path)> {
        let path = object_path(url)?;
        let key = cache_key(url);
        if let Some(found) = self.lock().get(key) {
            return Ok((found.clone(), path));
        }
        let made = remote::open(&parse(url)?, &self.settings)?;
        // Two threads may get here at once: the first store stays, so that all share its
        // connections.
        let shared = self.lock().entry(key.to_owned()).or_insert(made).clone();
        Ok((shared, path))
    }

    /// Footers of input files that were decoded in this process.
    pub fn footers(&self) -> &FooterCache {
        &self.footers
    }

    /// The path of a URL that names a file of this machine: who reads such a file need not ask a
    /// store for it. The same as [`local_path`].
    pub fn local_path(url: &str) -> Option<PathBuf> {
        local_path(url)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Remote>> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Scheme and authority. On the web the bucket may be the first part of the path, so it counts.
fn cache_key(url: &str) -> &str {
    let start = url.find("://").map_or(0, |at| at + 3);
    let authority = url[start..].find('/').map_or(url.len(), |at| start + at);
    if !url.starts_with("http") {
        return &url[..authority];
    }
    let bucket = url.get(authority + 1..).and_then(|path| path.find('/'));
    &url[..bucket.map_or(authority, |at| authority + 1 + at)]
}

/// The path as the store knows it: names as they are, not as a URL spells them.
fn object_path(url: &str) -> Result<Path> {
    let invalid = |error: object_store::path::Error| {
        Error::invalid(format!("not a valid name in storage url={url}")).with_source(error)
    };
    if let Some(path) = local_path(url) {
        let name = path
            .to_str()
            .ok_or_else(|| Error::invalid(format!("the name is not valid UTF-8 url={url}")))?;
        return Path::parse(name).map_err(invalid);
    }
    if let Some(path) = url.strip_prefix("memory://") {
        return Path::parse(String::from_utf8_lossy(&decode(path))).map_err(invalid);
    }
    let (_, path) = ObjectStoreScheme::parse(&parse(url)?).map_err(|error| {
        Error::invalid(format!("no store holds this URL url={url}")).with_source(error)
    })?;
    Ok(path)
}

fn parse(url: &str) -> Result<Url> {
    Url::parse(url)
        .map_err(|error| Error::invalid(format!("not a URL url={url}")).with_source(error))
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;

    use super::*;
    use crate::error::ErrorKind;
    use crate::storage::local_url;

    #[tokio::test]
    async fn local_files_of_any_name_are_found() {
        let stores = Stores::new();
        let directory = tempfile::tempdir().expect("a temporary directory");
        for name in [
            "a b",
            "50%",
            "%41",
            "#",
            "x#y",
            "é\u{1F600}",
            "a*",
            "[x]",
            "{",
            "?",
            "a\\b",
        ] {
            let file = directory.path().join(name);
            std::fs::write(&file, name).expect("a file");
            let (store, path) = stores.get(&local_url(&file)).expect("a store");
            let bytes = store
                .get(&path)
                .await
                .expect(name)
                .bytes()
                .await
                .expect(name);
            assert_eq!(bytes, name);
        }
    }

    #[tokio::test]
    async fn memory_is_shared_and_other_stores_are_kept() {
        let stores = Stores::new();
        let (store, path) = stores.get("memory:///a/b%20c").expect("a store");
        assert_eq!(path.as_ref(), "a/b c");
        store.put(&path, "x".into()).await.expect("a put");
        let (again, _) = stores.get("memory:///other").expect("a store");
        assert!(again.head(&path).await.is_ok());
        for (url, name) in [
            ("s3://bucket/x%20y/z", "x y/z"),
            ("https://example.com/x%20y/z", "x y/z"),
        ] {
            let (first, path) = stores.get(url).expect(url);
            let (second, _) = stores.get(url).expect(url);
            assert!(
                path.as_ref() == name && Arc::ptr_eq(&first, &second),
                "{url}"
            );
        }
    }

    #[test]
    fn the_key_is_scheme_and_authority() {
        for (url, key) in [
            ("file:///a/b", "file://"),
            ("memory:///a", "memory://"),
            ("s3://bucket/a/b", "s3://bucket"),
            ("s3://bucket", "s3://bucket"),
            ("https://host/bucket/key", "https://host/bucket"),
            ("https://host/key", "https://host"),
        ] {
            assert_eq!(cache_key(url), key);
        }
    }

    #[test]
    fn what_no_store_holds_is_invalid() {
        let stores = Stores::new();
        for url in [
            "nonsense",
            "hdfs://host/x",
            "file:///a/%FF",
            "memory:///a//b",
        ] {
            let error = stores.get(url).expect_err(url);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
            assert!(error.message().contains(url), "{}", error.report());
        }
    }
}
