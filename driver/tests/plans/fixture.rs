//! Input files without bytes, plans over them, and clusters to plan for.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use expect_test::ExpectFile;
use kiln_driver::planner::{self, ClusterShape, Planner, StageFacts};
use kiln_engine::Result;
use kiln_engine::expr::{AggregateExpr, Expr, SortKey};
use kiln_engine::plan::{
    FileFormat, LogicalPlan, Output, Scan, ScanFormat, TextOptions, explain_stages, schema_of,
};
use kiln_engine::storage::{Stores, local_url};
use parquet::arrow::ArrowWriter;

const MIB: u64 = 1 << 20;

pub(super) const EMBEDDED: ClusterShape = ClusterShape {
    executors: 1,
    threads: 2,
    memory: 8 << 30,
    may_grow: false,
};
pub(super) const SMALL_MEMORY: ClusterShape = ClusterShape {
    memory: 1 << 30,
    ..EMBEDDED
};
pub(super) const CLUSTER: ClusterShape = ClusterShape {
    executors: 2,
    threads: 8,
    memory: 8 << 30,
    may_grow: true,
};
/// A cluster of which the first executor is there.
pub(super) const GROWING: ClusterShape = ClusterShape {
    may_grow: true,
    ..EMBEDDED
};

/// A directory of input files of given sizes, without bytes in them.
pub(super) struct Inputs(tempfile::TempDir);

impl Inputs {
    pub(super) fn new(mib: impl IntoIterator<Item = u64>) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for (index, mib) in mib.into_iter().enumerate() {
            let file = File::create(directory.path().join(format!("{index}"))).expect("a file");
            file.set_len(mib * MIB).expect("a file of that size");
        }
        Inputs(directory)
    }

    /// Parquet files whose footers tell of two rows, and which hold nothing of those.
    pub(super) fn of_parquet(mib: impl IntoIterator<Item = u64> + Clone) -> Self {
        let inputs = Inputs::new(mib.clone());
        let rows: [(&str, ArrayRef); 4] = [
            ("country", Arc::new(StringArray::from(vec!["nz", "fi"]))),
            ("device", Arc::new(StringArray::from(vec!["phone", "desk"]))),
            ("price", Arc::new(Float64Array::from(vec![1.0, 9.0]))),
            ("note", Arc::new(StringArray::from(vec!["", ""]))),
        ];
        let rows = RecordBatch::try_from_iter(rows).expect("columns of one length");
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, rows.schema(), None).expect("a writer");
        writer.write(&rows).expect("rows");
        writer.close().expect("a file");
        let (rest, tail) = bytes.split_last_chunk::<8>().expect("a file has a tail");
        let length = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]) as usize;
        let footer = &bytes[rest.len() - length..];
        for (index, mib) in mib.into_iter().enumerate() {
            let path = inputs.0.path().join(format!("{index}"));
            let file = File::options().write(true).open(path).expect("the file");
            let at = mib * MIB - footer.len() as u64;
            file.write_all_at(footer, at).expect("room for the footer");
        }
        inputs
    }

    /// Writes the first bytes of a file.
    pub(super) fn begin_with(&self, file: usize, bytes: &[u8]) {
        let path = self.0.path().join(format!("{file}"));
        let file = File::options().write(true).open(path).expect("the file");
        file.write_all_at(bytes, 0).expect("room for the bytes");
    }

    pub(super) fn location(&self) -> String {
        local_url(self.0.path())
    }

    pub(super) fn scan(
        &self,
        format: ScanFormat,
        columns: &[(&str, DataType)],
    ) -> Arc<LogicalPlan> {
        let fields = columns
            .iter()
            .map(|(name, data_type)| Field::new(*name, data_type.clone(), true));
        Arc::new(LogicalPlan::Scan(Scan {
            locations: vec![self.location()],
            format,
            schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
            projection: None,
            predicate: None,
        }))
    }

    pub(super) fn lines(&self) -> Arc<LogicalPlan> {
        let columns = [
            ("path", DataType::Utf8View),
            ("offset", DataType::Int64),
            ("line", DataType::Utf8View),
        ];
        self.scan(ScanFormat::Text(TextOptions::default()), &columns)
    }

    pub(super) fn sales(&self, format: ScanFormat) -> Arc<LogicalPlan> {
        let columns = [
            ("country", DataType::Utf8View),
            ("device", DataType::Utf8View),
            ("price", DataType::Float64),
            ("note", DataType::Utf8View),
        ];
        self.scan(format, &columns)
    }

    pub(super) async fn explain(
        &self,
        plan: &LogicalPlan,
        cluster: &ClusterShape,
    ) -> Result<String> {
        let text = planner::explain(plan, cluster, &Stores::default()).await?;
        Ok(text.replace(&self.location(), "file:///in"))
    }

    /// The stages of `plan` if each of them writes so many bytes.
    pub(super) async fn stages_of(
        &self,
        plan: &LogicalPlan,
        cluster: &ClusterShape,
        bytes: u64,
    ) -> String {
        let planner = Planner::new(plan, *cluster, &Stores::default()).await;
        let mut planner = planner.expect("a plan that fits together");
        let mut graph = planner.advance(&[]).expect("stages");
        while !graph.complete {
            let done = graph.stages.iter().map(|stage| StageFacts {
                stage: stage.id,
                rows: 1,
                bytes,
            });
            let done: Vec<_> = done.collect();
            let more = planner.advance(&done).expect("stages");
            assert!(more.complete || !more.stages.is_empty(), "no stage follows");
            graph.stages.extend(more.stages);
            graph.complete = more.complete;
        }
        explain_stages(&graph).replace(&self.location(), "file:///in")
    }

    pub(super) async fn check(
        &self,
        plan: Arc<LogicalPlan>,
        cluster: &ClusterShape,
        expected: ExpectFile,
    ) {
        let text = self
            .explain(&plan, cluster)
            .await
            .expect("a plan that fits together");
        expected.assert_eq(&text);
        let planner = Planner::new(&plan, *cluster, &Stores::default()).await;
        let graph = planner.and_then(Planner::foresee).expect("stages");
        let result = graph.stages.last().expect("a last stage");
        let wanted = schema_of(&plan).expect("a plan that fits together");
        assert_eq!(
            columns(&result.schema),
            columns(&wanted),
            "the stages make other columns"
        );
    }
}

