//! Server-sent events (WHATWG HTML, section 9.2.6), fed as the bytes come, whatever borders they come with.

use std::mem;

use crate::error::{Error, ErrorKind, Result};

/// Largest event that is read, in bytes: a thousand times the longest piece that a model writes at once.
pub const MAX_EVENT_BYTES: usize = 1 << 20;

/// One event with data. Those without have no meaning here, nor have ids and retry times.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Event {
    /// Its type; empty if the stream gives none.
    pub name: String,
    /// Its data lines, joined by line feeds.
    pub data: String,
}

/// Reads a stream of events. An event that the end of the stream cuts is none.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    event: Event,
    /// Whether the first line, which may begin with a byte order mark, has ended.
    begun: bool,
    /// Whether the last byte was a carriage return, to which a line feed may belong.
    returned: bool,
}

impl Parser {
    /// The events that end in `bytes`.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] if one is over [`MAX_EVENT_BYTES`].
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        for &byte in bytes {
            let second_half = mem::take(&mut self.returned) && byte == b'\n';
            match byte {
                b'\n' if second_half => {}
                b'\n' | b'\r' => {
                    self.returned = byte == b'\r';
                    events.extend(self.end_line());
                }
                _ => self.line.push(byte),
            }
            if self.line.len() + self.event.data.len() + self.event.name.len() > MAX_EVENT_BYTES {
                let message = format!("an event of the answer is over {MAX_EVENT_BYTES} bytes");
                return Err(Error::new(ErrorKind::Malformed, message));
            }
        }
        Ok(events)
    }

    /// Takes the line into the event; the event, if the line ends it.
    fn end_line(&mut self) -> Option<Event> {
        let bytes = mem::take(&mut self.line);
        let mut line = String::from_utf8_lossy(&bytes);
        if !mem::replace(&mut self.begun, true) {
            line = line.strip_prefix('\u{feff}').map(|rest| rest.to_owned().into()).unwrap_or(line);
        }
        if line.is_empty() {
            let mut event = mem::take(&mut self.event);
            return event.data.pop().map(|_| event);
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.name),
            "data" => {
                self.event.data.push_str(value);
                self.event.data.push('\n');
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(name: &str, data: &str) -> Event {
        Event { name: name.into(), data: data.into() }
    }

    fn read(bytes: &[u8]) -> Vec<Event> {
        Parser::default().feed(bytes).unwrap()
    }

    #[test]
    fn the_standard_s_examples_are_read() {
        // The example streams of section 9.2.6.
        assert_eq!(
            read(b"data: YHOO\ndata: +2\ndata: 10\n\n: test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n"),
            [event("", "YHOO\n+2\n10"), event("", "first event"), event("", "second event"), event("", " third event")]
        );
        assert_eq!(read(b"data\n\ndata\ndata\n\ndata:"), [event("", ""), event("", "\n")]);
        assert_eq!(read(b"data:test\n\ndata: test\n\n"), [event("", "test"), event("", "test")]);
        assert_eq!(read(b"event: add\ndata: 73857293\n\nevent: remove\n\n"), [event("add", "73857293")]);
    }

    #[test]
    fn marks_and_line_ends_of_all_kinds_are_read() {
        assert_eq!(read("\u{feff}data: é\r\rdata: b\r\n\r\ndata: c\n\r\n".as_bytes()).len(), 3);
        assert_eq!(read(b"data: \xff\n\n"), [event("", "\u{fffd}")]);
    }

    #[test]
    fn an_event_without_end_is_refused_at_the_cap() {
        let mut parser = Parser::default();
        assert!(parser.feed(&vec![b'a'; MAX_EVENT_BYTES]).unwrap().is_empty());
        assert_eq!(parser.feed(b"a").unwrap_err().kind(), ErrorKind::Malformed);
        let mut parser = Parser::default();
        let lines = b"data: 0123456789\n".repeat(MAX_EVENT_BYTES / 10);
        assert_eq!(parser.feed(&lines).unwrap_err().kind(), ErrorKind::Malformed);
    }

    proptest! {
        /// The parser of the crate `eventsource-stream` reads the same events; and borders of chunks do not matter.
        #[test]
        fn another_parser_reads_the_same(text in "(data|event|id|x|:)(:| |: |)[a-c é\u{feff}]{0,3}(\n|\r|\r\n){1,3}((data|event|:)[: a]{0,4}(\n|\r|\r\n){1,3}){0,6}", cut in 0..60_usize) {
            use eventsource_stream::Eventsource as _;
            use futures_util::StreamExt as _;
            // The other parser waits for what may follow a last carriage return.
            let text = format!("{text}:\n");
            let bytes = text.as_bytes();
            let cut = cut.min(bytes.len());
            let mut parser = Parser::default();
            let mut ours = parser.feed(&bytes[..cut]).unwrap();
            ours.extend(parser.feed(&bytes[cut..]).unwrap());
            prop_assert_eq!(&ours, &read(bytes));

            let chunks = futures_util::stream::iter([Ok::<_, std::convert::Infallible>(text.clone())]);
            let theirs: Vec<Event> = futures_util::FutureExt::now_or_never(chunks.eventsource().map(Result::unwrap).collect::<Vec<_>>())
                .unwrap()
                .into_iter()
                .map(|theirs| Event { name: if theirs.event == "message" { String::new() } else { theirs.event }, data: theirs.data })
                .collect();
            prop_assert_eq!(ours, theirs);
        }
    }
}
