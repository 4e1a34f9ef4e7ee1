//! Which files a job reads.
//!
//! A location is a file, a directory (every file below it) or a pattern; the answer is sorted by
//! path, so that a job's plan depends on what is there and not on the order in which a file
//! system tells it. Names that begin with `_` or `.` are bookkeeping, and skipped below a
//! directory. Local directories are walked directly: asking an object store for each of 60,000
//! files costs more than reading them.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use futures::TryStreamExt;
use globset::{GlobBuilder, GlobMatcher};
use object_store::{ObjectStore, ObjectStoreExt};

use super::fault::file_error;
use super::location::{decode, encode, escape_at, is_glob, is_http, local_path, local_url};
use super::{Stores, storage_error};
use crate::error::{Error, Result};
use crate::limits;
use crate::plan::FileMeta;

/// The files at `locations`, URLs as [`super::parse_location`] makes them: those of each location
/// in turn, sorted by path. A file named twice is listed twice.
///
/// # Errors
/// `Invalid`, naming the location: nothing there, no files in it, no match, not readable, more
/// than [`limits::INPUT_FILES_MAX`] files. `Unavailable` when the store does not answer.
pub async fn list_files(stores: &Stores, locations: &[String]) -> Result<Vec<FileMeta>> {
    let mut files = Vec::new();
    for group in locations.chunk_by(|a, b| local_path(a).is_some() == local_path(b).is_some()) {
        if local_path(&group[0]).is_some() {
            let group = group.to_vec();
            let listed = tokio::task::spawn_blocking(move || list_local(&group)).await;
            let listed = listed.map_err(|error| {
                Error::internal("listing local files failed").with_source(error)
            })?;
            files.append(&mut listed?);
        } else {
            for url in group {
                files.append(&mut list_remote(stores, url).await?);
            }
        }
        check_count(files.len(), &group[0])?;
    }
    Ok(files)
}

fn check_count(files: usize, url: &str) -> Result<()> {
    if files > limits::INPUT_FILES_MAX {
        return Err(Error::invalid(format!(
            "too many input files location={url} limit={}",
            limits::INPUT_FILES_MAX
        )));
    }
    Ok(())
}

fn no_files(url: &str) -> Error {
    Error::invalid(format!("no input files in {url}"))
}

fn no_match(url: &str) -> Error {
    Error::invalid(format!("no file matches {url}"))
}

fn hidden(name: &[u8]) -> bool {
    matches!(name.first(), Some(b'_' | b'.'))
}

// ---- local files -----------------------------------------------------------------------------

/// A file found: its path and its size.
type Found = (PathBuf, u64);

fn list_local(locations: &[String]) -> Result<Vec<FileMeta>> {
    let mut files = Vec::new();
    for url in locations {
        let mut found = Vec::new();
        if is_glob(url) {
            let pattern = Pattern::parse(url)?;
            let base = local_path(&pattern.base).unwrap_or_default();
            if base.is_dir() {
                match_directory(&pattern, &base, b"", &mut found)?;
            }
            if found.is_empty() {
                return Err(no_match(url));
            }
        } else {
            list_path(url, &mut found)?;
        }
        // Siblings come in the order of their bytes, a directory's files where its name falls.
        found.sort_unstable_by(|(a, _), (b, _)| {
            a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes())
        });
        files.extend(
            found.into_iter().map(|(path, bytes)| FileMeta { url: local_url(&path), bytes }),
        );
    }
    Ok(files)
}

fn list_path(url: &str, found: &mut Vec<Found>) -> Result<()> {
    let path = local_path(url).unwrap_or_default();
    let meta = path.metadata().map_err(|error| file_error("read", url, error))?;
    if meta.is_dir() {
        walk(&path, &mut Vec::new(), found)?;
        return if found.is_empty() { Err(no_files(url)) } else { Ok(()) };
    }
    if !meta.is_file() {
        return Err(Error::invalid(format!("cannot read {url}: not a regular file")));
    }
    found.push((path, meta.len()));
    Ok(())
}

