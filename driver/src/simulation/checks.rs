//! What must hold: for clients, for outputs, and when everything is over.

use futures::{FutureExt as _, TryStreamExt as _};
use kiln_engine::id::JobId;
use kiln_engine::plan::SinkSpec;
use kiln_engine::storage::ShuffleObject;
use kiln_proto::message::{AttemptState, JobState, StageStatus};
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _};

use super::data;
use super::process::Role;
use super::world::World;
use crate::journal::compact::fold;
use crate::scheduler::{Detail, Scheduler};

impl World {
    /// A client is told that its job was taken.
    pub(super) fn accepted(&mut self, job: JobId, key: u64) {
        let client = self.clients.get_mut(&key).expect("it asked");
        let before = client.job.replace(job);
        assert!(
            before.is_none_or(|before| before == job),
            "two jobs for key {key}"
        );
    }

    /// A client is told how its job stands.
    pub(super) fn told(&mut self, number: u64, key: u64, job: JobId) {
        let leading = self.leading(number).expect("it was asked");
        let state = leading.scheduler.state(job);
        let state = state.unwrap_or_else(|| panic!("job {job} was taken and is not known"));
        let goes_on = !state.is_final() || leading.hidden.contains(&job);
        let client = self.clients.get_mut(&key).expect("it asked");
        if goes_on {
            assert_eq!(client.ended, None, "job {job} had ended and goes on");
            return;
        }
        let before = client.ended.replace(state);
        assert!(
            before.is_none_or(|before| before == state),
            "job {job} ended twice"
        );
        if before.is_none() {
            match state {
                JobState::Done => self.seen.done += 1,
                JobState::Cancelled => self.seen.cancelled += 1,
                _ => self.seen.failed += 1,
            }
        }
        self.check_ended(number, job);
    }

    /// Looks at a job that has ended.
    pub(super) fn check_ended(&mut self, number: u64, job: JobId) {
        let leading = self.leading(number).expect("it was asked");
        let status = leading.scheduler.status(job, Detail::Attempts);
        let status = status.expect("the job is known");
        let kept = leading.scheduler.result(job);
        for stage in &status.stages {
            let is_running = stage
                .attempts
                .iter()
                .any(|attempt| attempt.state == AttemptState::Running);
            assert!(!is_running, "it runs on: {status:?}");
        }
        let (client, spotless) = (&self.clients[&self.wishes[&job]], self.spotless);
        let expected = data::expected(&client.graph);
        let last = client.graph.stages.last().expect("a job has a stage");
        match (status.state, &last.sink) {
            (JobState::Done, SinkSpec::Files { output }) => {
                let rows = self.committed(&output.url).expect("it is done");
                assert_eq!(rows, expected, "the output is wrong: {status:?}");
            }
            (JobState::Done, SinkSpec::Shuffle { .. }) => {
                if let Some(location) = kept {
                    let mut rows: Vec<u64> = Vec::new();
                    for source in location.sources {
                        let name = (job, location.stage.0, source.task, source.attempt);
                        let path = super::executors::object_path(name);
                        assert!(
                            self.is_there(&path),
                            "a part of the result is gone: {name:?}"
                        );
                        rows.extend(self.content[&name].iter().flatten());
                    }
                    rows.sort_unstable();
                    assert_eq!(rows, expected, "the result is wrong: {status:?}");
                }
            }
            (_, sink) => {
                assert!(!spotless, "failed without a reason: {status:?}");
                if let SinkSpec::Files { output } = sink {
                    let found = self.committed(&output.url);
                    assert_eq!(
                        found, None,
                        "an output of a job that is not done: {status:?}"
                    );
                }
            }
        }
    }

    /// The rows of a committed output, in order; none where there is no output.
    fn committed(&self, url: &str) -> Option<Vec<u64>> {
        let path = url.strip_prefix("memory:///").expect("in memory");
        let directory = Path::from(path);
        if !self.is_there(&directory.clone().join("_SUCCESS")) {
            return None;
        }
        let mut rows = Vec::new();
        for path in self.paths() {
            let name = path.filename().unwrap_or_default();
            let is_staged = path.as_ref().contains("_staging");
            if path.prefix_matches(&directory) && name.starts_with("part-") && !is_staged {
                let found = self.disk.get(&path).now_or_never().expect("at once");
                let found = found.expect("it was listed");
                let bytes = found.bytes().now_or_never().expect("at once");
                let text = String::from_utf8(bytes.expect("in memory").to_vec());
                let text = text.expect("numbers");
                rows.extend(
                    text.lines()
                        .map(|line| line.parse::<u64>().expect("a number")),
                );
            }
        }
        rows.sort_unstable();
        Some(rows)
    }

    /// All objects on the disk.
    fn paths(&self) -> Vec<Path> {
        let found = self.disk.list(None).map_ok(|object| object.location);
        let mut found: Vec<Path> = found
            .try_collect()
            .now_or_never()
            .expect("memory answers at once")
            .expect("it can be listed");
        found.sort();
        found
    }

    /// Nothing is left that should not be, and the journal says what the leader knows.
    pub(super) fn check_end(&mut self) {
        let leaders = self
            .drivers
            .values()
            .filter_map(|process| match &process.role {
                Role::Leads(leading) => Some((process, leading)),
                Role::StandsBy(_) => None,
            });
        let newest = leaders.max_by_key(|(_, leading)| leading.leader.term());
        let (process, leading) = newest.expect("somebody leads");
        let is_waste = |path: &Path| {
            let parts: Vec<_> = path.parts().map(|part| part.as_ref().to_owned()).collect();
            let is_shuffle = parts[0] == "cluster" && parts[1] != "journal";
            let is_staged = path.as_ref().contains("_staging");
            if !is_shuffle {
                return is_staged;
            }
            let number = |text: &str| text.parse::<u32>().expect("a number");
            let (task, attempt) = parts[4][1..].split_once("-a").expect("a shuffle object");
            let object = ShuffleObject {
                job: parts[2].parse().expect("a job"),
                stage: kiln_engine::id::StageId(number(&parts[3][1..])),
                task: number(task),
                attempt: number(attempt),
            };
            !leading.scheduler.needs(&object)
        };
        let paths = self.paths();
        let left: Vec<_> = paths.iter().filter(|path| is_waste(path)).collect();
        let left: Vec<_> = left
            .into_iter()
            .filter(|path| !self.excused.contains(*path))
            .collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        for machine in self.machines.values() {
            assert!(machine.is_idle(), "it runs on: {machine:?}");
        }
        self.check_journal(process, &leading.scheduler);
    }

    fn check_journal(&self, process: &super::process::Process, known: &Scheduler) {
        let journal = crate::journal::JournalStore::new(
            self.disk.clone(),
            "cluster".into(),
            "memory:///cluster",
        );
        let loaded = journal.load().now_or_never().expect("at once");
        let records: Vec<_> = loaded.expect("it is whole").records().cloned().collect();
        let folded = fold(records.clone()).expect("it makes sense");
        for records in [records, folded] {
            let mut restored = Scheduler::journaled(process.settings.clone());
            for record in records {
                restored.restore(record).expect("it makes sense");
            }
            for job in known.jobs() {
                let state = |scheduler: &Scheduler| {
                    let status = scheduler.status(job, Detail::Stages)?;
                    let done = |stage: &StageStatus| (stage.done, stage.partitions);
                    let done: Vec<_> = status.stages.iter().map(done).collect();
                    Some((status.state, status.failure, done, scheduler.result(job)))
                };
                assert_eq!(state(&restored), state(known), "job {job} in the journal");
            }
        }
    }
}
