//! What simulated drivers do: as the event loop does it, with the simulation's time and messages.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kiln_engine::id::{ExecutorId, JobId};
use kiln_engine::plan::{LogicalPlan, Scan, ScanFormat, StageGraph, TaskFailure, TextOptions};
use kiln_engine::storage::ShuffleObject;
use kiln_proto::message::{self, JobState, Record, StageStatus, Submission, WriterId};

use super::executors::Order;
use super::process::{Done, Leading, Process, Role};
use super::world::{Happening, World};
use crate::commit;
use crate::event_loop::SETTLE_MS;
use crate::journal::compact::compact;
use crate::journal::election::{Campaign, Next, Watch, Won, campaign, look};
use crate::leader::{Due, Effect, Leader};
use crate::restored::Restored;
use crate::scheduler::{Action, Detail, Event, Millis, Submitted};

impl World {
    /// A standby looks at the journal.
    pub(super) fn look(&mut self, number: u64) {
        let Some(process) = self.drivers.get_mut(&number) else {
            return;
        };
        if let Role::StandsBy(watch) = &process.role {
            let (journal, seen) = (process.journal.clone(), watch.sight().cloned());
            process.repeat(async move { Done::Look(look(&journal, seen).await) });
            self.poll(number);
        }
    }

    /// Goes on with the work of a process.
    pub(super) fn poll(&mut self, number: u64) {
        loop {
            let Some(process) = self.drivers.get_mut(&number) else {
                return;
            };
            let done = process.poll();
            self.queue_requests();
            if done.is_empty() {
                return;
            }
            for done in done {
                self.done(number, done);
            }
        }
    }

    fn done(&mut self, number: u64, done: Done) {
        let now = self.now;
        let Some(process) = self.drivers.get_mut(&number) else {
            return;
        };
        let clock = process.clock.at(now);
        match (done, &mut process.role) {
            (Done::Look(sight), Role::StandsBy(watch)) => {
                if sight.is_ok_and(|sight| watch.saw(clock, sight) == Next::Try) {
                    let next = watch.next();
                    let (journal, url) = (process.journal.clone(), process.settings.url.clone());
                    let writer = WriterId(u128::from(self.random.u64(..)));
                    process.repeat(async move {
                        let outcome = campaign(&journal, writer, &url, clock, next).await;
                        Done::Campaign(clock, outcome)
                    });
                } else {
                    self.later(200, Happening::Look(number));
                }
            }
            (Done::Campaign(since, Ok(Campaign::Won(won))), Role::StandsBy(_)) => {
                self.lead(number, since, *won);
            }
            (Done::Campaign(_, outcome), Role::StandsBy(watch)) => {
                if let Ok(Campaign::Lost) = outcome {
                    watch.lost();
                }
                self.later(200, Happening::Look(number));
            }
            (Done::Wrote(outcome), Role::Leads(leading)) => {
                match leading.leader.wrote(outcome, clock, &leading.scheduler) {
                    Some(effects) => self.affect(number, effects),
                    None => {
                        self.seen.deposed += 1;
                        self.depose(number, |_, lease_ms| Watch::new(lease_ms));
                    }
                }
                self.write(number);
                self.leave_if_written(number);
            }
            (Done::Compacted(outcome), Role::Leads(leading)) => {
                self.seen.snapshots += u64::from(outcome.is_ok());
                leading.leader.compacted(outcome);
            }
            (Done::Listed(objects), Role::Leads(leading)) => {
                let is_needless = |object: &&ShuffleObject| !leading.scheduler.needs(object);
                let needless = objects.iter().flatten().filter(is_needless).count();
                self.seen.needless += needless as u64;
                leading.leader.listed(objects, clock);
                self.write(number);
            }
            (Done::Tidied(job, event), Role::Leads(_)) => {
                if let Some(event) = event {
                    self.step(number, *event);
                }
                if let Some(leading) = self.leading(number) {
                    leading.leader.tidied(job, true, &leading.scheduler);
                }
                self.write(number);
            }
            _ => {}
        }
    }

    pub(super) fn leading(&mut self, number: u64) -> Option<&mut Leading> {
        self.drivers.get_mut(&number).and_then(Process::leading)
    }

