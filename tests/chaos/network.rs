//! The network of a cluster, which can be cut between any two of its processes: proxies, which need
//! no rights that a test may lack, or namespaces of the kernel.

use std::net::SocketAddr;

use kiln_testkit::proxy::{Network, Proxy};

use crate::fault::Cut;
use crate::namespace::{self, Namespace};

/// What is between processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Between {
    /// A proxy for each way from one to another.
    Proxies,
    /// A bridge: each process is in a namespace of its own.
    Bridge {
        /// Where the store listens.
        store: SocketAddr,
    },
}

impl Between {
    /// Where the process of this number runs, if not beside the test.
    pub(crate) fn namespace(self, number: usize) -> Option<Namespace> {
        // The test itself has the first address.
        let number = u8::try_from(number + 2).expect("a few processes");
        matches!(self, Between::Bridge { .. }).then(|| Namespace::new(number))
    }

    fn way(self, url: &str) -> Way {
        let proxy = (self == Between::Proxies).then(|| Proxy::to(url));
        Way {
            url: proxy.as_ref().map_or(url, |proxy| &proxy.url).to_owned(),
            proxy,
        }
    }
}

/// A way to another process.
pub(crate) struct Way {
    pub(crate) url: String,
    /// What stands there, if anything.
    proxy: Option<Proxy>,
}

impl Way {
    /// Cuts it, or makes up for that.
    pub(crate) fn set(&self, cut: Cut, is_cut: bool) {
        let network = match is_cut {
            true if cut.resets => Network::ResetAfter(1),
            true => Network::Stalled,
            false => Network::Whole,
        };
        if let Some(proxy) = &self.proxy {
            proxy.set(network);
        }
    }
}

/// The ways of one process that dials: to the store, and to each driver.
pub(crate) struct Ways {
    pub(crate) store: Way,
    pub(crate) drivers: Vec<Way>,
}

impl Ways {
    /// Ways to the store and to these drivers.
    pub(crate) fn to(store: &str, drivers: &[String], between: Between) -> Self {
        Ways {
            store: between.way(store),
            drivers: drivers.iter().map(|url| between.way(url)).collect(),
        }
    }

    /// The drivers as a process that uses these ways is told of them.
    pub(crate) fn urls(&self) -> String {
        let urls: Vec<_> = self.drivers.iter().map(|way| way.url.as_str()).collect();
        urls.join(",")
    }
}

impl Cut {
    /// Cuts a namespace off from the store and from others, or makes up for that.
    pub(crate) fn set<'a>(
        self,
        namespace: &Namespace,
        others: impl Iterator<Item = &'a Namespace>,
        is_cut: bool,
    ) {
        let store = self.from_store.then(namespace::here);
        let others = others.take(self.from_peers).map(Namespace::address);
        for other in store.into_iter().chain(others) {
            match is_cut {
                true => namespace.cut(other, self.resets),
                false => namespace.mend(other, self.resets),
            }
        }
    }
}
