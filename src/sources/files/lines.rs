//! Lines of a file: plain or gzip by content, `-` for standard input, no line larger than a record may be.

use crate::model::inputs::MAX_RECORD;
use crate::sources::Meter;
use anyhow::Context as _;
use flate2::bufread::MultiGzDecoder;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A file's lines, one at a time.
pub struct Lines {
    name: String,
    reader: Box<dyn BufRead + Send>,
    number: i64,
}

/// Counts what is read where it lies, before it is decompressed.
struct Counted<R> {
    inner: R,
    meter: Arc<Meter>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.meter.bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

impl Lines {
    /// Opens `path`, or standard input for `-`.
    ///
    /// # Errors
    /// The file is missing, is not readable, or is a folder.
    pub fn open(path: &str, meter: &Arc<Meter>) -> anyhow::Result<Self> {
        let inner: Box<dyn Read + Send> =
            if path == "-" { Box::new(io::stdin()) } else { Box::new(File::open(path).with_context(|| format!("cannot open {path}"))?) };
        let name = if path == "-" { "standard input".to_owned() } else { path.to_owned() };
        Lines::over(name, Counted { inner, meter: Arc::clone(meter) })
    }

    fn over(name: String, inner: impl Read + Send + 'static) -> anyhow::Result<Self> {
        let mut reader = BufReader::with_capacity(1 << 17, inner);
        let start = reader.fill_buf().with_context(|| format!("cannot read {name}"))?;
        let packed = start.starts_with(&[0x1f, 0x8b]);
        let reader: Box<dyn BufRead + Send> =
            if packed { Box::new(BufReader::with_capacity(1 << 17, MultiGzDecoder::new(reader))) } else { Box::new(reader) };
        Ok(Lines { name, reader, number: 0 })
    }

    /// The path, or `standard input`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads the next line that is not blank into `line`; its number, from 1, or `None` at the end.
    ///
    /// Of a line that is larger than a record may be only so much is kept as shows that.
    ///
    /// # Errors
    /// The file can't be read on, or is not the gzip it began as.
    pub fn next(&mut self, line: &mut Vec<u8>) -> anyhow::Result<Option<i64>> {
        loop {
            line.clear();
            self.number += 1;
            let at = |name: &str, number: i64| format!("cannot read {name} after line {}", number - 1);
            let read = (&mut self.reader).take(MAX_RECORD as u64 + 2).read_until(b'\n', line);
            if read.with_context(|| at(&self.name, self.number))? == 0 {
                return Ok(None);
            }
            if line.last() == Some(&b'\n') {
                line.pop();
            } else if line.len() > MAX_RECORD + 1 {
                line.pop();
                self.reader.skip_until(b'\n').with_context(|| at(&self.name, self.number))?;
            }
            if !line.trim_ascii().is_empty() {
                return Ok(Some(self.number));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write as _;

    fn all(bytes: Vec<u8>) -> anyhow::Result<Vec<(i64, Vec<u8>)>> {
        let mut lines = Lines::over("test".to_owned(), io::Cursor::new(bytes))?;
        let (mut said, mut line) = (Vec::new(), Vec::new());
        while let Some(number) = lines.next(&mut line)? {
            said.push((number, line.clone()));
        }
        Ok(said)
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).expect("writes to memory");
        encoder.finish().expect("writes to memory")
    }

    #[test]
    fn blank_lines_have_numbers_but_are_no_records() {
        let said = all(b"a\n\n  \r\nb".to_vec()).expect("reads");
        assert_eq!(said, [(1, b"a".to_vec()), (4, b"b".to_vec())]);
        assert!(all(Vec::new()).expect("reads").is_empty());
    }

    #[test]
    fn gzip_is_known_by_its_content_and_may_have_several_members() {
        let packed = [gzip(b"a\nb\n"), gzip(b"c\n")].concat();
        assert_eq!(all(packed).expect("reads").len(), 3);
    }

    #[test]
    fn a_gzip_cut_short_is_an_error_that_says_where() {
        let mut packed = gzip(&b"some text\n".repeat(1_000));
        packed.truncate(packed.len() - 9);
        let said = format!("{:#}", all(packed).expect_err("cut short"));
        assert!(said.contains("test after line"), "{said}");
    }

    #[test]
    fn a_huge_line_is_cut_and_the_next_is_whole() {
        let text = [vec![b'x'; 3 * MAX_RECORD], b"\nnext\n".to_vec()].concat();
        let said = all(text).expect("reads");
        assert_eq!((said[0].0, said[0].1.len()), (1, MAX_RECORD + 1));
        assert_eq!(said[1], (2, b"next".to_vec()));
        let exact = [vec![b'x'; MAX_RECORD], b"\nnext".to_vec()].concat();
        assert_eq!(all(exact).expect("reads")[0].1.len(), MAX_RECORD);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Lines::open("/no/such/file.jsonl", &Arc::default()).err().expect("missing");
        assert!(format!("{error:#}").contains("/no/such/file.jsonl"));
    }
}
