//! [`Tables`]: the eight tables of the benchmark as Parquet files in a directory.

use std::fmt;
use std::sync::OnceLock;

use kiln_engine::Result;

use crate::dataframe::DataFrame;
use crate::session::Session;

/// A table of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Table {
    Customer,
    Lineitem,
    Nation,
    Orders,
    Part,
    Partsupp,
    Region,
    Supplier,
}

impl Table {
    /// All of them.
    pub const ALL: [Table; 8] = [
        Table::Customer,
        Table::Lineitem,
        Table::Nation,
        Table::Orders,
        Table::Part,
        Table::Partsupp,
        Table::Region,
        Table::Supplier,
    ];

    /// Its name, which is also that of its directory.
    pub fn name(self) -> &'static str {
        match self {
            Table::Customer => "customer",
            Table::Lineitem => "lineitem",
            Table::Nation => "nation",
            Table::Orders => "orders",
            Table::Part => "part",
            Table::Partsupp => "partsupp",
            Table::Region => "region",
            Table::Supplier => "supplier",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The tables below a directory or URL: `DIR/lineitem/*.parquet` or `DIR/lineitem.parquet`. Each
/// is looked into when it is first asked for.
#[derive(Debug)]
pub struct Tables {
    session: Session,
    directory: String,
    opened: [OnceLock<DataFrame>; Table::ALL.len()],
}

impl Tables {
    /// The tables below `directory`, for jobs of `session`.
    pub fn open(session: &Session, directory: &str) -> Self {
        Tables {
            session: session.clone(),
            directory: directory.trim_end_matches('/').to_owned(),
            opened: Default::default(),
        }
    }

    /// The rows of `table`.
    ///
    /// # Errors
    /// `Invalid` if there is no such table, or it is not Parquet.
    pub fn table(&self, table: Table) -> Result<DataFrame> {
        let opened = &self.opened[table as usize];
        if let Some(frame) = opened.get() {
            return Ok(frame.clone());
        }
        let place = format!("{}/{table}", self.directory);
        // A directory is how benchmarks come; a single file is how a person keeps a small one.
        let frame = self.session.read_parquet(&place).or_else(|error| {
            let file = format!("{place}.parquet");
            self.session.read_parquet(file).map_err(|_| error)
        })?;
        Ok(opened.get_or_init(|| frame).clone())
    }
}

macro_rules! tables {
    ($($name:ident => $table:ident),* $(,)?) => {
        impl Tables {
            $(
                #[doc = concat!("The rows of `", stringify!($name), "`.")]
                ///
                /// # Errors
                /// As for [`Tables::table`].
                pub fn $name(&self) -> Result<DataFrame> {
                    self.table(Table::$table)
                }
            )*
        }
    };
}

tables! {
    customer => Customer,
    lineitem => Lineitem,
    nation => Nation,
    orders => Orders,
    part => Part,
    partsupp => Partsupp,
    region => Region,
    supplier => Supplier,
}
