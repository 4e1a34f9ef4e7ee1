//! The part of the loop that carries out what a leader wants, around its journal.

use kiln_engine::id::JobId;
use kiln_engine::{Error, Result};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{Answer, Done, EventLoop, FLUSH_PATIENCE, LEASE_WAIT, SETTLE_MS, millis};
use crate::board::SharedBoard;
use crate::journal::JournalStore;
use crate::journal::compact::compact;
use crate::journal::election::Won;
use crate::leader::{Effect, Leader, Write};
use crate::ledger::renew;
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
        if won.term > 1 {
            driver.list_objects();
        }
        for (job, output) in restored.untidy {
            if let Some((leader, _)) = &mut driver.leader {
                leader.tidies(job);
            }
            driver.perform(Action::Discard { job, output });
        }
        Ok(driver)
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
            Effect::List => self.list_objects(),
        }
        None
    }

    /// Writes what is to be written, if nothing is being written.
    pub(super) fn write(&mut self) {
        let now = self.clock.now();
        let Some((leader, journal)) = &mut self.leader else {
            return;
        };
        for write in leader.writes(now) {
            let journal = journal.clone();
            self.work.spawn(async move {
                match write {
                    Write::Entry(sequence, entry) => {
                        Done::Wrote(journal.append(sequence, &entry).await)
                    }
                    Write::Lease(lease) => {
                        let renewed = timeout(LEASE_WAIT, renew(&journal, &lease)).await;
                        let late = |_| Err(Error::unavailable("the storage does not answer"));
                        Done::Renewed(renewed.unwrap_or_else(late))
                    }
                    Write::Snapshot => Done::Compacted(compact(&journal).await),
                }
            });
        }
    }

    /// Looks for shuffle objects that no job needs any more.
    fn list_objects(&mut self) {
        let shuffle = self.components.shuffle.clone();
        self.work
            .spawn(async move { Done::Listed(shuffle.objects().await) });
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
                self.affect(effects.into_iter().flatten());
            }
            Done::Renewed(outcome) => {
                leader.renewed(outcome, now);
                self.trust();
            }
            Done::Compacted(outcome) => leader.compacted(outcome),
            Done::Listed(Ok(objects)) => leader.listed(objects),
            Done::Listed(Err(error)) => {
                tracing::warn!(
                    reason = error.report(),
                    "shuffle objects may be left behind"
                );
            }
            Done::Tidied(job, is_whole) => {
                leader.tidied(job, is_whole, &self.board.lock().scheduler);
            }
            Done::Event(_) | Done::Committed(..) => {}
        }
    }

    /// Writes down what has happened so far, and that another driver may lead at once.
    pub(super) async fn resign(&mut self) {
        let patience = sleep(FLUSH_PATIENCE);
        tokio::pin!(patience);
        let is_settled = |driver: &Self| match &driver.leader {
            Some((leader, _)) => leader.is_settled(),
            None => true,
        };
        while !self.deposed && !is_settled(self) {
            self.write();
            let retry = self
                .leader
                .as_ref()
                .and_then(|(leader, _)| leader.deadline());
            let retry = retry.map_or_else(Instant::now, |at| self.clock.instant(at));
            tokio::select! {
                Some(outcome) = self.work.join_next() => self.finished(outcome),
                () = sleep_until(retry) => {}
                () = &mut patience => {
                    return tracing::warn!("stopped before everything was written down");
                }
            }
        }
        let leads = self.leader.as_ref().filter(|_| !self.deposed);
        if let Some((leader, journal)) = leads
            && let Err(error) = journal.put_lease(&leader.resignation()).await
        {
            tracing::warn!(reason = error.report(), "the lease is left as it is");
        }
    }
}
