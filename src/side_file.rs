//! [`SideFile`]: a small file that every task can look into.

use std::collections::HashMap;
use std::fmt;
use std::str;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use bytes::Bytes;
use kiln_engine::storage::{Stores, parse_location, storage_error};
use kiln_engine::{Error, Result, limits};
use object_store::ObjectStoreExt as _;

use crate::runtime::Runtime;

/// A file that functions look into beside their arguments, read as a whole: a list of words to
/// leave out, a table of prices, a model.
///
/// It may be opened wherever functions are made, which every worker process on a cluster does
/// too: before [`App::run`](crate::App::run), or from a path among the parameters of a function.
/// A process reads a file once, however many functions open it, and keeps it as long as one of
/// them has it. On a cluster it has to be where every executor can read it.
///
/// ```
/// use kiln::{ScalarFunction, SideFile, Session, col};
///
/// # std::env::set_current_dir(env!("CARGO_MANIFEST_DIR"))?;
/// let known = ScalarFunction::with("known", |managers: String| {
///     let managers = SideFile::open(&managers).expect("a list of managers");
///     move |region: &str| -> kiln::Result<bool> {
///         Ok(managers.text()?.lines().any(|line| line.starts_with(region)))
///     }
/// });
/// let known = known.with(&"examples/data/managers.csv".to_owned())?;
/// let sales = Session::local()?.read_csv("examples/data/sales.csv")?;
/// assert!(sales.filter(known.call([col("region")]))?.count()? > 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct SideFile(Arc<Content>);

struct Content {
    url: String,
    bytes: Bytes,
}

/// The files that somebody of this process holds, by URL.
static OPEN: LazyLock<Mutex<HashMap<String, Weak<Content>>>> = LazyLock::new(Mutex::default);

impl SideFile {
    /// Reads the file at a path or URL, unless this process has it.
    ///
    /// # Errors
    /// `Invalid` if there is none or it is too large, `Unavailable` if it cannot be read.
    pub fn open(location: &str) -> Result<Self> {
        let url = parse_location(location)?;
        // Whoever comes second waits for the first: it is read once.
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(content) = open.get(&url).and_then(Weak::upgrade) {
            return Ok(SideFile(content));
        }
        let bytes = Runtime::start()?.wait(read(url.clone()))?;
        let content = Arc::new(Content {
            url: url.clone(),
            bytes,
        });
        open.retain(|_, content| content.strong_count() > 0);
        open.insert(url, Arc::downgrade(&content));
        Ok(SideFile(content))
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// Its bytes as text.
    ///
    /// # Errors
    /// `Invalid` if they are not UTF-8.
    pub fn text(&self) -> Result<&str> {
        str::from_utf8(self.bytes()).map_err(|error| {
            let text = format!("a side file is not UTF-8 url={}", self.0.url);
            Error::invalid(text).with_source(error)
        })
    }
}

impl fmt::Debug for SideFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SideFile({} bytes={})", self.0.url, self.0.bytes.len())
    }
}

async fn read(url: String) -> Result<Bytes> {
    let (store, path) = Stores::new().get(&url)?;
    let failed = |error| storage_error("read", &url, error);
    let found = store.get(&path).await.map_err(failed)?;
    let bytes = found.meta.size;
    if bytes > limits::SIDE_FILE_BYTES_MAX {
        return Err(Error::invalid(format!(
            "a side file is too large for every process to hold, join it instead url={url} \
             bytes={bytes} bytes_max={}",
            limits::SIDE_FILE_BYTES_MAX
        )));
    }
    found.bytes().await.map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::Arc;

    use expect_test::expect;

    use super::SideFile;

    #[test]
    fn a_file_is_read_once_while_it_is_held() {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(b"one").expect("room for it");
        let path = file.path().display().to_string();
        let first = SideFile::open(&path).expect("it is there");
        file.write_all(b" two").expect("room for it");
        let second = SideFile::open(&path).expect("it is held");
        assert!(Arc::ptr_eq(&first.0, &second.0));
        assert_eq!(second.text().expect("text"), "one");
        drop((first, second));
        let third = SideFile::open(&path).expect("it is there");
        assert_eq!(third.bytes(), b"one two");
    }

    #[test]
    fn what_cannot_be_a_side_file_is_told() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = |name: &str| directory.path().join(name).display().to_string();
        std::fs::write(path("latin"), b"caf\xe9").expect("room for it");
        let sparse = std::fs::File::create(path("large")).expect("a file");
        sparse.set_len(2 << 30).expect("a file without blocks");
        let latin = SideFile::open(&path("latin")).expect("it is there");
        let mut told = vec![latin.text().expect_err("not UTF-8").report()];
        for name in ["none", "large"] {
            told.push(SideFile::open(&path(name)).expect_err(name).report());
        }
        let told = told
            .join("\n")
            .replace(&directory.path().display().to_string(), "");
        expect![[r#"
            a side file is not UTF-8 url=file:///latin: incomplete utf-8 byte sequence from index 3
            cannot read file:///none: no such file or directory
            a side file is too large for every process to hold, join it instead url=file:///large bytes=2147483648 bytes_max=268435456"#]].assert_eq(&told);
    }
}
