//! `kiln driver`.
use super::exit::Outcome;
pub(crate) fn run<T>(_args: &T) -> Outcome {
    Ok(())
}
