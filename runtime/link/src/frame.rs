//! Frames: a message as bytes on the line, and back.

use core::fmt;

use crc::{CRC_32_ISO_HDLC, Crc};

use crate::message::{MAX_TASK, MAX_TEXT, Message};

/// The version of the frames' form. A frame of another one is dropped.
pub const VERSION: u8 = 1;

/// Longest content of a frame: version, the largest message (kind, id in two numbers of up to five bytes, task and text with
/// their lengths), checksum.
const MAX_CONTENT: usize = 1 + (1 + 10 + 2 + MAX_TASK + 2 + MAX_TEXT) + CHECKSUM;
const CHECKSUM: usize = 4;

/// Longest frame, in bytes: the content, a byte of stuffing for each 254 begun, the zero at its end.
pub const MAX_FRAME: usize = MAX_CONTENT + MAX_CONTENT.div_ceil(254) + 1;

static CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// Why bytes between two zeros are no frame, or a message cannot become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// Longer than [`MAX_FRAME`], or a text or task beyond its limit.
    TooLong,
    /// Not stuffed as COBS does.
    Stuffing,
    /// The checksum is another one: bytes were damaged or lost.
    Checksum,
    /// Of another version than [`VERSION`]: the two sides run different programs.
    Version {
        /// Which one.
        found: u8,
    },
    /// The checksum is right and yet it is no message: the two sides run different programs.
    Message,
}

/// Writes a message as a frame, its ending zero included, and returns the part of `buffer` that holds it.
///
/// # Errors
/// [`FrameError::TooLong`] for a text or task beyond its limit; no other.
pub fn encode<'b>(message: &Message<'_>, buffer: &'b mut [u8; MAX_FRAME]) -> Result<&'b [u8], FrameError> {
    if !fits(message) {
        return Err(FrameError::TooLong);
    }
    let mut content = [0; MAX_CONTENT];
    content[0] = VERSION;
    let length = 1 + postcard::to_slice(message, &mut content[1..]).map_err(|_| FrameError::TooLong)?.len();
    let checksum = CRC.checksum(&content[..length]).to_le_bytes();
    content.get_mut(length..length + CHECKSUM).ok_or(FrameError::TooLong)?.copy_from_slice(&checksum);
    let stuffed = cobs::try_encode(&content[..length + CHECKSUM], buffer).map_err(|_| FrameError::TooLong)?;
    *buffer.get_mut(stuffed).ok_or(FrameError::TooLong)? = 0;
    Ok(&buffer[..=stuffed])
}

fn fits(message: &Message<'_>) -> bool {
    match message {
        Message::Query { task, text, .. } => {
            text.len() <= MAX_TEXT && task.is_none_or(|task| (1..=MAX_TASK).contains(&task.len()))
        }
        Message::Answer { text, .. } => text.len() <= MAX_TEXT,
        Message::Accepted { .. } | Message::Received { .. } | Message::Hello => true,
    }
}

/// Reads what lies between two zero bytes, which are not part of `frame`, and uses its memory for what is decoded.
fn decode(frame: &mut [u8]) -> Result<Message<'_>, FrameError> {
    let length = cobs::decode_in_place(frame).map_err(|_| FrameError::Stuffing)?;
    let content = frame.get(..length).ok_or(FrameError::Stuffing)?;
    let (content, checksum) = content.split_last_chunk().ok_or(FrameError::Checksum)?;
    if CRC.checksum(content) != u32::from_le_bytes(*checksum) {
        return Err(FrameError::Checksum);
    }
    let (&version, message) = content.split_first().ok_or(FrameError::Message)?;
    if version != VERSION {
        return Err(FrameError::Version { found: version });
    }
    let (message, rest) = postcard::take_from_bytes(message).map_err(|_| FrameError::Message)?;
    if rest.is_empty() && fits(&message) { Ok(message) } else { Err(FrameError::Message) }
}

/// Puts frames together from single bytes, as they come off the line.
#[derive(Debug, Clone)]
pub struct Receiver {
    buffer: [u8; MAX_FRAME],
    length: usize,
}

impl Receiver {
    /// Nothing read yet. Bytes up to the first zero are the end of a frame that began before.
    #[must_use]
    pub const fn new() -> Self {
        Self { buffer: [0; MAX_FRAME], length: 0 }
    }

    /// Adds a byte; the message, or why there is none, if it ends a frame. Zeros without anything between them are
    /// silence.
    pub fn push(&mut self, byte: u8) -> Option<Result<Message<'_>, FrameError>> {
        if byte != 0 {
            // Once it is too long its length stays beyond the buffer until the next zero.
            if let Some(free) = self.buffer.get_mut(self.length) {
                *free = byte;
            }
            self.length = (self.length + 1).min(MAX_FRAME + 1);
            return None;
        }
        let length = core::mem::take(&mut self.length);
        match self.buffer.get_mut(..length) {
            Some([]) => None,
            Some(frame) => Some(decode(frame)),
            None => Some(Err(FrameError::TooLong)),
        }
    }
}