    fn lead(&mut self, number: u64, since: Millis, won: Won) {
        let process = self.drivers.get_mut(&number).expect("it has just won");
        let clock = process.clock.at(self.now);
        let other = self.terms.insert(won.term, number);
        assert_eq!(other, None, "two leaders of term {}", won.term);
        let mut restored = Restored::replay(process.settings.clone(), &won.journal)
            .expect("the journal makes sense");
        restored
            .scheduler
            .resume(clock, won.term, clock + SETTLE_MS);
        let recovered: BTreeSet<JobId> = restored.planners.keys().copied().collect();
        self.seen.leaderships += 1;
        self.seen.recovered += recovered.len() as u64;
        let committing =
            |job: &&JobId| restored.scheduler.state(**job) == Some(JobState::Committing);
        self.seen.resumed_commits += recovered.iter().filter(committing).count() as u64;
        let known = recovered.iter();
        let known = known.filter_map(|job| restored.scheduler.status(*job, Detail::Stages));
        let stages = known.flat_map(|status| status.stages);
        let is_split = |stage: &StageStatus| stage.partitions.is_some_and(|read| read.split > 0);
        self.seen.resumed_split += stages.filter(is_split).count() as u64;
        let leader = Leader::new(&won, &process.settings, since, recovered);
        process.role = Role::Leads(Box::new(Leading {
            scheduler: restored.scheduler,
            leader,
            keys: restored.keys.into_iter().collect(),
            hidden: BTreeSet::new(),
            streams: BTreeMap::new(),
        }));
        self.log(&format!("driver {number} leads term {}", won.term));
        for (job, output) in restored.untidy {
            let leading = self.leading(number).expect("it leads");
            leading.leader.tidies(job);
            self.perform(number, Action::Discard { job, output });
        }
        self.tick(number);
    }

    fn depose(&mut self, number: u64, watch: fn(&str, u64) -> Watch) {
        self.log(&format!("driver {number} leads no longer"));
        let mut process = self.drivers.remove(&number).expect("it has just led");
        self.break_streams(&mut process);
        let settings = &process.settings;
        process.stand_by(watch(&settings.url, settings.leader_lease_ms));
        self.drivers.insert(number, process);
        self.later(200, Happening::Look(number));
    }

    /// A driver leads no longer, by its own will.
    pub(super) fn leave(&mut self, number: u64) {
        if let Some(leading) = self.leading(number) {
            leading.leader.resign();
            self.log(&format!("driver {number} resigns"));
            let process = self.drivers.get_mut(&number).expect("it leads");
            process.leaves = true;
            self.write(number);
        }
    }

    fn leave_if_written(&mut self, number: u64) {
        let leaves = |process: &Process| match &process.role {
            Role::Leads(leading) => process.leaves && leading.leader.is_settled(),
            Role::StandsBy(_) => false,
        };
        if self.drivers.get(&number).is_some_and(leaves) {
            self.seen.resigned += 1;
            self.crash_driver(number);
        }
    }

    /// Closes every stream of a driver.
    pub(super) fn break_streams(&mut self, process: &mut Process) {
        let Some(leading) = process.leading() else {
            return;
        };
        for (executor, stream) in std::mem::take(&mut leading.streams) {
            let lag = self.random.u64(0..50);
            self.later(lag, Happening::Broken(executor, stream));
        }
    }

    pub(super) fn tick(&mut self, number: u64) {
        let now = self.now;
        let is_cut_off = |process: &mut Process| {
            let clock = process.clock.at(now);
            let leading = process.leading();
            leading.is_some_and(|leading| leading.leader.is_cut_off(clock))
        };
        if self.drivers.get_mut(&number).is_some_and(is_cut_off) {
            self.seen.cut_off += 1;
            return self.depose(number, Watch::started);
        }
        self.step(number, Event::Tick);
        self.write(number);
    }

