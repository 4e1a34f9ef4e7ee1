//! Joins in whole tasks: sides are read from shuffle objects, shared, and looked up in.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use futures::TryStreamExt;
use kiln_engine::context::TaskContext;
use kiln_engine::expr::{col, count_all, sum};
use kiln_engine::id::{JobId, StageId, TaskId};
use kiln_engine::metrics::{Counts, TaskMetrics};
use kiln_engine::plan::{
    AggregateMode, CsvOptions, JoinStep, OperatorSpec, Partitioning, ScanFormat, ScanSpec,
    ShuffleInput, ShuffleSource, Side, SinkSpec, Split, Stage, StageSource, StepKind, TaskInput,
    TaskOutput, TaskSpec,
};
use kiln_engine::shuffle::{decode_blocks, fetch_blocks};
use kiln_engine::task;
use object_store::{ObjectStoreExt, PutPayload};

use crate::aggregates::context;
use crate::join_data::lines;

/// Puts `text` as a file into the context's memory; the source and input that read it.
async fn csv(
    ctx: &TaskContext,
    name: &str,
    text: &str,
    columns: &[(&str, DataType)],
) -> (StageSource, TaskInput) {
    let url = format!("memory:///in/{name}");
    let (store, path) = ctx.stores.get(&url).expect("a store in memory");
    let payload = PutPayload::from(text.as_bytes().to_vec());
    store.put(&path, payload).await.expect("memory takes it");
    let scan = ScanSpec {
        format: ScanFormat::Csv(CsvOptions::default()),
        file_schema: schema(columns),
        projection: (0..columns.len()).collect(),
        predicate: None,
        key_filters: vec![],
        files: vec![],
        tasks: vec![],
    };
    let bytes = text.len() as u64;
    let split = Split {
        url,
        file_bytes: bytes,
        start: 0,
        end: bytes,
    };
    (StageSource::Scan(scan), TaskInput::Splits(vec![split]))
}

