//! Data files as an index of offsets: each is read through once to find and check its rows, then a row is read when
//! it is asked for. Memory is 24 bytes a row, however large the files are.

use std::collections::HashSet;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use flate2::bufread::MultiGzDecoder;

use super::example::{Example, MAX_ROW};
use super::source::{Format, RowReader, Source, place};
use super::split::{Fold, fold_number, position};
use crate::error::{Error, ErrorKind, Result};
use crate::recipe::BadRows;

/// Rows of several files, in the order of the files.
#[derive(Debug, Clone, Default)]
pub struct Corpus {
    files: Vec<Arc<DataFile>>,
    rows: Vec<Place>,
    sets: Vec<DataSet>,
    bad: Arc<BadRowReport>,
}

/// The rows of one file within a [`Corpus`].
#[derive(Debug, Clone, PartialEq)]
pub struct DataSet {
    /// Its task.
    pub task: String,
    /// Which rows of the corpus are its.
    pub rows: Range<usize>,
    /// Its share of the mixture, if it has one.
    pub weight: Option<f64>,
}

/// Rows that were left out.
#[derive(Debug, Default)]
pub struct BadRowReport {
    /// How many.
    pub count: usize,
    /// The first of them, each with file, line and what is wrong.
    pub first: Vec<String>,
}

/// Reports of bad rows that are kept; a file of another kind must not fill the memory with complaints.
const REPORTED: usize = 20;

#[derive(Debug)]
struct DataFile {
    path: PathBuf,
    reader: RowReader,
    /// The file, or what it was unpacked to.
    file: Mutex<File>,
}

/// Where a row is.
#[derive(Debug, Clone, Copy)]
struct Place {
    offset: u64,
    length: u32,
    line: u32,
    file: u32,
    /// Decides the fold.
    number: u32,
}

/// What the index makes of the rows of training files.
#[derive(Debug)]
pub struct Indexed {
    /// Rows to train on.
    pub train: Corpus,
    /// Rows held back by the stable hash of their input.
    pub held_back: Corpus,
}

