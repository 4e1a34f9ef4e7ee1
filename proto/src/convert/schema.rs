//! Arrow schemas and types, as Arrow spells them itself: an IPC schema message.
//!
//! A type travels as a schema of one field, so that there is one codec for types.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc::convert::try_schema_from_flatbuffer_bytes;
use arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions};
use bytes::Bytes;
use kiln_engine::Result;

use crate::convert::malformed;

/// An IPC schema message, without the framing of a stream.
pub fn encode(schema: &Schema) -> Bytes {
    let mut dictionaries = DictionaryTracker::new(false);
    let options = IpcWriteOptions::default();
    let encoded = IpcDataGenerator::default().schema_to_bytes_with_dictionary_tracker(
        schema,
        &mut dictionaries,
        &options,
    );
    encoded.ipc_message.into()
}

/// The schema of such a message.
///
/// # Errors
/// `Invalid` if the bytes are no such message, or nest deeper than Arrow's verifier follows.
pub fn decode(bytes: &[u8]) -> Result<SchemaRef> {
    let schema = try_schema_from_flatbuffer_bytes(bytes);
    schema
        .map(Arc::new)
        .map_err(|error| malformed("no Arrow schema").with_source(error))
}

/// A type, as the schema of one column.
pub(super) fn encode_type(data_type: &DataType) -> Bytes {
    encode(&Schema::new(vec![Field::new("", data_type.clone(), true)]))
}

/// The type of the only column.
pub(super) fn decode_type(bytes: &[u8]) -> Result<DataType> {
    let schema = decode(bytes)?;
    match schema.fields().as_ref() {
        [field] => Ok(field.data_type().clone()),
        fields => Err(malformed(format_args!("a type of {} fields", fields.len()))),
    }
}
