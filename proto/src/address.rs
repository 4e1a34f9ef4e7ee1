//! Where drivers listen: the list of URLs that clients and executors are given.
//!
//! One driver of a cluster leads and the others stand by, and which one does changes, so whoever
//! needs it has to know all of them.

use std::fmt;
use std::str::FromStr;

use kiln_engine::{Error, Result};

/// Most drivers in a list; more than a few standbys are of no use.
pub const DRIVERS_MAX: usize = 16;

/// The URLs of the drivers of one cluster, of which there is at least one:
/// `http://one:7440,http://two:7440`. Without a scheme a URL is taken for `http://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drivers(Vec<String>);

impl Drivers {
    /// The URLs in the order in which they were given.
    pub fn urls(&self) -> &[String] {
        &self.0
    }
}

impl FromStr for Drivers {
    type Err = Error;

    fn from_str(list: &str) -> Result<Self> {
        let mut urls: Vec<String> = Vec::new();
        for part in list.split(',') {
            let url = url(part.trim(), list)?;
            if urls.contains(&url) {
                let text = format!("a driver is named twice url={url} drivers={list:?}");
                return Err(Error::invalid(text));
            }
            urls.push(url);
        }
        if urls.len() > DRIVERS_MAX {
            let text = format!(
                "too many drivers drivers={} drivers_max={DRIVERS_MAX}",
                urls.len()
            );
            return Err(Error::invalid(text));
        }
        Ok(Drivers(urls))
    }
}

impl fmt::Display for Drivers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

/// One URL of `list`, with its scheme.
fn url(text: &str, list: &str) -> Result<String> {
    if text.is_empty() {
        let text = match list.contains(',') {
            true => format!("a list of drivers with nothing between two commas: {list:?}"),
            false => "no driver's URL is given".to_owned(),
        };
        return Err(Error::invalid(text));
    }
    let (host, url) = match text.split_once("://") {
        None => (text, format!("http://{text}")),
        Some(("http", host)) => (host, text.to_owned()),
        Some(_) => {
            let text = format!("not a driver's URL, which is like http://host:port: {text:?}");
            return Err(Error::invalid(text));
        }
    };
    let is_address = !host.is_empty() && !host.contains(|c: char| c.is_whitespace());
    match url.parse::<tonic::transport::Uri>() {
        Ok(uri) if is_address && uri.host().is_some_and(|host| !host.is_empty()) => Ok(url),
        Ok(_) => Err(Error::invalid(format!("not a driver's URL: {text:?}"))),
        Err(error) => {
            let text = format!("not a driver's URL: {text:?}");
            Err(Error::invalid(text).with_source(error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a list of URLs is read as, or why not.
    fn check(list: &str, expected: &str) {
        let read = list.parse::<Drivers>();
        let read = read.map_or_else(|error| error.message().to_owned(), |all| all.to_string());
        assert_eq!(read, expected, "{list:?}");
    }

    #[test]
    fn lists_are_split_at_commas_and_get_their_scheme() {
        check("http://one:7440", "http://one:7440");
        check("one:7440", "http://one:7440");
        check("one:1, http://two:2", "http://one:1,http://two:2");
        check("[::1]:7440,localhost", "http://[::1]:7440,http://localhost");
    }

    #[test]
    fn what_is_no_list_of_drivers_is_refused_with_its_reason() {
        check("", "no driver's URL is given");
        check(
            "one:1,,two:2",
            "a list of drivers with nothing between two commas: \"one:1,,two:2\"",
        );
        check(
            "one:1,",
            "a list of drivers with nothing between two commas: \"one:1,\"",
        );
        check(
            "one:1,http://one:1",
            "a driver is named twice url=http://one:1 drivers=\"one:1,http://one:1\"",
        );
        check(
            "one:1,ftp://two:2",
            "not a driver's URL, which is like http://host:port: \"ftp://two:2\"",
        );
        check("http://", "not a driver's URL: \"http://\"");
        check("one:1 two:2", "not a driver's URL: \"one:1 two:2\"");
        let many: Vec<String> = (0..17).map(|n| format!("host:{n}")).collect();
        check(
            &many.join(","),
            "too many drivers drivers=17 drivers_max=16",
        );
    }
}