/// Finds every file below `directory`. Links are followed; `above` holds the directories on the
/// way here, by device and inode, so that a link to one of them is not walked for ever.
fn walk(directory: &Path, above: &mut Vec<(u64, u64)>, found: &mut Vec<Found>) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let failed = |error| file_error("list", &local_url(directory), error);
    let meta = directory.metadata().map_err(failed)?;
    let identity = (meta.dev(), meta.ino());
    if above.contains(&identity) {
        return Ok(());
    }
    above.push(identity);
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if hidden(entry.file_name().as_bytes()) {
            continue;
        }
        match Kind::of(&entry)? {
            Kind::File(bytes) => found.push((entry.path(), bytes)),
            Kind::Directory => walk(&entry.path(), above, found)?,
            Kind::Other => {}
        }
        check_count(found.len(), &local_url(directory))?;
    }
    above.pop();
    Ok(())
}

enum Kind {
    File(u64),
    Directory,
    /// A pipe, a socket, a device, or a link to nothing.
    Other,
}

impl Kind {
    fn of(entry: &std::fs::DirEntry) -> Result<Kind> {
        let failed = |error| file_error("read", &local_url(&entry.path()), error);
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() {
            return Ok(Kind::Directory);
        }
        let meta = if kind.is_symlink() { entry.path().metadata() } else { entry.metadata() };
        Ok(match meta {
            Ok(meta) if meta.is_file() => Kind::File(meta.len()),
            Ok(meta) if meta.is_dir() => Kind::Directory,
            Ok(_) => Kind::Other,
            // Deleted since it was listed, or a link to nothing: there is nothing to read.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Kind::Other,
            Err(error) => return Err(failed(error)),
        })
    }
}

/// Finds what matches below `directory`, whose path below the pattern's base is `relative`.
fn match_directory(
    pattern: &Pattern,
    directory: &Path,
    relative: &[u8],
    found: &mut Vec<Found>,
) -> Result<()> {
    let failed = |error| file_error("list", &local_url(directory), error);
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if hidden(name.as_bytes()) && !pattern.hidden {
            continue;
        }
        let mut below = relative.to_vec();
        if !below.is_empty() {
            below.push(b'/');
        }
        below.extend_from_slice(name.as_bytes());
        let matched = pattern.matches(&below);
        match Kind::of(&entry)? {
            Kind::File(bytes) if matched => found.push((entry.path(), bytes)),
            Kind::Directory if matched => walk(&entry.path(), &mut Vec::new(), found)?,
            // A link is not followed on the way to a match: `**` would go round in circles.
            Kind::Directory
                if pattern.may_match_below(&below) && !is_link_to_any(pattern, &entry) =>
            {
                match_directory(pattern, &entry.path(), &below, found)?;
            }
            _ => {}
        }
        check_count(found.len(), &local_url(directory))?;
    }
    Ok(())
}

fn is_link_to_any(pattern: &Pattern, entry: &std::fs::DirEntry) -> bool {
    pattern.any_depth && entry.file_type().is_ok_and(|kind| kind.is_symlink())
}

// ---- patterns --------------------------------------------------------------------------------

/// A glob, cut into the directory that it starts from and what to match below it.
struct Pattern {
    /// URL of the directory.
    base: String,
    whole: GlobMatcher,
    /// Matchers of the first 1, 2, … components: where to look further. Empty where a component
    /// cannot be told from the next.
    levels: Vec<GlobMatcher>,
    /// The pattern names hidden files.
    hidden: bool,
    /// Matches may lie at any depth.
    any_depth: bool,
}

impl Pattern {
    fn parse(url: &str) -> Result<Pattern> {
        let at = url.find(['*', '?', '[', '{']).unwrap_or(url.len());
        let cut = url[..at].rfind('/').map_or(at, |slash| slash + 1);
        let (base, tail) = url.split_at(cut);
        let matcher = |glob: &str| {
            let mut builder = GlobBuilder::new(glob);
            builder.literal_separator(true).backslash_escape(false);
            builder.build().map(|glob| glob.compile_matcher()).map_err(|error| {
                Error::invalid(format!("not a valid pattern location={url}"))
                    .with_source(error.kind().to_string())
            })
        };
        let glob = glob_text(tail);
        let components: Vec<&str> = glob.split('/').collect();
        let any_depth = components.iter().any(|component| component.contains("**"));
        // A brace that spans a slash has no meaning per component.
        let plain = components.iter().all(|part| {
            part.matches('{').count() == part.matches('}').count()
                && part.matches('[').count() <= part.matches(']').count()
        });
        let levels = if plain && !any_depth {
            let prefixes = 1..components.len();
            prefixes.map(|end| matcher(&components[..end].join("/"))).collect::<Result<_>>()?
        } else {
            Vec::new()
        };
        Ok(Pattern {
            base: base.to_owned(),
            whole: matcher(&glob)?,
            hidden: components.iter().any(|component| hidden(component.as_bytes())),
            any_depth: any_depth || !plain,
            levels,
        })
    }

