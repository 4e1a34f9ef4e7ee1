//! Random values of everything that travels, from a seed.

mod choices;
mod journal;
mod messages;
mod shuffle;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use kiln_engine::ErrorKind;
use kiln_engine::error::LostOutput;
use kiln_engine::expr::{AggregateExpr, AggregateFunction, Expr, Function, Literal, SortKey};
use kiln_engine::id::{ExecutorId, JobId, StageId, TaskId};
use kiln_engine::metrics::{Counts, OperatorCounts, Warning};
use kiln_engine::plan::*;
use kiln_engine::udf::{AggregateType, AggregateUdf, GroupUdf, ScalarType, ScalarUdf, TableUdf};
use kiln_proto::message::*;

use choices::{AGGREGATES, OPS, STEPS};

/// A stream of random values.
pub(crate) struct Random(fastrand::Rng);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(fastrand::Rng::with_seed(seed))
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0.usize(..bound)
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.0.u8(..)).collect()
    }

    fn bool(&mut self) -> bool {
        self.0.bool()
    }

    /// Small numbers and the ends of the range are as likely as all others together.
    fn u64(&mut self) -> u64 {
        match self.below(4) {
            0 => self.0.u64(..10),
            1 => u64::MAX - self.0.u64(..2),
            _ => self.0.u64(..) >> self.below(64),
        }
    }

    fn u32(&mut self) -> u32 {
        self.u64() as u32
    }

    fn one<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.bool().then(|| make(self))
    }

    fn several<T>(&mut self, below: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(below)).map(|_| make(self)).collect()
    }

    fn text(&mut self) -> String {
        let alphabet = ['a', 'Z', '0', ' ', '\0', '\n', 'ß', '字', '🦀', '"', '/'];
        self.several(12, |random| random.one(&alphabet))
            .into_iter()
            .collect()
    }

    fn texts(&mut self) -> Vec<String> {
        self.several(4, Self::text)
    }

    fn data_type(&mut self, depth: usize) -> DataType {
        let item = |random: &mut Self| {
            let nullable = random.bool();
            Arc::new(Field::new("item", random.data_type(depth - 1), nullable))
        };
        match self.below(if depth == 0 { 9 } else { 13 }) {
            0 => DataType::Null,
            1 => DataType::Boolean,
            2 => DataType::Int64,
            3 => DataType::Utf8View,
            4 => DataType::Binary,
            5 => DataType::Decimal64(self.0.u8(1..=18), self.0.i8(-3..=3)),
            6 => DataType::Decimal128(self.0.u8(1..=38), self.0.i8(-3..=3)),
            7 => DataType::Timestamp(TimeUnit::Microsecond, self.maybe(|_| "Europe/Paris".into())),
            8 => DataType::FixedSizeBinary(self.0.i32(0..100)),
            9 => DataType::List(item(self)),
            10 => DataType::FixedSizeList(item(self), self.0.i32(0..100)),
            11 => DataType::Struct(self.schema_at(depth - 1).fields().clone()),
            _ => DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
        }
    }

    fn schema_at(&mut self, depth: usize) -> Schema {
        let fields = self.several(4, |random| {
            let (name, nullable) = (random.text(), random.bool());
            let field = Field::new(name, random.data_type(depth), nullable);
            let metadata = random.several(2, |r| (r.text(), r.text()));
            field.with_metadata(metadata.into_iter().collect::<HashMap<_, _>>())
        });
        Schema::new(fields)
    }

    pub(crate) fn schema(&mut self) -> SchemaRef {
        let metadata = self.several(3, |random| (random.text(), random.text()));
        let schema = self.schema_at(3);
        Arc::new(schema.with_metadata(metadata.into_iter().collect::<HashMap<_, _>>()))
    }

    fn literal(&mut self) -> Literal {
        match self.below(10) {
            0 => Literal::Null,
            1 => Literal::Boolean(self.bool()),
            2 => Literal::Int64(self.u64() as i64),
            3 => Literal::Float64(self.one(&[0.5, -0.0, f64::INFINITY, f64::MIN_POSITIVE, 1e300])),
            4 => Literal::Utf8(self.text()),
            5 => {
                let len = self.below(9);
                Literal::Binary(self.bytes(len))
            }
            6 => {
                let precision = self.0.u8(1..=38);
                Literal::Decimal {
                    unscaled: self.0.i128(..) >> self.below(128),
                    precision,
                    scale: self.0.i8(-38..=precision.cast_signed()),
                }
            }
            7 => Literal::Date(self.u32().cast_signed()),
            8 => Literal::Timestamp {
                micros: self.u64().cast_signed(),
                zone: self.maybe(Self::text),
            },
            _ => Literal::Interval {
                months: self.u32().cast_signed(),
                days: self.u32().cast_signed(),
                nanos: self.u64().cast_signed(),
            },
        }
    }

    pub(crate) fn expr(&mut self, depth: usize) -> Expr {
        let below = |random: &mut Self| Box::new(random.expr(depth - 1));
        match self.below(if depth == 0 { 2 } else { 13 }) {
            0 => Expr::Column(self.text()),
            1 => Expr::Literal(self.literal()),
            2 => Expr::Not(below(self)),
            3 => Expr::Negate(below(self)),
            4 => Expr::IsNull(below(self)),
            5 => Expr::Cast {
                expr: below(self),
                to: self.data_type(2),
                lenient: self.bool(),
            },
            6 => Expr::Function {
                function: self.one(Function::ALL),
                args: self.several(4, |random| random.expr(depth - 1)),
            },
            7 => Expr::Alias {
                expr: below(self),
                name: self.text(),
            },
            8 => Expr::Case {
                branches: (0..1 + self.below(3))
                    .map(|_| (self.expr(depth - 1), self.expr(depth - 1)))
                    .collect(),
                otherwise: self.maybe(below),
            },
            10 => Expr::Udf {
                function: self.scalar_function(),
                args: self.several(4, |random| random.expr(depth - 1)),
            },
            9 => Expr::InList {
                expr: below(self),
                list: self.several(4, |random| random.expr(depth - 1)),
            },
            _ => Expr::Binary {
                left: below(self),
                op: self.one(&OPS),
                right: below(self),
            },
        }
    }

    fn exprs(&mut self) -> Vec<Expr> {
        self.several(4, |random| random.expr(4))
    }

    fn aggregate_function(&mut self) -> AggregateFunction {
        if self.below(8) > 0 {
            let chosen = self.below(AGGREGATES.len());
            return AGGREGATES[chosen].clone();
        }
        let output = AggregateType {
            arguments: self.several(3, |random| random.data_type(1)),
            state: self.data_type(2),
            returns: self.data_type(1),
        };
        let function = AggregateUdf::new(self.text(), self.text(), output, None);
        AggregateFunction::Udf(function)
    }

    fn scalar_function(&mut self) -> ScalarUdf {
        let output = ScalarType {
            arguments: self.maybe(|random| random.several(3, |random| random.data_type(1))),
            returns: self.data_type(2),
        };
        ScalarUdf::new(self.text(), self.text(), output, None)
    }

    fn aggregates(&mut self) -> Vec<AggregateExpr> {
        self.several(4, |random| {
            let function = random.aggregate_function();
            let count = match &function {
                AggregateFunction::Count if random.bool() => 0,
                AggregateFunction::Udf(function) => function.output().arguments.len(),
                _ => 1,
            };
            AggregateExpr {
                arguments: (0..count).map(|_| random.expr(3)).collect(),
                function,
                filter: random.maybe(|random| random.expr(2)),
                name: random.text(),
            }
        })
    }

    fn sort_keys(&mut self) -> Vec<SortKey> {
        self.several(4, |random| SortKey {
            expr: random.expr(2),
            descending: random.bool(),
            nulls_first: random.bool(),
        })
    }

    fn format(&mut self) -> ScanFormat {
        match self.below(3) {
            0 => ScanFormat::Text(TextOptions {
                record: self.one(&[TextRecord::Line, TextRecord::Word]),
                strict: self.bool(),
            }),
            1 => ScanFormat::Csv(CsvOptions {
                header: self.bool(),
                delimiter: self.0.u8(..),
                null_value: self.bool().then(|| "NA".to_owned()),
            }),
            _ => ScanFormat::Parquet,
        }
    }

    fn output(&mut self) -> Output {
        let format = self.one(&[
            FileFormat::Parquet,
            FileFormat::Csv,
            FileFormat::Json,
            FileFormat::Text,
        ]);
        Output {
            url: self.text(),
            format,
            options: OutputOptions {
                mode: self.one(&[
                    OutputMode::ErrorIfExists,
                    OutputMode::Overwrite,
                    OutputMode::Append,
                ]),
                row_group_rows: self.maybe(Self::u64),
                compression: self.maybe(Self::compression),
                sort_by: self.several(3, |random| ColumnOrder {
                    column: random.text(),
                    descending: random.bool(),
                    nulls_first: random.bool(),
                }),
                file_bytes: self.maybe(Self::u64),
                directories: self.maybe(Self::text),
            },
        }
    }

    fn compression(&mut self) -> FileCompression {
        match self.below(5) {
            0 => FileCompression::None,
            1 => FileCompression::Snappy,
            2 => FileCompression::Lz4,
            3 => FileCompression::Gzip,
            _ => FileCompression::Zstd(self.0.u8(..)),
        }
    }

    pub(crate) fn scan(&mut self) -> LogicalPlan {
        LogicalPlan::Scan(Scan {
            locations: self.texts(),
            format: self.format(),
            schema: self.schema(),
            projection: self.maybe(Self::texts),
            predicate: self.maybe(|random| random.expr(3)),
        })
    }

    /// A plan in which several operators may read from the same one.
    pub(crate) fn plan(&mut self) -> LogicalPlan {
        let mut made: Vec<Arc<LogicalPlan>> = Vec::new();
        let mut plan = self.scan();
        for _ in 0..self.below(12) {
            let input = Arc::new(plan);
            made.push(Arc::clone(&input));
            plan = match self.below(4) {
                0 => {
                    let other = match self.bool() {
                        true => Arc::new(self.scan()),
                        false => Arc::clone(&made[self.below(made.len())]),
                    };
                    self.join(input, other)
                }
                1 => {
                    let others =
                        self.several(3, |random| Arc::clone(&made[random.below(made.len())]));
                    let inputs = others.into_iter().chain([input]).collect();
                    LogicalPlan::Union { inputs }
                }
                _ => self.over_one(input),
            };
        }
        plan
    }

    fn join(&mut self, left: Arc<LogicalPlan>, right: Arc<LogicalPlan>) -> LogicalPlan {
        use JoinKind::*;
        LogicalPlan::Join {
            left,
            right,
            kind: self.one(&[Inner, Left, Right, Full, Semi, Anti]),
            on: self.several(3, |random| (random.expr(2), random.expr(2))),
            filter: self.maybe(|random| random.expr(3)),
        }
    }

    fn over_one(&mut self, input: Arc<LogicalPlan>) -> LogicalPlan {
        match self.below(11) {
            0 => LogicalPlan::Project {
                input,
                exprs: self.exprs(),
            },
            1 => LogicalPlan::Filter {
                input,
                predicate: self.expr(5),
            },
            2 => LogicalPlan::Explode {
                input,
                column: self.text(),
            },
            3 => {
                let (group_by, aggregates) = (self.exprs(), self.aggregates());
                LogicalPlan::Aggregate {
                    input,
                    group_by,
                    aggregates,
                }
            }
            4 => LogicalPlan::Sort {
                input,
                keys: self.sort_keys(),
                limit: self.maybe(Self::u64),
            },
            6 => LogicalPlan::Apply {
                input,
                function: self.table_function(),
            },
            7 => LogicalPlan::Reduce {
                input,
                keys: self.texts(),
                order: self.sort_keys(),
                function: self.group_function(),
                local: self.bool(),
            },
            5 => LogicalPlan::Limit {
                input,
                offset: self.u64(),
                limit: self.u64(),
            },
            8 => LogicalPlan::Repartition {
                input,
                keys: self.texts(),
                partitions: self.u32(),
            },
            9 => LogicalPlan::SortPartitions {
                input,
                keys: self.sort_keys(),
            },
            _ => LogicalPlan::Write {
                input,
                output: self.output(),
            },
        }
    }

    fn table_function(&mut self) -> TableUdf {
        TableUdf::new(self.text(), self.text(), self.schema(), None)
    }

    fn group_function(&mut self) -> GroupUdf {
        GroupUdf::new(self.text(), self.text(), self.schema(), None)
    }

    /// A step of a stage that has this many sides.
    fn operator(&mut self, sides: usize) -> OperatorSpec {
        use AggregateMode::*;
        match self.below(if sides == 0 { 9 } else { 12 }) {
            0 => OperatorSpec::Project {
                exprs: self.exprs(),
            },
            1 => OperatorSpec::Filter {
                predicate: self.expr(5),
            },
            2 => OperatorSpec::Explode {
                column: self.text(),
            },
            3 => OperatorSpec::Aggregate {
                mode: self.one(&[Single, Partial, Final]),
                group_by: self.exprs(),
                aggregates: self.aggregates(),
            },
            4 => OperatorSpec::TopK {
                keys: self.sort_keys(),
                limit: self.u64(),
            },
            5 => OperatorSpec::Sort {
                keys: self.sort_keys(),
            },
            6 => OperatorSpec::Limit {
                offset: self.u64(),
                limit: self.u64(),
            },
            7 => OperatorSpec::Apply {
                function: self.table_function(),
            },
            8 => OperatorSpec::Reduce {
                keys: self.texts(),
                order: self.sort_keys(),
                function: self.group_function(),
                local: self.bool(),
            },
            _ => OperatorSpec::Join(self.join_step(sides)),
        }
    }

    fn join_step(&mut self, sides: usize) -> JoinStep {
        let keys = self.below(3);
        JoinStep {
            side: self.below(sides),
            kind: self.one(&STEPS),
            probe_keys: (0..keys).map(|_| self.expr(2)).collect(),
            build_keys: (0..keys).map(|_| self.expr(2)).collect(),
            filter: self.maybe(|random| random.expr(3)),
            output: self.texts(),
        }
    }

    fn sink(&mut self) -> SinkSpec {
        match self.below(4) {
            0 => SinkSpec::Shuffle {
                partitioning: Partitioning::Single,
            },
            3 => SinkSpec::Shuffle {
                partitioning: Partitioning::Sorted,
            },
            1 => {
                let (keys, partitions) = (self.texts(), self.0.u32(1..=4096));
                SinkSpec::Shuffle {
                    partitioning: Partitioning::Hash { keys, partitions },
                }
            }
            _ => SinkSpec::Files {
                output: self.output(),
            },
        }
    }

    pub(crate) fn task(&mut self) -> TaskId {
        let (job, stage) = (JobId::new(self.u64()), StageId(self.u32()));
        TaskId {
            job,
            stage,
            task: self.u32(),
        }
    }

    pub(crate) fn spec(&mut self) -> TaskSpec {
        let (id, attempt) = (self.task(), self.u32());
        let sides: Vec<ShuffleInput> = self.several(4, Self::shuffle_input);
        let mut operators = self.several(5, |random| random.operator(sides.len()));
        let sink = self.sink();
        if let SinkSpec::Shuffle {
            partitioning: Partitioning::Sorted,
        } = sink
        {
            let keys = self.sort_keys();
            operators.push(OperatorSpec::Sort { keys });
        }
        let (source, input) = match self.below(3) {
            0 => (
                StageSource::Scan(self.scan_source(&operators)),
                TaskInput::Splits(self.several(5, Self::split)),
            ),
            1 => self.shuffle_source(),
            _ => {
                let keys = self.sort_keys();
                operators.insert(0, OperatorSpec::Sort { keys });
                self.range_source()
            }
        };
        let stage = Stage {
            id: id.stage,
            source,
            sides: sides.iter().map(|input| self.side(input)).collect(),
            operators,
            sink,
            schema: self.schema(),
        };
        TaskSpec {
            id,
            attempt,
            stage: Arc::new(stage),
            input,
            sides,
            program: self.maybe(Self::program).map(Arc::new),
        }
    }

    pub(crate) fn program(&mut self) -> Program {
        let environment = self.several(3, |random| (random.text(), random.text()));
        let mut sha256 = Sha256([0; 32]);
        self.0.fill(&mut sha256.0);
        Program {
            binary: match self.bool() {
                true => Binary::Kiln,
                false => Binary::Staged {
                    sha256,
                    bytes: self.u64(),
                },
            },
            memory: self.u64(),
            call_ms: self.u64(),
            environment: environment.into_iter().collect(),
        }
    }

    pub(crate) fn offered(&mut self) -> OfferedProgram {
        OfferedProgram {
            program: self.program(),
            platform: self.text(),
            protocol: self.u32(),
            functions: self.texts(),
        }
    }

    fn side(&mut self, input: &ShuffleInput) -> Side {
        Side {
            stage: input.stage,
            schema: self.schema(),
            broadcast: self.bool(),
        }
    }

    /// A scan that filters by some of the keys of the joins among `operators`.
    fn scan_source(&mut self, operators: &[OperatorSpec]) -> ScanSpec {
        let file_schema = self.schema();
        let columns = file_schema.fields().len();
        let mut projection = Vec::new();
        let mut key_filters = Vec::new();
        if columns > 0 {
            projection = self.several(5, |random| random.below(columns));
            for (operator, step) in operators.iter().enumerate() {
                let OperatorSpec::Join(join) = step else {
                    continue;
                };
                key_filters.extend((0..join.probe_keys.len()).map(|key| KeyFilterSpec {
                    column: self.below(columns),
                    operator,
                    key,
                }));
            }
        }
        ScanSpec {
            format: self.format(),
            file_schema,
            projection,
            predicate: self.maybe(|random| random.expr(3)),
            key_filters,
            files: Vec::new(),
            tasks: Vec::new(),
        }
    }

    fn split(&mut self) -> Split {
        let (a, b) = (self.u64(), self.u64());
        Split {
            url: self.text(),
            file_bytes: self.u64(),
            start: a.min(b),
            end: a.max(b),
        }
    }

    fn counts(&mut self) -> Counts {
        Counts {
            rows_in: self.u64(),
            bytes_in: self.u64(),
            rows_out: self.u64(),
            bytes_out: self.u64(),
            gets: self.u64(),
            puts: self.u64(),
            objects: self.u64(),
            compute_nanos: self.u64(),
            spilled_bytes: self.u64(),
            row_groups: self.u64(),
            row_groups_pruned: self.u64(),
            pages_pruned: self.u64(),
            rows_scanned: self.u64(),
            rows_pruned: self.u64(),
            build_rows: self.u64(),
            build_bytes: self.u64(),
            operators: self.several(5, |random| OperatorCounts {
                rows_out: random.u64(),
                batches: random.u64(),
                nanos: random.u64(),
            }),
            user: Box::new(
                self.several(3, |random| (random.text(), random.u64()))
                    .into_iter()
                    .collect(),
            ),
        }
    }

    fn warnings(&mut self) -> Vec<Warning> {
        self.several(4, |random| Warning {
            subject: random.text(),
            message: random.text(),
            count: random.u64(),
        })
    }

    pub(crate) fn success(&mut self) -> TaskSuccess {
        let output = match self.below(3) {
            0 => TaskOutput::Shuffle(self.several(30, Self::partition)),
            1 => TaskOutput::Sorted(self.stretches()),
            _ => TaskOutput::Files(self.several(4, |random| OutputFile {
                name: random.text(),
                rows: random.u64(),
                bytes: random.u64(),
                checksum: random.u64(),
                pending: random.maybe(|random| PendingUpload {
                    id: random.text(),
                    parts: random.several(3, Self::text),
                }),
            })),
        };
        TaskSuccess {
            output,
            counts: self.counts(),
            warnings: self.warnings(),
        }
    }

    pub(crate) fn failure(&mut self) -> TaskFailure {
        let lost = self.maybe(|random| LostOutput {
            stage: StageId(random.u32()),
            task: random.u32(),
            attempt: random.u32(),
        });
        TaskFailure {
            kind: self.one(&KINDS),
            message: self.text(),
            lost,
        }
    }

    fn registration(&mut self) -> Registration {
        Registration {
            executor: ExecutorId(self.u64()),
            name: self.text(),
            protocol: self.u32(),
            threads: self.u32().max(1),
            slots: self.u32().max(1),
            memory: self.u64(),
        }
    }

    pub(crate) fn job(&mut self) -> JobStatus {
        use JobState::*;
        JobStatus {
            id: JobId::new(self.u64()),
            name: self.text(),
            state: self.one(&[Planning, Running, Committing, Done, Failed, Cancelled]),
            failure: self.maybe(Self::failure),
            submitted_ms: self.u64(),
            ended_ms: self.maybe(Self::u64),
            stages: self.several(4, Self::stage_status),
            warnings: self.warnings(),
            note: self.maybe(Self::text),
            output: self.maybe(Self::output),
        }
    }

    fn stage_status(&mut self) -> StageStatus {
        StageStatus {
            id: StageId(self.u32()),
            description: self.text(),
            reads_shuffle: self.bool(),
            writes_shuffle: self.bool(),
            tasks: self.u32(),
            done: self.u32(),
            input_bytes: self.u64(),
            counts: self.counts(),
            started_ms: self.maybe(Self::u64),
            ended_ms: self.maybe(Self::u64),
            attempts: self.several(4, Self::attempt_status),
            partitions: self.maybe(Self::partitions_read),
        }
    }

    fn partitions_read(&mut self) -> PartitionsRead {
        PartitionsRead {
            count: self.u32(),
            split: self.u32(),
            slices: self.u32(),
            rows: self.u64(),
            largest_rows: self.u64(),
        }
    }

    fn attempt_status(&mut self) -> AttemptStatus {
        use AttemptState::*;
        AttemptStatus {
            task: self.u32(),
            attempt: self.u32(),
            executor: self.text(),
            state: self.one(&[Running, Won, Failed, Lost, Cancelled]),
            started_ms: self.u64(),
            ended_ms: self.maybe(Self::u64),
            counts: self.counts(),
            failure: self.maybe(Self::failure),
        }
    }

    pub(crate) fn executor(&mut self) -> ExecutorStatus {
        let registration = self.registration();
        ExecutorStatus {
            registration,
            running: self.u32(),
            draining: self.bool(),
        }
    }
}

pub(crate) const KINDS: [ErrorKind; 6] = [
    ErrorKind::Invalid,
    ErrorKind::Unavailable,
    ErrorKind::Corrupt,
    ErrorKind::Exhausted,
    ErrorKind::Cancelled,
    ErrorKind::Internal,
];
