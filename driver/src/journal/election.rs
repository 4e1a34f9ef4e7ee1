//! When to try to lead, and how to win.
//!
//! Trying is never wrong: whoever wins has appended an entry that no other leadership has, and the
//! journal decides. It costs those a moment who would have gone on. So a standby waits while
//! somebody leads, which it knows by the journal and its own clock alone: it grows, or it does not.

use kiln_engine::Result;
use kiln_engine::storage::Created;
use kiln_proto::convert::journal::{encode_entry, encode_record};
use kiln_proto::message::{Entry, Record, WriterId};

use crate::journal::store::{JournalStore, Loaded};
use crate::scheduler::Millis;

/// Entries that are read in one look.
const LOOK_ENTRIES_MAX: u64 = 64;

/// The end of a journal, as a standby has seen it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sight {
    /// The number of the next entry.
    next: u64,
    /// Where whoever leads is reached; nowhere if nobody has ever led.
    leader: Option<String>,
    /// It leads no longer, by its own will.
    resigned: bool,
}

impl Sight {
    fn of(journal: &Loaded) -> Self {
        let mut sight = Sight {
            next: journal.end() + 1,
            leader: None,
            resigned: false,
        };
        journal.records().for_each(|record| sight.note(record));
        sight
    }

    fn note(&mut self, record: &Record) {
        match record {
            Record::Term { url, .. } => {
                (self.leader, self.resigned) = (Some(url.clone()), false);
            }
            Record::Resigned => self.resigned = true,
            _ => {}
        }
    }
}

/// Looks at the journal again, from where the last look ended.
///
/// # Errors
/// `Corrupt` if it is damaged; what the store answers.
pub(crate) async fn look(store: &JournalStore, seen: Option<Sight>) -> Result<Sight> {
    let Some(mut sight) = seen else {
        return Ok(Sight::of(&store.load().await?));
    };
    for _ in 0..LOOK_ENTRIES_MAX {
        let Some(entry) = store.entry(sight.next).await? else {
            break;
        };
        entry.records.iter().for_each(|record| sight.note(record));
        sight.next += 1;
    }
    Ok(sight)
}

/// What a standby does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// It looks again at once: there is more to be seen.
    LookOn,
    /// It looks again after a while.
    Wait,
    /// It tries to lead.
    Try,
}

/// A standby's view of the journal.
#[derive(Debug)]
pub(crate) struct Watch {
    lease_ms: u64,
    /// The address of a process that has just been started.
    started_at: Option<String>,
    sight: Option<Sight>,
    /// When the journal was seen to have grown, by the clock of who watches.
    since: Millis,
    /// Nobody leads any more, or nobody has ever led.
    is_over: bool,
}

impl Watch {
    /// A process was started at `url` and begins to watch.
    pub(crate) fn started(url: &str, lease_ms: u64) -> Self {
        Watch {
            started_at: Some(url.to_owned()),
            ..Watch::new(lease_ms)
        }
    }

    /// A process that has led begins to watch.
    pub(crate) fn new(lease_ms: u64) -> Self {
        Watch {
            lease_ms,
            started_at: None,
            sight: None,
            since: 0,
            is_over: false,
        }
    }

    /// What was seen last, to look from there.
    pub(crate) fn sight(&self) -> Option<&Sight> {
        self.sight.as_ref()
    }

    /// Takes note of the journal as it is; answers what to do next.
    pub(crate) fn saw(&mut self, now: Millis, sight: Sight) -> Next {
        let mut is_behind = false;
        if self.sight.as_ref() != Some(&sight) {
            self.since = now;
            // Two processes cannot listen at one address: who did is gone. It is only of use to
            // who has just come, or two that are given the same address would not come to rest.
            let started_at = self.started_at.take();
            let is_own = started_at.is_some() && started_at == sight.leader;
            self.is_over = sight.leader.is_none() || sight.resigned || is_own;
            let before = self.sight.replace(sight);
            is_behind = before.is_some_and(|before| self.next() >= before.next + LOOK_ENTRIES_MAX);
        }
        match self.is_over || now >= self.since + self.lease_ms {
            _ if is_behind => Next::LookOn,
            true => Next::Try,
            false => Next::Wait,
        }
    }