    fn matches(&self, relative: &[u8]) -> bool {
        self.whole.is_match(Path::new(std::ffi::OsStr::from_bytes(relative)))
    }

    fn may_match_below(&self, relative: &[u8]) -> bool {
        let depth = relative.iter().filter(|&&byte| byte == b'/').count();
        self.any_depth
            || self.levels.get(depth).is_some_and(|level| {
                level.is_match(Path::new(std::ffi::OsStr::from_bytes(relative)))
            })
    }
}

/// The pattern with its escapes undone: a character that was encoded means itself.
fn glob_text(tail: &str) -> String {
    let bytes = tail.as_bytes();
    let mut glob = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match escape_at(bytes, at) {
            Some(byte @ (b'*' | b'?' | b'[' | b']' | b'{' | b'}')) => {
                glob.extend_from_slice(&[b'[', byte, b']']);
                at += 3;
            }
            Some(byte) => {
                glob.push(byte);
                at += 3;
            }
            None => {
                glob.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&glob).into_owned()
}

// ---- other stores ----------------------------------------------------------------------------

async fn list_remote(stores: &Stores, url: &str) -> Result<Vec<FileMeta>> {
    if is_glob(url) {
        let pattern = Pattern::parse(url)?;
        let all = list_prefix(stores, &pattern.base, pattern.hidden).await?;
        let start = pattern.base.len();
        let matching = |file: &FileMeta| {
            let relative = decode(&file.url[start.min(file.url.len())..]);
            let ends = relative.iter().enumerate().filter(|(_, byte)| **byte == b'/');
            pattern.matches(&relative)
                || ends.into_iter().any(|(end, _)| pattern.matches(&relative[..end]))
        };
        let files: Vec<FileMeta> = all.into_iter().filter(matching).collect();
        return if files.is_empty() { Err(no_match(url)) } else { Ok(files) };
    }
    let (store, path) = stores.get(url)?;
    if !path.is_root() {
        match store.head(&path).await {
            Ok(meta) => return Ok(vec![FileMeta { url: url.to_owned(), bytes: meta.size }]),
            Err(object_store::Error::NotFound { .. }) if !is_http(url) => {}
            Err(error) => return Err(storage_error("read", url, error)),
        }
    }
    let base = format!("{}/", url.trim_end_matches('/'));
    let files = list_prefix(stores, &base, false).await?;
    if !files.is_empty() {
        return Ok(files);
    }
    let (missing, empty) = ("no such file or directory", no_files(url));
    let mut any = store.list(Some(&path));
    match any.try_next().await {
        Ok(None) if !path.is_root() => Err(Error::invalid(format!("cannot read {url}: {missing}"))),
        Ok(_) => Err(empty),
        Err(error) => Err(storage_error("list", url, error)),
    }
}

/// Every object below `base`, which ends with a slash, sorted; hidden names only on demand.
async fn list_prefix(stores: &Stores, base: &str, all: bool) -> Result<Vec<FileMeta>> {
    let (store, prefix) = stores.get(base)?;
    let failed = |error| storage_error("list", base, error);
    let mut objects = Vec::new();
    let mut listing = store.list((!prefix.is_root()).then_some(&prefix));
    while let Some(meta) = listing.try_next().await.map_err(failed)? {
        let Some(parts) = meta.location.prefix_match(&prefix) else { continue };
        let names: Vec<String> = parts.map(|part| part.as_ref().to_owned()).collect();
        if all || !names.iter().any(|name| hidden(name.as_bytes())) {
            objects.push((names.join("/"), meta.size));
        }
        check_count(objects.len(), base)?;
    }
    objects.sort_unstable();
    let file = |(name, bytes): (String, u64)| FileMeta {
        url: format!("{base}{}", encode(name.as_bytes(), b"")),
        bytes,
    };
    Ok(objects.into_iter().map(file).collect())
}
