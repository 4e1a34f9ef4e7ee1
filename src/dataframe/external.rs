//! External commands over the rows of a data frame.

use arrow::datatypes::DataType;
use kiln_engine::Result;
use kiln_engine::expr::Expr;
use kiln_engine::plan::LogicalPlan;
use kiln_engine::udf::GroupUdf;

use super::DataFrame;
use crate::external::{Commands, KEY};

impl DataFrame {
    /// What commands make of `record`, a text of each row, which is a line to the mapper: the
    /// columns `key` and `value`. Rows where it is null are left out.
    ///
    /// ```
    /// use kiln::external::Commands;
    /// use kiln::{Session, col};
    ///
    /// # std::env::set_current_dir(env!("CARGO_MANIFEST_DIR"))?;
    /// let commands = Commands {
    ///     map: "tr -s ' ' '\\n'".to_owned(),
    ///     combine: None,
    ///     reduce: "cut -f 1 | uniq".to_owned(),
    /// };
    /// let lines = Session::local()?.read_text("examples/data/rhyme.txt")?;
    /// lines.external(col("line"), &commands)?.show()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Invalid` if the record is unknown or no text.
    pub fn external(&self, record: Expr, commands: &Commands) -> Result<Self> {
        let map = commands.map();
        let record = self.converted(map.name(), vec![record], &[DataType::Utf8View])?;
        let records = self.select(record)?;
        let mut lines = records.then(LogicalPlan::Apply {
            input: records.input(),
            function: map,
        })?;
        if let Some(combine) = commands.combine() {
            lines = lines.grouped(combine, true)?;
        }
        lines.grouped(commands.reduce(), false)
    }

    /// What a command makes of lines sorted by key.
    fn grouped(&self, function: GroupUdf, local: bool) -> Result<Self> {
        self.then(LogicalPlan::Reduce {
            input: self.input(),
            keys: vec![KEY.to_owned()],
            order: Vec::new(),
            function,
            local,
        })
    }
}
