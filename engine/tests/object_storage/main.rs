//! Remote stores as the engine reaches them: settings, answers, limits, and objects that only one
//! writer creates, against a strict stand-in for S3 and against a store with scripted faults.

mod conditional;
mod reach;
