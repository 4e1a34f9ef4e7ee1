//! Random plans over random tables, valid by construction.
//!
//! Every node is computed by the reference as it is made: one with too many rows is given up for
//! another, and one with an expression that fails is kept now and then only.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use fastrand::Rng;
use kiln_engine::expr::{
    AggregateExpr, AggregateFunction, Expr, SortKey, avg, col, count, count_all, count_distinct,
    length, lit, max, min, output_name, sum, trim, typing, upper,
};
use kiln_engine::plan::{JoinKind, LogicalPlan, schema_of};

use crate::exprs::{Class, Column, Exprs, class};
use crate::reference::Reference;
use crate::tables::Table;

/// Rows that a node may make; plans with more are not worth their time.
const ROWS_MAX: usize = 3_000;

/// Makes plans.
pub(crate) struct Plans<'a> {
    pub(crate) random: &'a mut Rng,
    pub(crate) tables: &'a [Table],
    pub(crate) reference: Reference,
    made: Vec<Node>,
    names: u32,
}

/// A plan, with what is known of its columns.
#[derive(Clone)]
struct Node {
    plan: Arc<LogicalPlan>,
    columns: Vec<Column>,
}

impl<'a> Plans<'a> {
    pub(crate) fn new(random: &'a mut Rng, tables: &'a [Table]) -> Self {
        Plans {
            random,
            tables,
            reference: Reference::new(tables),
            made: Vec::new(),
            names: 0,
        }
    }

    /// A plan of some depth.
    pub(crate) fn plan(&mut self) -> Arc<LogicalPlan> {
        let depth = self.random.u32(2..=6);
        self.node(depth).plan
    }

    fn chance(&mut self, one_in: u8) -> bool {
        self.random.u8(0..one_in) == 0
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("c{}", self.names)
    }

    fn node(&mut self, depth: u32) -> Node {
        if depth == 0 {
            return self.scan();
        }
        if self.chance(8)
            && let Some(node) = self.random.choice(&self.made)
        {
            return node.clone();
        }
        let input_depth = match self.chance(4) {
            true => self.random.u32(0..depth),
            false => depth - 1,
        };
        let input = self.node(input_depth);
        for _ in 0..4 {
            let node = match self.random.u8(0..21) {
                0..3 => self.filter(&input),
                3..6 => self.project(&input),
                6..12 => {
                    let other_depth = self.random.u32(0..depth);
                    let other = match self.chance(8) {
                        true => input.clone(),
                        false => self.node(other_depth),
                    };
                    self.join(&input, other)
                }
                12..16 => self.aggregate(&input),
                16 => self.distinct(&input),
                17 => self.union(&input, depth),
                18 => self.sort(&input),
                19 => self.dealt_out(&input),
                _ => self.limit(&input),
            };
            let schema = schema_of(&node.plan);
            let schema = schema.unwrap_or_else(|error| panic!("{}", error.report()));
            assert_eq!(schema.fields().len(), node.columns.len());
            let is_good = match self.reference.rows(&node.plan) {
                // What is empty once is so up to the root.
                Ok(rows) if rows.is_empty() => self.chance(8),
                Ok(rows) => rows.len() <= ROWS_MAX,
                Err(_) => self.chance(10) && !joins_too_much(&node.plan, &mut self.reference),
            };
            if is_good {
                self.made.push(node.clone());
                return node;
            }
        }
        input
    }

    fn scan(&mut self) -> Node {
        let tables = self.tables;
        let table = self.random.choice(tables).expect("there are tables");
        let LogicalPlan::Scan(scan) = &*table.scan else {
            panic!("a table is a scan");
        };
        let mut scan = scan.clone();
        let fields = scan.schema.fields();
        let mut plan = Arc::clone(&table.scan);
        let mut chosen: Vec<usize> = (0..fields.len()).collect();
        if self.chance(3) {
            self.random.shuffle(&mut chosen);
            chosen.truncate(self.random.usize(1..=fields.len()));
            let name = |column: &usize| fields[*column].name().clone();
            scan.projection = Some(chosen.iter().map(name).collect());
            plan = Arc::new(LogicalPlan::Scan(scan.clone()));
        }
        let column = |index: usize| Column {
            name: scan.schema.field(index).name().clone(),
            data_type: scan.schema.field(index).data_type().clone(),
            firm: true,
        };
        let columns = chosen.into_iter().map(column).collect();
        Node { plan, columns }
    }

