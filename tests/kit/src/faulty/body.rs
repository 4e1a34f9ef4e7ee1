//! What faults do to bytes that are read or written.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use futures::stream;
use object_store::{GetResult, GetResultPayload, PutPayload, Result};

use super::rule::{Failure, Fault};
use super::{Fate, Op};

/// In how many pieces a slow body comes at least.
const SLOW_PIECES: usize = 4;

impl Fate {
    /// What is stored in the place of `payload`.
    pub(super) fn damage_payload(&self, payload: PutPayload) -> PutPayload {
        match self.fault() {
            Some(Fault::Truncate(_) | Fault::FlipBit(_)) => {
                let pieces: Vec<Bytes> = payload.into_iter().collect();
                self.damage(pieces.concat().into()).into()
            }
            _ => payload,
        }
    }

    /// What is read in the place of `answer`.
    pub(super) async fn damage_answer(&self, mut answer: GetResult) -> Result<GetResult> {
        let fault = match self.fault() {
            Some(fault) if self.op == Op::Get => fault,
            _ => return Ok(answer),
        };
        if !matches!(
            fault,
            Fault::Truncate(_) | Fault::Cut(_) | Fault::FlipBit(_) | Fault::Slow(_)
        ) {
            return Ok(answer);
        }
        let emptied = GetResultPayload::Stream(stream::empty().boxed());
        let payload = std::mem::replace(&mut answer.payload, emptied);
        let whole = GetResult {
            payload,
            meta: answer.meta.clone(),
            range: answer.range.clone(),
            attributes: answer.attributes.clone(),
            extensions: Default::default(),
        };
        let bytes = self.damage(whole.bytes().await?);
        let mut pieces = vec![Ok(bytes.clone())];
        let mut pause = Duration::ZERO;
        match fault {
            Fault::Cut(_) => pieces.push(Err(Failure::RESET.error(self.op, &self.path))),
            Fault::Slow(time) => {
                let size = bytes.len().div_ceil(SLOW_PIECES).max(1);
                let starts = (0..bytes.len()).step_by(size);
                let piece = |start: usize| bytes.slice(start..bytes.len().min(start + size));
                pieces = starts.map(|start| Ok(piece(start))).collect();
                pause = time;
            }
            _ => {}
        }
        let body = stream::iter(pieces).then(move |piece| async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            piece
        });
        answer.payload = GetResultPayload::Stream(body.boxed());
        Ok(answer)
    }

    fn damage(&self, bytes: Bytes) -> Bytes {
        match self.fault() {
            Some(Fault::Truncate(kept) | Fault::Cut(kept)) => bytes.slice(..kept.min(bytes.len())),
            Some(Fault::FlipBit(at)) if !bytes.is_empty() => {
                let mut damaged = BytesMut::from(&bytes[..]);
                let is_there = at < damaged.len();
                let place = if is_there {
                    at
                } else {
                    self.draw % damaged.len()
                };
                damaged[place] ^= 1;
                damaged.freeze()
            }
            _ => bytes,
        }
    }
}