impl Corpus {
    /// Finds and checks the rows of all files, and holds back about `share` of them, a number from 0 to 1.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when a file cannot be read; [`ErrorKind::Data`] naming file and line of the first bad row unless
    /// they may be skipped, or a file without rows.
    pub fn index(sources: &[Source], share: f64, bad_rows: BadRows) -> Result<Indexed> {
        let mut bad = BadRowReport::default();
        let (mut train, mut held_back) = (Self::default(), Self::default());
        for source in sources {
            let mut scan = Scan::open(source)?;
            let (from, held_from) = (train.rows.len(), held_back.rows.len());
            let number = train.files.len() as u32;
            let mut ids = HashSet::new();
            let hasher = RandomState::new();
            while let Some((offset, length, line, row)) = scan.next()? {
                if source.cap.is_some_and(|cap| train.rows.len() - from >= cap) {
                    break;
                }
                let row = row.and_then(|example| match ids.insert(hasher.hash_one(&example.id)) {
                    true => Ok(example),
                    false => Err(format!("the id `{}` stands twice", example.id)),
                });
                match row {
                    Ok(example) => {
                        let to =
                            if share > 0.0 && position(&example.input) < share { &mut held_back } else { &mut train };
                        let fold = fold_number(&example.input);
                        to.rows.push(Place { offset, length, line, file: number, number: fold });
                    }
                    Err(what) => {
                        let report = format!("{}: {what}", place(&source.path, line as usize));
                        if bad_rows == BadRows::Refuse {
                            return Err(Error::new(ErrorKind::Data, report));
                        }
                        bad.count += 1;
                        if bad.first.len() < REPORTED {
                            bad.first.push(report);
                        }
                    }
                }
            }
            if train.rows.len() == from {
                let message = format!("{}: there is no row to use in it", source.path.display());
                return Err(Error::new(ErrorKind::Data, message));
            }
            let file = Arc::new(scan.finish());
            for (corpus, from) in [(&mut train, from), (&mut held_back, held_from)] {
                corpus.files.push(file.clone());
                let rows = from..corpus.rows.len();
                corpus.sets.push(DataSet { task: source.task().into(), rows, weight: source.weight });
            }
        }
        let bad = Arc::new(bad);
        (train.bad, held_back.bad) = (bad.clone(), bad);
        Ok(Indexed { train, held_back })
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The files' rows.
    #[must_use]
    pub fn sets(&self) -> &[DataSet] {
        &self.sets
    }

    /// Rows that were left out while indexing.
    #[must_use]
    pub fn bad_rows(&self) -> &BadRowReport {
        &self.bad
    }

    /// Length of a row in bytes.
    #[must_use]
    pub fn bytes(&self, row: usize) -> usize {
        self.rows[row].length as usize
    }

    /// File and line of a row.
    #[must_use]
    pub fn place(&self, row: usize) -> String {
        let at = self.rows[row];
        place(&self.files[at.file as usize].path, at.line as usize)
    }

    /// Reads one row.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] or [`ErrorKind::Data`] naming file and line when the file is no longer what was indexed.
    pub fn example(&self, row: usize) -> Result<Example> {
        let at = self.rows[row];
        let DataFile { path, reader, file } = &*self.files[at.file as usize];
        let mut bytes = vec![0; at.length as usize];
        {
            // A thread that panicked while it held the file left it as usable as before.
            let mut file = file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let read = file.seek(SeekFrom::Start(at.offset)).and_then(|_| file.read_exact(&mut bytes));
            read.map_err(|e| Error::io("read", path, e))?;
        }
        let changed = |what| Error::new(ErrorKind::Data, format!("{}: {what}", place(path, at.line as usize)));
        reader.read(&bytes, at.line as usize).map_err(changed)
    }

    /// The first `count` rows of each file.
    #[must_use]
    pub fn first_of_each(&self, count: usize) -> Self {
        self.chosen(|rows| rows.iter().take(count).copied().collect())
    }

    /// The rows of one fold.
    #[must_use]
    pub fn fold(&self, fold: Fold) -> Self {
        self.chosen(|rows| rows.iter().filter(|row| fold.has(row.number)).copied().collect())
    }

    /// The rows of all other folds.
    #[must_use]
    pub fn without(&self, fold: Fold) -> Self {
        self.chosen(|rows| rows.iter().filter(|row| !fold.has(row.number)).copied().collect())
    }

    /// Some rows of each file.
    fn chosen(&self, choose: impl Fn(&[Place]) -> Vec<Place>) -> Self {
        let mut chosen = Self { rows: vec![], sets: vec![], ..self.clone() };
        for set in &self.sets {
            let from = chosen.rows.len();
            chosen.rows.extend(choose(&self.rows[set.rows.clone()]));
            chosen.sets.push(DataSet { rows: from..chosen.rows.len(), ..set.clone() });
        }
        chosen
    }
}

/// One pass over a file.
struct Scan {
    path: PathBuf,
    reader: RowReader,
    rows: ScannedRows,
}

enum ScannedRows {
    Lines { file: BufReader<File>, offset: u64, line: u32, buffer: Vec<u8> },
    Csv(Box<csv::Reader<File>>),
}

/// Offset, length, line and content of a row; the content's error is text without the place.
type Scanned = (u64, u32, u32, Result<Example, String>);

impl Scan {
    fn open(source: &Source) -> Result<Self> {
        let path = &source.path;
        let mut file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        if source.is_compressed() {
            file = unpack(file, path)?;
        }
        let malformed = |what: String| Error::new(ErrorKind::Data, format!("{}:1: {what}", path.display()));
        let (reader, rows) = if source.format() == Format::Csv {
            let mut csv = csv::ReaderBuilder::new().flexible(true).from_reader(file);
            let header = csv.headers().map_err(|e| malformed(e.to_string()))?.clone();
            (RowReader::new(source, Some(&header)), ScannedRows::Csv(Box::new(csv)))
        } else {
            let file = BufReader::with_capacity(1 << 20, file);
            (RowReader::new(source, None), ScannedRows::Lines { file, offset: 0, line: 0, buffer: vec![] })
        };
        Ok(Self { path: path.clone(), reader: reader.map_err(malformed)?, rows })
    }

