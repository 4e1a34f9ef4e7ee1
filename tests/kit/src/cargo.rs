//! Where cargo has put what it built for a test.

use std::path::{Path, PathBuf};

/// The folder that cargo builds into, as `target`.
pub fn target() -> PathBuf {
    above_test(3)
}

/// The binary of an example, which cargo builds before it runs tests.
pub fn example(name: &str) -> PathBuf {
    above_test(2).join("examples").join(name)
}

/// So many folders above the test that runs, which is `target/PROFILE/deps/NAME`.
fn above_test(levels: usize) -> PathBuf {
    let test = std::env::current_exe().expect("this is a process");
    let above = test.ancestors().nth(levels).map(Path::to_owned);
    above.expect("cargo's folders")
}
