//! What is encoded decodes to the same value; what nobody encoded is refused, not believed.

mod random;

use std::fmt::Debug;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use kiln_engine::expr::{Expr, Literal};
use kiln_engine::id::{JobId, StageId, TaskId};
use kiln_engine::plan::*;
use kiln_engine::{Error, ErrorKind, Result, limits};
use kiln_proto::convert::{control, job, journal, plan, program, schema, status, task, worker};
use kiln_proto::wire;
use kiln_proto::wire::expr_node::Node;
use prost::Message;
use random::{KINDS, Random};

const SEEDS: u64 = 300;

/// Sends `value` through bytes and back, then decodes damaged copies of the bytes.
fn check<T, W>(seed: u64, value: T, encode: fn(&T) -> Result<W>, decode: fn(W) -> Result<T>)
where
    T: Debug + PartialEq,
    W: Message + Default,
{
    let bytes = encode(&value)
        .unwrap_or_else(|e| panic!("seed={seed}: {e}"))
        .encode_to_vec();
    let message = W::decode(&*bytes).unwrap_or_else(|e| panic!("seed={seed}: {e}"));
    let back = decode(message).unwrap_or_else(|e| panic!("seed={seed}: {e}"));
    assert_eq!(back, value, "seed={seed}");

    let mut random = Random::new(seed);
    for _ in 0..20 {
        let mut damaged = bytes.clone();
        for _ in 0..1 + random.below(3) {
            if !damaged.is_empty() {
                let at = random.below(damaged.len());
                damaged[at] = random.bytes(1)[0];
            }
        }
        damaged.truncate(damaged.len() - random.below(2).min(damaged.len()));
        check_garbage(seed, &damaged, decode);
    }
}

/// Whatever decodes is fine; what does not is the sender's fault.
fn check_garbage<T, W>(seed: u64, bytes: &[u8], decode: fn(W) -> Result<T>)
where
    W: Message + Default,
{
    if let Ok(message) = W::decode(bytes)
        && let Err(error) = decode(message)
    {
        assert_eq!(error.kind(), ErrorKind::Invalid, "seed={seed}: {error}");
    }
}

fn for_each_seed(check: impl Fn(u64, &mut Random)) {
    for seed in 0..SEEDS {
        check(seed, &mut Random::new(seed));
    }
}

#[test]
fn logical_plans() {
    for_each_seed(|seed, random| check(seed, random.plan(), plan::encode, plan::decode));
}

#[test]
fn plans_as_bytes() {
    for_each_seed(|seed, random| {
        let plan = random.plan();
        let bytes = plan::to_bytes(&plan).expect("within the limits");
        assert_eq!(
            plan::from_bytes(&bytes).expect("just encoded"),
            plan,
            "seed={seed}"
        );
    });
}

#[test]
fn tasks() {
    for_each_seed(|seed, random| check(seed, random.spec(), task::encode_spec, task::decode_spec));
}

#[test]
fn programs() {
    for_each_seed(|seed, random| {
        let encode = |value: &_| Ok(program::encode_offered(value));
        check(seed, random.offered(), encode, program::decode_offered);
    });
}

#[test]
fn outcomes() {
    for_each_seed(|seed, random| {
        let encode = |value: &_| Ok(task::encode_success(value));
        check(seed, random.success(), encode, task::decode_success);
        let encode = |value: &_| Ok(task::encode_failure(value));
        check(seed, random.failure(), encode, task::decode_failure);
    });
}

#[test]
fn messages_of_the_stream() {
    for_each_seed(|seed, random| {
        let up = |value: &kiln_proto::message::FromExecutor| {
            Ok(control::encode_from_executor(value.clone()))
        };
        check(seed, random.message_up(), up, control::decode_from_executor);
        let down =
            |value: &kiln_proto::message::ToExecutor| control::encode_to_executor(value.clone());
        check(
            seed,
            random.message_down(),
            down,
            control::decode_to_executor,
        );
    });
}