    fn next(&mut self) -> Result<Option<Scanned>> {
        match &mut self.rows {
            ScannedRows::Lines { file, offset, line, buffer } => loop {
                *line += 1;
                buffer.clear();
                let from = *offset;
                let read = file.by_ref().take(MAX_ROW as u64 + 1).read_until(b'\n', buffer);
                let length = read.map_err(|e| Error::io("read", &self.path, e))?;
                *offset += length as u64;
                if length == 0 {
                    return Ok(None);
                }
                if buffer.len() > MAX_ROW {
                    *offset += skip_line(file).map_err(|e| Error::io("read", &self.path, e))?;
                    return Ok(Some((from, 0, *line, Err(format!("the line is over {MAX_ROW} bytes")))));
                }
                if buffer.trim_ascii().is_empty() {
                    continue;
                }
                let row = self.reader.read(buffer, *line as usize);
                return Ok(Some((from, length as u32, *line, row)));
            },
            ScannedRows::Csv(csv) => {
                let from = csv.position().clone();
                let mut record = csv::ByteRecord::new();
                let line = from.line() as u32;
                let more = csv.read_byte_record(&mut record);
                let more = more.map_err(|e| Error::new(ErrorKind::Data, format!("{}: {e}", self.path.display())))?;
                let length = csv.position().byte() - from.byte();
                if !more {
                    return Ok(None);
                }
                if length > MAX_ROW as u64 {
                    return Ok(Some((from.byte(), 0, line, Err(format!("the row is over {MAX_ROW} bytes")))));
                }
                let mut bytes = vec![];
                let mut writer = csv::WriterBuilder::new().has_headers(false).flexible(true).from_writer(&mut bytes);
                let written = writer.write_byte_record(&record).map_err(|e| e.to_string());
                drop(writer);
                let row = written.and_then(|()| self.reader.read(&bytes, line as usize));
                Ok(Some((from.byte(), length as u32, line, row)))
            }
        }
    }