fn schema(columns: &[(&str, DataType)]) -> SchemaRef {
    let field = |(name, data_type): &(&str, DataType)| Field::new(*name, data_type.clone(), true);
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

/// The columns, then the number of rows.
fn with_count(columns: &[(&str, DataType)]) -> SchemaRef {
    let fields = schema(columns);
    let fields = fields.fields().iter().map(|field| field.as_ref().clone());
    let count = Field::new("n", DataType::Int64, false);
    Arc::new(Schema::new(fields.chain([count]).collect::<Vec<_>>()))
}

fn job() -> JobId {
    JobId::new(7)
}

/// A task of a stage that writes one partition.
fn task(
    (stage, task): (u32, u32),
    (source, input): (StageSource, TaskInput),
    sides: &[(Side, ShuffleInput)],
    operators: Vec<OperatorSpec>,
    schema: SchemaRef,
) -> TaskSpec {
    let stage = Stage {
        id: StageId(stage),
        source,
        sides: sides.iter().map(|(side, _)| side.clone()).collect(),
        operators,
        sink: SinkSpec::Shuffle {
            partitioning: Partitioning::Single,
        },
        schema,
    };
    TaskSpec {
        id: TaskId {
            job: job(),
            stage: stage.id,
            task,
        },
        attempt: 0,
        stage: Arc::new(stage),
        input,
        sides: sides.iter().map(|(_, input)| input.clone()).collect(),
        program: None,
    }
}

/// Runs a task; what it wrote, for another to read, and what it counted.
async fn run(spec: &TaskSpec, ctx: &TaskContext) -> (ShuffleInput, Counts) {
    let ctx = TaskContext {
        metrics: Arc::new(TaskMetrics::default()),
        ..ctx.clone()
    };
    let success = task::run(spec.clone(), ctx)
        .await
        .expect("a task that runs");
    let TaskOutput::Shuffle(partitions) = success.output else {
        panic!("a shuffle was asked for");
    };
    let source = ShuffleSource {
        task: spec.id.task,
        attempt: 0,
        offset: 0,
        partitions,
    };
    let input = ShuffleInput {
        stage: spec.stage.id,
        partitions: 0..1,
        sources: vec![source],
    };
    (input, success.counts)
}

/// The rows that a task wrote, as text.
async fn rows(written: &ShuffleInput, ctx: &TaskContext) -> Vec<String> {
    let source = &written.sources[0];
    let blocks = fetch_blocks(&ctx.shuffle, job(), written.stage, source);
    let blocks: Vec<_> = blocks.try_collect().await.expect("objects that are there");
    let mut batches = Vec::new();
    for bytes in blocks {
        let mut emit = |batch| {
            batches.push(batch);
            Ok(())
        };
        decode_blocks(bytes, None, &mut emit).expect("whole blocks");
    }
    lines(&batches)
}

const CUSTOMERS: &str = "id,name\n1,Ada\n2,Grace\n3,Edsger\n";
const CUSTOMER: [(&str, DataType); 2] = [("id", DataType::Int64), ("name", DataType::Utf8View)];
const ORDERS: &str = "customer,price\n1,10\n2,20\n1,30\n9,40\n,50\n";
const ORDER: [(&str, DataType); 2] = [("customer", DataType::Int64), ("price", DataType::Int64)];

/// The customers as a side, written by a stage before, without those that `text` does not have.
async fn customers(ctx: &TaskContext, text: &str) -> (Side, ShuffleInput) {
    let source = csv(ctx, "customers.csv", text, &CUSTOMER).await;
    let spec = task((0, 0), source, &[], vec![], schema(&CUSTOMER));
    let side = Side {
        stage: StageId(0),
        schema: schema(&CUSTOMER),
        broadcast: true,
    };
    (side, run(&spec, ctx).await.0)
}

fn by_customer(kind: StepKind, output: &[&str]) -> OperatorSpec {
    OperatorSpec::Join(JoinStep {
        side: 0,
        kind,
        probe_keys: vec![col("customer")],
        build_keys: vec![col("id")],
        filter: None,
        output: output.iter().map(|&name| name.to_owned()).collect(),
    })
}

#[tokio::test]
async fn every_operator_counts_what_passes() {
    let ctx = context(1 << 30);
    let sides = [customers(&ctx, CUSTOMERS).await];
    let source = csv(&ctx, "orders.csv", ORDERS, &ORDER).await;
    let columns = [("name", DataType::Utf8View), ("sum", DataType::Int64)];
    let operators = vec![
        by_customer(StepKind::FullOuter, &["name", "price"]),
        OperatorSpec::Aggregate {
            mode: AggregateMode::Single,
            group_by: vec![col("name")],
            aggregates: vec![sum(col("price")).alias("sum"), count_all().alias("n")],
        },
    ];
    let spec = task((1, 0), source, &sides, operators, with_count(&columns));
    let (written, counts) = run(&spec, &ctx).await;
    let expected = ["Ada|40|2", "Edsger||1", "Grace|20|1", "|90|2"];
    assert_eq!(rows(&written, &ctx).await, expected);
    let out: Vec<u64> = counts
        .operators
        .iter()
        .map(|operator| operator.rows_out)
        .collect();
    // The source, the join (five orders and Edsger, who has none), the aggregate, the sink.
    assert_eq!(out, [5, 6, 4, 4]);
    assert_eq!(counts.build_rows, 3);
    assert!(counts.build_bytes > 0);
    assert_eq!(ctx.memory.used(), 0, "all memory is given back");
}

#[tokio::test]
async fn tasks_that_run_together_share_a_table() {
    let ctx = context(1 << 30);
    let sides = [customers(&ctx, CUSTOMERS).await];
    let source = csv(&ctx, "orders.csv", ORDERS, &ORDER).await;
    let specs: Vec<TaskSpec> = (0..4)
        .map(|number| {
            let operators = vec![by_customer(StepKind::Inner, &["price", "name"])];
            let columns = [("price", DataType::Int64), ("name", DataType::Utf8View)];
            task(
                (1, number),
                source.clone(),
                &sides,
                operators,
                schema(&columns),
            )
        })
        .collect();
    let ended = futures::future::join_all(specs.iter().map(|spec| run(spec, &ctx))).await;
    let mut built = 0;
    for (written, counts) in ended {
        assert_eq!(rows(&written, &ctx).await, ["10|Ada", "20|Grace", "30|Ada"]);
        built += counts.build_rows;
    }
    assert_eq!(built, 3, "one of the four tasks built the table");
}

#[tokio::test]
async fn a_join_without_build_rows_does_not_read_its_source() {
    let ctx = context(1 << 30);
    let sides = [customers(&ctx, "id,name\n").await];
    let (source, _) = csv(&ctx, "orders.csv", ORDERS, &ORDER).await;
    let nowhere = Split {
        url: "memory:///in/not-there.csv".to_owned(),
        file_bytes: 100,
        start: 0,
        end: 100,
    };
    for (kind, expected) in [
        (StepKind::Inner, vec!["0"]),
        (StepKind::ProbeSemi, vec!["0"]),
        (StepKind::BuildAnti, vec!["0"]),
    ] {
        let name = if kind == StepKind::BuildAnti {
            "id"
        } else {
            "customer"
        };
        let operators = vec![
            by_customer(kind, &[name]),
            OperatorSpec::Aggregate {
                mode: AggregateMode::Single,
                group_by: vec![],
                aggregates: vec![count_all().alias("n")],
            },
        ];
        let input = TaskInput::Splits(vec![nowhere.clone()]);
        let source = (source.clone(), input);
        let spec = task((1, 0), source, &sides, operators, with_count(&[]));
        let (written, _) = run(&spec, &ctx).await;
        assert_eq!(rows(&written, &ctx).await, expected, "{kind:?}");
    }
}

/// Many customers under two names, and orders of every second of them, which have an eighth.
fn many() -> (String, String) {
    let customers = (0..60_000).map(|id| format!("{id},customer number {id}\n"));
    let orders = (0..240_000).map(|order| format!("{},{order}\n", order % 30_000 * 2));
    let text = |header: &str, lines: Vec<String>| header.to_owned() + &lines.concat();
    (
        text("id,name\n", customers.collect()),
        text("customer,price\n", orders.collect()),
    )
}

#[tokio::test]
async fn joins_of_one_stage_go_to_disk_where_memory_is_short() {
    let ctx = context(1 << 30);
    let (customers_text, orders_text) = many();
    let sides = [customers(&ctx, &customers_text).await];
    let (source, input) = csv(&ctx, "orders.csv", &orders_text, &ORDER).await;
    // Customers without an order come out of the second join, and have no match in the third.
    let operators = vec![
        by_customer(StepKind::Inner, &["customer", "price"]),
        by_customer(StepKind::FullOuter, &["id", "price"]),
        OperatorSpec::Join(JoinStep {
            side: 0,
            kind: StepKind::ProbeOuter,
            probe_keys: vec![col("price")],
            build_keys: vec![col("id")],
            filter: None,
            output: vec!["name".to_owned(), "price".to_owned()],
        }),
    ];
    let columns = [("name", DataType::Utf8View), ("price", DataType::Int64)];
    let spec = task((1, 0), (source, input), &sides, operators, schema(&columns));
    let mut expected = None;
    for (bytes, spills) in [
        (1 << 30, false),
        (6 << 20, true),
        (64 << 10, true),
        (0, true),
    ] {
        let ctx = TaskContext {
            memory: kiln_engine::memory::MemoryBudget::new(bytes),
            ..ctx.clone()
        };
        let (written, counts) = run(&spec, &ctx).await;
        let found = rows(&written, &ctx).await;
        assert_eq!(found.len(), 270_000, "bytes={bytes}");
        let named = found.iter().filter(|row| row.starts_with("customer"));
        assert_eq!(named.count(), 60_000, "bytes={bytes}");
        assert!(
            expected.get_or_insert(found.clone()) == &found,
            "bytes={bytes}"
        );
        assert_eq!(counts.spilled_bytes > 0, spills, "bytes={bytes}");
        assert_eq!(counts.build_rows, 3 * 60_000, "bytes={bytes}");
        assert!(counts.build_bytes < bytes.max(4 << 20), "bytes={bytes}");
        let memory = &ctx.memory;
        let left = (memory.used(), memory.disk().used());
        assert_eq!(left, (0, 0), "bytes={bytes}");
    }
}
