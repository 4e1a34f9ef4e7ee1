//! Random messages between drivers, executors and worker processes.

use kiln_engine::id::JobId;
use kiln_proto::message::*;

use super::Random;

impl Random {
    pub(crate) fn message_up(&mut self) -> FromExecutor {
        match self.below(4) {
            0 => FromExecutor::Register(self.registration()),
            1 => {
                let running = self.several(4, |random| RunningAttempt {
                    task: random.task(),
                    attempt: random.u32(),
                    counts: random.counts(),
                });
                FromExecutor::Heartbeat {
                    memory_used: self.u64(),
                    running,
                }
            }
            2 => FromExecutor::Draining,
            _ => FromExecutor::Report(Report {
                sequence: self.u64().max(1),
                task: self.task(),
                attempt: self.u32(),
                outcome: match self.bool() {
                    true => Ok(self.success()),
                    false => Err(self.failure()),
                },
            }),
        }
    }

    pub(crate) fn message_down(&mut self) -> ToExecutor {
        match self.below(7) {
            0 => ToExecutor::Welcome(Welcome {
                epoch: self.u64(),
                storage: self.text(),
                heartbeat_ms: self.u64().max(1),
            }),
            1 => ToExecutor::Refused {
                message: self.text(),
            },
            2 => ToExecutor::Launch {
                epoch: self.u64(),
                spec: self.spec(),
            },
            3 => ToExecutor::Cancel {
                task: self.task(),
                attempt: self.u32(),
            },
            4 => ToExecutor::Acknowledge {
                sequence: self.u64(),
            },
            5 => ToExecutor::JobEnded {
                job: JobId::new(self.u64()),
            },
            _ => ToExecutor::Drain,
        }
    }

    pub(crate) fn worker_up(&mut self) -> FromWorker {
        match self.below(4) {
            0 => FromWorker::Hello(WorkerHello {
                protocol: self.u32(),
                platform: self.text(),
                functions: self.texts(),
            }),
            1 => FromWorker::Progress(self.counts()),
            2 => FromWorker::Ended(Ok(self.success())),
            _ => FromWorker::Ended(Err(self.failure())),
        }
    }

    pub(crate) fn worker_down(&mut self) -> ToWorker {
        match self.below(3) {
            0 => ToWorker::Start(WorkerStart {
                threads: self.u32().max(1),
                memory: self.u64(),
                board: self.text(),
                tick_ms: self.u64(),
            }),
            1 => ToWorker::Run(WorkerRun {
                storage: self.text(),
                memory: self.u64(),
                spec: self.spec(),
            }),
            _ => ToWorker::Cancel,
        }
    }
}
