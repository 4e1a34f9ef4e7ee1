//! What outlives a driver: a journal in object storage, and who may write to it.
//!
//! The journal of a cluster is a sequence of objects, `<root>/journal/entries/<number>`, each
//! created with put-if-absent, the one conditional write that every store has. Who leads appends;
//! who wants to lead appends an entry that says so. Whoever finds the next place taken by somebody
//! else does not lead any more. So there is one history, whatever clocks say and whoever is slow,
//! and what is not in it has not happened.
//!
//! Three things are kept beside the entries. A *snapshot* stands for all entries up to its number;
//! those can go then, but not the ones by which a leadership began: a driver that was stalled for
//! however long tries to write exactly where the next leadership began, and must find it taken.
//! The *lease* is a hint: it changes as long as somebody leads, and tells a standby when to try.
//!
//! [`store`] knows objects, [`log`] what is still to be written, [`compact`] what is worth to be
//! kept, [`election`] when to try and how to win.

pub(crate) mod store;

pub(crate) mod log;

pub(crate) mod compact;

pub(crate) mod election;

pub use store::JournalStore;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod store_tests;
