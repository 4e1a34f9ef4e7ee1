//! A driver and an executor in this process: what runs behind a local session.
//!
//! They are the ones of a cluster and say the same things to one another; only that what they say
//! goes through channels, and that shuffle objects stay in memory while there is room.

use std::sync::Arc;

use kiln_driver::{Components, Driver, DriverHandle, DriverSettings};
use kiln_engine::storage::{OverflowStore, Stores};
use kiln_engine::{Error, Result, limits, memory};

/// What a local session may use.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LocalSettings {
    /// Threads that compute; all cores where not given.
    pub(crate) threads: Option<usize>,
    /// Memory budget in bytes; a share of what there is where not given.
    pub(crate) memory: Option<u64>,
}

/// A driver and an executor that end with this value.
pub(crate) struct Local {
    pub(crate) driver: DriverHandle,
}

pub(crate) async fn open(settings: LocalSettings, stores: Arc<Stores>) -> Result<Arc<Local>> {
    let _ = settings;
    let components = Components {
        stores,
        storage_url: "memory:///".to_owned(),
    };
    let driver = Driver::start(DriverSettings::default(), components)?;
    Ok(Arc::new(Local { driver }))
}