    fn filter(&mut self, input: &Node) -> Node {
        let predicate = match self.random.bool() {
            true => self.of(input, Class::Bool),
            false => self.bound(input),
        };
        Node {
            plan: Arc::new(LogicalPlan::Filter {
                input: Arc::clone(&input.plan),
                predicate,
            }),
            columns: input.columns.clone(),
        }
    }

    /// A predicate that files can say something about: a column beside a constant.
    fn bound(&mut self, input: &Node) -> Expr {
        let firm = input.columns.iter().filter(|column| column.firm);
        let Some(column) = self.random.choice(firm.collect::<Vec<_>>()) else {
            return lit(true);
        };
        let schema = schema_of(&input.plan).expect("it was checked");
        let mut exprs = Exprs {
            random: self.random,
            columns: Vec::new(),
            schema: &schema,
        };
        let constant = exprs.of(class(&column.data_type), 0);
        let column = col(&column.name);
        match self.random.u8(0..5) {
            0 => column.eq(constant),
            1 => column.lt(constant),
            2 => column.gt(constant),
            3 => column.not_eq(constant),
            _ => column.is_not_null(),
        }
    }

    /// A firm expression of a class.
    fn of(&mut self, input: &Node, class: Class) -> Expr {
        let schema = schema_of(&input.plan).expect("it was checked");
        let mut exprs = Exprs {
            random: self.random,
            columns: input.columns.clone(),
            schema: &schema,
        };
        let expr = exprs.of(class, 3);
        match typing::data_type(&expr, &schema) {
            Ok(data_type) if data_type != DataType::Null => expr,
            _ if class == Class::Bool => Expr::IsNull(Box::new(col(&input.columns[0].name))),
            _ => lit(3),
        }
    }

    /// Any expression under a name of its own.
    fn value(&mut self, input: &Node) -> (Expr, Column) {
        let schema = schema_of(&input.plan).expect("it was checked");
        let mut exprs = Exprs {
            random: self.random,
            columns: input.columns.clone(),
            schema: &schema,
        };
        let (expr, data_type, firm) = exprs.value(3);
        let name = self.name();
        let column = Column {
            name: name.clone(),
            data_type,
            firm,
        };
        (expr.alias(name), column)
    }

    fn project(&mut self, input: &Node) -> Node {
        let (mut exprs, mut columns) = (Vec::new(), Vec::new());
        for column in &input.columns {
            if self.random.bool() {
                continue;
            }
            match self.chance(4) {
                true => {
                    let name = self.name();
                    exprs.push(col(&column.name).alias(&name));
                    columns.push(Column {
                        name,
                        ..column.clone()
                    });
                }
                false => {
                    exprs.push(col(&column.name));
                    columns.push(column.clone());
                }
            }
        }
        let least = usize::from(exprs.is_empty());
        for _ in 0..self.random.usize(least..=2) {
            let (expr, column) = self.value(input);
            exprs.push(expr);
            columns.push(column);
        }
        Node {
            plan: project(&input.plan, exprs),
            columns,
        }
    }

    /// The same rows, with names that no other node has.
    fn renamed(&mut self, node: Node) -> Node {
        let rename = |column: Column| {
            let name = self.name();
            let expr = col(column.name).alias(&name);
            (expr, Column { name, ..column })
        };
        let (exprs, columns) = node.columns.into_iter().map(rename).unzip();
        Node {
            plan: project(&node.plan, exprs),
            columns,
        }
    }

