//! An upload in parts whose requests meet the same rules as all others.

use std::sync::Arc;

use async_trait::async_trait;
use object_store::path::Path;
use object_store::{MultipartUpload, PutPayload, PutResult, Result, UploadPart};

use super::{Desk, Op};

/// Puts the rules of `desk` between a caller and `inner`.
pub(super) fn wrap(
    inner: Box<dyn MultipartUpload>,
    path: &Path,
    desk: &Arc<Desk>,
) -> Box<dyn MultipartUpload> {
    Box::new(FaultyUpload {
        inner,
        path: path.clone(),
        desk: Arc::clone(desk),
    })
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    path: Path,
    desk: Arc<Desk>,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let fate = self.desk.decide(Op::PutPart, &self.path);
        let sent = self.inner.put_part(fate.damage_payload(data));
        Box::pin(async move { fate.apply(sent).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let fate = self.desk.decide(Op::CompleteMultipart, &self.path);
        fate.apply(self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        let fate = self.desk.decide(Op::AbortMultipart, &self.path);
        fate.apply(self.inner.abort()).await
    }
}
