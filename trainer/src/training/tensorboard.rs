//! TensorBoard's event files: scalars as records of a length, a protocol buffer and two masked CRC-32C.
//!
//! The format is TensorFlow's `record_writer.h` and `event.proto`; of the latter only what scalars need is here.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message;

use crate::error::{Error, Result};

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, tag = "2")]
    simple_value: f32,
}

/// An event file being written.
#[derive(Debug)]
pub(super) struct EventFile {
    file: File,
    path: PathBuf,
}

impl EventFile {
    /// Makes a file of its own in `folder`; TensorBoard reads all of a folder's files as one run.
    pub(super) fn create(folder: &Path, now: SystemTime) -> Result<Self> {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let name = format!("events.out.tfevents.{:010}.{:09}.margay", since.as_secs(), since.subsec_nanos());
        let path = folder.join(name);
        let file = OpenOptions::new().create_new(true).append(true).open(&path);
        let mut events = Self { file: file.map_err(|e| Error::io("make", &path, e))?, path };
        let version = Some("brain.Event:2".to_owned());
        events.write(&Event { wall_time: since.as_secs_f64(), step: 0, file_version: version, summary: None })?;
        Ok(events)
    }

    /// Writes scalars of a step.
    pub(super) fn scalars(&mut self, step: usize, now: SystemTime, scalars: &[(&str, f64)]) -> Result<()> {
        let wall_time = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64();
        let value = |&(tag, value): &(&str, f64)| Value { tag: tag.to_owned(), simple_value: value as f32 };
        let summary = Summary { value: scalars.iter().map(value).collect() };
        self.write(&Event { wall_time, step: step as i64, file_version: None, summary: Some(summary) })
    }

    fn write(&mut self, event: &Event) -> Result<()> {
        let record = record(&event.encode_to_vec());
        self.file.write_all(&record).map_err(|e| Error::io("write", &self.path, e))
    }
}

/// Length, its checksum, content, its checksum.
fn record(content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked(&length).to_le_bytes());
    record.extend(content);
    record.extend(masked(content).to_le_bytes());
    record
}

/// A CRC of data that itself holds CRCs is poor, so TensorFlow turns and shifts it.
fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xA282_EAD8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `tensorboard` 2.20.0's own `EventFileWriter` writes; `trainer/tests/fixtures/events.py` made it.
    #[test]
    fn records_are_those_of_tensorboards_own_writer() {
        let value = |tag: &str, simple_value| Value { tag: tag.into(), simple_value };
        let summary = Summary { value: vec![value("loss", 0.5), value("learning_rate", 0.001)] };
        let event = Event { wall_time: 1_700_000_000.25, step: 7, file_version: None, summary: Some(summary) };
        let expected = include_bytes!("../../tests/fixtures/scalars.tfrecord");
        assert_eq!(record(&event.encode_to_vec()), expected);
    }
}
