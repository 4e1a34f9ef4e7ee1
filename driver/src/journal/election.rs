//! When to try to lead, and how to win.
//!
//! Trying is never wrong: whoever wins has appended an entry that no other leadership has, and the
//! journal decides. It costs those a moment who would have gone on. So a standby waits while
//! somebody leads, which it knows by its own clock alone: the lease changes, or it does not.

use kiln_engine::Result;
use kiln_engine::storage::Created;
use kiln_proto::convert::journal::{encode_entry, encode_record};
use kiln_proto::message::{Entry, Lease, Record, WriterId};

use crate::journal::store::{JournalStore, Loaded};
use crate::scheduler::Millis;

/// A standby's view of the lease.
#[derive(Debug)]
pub(crate) struct Watch {
    own_url: String,
    lease_ms: u64,
    seen: Option<Lease>,
    /// When the lease last changed, by the clock of who watches.
    since: Option<Millis>,
    /// The newest leadership that was given its time to say so in the lease.
    newest: u64,
}

impl Watch {
    pub(crate) fn new(own_url: &str, lease_ms: u64) -> Self {
        Watch {
            own_url: own_url.to_owned(),
            lease_ms,
            seen: None,
            since: None,
            newest: 0,
        }
    }

    /// Takes note of the lease as it is; answers whether to try to lead.
    pub(crate) fn look(&mut self, now: Millis, lease: Option<Lease>) -> bool {
        let has_changed = self.since.is_none() || lease != self.seen;
        if has_changed {
            self.since = Some(now);
            self.newest = lease.as_ref().map_or(0, |lease| lease.term);
            self.seen = lease;
        }
        // Two processes cannot listen at one address: who did is gone.
        let is_over = |seen: &Lease| seen.resigned || seen.url == self.own_url;
        let is_over = match &self.seen {
            Some(seen) => is_over(seen) && self.is_newest(),
            None => self.newest == 0,
        };
        // What is said of a leadership that is not the newest says nothing.
        is_over || self.since.is_some_and(|since| now >= since + self.lease_ms)
    }

    /// The newest leadership that somebody may take over from.
    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    /// Trying did not succeed: somebody else leads, or begins to, in that leadership.
    pub(crate) fn wait(&mut self, now: Millis, newest: u64) {
        self.since = Some(now);
        self.newest = self.newest.max(newest);
    }

    /// Whether the lease is of the newest leadership that is known.
    pub(crate) fn is_newest(&self) -> bool {
        self.seen
            .as_ref()
            .is_some_and(|seen| seen.term >= self.newest)
    }

    /// Where whoever leads is reached, as far as is known.
    pub(crate) fn leader(&self) -> Option<&str> {
        self.seen.as_ref().map(|lease| lease.url.as_str())
    }
}

/// A leadership that was won.
#[derive(Debug)]
pub(crate) struct Won {
    pub(crate) term: u64,
    pub(crate) writer: WriterId,
    /// All that was written before.
    pub(crate) journal: Loaded,
    /// The number of the entry with which it began.
    pub(crate) began: u64,
}

/// What came of a try to lead.
#[derive(Debug)]
pub(crate) enum Campaign {
    /// It was won.
    Won(Box<Won>),
    /// Somebody else leads, or begins to, in this leadership or a newer one.
    Lost(u64),
}

/// Tries to lead, after the leadership `newest`. `writer` is used for no other try.
///
/// # Errors
/// What the store answers. It may be that the leadership was won all the same; then a later try
/// begins another.
pub(crate) async fn campaign(
    store: &JournalStore,
    writer: WriterId,
    url: &str,
    at_ms: Millis,
    newest: u64,
) -> Result<Campaign> {
    let journal = store.load().await?;
    if journal.term() > newest {
        return Ok(Campaign::Lost(journal.term()));
    }
    let (term, began) = (journal.term() + 1, journal.end() + 1);
    let url = url.to_owned();
    let records = vec![encode_record(&Record::Term { url, at_ms })?];
    let entry = encode_entry(term, writer, began, records);
    match store.append(began, &entry).await? {
        Created::Theirs(_) => Ok(Campaign::Lost(newest)),
        // Between reading and writing others may have gone far ahead, and have removed what was
        // there: then the place was free because it is of no importance any more.
        Created::Ours if store.newest_snapshot().await? >= began => Ok(Campaign::Lost(newest)),
        Created::Ours => Ok(Campaign::Won(Box::new(Won {
            term,
            writer,
            journal,
            began,
        }))),
    }
}

/// Whether a leadership began with this entry: then it stays for ever.
pub(crate) fn is_beginning(entry: &Entry) -> bool {
    matches!(entry.records.first(), Some(Record::Term { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(url: &str, renewals: u64) -> Option<Lease> {
        Some(Lease {
            term: 1,
            writer: WriterId(1),
            renewals,
            url: url.to_owned(),
            resigned: false,
        })
    }

    #[test]
    fn a_standby_tries_when_nobody_has_renewed_the_lease_for_long() {
        let mut watch = Watch::new("http://b", 1_000);
        let looks = [
            (0, 1, false),
            (900, 1, false),
            (950, 2, false),
            (1_900, 2, false),
            (1_950, 2, true),
        ];
        for (now, renewals, tries) in looks {
            let found = watch.look(now, lease("http://a", renewals));
            assert_eq!(found, tries, "now={now}");
        }
        watch.wait(2_000, 1);
        assert!(!watch.look(2_900, lease("http://a", 2)));
        assert!(watch.look(3_000, lease("http://a", 2)));
    }

    #[test]
    fn nobody_waits_for_who_is_gone() {
        let mut watch = Watch::new("http://b", 1_000);
        assert!(watch.look(0, None), "nobody has ever led");
        watch.wait(0, 1);
        assert!(
            !watch.look(999, None),
            "somebody has, and had no time to say so"
        );
        assert!(watch.look(1_000, None));
        assert!(watch.look(0, lease("http://b", 1)), "its own address");
        let resigned = lease("http://a", 1).map(|lease| Lease {
            resigned: true,
            ..lease
        });
        assert!(watch.look(0, resigned.clone()));
        watch.wait(1, 2);
        assert!(!watch.look(1, resigned.clone()), "somebody has taken over");
        assert!(watch.look(1_001, resigned), "and said nothing since");
    }
}
