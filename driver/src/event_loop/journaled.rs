//! The part of the loop that carries out what a leader wants, around its journal.

use kiln_engine::id::JobId;
use kiln_engine::{Error, Result};
use tokio::time::{Instant, sleep_until, timeout};

use super::{APPEND_WAIT, Answer, Done, EventLoop, FLUSH_PATIENCE, SETTLE_MS, millis};
use crate::board::SharedBoard;
use crate::journal::JournalStore;
use crate::journal::compact::compact;
use crate::journal::election::Won;
use crate::leader::{Due, Effect, Leader};
use crate::restored::Restored;
use crate::scheduler::{Action, Event};
use crate::settings::DriverSettings;
use crate::work::Components;

impl EventLoop {
    /// A loop that goes on where the journal ends, in a leadership that was won by a campaign that
    /// began at `since`.
    ///
    /// # Errors
    /// `Corrupt` if the journal makes no sense.
    pub(crate) fn leading(
        settings: DriverSettings,
        components: Components,
        board: SharedBoard,
        journal: JournalStore,
        won: Won,
        since: Instant,
    ) -> Result<Self> {
        let mut driver = EventLoop::new(settings, components, board);
        let now = driver.clock.now();
        let since = now.saturating_sub(millis(since.elapsed()));
        let mut restored = Restored::replay(driver.settings.clone(), &won.journal)?;
        restored.scheduler.resume(now, won.term, now + SETTLE_MS);
        driver.planners = restored.planners;
        driver.active = driver.planners.keys().copied().collect();
        tracing::info!(term = won.term, jobs = driver.active.len(), "leading");
        let leader = Leader::new(&won, &driver.settings, since, driver.active.clone());
        driver.leader = Some((leader, journal));
        driver.board.lock().lead(restored.scheduler, restored.keys);
        driver.trust();
        for (job, output) in restored.untidy {
            if let Some((leader, _)) = &mut driver.leader {
                leader.tidies(job);
            }
            driver.perform(Action::Discard { job, output });
        }
        Ok(driver)
    }

    /// Whether those who wait here had better look for somebody else.
    pub(super) fn is_cut_off(&mut self) -> bool {
        let is_cut_off = |this: &Self| {
            let now = this.clock.now();
            let leader = this.leader.as_ref();
            leader.is_some_and(|(leader, _)| leader.is_cut_off(now))
        };
        if !is_cut_off(self) {
            return false;
        }
        // After a stall of this process an answer may wait here.
        while let Some(outcome) = self.work.try_join_next() {
            self.finished(outcome);
        }
        is_cut_off(self)
    }

    /// Tells how long what is known here may be told.
    fn trust(&self) {
        if let Some((leader, _)) = &self.leader {
            let until = self.clock.instant(leader.trusted_until());
            self.board.lock().trust(until);
        }
    }

    /// Tells that a job was taken, at once or when it is written down.
    pub(super) fn accepted(&mut self, job: JobId, answer: Answer<JobId>) {
        let effect = match &mut self.leader {
            Some((leader, _)) => leader.accepted(job, answer),
            None => Some(Effect::Accepted(job, answer)),
        };
        self.affect(effect);
    }

    /// Carries out an action, or keeps it until what it follows from is written down.
    pub(super) fn admit(&mut self, action: Action) -> Vec<Event> {
        let Some((leader, _)) = &mut self.leader else {
            return self.perform(action).into_iter().collect();
        };
        let effects = leader.admit(action);
        effects
            .into_iter()
            .filter_map(|effect| self.carry_out(effect))
            .collect()
    }

    pub(super) fn affect(&mut self, effects: impl IntoIterator<Item = Effect<Answer<JobId>>>) {
        for effect in effects {
            if let Some(event) = self.carry_out(effect) {
                self.step(event);
            }
        }
    }

    fn carry_out(&mut self, effect: Effect<Answer<JobId>>) -> Option<Event> {
        match effect {
            Effect::Do(action) => return self.perform(action),
            Effect::Step(event) => return Some(event),
            // Whoever asked may have gone.
            Effect::Accepted(job, answer) => drop(answer.send(Ok(job))),
            Effect::Hide(job) => self.board.lock().hide(job),
            Effect::Show(job) => self.board.lock().show(job),
        }
        None
    }

    /// Begins what is due in storage.
    pub(super) fn write(&mut self) {
        let now = self.clock.now();
        let Some((leader, journal)) = &mut self.leader else {
            return;
        };
        for due in leader.dues(now) {
            let (journal, shuffle) = (journal.clone(), self.components.shuffle.clone());
            self.work.spawn(async move {
                match due {
                    Due::Entry(sequence, entry) => {
                        let wrote = timeout(APPEND_WAIT, journal.append(sequence, &entry)).await;
                        let late = |_| Err(Error::unavailable("the storage does not answer"));
                        Done::Wrote(wrote.unwrap_or_else(late))
                    }
                    Due::Snapshot => Done::Compacted(compact(&journal).await),
                    Due::List => Done::Listed(shuffle.objects().await),
                }
            });
        }
    }

    /// What came of work that only a leader has.
    pub(super) fn led(&mut self, done: Done) {
        let now = self.clock.now();
        let Some((leader, _)) = &mut self.leader else {
            return;
        };
        match done {
            Done::Wrote(outcome) => {
                let effects = leader.wrote(outcome, now, &self.board.lock().scheduler);
                self.deposed = effects.is_none();
                self.trust();
                self.affect(effects.into_iter().flatten());
            }
            Done::Compacted(outcome) => leader.compacted(outcome),
            Done::Listed(objects) => leader.listed(objects, now),
            Done::Tidied(job, is_whole) => {
                leader.tidied(job, is_whole, &self.board.lock().scheduler);
            }
            Done::Event(_) | Done::Committed(..) => {}
        }
    }

    /// Writes down what has happened so far, and that another driver may lead at once.
    pub(super) async fn resign(&mut self) {
        let flushed = timeout(FLUSH_PATIENCE, async {
            self.flush().await;
            if let Some((leader, _)) = &mut self.leader {
                leader.resign();
            }
            self.trust();
            self.flush().await;
        });
        if flushed.await.is_err() {
            tracing::warn!("stopped before everything was written down");
        }
    }

    /// Goes on until all that has happened is written down, or somebody else leads.
    async fn flush(&mut self) {
        while !self.deposed {
            self.write();
            let retry = match &self.leader {
                Some((leader, _)) if !leader.is_settled() => leader.deadline(),
                Some(_) | None => return,
            };
            let retry = retry.map(|at| self.clock.instant(at));
            tokio::select! {
                Some(outcome) = self.work.join_next() => self.finished(outcome),
                () = sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => {}
            }
        }
    }
}
