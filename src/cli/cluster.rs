//! `kiln cluster`.
use super::exit::Outcome;
pub(crate) fn run<T>(_args: &T) -> Outcome {
    Ok(())
}
