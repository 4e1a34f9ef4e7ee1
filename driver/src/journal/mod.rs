//! What outlives a driver: a journal in object storage, and who may write to it.
//!
//! The journal of a cluster is a sequence of objects, `<root>/journal/entries/<number>`, each
//! created with put-if-absent, the one conditional write that every store has. Who leads appends;
//! who wants to lead appends an entry that says so. Whoever finds the next place taken by somebody
//! else does not lead any more. So there is one history, whatever clocks say and whoever is slow,
//! and what is not in it has not happened.
//!
//! A *snapshot* is kept beside the entries, and stands for all of them up to its number; those can
//! go then, but not the ones by which a leadership began: a driver that was stalled for however
//! long tries to write exactly where the next leadership began, and must find it taken.
//!
//! The journal is its own *lease*. Who leads appends at least an empty entry every second; a
//! standby tries to lead when the place of the next entry has been free for a lease, by its own
//! clock. It began to count when the last entry was there, which was not before the leader had
//! begun to write it. So until a lease after that beginning, by its own clock, a leader can be
//! sure that nobody else leads, and that what it knows is up to date.
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