#[test]
fn messages_of_workers() {
    for_each_seed(|seed, random| {
        let up = random.worker_up();
        let mut bytes = worker::encode_from_worker(&up);
        let back = worker::decode_from_worker(&bytes).expect("just encoded");
        assert_eq!(back, up, "seed={seed}");
        let down = random.worker_down();
        let sent = worker::encode_to_worker(&down).expect("within the limits");
        let back = worker::decode_to_worker(&sent).expect("just encoded");
        assert_eq!(back, down, "seed={seed}");
        bytes.extend(sent);
        for _ in 0..20 {
            let at = random.below(bytes.len());
            bytes[at] = random.bytes(1)[0];
            for outcome in [
                worker::decode_from_worker(&bytes[at..]).map(|_| ()),
                worker::decode_to_worker(&bytes[at..]).map(|_| ()),
            ] {
                let kind = outcome.map_err(|error| error.kind());
                assert!(
                    matches!(kind, Ok(()) | Err(ErrorKind::Invalid)),
                    "seed={seed}"
                );
            }
        }
    });
}

#[test]
fn statuses_of_jobs_and_executors() {
    for_each_seed(|seed, random| {
        check(
            seed,
            random.job(),
            |value| Ok(job::encode(value)),
            job::decode,
        );
        let encode =
            |value: &kiln_proto::message::ExecutorStatus| Ok(job::encode_executor(value.clone()));
        check(seed, random.executor(), encode, job::decode_executor);
    });
}

#[test]
fn entries_of_a_journal() {
    for_each_seed(|seed, random| {
        let records: Vec<_> = (0..random.below(4)).map(|_| random.record()).collect();
        let encoded = records.iter().map(journal::encode_record);
        let encoded = encoded.collect::<Result<_>>().expect("within the limits");
        let writer = random.writer();
        let bytes = journal::encode_entry(seed, writer, seed + 1, encoded);
        let back = journal::decode_entry(&bytes).expect("just encoded");
        assert_eq!((back.term, back.sequence), (seed, seed + 1));
        assert_eq!(back.writer, writer, "seed={seed}");
        assert_eq!(back.records, records, "seed={seed}");
        for _ in 0..20 {
            let mut damaged = bytes.clone();
            let at = random.below(damaged.len());
            damaged[at] = random.bytes(1)[0];
            let kind = journal::decode_entry(&damaged).map_err(|error| error.kind());
            let is_known = matches!(kind, Ok(_) | Err(ErrorKind::Invalid));
            assert!(is_known, "seed={seed} {kind:?}");
        }
    });
}

#[test]
fn schemas() {
    for_each_seed(|seed, random| {
        let schema = random.schema();
        let bytes = schema::encode(&schema);
        assert_eq!(
            schema::decode(&bytes).expect("just encoded"),
            schema,
            "seed={seed}"
        );
        for _ in 0..50 {
            let mut damaged = bytes.to_vec();
            let at = random.below(damaged.len());
            damaged[at] = random.bytes(1)[0];
            if let Err(error) = schema::decode(&damaged) {
                assert_eq!(error.kind(), ErrorKind::Invalid, "seed={seed}: {error}");
            }
        }
    });
}

#[test]
fn noise_is_never_a_panic() {
    for_each_seed(|seed, random| {
        for _ in 0..50 {
            let len = random.below(200);
            let noise = random.bytes(len);
            check_garbage(seed, &noise, plan::decode);
            check_garbage(seed, &noise, task::decode_spec);
            check_garbage(seed, &noise, control::decode_from_executor);
            check_garbage(seed, &noise, control::decode_to_executor);
            check_garbage(seed, &noise, job::decode);
            assert_eq!(
                schema::decode(&noise).expect_err("noise").kind(),
                ErrorKind::Invalid
            );
        }
    });
}

#[test]
fn floats_travel_bit_for_bit() {
    for bits in [0x7ff8_0000_0000_0001, 0xfff8_dead_beef_0000, 1, 1 << 63] {
        let scan = Random::new(0).plan();
        let predicate = Expr::Literal(Literal::Float64(f64::from_bits(bits)));
        let plan = LogicalPlan::Filter {
            input: Arc::new(scan),
            predicate,
        };
        let back = plan::decode(plan::encode(&plan).expect("small")).expect("just encoded");
        let LogicalPlan::Filter {
            predicate: Expr::Literal(Literal::Float64(value)),
            ..
        } = back
        else {
            panic!("not the filter that was sent: {back:?}");
        };
        assert_eq!(value.to_bits(), bits);
    }
}

fn nested(depth: usize) -> LogicalPlan {
    let mut predicate = Expr::Column("x".into());
    for _ in 1..depth {
        predicate = Expr::Not(Box::new(predicate));
    }
    LogicalPlan::Filter {
        input: Arc::new(Random::new(1).plan()),
        predicate,
    }
}

