//! Plans as DuckDB's SQL: one common table expression for each node, in which every column is cast
//! to the type that Kiln gives it.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use kiln_engine::expr::{
    AggregateExpr, AggregateFunction, BinaryOp, Expr, Function, Literal, SortKey, output_name,
    typing,
};
use kiln_engine::plan::{JoinKind, LogicalPlan, schema_of};
use kiln_engine::storage::local_path;

/// A query with the rows of `plan`; its tables are the folders of the plan's scans, by the last
/// part of their names.
pub(crate) fn query(plan: &Arc<LogicalPlan>) -> String {
    let mut writer = Writer::default();
    let last = writer.node(plan);
    format!(
        "WITH\n{}\nSELECT * FROM {last};\n",
        writer.tables.join(",\n")
    )
}

#[derive(Default)]
struct Writer {
    tables: Vec<String>,
    /// The names of nodes, by their addresses.
    known: HashMap<usize, String>,
}

impl Writer {
    fn node(&mut self, plan: &Arc<LogicalPlan>) -> String {
        let address = Arc::as_ptr(plan) as usize;
        if let Some(name) = self.known.get(&address) {
            return name.clone();
        }
        let inputs: Vec<String> = plan.inputs().into_iter().map(|i| self.node(i)).collect();
        let name = format!("n{}", self.tables.len());
        let select = select(plan, &inputs);
        self.tables.push(format!("{name} AS ({select})"));
        self.known.insert(address, name.clone());
        name
    }
}

fn select(plan: &LogicalPlan, inputs: &[String]) -> String {
    let schema = schema_of(plan).expect("the generator makes good plans");
    let below = plan.inputs().into_iter().map(|input| schema_of(input));
    let below: Vec<Arc<Schema>> = below.collect::<Result<_, _>>().expect("good plans");
    let typed = |index: usize, sql: String| {
        let field = schema.field(index);
        format!(
            "CAST({sql} AS {}) AS {}",
            type_name(field.data_type()),
            field.name()
        )
    };
    match plan {
        LogicalPlan::Scan(scan) => {
            let folder = local_path(&scan.locations[0]).expect("files of this machine");
            let folder = folder.file_name().expect("a folder of its own");
            let columns = schema.fields().iter().map(|field| field.name().as_str());
            format!(
                "SELECT {} FROM read_parquet('{}/*.parquet')",
                columns.collect::<Vec<_>>().join(", "),
                folder.display()
            )
        }
        LogicalPlan::Project { exprs, .. } => {
            let columns = exprs.iter().enumerate();
            let columns = columns.map(|(index, expr)| typed(index, sql(expr, &below[0])));
            format!("SELECT {} FROM {}", list(columns), inputs[0])
        }
        LogicalPlan::Filter { predicate, .. } => {
            let predicate = sql(predicate, &below[0]);
            format!("SELECT * FROM {} WHERE {predicate}", inputs[0])
        }
        LogicalPlan::Aggregate {
            group_by,
            aggregates,
            ..
        } => {
            let keys = group_by.iter().enumerate();
            let keys = keys.map(|(index, key)| {
                let data_type = type_name(schema.field(index).data_type());
                format!("CAST({} AS {data_type}) AS key{index}", sql(key, &below[0]))
            });
            let names: Vec<String> = (0..group_by.len()).map(|key| format!("key{key}")).collect();
            let shown = names.iter().zip(group_by);
            let shown = shown.map(|(key, expr)| format!("{key} AS {}", output_name(expr)));
            let made = aggregates.iter().enumerate().map(|(index, aggregate)| {
                typed(group_by.len() + index, aggregate_sql(aggregate, &below[0]))
            });
            let from = list(keys.chain(["*".to_owned()]));
            let mut text = format!(
                "SELECT {} FROM (SELECT {from} FROM {})",
                list(shown.chain(made)),
                inputs[0]
            );
            if !names.is_empty() {
                write!(text, " GROUP BY {}", names.join(", ")).expect("a string takes all");
            }
            text
        }
        LogicalPlan::Sort { keys, limit, .. } => {
            let order = list(keys.iter().map(|key| order(key, &below[0])));
            let limit = limit.map_or(String::new(), |limit| format!(" LIMIT {limit}"));
            format!("SELECT * FROM {} ORDER BY {order}{limit}", inputs[0])
        }
        LogicalPlan::Limit {
            input,
            offset,
            limit,
        } => {
            // The order of a table expression is not that of who reads it.
            let LogicalPlan::Sort { keys, .. } = &**input else {
                panic!("the generator takes the first rows of an order only");
            };
            let order = list(keys.iter().map(|key| order(key, &below[0])));
            format!(
                "SELECT * FROM {} ORDER BY {order} LIMIT {limit} OFFSET {offset}",
                inputs[0]
            )
        }
        LogicalPlan::Repartition { .. } | LogicalPlan::SortPartitions { .. } => {
            format!("SELECT * FROM {}", inputs[0])
        }
        LogicalPlan::Union { .. } => {
            let all = inputs.iter().map(|input| format!("SELECT * FROM {input}"));
            all.collect::<Vec<_>>().join(" UNION ALL ")
        }
        LogicalPlan::Join {
            kind, on, filter, ..
        } => join(*kind, on, filter.as_ref(), &below, inputs),
        other => panic!("the generator does not make {other:?}"),
    }
}

