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
use object_store::{ObjectStore, ObjectStoreExt};

use super::fault::file_error;
use super::location::{decode, encode, is_glob, is_http, local_path, local_url};
use super::pattern::{Pattern, hidden};
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

/// A file found: its path and its size.
type Found = (PathBuf, u64);

fn list_local(locations: &[String]) -> Result<Vec<FileMeta>> {
    let mut files = Vec::new();
    for url in locations {
        let mut found = Vec::new();
        if is_glob(url) {
            let pattern = Pattern::parse(url)?;
            let base = local_path(pattern.base()).unwrap_or_default();
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
        files.extend(found.into_iter().map(|(path, bytes)| FileMeta {
            url: local_url(&path),
            bytes,
        }));
    }
    Ok(files)
}

fn list_path(url: &str, found: &mut Vec<Found>) -> Result<()> {
    let path = local_path(url).unwrap_or_default();
    let meta = path
        .metadata()
        .map_err(|error| file_error("read", url, error))?;
    if meta.is_dir() {
        walk(&path, &mut Vec::new(), found)?;
        return if found.is_empty() {
            Err(no_files(url))
        } else {
            Ok(())
        };
    }
    if !meta.is_file() {
        return Err(Error::invalid(format!(
            "cannot read {url}: not a regular file"
        )));
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
        let meta = if kind.is_symlink() {
            entry.path().metadata()
        } else {
            entry.metadata()
        };
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
        if hidden(name.as_bytes()) && !pattern.names_hidden() {
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
            Kind::Directory
                if pattern.may_match_below(&below) && !leads_astray(pattern, &entry) =>
            {
                match_directory(pattern, &entry.path(), &below, found)?;
            }
            _ => {}
        }
        check_count(found.len(), &local_url(directory))?;
    }
    Ok(())
}

/// A link is not followed where matches may lie at any depth: it could lead round in circles.
fn leads_astray(pattern: &Pattern, entry: &std::fs::DirEntry) -> bool {
    pattern.any_depth() && entry.file_type().is_ok_and(|kind| kind.is_symlink())
}

async fn list_remote(stores: &Stores, url: &str) -> Result<Vec<FileMeta>> {
    if is_glob(url) {
        let pattern = Pattern::parse(url)?;
        let all = list_prefix(stores, pattern.base(), pattern.names_hidden()).await?;
        let start = pattern.base().len();
        let matching = |file: &FileMeta| {
            let relative = decode(&file.url[start.min(file.url.len())..]);
            let ends = relative
                .iter()
                .enumerate()
                .filter(|(_, byte)| **byte == b'/');
            pattern.matches(&relative)
                || ends
                    .into_iter()
                    .any(|(end, _)| pattern.matches(&relative[..end]))
        };
        let files: Vec<FileMeta> = all.into_iter().filter(matching).collect();
        return if files.is_empty() {
            Err(no_match(url))
        } else {
            Ok(files)
        };
    }
    let (store, path) = stores.get(url)?;
    if !path.is_root() {
        match store.head(&path).await {
            Ok(meta) => {
                return Ok(vec![FileMeta {
                    url: url.to_owned(),
                    bytes: meta.size,
                }]);
            }
            Err(object_store::Error::NotFound { .. }) if !is_http(url) => {}
            Err(error) => return Err(storage_error("read", url, error)),
        }
    }
    let base = if url.ends_with('/') {
        url.to_owned()
    } else {
        format!("{url}/")
    };
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
        let Some(parts) = meta.location.prefix_match(&prefix) else {
            continue;
        };
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use object_store::path::Path as ObjectPath;
    use tempfile::TempDir;

    use super::*;
    use crate::error::ErrorKind;
    use crate::storage::parse_location;

    /// A directory of files that each hold their own name.
    fn tree(files: &[&str]) -> TempDir {
        let root = tempfile::tempdir().expect("a directory");
        for name in files {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
            std::fs::write(path, name).expect("a file");
        }
        root
    }

    /// What is listed at each of `locations` below `root`: relative paths, or the error.
    async fn listed(root: &Path, locations: &[&str]) -> String {
        let root = root.to_str().expect("UTF-8");
        let typed = |location: &&str| parse_location(&format!("{root}/{location}"));
        let urls: Result<Vec<String>> = locations.iter().map(typed).collect();
        let answer = list_files(&Stores::new(), &urls.expect("locations")).await;
        let relative = |file: FileMeta| {
            let path = local_path(&file.url).expect("a local file");
            let name = path
                .strip_prefix(root)
                .expect("below the root")
                .to_str()
                .map(str::to_owned);
            let name = name.expect("UTF-8");
            assert_eq!(
                file.bytes,
                path.metadata().expect("it exists").len(),
                "{name}"
            );
            name
        };
        match answer {
            Ok(files) => files
                .into_iter()
                .map(relative)
                .collect::<Vec<_>>()
                .join(" "),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Invalid);
                error.report().replace(&local_url(Path::new(root)), "ROOT")
            }
        }
    }

    #[tokio::test]
    async fn files_directories_and_patterns_are_listed_in_order() {
        let root = tree(&[
            "a/2.txt",
            "a/10.txt",
            "a/b/c/deep.txt",
            "a/b.csv",
            "a/_SUCCESS",
            "a/.part.crc",
            "a/_temporary/x.txt",
            "a[1]/x.txt",
            "é f/#1.txt",
            "z.txt",
            "h/_log/a.txt",
        ]);
        std::fs::create_dir(root.path().join("empty")).expect("a directory");
        let cases = [
            ("z.txt", "z.txt"),
            ("a", "a/10.txt a/2.txt a/b.csv a/b/c/deep.txt"),
            ("a/", "a/10.txt a/2.txt a/b.csv a/b/c/deep.txt"),
            ("a/_SUCCESS", "a/_SUCCESS"),
            ("h/_log", "h/_log/a.txt"),
            ("a/*.txt", "a/10.txt a/2.txt"),
            ("a/?.txt", "a/2.txt"),
            ("a/[0-9].txt", "a/2.txt"),
            ("a/*.{txt,csv}", "a/10.txt a/2.txt a/b.csv"),
            ("{a,é f}/*.txt", "a/10.txt a/2.txt é f/#1.txt"),
            ("{a/b.csv,z.txt}", "a/b.csv z.txt"),
            (
                "**/*.txt",
                "a/10.txt a/2.txt a/b/c/deep.txt a[1]/x.txt z.txt é f/#1.txt",
            ),
            ("a/**/deep.txt", "a/b/c/deep.txt"),
            ("a/b*", "a/b.csv a/b/c/deep.txt"),
            ("a/_*", "a/_SUCCESS a/_temporary/x.txt"),
            ("a[1]", "a[1]/x.txt"),
            ("a[1]/*", "a[1]/x.txt"),
            ("é f/#*", "é f/#1.txt"),
            (
                "none.txt",
                "cannot read ROOT/none.txt: no such file or directory",
            ),
            ("z.txt/x", "cannot read ROOT/z.txt/x: not a directory"),
            ("empty", "no input files in ROOT/empty"),
            ("h", "no input files in ROOT/h"),
            ("*.none", "no file matches ROOT/*.none"),
            ("none/*.txt", "no file matches ROOT/none/*.txt"),
            ("a/[", "not a valid pattern location=ROOT/a/["),
        ];
        for (location, expected) in cases {
            let found = listed(root.path(), &[location]).await;
            assert!(
                found == expected || (expected.contains("pattern") && found.starts_with(expected)),
                "{location}: {found}"
            );
        }
        assert_eq!(
            listed(root.path(), &["z.txt", "a/*.csv", "z.txt"]).await,
            "z.txt a/b.csv z.txt"
        );
    }

    #[tokio::test]
    async fn links_are_followed_but_not_in_circles() {
        let root = tree(&["d/x.txt", "other/y.txt"]);
        let path = |name: &str| root.path().join(name);
        symlink(path("other/y.txt"), path("d/file-link")).expect("a link");
        symlink(path("other"), path("d/link")).expect("a link");
        symlink(path("d"), path("d/loop")).expect("a link");
        symlink(path("nothing"), path("d/dangling")).expect("a link");
        assert_eq!(
            listed(root.path(), &["d"]).await,
            "d/file-link d/link/y.txt d/x.txt"
        );
        assert_eq!(listed(root.path(), &["d/**/*.txt"]).await, "d/x.txt");
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_named() {
        use std::os::unix::fs::PermissionsExt;
        let root = tree(&["open/closed/x.txt"]);
        let closed = root.path().join("open/closed");
        let allow = |mode| std::fs::set_permissions(&closed, PermissionsExt::from_mode(mode));
        allow(0o000).expect("permissions");
        let root_reads_all = std::fs::read_dir(&closed).is_ok();
        let found = listed(root.path(), &["open"]).await;
        let expected = "cannot list ROOT/open/closed: permission denied";
        assert!(found == expected || root_reads_all, "{found}");
        allow(0o700).expect("permissions");
        let null = list_files(&Stores::new(), &["file:///dev/null".to_owned()]).await;
        let error = null.expect_err("a device");
        assert_eq!(
            error.report(),
            "cannot read file:///dev/null: not a regular file"
        );
    }

    #[tokio::test]
    async fn another_store_is_listed_the_same_way() {
        let stores = Stores::new();
        let (store, _) = stores.get("memory:///").expect("a store");
        for name in [
            "in/b.txt",
            "in/a b.txt",
            "in/x/c.txt",
            "in/_log/d.txt",
            "in2/e.txt",
        ] {
            store
                .put(&ObjectPath::from(name), "1234".into())
                .await
                .expect("a put");
        }
        let cases = [
            ("in", "in/a%20b.txt in/b.txt in/x/c.txt"),
            ("in/a b.txt", "in/a%20b.txt"),
            ("in/*.txt", "in/a%20b.txt in/b.txt"),
            ("in/**/*.txt", "in/a%20b.txt in/b.txt in/x/c.txt"),
            ("i?*/[ce].txt", "in2/e.txt"),
            ("i*", "in/a%20b.txt in/b.txt in/x/c.txt in2/e.txt"),
            ("", "in/a%20b.txt in/b.txt in/x/c.txt in2/e.txt"),
            ("in/_log", "in/_log/d.txt"),
            (
                "none",
                "cannot read memory:///none: no such file or directory",
            ),
            ("in/*.csv", "no file matches memory:///in/*.csv"),
        ];
        for (location, expected) in cases {
            let url = parse_location(&format!("memory:///{location}")).expect("a location");
            let found = match list_files(&stores, &[url]).await {
                Ok(files) => {
                    assert!(files.iter().all(|file| file.bytes == 4), "{files:?}");
                    let strip = |file: FileMeta| file.url.replace("memory:///", "");
                    files.into_iter().map(strip).collect::<Vec<_>>().join(" ")
                }
                Err(error) => error.report(),
            };
            assert_eq!(found, expected, "{location}");
        }
    }
}
