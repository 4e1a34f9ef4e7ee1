//! What is encoded decodes to the same value; what nobody encoded is refused, not believed.

mod random;

use std::fmt::Debug;
use std::sync::Arc;

use kiln_engine::expr::{Expr, Literal};
use kiln_engine::plan::{LogicalPlan, TaskFailure};
use kiln_engine::{Error, ErrorKind, Result, limits};
use kiln_proto::convert::{control, job, plan, schema, status, task};
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
fn a_plan_may_have_operators_to_the_limit_and_no_more() {
    let chain = |operators: usize| {
        let mut plan = Random::new(3).plan();
        while plan.input().is_some() {
            plan = LogicalPlan::clone(plan.input().expect("just asked"));
        }
        for _ in 1..operators {
            plan = LogicalPlan::Explode {
                input: Arc::new(plan),
                column: "c".into(),
            };
        }
        plan
    };
    let most = limits::PLAN_DEPTH_MAX;
    let encoded = plan::encode(&chain(most)).expect("at the limit");
    assert_eq!(
        plan::decode(encoded.clone()).expect("at the limit"),
        chain(most)
    );
    let error = plan::encode(&chain(most + 1)).expect_err("too many to send");
    assert_eq!(
        error.message(),
        "the plan has too many operators operators_max=500"
    );
    let mut longer = encoded;
    longer.nodes.push(wire::PlanNode {
        inputs: vec![most as u32 - 1],
        node: Some(wire::plan_node::Node::Explode("c".into())),
    });
    let error = plan::decode(longer).expect_err("too many to accept");
    assert_eq!(
        error.message(),
        "the plan has too many operators operators_max=500"
    );
}

/// A plan of a scan and a filter `x and y`, changed by `spoil`.
fn spoiled(spoil: impl FnOnce(&mut wire::Plan)) -> String {
    let mut scan = Random::new(1).plan();
    while let Some(input) = scan.input() {
        scan = LogicalPlan::clone(input);
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
    use wire::plan_node::Node::{Explode, Filter};
    let and = |left, op, right| {
        let binary = wire::Binary { left, op, right };
        wire::ExprNode {
            node: Some(Node::Binary(binary)),
        }
    };
    let cases: [Case; 9] = [
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
    let exprs = [
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