/// The table of an expression `not not … x` of any depth, which no encoder makes.
fn nested_table(depth: u32) -> wire::Plan {
    let mut plan = plan::encode(&nested(1)).expect("shallow");
    let base = plan.exprs.len() as u32;
    let not = |index| wire::ExprNode {
        node: Some(Node::Not(index)),
    };
    plan.exprs.extend((base - 1..base - 1 + depth - 1).map(not));
    let root = plan.exprs.len() as u32 - 1;
    let last = plan.nodes.last_mut().expect("the filter");
    last.node = Some(wire::plan_node::Node::Filter(root));
    plan
}

#[test]
fn an_expression_may_nest_to_the_limit_and_no_deeper() {
    let most = limits::EXPR_DEPTH_MAX;
    let encoded = plan::encode(&nested(most)).expect("at the limit");
    assert_eq!(plan::decode(encoded).expect("at the limit"), nested(most));
    for error in [
        plan::encode(&nested(most + 1)).expect_err("too deep to send"),
        plan::decode(nested_table(most as u32 + 1)).expect_err("too deep to accept"),
        plan::decode(nested_table(1_000_000)).expect_err("much too deep to accept"),
    ] {
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(
            error.message(),
            "an expression is nested too deeply depth_max=64"
        );
    }
    plan::decode(nested_table(most as u32)).expect("at the limit");
}

#[test]
fn a_plan_may_nest_to_the_limit_and_no_deeper() {
    let chain = |operators: usize| {
        let mut plan = Random::new(3).scan();
        for _ in 1..operators {
            plan = explode(plan);
        }
        plan
    };
    let most = limits::PLAN_DEPTH_MAX;
    let encoded = plan::encode(&chain(most)).expect("at the limit");
    assert_eq!(
        plan::decode(encoded.clone()).expect("at the limit"),
        chain(most)
    );
    let error = plan::encode(&chain(most + 1)).expect_err("too deep to send");
    assert_eq!(error.message(), "the plan is nested too deeply limit=500");
    let mut longer = encoded;
    longer.nodes.push(wire::PlanNode {
        inputs: vec![most as u32 - 1],
        node: Some(wire::plan_node::Node::Explode("c".into())),
    });
    let error = plan::decode(longer).expect_err("too deep to accept");
    assert_eq!(error.message(), "the plan is nested too deeply limit=500");
}

fn explode(plan: LogicalPlan) -> LogicalPlan {
    LogicalPlan::Explode {
        input: Arc::new(plan),
        column: "c".into(),
    }
}

#[test]
fn a_plan_may_have_operators_to_the_limit_and_no_more() {
    let wide = |inputs: usize| LogicalPlan::Union {
        inputs: (0..inputs)
            .map(|_| Arc::new(Random::new(3).scan()))
            .collect(),
    };
    let most = limits::PLAN_NODES_MAX - 1;
    let encoded = plan::encode(&wide(most)).expect("at the limit");
    assert_eq!(plan::decode(encoded).expect("at the limit"), wide(most));
    let error = plan::encode(&wide(most + 1)).expect_err("too many to send");
    assert_eq!(
        error.message(),
        "the plan has too many operators limit=10000"
    );
}

#[test]
fn what_is_shared_travels_once_and_is_shared_again() {
    let shared = Arc::new(explode(Random::new(3).scan()));
    let left = Arc::new(explode(LogicalPlan::clone(&shared)));
    let right = LogicalPlan::Limit {
        input: Arc::clone(&shared),
        offset: 1,
        limit: 2,
    };
    let plan = LogicalPlan::Union {
        inputs: vec![Arc::clone(&shared), Arc::new(right), left, shared],
    };
    let encoded = plan::encode(&plan).expect("small");
    // The left side holds a copy of the shared operator, but the scan below is the same.
    let operators: Vec<_> = encoded.nodes.iter().map(|node| &node.inputs[..]).collect();
    assert_eq!(operators, [&[][..], &[0], &[1], &[0], &[3], &[1, 2, 4, 1],]);
    let back = plan::decode(encoded).expect("just encoded");
    assert_eq!(back, plan);
    let inputs = back.inputs();
    assert!(Arc::ptr_eq(inputs[0], inputs[3]));
    assert!(Arc::ptr_eq(inputs[0], inputs[1].inputs()[0]));
}