fn columns(schema: &Schema) -> Vec<(&String, &DataType)> {
    schema
        .fields()
        .iter()
        .map(|field| (field.name(), field.data_type()))
        .collect()
}

pub(super) fn project<const N: usize>(
    input: Arc<LogicalPlan>,
    exprs: [Expr; N],
) -> Arc<LogicalPlan> {
    Arc::new(LogicalPlan::Project {
        input,
        exprs: exprs.into(),
    })
}

pub(super) fn filter(input: Arc<LogicalPlan>, predicate: Expr) -> Arc<LogicalPlan> {
    Arc::new(LogicalPlan::Filter { input, predicate })
}

pub(super) fn aggregate<const K: usize, const A: usize>(
    input: Arc<LogicalPlan>,
    group_by: [Expr; K],
    aggregates: [AggregateExpr; A],
) -> Arc<LogicalPlan> {
    let (group_by, aggregates) = (group_by.into(), aggregates.into());
    Arc::new(LogicalPlan::Aggregate {
        input,
        group_by,
        aggregates,
    })
}

pub(super) fn sort<const N: usize>(
    input: Arc<LogicalPlan>,
    keys: [SortKey; N],
) -> Arc<LogicalPlan> {
    Arc::new(LogicalPlan::Sort {
        input,
        keys: keys.into(),
        limit: None,
    })
}

pub(super) fn limit(input: Arc<LogicalPlan>, offset: u64, limit: u64) -> Arc<LogicalPlan> {
    Arc::new(LogicalPlan::Limit {
        input,
        offset,
        limit,
    })
}

pub(super) fn write(input: Arc<LogicalPlan>) -> Arc<LogicalPlan> {
    let output = Output {
        url: "file:///out".to_owned(),
        format: FileFormat::Parquet,
        options: Default::default(),
    };
    Arc::new(LogicalPlan::Write { input, output })
}
