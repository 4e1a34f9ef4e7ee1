//! Random places of rows of a shuffle.

use bytes::Bytes;
use kiln_engine::id::StageId;
use kiln_engine::limits;
use kiln_engine::plan::*;

use super::Random;

impl Random {
    pub(super) fn shuffle_source(&mut self) -> (StageSource, TaskInput) {
        let inputs: Vec<_> = (0..1 + self.below(3))
            .map(|_| self.shuffle_input())
            .collect();
        let source = StageSource::Shuffle {
            stages: inputs.iter().map(|input| input.stage).collect(),
            schema: self.schema(),
            deal: self.one(&[Deal::Gather, Deal::Partitions, Deal::Each, Deal::Producers]),
        };
        (source, TaskInput::Shuffle(inputs))
    }

    pub(super) fn range_source(&mut self) -> (StageSource, TaskInput) {
        let mut cuts = self.several(3, Self::cut);
        cuts.sort();
        let sources = self.several(5, |random| ShuffleSource {
            task: random.u32(),
            attempt: random.u32(),
            offset: random.u64() >> 1,
            partitions: random.several(20, Self::partition),
        });
        let range = RangeInput {
            stage: StageId(self.u32()),
            end: cuts.pop(),
            start: cuts.pop(),
            sources,
        };
        let source = StageSource::Shuffle {
            stages: vec![range.stage],
            schema: self.schema(),
            deal: Deal::Ranges,
        };
        (source, TaskInput::Range(range))
    }

    pub(super) fn cut(&mut self) -> Cut {
        let key = self.key();
        Cut::new(key, self.u32())
    }

    fn key(&mut self) -> Bytes {
        let length = self.one(&[0, 1, 20, limits::CUT_KEY_BYTES_MAX]);
        (0..length).map(|_| self.0.u8(..)).collect()
    }

    pub(super) fn stretches(&mut self) -> Vec<Stretch> {
        let mut keys = self.several(30, Self::key);
        keys.sort();
        let stretch = |first_key| Stretch {
            partition: PartitionMeta {
                bytes: self.u64() >> 10 | 1,
                rows: self.u64() | 1,
                checksum: self.u64(),
            },
            first_key,
        };
        keys.into_iter().map(stretch).collect()
    }

    pub(super) fn shuffle_input(&mut self) -> ShuffleInput {
        let (stage, start, len) = (StageId(self.u32()), self.0.u32(..4000), self.0.u32(..20));
        let sources = self.several(5, |random| ShuffleSource {
            task: random.u32(),
            attempt: random.u32(),
            offset: random.u64() >> 1,
            partitions: (0..len).map(|_| random.partition()).collect(),
        });
        ShuffleInput {
            stage,
            partitions: start..start + len,
            sources,
        }
    }

    pub(super) fn partition(&mut self) -> PartitionMeta {
        PartitionMeta {
            bytes: self.u64() >> 10,
            rows: self.u64(),
            checksum: self.u64(),
        }
    }
}