    fn join(&mut self, left: &Node, right: Node) -> Node {
        let is_known = |column: &Column| left.columns.iter().any(|c| c.name == column.name);
        let right = match right.columns.iter().any(is_known) {
            true => self.renamed(right),
            false => right,
        };
        let kinds = [
            JoinKind::Inner,
            JoinKind::Inner,
            JoinKind::Left,
            JoinKind::Right,
            JoinKind::Full,
            JoinKind::Semi,
            JoinKind::Anti,
        ];
        let kind = *self.random.choice(&kinds).expect("some");
        let wanted = *self.random.choice(&[0, 1, 1, 1, 1, 2]).expect("some");
        let mut on = Vec::new();
        let mut pairs = pairs_of_keys(left, &right);
        self.random.shuffle(&mut pairs);
        pairs.truncate(wanted);
        for (l, r) in pairs {
            on.push(self.key(left, l, r));
        }
        let both = Node {
            plan: Arc::new(LogicalPlan::Join {
                left: Arc::clone(&left.plan),
                right: Arc::clone(&right.plan),
                kind: JoinKind::Full,
                on: Vec::new(),
                filter: None,
            }),
            columns: left.columns.iter().chain(&right.columns).cloned().collect(),
        };
        let filter = self.chance(3).then(|| self.of(&both, Class::Bool));
        on.retain(|(l, r)| {
            let (lefts, rights) = (schema_of(&left.plan), schema_of(&right.plan));
            let (lefts, rights) = (lefts.expect("checked"), rights.expect("checked"));
            // Joins do not look up decimals of more than 128 bits.
            let common = typing::check_keys(l, &lefts, r, &rights);
            common.is_ok_and(|common| !matches!(common, DataType::Decimal256(..)))
        });
        Node {
            plan: Arc::new(LogicalPlan::Join {
                left: Arc::clone(&left.plan),
                right: Arc::clone(&right.plan),
                kind,
                on,
                filter,
            }),
            columns: match kind {
                JoinKind::Semi | JoinKind::Anti => left.columns.clone(),
                _ => both.columns,
            },
        }
    }

    /// Two columns as the two sides of a key, or something made of them.
    fn key(&mut self, left: &Node, l: &Column, r: &Column) -> (Expr, Expr) {
        let (one, other) = (col(&l.name), col(&r.name));
        let classes = (class(&l.data_type), class(&r.data_type));
        match (self.random.u8(0..24), classes) {
            (0, (Class::Int, _)) => (one + 1, other),
            (1, (Class::Int, _)) => (self.of(left, Class::Int), other),
            (2, (Class::Int, _)) => (one.cast(DataType::Decimal128(25, 2)), other),
            (3, (_, Class::Int)) => (one, other.cast(DataType::Int64)),
            (4, (_, Class::Int)) => (one, other % 3),
            (0 | 1, (Class::Text, _)) => (upper(one), upper(other)),
            (2, (Class::Text, _)) => (length(one), length(other)),
            (3 | 4, (Class::Text, _)) => (one, trim(other)),
            // A side that is the same for all rows of the other.
            (5, (class, _)) => (one, self.constant(class)),
            (6, (_, class)) => (self.constant(class), other),
            (7, (class, _)) => (self.constant(class), self.constant(class)),
            _ => (one, other),
        }
    }

    fn constant(&mut self, class: Class) -> Expr {
        let mut exprs = Exprs {
            random: self.random,
            columns: Vec::new(),
            schema: &Schema::empty(),
        };
        exprs.of(class, 0)
    }

    fn aggregate(&mut self, input: &Node) -> Node {
        let (mut group_by, mut columns) = (Vec::new(), Vec::new());
        for _ in 0..self.random.usize(0..=2) {
            let firm = input.columns.iter().filter(|column| column.firm);
            let chosen = self.random.choice(firm.collect::<Vec<_>>()).cloned();
            let (expr, column) = match chosen {
                Some(column) if self.random.u8(0..4) > 0 => (col(&column.name), column),
                _ => self.value(input),
            };
            let is_new = group_by.iter().all(|key| output_name(key) != column.name);
            if column.firm && is_new {
                group_by.push(expr);
                columns.push(column);
            }
        }
        let least = usize::from(group_by.is_empty());
        let mut aggregates = Vec::new();
        for _ in 0..self.random.usize(least..=3) {
            let (aggregate, column) = self.one_aggregate(input);
            aggregates.push(aggregate);
            columns.push(column);
        }
        Node {
            plan: Arc::new(LogicalPlan::Aggregate {
                input: Arc::clone(&input.plan),
                group_by,
                aggregates,
            }),
            columns,
        }
    }

