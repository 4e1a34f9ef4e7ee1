//! What a program has registered: from names to bodies.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::udf::{AggregateBody, GroupBody, ScalarBody, TableBody};

/// Makes a body from the parameters of a call.
type Factory<B> = Arc<dyn Fn(&str) -> Result<Arc<B>> + Send + Sync>;

/// The functions of a program, by name.
#[derive(Clone, Default)]
pub struct Functions {
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone)]
enum Entry {
    Scalar(Factory<dyn ScalarBody>),
    Table(Factory<dyn TableBody>),
    Aggregate(Factory<dyn AggregateBody>),
    Group(Factory<dyn GroupBody>),
}

impl Entry {
    fn kind(&self) -> &'static str {
        match self {
            Entry::Scalar(_) => "scalar function",
            Entry::Table(_) => "function over rows",
            Entry::Aggregate(_) => "aggregate function",
            Entry::Group(_) => "function over groups",
        }
    }
}

impl Functions {
    /// Registers a scalar function. `factory` makes its body from parameters.
    ///
    /// # Errors
    /// `Invalid` if the name is taken.
    pub fn add_scalar(
        &mut self,
        name: &str,
        factory: impl Fn(&str) -> Result<Arc<dyn ScalarBody>> + Send + Sync + 'static,
    ) -> Result<()> {
        self.add(name, Entry::Scalar(Arc::new(factory)))
    }

    /// Registers a function over rows.
    ///
    /// # Errors
    /// As for [`add_scalar`](Self::add_scalar).
    pub fn add_table(
        &mut self,
        name: &str,
        factory: impl Fn(&str) -> Result<Arc<dyn TableBody>> + Send + Sync + 'static,
    ) -> Result<()> {
        self.add(name, Entry::Table(Arc::new(factory)))
    }

    /// Registers an aggregate function.
    ///
    /// # Errors
    /// As for [`add_scalar`](Self::add_scalar).
    pub fn add_aggregate(
        &mut self,
        name: &str,
        factory: impl Fn(&str) -> Result<Arc<dyn AggregateBody>> + Send + Sync + 'static,
    ) -> Result<()> {
        self.add(name, Entry::Aggregate(Arc::new(factory)))
    }

    /// Registers a function over groups.
    ///
    /// # Errors
    /// As for [`add_scalar`](Self::add_scalar).
    pub fn add_group(
        &mut self,
        name: &str,
        factory: impl Fn(&str) -> Result<Arc<dyn GroupBody>> + Send + Sync + 'static,
    ) -> Result<()> {
        self.add(name, Entry::Group(Arc::new(factory)))
    }

    /// Adds all functions of another program.
    ///
    /// # Errors
    /// As for [`add_scalar`](Self::add_scalar).
    pub fn add_all(&mut self, other: Functions) -> Result<()> {
        let mut entries = other.entries.into_iter();
        entries.try_for_each(|(name, entry)| self.add(&name, entry))
    }

    fn add(&mut self, name: &str, entry: Entry) -> Result<()> {
        if name.is_empty() {
            return Err(Error::invalid("a function has to have a name"));
        }
        if self.entries.contains_key(name) {
            return Err(Error::invalid(format!(
                "two functions are registered under one name name={name:?}"
            )));
        }
        self.entries.insert(name.to_owned(), entry);
        Ok(())
    }

    /// The names of all functions, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn scalar(&self, name: &str, parameters: &str) -> Result<Arc<dyn ScalarBody>> {
        match self.entry(name)? {
            Entry::Scalar(factory) => factory(parameters),
            other => Err(wrong_kind(name, "scalar function", other)),
        }
    }

    pub(super) fn table(&self, name: &str, parameters: &str) -> Result<Arc<dyn TableBody>> {
        match self.entry(name)? {
            Entry::Table(factory) => factory(parameters),
            other => Err(wrong_kind(name, "function over rows", other)),
        }
    }

    pub(super) fn aggregate(&self, name: &str, parameters: &str) -> Result<Arc<dyn AggregateBody>> {
        match self.entry(name)? {
            Entry::Aggregate(factory) => factory(parameters),
            other => Err(wrong_kind(name, "aggregate function", other)),
        }
    }

    pub(super) fn group(&self, name: &str, parameters: &str) -> Result<Arc<dyn GroupBody>> {
        match self.entry(name)? {
            Entry::Group(factory) => factory(parameters),
            other => Err(wrong_kind(name, "function over groups", other)),
        }
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.entries.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.names().collect();
            Error::invalid(format!(
                "this program has no such function name={name:?} registered=[{}]",
                known.join(", ")
            ))
        })
    }
}

fn wrong_kind(name: &str, wanted: &str, entry: &Entry) -> Error {
    Error::invalid(format!(
        "a function of another kind is registered name={name:?} wanted={wanted:?} found={:?}",
        entry.kind()
    ))
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = self
            .entries
            .iter()
            .map(|(name, entry)| (name, entry.kind()));
        f.debug_map().entries(kinds).finish()
    }
}