    fn finish(self) -> DataFile {
        let file = match self.rows {
            ScannedRows::Lines { file, .. } => file.into_inner(),
            ScannedRows::Csv(csv) => csv.into_inner(),
        };
        DataFile { path: self.path, reader: self.reader, file: Mutex::new(file) }
    }
}

/// Passes over the rest of a line; returns its length with its end.
fn skip_line(file: &mut impl BufRead) -> std::io::Result<u64> {
    let mut passed = 0;
    loop {
        let buffer = file.fill_buf()?;
        let (length, end) = match buffer.iter().position(|&byte| byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        file.consume(length);
        passed += length as u64;
        if end {
            return Ok(passed);
        }
    }
}

/// Unpacks into a file without a name, which is gone when it is closed.
fn unpack(file: File, path: &Path) -> Result<File> {
    let mut unpacked = tempfile::tempfile().map_err(|e| Error::io("unpack", path, e))?;
    let mut packed = MultiGzDecoder::new(BufReader::new(file)).take(MAX_UNPACKED + 1);
    let malformed = |e: std::io::Error| Error::new(ErrorKind::Data, format!("{}: {e}", path.display())).with_source(e);
    let bytes = std::io::copy(&mut packed, &mut unpacked).map_err(malformed)?;
    if bytes > MAX_UNPACKED {
        return Err(Error::new(ErrorKind::Data, format!("{}: unpacks to over {MAX_UNPACKED} bytes", path.display())));
    }
    unpacked.seek(SeekFrom::Start(0)).map_err(|e| Error::io("unpack", path, e))?;
    Ok(unpacked)
}

/// Most bytes that a compressed file may unpack to: a bomb must not fill the disk.
const MAX_UNPACKED: u64 = 64 << 30;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Columns;

    fn write(folder: &Path, name: &str, text: &str) -> Source {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        Source::new(path)
    }

    fn index(source: Source, bad_rows: BadRows) -> Result<Corpus> {
        Ok(Corpus::index(&[source], 0.0, bad_rows)?.train)
    }

    fn row(n: usize) -> String {
        format!("{{\"id\":\"r{n}\",\"task\":\"t\",\"input\":\"say {n} \u{1F408}\",\"target\":\"x{n}\"}}\n")
    }

    #[test]
    fn every_form_gives_its_rows_in_any_order() {
        let folder = tempfile::tempdir().unwrap();
        let task = write(folder.path(), "a.jsonl", &format!("{}\n{}", row(1), row(2)));
        let chat = write(
            folder.path(),
            "b.jsonl",
            "{\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"u\"},{\"role\":\"assistant\",\"content\":\"a\"}]}\n",
        );
        let chat = Source { format: Some(Format::Chat), ..chat };
        let csv = write(folder.path(), "c.csv", "text,label\n\"two\nlines, \"\"quoted\"\"\",x\nplain,y\n");
        let columns = Columns { input: "text".into(), target: "label".into(), id: None, task: None };
        let csv = Source { columns: Some(columns), ..csv };
        let corpus = Corpus::index(&[task, chat, csv], 0.0, BadRows::Refuse).unwrap().train;
        let read: Vec<Example> = (0..corpus.len()).rev().map(|row| corpus.example(row).unwrap()).collect();
        let said: Vec<_> = read.iter().map(|e| (e.id.as_str(), e.input.as_str(), e.target.as_str())).collect();
        assert_eq!(
            said,
            [
                ("c/4", "plain", "y"),
                ("c/2", "two\nlines, \"quoted\"", "x"),
                ("b/1", "u", "a"),
                ("r2", "say 2 \u{1F408}", "x2"),
                ("r1", "say 1 \u{1F408}", "x1"),
            ]
        );
        assert_eq!(read[2].history.len(), 1);
        assert_eq!(corpus.sets().iter().map(|set| set.rows.clone()).collect::<Vec<_>>(), [0..2, 2..3, 3..5]);
        assert!(corpus.place(4).ends_with("c.csv:4"));
        assert_eq!(corpus.first_of_each(1).len(), 3);
    }

    #[test]
    fn bad_rows_are_named_or_counted() {
        let folder = tempfile::tempdir().unwrap();
        let text = format!("{}{{\"id\": 3}}\n{}{}\n", row(1), row(1), row(2));
        let source = write(folder.path(), "a.jsonl", &text);
        let error = index(source.clone(), BadRows::Refuse).unwrap_err().to_string();
        assert!(error.contains("a.jsonl:2: invalid type"), "{error}");
        let corpus = index(source, BadRows::Skip).unwrap();
        assert_eq!((corpus.len(), corpus.bad_rows().count), (2, 2));
        assert!(corpus.bad_rows().first[1].contains("a.jsonl:3: the id `r1` stands twice"));
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over_whole() {
        let folder = tempfile::tempdir().unwrap();
        let text = format!("{}{}\n{}", row(1), "x".repeat(2 * MAX_ROW + 3), row(2));
        let corpus = index(write(folder.path(), "a.jsonl", &text), BadRows::Skip).unwrap();
        assert_eq!((corpus.len(), corpus.example(1).unwrap().id.as_str()), (2, "r2"));
    }

    #[test]
    fn a_column_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = index(write(folder.path(), "a.csv", "text,label\nx,y\n"), BadRows::Skip).unwrap_err().to_string();
        assert!(error.contains("a.csv:1: there is no column `input`, only `text`, `label`"), "{error}");
    }

    #[test]
    fn caps_stop_reading_and_a_share_is_held_back() {
        let folder = tempfile::tempdir().unwrap();
        let text: String = (0..400).map(row).collect();
        let source = write(folder.path(), "a.jsonl", &text);
        let split = Corpus::index(std::slice::from_ref(&source), 0.25, BadRows::Refuse).unwrap();
        assert_eq!(split.train.len() + split.held_back.len(), 400);
        assert!((60..140).contains(&split.held_back.len()));
        let capped = Source { cap: Some(10), ..source };
        assert_eq!(Corpus::index(&[capped], 0.25, BadRows::Refuse).unwrap().train.len(), 10);
    }

    #[test]
    fn folds_share_all_rows_and_none_twice() {
        let folder = tempfile::tempdir().unwrap();
        let text: String = (0..300).map(row).collect();
        let corpus = index(write(folder.path(), "a.jsonl", &text), BadRows::Refuse).unwrap();
        let places = |corpus: &Corpus| (0..corpus.len()).map(|row| corpus.place(row)).collect::<HashSet<_>>();
        let mut all = HashSet::new();
        for fold in 0..3 {
            let fold = Fold { fold, of: 3 };
            let (inside, outside) = (places(&corpus.fold(fold)), places(&corpus.without(fold)));
            assert!((60..140).contains(&inside.len()) && inside.is_disjoint(&outside));
            assert_eq!(inside.len() + outside.len(), 300);
            all.extend(inside);
        }
        assert_eq!(all.len(), 300);
    }

    #[test]
    fn a_file_that_changed_is_an_error_and_not_another_row() {
        let folder = tempfile::tempdir().unwrap();
        let source = write(folder.path(), "a.jsonl", &row(1));
        let corpus = index(source.clone(), BadRows::Refuse).unwrap();
        std::fs::write(&source.path, "short").unwrap();
        assert!(corpus.example(0).unwrap_err().to_string().contains("a.jsonl"));
    }
}