    fn one_aggregate(&mut self, input: &Node) -> (AggregateExpr, Column) {
        let chosen = self.random.choice(&input.columns).cloned();
        let (argument, column) = match chosen {
            Some(column) if self.random.u8(0..3) > 0 => (col(&column.name), column),
            _ => self.value(input),
        };
        let argument = match argument {
            Expr::Alias { expr, .. } => *expr,
            other => other,
        };
        let of = |function| AggregateExpr::new(function, Some(argument.clone()));
        let class = class(&column.data_type);
        let number = matches!(class, Class::Int | Class::Float | Class::Decimal);
        let aggregate = match self.random.u8(0..12) {
            0 => count_all(),
            1..5 if number => sum(argument),
            5 | 6 if number => avg(argument),
            7 if number && class != Class::Float => {
                let functions = [
                    AggregateFunction::Variance,
                    AggregateFunction::VariancePopulation,
                    AggregateFunction::StdDev,
                    AggregateFunction::StdDevPopulation,
                ];
                of(self.random.choice(&functions).expect("some").clone())
            }
            1 | 2 if class == Class::Bool => of(AggregateFunction::Any),
            3 | 4 if class == Class::Bool => of(AggregateFunction::All),
            8 if column.firm => count_distinct(argument),
            9 if column.firm => min(argument),
            10 | 11 if column.firm => max(argument),
            _ => count(argument),
        };
        let name = self.name();
        let mut aggregate = aggregate.alias(&name);
        if self.chance(4) {
            aggregate = aggregate.filter(self.of(input, Class::Bool)).alias(&name);
        }
        let schema = schema_of(&input.plan).expect("it was checked");
        let field = typing::aggregate_field(&aggregate, &schema).expect("a good aggregate");
        let kept = matches!(
            aggregate.function,
            AggregateFunction::Min | AggregateFunction::Max
        );
        let column = Column {
            name,
            data_type: field.data_type().clone(),
            firm: kept || *field.data_type() != DataType::Float64,
        };
        (aggregate, column)
    }

    /// Without the columns that nothing may depend on; with a constant if there is no other.
    fn firm(&mut self, input: &Node) -> Node {
        if input.columns.iter().all(|column| column.firm) {
            return input.clone();
        }
        let columns: Vec<Column> = input.columns.iter().filter(|c| c.firm).cloned().collect();
        if columns.is_empty() {
            let name = self.name();
            let plan = project(&input.plan, vec![lit(7).alias(&name)]);
            let column = Column {
                name,
                data_type: DataType::Int64,
                firm: true,
            };
            return Node {
                plan,
                columns: vec![column],
            };
        }
        let exprs = columns.iter().map(|column| col(&column.name)).collect();
        Node {
            plan: project(&input.plan, exprs),
            columns,
        }
    }

    fn distinct(&mut self, input: &Node) -> Node {
        let input = self.firm(input);
        let group_by = input.columns.iter().map(|column| col(&column.name));
        Node {
            plan: Arc::new(LogicalPlan::Aggregate {
                group_by: group_by.collect(),
                input: input.plan,
                aggregates: Vec::new(),
            }),
            columns: input.columns,
        }
    }

    /// The rows of two or three plans, as far as they have columns of the same types.
    fn union(&mut self, input: &Node, depth: u32) -> Node {
        let mut others = Vec::new();
        for _ in 0..self.random.usize(1..=2) {
            let depth = self.random.u32(0..depth);
            others.push(match self.chance(3) {
                true => self.filter(input),
                false => self.node(depth),
            });
        }
        let mut columns: Vec<Column> = Vec::new();
        let mut picked: Vec<Vec<Expr>> = vec![Vec::new(); others.len() + 1];
        for column in &input.columns {
            let like = |other: &Node| {
                let same = |c: &&Column| c.data_type == column.data_type;
                other.columns.iter().find(same).cloned()
            };
            let Some(found) = others.iter().map(like).collect::<Option<Vec<Column>>>() else {
                continue;
            };
            let name = self.name();
            picked[0].push(col(&column.name).alias(&name));
            for (number, other) in found.iter().enumerate() {
                picked[number + 1].push(col(&other.name).alias(&name));
            }
            columns.push(Column {
                name,
                data_type: column.data_type.clone(),
                firm: column.firm && found.iter().all(|column| column.firm),
            });
        }
        if columns.is_empty() {
            return input.clone();
        }
        let all = std::iter::once(input).chain(&others);
        let inputs = all
            .zip(picked)
            .map(|(node, exprs)| project(&node.plan, exprs));
        Node {
            plan: Arc::new(LogicalPlan::Union {
                inputs: inputs.collect(),
            }),
            columns,
        }
    }