impl Default for Receiver {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => f.write_str("a frame is too long"),
            Self::Stuffing => f.write_str("a frame is not stuffed as COBS does"),
            Self::Checksum => f.write_str("a frame's checksum is wrong"),
            Self::Version { found } => write!(f, "a frame has version {found}, not {VERSION}"),
            Self::Message => f.write_str("a frame holds no message that is known here"),
        }
    }
}

impl core::error::Error for FrameError {}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::message::{Origin, QueryId};

    fn read(bytes: &[u8]) -> Vec<Result<std::string::String, FrameError>> {
        let mut receiver = Receiver::new();
        let mut read = Vec::new();
        for &byte in bytes {
            read.extend(receiver.push(byte).map(|frame| frame.map(|message| std::format!("{message:?}"))));
        }
        read
    }

    fn frame(message: &Message<'_>) -> Vec<u8> {
        encode(message, &mut [0; MAX_FRAME]).unwrap().to_vec()
    }

    /// By hand, the checksum by Python: `zlib.crc32(bytes([1, 3, 0xed, 0xbd, 0x01, 7]))` is 0x53d25892.
    #[test]
    fn a_frame_is_what_the_front_page_says() {
        let id = QueryId { session: 0x5eed, number: 7 };
        let content = [1, 3, 0xed, 0xbd, 0x01, 7];
        let checksum = [0x92, 0x58, 0xd2, 0x53];
        let mut expected = std::vec![content.len() as u8 + 5];
        expected.extend(content);
        expected.extend(checksum);
        expected.push(0);
        assert_eq!(frame(&Message::Received { id }), expected);
    }

    #[test]
    fn the_largest_message_fits_and_a_larger_one_is_refused() {
        let (text, task) = ("ä".repeat(MAX_TEXT / 2), "t".repeat(MAX_TASK));
        let id = QueryId { session: u32::MAX, number: u32::MAX };
        let largest = Message::Query { id, task: Some(&task), text: &text };
        assert!(frame(&largest).len() <= MAX_FRAME);
        assert_eq!(read(&frame(&largest)), [Ok(std::format!("{largest:?}"))]);
        let longer = std::format!("{text}x");
        let refused = [
            Message::Query { id, task: None, text: &longer },
            Message::Query { id, task: Some(""), text: "x" },
            Message::Query { id, task: Some("a name of more than thirty-two bytes"), text: "x" },
            Message::Answer { id, origin: Origin::Local, text: &longer, complete: true },
        ];
        for message in refused {
            assert_eq!(encode(&message, &mut [0; MAX_FRAME]), Err(FrameError::TooLong));
        }
    }

    #[test]
    fn what_is_no_frame_is_named() {
        assert_eq!(read(&[0, 0, 0]), []);
        assert_eq!(read(&[9, 1, 0]), [Err(FrameError::Stuffing)]);
        assert_eq!(read(&[2, 1, 0]), [Err(FrameError::Checksum)]);
        let long: Vec<u8> = std::iter::repeat_n(1, 3 * MAX_FRAME).chain([0]).collect();
        assert_eq!(read(&long), [Err(FrameError::TooLong)]);

        let sealed = |content: &[u8]| {
            let mut bytes = content.to_vec();
            bytes.extend(CRC.checksum(content).to_le_bytes());
            let mut stuffed = [0; 32]; // what it does not fill are zeros, which end the frame and are silence
            cobs::encode(&bytes, &mut stuffed);
            stuffed
        };
        assert_eq!(read(&sealed(&[2, 4])), [Err(FrameError::Version { found: 2 })]);
        assert_eq!(read(&sealed(&[VERSION, 99])), [Err(FrameError::Message)]);
        assert_eq!(read(&sealed(&[VERSION, 4, 0])), [Err(FrameError::Message)], "something behind the message");
        assert_eq!(read(&sealed(&[VERSION, 4])), [Ok("Hello".into())]);
    }

    proptest! {
        /// Whatever is done to a frame, it is read as what it was or not at all; what follows is read all the same.
        #[test]
        fn damage_is_noticed(
            text in "\\PC{0,80}",
            flips in prop::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..6),
            keep in any::<prop::sample::Index>(),
            truncate in any::<bool>(),
        ) {
            let message = Message::Query { id: QueryId { session: 1, number: 2 }, task: None, text: &text };
            let mut bytes = frame(&message);
            if truncate {
                bytes.truncate(keep.index(bytes.len()));
            }
            for (at, flip) in flips {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] ^= flip;
                }
            }
            bytes.push(0);
            bytes.extend(frame(&Message::Hello));
            let read = read(&bytes);
            prop_assert_eq!(read.last(), Some(&Ok("Hello".into())));
            for message_read in read.iter().flatten() {
                let known = message_read == "Hello" || *message_read == std::format!("{message:?}");
                prop_assert!(known, "{message_read}");
            }
        }
    }
}
