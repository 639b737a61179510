//! Bodies of responses: read into memory within limits, or streamed.

use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use opendal::Buffer;

use super::executor::fail;
use crate::limits::Held;
use crate::store::StoreError;

/// Bytes of one read of a body: above 128 KiB, the allocator asks the kernel for each buffer.
pub(super) const CHUNK: usize = 96 * 1024;

/// Bytes of one read of the body of an error: most have less.
const ERROR_CHUNK: usize = 4096;

/// A body in memory, and what counts that memory.
#[derive(Default)]
pub(super) struct BufferedBody {
    pub(super) bytes: Vec<u8>,
    _held: Held,
}

impl AsRef<[u8]> for BufferedBody {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads a body that is not the bytes of a file, up to a number of bytes and a moment.
pub(super) fn read_body(
    request: &str,
    body: ureq::Body,
    length: Option<u64>,
    most: usize,
    until: Instant,
) -> opendal::Result<BufferedBody> {
    let too_large = || {
        let text = format!("{request}: a response of more than {} MiB", most >> 20);
        fail(StoreError::Failed(text))
    };
    if length.is_some_and(|length| length > most as u64) {
        return Err(too_large());
    }
    let (mut reader, mut answer) = (body.into_reader(), BufferedBody::default());
    let mut chunk =
        vec![0; length.and_then(|it| usize::try_from(it).ok()).map_or(CHUNK, |it| it.clamp(1, CHUNK))];
    loop {
        let unavailable = |why: &str| fail(StoreError::Unavailable(format!("{request}: {why}")));
        if Instant::now() > until {
            return Err(unavailable("the response comes too slowly"));
        }
        let read = match reader.read(&mut chunk) {
            Ok(0) => return Ok(answer),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(unavailable(&error.kind().to_string())),
        };
        if answer.bytes.len() + read > most {
            return Err(too_large());
        }
        if !answer._held.take(read) {
            return Err(unavailable("too many large responses at a time"));
        }
        answer.bytes.extend_from_slice(chunk.get(..read).unwrap_or_default());
    }
}

/// Reads until a moment; a byte now and then does not put it off.
pub(super) fn read_until(mut body: impl Read, moment: Instant) -> Vec<u8> {
    let (mut text, mut chunk) = (Vec::new(), [0; ERROR_CHUNK]);
    while Instant::now() < moment
        && let Ok(read @ 1..) = body.read(&mut chunk)
    {
        text.extend_from_slice(chunk.get(..read).unwrap_or_default());
    }
    text
}

/// A body that is in memory.
pub(super) struct Once(pub(super) Option<Buffer>);

impl futures_core::Stream for Once {
    type Item = opendal::Result<Buffer>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.take().filter(|body| !body.is_empty()).map(Ok))
    }
}

/// A body that is read while it arrives.
pub(super) struct StreamedBody<R> {
    pub(super) body: R,
    pub(super) size: usize,
    pub(super) request: String,
}

impl<R: Read + Unpin> futures_core::Stream for StreamedBody<R> {
    type Item = opendal::Result<Buffer>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut chunk = vec![0; self.size];
        Poll::Ready(match self.body.read(&mut chunk) {
            Ok(0) => None,
            Ok(read) => {
                chunk.truncate(read);
                Some(Ok(Buffer::from(chunk)))
            }
            Err(error) => {
                let text = format!("{}: {}", self.request, error.kind());
                Some(Err(fail(StoreError::Unavailable(text))))
            }
        })
    }
}