    /// Steps the scheduler of a leading driver, and has done what follows.
    pub(super) fn step(&mut self, number: u64, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let now = self.now;
            let Some(process) = self.drivers.get_mut(&number) else {
                return;
            };
            let clock = process.clock.at(now);
            let Some(leading) = process.leading() else {
                return;
            };
            self.seen.steps += 1;
            let actions = leading.scheduler.step(clock, event);
            for action in actions {
                self.log(&format!("driver {number}: {action}"));
                let Some(leading) = self.leading(number) else {
                    return;
                };
                for effect in leading.leader.admit(action) {
                    events.extend(self.effect(number, effect));
                }
            }
        }
    }

    fn affect(&mut self, number: u64, effects: Vec<Effect<u64>>) {
        for effect in effects {
            if let Some(event) = self.effect(number, effect) {
                self.step(number, event);
            }
        }
    }

    fn effect(&mut self, number: u64, effect: Effect<u64>) -> Option<Event> {
        match effect {
            Effect::Do(action) => self.perform(number, action),
            Effect::Step(event) => return Some(event),
            Effect::Accepted(job, key) => self.accepted(job, key),
            Effect::Hide(job) => drop(self.leading(number)?.hidden.insert(job)),
            Effect::Show(job) => {
                self.leading(number)?.hidden.remove(&job);
                self.check_ended(number, job);
            }
        }
        None
    }

    pub(super) fn write(&mut self, number: u64) {
        let now = self.now;
        let Some(process) = self.drivers.get_mut(&number) else {
            return;
        };
        let clock = process.clock.at(now);
        let Role::Leads(leading) = &mut process.role else {
            return;
        };
        for due in leading.leader.dues(clock) {
            let journal = process.journal.clone();
            match due {
                Due::Entry(sequence, entry) => process
                    .repeat(async move { Done::Wrote(journal.append(sequence, &entry).await) }),
                Due::Snapshot => {
                    process.repeat(async move { Done::Compacted(compact(&journal).await) });
                }
                Due::List => {
                    let shuffle = process.shuffle.clone();
                    process.work(async move { Done::Listed(shuffle.objects().await) });
                }
            }
        }
        self.poll(number);
    }

    /// Carries out an action of a driver.
    fn perform(&mut self, number: u64, action: Action) {
        let (now, slow) = (self.now, self.chance(20));
        let Some(process) = self.drivers.get_mut(&number) else {
            return;
        };
        let (stores, shuffle) = (process.stores.clone(), process.shuffle.clone());
        let Role::Leads(leading) = &mut process.role else {
            return;
        };
        match action {
            Action::Plan { job, .. } => {
                let term = leading.leader.term();
                let known = leading.scheduler.status(job, Detail::Stages);
                let known = known.map_or(0, |status| status.stages.len());
                let graph = self.plan_more(job, known);
                let delay = self.random.u64(0..50) + if slow { 1_000 } else { 0 };
                self.later(delay, Happening::Planned(number, term, job, graph));
            }
            Action::Launch { executor, ref spec } => {
                let key = (spec.id, spec.attempt);
                assert!(self.launched.insert(key), "launched twice: {key:?}");
                // Who leads no longer and does not know it may; its word counts for nothing.
                let leads = self.terms.keys().next_back() == Some(&leading.leader.term());
                let is_done = self.acknowledged.contains(&spec.id) && !self.rotten;
                assert!(!leads || !is_done, "done, and launched again: {key:?}");
                let has_ended = self.clients[&self.wishes[&spec.id.job]].ended.is_some();
                assert!(!leads || !has_ended, "its job has ended: {key:?}");
                self.order(number, executor, Some(action.clone()));
            }
            Action::Cancel { executor, .. } | Action::Acknowledge { executor, .. } => {
                self.order(number, executor, Some(action));
            }
            Action::Commit { job, output, files } => {
                process.work(async move {
                    let done = commit::commit(&stores, job, &output, files).await;
                    let outcome = done.map(drop).map_err(|error| TaskFailure::from(&error));
                    Done::Tidied(job, Some(Box::new(Event::Committed { job, outcome })))
                });
            }
            Action::Discard { job, output } => {
                process.work(async move {
                    // What is left behind is found by the next leader.
                    while commit::discard(&stores, job, &output).await.is_err() {}
                    Done::Tidied(job, None)
                });
            }
            Action::Cleanup { job, objects } => {
                process.work(async move {
                    while shuffle.delete_job(job, &objects).await.is_err() {}
                    Done::Tidied(job, None)
                });
            }
            Action::Forget { executor } => {
                if let Some(stream) = leading.streams.remove(&executor) {
                    self.at(now + 1, Happening::Broken(executor, stream));
                }
            }
            Action::EndJob { job, .. } => panic!("no job here has a program: {job}"),
            Action::Drop { job } => panic!("there are not that many jobs: {job}"),
            Action::Record(record) => panic!("a leader keeps records to itself: {record:?}"),
        }
        self.poll(number);
    }

    /// Tells an executor something, if it has a stream; none for a welcome.
    pub(super) fn order(&mut self, number: u64, executor: ExecutorId, action: Option<Action>) {
        let Some(leading) = self.leading(number) else {
            return;
        };
        let epoch = leading.leader.term();
        let Some(&stream) = leading.streams.get(&executor) else {
            return;
        };
        let delay = self.random.u64(0..10);
        let at = self.now + delay;
        let Some(machine) = self.machines.get_mut(&executor) else {
            return;
        };
        let at = machine.down_until.max(at);
        machine.down_until = at;
        let order = Order { epoch, action };
        self.at(at, Happening::Order(executor, stream, order));
    }

    /// Something arrives over an executor's stream.
    pub(super) fn arrive(&mut self, number: u64, event: Event, executor: ExecutorId, stream: u64) {
        let Some(leading) = self.leading(number) else {
            // It is sent away.
            return self.at(self.now + 1, Happening::Broken(executor, stream));
        };
        let is_current = leading.streams.get(&executor) == Some(&stream);
        match &event {
            Event::ExecutorJoined(_) => {
                if let Some(replaced) = leading.streams.insert(executor, stream) {
                    self.at(self.now + 1, Happening::Broken(executor, replaced));
                }
                self.order(number, executor, None);
            }
            _ if !is_current => return,
            Event::ExecutorGone { .. } => drop(leading.streams.remove(&executor)),
            _ => {}
        }
        self.step(number, event);
        self.write(number);
    }

    /// Some more stages of a job behind those that are known.
    fn plan_more(&mut self, job: JobId, known: usize) -> StageGraph {
        let graph = self.clients[&self.wishes[&job]].graph.clone();
        let all = graph.stages.len();
        let upto = self.random.usize((known + 1).min(all)..=all);
        StageGraph {
            stages: graph.stages[known..upto].to_vec(),
            complete: upto == all,
            output: graph.output,
        }
    }

    pub(super) fn planned(&mut self, number: u64, term: u64, job: JobId, graph: StageGraph) {
        let still = self.leading(number);
        if still.is_some_and(|leading| leading.leader.term() == term) {
            self.step(number, Event::Planned { job, graph });
            self.write(number);
        }
    }

    /// A client does the next thing about its job, and again after a while.
    pub(super) fn ask(&mut self, key: u64) {
        // Whoever knows the end asks again, to see that it stays.
        if self.clients[&key].ended.is_some() && !self.rough {
            return;
        }
        // Several, since one that leads no longer may be among them.
        let drivers: Vec<_> = self.drivers.keys().copied().collect();
        for driver in drivers {
            let delay = self.random.u64(0..20);
            self.later(delay, Happening::Asked(driver, key));
        }
        let again = self.random.u64(100..800);
        self.later(again, Happening::Ask(key));
    }

    pub(super) fn asked(&mut self, number: u64, key: u64) {
        let now = self.now;
        let fresh = JobId::new(self.random.u64(1..));
        let Some(process) = self.drivers.get_mut(&number) else {
            return;
        };
        let clock = process.clock.at(now);
        let Some(leading) = process.leading() else {
            return;
        };
        let client = &self.clients[&key];
        if let Some(job) = client.job {
            if clock < leading.leader.trusted_until() {
                self.told(number, key, job);
            }
            return;
        }
        let job = match leading.keys.get(&key) {
            Some(job) => *job,
            None => {
                let record = Record::Submitted(Box::new(message::Submitted {
                    job: fresh,
                    at_ms: clock,
                    term: leading.leader.term(),
                    submission: submission(key, &client.graph),
                }));
                let output = client.graph.output.clone();
                leading.leader.submitted(&record).expect("a small plan");
                leading.keys.insert(key, fresh);
                self.wishes.insert(fresh, key);
                self.step(
                    number,
                    Event::Submitted(Submitted {
                        job: fresh,
                        name: "simulated".to_owned(),
                        program: None,
                        weight: 1,
                        output,
                    }),
                );
                fresh
            }
        };
        if let Some(leading) = self.leading(number)
            && let Some(effect) = leading.leader.accepted(job, key)
        {
            self.effect(number, effect);
        }
        self.write(number);
    }

    pub(super) fn cancel(&mut self, key: u64) {
        let Some(job) = self.clients[&key].job else {
            return;
        };
        let leaders = self.drivers.iter_mut();
        let leaders = leaders.filter_map(|(number, process)| {
            process.leading()?;
            Some(*number)
        });
        let leaders: Vec<u64> = leaders.collect();
        if let Some(number) = self.random.choice(leaders) {
            self.clients.get_mut(&key).expect("it asks").cancelled = true;
            self.step(number, Event::CancelRequested { job });
            self.write(number);
        }
    }
}

/// A plan whose only purpose is to be written down and read again, with the job's true output.
fn submission(key: u64, graph: &StageGraph) -> Submission {
    let scan = LogicalPlan::Scan(Scan {
        predicate: None,
        locations: vec![format!("memory:///in/{key}")],
        format: ScanFormat::Text(TextOptions::default()),
        schema: std::sync::Arc::new(arrow::datatypes::Schema::empty()),
        projection: None,
    });
    let plan = match &graph.output {
        Some(output) => LogicalPlan::Write {
            input: std::sync::Arc::new(scan),
            output: output.clone(),
        },
        None => scan,
    };
    Submission {
        name: "simulated".to_owned(),
        key,
        plan,
        program: None,
        weight: 1,
    }
}