/// A table in which every operator is read twice by the next one unfolds into 2^`doublings`
/// operators; every walk over it would take that long.
#[test]
fn a_small_table_cannot_unfold_into_a_large_plan() {
    let doubled = |doublings: u32| {
        let mut plan = Arc::new(Random::new(3).scan());
        for _ in 0..doublings {
            let inputs = vec![Arc::clone(&plan), plan];
            plan = Arc::new(LogicalPlan::Union { inputs });
        }
        plan
    };
    let mut encoded = plan::encode(&doubled(12)).expect("8191 operators");
    plan::decode(encoded.clone()).expect("8191 operators");
    plan::encode(&doubled(13)).expect_err("16383 operators");
    for last in 12..200 {
        encoded.nodes.push(wire::PlanNode {
            inputs: vec![last, last],
            node: Some(wire::plan_node::Node::Union(wire::Unit {})),
        });
    }
    let error = plan::decode(encoded).expect_err("2^200 operators");
    assert_eq!(
        error.message(),
        "the plan has too many operators limit=10000"
    );
}

/// A plan of a scan and a filter `x and y`, changed by `spoil`.
fn spoiled(spoil: impl FnOnce(&mut wire::Plan)) -> String {
    let mut scan = Random::new(1).scan();
    if let LogicalPlan::Scan(scan) = &mut scan {
        scan.predicate = None;
    }
    let column = |name: &str| Box::new(Expr::Column(name.into()));
    let op = kiln_engine::expr::BinaryOp::And;
    let predicate = Expr::Binary {
        left: column("x"),
        op,
        right: column("y"),
    };
    let plan = LogicalPlan::Filter {
        input: Arc::new(scan),
        predicate,
    };
    let mut encoded = plan::encode(&plan).expect("small");
    spoil(&mut encoded);
    let error = plan::decode(encoded).expect_err("spoiled");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    error.message().to_owned()
}