fn join(
    kind: JoinKind,
    on: &[(Expr, Expr)],
    filter: Option<&Expr>,
    below: &[Arc<Schema>],
    inputs: &[String],
) -> String {
    let (left, right) = (&inputs[0], &inputs[1]);
    let fields = below[0].fields().iter().chain(below[1].fields()).cloned();
    let both = Schema::new(fields.collect::<Vec<_>>());
    let equal = on
        .iter()
        .map(|(l, r)| format!("{} = {}", sql(l, &below[0]), sql(r, &below[1])));
    let all = equal.chain(filter.map(|filter| sql(filter, &both)));
    let mut all = all.collect::<Vec<_>>().join(" AND ");
    if all.is_empty() {
        all = "true".to_owned();
    }
    let word = match kind {
        JoinKind::Inner => "INNER",
        JoinKind::Left => "LEFT",
        JoinKind::Right => "RIGHT",
        JoinKind::Full => "FULL",
        JoinKind::Semi | JoinKind::Anti => {
            let not = if kind == JoinKind::Anti { "NOT " } else { "" };
            return format!(
                "SELECT * FROM {left} WHERE {not}EXISTS (SELECT 1 FROM {right} WHERE {all})"
            );
        }
    };
    format!("SELECT * FROM {left} {word} JOIN {right} ON {all}")
}

fn list(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

fn order(key: &SortKey, schema: &Schema) -> String {
    let direction = if key.descending { "DESC" } else { "ASC" };
    let nulls = if key.nulls_first { "FIRST" } else { "LAST" };
    format!("{} {direction} NULLS {nulls}", sql(&key.expr, schema))
}

fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Int32 => "INTEGER".to_owned(),
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Utf8View => "VARCHAR".to_owned(),
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Date32 => "DATE".to_owned(),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        other => panic!("the generator makes no columns of this type: {other}"),
    }
}

fn aggregate_sql(aggregate: &AggregateExpr, schema: &Schema) -> String {
    let argument = aggregate.arguments.first().map(|expr| {
        let data_type = typing::data_type(expr, schema).expect("a good argument");
        match data_type {
            DataType::Null => "CAST(NULL AS BIGINT)".to_owned(),
            other => format!("CAST({} AS {})", sql(expr, schema), type_name(&other)),
        }
    });
    let argument = argument.unwrap_or_else(|| "*".to_owned());
    let call = match &aggregate.function {
        AggregateFunction::Count => format!("count({argument})"),
        AggregateFunction::CountDistinct => format!("count(DISTINCT {argument})"),
        AggregateFunction::Sum => format!("sum({argument})"),
        AggregateFunction::Min => format!("min({argument})"),
        AggregateFunction::Max => format!("max({argument})"),
        AggregateFunction::Avg => format!("avg({argument})"),
        AggregateFunction::Variance => format!("var_samp({argument})"),
        AggregateFunction::VariancePopulation => format!("var_pop({argument})"),
        AggregateFunction::StdDev => format!("stddev_samp({argument})"),
        AggregateFunction::StdDevPopulation => format!("stddev_pop({argument})"),
        AggregateFunction::Any => format!("bool_or({argument})"),
        AggregateFunction::All => format!("bool_and({argument})"),
        other => panic!("the generator does not make {other:?}"),
    };
    match &aggregate.filter {
        Some(filter) => format!("{call} FILTER (WHERE {})", sql(filter, schema)),
        None => call,
    }
}

