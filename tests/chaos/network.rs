//! The network of a cluster: a proxy for each way between two processes, so that each process can
//! be cut off on its own.
//!
//! Namespaces of the kernel would do the same, but few machines let a test make them.

use kiln_testkit::proxy::{Network, Proxy};

use crate::fault::Cut;

/// The ways of one process that dials: to the store, and to each driver.
pub(crate) struct Ways {
    pub(crate) store: Proxy,
    pub(crate) drivers: Vec<Proxy>,
}

impl Ways {
    /// Ways to the store and to these drivers.
    pub(crate) fn to(store: &str, drivers: &[String]) -> Self {
        Ways {
            store: Proxy::to(store),
            drivers: drivers.iter().map(|url| Proxy::to(url)).collect(),
        }
    }

    /// The drivers as a process that uses these ways is told of them.
    pub(crate) fn urls(&self) -> String {
        let urls: Vec<_> = self.drivers.iter().map(|way| way.url.as_str()).collect();
        urls.join(",")
    }
}

impl Cut {
    /// What the network does while it lasts.
    pub(crate) fn network(self) -> Network {
        if self.resets {
            Network::ResetAfter(1)
        } else {
            Network::Stalled
        }
    }
}
