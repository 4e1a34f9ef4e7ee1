//! Programs of users, and plans handed in with them.

use bytes::Bytes;
use kiln_engine::plan::{Binary, Program, Sha256};
use kiln_engine::{Error, Result, limits};

use crate::convert::{malformed, need};
use crate::message::OfferedProgram;
use crate::wire;

pub(super) fn encode(program: &Program) -> wire::Program {
    let (sha256, bytes) = match program.binary {
        Binary::Kiln => (None, 0),
        Binary::Staged { sha256, bytes } => (Some(Bytes::copy_from_slice(&sha256.0)), bytes),
    };
    wire::Program {
        sha256,
        bytes,
        memory: program.memory,
        call_ms: program.call_ms,
        environment: program.environment.clone(),
    }
}

pub(super) fn decode(program: wire::Program) -> Result<Program> {
    let binary = match program.sha256 {
        None => Binary::Kiln,
        Some(sha256) => Binary::Staged {
            sha256: decode_sha256(&sha256)?,
            bytes: program.bytes,
        },
    };
    Ok(Program {
        binary,
        memory: program.memory,
        call_ms: program.call_ms,
        environment: program.environment,
    })
}

/// A SHA-256 of 32 bytes.
///
/// # Errors
/// `Invalid` if they are more or fewer.
pub fn decode_sha256(bytes: &[u8]) -> Result<Sha256> {
    let digest = bytes.try_into();
    let digest = digest.map_err(|_| malformed(format_args!("a SHA-256 of {} bytes", bytes.len())));
    Ok(Sha256(digest?))
}

/// A program as it is handed in.
pub fn encode_offered(offered: &OfferedProgram) -> wire::OfferedProgram {
    wire::OfferedProgram {
        program: Some(encode(&offered.program)),
        platform: offered.platform.clone(),
        protocol: offered.protocol,
        functions: offered.functions.clone(),
    }
}

/// A program as a driver gets it.
///
/// # Errors
/// `Invalid` if it is malformed, or brings an environment that is too large.
pub fn decode_offered(offered: wire::OfferedProgram) -> Result<OfferedProgram> {
    let program = decode(need(offered.program, "program")?)?;
    let environment = program.environment.iter();
    let bytes: usize = environment
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if bytes > limits::PROGRAM_ENVIRONMENT_BYTES_MAX {
        return Err(Error::invalid(format!(
            "the environment of a program is too large bytes={bytes} bytes_max={}",
            limits::PROGRAM_ENVIRONMENT_BYTES_MAX
        )));
    }
    Ok(OfferedProgram {
        program,
        platform: offered.platform,
        protocol: offered.protocol,
        functions: offered.functions,
    })
}