/// An expression over columns of `schema`.
fn sql(expr: &Expr, schema: &Schema) -> String {
    let inner = |expr: &Expr| sql(expr, schema);
    match expr {
        Expr::Column(name) => name.clone(),
        Expr::Literal(literal) => literal_sql(literal),
        Expr::Binary { left, op, right } => {
            let operator = match op {
                BinaryOp::Add => "+",
                BinaryOp::Subtract => "-",
                BinaryOp::Multiply => "*",
                BinaryOp::Divide if are_whole([left, right], schema) => "//",
                BinaryOp::Divide => "/",
                BinaryOp::Modulo => "%",
                BinaryOp::Equal => "=",
                BinaryOp::NotEqual => "<>",
                BinaryOp::Less => "<",
                BinaryOp::LessOrEqual => "<=",
                BinaryOp::Greater => ">",
                BinaryOp::GreaterOrEqual => ">=",
                BinaryOp::And => "AND",
                BinaryOp::Or => "OR",
            };
            let computed = format!("({} {operator} {})", inner(left), inner(right));
            match typing::data_type(expr, schema) {
                Ok(data_type) if data_type.is_decimal() => {
                    format!("CAST({computed} AS {})", type_name(&data_type))
                }
                _ => computed,
            }
        }
        Expr::Not(expr) => format!("(NOT {})", inner(expr)),
        Expr::Negate(expr) => format!("(-{})", inner(expr)),
        Expr::IsNull(expr) => format!("({} IS NULL)", inner(expr)),
        Expr::Cast { expr, to, .. } => format!("CAST({} AS {})", inner(expr), type_name(to)),
        Expr::Case {
            branches,
            otherwise,
        } => {
            let mut text = "(CASE".to_owned();
            for (condition, value) in branches {
                let (condition, value) = (inner(condition), inner(value));
                write!(text, " WHEN {condition} THEN {value}").expect("a string takes all");
            }
            if let Some(otherwise) = otherwise {
                write!(text, " ELSE {}", inner(otherwise)).expect("a string takes all");
            }
            text + " END)"
        }
        Expr::InList { expr, list: items } => {
            format!("({} IN ({}))", inner(expr), list(items.iter().map(inner)))
        }
        Expr::Function { function, args } => {
            // DuckDB has functions of one name for text and for lists.
            let args = args.iter().map(|arg| match (function, arg) {
                (Function::Contains | Function::StartsWith, Expr::Literal(Literal::Null)) => {
                    "CAST(NULL AS VARCHAR)".to_owned()
                }
                (_, arg) => inner(arg),
            });
            match function {
                // DuckDB's concat passes over nulls.
                Function::Concat => format!("({})", args.collect::<Vec<_>>().join(" || ")),
                function => format!("{}({})", function.name(), list(args)),
            }
        }
        Expr::Udf { function, .. } => panic!("the generator does not call {function}"),
        Expr::Alias { expr, .. } => inner(expr),
    }
}

fn are_whole(sides: [&Expr; 2], schema: &Schema) -> bool {
    let whole = |side: &Expr| {
        let data_type = typing::data_type(side, schema).expect("a good operand");
        data_type.is_integer() || data_type == DataType::Null
    };
    sides.into_iter().all(whole)
}

fn literal_sql(literal: &Literal) -> String {
    match literal {
        Literal::Null => "NULL".to_owned(),
        Literal::Boolean(value) => value.to_string(),
        Literal::Int64(value) => format!("CAST({value} AS BIGINT)"),
        Literal::Float64(value) => format!("CAST({value:?} AS DOUBLE)"),
        Literal::Utf8(text) => format!("'{}'", text.replace('\'', "''")),
        Literal::Decimal {
            unscaled,
            precision,
            scale,
        } => {
            let value = *unscaled as f64 / 10f64.powi((*scale).into());
            format!("CAST('{value}' AS DECIMAL({precision}, {scale}))")
        }
        Literal::Date(days) => format!("(DATE '1970-01-01' + {days})"),
        other => panic!("the generator does not make {other:?}"),
    }
}
