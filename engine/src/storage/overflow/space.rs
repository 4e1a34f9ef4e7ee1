//! Where the bytes of objects are: in memory while there is room, else in files.
//!
//! A file is open only while it is written or read, so their number is bounded by the disk and
//! not by the process's table of open files.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use object_store::{PutPayload, Result};

use super::{generic, lock};
use crate::memory::{DiskBudget, DiskRoom, MemoryBudget, Reservation};
use crate::scratch::{Scratch, ScratchKind};
use crate::storage::{on_file_thread, read_ranges};

/// Room for segments.
pub(super) struct Space {
    ledger: Arc<Ledger>,
    disk: Disk,
}

/// A run of bytes of an object.
#[derive(Clone)]
pub(super) enum Segment {
    /// In memory, for as long as the permit is held.
    Memory(
        Bytes,
        #[expect(dead_code, reason = "held for its drop")] Arc<Permit>,
    ),
    /// A file of so many bytes.
    Disk(Arc<DiskFile>, u64),
}

impl Space {
    pub(super) fn new(
        bytes_max: u64,
        budget: Option<&Arc<MemoryBudget>>,
        directory: Option<PathBuf>,
    ) -> Self {
        let reservation = budget.map(|budget| budget.reserve("shuffle store"));
        let held = Mutex::new(Held {
            bytes: 0,
            reservation,
        });
        let parent = directory.unwrap_or_else(std::env::temp_dir);
        let disk = Disk {
            parent,
            directory: Mutex::default(),
            budget: budget.map(|budget| Arc::clone(budget.disk())),
            next: AtomicU64::new(0),
        };
        Space {
            ledger: Arc::new(Ledger { bytes_max, held }),
            disk,
        }
    }

    /// Bytes in memory now.
    pub(super) fn memory_bytes(&self) -> u64 {
        lock(&self.ledger.held).bytes
    }

    /// Keeps the bytes in memory, or on disk where there is no room.
    pub(super) async fn keep(self: &Arc<Self>, payload: PutPayload) -> Result<Vec<Segment>> {
        let bytes = payload.content_length() as u64;
        if let Some(permit) = self.ledger.take(bytes) {
            let permit = Arc::new(permit);
            let segment = |bytes| Segment::Memory(bytes, Arc::clone(&permit));
            return Ok(payload.into_iter().map(segment).collect());
        }
        let space = Arc::clone(self);
        let written = on_file_thread(move || space.disk.write(&payload)).await?;
        Ok(vec![Segment::Disk(
            Arc::new(written.map_err(generic)?),
            bytes,
        )])
    }
}

impl Segment {
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Segment::Memory(bytes, _) => bytes.len() as u64,
            Segment::Disk(_, bytes) => *bytes,
        }
    }

    pub(super) async fn read(self, range: Range<u64>) -> Result<Bytes> {
        match self {
            Segment::Memory(bytes, _) => Ok(bytes.slice(range.start as usize..range.end as usize)),
            Segment::Disk(file, _) => {
                let read = read_ranges(move || File::open(&file.path), &[range]).await;
                let mut read = read.map_err(generic)?;
                Ok(read.pop().unwrap_or_default())
            }
        }
    }
}

/// Who may hold how much memory.
struct Ledger {
    bytes_max: u64,
    held: Mutex<Held>,
}

struct Held {
    bytes: u64,
    reservation: Option<Reservation>,
}

/// Bytes in memory, given back when dropped.
pub(super) struct Permit {
    ledger: Arc<Ledger>,
    bytes: u64,
}

impl Ledger {
    fn take(self: &Arc<Self>, bytes: u64) -> Option<Permit> {
        let mut held = lock(&self.held);
        held.bytes
            .checked_add(bytes)
            .filter(|&sum| sum <= self.bytes_max)?;
        if let Some(reservation) = &mut held.reservation
            && !reservation.try_grow(bytes)
        {
            return None;
        }
        held.bytes += bytes;
        Some(Permit {
            ledger: Arc::clone(self),
            bytes,
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut held = lock(&self.ledger.held);
        held.bytes -= self.bytes;
        if let Some(reservation) = &mut held.reservation {
            reservation.shrink(self.bytes);
        }
    }
}

struct Disk {
    parent: PathBuf,
    directory: Mutex<Option<Arc<Scratch>>>,
    /// What files may take.
    budget: Option<Arc<DiskBudget>>,
    next: AtomicU64,
}

/// A file that goes when nobody shows it any more.
pub(super) struct DiskFile {
    path: PathBuf,
    /// The directory outlives its files.
    _directory: Arc<Scratch>,
    _room: Option<DiskRoom>,
}

impl Disk {
    fn directory(&self) -> io::Result<Arc<Scratch>> {
        let mut directory = lock(&self.directory);
        if let Some(directory) = &*directory {
            return Ok(Arc::clone(directory));
        }
        let made = Scratch::create(&self.parent, ScratchKind::Shuffle)?;
        Ok(Arc::clone(directory.insert(Arc::new(made))))
    }

    fn write(&self, payload: &PutPayload) -> io::Result<DiskFile> {
        let mut room = self.budget.as_ref().map(DiskRoom::new);
        if let Some(room) = &mut room {
            let full = |error| io::Error::new(io::ErrorKind::StorageFull, error);
            room.grow(payload.content_length() as u64).map_err(full)?;
        }
        let directory = self.directory()?;
        let path = directory
            .path()
            .join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let mut file = File::create_new(&path)?;
        // Made before the bytes are written, so that a full disk leaves no half file.
        let made = DiskFile {
            path,
            _directory: directory,
            _room: room,
        };
        for bytes in payload {
            file.write_all(bytes)?;
        }
        Ok(made)
    }
}

impl Drop for DiskFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "an overflow file stays behind");
        }
    }
}
