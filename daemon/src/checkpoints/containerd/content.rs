//! containerd's content store.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::api::Descriptor;
use super::api::content::{InfoRequest, ReadContentRequest, WriteAction, WriteContentRequest};
use super::client::{Client, refused};
use crate::checkpoints::{Failure, Kind};

/// The largest blob that is read into memory: indexes, image configurations and specs.
/// containerd limits the message with a container's spec to as much.
const LARGEST: i64 = 16 << 20;

/// The digest of a blob.
pub(super) fn digest(data: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(data) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Reads a small blob.
///
/// # Errors
/// It is missing, or too large.
pub(super) async fn read(client: &Client, of: &Descriptor) -> Result<Vec<u8>, Failure> {
    let what = || format!("could not read {} ({})", of.digest, of.media_type);
    // The size in a descriptor is a claim; the store knows the blob's.
    let size = size(client, &of.digest).await?;
    if size > LARGEST {
        return Err(Failure::new(
            Kind::Invalid,
            format!("{}: it has {size} bytes, more than {LARGEST}", what()),
        ));
    }
    read_part(client, &of.digest, 0, size).await
}

/// A blob's size.
pub(super) async fn size(client: &Client, digest: &str) -> Result<i64, Failure> {
    let request = InfoRequest {
        digest: digest.to_owned(),
    };
    let answer = client.content().info(request).await;
    let answer = answer.map_err(refused(format!("could not find the content {digest}")))?;
    Ok(answer.into_inner().info.unwrap_or_default().size)
}

/// Reads so many bytes of a blob from an offset.
pub(super) async fn read_part(
    client: &Client,
    digest: &str,
    offset: i64,
    size: i64,
) -> Result<Vec<u8>, Failure> {
    if size == 0 {
        // containerd takes this for all that follows.
        return Ok(Vec::new());
    }
    let what = || format!("could not read the content {digest}");
    let request = ReadContentRequest {
        digest: digest.to_owned(),
        offset,
        size,
    };
    let answer = client.content().read(request).await;
    let mut parts = answer.map_err(refused(what()))?.into_inner();
    let mut data = Vec::new();
    while let Some(part) = parts.message().await.map_err(refused(what()))? {
        data.extend(part.data);
    }
    match i64::try_from(data.len()) == Ok(size) {
        true => Ok(data),
        false => Err(Failure::new(
            Kind::System,
            format!("{}: it ends after {} bytes", what(), data.len()),
        )),
    }
}

/// Stores a small blob. One with the same bytes may be stored already.
pub(super) async fn write(
    client: &Client,
    media_type: &str,
    data: Vec<u8>,
    labels: impl IntoIterator<Item = (String, String)>,
) -> Result<Descriptor, Failure> {
    let digest = digest(&data);
    let size = i64::try_from(data.len()).unwrap_or(i64::MAX);
    let what = format!("could not store {media_type}");
    let request = WriteContentRequest {
        action: WriteAction::Commit.into(),
        r#ref: format!("cedana-{digest}"),
        total: size,
        expected: digest.clone(),
        offset: 0,
        data,
        labels: labels.into_iter().collect(),
    };
    let requests = tokio_stream::iter([request]);
    let result = match client.content().write(requests).await {
        Ok(answer) => answer.into_inner().message().await.map(drop),
        Err(status) => Err(status),
    };
    match result {
        Err(status) if status.code() == tonic::Code::AlreadyExists => {}
        result => result.map_err(refused(what))?,
    }
    Ok(Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_sha256_in_hexadecimal() {
        assert_eq!(
            digest(b""),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
