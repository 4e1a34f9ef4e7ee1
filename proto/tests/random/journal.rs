//! Random entries of a journal.

use std::sync::Arc;

use kiln_engine::id::{JobId, StageId};
use kiln_engine::plan::{ClusterShape, FileMeta, Stage, StageFacts, StageGraph, StageSource};
use kiln_proto::message::*;

use super::Random;

impl Random {
    pub(crate) fn writer(&mut self) -> WriterId {
        WriterId(u128::from(self.u64()) << 64 | u128::from(self.u64()))
    }

    pub(crate) fn record(&mut self) -> Record {
        let job = JobId::new(self.u64());
        match self.below(15) {
            0 => Record::Term {
                url: self.text(),
                at_ms: self.u64(),
            },
            1 => Record::Submitted(Box::new(Submitted {
                job,
                at_ms: self.u64(),
                term: self.u64(),
                submission: Submission {
                    name: self.text(),
                    key: self.u64(),
                    plan: self.plan(),
                    program: self.maybe(Self::offered),
                    weight: self.u32().max(1),
                },
            })),
            2 => Record::Planned(Box::new(self.planned(job))),
            3 => {
                let mut ends = self.several(5, Self::u32);
                ends.sort_unstable();
                let producers = match self.bool() {
                    true => ends.iter().map(|_| self.u32()).collect(),
                    false => Vec::new(),
                };
                let mut cuts = self.several(5, Self::cut);
                cuts.sort();
                cuts.dedup();
                Record::Prepared(Prepared {
                    job,
                    stage: StageId(self.u32()),
                    ends,
                    producers,
                    cuts,
                })
            }
            4 => Record::Won(Box::new(Won {
                task: self.task(),
                attempt: self.u32(),
                executor: self.text().into(),
                started_ms: self.u64(),
                ended_ms: self.u64(),
                success: self.success(),
            })),
            5 => Record::Revoked {
                task: self.task(),
                attempt: self.u32(),
            },
            6 => Record::Committing { job },
            7 => Record::Ended(Box::new(Ended {
                job,
                at_ms: self.u64(),
                state: self.one(&[JobState::Done, JobState::Failed, JobState::Cancelled]),
                failure: self.maybe(Self::failure),
            })),
            8 => Record::Cleaned { job },
            9 => Record::ResultDropped { job },
            10 => Record::Forgotten { job },
            11 => Record::Archived {
                key: self.u64(),
                status: Box::new(self.job()),
                cleaned: self.bool(),
            },
            12 => Record::Resigned,
            13 => Record::Untidy { job },
            _ => Record::Alive,
        }
    }

    fn planned(&mut self, job: JobId) -> Planned {
        let cluster = ClusterShape {
            executors: self.u32(),
            threads: self.u32(),
            memory: self.u64(),
            may_grow: self.bool(),
        };
        let done = self.several(4, |random| StageFacts {
            stage: StageId(random.u32()),
            rows: random.u64(),
            bytes: random.u64(),
        });
        let stages = self.several(3, Self::planned_stage);
        Planned {
            job,
            cluster,
            done,
            graph: StageGraph {
                stages,
                complete: self.bool(),
                output: self.maybe(Self::output),
            },
        }
    }

    /// A stage with the files and splits that do not travel to executors.
    fn planned_stage(&mut self) -> Arc<Stage> {
        let mut stage = Stage::clone(&self.spec().stage);
        if let StageSource::Scan(scan) = &mut stage.source {
            scan.files = self.several(4, |random| FileMeta {
                url: random.text(),
                bytes: random.u64(),
            });
            scan.tasks = self.several(4, |random| random.several(3, Self::split));
        }
        Arc::new(stage)
    }
}