    /// In an order that leaves nothing open, perhaps only the first rows.
    fn sort(&mut self, input: &Node) -> Node {
        let input = self.firm(input);
        let mut keys: Vec<SortKey> = Vec::new();
        for column in &input.columns {
            let key = match self.random.bool() {
                true => col(&column.name).asc(),
                false => col(&column.name).desc(),
            };
            keys.push(match self.random.u8(0..3) {
                0 => key.nulls_first(),
                1 => key.nulls_last(),
                _ => key,
            });
        }
        self.random.shuffle(&mut keys);
        let limit = match self.random.bool() {
            true => Some(self.random.u64(0..30)),
            false => None,
        };
        Node {
            plan: Arc::new(LogicalPlan::Sort {
                input: input.plan,
                keys,
                limit,
            }),
            columns: input.columns,
        }
    }

    /// The same rows in other tasks, perhaps in an order there.
    fn dealt_out(&mut self, input: &Node) -> Node {
        let firm = input.columns.iter().filter(|column| column.firm);
        let mut keys: Vec<String> = firm.map(|column| column.name.clone()).collect();
        self.random.shuffle(&mut keys);
        keys.truncate(self.random.usize(0..3));
        let order = keys.first().map(|name| col(name).desc());
        let mut plan = LogicalPlan::Repartition {
            input: Arc::clone(&input.plan),
            keys,
            partitions: self.random.u32(1..6),
        };
        if let Some(key) = order.filter(|_| self.random.bool()) {
            plan = LogicalPlan::SortPartitions {
                input: Arc::new(plan),
                keys: vec![key],
            };
        }
        Node {
            plan: Arc::new(plan),
            columns: input.columns.clone(),
        }
    }

    fn limit(&mut self, input: &Node) -> Node {
        let sorted = self.sort(input);
        let offset = self.random.u64(0..6);
        let limit = *self
            .random
            .choice(&[0, 1, 3, 10, 50, 10_000])
            .expect("some");
        Node {
            plan: Arc::new(LogicalPlan::Limit {
                input: sorted.plan,
                offset,
                limit,
            }),
            columns: sorted.columns,
        }
    }
}

fn project(input: &Arc<LogicalPlan>, exprs: Vec<Expr>) -> Arc<LogicalPlan> {
    Arc::new(LogicalPlan::Project {
        input: Arc::clone(input),
        exprs,
    })
}

/// Columns of two sides that can be compared.
fn pairs_of_keys<'a>(left: &'a Node, right: &'a Node) -> Vec<(&'a Column, &'a Column)> {
    let number = |class| matches!(class, Class::Int | Class::Decimal);
    let mut pairs = Vec::new();
    for l in left.columns.iter().filter(|column| column.firm) {
        for r in right.columns.iter().filter(|column| column.firm) {
            let (one, other) = (class(&l.data_type), class(&r.data_type));
            if one == other || number(one) && number(other) {
                pairs.push((l, r));
            }
        }
    }
    pairs
}

/// Whether the reference gave up a join for its size, rather than for a value.
fn joins_too_much(plan: &Arc<LogicalPlan>, reference: &mut Reference) -> bool {
    let inputs: Option<Vec<usize>> = plan
        .inputs()
        .into_iter()
        .map(|input| reference.rows(input).ok().map(|rows| rows.len()))
        .collect();
    matches!(&**plan, LogicalPlan::Join { .. })
        && inputs.is_some_and(|rows| rows.iter().product::<usize>() > crate::reference::PAIRS_MAX)
}
