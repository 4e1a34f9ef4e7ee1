//! Messages on the socket between an executor and a worker process: four bytes of length, then
//! the message. Neither side believes a length beyond a limit.

use std::io::{Error, ErrorKind, Read, Result, Write};

use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::settings::WORKER_MESSAGE_BYTES_MAX;

const PREFIX_BYTES: usize = size_of::<u32>();

/// A message as it is sent.
///
/// # Errors
/// `InvalidInput` if it is too large.
pub(crate) fn framed(message: &[u8]) -> Result<Vec<u8>> {
    let too_large = || Error::new(ErrorKind::InvalidInput, "the message is too large");
    let bytes = u32::try_from(message.len()).ok();
    let bytes = bytes.filter(|_| message.len() <= WORKER_MESSAGE_BYTES_MAX);
    let mut frame = Vec::with_capacity(PREFIX_BYTES + message.len());
    frame.extend(bytes.ok_or_else(too_large)?.to_le_bytes());
    frame.extend(message);
    Ok(frame)
}

/// Sends a message.
///
/// # Errors
/// What the socket answers; as for [`framed`].
pub(crate) fn write(to: &mut impl Write, message: &[u8]) -> Result<()> {
    to.write_all(&framed(message)?)
}

/// The next message, in a process that has a thread to wait for it.
///
/// # Errors
/// What the socket answers; `UnexpectedEof` where it ends, `InvalidData` for what is no message.
pub(crate) fn read(from: &mut impl Read) -> Result<Vec<u8>> {
    let mut prefix = [0; PREFIX_BYTES];
    from.read_exact(&mut prefix)?;
    let mut message = vec![0; length(prefix)?];
    from.read_exact(&mut message)?;
    Ok(message)
}

/// The next message. What was read of it is lost when this is dropped.
///
/// # Errors
/// As for [`read`].
pub(crate) async fn next(from: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>> {
    let mut prefix = [0; PREFIX_BYTES];
    from.read_exact(&mut prefix).await?;
    let mut message = vec![0; length(prefix)?];
    from.read_exact(&mut message).await?;
    Ok(message)
}

fn length(prefix: [u8; PREFIX_BYTES]) -> Result<usize> {
    let bytes = u32::from_le_bytes(prefix) as usize;
    if bytes > WORKER_MESSAGE_BYTES_MAX {
        return Err(Error::new(ErrorKind::InvalidData, "not a message"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_come_as_they_went_and_nonsense_is_refused() {
        let mut sent = Vec::new();
        for message in [&b"one"[..], b"", b"three"] {
            write(&mut sent, message).expect("a vector takes everything");
        }
        let (mut blocking, mut waiting) = (&sent[..], &sent[..]);
        for message in [&b"one"[..], b"", b"three"] {
            assert_eq!(read(&mut blocking).expect("there"), message);
            assert_eq!(next(&mut waiting).await.expect("there"), message);
        }
        let end = read(&mut blocking).expect_err("nothing is left");
        assert_eq!(end.kind(), ErrorKind::UnexpectedEof);
        let noise = read(&mut &b"GET / HTTP/1.1"[..]).expect_err("not a message");
        assert_eq!(noise.kind(), ErrorKind::InvalidData);
    }
}
