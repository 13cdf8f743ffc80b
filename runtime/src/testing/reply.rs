//! What a faulty server does with one request: some bytes, whole or not, right or not, now or later.

use std::time::Duration;

/// What becomes of the connection after the last byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// It is kept for the next request.
    Keep,
    /// It is dropped without a TLS goodbye.
    Cut,
    /// It is closed with one.
    Close,
    /// It is reset: what the other side has not read yet is lost.
    Reset,
    /// Nothing more happens, and it stays open.
    Stall,
}

/// One answer of a [`super::FaultyServer`].
#[derive(Debug, Clone)]
pub struct Reply {
    pub(super) bytes: Vec<u8>,
    pub(super) piece: usize,
    pub(super) delay: Option<Duration>,
    pub(super) ending: Ending,
}

impl Reply {
    /// These bytes, whatever they are.
    #[must_use]
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), piece: usize::MAX, delay: None, ending: Ending::Keep }
    }

    /// An HTTP/1.1 answer with a right `content-length`; each header ends in `\r\n`.
    #[must_use]
    pub fn http(status: &str, headers: &str, body: &str) -> Self {
        Self::raw(format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()))
    }

    /// An answer of this status without a body.
    #[must_use]
    pub fn status(status: &str) -> Self {
        Self::http(status, "", "")
    }

    /// A chat completion that says `text` (which needs no escaping), 3 tokens read and 2 written.
    #[must_use]
    pub fn says(text: &str) -> Self {
        let body = format!(
            r#"{{"choices":[{{"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":3,"completion_tokens":2}}}}"#
        );
        Self::http("200 OK", "content-type: application/json\r\n", &body)
    }

    /// A streamed chat completion of these pieces (which need no escaping), 3 tokens read and 2 written.
    #[must_use]
    pub fn streams(pieces: &[&str]) -> Self {
        let mut data: Vec<String> =
            pieces.iter().map(|piece| format!(r#"{{"choices":[{{"delta":{{"content":"{piece}"}}}}]}}"#)).collect();
        data.push(r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#.into());
        data.push(r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#.into());
        data.push("[DONE]".into());
        Self::events(&data)
    }

    /// An event stream, chunked, with these data and no other fields.
    #[must_use]
    pub fn events(data: &[impl AsRef<str>]) -> Self {
        let mut bytes =
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        for data in data {
            let event = format!("data: {}\n\n", data.as_ref());
            bytes.extend_from_slice(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes());
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        Self::raw(bytes)
    }

    /// Nothing at all.
    #[must_use]
    pub fn stall() -> Self {
        Self::raw("").stall_after(0)
    }

    /// The bytes of it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same, cut off after `bytes` without a TLS goodbye.
    #[must_use]
    pub fn cut_after(self, bytes: usize) -> Self {
        self.end(bytes, Ending::Cut)
    }

    /// The same, closed after `bytes` as if that were all.
    #[must_use]
    pub fn close_after(self, bytes: usize) -> Self {
        self.end(bytes, Ending::Close)
    }

    /// The same, with the connection reset after `bytes`.
    #[must_use]
    pub fn reset_after(self, bytes: usize) -> Self {
        self.end(bytes, Ending::Reset)
    }

    /// The same until `bytes` are sent, then silence.
    #[must_use]
    pub fn stall_after(self, bytes: usize) -> Self {
        self.end(bytes, Ending::Stall)
    }

    /// The same, with all bits of the byte at this place turned over.
    #[must_use]
    pub fn corrupt(mut self, at: usize) -> Self {
        if let Some(byte) = self.bytes.get_mut(at) {
            *byte = !*byte;
        }
        self
    }

    /// The same in TLS records of so many bytes.
    #[must_use]
    pub fn pieces(mut self, bytes: usize) -> Self {
        self.piece = bytes.max(1);
        self
    }

    /// The same, begun so much later by the server's clock.
    #[must_use]
    pub fn delayed(mut self, by: Duration) -> Self {
        self.delay = Some(by);
        self
    }

    fn end(mut self, bytes: usize, ending: Ending) -> Self {
        self.bytes.truncate(bytes);
        self.ending = ending;
        self
    }
}