/// What is wrong, and how to make it so.
type Case = (&'static str, fn(&mut wire::Plan));

#[test]
fn malformed_tables_are_refused_with_what_is_wrong() {
    use wire::plan_node::Node::{Explode, Filter, Join, Union};
    let and = |left, op, right| {
        let binary = wire::Binary { left, op, right };
        wire::ExprNode {
            node: Some(Node::Binary(binary)),
        }
    };
    let cases: [Case; 13] = [
        ("root of the plan is missing", |plan| {
            *plan = wire::Plan::default()
        }),
        ("operator is missing", |plan| plan.nodes[1].node = None),
        ("operator 1 is not there to be used", |plan| {
            plan.nodes[1].inputs = vec![1]
        }),
        ("an operator of 0 inputs", |plan| {
            plan.nodes[1].inputs.clear()
        }),
        ("a scan of 1 inputs", |plan| {
            let scan = plan.nodes[0].node.clone();
            plan.nodes[1].node = scan;
        }),
        ("a join of 1 inputs", |plan| {
            plan.nodes[1].node = Some(Join(wire::Join::default()));
        }),
        ("unknown JoinKind number=0", |plan| {
            plan.nodes[1].inputs = vec![0, 0];
            plan.nodes[1].node = Some(Join(wire::Join::default()));
        }),
        ("a join of 3 inputs", |plan| {
            plan.nodes[1].inputs = vec![0; 3];
            plan.nodes[1].node = Some(Join(wire::Join::default()));
        }),
        ("a union of 0 inputs", |plan| {
            plan.nodes[1].inputs.clear();
            plan.nodes[1].node = Some(Union(wire::Unit {}));
        }),
        ("an operator that nothing reads", |plan| {
            let scan = plan.nodes[0].clone();
            plan.nodes.insert(0, scan);
            plan.nodes[2].inputs = vec![1];
        }),
        ("expression 3 is not there to be used", |plan| {
            plan.nodes[1].node = Some(Filter(3))
        }),
        ("expression 2 belongs to nothing", |plan| {
            plan.nodes[1].node = Some(Explode("c".into()));
        }),
        ("expression is missing", |plan| plan.exprs[0].node = None),
    ];
    for (what, spoil) in cases {
        assert_eq!(spoiled(spoil), format!("malformed message: {what}"));
    }
    let decimal = |precision, scale| {
        let decimal = wire::Decimal {
            precision,
            scale,
            ..wire::Decimal::default()
        };
        let value = Some(wire::literal::Value::Decimal(decimal));
        wire::ExprNode {
            node: Some(Node::Literal(wire::Literal { value })),
        }
    };
    let exprs = [
        ("a decimal(0, 0)", decimal(0, 0)),
        ("a decimal(39, 0)", decimal(39, 0)),
        ("a decimal(5, 6)", decimal(5, 6)),
        ("a decimal(5, -39)", decimal(5, -39)),
        (
            "a case without a branch",
            wire::ExprNode {
                node: Some(Node::Case(wire::Case::default())),
            },
        ),
        ("expression 0 is not there to be used", and(0, 12, 0)),
        ("expression 2 is not there to be used", and(0, 12, 2)),
        ("unknown BinaryOp number=0", and(0, 0, 1)),
        ("unknown BinaryOp number=99", and(0, 99, 1)),
    ];
    for (what, node) in exprs {
        let message = spoiled(|plan| plan.exprs[2] = node.clone());
        assert_eq!(message, format!("malformed message: {what}"));
    }
}

/// What is wrong, and how to make it so.
type TaskCase = (&'static str, fn(&mut wire::TaskSpec));

/// A task that scans two columns and joins with a key, changed by `spoil`.
fn spoiled_task(spoil: fn(&mut wire::TaskSpec)) -> String {
    let column = |name: &str| Expr::Column(name.into());
    let field = |name: &str| Field::new(name, DataType::Int64, true);
    let schema = Arc::new(Schema::new(vec![field("a"), field("b")]));
    let scan = ScanSpec {
        format: ScanFormat::Parquet,
        file_schema: Arc::clone(&schema),
        projection: vec![0, 1],
        predicate: None,
        key_filters: vec![KeyFilterSpec {
            column: 1,
            operator: 1,
            key: 0,
        }],
        files: Vec::new(),
        tasks: Vec::new(),
    };
    let join = JoinStep {
        side: 0,
        kind: StepKind::Inner,
        probe_keys: vec![column("b")],
        build_keys: vec![column("c")],
        filter: None,
        output: vec!["a".into()],
    };
    let stage = Stage {
        id: StageId(7),
        source: StageSource::Scan(scan),
        sides: vec![Side {
            stage: StageId(3),
            schema: Arc::new(Schema::new(vec![field("c")])),
            broadcast: true,
        }],
        operators: vec![
            OperatorSpec::Filter {
                predicate: column("a"),
            },
            OperatorSpec::Join(join),
        ],
        sink: SinkSpec::Shuffle {
            partitioning: Partitioning::Single,
        },
        schema,
    };
    let spec = TaskSpec {
        id: TaskId {
            job: JobId::new(1),
            stage: StageId(7),
            task: 0,
        },
        attempt: 0,
        stage: Arc::new(stage),
        input: TaskInput::Splits(Vec::new()),
        sides: vec![ShuffleInput {
            stage: StageId(3),
            partitions: 0..1,
            sources: Vec::new(),
        }],
        program: None,
    };
    let mut encoded = task::encode_spec(&spec).expect("small");
    assert_eq!(
        task::decode_spec(encoded.clone()).expect("just encoded"),
        spec
    );
    spoil(&mut encoded);
    let error = task::decode_spec(encoded).expect_err("spoiled");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    error.message().to_owned()
}

fn stage_of(spec: &mut wire::TaskSpec) -> &mut wire::Stage {
    spec.stage.as_mut().expect("the stage")
}

fn join_of(spec: &mut wire::TaskSpec) -> &mut wire::JoinStep {
    match &mut stage_of(spec).operators[1].operator {
        Some(wire::operator::Operator::Join(join)) => join,
        other => panic!("not the join: {other:?}"),
    }
}

fn key_filter_of(spec: &mut wire::TaskSpec) -> &mut wire::KeyFilter {
    let source = stage_of(spec).source.as_mut().expect("the source");
    match &mut source.source {
        Some(wire::stage_source::Source::Scan(scan)) => &mut scan.key_filters[0],
        other => panic!("not the scan: {other:?}"),
    }
}

#[test]
fn malformed_tasks_are_refused_with_what_is_wrong() {
    let cases: [TaskCase; 13] = [
        ("a join with side 1 of 1", |spec| join_of(spec).side = 1),
        ("unknown StepKind number=0", |spec| join_of(spec).kind = 0),
        ("expression 9 is not there to be used", |spec| {
            join_of(spec).on[0].right = 9;
        }),
        ("expression 1 belongs to nothing", |spec| {
            join_of(spec).on.clear();
        }),
        ("no column 2 in the files of a scan", |spec| {
            key_filter_of(spec).column = 2;
        }),
        ("a key filter of operator 0, which is no join", |spec| {
            key_filter_of(spec).operator = 0;
        }),
        ("a key filter of operator 2, which is no join", |spec| {
            key_filter_of(spec).operator = 2;
        }),
        ("a key filter of key 1 of 1", |spec| {
            key_filter_of(spec).key = 1;
        }),
        ("the sides of a task are not those of its stage", |spec| {
            spec.sides.clear();
        }),
        ("the sides of a task are not those of its stage", |spec| {
            spec.sides[0].stage = 4;
        }),
        ("partitions 2..1", |spec| spec.sides[0].start = 2),
        (
            "the input of a task is not the source of its stage",
            |spec| {
                let inputs = wire::ShuffleInputs::default();
                spec.input = Some(wire::task_spec::Input::Shuffle(inputs));
            },
        ),
        ("a shuffle that no stage wrote", |spec| {
            let shuffle = wire::ShuffleSource::default();
            stage_of(spec).source = Some(wire::StageSource {
                source: Some(wire::stage_source::Source::Shuffle(shuffle)),
            });
        }),
    ];
    for (what, spoil) in cases {
        assert_eq!(spoiled_task(spoil), format!("malformed message: {what}"));
    }
}

#[test]
fn malformed_counts_are_refused_with_what_is_wrong() {
    let refused = |operators| {
        let success = wire::TaskSuccess {
            output: Some(wire::task_success::Output::Files(wire::Files::default())),
            counts: Some(wire::Counts {
                operators: Some(operators),
                ..wire::Counts::default()
            }),
            ..wire::TaskSuccess::default()
        };
        let error = task::decode_success(success).expect_err("malformed");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        error.message().to_owned()
    };
    let column = |operators: usize| vec![1; operators];
    let operators = |rows_out, batches, nanos| wire::OperatorCounts {
        rows_out: column(rows_out),
        batches: column(batches),
        nanos: column(nanos),
    };
    let uneven = "malformed message: columns of operator counts differ in length";
    assert_eq!(refused(operators(2, 1, 2)), uneven);
    assert_eq!(refused(operators(2, 2, 3)), uneven);
    let many = limits::PLAN_NODES_MAX + 3;
    assert_eq!(
        refused(operators(many, many, many)),
        format!("malformed message: counts of {many} operators")
    );
}

#[test]
fn an_error_survives_a_status_exactly() {
    for_each_seed(|seed, random| {
        let failure = random.failure();
        let mut error = Error::from(failure.clone());
        let back = status::error_from(&status::status_from(&error));
        // The message of an error is one line.
        error = Error::from(TaskFailure {
            message: error.report(),
            ..failure
        });
        assert_eq!(
            TaskFailure::from(&back),
            TaskFailure::from(&error),
            "seed={seed}"
        );
    });
}

#[test]
fn a_status_of_the_transport_becomes_an_error_that_says_what_to_do() {
    use tonic::{Code, Status};
    let cases = [
        (Code::Unavailable, ErrorKind::Unavailable),
        (Code::Unknown, ErrorKind::Unavailable),
        (Code::OutOfRange, ErrorKind::Exhausted),
        (Code::Unimplemented, ErrorKind::Invalid),
        (Code::DataLoss, ErrorKind::Corrupt),
        (Code::Cancelled, ErrorKind::Unavailable),
        (Code::Internal, ErrorKind::Unavailable),
    ];
    for (code, kind) in cases {
        let error = status::error_from(&Status::new(code, "tcp"));
        assert_eq!(
            (error.kind(), error.message()),
            (kind, "the connection failed: tcp")
        );
    }
    let garbage = Status::with_details(Code::DataLoss, "x", vec![0xff; 9].into());
    assert_eq!(status::error_from(&garbage).kind(), ErrorKind::Corrupt);
}

#[test]
fn a_long_message_is_cut_to_fit_into_headers() {
    for kind in KINDS {
        let error = Error::new(kind, "字".repeat(100_000));
        let status = status::status_from(&error);
        let mut headers = tonic::codegen::http::HeaderMap::new();
        status.add_header(&mut headers).expect("headers take it");
        let size: usize = headers
            .iter()
            .map(|(k, v)| k.as_str().len() + v.len() + 32)
            .sum();
        assert!(size < 8 << 10, "headers take {size} bytes");
        let back = status::error_from(&status);
        assert_eq!(back.kind(), kind);
        assert!(back.message().ends_with('…') && back.message().len() > 2000);
    }
}