    /// The number of the next entry; 0 if nothing was seen.
    pub(crate) fn next(&self) -> u64 {
        self.sight.as_ref().map_or(0, |sight| sight.next)
    }

    /// Trying did not succeed: somebody else leads, or begins to.
    pub(crate) fn lost(&mut self) {
        self.sight = None;
    }

    /// Where whoever leads is reached, as far as is known.
    pub(crate) fn leader(&self) -> Option<&str> {
        self.sight.as_ref()?.leader.as_deref()
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
    /// Somebody else leads, or begins to.
    Lost,
}

/// Tries to lead with the entry `next`, which was not there when somebody looked. `writer` is used
/// for no other try.
///
/// # Errors
/// What the store answers. It may be that the leadership was won all the same; then a later try
/// begins another.
pub(crate) async fn campaign(
    store: &JournalStore,
    writer: WriterId,
    url: &str,
    at_ms: Millis,
    next: u64,
) -> Result<Campaign> {
    let journal = store.load().await?;
    let (term, began) = (journal.term() + 1, journal.end() + 1);
    if began != next {
        return Ok(Campaign::Lost);
    }
    let url = url.to_owned();
    let records = vec![encode_record(&Record::Term { url, at_ms })?];
    let entry = encode_entry(term, writer, began, records);
    match store.append(began, &entry).await? {
        Created::Theirs(_) => Ok(Campaign::Lost),
        // Between reading and writing others may have gone far ahead, and have removed what was
        // there: then the place was free because it is of no importance any more.
        Created::Ours if store.newest_snapshot().await? >= began => Ok(Campaign::Lost),
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

    fn sight(next: u64, leader: &str, resigned: bool) -> Sight {
        Sight {
            next,
            leader: Some(leader.to_owned()),
            resigned,
        }
    }

    #[test]
    fn a_standby_tries_when_the_journal_has_not_grown_for_long() {
        let mut watch = Watch::started("http://b", 1_000);
        let looks = [
            (5_000, 1, Next::Wait),
            (5_900, 1, Next::Wait),
            (5_950, 2, Next::Wait),
            (6_900, 2, Next::Wait),
            (6_950, 2, Next::Try),
            (6_950, 2 + LOOK_ENTRIES_MAX, Next::LookOn),
        ];
        for (now, next, expected) in looks {
            let found = watch.saw(now, sight(next, "http://a", false));
            assert_eq!(found, expected, "now={now}");
        }
        watch.lost();
        for (now, expected) in [(7_000, Next::Wait), (7_999, Next::Wait), (8_000, Next::Try)] {
            let found = watch.saw(now, sight(2, "http://a", false));
            assert_eq!(found, expected, "now={now}");
        }
    }

    #[test]
    fn nobody_waits_for_who_is_gone() {
        let nobody = Sight {
            next: 1,
            leader: None,
            resigned: false,
        };
        let resigned = sight(9, "http://a", true);
        let own = sight(9, "http://b", false);
        let started = || Watch::started("http://b", 1_000);
        for (mut watch, sight, expected) in [
            (Watch::new(1_000), nobody, Next::Try),
            (Watch::new(1_000), resigned, Next::Try),
            (started(), own.clone(), Next::Try),
            (Watch::new(1_000), own.clone(), Next::Wait),
        ] {
            assert_eq!(watch.saw(0, sight.clone()), expected, "{sight:?}");
        }
        let mut watch = started();
        watch.saw(0, own.clone());
        watch.lost();
        assert_eq!(watch.saw(1, own), Next::Wait, "two have the same address");
    }

    #[test]
    fn the_last_beginning_and_what_came_of_it_is_what_counts() {
        let term = |url: &str| Record::Term {
            url: url.to_owned(),
            at_ms: 1,
        };
        let entry = |sequence, record| Entry {
            term: 1,
            writer: WriterId(1),
            sequence,
            records: vec![record],
        };
        let mut journal = Loaded::default();
        for (number, record, expected) in [
            (1, term("http://a"), sight(2, "http://a", false)),
            (2, Record::Alive, sight(3, "http://a", false)),
            (3, Record::Resigned, sight(4, "http://a", true)),
            (4, term("http://b"), sight(5, "http://b", false)),
        ] {
            journal.entries.push(entry(number, record));
            assert_eq!(Sight::of(&journal), expected);
        }
    }
}
